"""Texts become small integers and back, and are split in their own order."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qlstm_bench.data import DataError, load_sequences, load_text, published
from qlstm_bench.data.corpora import file_corpus
from qlstm_bench.data.encoding import Corpus, encode
from qlstm_bench.data.published import DataFile
from qlstm_bench.data.stdlib import MAX_BYTES, stdlib_corpus
from qlstm_bench.data.text import Text, Unit

texts = st.text(st.characters(codec="utf-8"), max_size=200)


def characters(*parts: str) -> Text:
    return encode(Corpus("toy", "0" * 64, tuple(lambda p=part: [p] for part in parts)), "characters")


def whole(text: Text) -> str:
    return "".join(text.decode(text.split(name)) for name in ("train", "valid", "test"))


@given(st.lists(texts, min_size=3, max_size=3))
def test_encoding_keeps_every_character(parts: list[str]) -> None:
    text = characters(*parts)
    assert text.symbols == "".join(sorted(set("".join(parts))))
    for part, name in zip(parts, ("train", "valid", "test"), strict=True):
        assert text.decode(text.split(name)) == part
        assert text.split(name).dtype == np.uint8  # no text of 600 characters here has more than 256 symbols


def test_more_than_256_symbols_take_two_bytes() -> None:
    many = "".join(map(chr, range(0x4E00, 0x4E00 + 300)))
    text = characters(many)
    assert text.symbols == many
    assert text.train.dtype == np.uint16
    assert whole(text) == many


@given(st.text(st.characters(codec="utf-8"), min_size=16, max_size=300))
def test_split_is_80_10_10_in_order(content: str) -> None:
    text = characters(content)
    assert whole(text) == content
    assert len(text.train) == int(len(content) * 0.8 + 1e-9)
    assert abs(len(text.valid) - len(text.test)) <= 1
    assert min(len(text.valid), len(text.test)) >= 2, "one to read and one to predict"


def test_a_file_of_the_user_is_split_and_hashed(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_bytes("\ufeffnaïve\r\ntext, 20 chars".encode())
    text = load_text(str(path))
    assert text.name == "mine.txt"
    assert whole(text) == "naïve\r\ntext, 20 chars"
    assert text.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "0 characters cannot be split"),
        (b"fifteen letters", "15 characters cannot be split 80/10/10; expected 16 or more characters"),
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
    text = load_text("stdlib-char")
    everything = text.decode(np.concatenate([text.train[:100_000], text.valid[:1000]]))
    assert set(everything) <= {"\n", *map(chr, range(0x20, 0x7F))}
    assert "\nimport " in everything
    assert "\ndef " in everything
    size = len(text.train) + len(text.valid) + len(text.test)
    assert 1_000_000 < size <= MAX_BYTES
    assert text.sha256 == load_text("stdlib-char").sha256


def test_stdlib_takes_whole_modules_in_order_and_drops_other_characters(tmp_path: Path) -> None:
    (tmp_path / "glob.py").write_bytes("# é\ttab\nx = 1\n".encode())
    (tmp_path / "ast.py").write_bytes(b"first\n")
    (tmp_path / "not_a_module_of_python.py").write_bytes(b"left out\n")
    text = encode(stdlib_corpus(tmp_path), "characters")
    assert whole(text) == "first\n# tab\nx = 1\n"


def test_stdlib_without_sources_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"no module sources .* use a Python that ships its sources, or --data"
    ):
        stdlib_corpus(tmp_path)


def given_files(monkeypatch: pytest.MonkeyPatch, folder: Path, contents: list[bytes]) -> None:
    """Let the next files that a dataset is made from have these contents."""
    paths = []
    for number, content in enumerate(contents):
        paths.append(folder / f"part{number}")
        paths[-1].write_bytes(content)
    remaining = iter(paths)
    monkeypatch.setattr("qlstm_bench.data.corpora.fetch", lambda dataset, file: next(remaining))


def test_penn_treebank_characters(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The published format: symbols at even positions, blanks between, ``_`` for the space, lines kept."""
    given_files(monkeypatch, tmp_path, [b"a b _ c \n a ", b"_ b ", b"c \n "])
    text = load_text("ptb-char")
    assert text.symbols == "\n abc"
    assert [text.decode(text.split(name)) for name in ("train", "valid", "test")] == ["ab c\na", " b", "c\n"]
    assert text.sha256 == joined(published.PTB_CHARACTERS)


def joined(files: tuple[DataFile, ...]) -> str:
    """The published digests' digest: it differs from that of one file with the same bytes."""
    return hashlib.sha256("".join(file.sha256 for file in files).encode()).hexdigest()


