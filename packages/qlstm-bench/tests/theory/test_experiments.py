"""Every experiment as a reader meets it: settings, list, tables, report, command line."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hook_examples import example

from qlstm_bench.cli import main
from qlstm_bench.theory import (
    Experiment,
    ExperimentSpec,
    Findings,
    TheoryError,
    default_experiment,
    installed_experiments,
    make_experiment,
)
from qlstm_core.plugins import hookimpl, registry

EXPERIMENTS = list(installed_experiments())

SMALL = [
    "--steps=100", "--chains=4", "--networks=2", "--width=8", "--depth=3", "--features=50", "--hidden=4",
    "--dimensions=1,2", "--rows=16", "--task=digits", "--batch=8", "--big=2",
]  # fmt: skip
"""Settings that make every experiment fast; their figures mean nothing."""


def small(name: str) -> Experiment:
    fields = type(default_experiment(name)).model_fields
    given = dict(option.removeprefix("--").split("=") for option in SMALL)
    return make_experiment(name, {key: value for key, value in given.items() if key in fields})


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_docstring_gives_equation_and_source(name: str) -> None:
    found = default_experiment(name)
    assert "Source:" in found.equation()
    assert any(sign in found.equation() for sign in "=≤<")
    assert all(field.description for field in type(found).model_fields.values())


def test_experiments_of_one_paper_stand_together() -> None:
    papers = [spec.references for spec in installed_experiments().values()]
    assert papers == sorted(papers)
    assert len(set(papers)) == 2


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_help_shows_equation_and_every_setting(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["theory", name, "--help"]) == 0
    text = capsys.readouterr().out
    found = default_experiment(name)
    assert " ".join(found.equation().split()) in " ".join(text.split())
    options = [line.split()[0] for line in text.splitlines() if line.startswith("  --")]
    assert options == [*(f"--{setting}" for setting in type(found).model_fields), "--out", "--help"]


def test_help_of_all_shows_the_settings_of_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["theory", "all", "--help"]) == 0
    text = capsys.readouterr().out
    options = {line.split()[0] for line in text.splitlines() if line.startswith("  --")}
    settings = {field for name in EXPERIMENTS for field in type(default_experiment(name)).model_fields}
    assert options == {f"--{setting}" for setting in (*settings, "out", "help")}
    assert "K_0, width of the input; K, inputs and neurons of the layer." in " ".join(text.split())


def test_a_strangers_experiment_is_listed_and_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    registry.register(example("qlstm_theory_experiments"), "third-party")
    try:
        assert main(["theory", "--help"]) == 0
        assert "  mean-of-signs " in capsys.readouterr().out
        assert main(["theory", "mean-of-signs", "--signs", "1,4", "--out", str(tmp_path)]) == 0
    finally:
        registry.unregister("third-party")
    table = pd.read_csv(tmp_path / "mean-of-signs.csv")
    assert table["predicted"].tolist() == [1, 0.5]
    assert table["measured"].tolist() == pytest.approx([1, 0.5], rel=0.1)
    assert main(["theory", "mean-of-signs"]) == 2


@pytest.mark.filterwarnings("default::qlstm_core.plugins.PluginWarning")
def test_a_strangers_experiment_that_is_broken_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Raises(Experiment):
        def run(self, progress: Any = None) -> Findings:
            raise KeyError("nothing")

    class Plugin:
        @hookimpl
        def qlstm_theory_experiments(self) -> list[ExperimentSpec]:
            return [
                ExperimentSpec(name="gone", summary="a module that is not there", factory="nope.mod:X"),
                ExperimentSpec(name="raises", summary="a run that fails", factory=Raises),
            ]

    registry.register(Plugin(), "third-party")
    try:
        assert main(["theory", "--list"]) == 0
        shown = capsys.readouterr()
        assert "least-squares: " in shown.out
        assert "warning: left out: experiment 'gone' of third-party cannot be loaded" in shown.err
        assert main(["theory", "all", "--help"]) == 0
        assert main(["theory", "raises", "--out", str(tmp_path)]) == 2
        assert "experiment 'raises' failed: KeyError: 'nothing'; the settings were seed=0" in (
            capsys.readouterr().err
        )
    finally:
        registry.unregister("third-party")


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if name != "rounding-adam"])
def test_the_same_settings_give_the_same_table(name: str) -> None:
    first, second = (small(name).run().table for _ in range(2))
    pd.testing.assert_frame_equal(first, second)


@pytest.mark.parametrize("name", ["least-squares", "toy-histograms", "batch-norm-gradient"])
def test_another_seed_gives_another_measurement(name: str) -> None:
    first = small(name)
    assert not first.run().table.equals(first.model_copy(update={"seed": 1}).run().table)


def test_progress_ends_at_one() -> None:
    shares: list[float] = []
    small("markov").run(shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)


def test_settings_as_text() -> None:
    built = make_experiment("least-squares", {"delta": "0.5", "dimensions": "2,3"})
    assert built.model_dump()["delta"] == (0.5,)
    assert built.model_dump()["dimensions"] == (2, 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"detla": "1"}, "has no setting 'detla'.*delta"),
        ({"delta": "x"}, "delta.*valid number.*'x'"),
        ({"steps": 1}, "steps: input should be greater than or equal to 10, got 1"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, object], message: str) -> None:
    with pytest.raises(TheoryError, match=message):
        make_experiment("least-squares", settings)


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = dict(attributes)
        self.loaded += [str(given[name]) for name in ("src", "href", "xlink:href") if name in given]


def test_all_writes_one_self_contained_page_and_every_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["theory", "all", *SMALL, "--out", str(tmp_path / "theory")]) == 0
    captured = capsys.readouterr()
    text = (tmp_path / "theory" / "report.html").read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    assert "script" not in page.tags
    assert all(target.startswith("#") for target in page.loaded)
    assert page.tags.count("figure") == page.tags.count("table") == len(EXPERIMENTS)
    for number, name in enumerate(EXPERIMENTS):
        assert f'<h2 id="{name}">' in text
        assert f"{number + 1}/{len(EXPERIMENTS)} {name}: " in captured.err
        assert not pd.read_csv(tmp_path / "theory" / f"{name}.csv").empty
    assert len(pd.read_csv(tmp_path / "theory" / "gradient-variance-layers.csv")) > 0
    assert captured.out.strip().endswith("report.html")


def test_one_experiment_is_printed_with_equation_and_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path)
    assert main(["theory", "batch-norm-gradient", "--batch", "2,5", "--features", "50", "--out", out]) == 0
    printed = capsys.readouterr().out
    assert "1 − 2/B" in printed
    assert [line.split()[0] for line in printed.splitlines() if line.strip()[:2] in ("2 ", "5 ")] == [
        "2",
        "5",
    ]


def test_list_names_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["theory", "--list"]) == 0
    printed = capsys.readouterr().out
    for name in EXPERIMENTS:
        assert f"{name}: " in printed
        for field in type(default_experiment(name)).model_fields:
            assert f"  --{field} " in printed


def test_list_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["theory", "--list", "--json"]) == 0
    records = {record["name"]: record for record in json.loads(capsys.readouterr().out)}
    assert list(records) == EXPERIMENTS
    (delta,) = [setting for setting in records["least-squares"]["settings"] if setting["name"] == "delta"]
    field = type(default_experiment("least-squares")).model_fields["delta"]
    assert delta == {"name": "delta", "default": list(field.default), "description": field.description}
    assert main(["theory", "--json"]) == 2
    assert "--json goes with --list" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["theory"], "which experiment.*least-squares"),
        (["theory", "markow"], "unknown experiment 'markow'.*markov"),
        (["theory", "markov", "--dimension", "3"], "unknown option '--dimension'.*'--dimensions'.*--rate"),
        (["theory", "all", "--stepz", "3"], "unknown option '--stepz'.*'--steps'"),
        (["theory", "markov", "--steps", "9"], "steps: input should be greater than or equal to 100"),
        (["theory", "markov", "--dimensions", "3"], "dimensions: expected 1, 2 or 1,2"),
        (
            ["theory", "least-squares", "--dimensions", "8,-3"],
            "dimensions: .*greater than or equal to 1, got '-3'",
        ),
        (["theory", "least-squares", "--delta", "0.1,nan"], "delta: .* finite number, got 'nan'"),
        (["theory", "least-squares", "--condition", "inf"], "condition: .* finite number, got inf"),
        (["theory", "binary-connect-floor", "--scale", "0"], "scale: .* greater than 0, got '0'"),
        (["theory", "binary-connect-trap", "--distance", "0.7"], "distance: .* less than or equal to 0.5"),
        (["theory", "batch-norm-gradient", "--batch", "1"], "batch: .* greater than or equal to 2"),
        (["theory", "gradient-variance", "--batch", "2"], "batch: .* greater than or equal to 4"),
        (["theory", "ternary-variance", "--factor", "-1"], "factor: .* greater than or equal to 0"),
        (["theory", "toy-histograms", "--rate", "-1"], "rate: .* greater than 0"),
        (["theory", "markov", "--out", "/proc/nowhere"], "--out"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import re

    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error)
