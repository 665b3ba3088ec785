"""The tables of the site that are made from results/ when it is built: claims, published figures, quantizers.

    python docs/site/measured.py          prints them as Markdown

A table in results/ is the summary of a preset's sweep at its small scale. With the settings from that preset
its rows become records again, and verdicts are those of ``qlstm-bench report --table claims``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from qlstm_bench import Claim, Record, Result, Run, RunConfig, Verdict, decide_claims, read_plan
from qlstm_bench.papers.checks import as_published, settings_fit
from qlstm_bench.papers.claims import own_claims
from qlstm_bench.report.published import format_figure, format_published
from qlstm_bench.report.summary import Line, lines
from qlstm_bench.sweep.presets import load, preset_names
from qlstm_bench.sweep.sweep_file import read_file
from qlstm_bench.tables import in_markdown
from qlstm_bench.training.result import format_growth

RESULTS = Path(__file__).parents[2] / "results"


@cache
def configs(preset: str, scale: str = "small") -> tuple[RunConfig, ...]:
    """Return the settings of a preset's runs."""
    return read_plan(load(preset), scale).configs


@cache
def tables() -> dict[str, list[Record]]:
    """Return the runs of the tables in results/ that presets have made, by the presets' names."""
    return {name: list(records(name)) for name in preset_names() if (RESULTS / f"{name}-small.csv").exists()}


@cache
def table_lines(preset: str) -> list[Line]:
    """Return the lines of a table in results/."""
    return lines(tables()[preset])


def records(preset: str) -> Iterator[Record]:
    """Yield the rows of a table in results/ as records, with the settings that the preset gives them.

    The tables do not hold what a task comes to without looking at its input. A run that has learnt nothing is
    no better than that, so the best of these runs stands for it.
    """
    settings = {_key(config.model_dump()): config for config in configs(preset)}
    frame = pd.read_csv(RESULTS / f"{preset}-small.csv")
    assert set(frame["status"]) <= {"completed", "learnt nothing"}, "nothing else needs more than the table"
    higher = frame["metric"][0] == "accuracy"
    baseline = frame["valid_mean"][frame["status"] == "learnt nothing"].agg("max" if higher else "min")
    if math.isnan(baseline):
        baseline = -math.inf if higher else math.inf
    for row in frame.to_dict("records"):
        config = settings[_key(row)]
        metric, size = row["metric"], round(row["size_kb"] * 1024)
        figures = {
            f"valid_{metric}": row["valid_mean"],
            f"test_{metric}": row["test_mean"],
            f"baseline_{metric}": baseline,
            "gradient_growth": row["gradient_growth"],
        }
        result = Result.model_validate(
            {
                **{name: getattr(config, name) for name in ("task", "quantizer", "normalizer", "seed")},
                "status": "completed", "metric": metric, "metric_title": metric, "higher_is_better": higher,
                "metrics": figures, "steps": row["steps"], "wall_s": row["seconds"],
                "storage_bytes": size, "float32_bytes": round(size * row["ratio"]),
                "model_bytes": size, "model_float32_bytes": size,
                "dataset": {"name": row["dataset"], "sha256": ""},
                "device": "cpu", "versions": {}, "git_commit": None,
            }
        )  # fmt: skip
        assert result.fate == row["status"], f"{preset}: {config.quantizer} with {config.normalizer}"
        yield Record(Run.of(RESULTS, config, row["dataset"]), result, [])


