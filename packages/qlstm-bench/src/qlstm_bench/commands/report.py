"""``qlstm-bench report``: compare finished runs."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

HELP = """Compare finished runs: tables, training curves, accuracy against size, gradients through time.

Runs that differ in nothing but the seed make one line, with mean and spread; the papers' published figures
stand beside ours where they are known. html writes one file that needs nothing else; md, csv and latex print
the tables alone, or write them to --out. Damaged and unfinished runs are named and left out.

\b
Examples:
  qlstm-bench report runs
  qlstm-bench report runs/char-lm-none-none-* runs/char-lm-bwn-layer-* --out comparison.html
  qlstm-bench report runs --format csv --out table.csv
  qlstm-bench report runs --format latex
"""


class Format(StrEnum):
    """What a report can be."""

    HTML = "html"
    MARKDOWN = "md"
    CSV = "csv"
    LATEX = "latex"


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUNS...", help="Run folders, or folders of them.")],
    format_: Annotated[Format, typer.Option("--format", help="Of the report.")] = Format.HTML,
    out: Annotated[
        Path | None, typer.Option(help="File to write; default: report.html, else the terminal.")
    ] = None,
) -> None:
    """Compare finished runs."""
    from qlstm_bench.errors import RunError
    from qlstm_bench.report import collect, print_table, to_csv, to_latex, to_markdown, write_html
    from qlstm_bench.tables import shorten
    from qlstm_core.files import replace_file

    records, problems = collect(runs)
    for problem in problems:
        print(f"qlstm-bench: skipped: {shorten(problem, 400)}", file=sys.stderr)
    if not records:
        raise RunError(f"no finished run in {', '.join(map(str, runs))}: expected folders with a result.json")
    texts = {Format.MARKDOWN: to_markdown, Format.CSV: to_csv, Format.LATEX: to_latex}
    if format_ in texts and out is None:
        print(texts[format_](records), end="")
        return
    out = out or Path("report.html")
    try:
        if format_ in texts:
            replace_file(out, texts[format_](records))
        else:
            print_table(records)
            write_html(records, out)
    except OSError as error:
        raise RunError(f"--out {str(out)!r} cannot be written: {error.strerror or error}") from error
    print(f"\nreport: {out}")
