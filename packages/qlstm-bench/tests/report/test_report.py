"""The report: what it shows of each run, and what it leaves out."""

from __future__ import annotations

import io
import json
import math
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from made_runs import make_run

from qlstm_bench.cli import main
from qlstm_bench.config import RunConfig
from qlstm_bench.papers.published import own_figures, published
from qlstm_bench.report import (
    collect,
    print_table,
    results_frame,
    summary_frame,
    to_csv,
    to_latex,
    to_markdown,
    write_html,
)
from qlstm_bench.report.figures import draw_overview
from qlstm_bench.report.published import format_figure
from qlstm_bench.training.folder import Run
from qlstm_core import LSTM


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Runs of every fate, and damaged ones."""
    out = tmp_path / "runs"
    make_run(out, "twn", "layer")
    make_run(out, "none", "layer", storage_bytes=8192)
    make_run(out, "none", "none", storage_bytes=8192)
    make_run(out, "twn", "none", metrics={"valid_bpc": 4.5, "gradient_growth": 3.25e22})
    make_run(
        out, "bwn", "none", status="diverged", diverged_at=7, metrics={"gradient_growth": math.inf},
        gradient_norms=[{"layer": 0, "direction": 0, "norms": [math.inf, 1e200, 1.0]}],
    )  # fmt: skip
    make_run(out, "bwn", "layer", status="failed", error="OSError: <disk> full")
    (make_run(out, "lab", "none").directory / "result.json").write_text("{")
    (make_run(out, "lat", "none").directory / "config.yaml").write_text("hidden: [")
    (make_run(out, "sbn", "none").directory / "result.json").unlink()
    return out


def test_runs_are_collected_in_order_and_damaged_ones_named(runs: Path, tmp_path: Path) -> None:
    records, problems = collect([runs, runs, tmp_path / "nowhere"])
    names = [(record.result.quantizer, record.result.normalizer) for record in records]
    assert names == [
        ("none", "none"), ("none", "layer"), ("bwn", "none"), ("bwn", "layer"), ("twn", "none"),
        ("twn", "layer"),
    ]  # fmt: skip
    assert len(problems) == 4
    for part in (
        r"lab.*result\.json",
        r"lat.*config\.yaml",
        r"sbn.*has not ended",
        r"nowhere: no run folder",
    ):
        assert any(re.search(part, problem) for problem in problems)
    assert not any("\n" in problem for problem in problems)
    one, none = collect([records[0].run.directory])
    assert (one, none) == ([records[0]], [])


def test_the_frame_holds_the_figures(runs: Path) -> None:
    frame = results_frame(collect([runs])[0]).set_index(["quantizer", "normalizer"])
    good = frame.loc["twn", "layer"]
    assert (good.valid, good.test, good.size_kb, good.ratio) == (2.5, 2.625, 2.0, 4.0)
    assert (good.gradient_growth, good.status) == (0.25, "completed")
    assert frame.loc["twn", "none"].status == "learnt nothing"
    assert frame.loc["bwn", "none"].status == "diverged at step 7"
    assert math.isnan(frame.loc["bwn", "none"].valid)
    assert frame.loc["bwn", "layer"].status == "failed: OSError: <disk> full"


def test_the_table_shows_every_figure(runs: Path) -> None:
    make_run(runs, "bwn", "none", dataset="other")
    output = io.StringIO()
    print_table(collect([runs])[0], output)
    text = output.getvalue()
    assert text.index("char-lm on other\n") < text.index("char-lm on toy\n")
    rows = [tuple(re.split(r"  +", line)) for line in text.partition("char-lm on toy")[2].splitlines()]
    assert rows[2] == ("quantizer", "normaliser", "valid", "test", "KB", "ratio", "growth", "status")
    assert ("twn", "layer", "2.500", "2.625", "2", "4.0", "2.5e-01", "completed") in rows
    assert ("twn", "none", "4.500", "2.625", "2", "4.0", "3.2e+22", "learnt nothing") in rows
    assert ("bwn", "none", "–", "–", "2", "4.0", "> 1e+308", "diverged at step 7") in rows


def test_seeds_make_one_line_with_mean_and_spread(tmp_path: Path) -> None:
    for seed, test in enumerate((2.0, 3.0, 4.0)):
        make_run(tmp_path, "twn", "layer", seed=seed, metrics={"test_bpc": test, "gradient_growth": seed})
    make_run(tmp_path, "twn", "layer", seed=3, status="diverged", diverged_at=7)
    make_run(tmp_path, "twn", "layer", config={"hidden": 5, "log_every": 3})
    frame = summary_frame(collect([tmp_path])[0])
    assert list(frame["hidden"]) == [2, 5]
    seeds = frame.iloc[0]
    assert (seeds.runs, seeds.completed, seeds.bits) == (4, 3, 2)
    assert (seeds.test_mean, seeds.test_spread) == (3.0, 1.0)  # of 2, 3, 4
    assert seeds.gradient_growth == 2.0
    assert seeds.status == "3 completed, 1 diverged at step 7"
    assert math.isnan(frame.iloc[1].test_spread)
    text = to_markdown(collect([tmp_path])[0])
    assert "| 2 | twn | layer | 2 | 2.500 ±0.000 | 3.000 ±1.000 |" in text


def test_published_figures_stand_beside_ours_and_are_marked(tmp_path: Path) -> None:
    make_run(tmp_path, "ter-connect", "layer", dataset="ptb-char", config={"hidden": 512})
    make_run(tmp_path, "ter-connect", "weight", dataset="ptb-char")
    make_run(tmp_path, "twn", "weight", dataset="ptb-char")
    records, _ = collect([tmp_path])
    frame = summary_frame(records).set_index(["quantizer", "normalizer"])
    layer = frame.loc["ter-connect", "layer"]
    assert (layer.published, layer.published_size_kb, layer.published_hidden) == (1.43, 321, 512)
    assert layer.published_source == "Hou et al. 2019, poster, first table, bits per character"
    assert math.isnan(frame.loc["twn", "weight"].published)
    output = io.StringIO()
    print_table(records, output)
    assert " 1.43 " in output.getvalue()
    assert " 1.42 @512 " in output.getvalue()
    assert "the figure that the paper published" in output.getvalue()
    write_html(records, tmp_path / "page.html")
    assert "not ours" in (tmp_path / "page.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("dataset", "settings", "figure"),
    [
        ("ptb-word", {"task": "word-lm", "normalizer": "batch-separate:max_steps=35", "hidden": 300}, 91.9),
        ("ptb-word", {"task": "word-lm", "normalizer": "batch-separate:max_steps=35", "hidden": 650}, 85.6),
        ("ptb-word", {"task": "word-lm", "normalizer": "none", "hidden": 64}, 8247.4),
        ("text8", {"normalizer": "layer", "hidden": 2000}, 1.47),
        ("text8", {"normalizer": "none"}, None),  # not available, says the poster
        ("text8", {"normalizer": "layer", "cell": "gru"}, None),
        ("text8", {"normalizer": "layer:gain=0.5", "quantizer": "binary-connect:clip=false"}, 1.47),
        ("text8", {"normalizer": "layer:eps=0.5"}, None),
        ("text8", {"normalizer": "layer", "quantizer": "binary-connect:stochastic=true"}, None),
        ("text8", {"normalizer": "layer", "state_quantizer": "bwn"}, None),
        ("ptb-char", {"normalizer": "batch-separate:gain=0.5,max_steps=100"}, 1.5),
        ("text8", {"normalizer": "layer", "hidden": 2000, "layers": 2}, None),
        ("ptb-word", {"task": "word-lm", "normalizer": "none", "hidden": 300, "layers": 3}, None),
        ("text8", {"normalizer": "batch-separate:cell=true,max_steps=180", "quantizer": "sbn"}, 1.54),
        (
            "billion-word",
            {"task": "large-vocab-lm:samples=9", "cell": "g-lstm", "groups": 8, "quantizer": "none"},
            39.4,
        ),
    ],
)
def test_a_run_finds_its_published_figure(
    dataset: str, settings: dict[str, Any], figure: float | None
) -> None:
    base = {
        "data": "x",
        "hidden": 2,
        "batch": 2,
        "lr": 0.1,
        "clip": 5.0,
        "steps": 1,
        "quantizer": "binary-connect",
    }
    found = published(RunConfig.build({**base, **settings}), dataset)
    assert [one.figure for one in found] == ([] if figure is None else [figure])


def test_published_sizes_are_those_of_our_layers() -> None:
    """Every size that is printed is what a layer of the paper's shape takes; a misprint would show."""
    inputs = {
        "ptb-char": 50,
        "war-and-peace": 87,
        "text8": 27,
        ("ptb-word", 300): 300,
        ("ptb-word", 650): 650,
    }
    steps = {"ptb-char": 100, "war-and-peace": 100, "text8": 180, "ptb-word": 35}
    wrong = {}
    for one in own_figures():
        if one.size_kb is None:
            continue
        normalizer = one.normalizer
        if normalizer.startswith("batch-separate"):
            normalizer += f"{',' if ':' in normalizer else ':'}max_steps={steps[one.data]}"
        width = inputs.get(one.data) or inputs[one.data, one.hidden]
        layer = LSTM(width, one.hidden, quantizer=one.quantizer, normalizer=normalizer, device="meta")
        ours = math.floor(layer.storage_bytes() / 1024 + 0.5)
        if ours != one.size_kb:
            wrong[one.data, one.quantizer, normalizer] = (ours, one.size_kb)
    assert wrong == {
        ("ptb-word", "alternating", "none"): (
            181,
            180,
        ),  # the poster leaves out the second scale of each gate
        ("ptb-word", "binary-connect", "batch-separate:max_steps=35"): (768, 767),  # 767.58, cut off
        ("text8", "stn", "batch-separate:cell=true,max_steps=180"): (29443, 15303),  # a misprint, it seems
    }


