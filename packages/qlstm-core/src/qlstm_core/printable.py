"""Text that others wrote, as it may stand on a terminal, in a log or in one line of an error."""

from __future__ import annotations

import re

# C0 and C1 controls with DEL, which make up a terminal's escapes; marks, embeddings, overrides and isolates
# of the writing direction, with which text reads otherwise than it is; both separators of lines; lone
# surrogates, which no encoding can print.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Return ``text`` on one line, what steers a terminal written as Python's escapes: ``\x1b``, ``\n``.

    All other characters stay as they are, those of any script included.
    """
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)
