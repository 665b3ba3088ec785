"""Verdicts on claims, from run folders whose figures are chosen, beside what is worked out by hand."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from made_runs import make_run

from qlstm_bench.cli import main
from qlstm_bench.errors import ConfigError
from qlstm_bench.papers.claims import Claim, Comparison
from qlstm_bench.report import collect, decide_claims, print_claims, to_csv, to_latex, to_markdown, write_html
from qlstm_bench.report.verdicts import Verdict

BEHIND = Comparison({"quantizer": ["bwn", "twn"], "normalizer": "none"}, "worse", {"quantizer": "none"})


def claim(*compare: Comparison, **changes: Any) -> Claim:
    fields: dict[str, Any] = {
        "name": "c",
        "statement": "Said.",
        "source": "Doe",
        "margins": {"char-lm": 0.25},
    }
    return Claim(**{**fields, "compare": compare or (BEHIND,), **changes})


Make = Callable[..., None]


@pytest.fixture
def made(tmp_path: Path) -> Make:
    """Write a line of runs: one for each figure in test, of 4.0 without looking at the input."""

    def write(quantizer: str, *tests: float, normalizer: str = "none", **changes: Any) -> None:
        first = changes.pop("first_seed", 0)
        for seed, test in enumerate(tests, first):
            metrics = {"test_bpc": test, "valid_bpc": 2.0, **changes.get("metrics", {})}
            rest = {name: value for name, value in changes.items() if name != "metrics"}
            make_run(tmp_path / "runs", quantizer, normalizer, seed=seed, metrics=metrics, **rest)

    return write


def decide(tmp_path: Path, *claims: Claim) -> list[Verdict]:
    records, problems = collect([tmp_path / "runs"])
    assert problems == []
    return decide_claims(records, claims)


def test_three_seeds_each_by_hand(made: Make, tmp_path: Path) -> None:
    """Standard error √(0.01/3 + 0.01/3) = 0.082 and t(4) = 2.132: 0.6 − 0.174 is above the margin of 0.25."""
    made("none", 1.9, 2.0, 2.1)
    made("bwn", 2.5, 2.6, 2.7)
    made("twn", 2.9, 3.0, 3.1)
    (verdict,) = decide(tmp_path, claim())
    assert (verdict.outcome, verdict.missing, verdict.scale) == ("holds", (), "2 units, 20 steps")
    assert verdict.reason == (
        "2 of 2 hold; bwn/none is worse than none/none by 0.6, standard error 0.082, 3 and 3 seeds "
        "(counts from 0.25 on)"
    )
    assert verdict.decisive is not None
    assert verdict.decisive.difference is not None
    assert verdict.decisive.difference.mean == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("bwn", "outcome"),
    [
        ((2.5, 2.6, 2.7), "holds"),
        ((2.2, 2.3, 2.4), "not decided by the spread"),  # 0.3 ± 0.174
        ((2.3, 2.3, 2.3), "not decided by the spread"),  # 0.3 ± t(2) 2.92 × 0.058
        ((1.8, 1.9, 2.0), "does not hold"),  # −0.1 + 0.227, half of 5 % for two comparisons
        ((1.95, 2.05, 2.15), "not decided by the spread"),  # 0.05 + 0.227
    ],
)
def test_what_three_seeds_decide(bwn: tuple[float, ...], outcome: str, made: Make, tmp_path: Path) -> None:
    made("none", 1.9, 2.0, 2.1)
    made("bwn", *bwn)
    made("twn", 2.9, 3.0, 3.1)
    (verdict,) = decide(tmp_path, claim())
    assert verdict.outcome == outcome


def test_of_many_comparisons_one_may_seem_to_fail_by_chance(made: Make, tmp_path: Path) -> None:
    """0.05 + t(4) × 0.082 is 0.224 at 5 %, within the margin, and 0.277 at 2.5 %."""
    made("none", 1.9, 2.0, 2.1)
    made("bwn", 1.95, 2.05, 2.15)
    alone = Comparison({"quantizer": "bwn", "normalizer": "none"}, "worse", {"quantizer": "none"})
    assert [v.outcome for v in decide(tmp_path, claim(alone))] == ["does not hold"]
    made("twn", 2.9, 3.0, 3.1)
    assert [v.outcome for v in decide(tmp_path, claim())] == ["not decided by the spread"]


@pytest.mark.parametrize(
    ("bwn", "outcome"),
    [
        (2.51, "holds"),
        (2.5, "not decided by the spread"),
        (2.0, "not decided by the spread"),
        (1.99, "does not hold"),
    ],
)
def test_one_seed_each_decides_beyond_twice_the_margin(
    bwn: float, outcome: str, made: Make, tmp_path: Path
) -> None:
    made("none", 2.0)
    made("bwn", bwn)
    made("twn", 3.0)
    (verdict,) = decide(tmp_path, claim())
    assert verdict.outcome == outcome
    assert ", one seed each" in verdict.reason


def test_one_seed_never_shows_that_two_are_alike(made: Make, tmp_path: Path) -> None:
    for seeds in (1, 3):
        made("bwn", *[2.0, 2.01, 1.99][:seeds], normalizer="layer", config={"hidden": seeds})
        made("bwn", *[2.0, 2.01, 1.99][:seeds], normalizer="weight", config={"hidden": seeds})
    alike = Comparison({"quantizer": "bwn", "normalizer": "layer"}, "alike", {"normalizer": "weight"})
    found = {v.scale: v.outcome for v in decide(tmp_path, claim(alike))}
    assert found == {"1 units, 20 steps": "not decided by the spread", "3 units, 20 steps": "holds"}


def test_runs_that_diverged_or_learnt_nothing_count_as_the_worst(made: Make, tmp_path: Path) -> None:
    """As 4.0, without looking at the input: neither are they missing, nor is 50 so much worse than 4."""
    made("none", 2.0)
    made("bwn", math.nan, status="diverged", diverged_at=3)
    made("twn", 50.0, metrics={"valid_bpc": 4.5})
    (verdict,) = decide(tmp_path, claim())
    assert verdict.outcome == "holds"
    differences = [decision.difference.mean for decision in verdict.decisions if decision.difference]
    assert differences == [2.0, 2.0]


@pytest.mark.parametrize("test", [math.nan, math.inf, 1e300, 4.5])
def test_a_figure_that_is_no_number_counts_as_the_worst(test: float, made: Make, tmp_path: Path) -> None:
    made("none", 2.0)
    made("bwn", test)
    made("twn", 3.0)
    (verdict,) = decide(tmp_path, claim())
    assert verdict.outcome == "holds"
    assert verdict.decisions[0].difference is not None
    assert verdict.decisions[0].difference.mean == 2.0


def test_one_of_three_seeds_that_diverged_is_in_the_mean(made: Make, tmp_path: Path) -> None:
    """(2.5 + 2.5 + 4) / 3 − 2 is 1, with a standard error of 0.5: nothing is decided."""
    made("none", 2.0, 2.0, 2.0)
    made("bwn", 2.5, 2.5)
    made("bwn", math.nan, first_seed=2, status="diverged", diverged_at=3)
    made("twn", 3.0, 3.0, 3.0)
    (verdict,) = decide(tmp_path, claim())
    assert verdict.outcome == "not decided by the spread"
    assert "by 1, standard error 0.5, 3 and 3 seeds" in verdict.reason


def test_two_lines_that_learnt_nothing_are_not_alike(made: Make, tmp_path: Path) -> None:
    for normalizer in ("layer", "weight"):
        made("bwn", 4.5, 4.5, normalizer=normalizer, metrics={"valid_bpc": 4.5})
    alike = Comparison({"quantizer": "bwn", "normalizer": "layer"}, "alike", {"normalizer": "weight"})
    (verdict,) = decide(tmp_path, claim(alike))
    assert verdict.outcome == "not decided by the spread"
    assert "bwn/layer and bwn/weight have learnt nothing" in verdict.reason


@pytest.mark.parametrize(("higher", "outcome"), [(False, "holds"), (True, "does not hold")])
def test_what_is_worse_is_the_tasks(higher: bool, outcome: str, made: Make, tmp_path: Path) -> None:
    """On both scales the runs are better than the 4.0 without looking at the input."""
    sign = -1 if higher else 1
    metrics = {"valid_bpc": 4.0 - 2 * sign}
    for quantizer, figure in (("none", 2.0), ("bwn", 3.0), ("twn", 3.5)):
        made(quantizer, figure + 4 * higher, metrics=metrics, higher_is_better=higher)
    (verdict,) = decide(tmp_path, claim())
    assert verdict.outcome == outcome


def test_what_is_missing_is_named_and_a_failed_run_is_missing(made: Make, tmp_path: Path) -> None:
    made("none", 2.0)
    made("bwn", 3.0)
    made("twn", 3.0, status="failed", error="the disk is full")
    (verdict,) = decide(tmp_path, claim())
    assert (verdict.outcome, verdict.missing) == ("not trained", ("twn/none",))
    assert verdict.reason.startswith("1 of 1 hold; ")
    assert verdict.reason.endswith("; missing: twn/none")


def test_one_comparison_that_fails_settles_a_claim_whatever_is_missing(made: Make, tmp_path: Path) -> None:
    made("none", 2.0)
    made("bwn", 1.5)
    assert [v.outcome for v in decide(tmp_path, claim())] == ["does not hold"]


@pytest.mark.parametrize(
    ("bwn", "twn", "outcome"),
    [(3.0, 2.0, "holds"), (1.5, 1.5, "does not hold"), (1.5, 2.3, "not decided by the spread")],
)
def test_of_some_claims_one_comparison_is_enough(
    bwn: float, twn: float, outcome: str, made: Make, tmp_path: Path
) -> None:
    for quantizer, figure in (("none", 2.0), ("bwn", bwn), ("twn", twn)):
        made(quantizer, figure)
    assert [v.outcome for v in decide(tmp_path, claim(some=True))] == [outcome]


def test_some_claims_need_every_run_to_be_refuted(made: Make, tmp_path: Path) -> None:
    made("none", 2.0)
    made("bwn", 1.5)
    assert [v.outcome for v in decide(tmp_path, claim(some=True))] == ["not trained"]
    made("twn", 1.5)
    assert [v.outcome for v in decide(tmp_path, claim(some=True))] == ["does not hold"]


def test_runs_are_compared_only_where_all_else_agrees(made: Make, tmp_path: Path) -> None:
    """Two scales, and a learning rate of which there is no full-precision run."""
    for hidden, factor in ((2, 1.0), (5, -1.0)):
        for quantizer, away in (("none", 0.0), ("bwn", 0.6), ("twn", 0.6)):
            made(quantizer, 2.5 + factor * away, config={"hidden": hidden, "epochs": 3, "steps": None})
    made("bwn", 9.9, config={"hidden": 2, "epochs": 3, "steps": None, "lr": 0.7})
    found = decide(tmp_path, claim())
    assert sorted((v.scale, v.outcome) for v in found) == [
        ("2 units, 3 epochs, lr=0.1", "holds"),
        ("2 units, 3 epochs, lr=0.7", "not trained"),
        ("5 units, 3 epochs, lr=0.1", "does not hold"),
    ]


def test_other_data_tasks_and_runs_of_no_claim_give_no_verdict(made: Make, tmp_path: Path) -> None:
    made("none", 2.0, task="word-lm", config={"task": "word-lm"})
    made("lab", 2.0)
    made("none", 2.0, config={"cell": "gru"})
    assert decide(tmp_path, claim(where={"cell": "lstm"})) == []
    made("none", 2.0, sha256="cd" * 32)
    made("bwn", 3.0)
    found = decide(tmp_path, claim(where={"cell": "lstm"}))
    assert [(v.outcome, len(v.decisions)) for v in found] == [("not trained", 0)] * 2


def test_the_length_of_a_normaliser_does_not_matter(made: Make, tmp_path: Path) -> None:
    made("bwn", 2.0, normalizer="batch-separate:max_steps=100")
    made("bwn", 3.0)
    made("bwn", 9.0, normalizer="batch-separate:max_steps=100,eps=0.1")
    better = Comparison({"quantizer": "bwn", "normalizer": "none"}, "worse", {"normalizer": "batch-separate"})
    (verdict,) = decide(tmp_path, claim(better))
    assert (verdict.outcome, len(verdict.decisions)) == ("holds", 1)


def test_shares_are_compared_by_logarithms(made: Make, tmp_path: Path) -> None:
    """With a margin of 5 % one seed tells from 1.05² on: 1.1 is below it, 1.11 above."""
    margins = {"char-lm": "5 %"}
    made("none", 1.0)
    made("bwn", 1.1)
    made("twn", 1.11)
    (verdict,) = decide(tmp_path, claim(margins=margins))
    assert [decision.holds for decision in verdict.decisions] == [None, True]
    assert "bwn/none is worse than none/none by 10 %, one seed each (counts from 5 % on)" in verdict.reason


def test_sizes_and_growth_are_compared_as_factors(made: Make, tmp_path: Path) -> None:
    """No seed changes a size; of growth with one seed, a factor of 100 and more counts, and infinity does."""
    for quantizer, size, growth in (("none", 8192, 1e-5), ("bwn", 2048, 1e300), ("twn", 4096, math.inf)):
        made(quantizer, 2.0, storage_bytes=size, metrics={"gradient_growth": growth})
    larger = Comparison({"quantizer": "none", "normalizer": "none"}, "worse", {"quantizer": "bwn"})
    half = Comparison({"quantizer": "none", "normalizer": "none"}, "worse", {"quantizer": "twn"})
    sizes = decide(tmp_path, claim(larger, figure="size", margins={"char-lm": "2.1 times"}))
    assert (
        sizes[0].reason
        == "1 of 1 hold; none/none is larger than bwn/none by a factor of 4 (counts from 2.1 times on)"
    )
    assert (
        decide(tmp_path, claim(half, figure="size", margins={"char-lm": "2.1 times"}))[0].outcome
        == "does not hold"
    )
    (growth,) = decide(tmp_path, claim(figure="gradient_growth", margins={"char-lm": "10 times"}))
    assert growth.outcome == "holds"
    assert "bwn/none is larger than none/none by a factor of 1e+305, one seed each" in growth.reason


def test_a_run_without_the_figure_is_missing_unless_it_diverged(made: Make, tmp_path: Path) -> None:
    made("none", 2.0, metrics={"lambda1": 1.0})
    made("bwn", 2.0)
    made("twn", math.nan, status="diverged", diverged_at=2)
    (verdict,) = decide(tmp_path, claim(figure="lambda1", margins={"char-lm": "2 times"}))
    assert (verdict.outcome, verdict.missing) == ("not trained", ("bwn/none",))
    assert [decision.holds for decision in verdict.decisions] == [True]


NORMALIZERS = ("none", "weight", "layer", "batch-shared", "batch-separate:max_steps=100")
SMALL = {
    "none": (2.75, 2.89, 2.07, 2.14, 2.15),
    "binary-connect": (5.65, 3.18, 2.42, 2.46, 2.47),
    "ter-connect": (3.66, 3.06, 2.29, 2.35, 2.36),
    "bwn": (3.01, 3.19, 2.44, 2.47, 2.48),
    "twn": (2.90, 3.08, 2.30, 2.36, 2.37),
    "lab": (2.95, 3.19, 2.43, 2.45, 2.46),
    "lat": (2.92, 3.12, 2.34, 2.36, 2.37),
}
"""Characters of the Penn Treebank, 128 units, 300 steps, one seed: bits in test, one for each normaliser."""
GROWTH = {("none", "none"): 1.5e-11, ("binary-connect", "none"): 1.5e21, ("ter-connect", "none"): 4.3e5}


def test_a_table_of_one_seed_decides_what_it_can(tmp_path: Path) -> None:
    """What was once written of it by hand comes out of the runs, and what one seed cannot say is not said."""
    for quantizer, figures in SMALL.items():
        for normalizer, test in zip(NORMALIZERS, figures, strict=True):
            metrics = {
                "baseline_bpc": 4.34,
                "valid_bpc": test,
                "test_bpc": test,
                "gradient_growth": GROWTH.get((quantizer, normalizer), 1e-9),
            }
            config = {"hidden": 128, "steps": 300}
            make_run(tmp_path, quantizer, normalizer, dataset="ptb-char", config=config, metrics=metrics)
    records, problems = collect([tmp_path])
    assert (len(records), problems) == (35, [])
    found = {verdict.claim.name: verdict.outcome for verdict in decide_claims(records)}
    assert found == {
        "vanilla-fails": "holds",
        "normalisation-mends": "holds",
        "like-full-precision": "does not hold",  # with weight normalisation, 0.3 and 0.4 bits
        "like-normalised-full-precision": "does not hold",
        "normalisers-alike": "does not hold",  # weight 0.8 bits behind
        "shared-like-separate": "not decided by the spread",  # to 0.01 bits, but of one seed
        "like-sbn-and-stn": "not trained",
        "smaller-than-sbn-and-stn": "not trained",
        "batch-norm-like-sbn": "not trained",
        "scales-help": "holds",
        "scales-sometimes-behind": "holds",
        "gradients-explode": "holds",
        "binary-explodes-more": "holds",
        "normalisation-calms-gradients": "holds",
        "batch-norm-calms-gradients": "holds",
    }


def test_claims_about_cells_and_layers_find_their_runs(made: Make, tmp_path: Path) -> None:
    """Each cell has settings that the others lack; they are compared nevertheless, as the claims say."""
    models: list[tuple[dict[str, Any], float, int]] = [
        ({"cell": "lstm"}, 2.0, 8000),
        ({"cell": "f-lstm", "rank": 32}, 2.5, 3000),
        ({"cell": "g-lstm", "groups": 2}, 2.5, 4000),
        ({"cell": "g-lstm", "groups": 4}, 2.6, 2000),
        ({"cell": "g-lstm", "groups": 8}, 2.7, 1000),
        ({"cell": "g-lstm", "groups": [4, 8]}, 2.9, 1500),
    ]
    task = "large-vocab-lm:samples=256"
    for settings, test, size in models:
        made("none", test, task=task, config={"task": task, **settings}, storage_bytes=size)
    for settings in ({"cell": "gru"}, {"layers": 2}, {"layers": 4}):
        for quantizer, normalizer, test in (
            ("none", "none", 2.0),
            ("binary-connect", "none", 3.0),
            ("binary-connect", "layer", 1.9),
        ):
            made(quantizer, test, normalizer=normalizer, config=settings)
    records, problems = collect([tmp_path / "runs"])
    assert problems == []
    found = {v.claim.name: (v.outcome, len(v.decisions), v.missing) for v in decide_claims(records)}
    assert found == {
        "more-parameters-win": ("holds", 4, ()),
        "fewer-parameters": ("holds", 2, ()),
        "hierarchical-groups": ("does not hold", 1, ()),  # 11 % apart
        "gru-vanilla-fails": ("holds", 1, ()),
        "gru-normalisation-mends": ("holds", 1, ()),
        "gru-like-full-precision": ("holds", 1, ()),
        "gru-gradients-explode": ("not decided by the spread", 1, ()),  # all grow alike here
        "layers-vanilla-fails": ("holds", 1, ()),
        "layers-normalisation-mends": ("holds", 1, ()),
        "layers-like-full-precision": ("holds", 1, ()),
    }


@pytest.fixture
def trained(made: Make) -> None:
    """A claim that holds, one that does not, and some that lack runs."""
    for normalizer, figure in (("none", 3.5), ("layer", 2.1)):
        for quantizer in ("binary-connect", "ter-connect"):
            made(quantizer, figure, normalizer=normalizer, dataset="ptb-char", metrics={"lambda1": 3.0})
    made("none", 2.0, dataset="ptb-char", metrics={"lambda1": 1.0})


def test_every_form_shows_the_verdicts(
    trained: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records, _ = collect([tmp_path / "runs"])
    words = "Without normalisation, BinaryConnect and TerConnect are behind full precision."
    assert (
        f"| holds | {words} | Hou et al. 2019, poster, observations | 2 units, 20 steps | 2 of 2 hold"
        in to_markdown(records)
    )
    assert f"holds & {words} & Hou et al. 2019" in to_latex(records)
    columns = r"lp{.22\textwidth}p{.22\textwidth}lp{.22\textwidth}"
    assert rf"\begin{{tabular}}{{{columns}}}" in to_latex(records, "claims")
    assert r"After training without normalisation, $\lambda$1 of BinaryConnect" in to_latex(records)
    frame = pd.read_csv(io.StringIO(to_csv(records, "claims"))).set_index("claim")
    row = frame.loc["vanilla-fails"]
    assert (row.verdict, row.difference, row.margin, row.comparisons, row.held) == ("holds", 1.5, 0.06, 2, 2)
    assert frame.loc["like-full-precision"].missing.startswith("binary-connect/weight, ")
    write_html(records, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert f'<td class="words">holds</td><td class="words">{words}</td>' in page
    output = io.StringIO()
    print_claims(records, output)
    printed = output.getvalue()
    assert f"\nholds: {words} (2 units, 20 steps)\n    2 of 2 hold; " in printed
    assert printed.index("holds: ") < printed.index("not trained: normalisers-alike (2 units, 20 steps)")


def test_the_command_writes_one_table_alone(
    trained: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", "runs", "--format", "md", "--table", "published"]) == 0
    text = capsys.readouterr().out
    assert text.count("|") > 20
    assert "### Beside Hou et al. 2019, poster, first table" in text
    assert "Claims" not in text
    assert "| binary-connect | none | 3.500 | 2.51 | +0.990 | 2 | 200 | 2 | 512 | completed |" in text
    assert main(["report", "runs", "--format", "csv", "--table", "claims"]) == 0
    assert capsys.readouterr().out.startswith("task,dataset,scale,claim,statement,source,verdict,why,")
    assert main(["report", "runs", "--table", "claims"]) == 2
    assert capsys.readouterr().err == (
        "qlstm-bench: error: --table claims is for --format md, csv or latex: a page has all tables\n"
    )


def test_a_table_that_does_not_exist_is_refused(trained: None, tmp_path: Path) -> None:
    records, _ = collect([tmp_path / "runs"])
    for form in (to_markdown, to_latex, to_csv):
        with pytest.raises(
            ConfigError, match=r"^no table 'claim' \(did you mean 'claims'\?\); allowed: lines"
        ):
            form(records, "claim")


def test_runs_of_no_paper_get_neither_table(made: Make, tmp_path: Path) -> None:
    made("bwn", 2.0, task="classify", config={"task": "classify"})
    records, _ = collect([tmp_path / "runs"])
    assert "###" not in to_markdown(records)
    assert to_csv(records, "claims").count("\n") == to_csv(records, "published").count("\n") == 1
