"""Files are written whole or not at all."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
import threading

import pytest

from qlstm_core import files
from qlstm_core.files import remove_leftovers, replace_file, write_folder


def test_bytes_text_and_what_a_function_writes(tmp_path):
    path = tmp_path / "file"
    replace_file(path, b"a\n\xff")
    assert path.read_bytes() == b"a\n\xff"
    replace_file(path, "é\n")
    assert path.read_bytes() == b"\xc3\xa9\n"

    def write(file):
        file.write(b"12345")
        file.seek(1)
        file.write(b"x")

    replace_file(str(path), write)
    assert path.read_bytes() == b"1x345"


@pytest.mark.parametrize("fails", ["content", "fsync"])
def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch, fails):
    path = tmp_path / "file"
    replace_file(path, b"old")

    def fail(argument):
        assert path.read_bytes() == b"old"
        raise OSError("disk full")

    if fails == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        replace_file(path, fail if fails == "content" else b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX")
def test_links_permissions_and_pipes_are_as_open_has_them(tmp_path):
    real, link, pipe = tmp_path / "real", tmp_path / "link", tmp_path / "pipe"
    link.symlink_to(real)
    replace_file(link, b"new")
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    assert real.stat().st_mode == plain.stat().st_mode
    real.chmod(0o640)
    replace_file(link, b"newer")
    assert (link.is_symlink(), real.read_bytes(), stat.S_IMODE(real.stat().st_mode)) == (
        True,
        b"newer",
        0o640,
    )
    os.mkfifo(pipe)
    read = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
    reader.start()
    replace_file(pipe, b"through")
    reader.join(20)
    assert read == [b"through"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    reading, writing = os.pipe()  # as a shell gives it for --out >(command)
    replace_file(f"/dev/fd/{writing}", b"through")
    os.close(writing)
    assert os.read(reading, 100) == b"through"
    os.close(reading)


_KILLED = """
import os, runpy, signal, sys
replace_file = runpy.run_path(sys.argv[2])["replace_file"]  # without torch
os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
replace_file(sys.argv[1], b"never whole")
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs POSIX")
@pytest.mark.parametrize("sweep", [remove_leftovers, lambda path: replace_file(path, b"whole")])
def test_what_a_killed_process_left_goes_with_the_next_and_nothing_else_does(tmp_path, sweep):
    path = tmp_path / "file.bin"
    kept = {
        "file.bin.partial",
        "notes.partial",
        f"other.{'0' * 32}.partial",
        f"file.bin.{'x' * 32}.partial",
    }
    for name in kept:
        (tmp_path / name).write_bytes(b"the user's")
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", _KILLED, str(path), files.__file__], check=False, timeout=60
        )
        assert done.returncode == -signal.SIGKILL
    (left,) = {p.name for p in tmp_path.iterdir()} - kept
    assert re.fullmatch(r"file\.bin\.[0-9a-f]{32}\.partial", left)
    sweep(path)
    assert {p.name for p in tmp_path.iterdir()} - {path.name} == kept


def test_a_file_that_another_process_still_writes_is_let_alone(tmp_path, monkeypatch):
    path = tmp_path / "file"
    first = os.fsync

    def overtaken(descriptor):
        monkeypatch.setattr(os, "fsync", first)
        replace_file(path, b"second")
        assert path.read_bytes() == b"second"

    monkeypatch.setattr(os, "fsync", overtaken)
    replace_file(path, b"first")
    assert path.read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["file"]


def test_a_folder_is_written_whole(tmp_path):
    folder = tmp_path / "folder"
    write_folder(folder, {"a.txt": "é\n", "b/c/d.txt": ""})
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.txt")}
    assert found == {"a.txt": b"\xc3\xa9\n", "b/c/d.txt": b""}
    (tmp_path / "empty").mkdir()
    write_folder(tmp_path / "empty", {"a.txt": "a"})
    assert (tmp_path / "empty" / "a.txt").read_text() == "a"


def test_a_folder_that_holds_something_stays_as_it_is(tmp_path):
    folder = tmp_path / "folder"
    write_folder(folder, {"a.txt": "old"})
    with pytest.raises(OSError, match="not empty"):
        write_folder(folder, {"b.txt": "new"})
    assert [path.name for path in folder.iterdir()] == ["a.txt"]
    assert os.listdir(tmp_path) == ["folder"], "no draft is left"


def test_a_folder_that_fails_is_not_there(tmp_path, monkeypatch):
    def fail(path, text):
        if path.name == "b.txt":
            raise OSError("disk full")
        path.write_text(text)

    monkeypatch.setattr(files, "replace_file", fail)
    with pytest.raises(OSError, match="disk full"):
        write_folder(tmp_path / "folder", {"a.txt": "", "b.txt": ""})
    assert os.listdir(tmp_path) == []
