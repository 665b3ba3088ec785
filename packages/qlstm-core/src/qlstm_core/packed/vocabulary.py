"""What the tokens of a language model stand for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from qlstm_core.plugins.errors import suggest

_SHOWN = 100


@dataclass(frozen=True, init=False)
class Vocabulary:
    """The symbols of a language model: token ``k`` stands for ``symbols[k]``.

    Example::

        words = Vocabulary(["the", "gate", "opens"], separator=" ")
        words.encode("the gate")         # tensor([0, 1])
        words.decode([1, 2])             # 'gate opens'

    Args:
        symbols: each once; where nothing separates them, single characters.
        separator: what stands between two symbols of a text: ``""`` for characters, ``" "`` for words, which
            any white space separates in a text that is read.

    Raises:
        ValueError: no symbols, one that is there twice, or one that a text could not be read by.
        TypeError: symbols that are no texts.
    """

    symbols: tuple[str, ...]
    separator: str
    _codes: dict[str, int] = field(repr=False, compare=False)

    def __init__(self, symbols: Iterable[str], separator: str = "") -> None:
        given = tuple(symbols)
        if not all(isinstance(symbol, str) for symbol in given):
            strange = next(symbol for symbol in given if not isinstance(symbol, str))
            raise TypeError(f"symbols must be texts, got {type(strange).__name__}: {strange!r}")
        if separator not in ("", " "):
            raise ValueError(f"separator must be '' for characters or ' ' for words, got {separator!r}")
        codes = {symbol: code for code, symbol in enumerate(given)}
        if not given or len(codes) < len(given):
            twice = next((s for code, s in enumerate(given) if codes[s] != code), None)
            raise ValueError(
                "symbols must be at least one" if twice is None else f"symbol {twice!r} is there twice"
            )
        wrong = next((s for s in given if (s.split() != [s] if separator else len(s) != 1)), None)
        if wrong is not None:
            kind = "words without white space" if separator else "single characters"
            raise ValueError(f"with separator {separator!r} symbols are {kind}, got {wrong!r}")
        object.__setattr__(self, "symbols", given)
        object.__setattr__(self, "separator", separator)
        object.__setattr__(self, "_codes", codes)

    def __len__(self) -> int:
        """Return the number of symbols."""
        return len(self.symbols)

    def encode(self, text: str) -> Tensor:
        """Return the tokens of a text, ``(tokens,)`` int64.

        Raises:
            ValueError: a symbol that is not in the vocabulary, with the nearest.
        """
        found = text.split() if self.separator else list(text)
        unknown = next((symbol for symbol in found if symbol not in self._codes), None)
        if unknown is not None:
            kind = "words" if self.separator else "characters"
            known = "" if len(self) > _SHOWN else f": {self.separator.join(self.symbols)!r}"
            near = suggest(unknown, self.symbols) if self.separator else ""
            raise ValueError(f"{unknown!r} is not one of the {len(self):,} {kind} of the model{near}{known}")
        return torch.tensor([self._codes[symbol] for symbol in found], dtype=torch.int64)

    def decode(self, tokens: Iterable[int] | Tensor) -> str:
        """Return the text of tokens ``(tokens,)``.

        Raises:
            ValueError: a token that stands for nothing.
        """
        codes = [int(token) for token in tokens]
        strange = next((code for code in codes if not 0 <= code < len(self)), None)
        if strange is not None:
            raise ValueError(f"tokens must lie in [0, {len(self)}), got {strange}")
        return self.separator.join(self.symbols[code] for code in codes)
