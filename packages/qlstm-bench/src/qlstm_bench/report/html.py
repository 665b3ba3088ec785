"""One self-contained HTML file: nothing is loaded from elsewhere; a small script sorts its tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup

from qlstm_bench.config import RunConfig
from qlstm_bench.gradients.study.recording import recordings
from qlstm_bench.report.figures import draw_curves, draw_gradient_norms, draw_panels, draw_sizes
from qlstm_bench.report.published import format_figure, shown_published
from qlstm_bench.report.records import Record
from qlstm_bench.report.summary import differing, lines
from qlstm_bench.report.table import LEFT, section_title, sections, shown_frame
from qlstm_bench.report.verdicts import shown_claims
from qlstm_core.files import replace_file


def write_html(records: Sequence[Record], path: Path) -> None:
    """Write the report of runs that have ended, in the order given.

    Args:
        records: runs from :func:`qlstm_bench.report.collect`; at least one.
        path: path of the file; its folder must exist.
    """
    environment = Environment(
        loader=PackageLoader("qlstm_bench.report", "."),
        autoescape=select_autoescape(),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shown = [_section(section) for section in sections(records)]
    page = environment.get_template("template.html").render(sections=shown, left=LEFT)
    replace_file(path, page)


def _section(records: list[Record]) -> dict[str, Any]:
    """Return what the template shows of one task on one dataset."""
    table = shown_frame(records)
    found = lines(records)
    first = records[0].result
    papers = {paper.source for line in found for paper in line.published}
    return {
        "title": section_title(records),
        "metric": first.metric_title,
        "better": "higher" if first.higher_is_better else "lower",
        "headings": list(table.columns),
        "rows": [
            {"cells": cells, "good": line.learnt}
            for cells, line in zip(table.to_numpy().tolist(), found, strict=True)
        ],
        "papers": sorted(papers),
        "published": [
            (source, list(frame.columns), frame.to_numpy().tolist())
            for source, frame in shown_published(records).items()
        ],
        "claims": shown_claims(records).to_numpy().tolist(),
        "runs": [_run(record) for record in records],
        "sizes": Markup(draw_sizes(records)),
        "curves": _inline(draw_panels(records, draw_curves).values()),
        "norms": _inline(draw_panels(records, draw_gradient_norms).values()),
        "recorded": _recorded(records),
        "facts": _facts(records, differing(found)),
    }


def _run(record: Record) -> list[str]:
    """Return the cells of one run: name, seed, figures, steps, seconds, fate."""
    result = record.result
    figures = [format_figure(result.figure(kind)) for kind in ("valid", "test")]
    return [
        record.run.name,
        str(result.seed),
        *figures,
        str(result.steps),
        f"{result.wall_s:.0f}",
        result.fate,
    ]


def _recorded(records: list[Record]) -> list[tuple[str, Markup]]:
    """Return captions and figures of what the runs recorded of their gradients during training."""
    from qlstm_bench.gradients.study.figures import recorded_figures  # whose look is this package's

    names = ((record.result.quantizer, record.result.normalizer, record.run.directory) for record in records)
    found = recorded_figures((q, n, recordings(directory)) for q, n, directory in names)
    return [(caption, Markup(drawing)) for caption, drawing in found]


def _inline(drawings: Iterable[str]) -> list[Markup]:
    return [Markup(drawing) for drawing in drawings]


def _facts(records: list[Record], shown: Sequence[str]) -> dict[str, str]:
    """Return the settings and circumstances of the runs; several values where they differ.

    Args:
        records: the runs of one section.
        shown: settings that the table has a column for.
    """
    columns = {"task", "data", "quantizer", "normalizer", *shown}
    values: dict[str, list[str]] = {
        name: [str(getattr(record.run.config, name)) for record in records]
        for name in RunConfig.model_fields
        if name not in columns
    }
    for name in ("device", "git_commit"):
        values[name] = [str(getattr(record.result, name)) for record in records]
    values["dataset SHA-256"] = [record.result.dataset.sha256 for record in records]
    for package in sorted({package for record in records for package in record.result.versions}):
        values[package] = [str(record.result.versions.get(package)) for record in records]
    distinct = {name: sorted(set(found)) for name, found in values.items()}
    return {name: ", ".join(found) for name, found in distinct.items() if found != ["None"]}
