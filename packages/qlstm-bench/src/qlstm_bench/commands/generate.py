"""``qlstm-bench generate``: what a packed language model writes."""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from qlstm_core import PackedModel, Vocabulary

HELP = """Let a packed language model continue a text, on one core, as fast as it goes.

Each symbol is drawn from softmax(scores / temperature), among the --top-k of the highest scores where that is
given; --temperature 0 takes the highest. The same --seed writes the same text. Words of a prompt are
separated by spaces; words are those of the training text, <eos> and <unk> among them where it has them.

\b
Examples:
  qlstm-bench generate model.safetensors --prompt "def "
  qlstm-bench generate model.safetensors --prompt "def " -n 500 --temperature 0.7 --top-k 10 --seed 1
  qlstm-bench generate words.safetensors --prompt "the company said" -n 40 --temperature 0.8
"""


def generate(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="The file that `qlstm-bench pack` has written.")
    ],
    *,
    prompt: Annotated[str, typer.Option(help="The text to go on from.")],
    n: Annotated[int, typer.Option("-n", min=1, help="Number of symbols: characters or words.")] = 200,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest, 1 draws as predicted.")] = 1.0,
    top_k: Annotated[
        int | None,
        typer.Option(help="Draw among so many of the likeliest; default: all.", show_default=False),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of the draws; default: another one each time.", show_default=False)
    ] = None,
) -> None:
    """Continue a text."""
    from qlstm_bench.errors import BenchError

    packed, vocabulary = _read(model)
    try:
        tokens = vocabulary.encode(prompt)
    except ValueError as error:
        raise BenchError(f"--prompt: {error}") from error
    if not len(tokens):
        kind = "word" if vocabulary.separator else "character"
        raise BenchError(f"--prompt {prompt!r} has nothing to go on from: expected at least one {kind}")
    try:
        following = packed.sample(tokens, temperature, top_k, seed)
    except ValueError as error:
        raise BenchError(str(error)) from error
    _write(vocabulary.separator.join(_shown(vocabulary.symbols[token]) for token in tokens.tolist()))
    for token in islice(following, n):
        _write(vocabulary.separator + _shown(vocabulary.symbols[int(token)]))
    _write("\n")


def _read(path: Path) -> tuple[PackedModel, Vocabulary]:
    """Return a packed model and its vocabulary.

    Raises:
        BenchError: another file, or one that cannot be read.
    """
    from qlstm_bench.errors import BenchError
    from qlstm_core import PackedModel
    from qlstm_core.packed import PackedFileError

    advice = "`qlstm-bench pack RUN --out FILE` writes one"
    try:
        packed = PackedModel.load(path)
    except PackedFileError as error:
        raise BenchError(f"{error}; {advice}") from error
    except OSError as error:
        raise BenchError(f"{path}: {error.strerror or error}; {advice}") from error
    if packed.vocabulary is None:
        raise BenchError(f"{path}: holds no vocabulary, so its tokens stand for nothing: {advice} with one")
    return packed, packed.vocabulary


def _shown(symbol: str) -> str:
    """Return a symbol as it may stand on a terminal: lines end and tabs are tabs, what steers it is shown."""
    from qlstm_core.printable import printable

    return symbol if symbol in ("\n", "\t") else printable(symbol)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