def _key(settings: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what tells the runs of a preset apart."""
    cell, layers = settings.get("cell", "lstm"), int(settings.get("layers", 1))
    return settings["quantizer"], settings["normalizer"], cell, layers


def claims() -> str:
    """Return every claim of the papers with what results/ says of it, as Markdown."""
    decided = [(preset, verdict) for preset, runs in tables().items() for verdict in decide_claims(runs)]
    written: list[str] = []
    before = ""
    for claim in own_claims():
        paper, _, place = claim.source.partition(", ")
        if paper != before:
            written += [f"### {paper}", ""]
            before = paper
        written += [f"#### {claim.statement}", "", f"{place[0].upper()}{place[1:]}; `{claim.name}`.", ""]
        rows = [
            _cells(preset, one) for preset, one in decided if one.claim.name == claim.name and one.decisions
        ]
        if rows:
            headings = ("verdict", "compared", "ours", "published", "why", "run")
            written += [*_markdown(headings, rows), ""]
        else:
            written += [_undecided(claim), ""]
    return "\n".join(written)


def _cells(preset: str, verdict: Verdict) -> list[str]:
    run = f"{_link(preset)}: {verdict.scale}"
    decisive = verdict.decisive
    assert decisive is not None, "there are comparisons"
    names = decisive.first, decisive.second
    pair = [_line(preset, verdict, name) for name in names]
    compared = " and ".join(in_markdown(name) for name in names)
    ours = ", ".join(_ours(line, verdict.claim.figure) for line in pair)
    theirs = ", ".join(_theirs(line, verdict.claim.figure) for line in pair)
    return [verdict.outcome, compared, ours, theirs, in_markdown(verdict.reason), run]


def _line(preset: str, verdict: Verdict, name: str) -> Line:
    """Return the line of a verdict's runs that it calls by this name."""
    found = [
        line
        for line in table_lines(preset)
        if verdict.claim.covers(line.config)
        and f"{as_published(line.config.quantizer)}/{as_published(line.config.normalizer)}" == name
    ]
    several = [line for line in found if f"layers={line.config.layers}" in verdict.scale]
    (one,) = several if len(found) > 1 else found
    return one


def _test(line: Line) -> str:
    mean = line.mean("test")
    return f"{mean:.1f}" if line.records[0].result.metric == "accuracy" else format_figure(mean)


def _ours(line: Line, figure: str) -> str:
    result = line.records[0].result
    if figure == "gradient_growth":
        return format_growth(result.metrics[figure])
    return f"{result.storage_bytes / 1024:.0f} KB" if figure == "size" else _test(line)


def _theirs(line: Line, figure: str) -> str:
    paper = next(iter(line.published), None)
    if paper is None or figure not in ("test", "size"):
        return "–"
    if figure == "test":
        return format_published(paper.figure)
    return "–" if paper.size_kb is None else f"{paper.size_kb:.0f} KB"


def _undecided(claim: Claim) -> str:
    """Say which sweep would decide a claim of which results/ has nothing."""
    for name in preset_names():
        for scale in read_file(load(name)).scales:
            if _trains(claim, configs(name, scale)):
                return f"No table in results/ decides it; `qlstm-bench sweep {name} --scale {scale}` would."
    return "No table in results/ decides it, and no preset trains both of its sides."


def _trains(claim: Claim, configs: Iterable[RunConfig]) -> bool:
    """Return whether runs include both sides of one of a claim's comparisons."""
    own = [one for one in configs if claim.covers(one) and one.task.partition(":")[0] in claim.margins]
    pairs = [pair for comparison in claim.compare for pair in comparison.pairs()]
    return any(all(any(settings_fit(side, one) for one in own) for side in pair) for pair in pairs)


def published() -> str:
    """Return our figures in test beside those that papers publish, as Markdown, a table for each preset."""
    written: list[str] = []
    for preset, runs in tables().items():
        rows = [(line, paper) for line in table_lines(preset) for paper in line.published[:1]]
        if not rows:
            continue
        written += [f"### {read_plan(load(preset), 'small').title}", ""]
        written += [f"{_link(preset)}, made by `qlstm-bench sweep {preset}`: {_scale(runs)}, one seed.", ""]
        several = len({line.config.layers for line, _ in rows}) > 1
        headings = ("quantizer", "normaliser", "ours", "published", "KB", "published KB", "published for")
        cells = [
            [
                in_markdown(line.config.quantizer),
                in_markdown(line.config.normalizer) + (f", {line.config.layers} layers" if several else ""),
                _test(line),
                format_published(paper.figure),
                f"{line.records[0].result.storage_bytes / 1024:.0f}",
                "–" if paper.size_kb is None else f"{paper.size_kb:.0f}",
                f"{paper.hidden} units" + (f", {paper.epochs:g} epochs" if paper.epochs else ""),
            ]
            for line, paper in rows
        ]
        written += [*_markdown(headings, cells), ""]
    return "\n".join(written)


_FIGURES = {
    "hou2019-char-ptb": "characters, bits",
    "hou2019-word-ptb": "words, perplexity",
    "hou2019-mnist": "MNIST, %",
    "digits": "digits, %",
}
"""The presets that the table of quantizers shows, and what their figures are."""


def quantizers() -> str:
    """Return what each quantizer reached without and with layer normalisation, and its size, as Markdown."""
    first = [line for line in table_lines("hou2019-char-ptb") if line.config.normalizer == "none"]
    rows = [
        [
            in_markdown(line.config.quantizer),
            str(line.bits),
            _ours(line, "size").removesuffix(" KB"),
            _ours(line, "gradient_growth"),
            *(_without_and_with(preset, line.config.quantizer) for preset in _FIGURES),
        ]
        for line in first
    ]
    headings = ("quantizer", "bits", "KB", "growth", *_FIGURES.values())
    sources = "; ".join(f"{_link(preset)}: {_scale(tables()[preset])}" for preset in _FIGURES)
    return "\n".join([*_markdown(headings, rows), "", f"From {sources}."])


_NETWORKS = {"ONNX Runtime int8", "bwn, 12-bit tables", "twn, 12-bit tables"}


def speed() -> str:
    """Return how long a step of packed networks takes, beside torch and ONNX Runtime, as Markdown."""
    frame = pd.read_csv(RESULTS / "packed-inference.csv")
    headings = ("network", *(name.removesuffix(", one call") for name in frame["scenario"].unique()))
    rows = [
        [
            in_markdown(str(network)),
            *(
                f"{us:.3g} ({ratio:.3g})" if us < 100 else f"{us:,.0f} ({ratio:.3g})"
                for us, ratio in zip(own["us/step"], own["x torch.nn.LSTM"], strict=True)
            ),
        ]
        for network, own in frame.groupby("network", sort=False)
        if network in _NETWORKS
    ]
    return "\n".join(_markdown(headings, rows))


def _without_and_with(preset: str, quantizer: str) -> str:
    """Return the figures in test without normalisation and with layer normalisation."""
    found = {
        line.config.normalizer: _test(line)
        for line in table_lines(preset)
        if line.config.quantizer == quantizer
    }
    return f"{found['none']} → {found['layer']}" if found else "–"


def _link(preset: str) -> str:
    """Return a link to a table from a page in docs/."""
    return f"[{preset}-small.csv](../results/{preset}-small.csv)"


def _scale(runs: Sequence[Record]) -> str:
    return f"{runs[0].run.config.hidden} units, {runs[0].run.config.steps} steps"


def _markdown(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table whose cells are Markdown already."""
    rules = ["---"] * len(headings)
    return [f"| {' | '.join(line)} |" for line in (headings, rules, *rows)]


TABLES = {"claims": claims, "published": published, "quantizers": quantizers, "speed": speed}
"""What ``<!-- site: NAME -->`` stands for in a page."""

if __name__ == "__main__":
    print("\n\n".join(f"## {name}\n\n{table()}" for name, table in TABLES.items()))
