"""Texts as tokens and back."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qlstm_core import Vocabulary


@given(st.sets(st.characters(), min_size=1, max_size=20), st.data())
def test_characters_come_back(symbols, data):
    vocabulary = Vocabulary(sorted(symbols))
    text = data.draw(st.text(st.sampled_from(sorted(symbols)), max_size=30))
    tokens = vocabulary.encode(text)
    assert tokens.dtype == torch.int64
    assert [sorted(symbols)[token] for token in tokens] == list(text)
    assert vocabulary.decode(tokens) == text
    assert len(vocabulary) == len(symbols)


def test_any_white_space_separates_words_and_one_space_joins_them():
    words = Vocabulary(["the", "gate", "<eos>"], separator=" ")
    assert words.encode(" the\tgate\n<eos> the").tolist() == [0, 1, 2, 0]
    assert words.decode([1, 2]) == "gate <eos>"
    assert words == Vocabulary(("the", "gate", "<eos>"), " ")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Vocabulary([]), "at least one"),
        (lambda: Vocabulary("aba"), "'a' is there twice"),
        (lambda: Vocabulary(["a", "bc"]), "with separator '' symbols are single characters, got 'bc'"),
        (lambda: Vocabulary(["a", "b c"], " "), "with separator ' ' symbols are words .*, got 'b c'"),
        (lambda: Vocabulary(["a", ""], " "), "got ''"),
        (lambda: Vocabulary("ab", "-"), "separator must be '' for characters or ' ' for words, got '-'"),
        (lambda: Vocabulary("ab").encode("abc"), "'c' is not one of the 2 characters of the model: 'ab'"),
        (
            lambda: Vocabulary(["gate", "cell"], " ").encode("the gates"),
            "'the' is not one of the 2 words",
        ),
        (
            lambda: Vocabulary(["gate", "cell"], " ").encode("cell gates"),
            r"'gates' is not one of the 2 words of the model \(did you mean 'gate'\?\): 'gate cell'",
        ),
        (lambda: Vocabulary("ab").decode([0, 2]), r"tokens must lie in \[0, 2\), got 2"),
        (lambda: Vocabulary("ab").decode(torch.tensor([-1])), r"\[0, 2\), got -1"),
    ],
)
def test_what_does_not_fit_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_symbols_are_texts():
    with pytest.raises(TypeError, match="symbols must be texts, got int: 3"):
        Vocabulary(["a", 3])
