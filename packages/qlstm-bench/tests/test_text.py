"""Texts become small integers and back, and are split in their own order."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qlstm_bench.data import DATASETS, DataError, load_text
from qlstm_bench.data.stdlib import MAX_BYTES, load_stdlib
from qlstm_bench.data.text import Text, encode, split_text

texts = st.text(st.characters(codec="utf-8"), max_size=200)


@given(st.lists(texts, min_size=1, max_size=3))
def test_encoding_keeps_every_character(parts: list[str]) -> None:
    symbols, codes = encode(parts)
    assert symbols == "".join(sorted(set("".join(parts))))
    for part, code in zip(parts, codes, strict=True):
        assert "".join(symbols[c] for c in code) == part
        assert code.dtype == np.uint8  # no text of 200 characters has more than 256 symbols


def test_more_than_256_symbols_take_two_bytes() -> None:
    many = "".join(map(chr, range(0x4E00, 0x4E00 + 300)))
    symbols, (codes,) = encode([many])
    assert symbols == many
    assert codes.dtype == np.uint16
    assert codes.tolist() == list(range(300))


@given(st.text(st.characters(codec="utf-8"), min_size=10, max_size=300))
def test_split_is_80_10_10_in_order(text: str) -> None:
    parts = split_text("toy", text, "")
    assert "".join(parts.decode(parts.split(name)) for name in ("train", "valid", "test")) == text
    assert len(parts.train) == int(len(text) * 0.8 + 1e-9)
    assert abs(len(parts.valid) - len(parts.test)) <= 1


def test_a_file_of_the_user_is_split_and_hashed(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_bytes("\ufeffnaïve\r\ntext, 20 chars".encode())
    text = load_text(str(path))
    assert text.name == "mine.txt"
    assert text.decode(np.concatenate([text.train, text.valid, text.test])) == "naïve\r\ntext, 20 chars"
    assert text.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "0 characters cannot be split"),
        (b"short", "5 characters cannot be split"),
        (b"latin-1 \xe9 is not UTF-8 text", "byte 8 is 0xe9"),
    ],
)
def test_an_unusable_file_is_named(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=problem) as caught:
        load_text(str(path))
    assert "bad.txt" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(DataError, match=r"'ptb-chra'.*did you mean 'ptb-char'.*war-and-peace"):
        load_text("ptb-chra")
    with pytest.raises(DataError, match=r"'no/such.txt' does not exist"):
        load_text("no/such.txt")


def test_a_name_wins_over_a_file_of_the_same_name(tmp_path: Path) -> None:
    Path("stdlib-char").write_text("a text of the user's, under the name of a dataset")
    assert load_text("stdlib-char").name == "stdlib-char"
    assert load_text("./stdlib-char").sha256 != load_text("stdlib-char").sha256
    assert len(load_text("./stdlib-char").symbols) < 30


def test_stdlib_is_printable_python() -> None:
    text = load_stdlib()
    everything = text.decode(np.concatenate([text.train[:100_000], text.valid[:1000]]))
    assert set(everything) <= {"\n", *map(chr, range(0x20, 0x7F))}
    assert "\nimport " in everything
    assert "\ndef " in everything
    size = len(text.train) + len(text.valid) + len(text.test)
    assert 1_000_000 < size <= MAX_BYTES
    assert text.sha256 == load_stdlib().sha256


def test_stdlib_takes_whole_modules_in_order_and_drops_other_characters(tmp_path: Path) -> None:
    (tmp_path / "glob.py").write_bytes("# é\ttab\nx = 1\n".encode())
    (tmp_path / "ast.py").write_bytes(b"first\n")
    (tmp_path / "not_a_module_of_python.py").write_bytes(b"left out\n")
    text = load_stdlib(tmp_path)
    assert text.decode(np.concatenate([text.train, text.valid, text.test])) == "first\n# tab\nx = 1\n"


def test_stdlib_without_sources_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"no module sources .* use a Python that ships its sources, or --data"
    ):
        load_stdlib(tmp_path)


def test_penn_treebank_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published format: symbols at even positions, blanks between, ``_`` for the space, lines kept."""
    contents = iter([b"a b _ c \n a ", b"_ b ", b"c \n "])
    monkeypatch.setattr("qlstm_bench.data.catalogue.read_checked", lambda dataset, file: next(contents))
    dataset = DATASETS["ptb-char"]
    text: Text = dataset.load(dataset)
    assert text.symbols == "\n abc"
    assert [text.decode(text.split(name)) for name in ("train", "valid", "test")] == ["ab c\na", " b", "c\n"]
    assert text.sha256 == hashlib.sha256(b"a b _ c \n a _ b c \n ").hexdigest()
