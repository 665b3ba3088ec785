"""``qlstm-bench report``: compare finished runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

HELP = """Compare finished runs: table, training curves and gradient norms through time, in one file.

\b
Examples:
  qlstm-bench report runs
  qlstm-bench report runs/char-lm-none-none-* runs/char-lm-bwn-layer-* --out comparison.html
"""


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUNS...", help="Run folders, or folders of them.")],
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("report.html"),
) -> None:
    """Compare finished runs."""
    from qlstm_bench.report import collect, print_table, write_html
    from qlstm_bench.runs import RunError

    records, problems = collect(runs)
    for problem in problems:
        print(f"qlstm-bench: skipped: {problem}", file=sys.stderr)
    if not records:
        raise RunError(f"no finished run in {', '.join(map(str, runs))}: expected folders with a result.json")
    print_table(records)
    try:
        write_html(records, out)
    except OSError as error:
        raise RunError(f"--out {str(out)!r} cannot be written: {error.strerror or error}") from error
    print(f"\nreport: {out}")