def test_every_form_holds_the_same_figures(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("md", "csv", "latex"):
        assert main(["report", str(runs), "--format", name]) == 0
        printed = capsys.readouterr().out
        assert main(["report", str(runs), "--format", name, "--out", f"table.{name}"]) == 0
        assert Path(f"table.{name}").read_text(encoding="utf-8") == printed
        capsys.readouterr()
    assert (
        "| 2 | twn | layer | 2.500 | 2.625 | 2 | 4.0 | 4 | 2.5e-01 | completed |"
        in Path("table.md").read_text()
    )
    assert (
        r"2 & twn & layer & 2.500 & 2.625 & 2 & 4.0 & 4 & 2.5e-01 & completed \\"
        in Path("table.latex").read_text()
    )
    assert r"failed: OSError: $<$disk$>$ full" in Path("table.latex").read_text()
    frame = pd.read_csv("table.csv").set_index(["quantizer", "normalizer"])
    assert frame.loc["twn", "layer"].test_mean == 2.625
    assert frame.loc["bwn", "none"].gradient_growth == math.inf


def test_a_files_name_says_its_format(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for ending, start in (("md", "## "), ("csv", "task,"), ("tex", "% "), ("html", "<!")):
        assert main(["report", str(runs), "--out", f"table.{ending}"]) == 0
        assert Path(f"table.{ending}").read_text(encoding="utf-8").lower().startswith(start)
    capsys.readouterr()
    assert main(["report", str(runs), "--out", "table.xyz"]) == 2
    assert "--out 'table.xyz' ends in none of .html, .htm, .md, .csv, .tex" in capsys.readouterr().err


def test_the_longest_names_fit_a_terminal(tmp_path: Path) -> None:
    make_run(tmp_path, "binary-connect", "batch-separate", status="diverged", diverged_at=1000)
    output = io.StringIO()
    print_table(collect([tmp_path])[0], output)
    assert max(map(len, output.getvalue().splitlines())) <= 90


class Page(HTMLParser):
    """What a browser would load, the cells, and whether tags are balanced."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loaded: list[str] = []
        self.cells: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = dict(attributes)
        self.loaded += [str(given[name]) for name in ("src", "href", "xlink:href") if name in given]
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag in self.open:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "td":
            self.cells.append(data)


def test_the_page_is_self_contained_and_complete(runs: Path, tmp_path: Path) -> None:
    make_run(runs, "none", "none", dataset="other")
    write_html(collect([runs])[0], tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    page.close()
    assert page.open == []
    assert all(target.startswith("#") for target in page.loaded)
    # Curves and norms, for 3 quantizers on toy and 1 on the other; and sizes.
    assert page.tags.count("svg") == 2 * (3 + 1) + 2
    assert text.count("<h2>") == 2
    for cell in ("2.500", "3.2e+22", "learnt nothing", "diverged at step 7", "failed: OSError: <disk> full"):
        assert cell in page.cells
    assert "char-lm on toy" in text
    assert "weights: bwn" in text
    assert 'name="viewport"' in text


def test_the_same_runs_give_the_same_page(runs: Path, tmp_path: Path) -> None:
    records, _ = collect([runs])
    write_html(records, tmp_path / "one.html")
    write_html(records, tmp_path / "two.html")
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


def test_the_overview_is_a_small_picture(runs: Path, tmp_path: Path) -> None:
    draw_overview(collect([runs])[0], tmp_path / "overview.png")
    content = (tmp_path / "overview.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert 10_000 < len(content) < 150_000


def test_the_command_skips_damaged_runs_and_says_so(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(runs), "--out", "page.html"]) == 0
    captured = capsys.readouterr()
    assert captured.err.count("qlstm-bench: skipped: ") == 3
    assert "diverged" in captured.out
    assert Path("page.html").exists()


def test_a_report_that_cannot_be_written_is_an_error(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(runs), "--out", "no/folder/page.html"]) == 2
    assert "no/folder/page.html" in capsys.readouterr().err


def damage(run: Run, **changes: Any) -> None:
    """Rewrite values in a result.json as JSON, which may hold more than a result can."""
    path = run.directory / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"storage_bytes": 0}, "storage_bytes"),
        ({"storage_bytes": True}, "storage_bytes"),
        ({"higher_is_better": "no"}, "higher_is_better"),
        ({"storage_bytes": 10**400}, "storage_bytes"),
        ({"float32_bytes": -1}, "float32_bytes"),
        ({"steps": 10**30}, "steps"),
        ({"diverged_at": 10**400}, "diverged_at"),
        ({"wall_s": "Infinity"}, "wall_s"),
        ({"wall_s": "NaN"}, "wall_s"),
        ({"quantizer": "bwn"}, "differ in quantizer"),
        ({"normalizer": "none", "seed": 5}, "differ in normalizer and seed"),
        ({"task": "word-lm"}, "differ in task"),
    ],
)
def test_a_damaged_result_is_named_and_left_out(
    changes: dict[str, Any], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(make_run(tmp_path, "twn", "layer"), **changes)
    make_run(tmp_path, "none", "none")
    assert main(["report", str(tmp_path), "--format", "csv"]) == 0
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert re.match(rf"qlstm-bench: skipped: .*twn-layer.*{named}", said.err)
    assert list(pd.read_csv(io.StringIO(said.out))["completed"]) == [1]


@pytest.mark.parametrize(
    "text",
    [
        "hidden: " + "9" * 5000,
        "a: &a [*a]",
        "3: 4",
        "hidden: 2024-13-45",
        "[" * 3000,
        "data: !!int x",
        "\x00",
    ],
)
def test_damaged_settings_are_named_and_left_out(text: str, tmp_path: Path) -> None:
    (make_run(tmp_path, "twn", "layer").directory / "config.yaml").write_text(text)
    make_run(tmp_path, "none", "none")
    records, (problem,) = collect([tmp_path])
    assert [record.result.quantizer for record in records] == ["none"]
    assert "config.yaml" in problem
    assert "\n" not in problem


NASTY = "$\\frac$ \x1b[31m_|&\n# a\n\\input{x}<b>é"


def test_names_cannot_steer_what_shows_them(tmp_path: Path) -> None:
    """Neither terminal, LaTeX, Markdown nor the figures' formulas; the text itself stays readable."""
    make_run(tmp_path, NASTY, "_norm", dataset=NASTY, metric_title=NASTY)
    records, _ = collect([tmp_path])
    output = io.StringIO()
    print_table(records, output)
    shown = {"terminal": output.getvalue(), "md": to_markdown(records), "latex": to_latex(records)}
    shown["csv"] = to_csv(records)
    for text in shown.values():
        assert "\x1b" not in text
        assert "é" in text
        assert not [line for line in text.splitlines() if line.startswith(("# a", "\\input"))]
    assert r"\textbackslash{}x1b[31m\_\textbar{}\&\textbackslash{}n\# a" in shown["latex"]
    assert r"\\x1b\[31m\_\|&\\n# a" in shown["md"]
    assert not re.search(r"(?<!\\)<b>", shown["md"])
    write_html(records, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "\x1b[31m" not in page[page.index("<svg") : page.rindex("</svg>")]
    assert "<b>é" not in page
    draw_overview(records, tmp_path / "overview.png")


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", " =1", '=HYPERLINK("http:x").txt'])
def test_a_name_is_no_formula_of_a_spreadsheet(name: str, tmp_path: Path) -> None:
    make_run(tmp_path, "twn", "layer", dataset=name, metrics={"test_bpc": -2.5})
    frame = pd.read_csv(io.StringIO(to_csv(collect([tmp_path])[0])))
    assert frame["dataset"].item() == f"'{name}"
    assert frame["test_mean"].item() == -2.5, "a negative number stays one"


def test_figures_beyond_all_use_are_in_the_table_and_not_in_the_figures(tmp_path: Path) -> None:
    for seed, figure in enumerate((math.inf, 1e308)):
        metrics = {"test_bpc": figure, "valid_bpc": figure, "baseline_bpc": math.inf}
        run = make_run(tmp_path, "twn", "layer", seed=seed, metrics=metrics)
        run.log({"step": 30 + seed, "valid_bpc": figure})
    make_run(tmp_path, "bwn", "none", metrics={"test_bpc": 1e308, "baseline_bpc": 1e308}, gradient_norms=[
        {"layer": 0, "direction": 0, "norms": [math.nan, -1.0, 1e308, 5e-324]}
    ])  # fmt: skip
    records, problems = collect([tmp_path])
    assert (len(records), problems) == (3, [])
    for cell in ("| inf |", "| 1e+308 |"):
        assert cell in to_markdown(records)
    write_html(records, tmp_path / "page.html")
    draw_overview(records, tmp_path / "overview.png")


def test_a_copy_of_a_run_is_no_second_seed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = tmp_path / "runs"
    one = make_run(runs, "twn", "layer")
    make_run(runs, "twn", "layer", seed=1, metrics={"test_bpc": 3.625})
    shutil.copytree(one.directory, runs / f"{one.name} copy")
    (tmp_path / "link").symlink_to(one.directory)
    assert main(["report", str(runs), str(tmp_path / "link"), "--format", "csv"]) == 0
    said = capsys.readouterr()
    line = pd.read_csv(io.StringIO(said.out)).iloc[0]
    assert (line.runs, line.test_mean, line.test_spread) == (2, 3.125, pytest.approx(0.5**0.5))
    assert [re.sub(f"{tmp_path}/", "", problem) for problem in said.err.splitlines()] == [
        f"qlstm-bench: skipped: {name}: the same settings, seed and data as runs/{one.name}: it counts once"
        for name in (f"runs/{one.name} copy", "link")
    ]


def test_a_run_that_diverged_is_not_in_the_mean(tmp_path: Path) -> None:
    for seed, test in enumerate((2.0, 3.0)):
        make_run(tmp_path, "twn", "layer", seed=seed, metrics={"test_bpc": test, "valid_bpc": test})
    make_run(tmp_path, "twn", "layer", seed=2, status="diverged", diverged_at=9, metrics={"test_bpc": 9.0})
    line = summary_frame(collect([tmp_path])[0]).iloc[0]
    assert (line.runs, line.completed, line.test_mean, line.valid_mean) == (3, 2, 2.5, 2.5)


def test_sizes_are_in_units_of_1024_bytes(tmp_path: Path) -> None:
    make_run(tmp_path, "twn", "layer", storage_bytes=600 * 1024, float32_bytes=4200 * 1024)
    records, _ = collect([tmp_path])
    frame = summary_frame(records).iloc[0]
    assert (frame.size_kb, frame.ratio) == (600, 7)
    assert "| 600 | 7.0 |" in to_markdown(records)


@pytest.mark.parametrize(("higher", "word", "good"), [(False, "lower", 2.0), (True, "higher", 6.0)])
def test_what_is_better_is_the_tasks(higher: bool, word: str, good: float, tmp_path: Path) -> None:
    """On either side of the baseline, 4: one run has learnt, the other has not."""
    make_run(tmp_path, "twn", "layer", higher_is_better=higher, metrics={"valid_bpc": good})
    make_run(tmp_path, "bwn", "layer", higher_is_better=higher, metrics={"valid_bpc": 8 - good})
    records, _ = collect([tmp_path])
    fates = summary_frame(records).set_index("quantizer")["status"]
    assert (fates["twn"], fates["bwn"]) == ("completed", "learnt nothing")
    output = io.StringIO()
    print_table(records, output)
    assert f"; {word} is better" in output.getvalue()
    write_html(records, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert f", {word} is better" in page
    assert page.count('<tr class="bad">') == 1


@pytest.mark.parametrize(
    ("mean", "spread", "text"),
    [
        (1.23456, math.nan, "1.235"), (1.23456, 0.0123, "1.235 ±0.012"), (19.9996, math.nan, "20.000"),
        (123.456, 7.89, "123.5 ±7.9"), (-123.456, math.nan, "-123.5"), (1.5e9, math.nan, "1.5e+09"),
        (math.nan, math.nan, "–"),
    ],
)  # fmt: skip
def test_figures_have_the_digits_that_they_carry(mean: float, spread: float, text: str) -> None:
    assert format_figure(mean, spread) == text


OTHERS = {
    "data": "other", "quantizer": "bwn", "normalizer": "layer", "cell": "gru", "hidden": 3, "layers": 2,
    "dropout": 0.5, "steps": 5, "batch": 4, "unroll": 4, "optimizer": "sgd", "lr": 0.2, "quantized_lr": 2.0,
    "stall_divisor": 2.0, "epoch_decay": 0.5, "epoch_decay_after": 1, "patience": 2, "average": 0.9,
    "clip": 4.0, "clipping": "apart", "seed": 1, "processes": 2, "device": "cpu", "precision": "64-true",
    "eval_every": 7, "eval_symbols": 8, "gradients_every": 3, "log": ["tensorboard"], "log_every": 5,
    "checkpoint_seconds": 1.0, "task": "word-lm", "proj": 2, "rank": 2, "groups": 2, "epochs": 3,
    "state_quantizer": "bwn", "embedding_quantizer": "bwn", "head_quantizer": "bwn",
    "decay_of": "quantized", "tested": "best", "average_of": "recurrent",
    "start": "identity", "data_start": True, "gain_lr": 2.0, "initial_state": "learned",
    "initial_state_noise": 0.1, "input_quantizer": "none",
    "rounding": "stochastic", "rounding_levels": 3, "rounding_delta": 0.5, "products": "packed16",
}  # fmt: skip
"""Another value of every setting."""
NEEDED = {
    "proj": {}, "rank": {"cell": "f-lstm"}, "groups": {"cell": "g-lstm"}, "epochs": {"steps": None},
    "initial_state_noise": {"initial_state": "learned"}, "rounding_levels": {"rounding": "stochastic"},
    "rounding_delta": {"rounding": "stochastic"},
}  # fmt: skip
NAMES = {"data", "log", "log_every", "checkpoint_seconds"}
"""Settings that do not decide what a run computes."""


@pytest.mark.parametrize("name", sorted(RunConfig.model_fields))
def test_every_setting_that_decides_gives_a_run_a_folder_of_its_own(name: str) -> None:
    base = {"data": "x", "hidden": 2, "batch": 2, "unroll": 3, "lr": 0.1, "clip": 5.0, "steps": 20}
    needed = {**base, **NEEDED.get(name, {})}
    if name != "epochs":
        base = needed
    one, other = RunConfig.build(base), RunConfig.build({**needed, name: OTHERS[name]})
    assert getattr(one, name) != getattr(other, name)
    assert (Run.of(Path(), one, "ab") == Run.of(Path(), other, "ab")) is False
    same = Run.of(Path(), one, "ab").directory == Run.of(Path(), other, "ab").directory
    assert same is (name in NAMES)


def test_every_setting_that_decides_makes_a_line_of_its_own(tmp_path: Path) -> None:
    names = (
        "layers", "lr", "clipping", "average", "average_of", "tested", "decay_of", "state_quantizer",
        "dropout", "precision", "hidden", "eval_symbols", "optimizer", "rounding",
    )  # fmt: skip
    make_run(tmp_path, "twn", "layer")
    for name in names:
        make_run(tmp_path, "twn", "layer", config={name: OTHERS[name]})
    frame = summary_frame(collect([tmp_path])[0])
    assert list(frame["runs"]) == [1] * (len(names) + 1)
    assert set(names) < set(frame.columns)
