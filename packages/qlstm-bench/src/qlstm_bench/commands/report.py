"""``qlstm-bench report``: compare finished runs."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

HELP = """Compare finished runs: tables, training curves, accuracy against size, gradients through time.

Runs that differ in nothing but the seed make one line, with mean and spread. Where papers published figures
for the same, a second table has ours, theirs, the difference and the epochs of both; a third one says which
of the papers' claims these runs show to hold or not to hold, or do not decide. html writes one file that
needs nothing else; md, csv and latex print the tables alone, or write them to --out. Damaged and unfinished
runs are named and left out.

\b
Examples:
  qlstm-bench report runs
  qlstm-bench report runs/char-lm-none-none-* runs/char-lm-bwn-layer-* --out comparison.html
  qlstm-bench report runs --out table.csv
  qlstm-bench report runs --format latex
  qlstm-bench report runs --format md --table claims
"""


class Format(StrEnum):
    """What a report can be."""

    HTML = "html"
    MARKDOWN = "md"
    CSV = "csv"
    LATEX = "latex"


class Table(StrEnum):
    """The tables of a report."""

    LINES = "lines"
    PUBLISHED = "published"
    CLAIMS = "claims"


_ENDINGS = {
    ".html": Format.HTML,
    ".htm": Format.HTML,
    ".md": Format.MARKDOWN,
    ".csv": Format.CSV,
    ".tex": Format.LATEX,
}


def _format_of(out: Path | None) -> Format:
    """Return the format that a file's name says.

    Raises:
        RunError: a name that says none.
    """
    from qlstm_bench.errors import RunError

    if out is None:
        return Format.HTML
    if (found := _ENDINGS.get(out.suffix.lower())) is None:
        raise RunError(
            f"--out {str(out)!r} ends in none of {', '.join(_ENDINGS)}: say which --format it shall have"
        )
    return found


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUNS...", help="Run folders, or folders of them.")],
    format_: Annotated[
        Format | None,
        typer.Option(
            "--format", help="Of the report; default: what --out ends in, else html.", show_default=False
        ),
    ] = None,
    table: Annotated[
        Table | None,
        typer.Option(
            help="Of md, csv and latex, one table only; default: all, and for csv the lines of runs."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="File to write; default: report.html, else the terminal.")
    ] = None,
) -> None:
    """Compare finished runs."""
    from qlstm_bench.errors import RunError
    from qlstm_bench.report import (
        collect,
        print_claims,
        print_table,
        to_csv,
        to_latex,
        to_markdown,
        write_html,
    )
    from qlstm_bench.tables import shorten
    from qlstm_core.files import replace_file

    if format_ is None:
        format_ = _format_of(out)
    if table is not None and format_ is Format.HTML:
        raise RunError(f"--table {table.value} is for --format md, csv or latex: a page has all tables")
    records, problems = collect(runs)
    for problem in problems:
        print(f"qlstm-bench: skipped: {shorten(problem, 400)}", file=sys.stderr)
    if not records:
        raise RunError(f"no finished run in {', '.join(map(str, runs))}: expected folders with a result.json")
    texts = {Format.MARKDOWN: to_markdown, Format.CSV: to_csv, Format.LATEX: to_latex}
    only = None if table is None else table.value
    if format_ in texts and only is not None and not texts[format_](records, only).strip():
        raise RunError(f"--table {only}: these runs have no such rows")
    if format_ in texts and out is None:
        print(texts[format_](records, only), end="")
        return
    out = out or Path("report.html")
    try:
        if format_ in texts:
            replace_file(out, texts[format_](records, only))
        else:
            print_table(records)
            print_claims(records)
            write_html(records, out)
    except OSError as error:
        raise RunError(f"--out {str(out)!r} cannot be written: {error.strerror or error}") from error
    print(f"\nreport: {out}")
