"""Text of others on one's own terminal."""

from __future__ import annotations

import unicodedata

import pytest

from qlstm_core.printable import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;title\x07\x1b[2J", r"\x1b]0;title\x07\x1b[2J"),
        ("\x9b31mred", r"\x9b31mred"),
        ("one\r\ntwo\tthree\x7f\x00", r"one\r\ntwo\tthree\x7f\x00"),
        ("a\u2028b\u2029c\x85d", r"a\u2028b\u2029c\x85d"),
        ("ab\u202edc\u202c\u2067e\u2069\u200f\u061c", r"ab\u202edc\u202c\u2067e\u2069\u200f\u061c"),
        ("lone \udc80", r"lone \udc80"),
    ],
)
def test_what_steers_a_terminal_is_shown_and_not_done(text, shown):
    assert printable(text) == shown


@pytest.mark.parametrize(
    "text",
    ["", "bwn:bits=2", "naïve λ₁ ≤ 3·10⁻⁴", "Війна і мир", "战争与和平", "נֶפֶשׁ", "می‌خواهم", "👩‍🔬", r"a\nb"],
)
def test_ordinary_text_stays_as_it_is(text):
    assert printable(text) == text


def test_no_control_character_or_separator_of_lines_is_left():
    shown = printable("".join(map(chr, range(0x11000))))
    assert not [c for c in shown if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")]
    assert not [
        c for c in shown if unicodedata.bidirectional(c)[:2] in ("LR", "RL") or c in "\u2068\u2069\u202c"
    ]
    assert len(shown.splitlines()) == 1
    shown.encode()
