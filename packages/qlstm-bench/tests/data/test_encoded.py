"""Large texts are encoded once and mapped; what is damaged in their cache is made anew."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qlstm_bench.data import DataError, Text, encoded, load_text
from qlstm_bench.data.text import Unit

CONTENT = "the cat the dog the end\n" * 100


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "large.txt"
    path.write_text(CONTENT)
    return path


@pytest.fixture
def right(path: Path) -> Text:
    """The text in memory: its codes do not change when files do."""
    return load_text(path)


@pytest.fixture
def large(path: Path, right: Text, monkeypatch: pytest.MonkeyPatch) -> str:
    """A text that is larger than what is held in memory."""
    monkeypatch.setattr(encoded, "IN_MEMORY_BYTES", 100)
    monkeypatch.setattr(encoded, "CHUNK", 1000)
    return str(path)


def folders(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "cache" / "encoded").iterdir() if not path.name.endswith(".lock")]


def check_same(one: Text, other: Text) -> None:
    assert (list(one.symbols), one.sha256) == (list(other.symbols), other.sha256)
    for part in ("train", "valid", "test"):
        np.testing.assert_array_equal(one.split(part), other.split(part))


@pytest.mark.parametrize("unit", ["characters", "words"])
def test_a_large_text_is_encoded_once_and_mapped(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unit: Unit
) -> None:
    """Beyond the limit the codes are in a file; the second time, the text itself is not read."""
    small = load_text(path, unit)
    assert not (tmp_path / "cache").exists(), "a text that fits into memory is written nowhere"
    monkeypatch.setattr(encoded, "IN_MEMORY_BYTES", 100)
    for again in (False, True):
        if again:
            monkeypatch.setattr("qlstm_bench.data.encoding._read", None)
        mapped = load_text(path, unit)
        assert isinstance(mapped.train.base, np.memmap)
        check_same(mapped, small)
    (folder,) = folders(tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["codes.npy", "text.json"]


@pytest.mark.parametrize("piece", [1, 7, 2399, 2400, 2401])
def test_a_large_text_is_encoded_in_several_pieces(
    large: str, right: Text, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    monkeypatch.setattr(encoded, "CHUNK", piece)
    check_same(load_text(large), right)


def rewritten(change: Callable[[dict[str, object]], object]) -> Callable[[Path], object]:
    """A damage to what text.json says."""

    def damage(folder: Path) -> None:
        content = json.loads((folder / "text.json").read_text())
        change(content["record"])
        (folder / "text.json").write_text(json.dumps(content))

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "codes.npy").write_bytes(b""),
        lambda folder: (folder / "codes.npy").unlink(),
        lambda folder: os.truncate(folder / "codes.npy", 1000),
        lambda folder: flip(folder / "codes.npy", 700, 1),
        lambda folder: (folder / "text.json").write_text(""),
        lambda folder: (folder / "text.json").write_text("{}"),
        lambda folder: (folder / "text.json").write_text("[" * 100_000),
        lambda folder: (folder / "text.json").write_bytes(b"\xff"),
        lambda folder: (folder / "codes.npy").rename(folder / "text.json"),
        lambda folder: (shutil.rmtree(folder), folder.touch()),
        rewritten(lambda record: record.update(bounds=[10**6, 10**7])),
        rewritten(lambda record: record.update(symbols=["a"])),
        rewritten(lambda record: record.update(text="0" * 64)),
        rewritten(lambda record: record.clear()),
    ],
)
def test_a_damaged_cache_is_made_anew(
    large: str, right: Text, tmp_path: Path, damage: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    load_text(large)
    (folder,) = folders(tmp_path)
    damage(folder)
    check_same(load_text(large), right)
    assert folders(tmp_path) == [folder], "the damaged one is gone"
    monkeypatch.setattr("qlstm_bench.data.encoding._read", None)
    check_same(load_text(large), right)


def test_the_cache_of_another_text_is_not_this_ones(large: str, right: Text, tmp_path: Path) -> None:
    load_text(large)
    (folder,) = folders(tmp_path)
    Path(large).write_text(CONTENT.replace("dog", "fox"))
    load_text(large)
    (other,) = set(folders(tmp_path)) - {folder}
    for name in ("codes.npy", "text.json"):
        (folder / name).write_bytes((other / name).read_bytes())
    Path(large).write_text(CONTENT)
    check_same(load_text(large), right)


def flip(path: Path, place: int, bits: int) -> None:
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= bits
    path.write_bytes(content)
    encoded._hash_once.cache_clear()  # as another process sees it: a file's clock ticks in milliseconds


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["codes.npy", "text.json"]), st.integers(0, 2**20), st.integers(1, 255))
def test_every_flipped_bit_is_noticed(
    large: str, right: Text, tmp_path: Path, name: str, place: int, bits: int
) -> None:
    load_text(large)
    (folder,) = folders(tmp_path)
    flip(folder / name, place, bits)
    check_same(load_text(large), right)


def test_a_killed_writers_draft_is_swept_away(large: str, right: Text, tmp_path: Path) -> None:
    load_text(large)
    (folder,) = folders(tmp_path)
    folder.rename(folder.with_name(f"{folder.name}.tmp"))
    check_same(load_text(large), right)
    assert folders(tmp_path) == [folder]


def test_codes_are_hashed_once_while_they_stay_the_same(
    large: str, right: Text, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_text(large)
    hashed: list[Path] = []
    real = encoded.hash_file
    monkeypatch.setattr(encoded, "hash_file", lambda path: real(hashed.append(path) or path))
    encoded._hash_once.cache_clear()
    load_text(large)
    load_text(large)
    assert [path.name for path in hashed] == ["codes.npy"]
    content = bytearray(hashed[0].read_bytes())
    content[700] ^= 1
    hashed[0].write_bytes(content)
    os.utime(hashed[0], ns=(0, 0))
    check_same(load_text(large), right)


def test_a_cache_that_cannot_be_written_is_named(
    large: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("QLSTM_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"cannot be written to: Not a directory.*QLSTM_CACHE"):
        load_text(large)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real disk of 64 kB, where this user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", folder], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("no disk can be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize("free", [0, 4, 8, 12, 48])
def test_a_full_disk_is_one_line(
    large: str, right: Text, small_disk: Path, monkeypatch: pytest.MonkeyPatch, free: int
) -> None:
    """However far its room goes (numbers, codes, vocabulary): an error or the text, and nothing is left."""
    monkeypatch.setenv("QLSTM_CACHE", str(small_disk / "cache"))
    filler = small_disk / "filler"
    filler.write_bytes(bytes((64 - free) * 1024))
    if free >= 48:
        check_same(load_text(large), right)
    if free < 16:  # 2400 numbers of 4 bytes and as many codes of one
        with pytest.raises(DataError, match="No space left on device; set QLSTM_CACHE") as caught:
            load_text(large)
        assert "\n" not in str(caught.value)
        left = {path.name for path in (small_disk / "cache").rglob("*") if not path.name.endswith(".lock")}
        assert left <= {"encoded"}
    filler.unlink()
    check_same(load_text(large), right)


def test_small_texts_need_no_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
    (tmp_path / "small.txt").write_text(CONTENT)
    assert len(load_text(str(tmp_path / "small.txt")).train) == 1920