def test_penn_treebank_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A sentence a line, whose end is a word; words by frequency; what training has not is unknown."""
    given_files(monkeypatch, tmp_path, [b" the <unk> sat \n the cat \n", b" the dog \n", b" cat \n"])
    text = load_text("ptb-word", "words")
    assert text.symbols == ["<eos>", "the", "<unk>", "cat", "sat"]
    assert text.decode(text.train) == "the <unk> sat <eos> the cat <eos>"
    assert text.decode(text.valid) == "the <unk> <eos>"
    assert text.decode(text.test) == "cat <eos>"
    assert text.sha256 == joined(published.PTB_WORDS)


def test_text8_is_split_90_5_5_and_read_from_its_archive(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    content = "".join(np.random.default_rng(0).choice(list("abc "), 2000))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("text8", content)
    given_files(monkeypatch, tmp_path, [buffer.getvalue()])
    text = load_text("text8")
    assert [len(text.split(name)) for name in ("train", "valid", "test")] == [1800, 100, 100]
    assert whole(text) == content


def test_billion_words_come_from_their_archive(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Training shards in any order, held-out files 0 and 1 of fifty, words below three times unknown."""
    files = {
        "x/training-monolingual.tokenized.shuffled/news.en-00002-of-00100": b"a b\na c\n",
        "x/heldout-monolingual.tokenized.shuffled/news.en.heldout-00000-of-00050": b"b d\n",
        "x/heldout-monolingual.tokenized.shuffled/news.en.heldout-00001-of-00050": b"a\n",
        "x/heldout-monolingual.tokenized.shuffled/news.en.heldout-00010-of-00050": b"never read\n",
        "x/training-monolingual.tokenized.shuffled/news.en-00001-of-00100": b"b a b c\n",
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    given_files(monkeypatch, tmp_path, [buffer.getvalue()])
    text = load_text("billion-word", "words")
    assert text.symbols == ["<eos>", "a", "b", "<unk>"]
    assert text.decode(text.train) == "a b <eos> a <unk> <eos> b a b <unk> <eos>"
    assert (text.decode(text.valid), text.decode(text.test)) == ("a <eos>", "b <unk> <eos>")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("a b c d e f g h i j k l m n o p a b c\n", "repeats at least two words"),
        (
            "a b " * 40 + "c d e f g h i j k l",
            "100% of the words of its test part are not in its training part",
        ),
    ],
)
def test_a_vocabulary_that_does_not_fit_is_named(tmp_path: Path, content: str, problem: str) -> None:
    path = tmp_path / "words.txt"
    path.write_text(content)
    with pytest.raises(DataError, match=problem):
        load_text(str(path), "words")


def test_a_dataset_of_another_kind_is_refused() -> None:
    with pytest.raises(DataError, match=r"'mnist' holds sequences, this task needs words: .*ptb-word"):
        load_text("mnist", "words")
    with pytest.raises(DataError, match=r"'ptb-word' holds words, this task needs characters: .*ptb-char"):
        load_text("ptb-word")


def test_text_from_a_program() -> None:
    """A torch Dataset of strings is the text of its lines; a mapping of three is split already."""
    lines = ["the cat sat", "the dog sat", "the end"]
    text = load_text(lines)
    assert whole(text) == "the cat sat\nthe dog sat\nthe end\n"
    assert load_text(text) is text
    parts = load_text({"train": lines * 2, "valid": lines[:1], "test": lines[1:]}, "words")
    assert parts.decode(parts.valid) == "the cat sat <eos>"
    with pytest.raises(DataError, match="items of a text must be strings, got int"):
        load_text([1, 2, 3])
    with pytest.raises(DataError, match="expected the parts train, valid, test, got train"):
        load_text({"train": lines})
    with pytest.raises(DataError, match=r"got one: give its lines, text\.splitlines\(\)"):
        load_text({"train": "the cat", "valid": "sat", "test": "."})
    with pytest.raises(DataError, match="expected a dataset with a length and items, got ZeroDivisionError"):
        load_text(Broken())


class Broken:
    """A dataset whose code fails."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> str:
        return str(index // 0)


def test_the_digest_of_text_from_a_program_says_how_it_is_split(tmp_path: Path) -> None:
    """The same lines, cut elsewhere or not at all, are other data; the same text is the same data."""
    lines = [f"line {number} of the text" for number in range(20)]
    cuts = [(10, 15), (10, 16), (11, 15)]
    split = [{"train": lines[:a], "valid": lines[a:b], "test": lines[b:]} for a, b in cuts]
    assert len({load_text(data).sha256 for data in [lines, *split]}) == 4
    path = tmp_path / "lines.txt"
    path.write_text("\n".join(lines) + "\n")
    in_one_piece = ["\n".join(lines)]
    for unit in ("characters", "words"):
        file, pieces, piece = (load_text(data, unit) for data in (str(path), lines, in_one_piece))  # type: ignore[arg-type]
        assert file.sha256 == pieces.sha256 == piece.sha256
        for part in ("train", "valid", "test"):
            assert file.split(part).tolist() == pieces.split(part).tolist() == piece.split(part).tolist()


def test_what_is_no_file_is_called_what_it_is(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("nowhere")
    for name, problem in (
        ("/dev/null", "is a device"),
        (str(tmp_path / "pipe"), "is a pipe, which can be read only once"),
        (str(tmp_path / "link"), "is a link to nothing"),
        (str(tmp_path), "is a folder"),
        ("no/such.txt", "does not exist"),
        (f"{tmp_path}/{'x' * 300}", r"is not to be read \(File name too long\)"),
        ("a/\0b", r"is not to be read \(embedded null"),
        ("~no-such-user/x.txt", "does not exist"),
    ):
        for load, expected in ((load_text, "a text file in UTF-8"), (load_sequences, "an .npz file")):
            with pytest.raises(DataError, match=rf"{problem}.*: expected {expected}") as caught:
                load(name)
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize("at", [0, 2**20 - 1, 2**20 + 7])
@pytest.mark.parametrize("unit", ["characters", "words"])
def test_the_first_byte_that_is_not_utf8_is_named(tmp_path: Path, at: int, unit: Unit) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes(b"x" * at + "é".encode()[:1] + b"yz" * 20)
    with pytest.raises(DataError, match=f"not text in UTF-8: byte {at} is 0xc3"):
        load_text(str(path), unit)


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "growing.txt"
    path.write_text("the text is not yet complete\n" * 3)
    corpus = file_corpus("growing.txt", path, lines=False)
    with path.open("a") as file:
        file.write("now it is\n")
    with pytest.raises(DataError, match=r"growing\.txt' changed while it was read"):
        encode(corpus, "characters")
    path.unlink()
    with pytest.raises(DataError, match=r"growing\.txt' cannot be read: No such file"):
        encode(corpus, "characters")
