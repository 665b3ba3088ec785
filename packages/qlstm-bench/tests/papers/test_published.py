"""Published figures: they check themselves, come from any plugin, and two papers stand side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hook_examples import example
from made_runs import make_run

from qlstm_bench.cli import main
from qlstm_bench.config import RunConfig
from qlstm_bench.papers.claims import Claim, Comparison, given_claims
from qlstm_bench.papers.published import PublishedFigure, figures_of, own_figures, published
from qlstm_bench.report import collect, published_frame, to_markdown
from qlstm_core.plugins import PluginWarning, hookimpl, registry

FIELDS: dict[str, Any] = {
    "task": "char-lm", "data": "ptb-char", "quantizer": "ter-connect", "normalizer": "layer", "hidden": 512,
    "figure": 1.4, "source": "Doe 2026, table 1",
}  # fmt: skip
HOU = "Hou et al. 2019, poster, first table, bits per character"


def module(**hooks: Callable[..., Any]) -> ModuleType:
    """Return a plugin with these hooks."""
    made = ModuleType("a_paper")
    for name, function in hooks.items():
        function.__name__ = name
        setattr(made, name, hookimpl(function))
    return made


@pytest.fixture
def install() -> Iterator[Callable[..., None]]:
    """Register plugins for one test."""
    names = []

    def register(name: str, **hooks: Callable[..., Any]) -> None:
        registry.register(module(**hooks), name)
        names.append(name)

    yield register
    for name in names:
        registry.unregister(name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": ""}, "task must be one non-empty printable line, got ''"),
        ({"data": 3}, "data must be text, got 3"),
        ({"figure": math.nan}, "figure must be finite, got nan"),
        ({"figure": "1.4"}, "figure must be a number, got '1.4'"),
        ({"hidden": 0}, "hidden must be above 0, and finite, got 0"),
        ({"hidden": 512.0}, "hidden must be an int, got 512.0"),
        ({"epochs": 0}, "epochs must be above 0, and finite, got 0"),
        ({"size_kb": math.inf}, "size_kb must be above 0, and finite, got inf"),
        ({"settings": {"layer": 2}}, r"settings: no setting 'layer' \(did you mean 'layers'"),
        ({"settings": {"hidden": 2}}, "settings: no setting 'hidden'"),
        ({"settings": {"layers": [1, 2]}}, r"settings: layers cannot be \[1, 2\]: .* valid integer"),
        ({"source": "a\nb"}, "source must be one non-empty printable line"),
    ],
)
def test_a_figure_checks_itself(changes: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"PublishedFigure of .*{message}"):
        PublishedFigure(**{**FIELDS, **changes})


def run_config(**changes: Any) -> RunConfig:
    base = {"data": "x", "batch": 2, "lr": 0.1, "clip": 5.0, "steps": 1, "hidden": 128}
    return RunConfig.build({**base, "quantizer": "ter-connect", "normalizer": "layer", **changes})


def test_own_figures_come_through_the_hook_with_the_lengths_of_the_authors() -> None:
    own = list(own_figures())
    assert [one for title, one in figures_of(registry)() if title.startswith("qlstm-bench")] == own
    lengths = {(one.data, one.epochs) for one in own}
    assert lengths == {
        ("ptb-char", 200), ("war-and-peace", 200), ("text8", None), ("ptb-word", 120), ("billion-word", None),
    }  # fmt: skip
    (record,) = [record for record in registry.plugins() if record.name == "qlstm-bench:bench"]
    assert {"qlstm_published", "qlstm_claims"} <= set(record.provides["hook"])


def test_two_papers_both_have_a_figure_for_one_line(install: Callable[..., None], tmp_path: Path) -> None:
    doe = PublishedFigure(**{**FIELDS, "hidden": 128, "epochs": 7.5, "size_kb": 33})
    install("doe", qlstm_published=lambda: [doe])
    found = published(run_config(), "ptb-char")
    assert [(one.source, one.figure, one.hidden) for one in found] == [
        ("Doe 2026, table 1", 1.4, 128), (HOU, 1.43, 512),
    ]  # fmt: skip
    for seed, test in enumerate((1.5, 1.75)):
        make_run(
            tmp_path, "ter-connect", "layer", dataset="ptb-char", seed=seed, config={"hidden": 128},
            metrics={"test_bpc": test},
        )  # fmt: skip
    records, _ = collect([tmp_path])
    frame = published_frame(records).set_index("published_source")
    assert list(frame.index) == ["Doe 2026, table 1", HOU]
    assert list(frame["difference"]) == pytest.approx([0.225, 0.195])  # of 1.625
    assert list(frame["published_epochs"]) == [7.5, 200]
    text = to_markdown(records)
    assert "### Beside Doe 2026, table 1\n" in text
    assert "| ter-connect | layer | 1.625 ±0.177 | 1.40 | +0.225 | 2 | 7.5 | 2 | completed |" in text
    assert (
        "| ter-connect | layer | 1.625 ±0.177 | 1.43 | +0.195 | 2 | 200 | 128 | 512 | 2 | completed |" in text
    )


def test_figures_for_one_line_that_contradict_each_other_are_both_shown(install: Callable[..., None]) -> None:
    install("doe", qlstm_published=lambda: [PublishedFigure(**FIELDS)])
    install("doe-again", qlstm_published=lambda: [PublishedFigure(**{**FIELDS, "figure": 1.5})])
    install("doe-thrice", qlstm_published=lambda: [PublishedFigure(**FIELDS)])  # which contradicts nobody
    message = (
        r"^Doe 2026, table 1: ter-connect with layer on ptb-char is 1.4 from doe, and 1.5 from doe-again: "
        r"both are shown$"
    )
    with pytest.warns(PluginWarning, match=message) as caught:
        found = published(run_config(), "ptb-char")
    assert len(caught) == 1
    assert [one.figure for one in found if one.source == "Doe 2026, table 1"] == [1.4, 1.5]


@pytest.mark.parametrize(
    ("task", "fits"),
    [
        ("mnist:permuted=true", True),
        ("mnist:permuted=true,per_step=7", True),
        ("mnist", False),
        ("digits", False),
    ],
)
def test_options_of_a_task_that_a_figure_names_must_be_there(task: str, fits: bool) -> None:
    one = PublishedFigure(**{**FIELDS, "task": "mnist:permuted=true", "data": "mnist"})
    assert one.fits(run_config(task=task), "mnist") is fits


def raise_error() -> Iterator[PublishedFigure]:
    yield PublishedFigure(**FIELDS)
    yield PublishedFigure(**{**FIELDS, "figure": math.nan})


@pytest.mark.filterwarnings("default")  # as on a command line
@pytest.mark.parametrize(
    ("hooks", "reason"),
    [
        (
            {"qlstm_published": raise_error},
            "qlstm_published raised ValueError: PublishedFigure of 'Doe 2026, table 1'",
        ),
        ({"qlstm_published": lambda: [FIELDS]}, "qlstm_published gave dict in place of PublishedFigure"),
        ({"qlstm_claims": lambda: 3}, "qlstm_claims gave int, not an iterable of Claim"),
    ],
)
def test_a_broken_paper_is_warned_of_in_one_line_and_the_report_is_made(
    hooks: dict[str, Any], reason: str, install: Callable[..., None], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    install("broken", **hooks)
    make_run(tmp_path / "runs", "ter-connect", "layer", dataset="ptb-char", config={"hidden": 512})
    assert main(["report", "runs", "--format", "md"]) == 0
    said = capsys.readouterr()
    assert "| ter-connect | layer | 2.625 | 1.43 | +1.195 |" in said.out
    assert said.err.count("\n") == 1
    assert said.err.startswith(f"qlstm-bench: warning: failed plugin 'broken' of broken: {reason}")


def test_a_papers_claims_stand_beside_ours_and_one_name_is_told_apart(install: Callable[..., None]) -> None:
    compare = (Comparison({"quantizer": "bwn"}, "worse", {"quantizer": "none"}),)
    own = Claim(name="new", statement="x", source="Doe", margins={"char-lm": 1}, compare=compare)
    taken = Claim(name="vanilla-fails", statement="x", source="Doe", margins={"char-lm": 1}, compare=compare)
    install("doe", qlstm_claims=lambda: [own, taken])
    with pytest.warns(
        PluginWarning, match=r"^claim 'vanilla-fails' is given by qlstm-bench \S+ and by doe: all"
    ):
        found = given_claims()
    assert found[-2:] == [own, taken]


def test_the_examples_of_the_hooks_are_shown(install: Callable[..., None]) -> None:
    install("figures", qlstm_published=example("qlstm_published").qlstm_published)
    install("claims", qlstm_claims=example("qlstm_claims").qlstm_claims)
    config = run_config(quantizer="none", hidden=512)
    assert [one.figure for one in published(config, "ptb-char")] == [1.43, 1.43]
    assert given_claims()[-1].name == "layer-before-weight"
