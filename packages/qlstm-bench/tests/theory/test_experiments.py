"""Every experiment as a reader meets it: settings, list, tables, report, command line."""

from __future__ import annotations

import inspect
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from qlstm_bench.cli import main
from qlstm_bench.commands.theory import theory
from qlstm_bench.theory import EXPERIMENTS, Experiment, TheoryError, experiment_class

SMALL = [
    "--steps=100", "--chains=4", "--networks=2", "--width=8", "--depth=3", "--features=50", "--hidden=4",
    "--dimensions=1,2", "--rows=16", "--task=digits", "--batch=8", "--big=2",
]  # fmt: skip
"""Settings that make every experiment fast; their figures mean nothing."""


def small(name: str) -> Experiment:
    found = experiment_class(name)
    given = dict(option.removeprefix("--").split("=") for option in SMALL)
    settings = {key: value for key, value in given.items() if key in found.model_fields}
    return found.build(name, settings)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_docstring_gives_equation_and_source(name: str) -> None:
    found = experiment_class(name)
    assert "Source:" in found.equation()
    assert any(sign in found.equation() for sign in "=≤<")
    assert found.title
    assert all(field.description for field in found.model_fields.values())


def test_every_setting_is_an_option_and_every_option_a_setting() -> None:
    settings = {field for name in EXPERIMENTS for field in experiment_class(name).model_fields}
    assert set(inspect.signature(theory).parameters) - {"name", "listing", "out"} == settings


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
    built = experiment_class("least-squares").build("least-squares", {"delta": "0.5", "dimensions": "2,3"})
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
        experiment_class("least-squares").build("least-squares", settings)


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
        for field in experiment_class(name).model_fields:
            assert f"  --{field} " in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["theory"], "which experiment.*least-squares"),
        (["theory", "markow"], "unknown experiment 'markow'.*markov"),
        (["theory", "markov", "--depth", "3"], "experiment 'markov' has no setting 'depth'"),
        (["theory", "markov", "--dimensions", "3"], "dimensions: expected 1, 2 or 1,2"),
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
