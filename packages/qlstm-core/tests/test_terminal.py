"""Output that its terminal, pipe or disk does not take."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import sys
sys.modules["torch"] = None  # terminal needs nothing
import importlib.util
spec = importlib.util.spec_from_file_location("terminal", sys.argv[1])
terminal = importlib.util.module_from_spec(spec); spec.loader.exec_module(terminal)
def command():
    print(sys.argv[2] * int(sys.argv[3]))
    return 3
sys.exit(terminal.run("program", command))
"""
FILE = Path(__file__).parents[1] / "src/qlstm_core/terminal.py"


def printed(text: str, times: int = 1, shell: str = "", encoding: str = "utf-8") -> tuple[int, bytes, bytes]:
    words = [sys.executable, "-S", "-c", CODE, str(FILE), text, str(times)]
    result = subprocess.run(
        ["bash", "-c", f'"$@" {shell}', "bash", *words],
        capture_output=True,
        env={"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0", "PATH": "/usr/bin:/bin"},
    )
    return result.returncode, result.stdout, result.stderr


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("utf-8", "λ1 é\n".encode()),
        ("latin-1", b"\\u03bb1 \xe9\n"),
        ("cp1252", b"\\u03bb1 \xe9\n"),
        ("ascii", b"\\u03bb1 \\xe9\n"),
    ],
)
def test_what_an_encoding_lacks_is_written_as_an_escape(encoding: str, expected: bytes) -> None:
    assert printed("λ1 é", encoding=encoding) == (3, expected, b"")


def test_a_closed_stream_takes_everything() -> None:
    assert printed("x", shell=">&-") == (3, b"", b"")
    assert printed("x", shell=">&- 2>&-") == (3, b"", b"")


@pytest.mark.parametrize("times", [1, 1_000_000])
def test_a_reader_that_goes_away_is_no_error_to_speak_of(times: int) -> None:
    assert printed("x", times, "| true; exit ${PIPESTATUS[0]}")[1:] == (b"", b"")
    assert printed("x", 1_000_000, "| true; exit ${PIPESTATUS[0]}")[0] == 1


@pytest.mark.parametrize("times", [1, 1_000_000])
def test_a_full_disk_behind_the_output_is_one_line(times: int) -> None:
    message = b"program: error: the output cannot be written: No space left on device\n"
    assert printed("x", times, ">/dev/full") == (1, b"", message)
