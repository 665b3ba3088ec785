"""One self-contained HTML file: no script, nothing loaded from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup

from qlstm_bench.gradients.recording import recordings
from qlstm_bench.report.collect import Record
from qlstm_bench.report.figures import draw_curves, draw_gradient_norms, draw_panels
from qlstm_bench.report.table import format_frame, results_frame
from qlstm_bench.runs import replace_file


def write_html(records: Sequence[Record], path: Path) -> None:
    """Write the report of runs that have ended, in the order given.

    Args:
        records: from :func:`qlstm_bench.report.collect`; at least one.
        path: of the file; its folder must exist.
    """
    environment = Environment(
        loader=PackageLoader("qlstm_bench.report", "."),
        autoescape=select_autoescape(),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    sections = [_section(list(group)) for _, group in groupby(records, key=lambda record: record.section)]
    page = environment.get_template("template.html").render(sections=sections)
    replace_file(path, page.encode())


def _section(records: list[Record]) -> dict[str, Any]:
    """Return what the template shows of one task on one dataset."""
    shown = format_frame(results_frame(records))
    first = records[0]
    return {
        "title": f"{first.result.task} on {first.result.dataset.name}",
        "metric": first.result.metric_title,
        "headings": list(shown.columns),
        "rows": [
            {"cells": cells, "run": record.run.name, "good": record.result.learnt}
            for cells, record in zip(shown.to_numpy().tolist(), records, strict=True)
        ],
        "curves": _inline(draw_panels(records, draw_curves).values()),
        "norms": _inline(draw_panels(records, draw_gradient_norms).values()),
        "recorded": _recorded(records),
        "facts": _facts(records),
    }


def _recorded(records: list[Record]) -> list[tuple[str, Markup]]:
    """Return captions and figures of what the runs recorded of their gradients during training."""
    from qlstm_bench.gradients.figures import recorded_figures  # whose look is this package's

    names = ((record.result.quantizer, record.result.normalizer, record.run.directory) for record in records)
    found = recorded_figures((q, n, recordings(directory)) for q, n, directory in names)
    return [(caption, Markup(drawing)) for caption, drawing in found]


def _inline(drawings: Iterable[str]) -> list[Markup]:
    return [Markup(drawing) for drawing in drawings]


def _facts(records: list[Record]) -> dict[str, str]:
    """Return the settings and circumstances that the runs share, and how many differ where they do not."""
    configs = [record.run.config for record in records]
    values: dict[str, list[str]] = {
        name: [str(getattr(config, name)) for config in configs]
        for name in (
            "hidden",
            "layers",
            "batch",
            "unroll",
            "lr",
            "clip",
            "steps",
            "epochs",
            "seed",
            "precision",
        )
    }
    for name in ("device", "git_commit"):
        values[name] = [str(getattr(record.result, name)) for record in records]
    values["dataset SHA-256"] = [record.result.dataset.sha256 for record in records]
    for package in sorted({package for record in records for package in record.result.versions}):
        values[package] = [str(record.result.versions.get(package)) for record in records]
    distinct = {name: sorted(set(found)) for name, found in values.items()}
    return {name: ", ".join(found) for name, found in distinct.items() if found != ["None"]}
