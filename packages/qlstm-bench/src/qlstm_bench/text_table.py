"""A table as plain text: columns in line, in as little width as they need."""

from __future__ import annotations

from collections.abc import Sequence


def aligned(
    headings: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[str] = (), *, group: bool = False
) -> str:
    """Return the lines of a table.

    Args:
        headings: of the columns.
        rows: their cells.
        left: headings of the columns that are aligned to the left.
        group: put an empty line where the first column changes.
    """
    lines = [list(headings), *(list(row) for row in rows)]
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
