"""Tables as they are written: on a terminal, as CSV, in Markdown and in LaTeX.

Cells may come from names and files of others: what a terminal, a spreadsheet, Markdown or LaTeX would take
for an instruction is written so that it stays text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from qlstm_core.printable import printable

if TYPE_CHECKING:
    import pandas as pd

_CELL = 400
"""Characters of a cell in Markdown and LaTeX, at most: a sentence or two."""

_FORMULAS = tuple("=+-@＝＋－＠")

_MARKDOWN = {character: f"\\{character}" for character in "\\`*_[]<|~"}

_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "|": r"\textbar{}",
    "±": r"$\pm$", "–": "--", ">": "$>$", "<": "$<$", "λ": r"$\lambda$",
}  # fmt: skip


def aligned(
    headings: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[str] = (), *, group: bool = False
) -> str:
    """Return a table as plain text: columns in line, in as little width as they need.

    Args:
        headings: headings of the columns.
        rows: cells of the columns.
        left: headings of the columns that are aligned to the left.
        group: whether to put an empty line where the first column changes.
    """
    lines = [list(headings), *([shorten(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    written = []
    before = lines[0][0]
    for line in lines:
        if group and line[0] != before:
            written.append("")
        before = line[0]
        cells = [
            cell.ljust(width) if heading in left else cell.rjust(width)
            for cell, width, heading in zip(line, widths, headings, strict=True)
        ]
        written.append("  ".join(cells).rstrip())
    return "\n".join(written)


def shorten(text: str, room: int = 200) -> str:
    """Return a text on one line, its middle left out where it is long."""
    if len(text) > room:
        text = f"{text[: room // 2]} … {text[-room // 4 :]}"
    return printable(text)


def cells(frame: pd.DataFrame, number: Callable[[float], str]) -> list[list[str]]:
    """Return the cells of a table as text; a dash for NaN.

    Args:
        frame: the table.
        number: function that writes a float.
    """
    return [[_cell(value, number) for value in row] for row in frame.itertuples(index=False)]


def _cell(value: Any, number: Callable[[float], str]) -> str:
    if not isinstance(value, float):
        return str(value)
    return "–" if math.isnan(value) else number(value)


def text_columns(frame: pd.DataFrame) -> list[str]:
    """Return the names of the columns that do not hold numbers."""
    return [name for name in frame.columns if frame[name].dtype.kind not in "biuf"]


def to_csv(frame: pd.DataFrame, float_format: str | None = None) -> str:
    """Return a table as CSV; a text that a spreadsheet would compute is marked as text.

    Args:
        frame: the table.
        float_format: format of the numbers, as in ``"%.6g"``; by default they are written in full.
    """
    text: str = frame.map(_spreadsheet_cell).to_csv(
        index=False, lineterminator="\n", float_format=float_format
    )
    return text


def _spreadsheet_cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.lstrip().startswith(_FORMULAS) else text


def to_markdown(headings: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[str] = ()) -> str:
    """Return a table in Markdown; arguments as for :func:`aligned`."""
    rules = ["---" if name in left else "--:" for name in headings]
    lines = [[in_markdown(cell) for cell in row] for row in (headings, *rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], rules, *lines[1:]))


def to_latex(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    left: Sequence[str] = (),
    sentences: Sequence[str] = (),
) -> str:
    """Return a ``tabular`` with rules of plain LaTeX.

    Args:
        headings: headings of the columns.
        rows: cells of the columns.
        left: headings of the columns that are aligned to the left.
        sentences: headings of the columns whose cells may take several lines.
    """
    columns = "".join(
        r"p{.22\textwidth}" if name in sentences else "l" if name in left else "r" for name in headings
    )
    head, *body = [" & ".join(in_latex(cell) for cell in row) + r" \\" for row in (headings, *rows)]
    rule = r"\hline"
    lines = [rf"\begin{{tabular}}{{{columns}}}", rule, head, rule, *body, rule, r"\end{tabular}"]
    return "\n".join(lines)


def in_markdown(text: str) -> str:
    """Return a text on one line that Markdown shows as it is."""
    return "".join(_MARKDOWN.get(character, character) for character in shorten(text, _CELL))


def in_latex(text: str) -> str:
    """Return a text on one line that LaTeX shows as it is."""
    return "".join(_LATEX.get(character, character) for character in shorten(text, _CELL))
