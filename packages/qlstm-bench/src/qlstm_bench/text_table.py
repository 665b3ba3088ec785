"""A table as plain text: columns in line, in as little width as they need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qlstm_core.printable import printable

_FORMULAS = tuple("=+-@＝＋－＠")


def aligned(
    headings: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[str] = (), *, group: bool = False
) -> str:
    """Return the lines of a table; what steers a terminal is shown as escapes.

    Args:
        headings: of the columns.
        rows: their cells.
        left: headings of the columns that are aligned to the left.
        group: put an empty line where the first column changes.
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


def spreadsheet_cell(value: Any) -> Any:
    """Return a value for a CSV file: a text that a spreadsheet would compute is marked as text."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.lstrip().startswith(_FORMULAS) else text
