"""Compiled code on disk: found by the next process, never older than its sources."""

from __future__ import annotations

import errno
import importlib.util
import os
import pickle
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numba
import pytest

import qlstm_core.kernels.compile
from qlstm_core.kernels.compile import source_digest

CALLED = """
from qlstm_core.kernels.compile import compiled

@compiled(None)
def called(x):
    return x + {added}
"""
CALLER = """
from qlstm_core.kernels.compile import compiled
from {package}.called import called

def caller(factor):
    @compiled(f"{{factor}}")
    def compute(x):
        return factor * called(x)
    return compute
"""


@pytest.fixture
def process(tmp_path, monkeypatch):
    """Import the two files as a new process would; return the maker of compiled functions."""
    package = "qlstm_cache_test"
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    folder = tmp_path / package
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "caller.py").write_text(CALLER.format(package=package))

    def start(added: int):
        (folder / "called.py").write_text(CALLED.format(added=added))
        for name in [name for name in sys.modules if name.startswith(package)]:
            del sys.modules[name]
        importlib.invalidate_caches()
        source_digest.cache_clear()
        return importlib.import_module(f"{package}.caller").caller

    yield start
    source_digest.cache_clear()


def hits(function) -> int:
    return sum(function.stats.cache_hits.values())


def test_the_next_process_finds_the_code(process):
    first, second = process(1)(3), process(1)(3)
    assert (first(10), hits(first)) == (33, 0)
    assert (second(10), hits(second)) == (33, 1)


def test_closures_do_not_take_each_others_code(process):
    three = process(1)(3)
    four = process(1)(4)
    assert (three(10), four(10)) == (33, 44)
    assert hits(four) == 0
    again = process(1)(4)
    assert (again(10), hits(again)) == (44, 1)


def test_an_edit_in_a_called_file_is_seen(process):
    before = process(1)(3)
    assert before(10) == 33
    after = process(2)(3)
    assert (after(10), hits(after)) == (36, 0)


SOURCES = Path(qlstm_core.kernels.compile.__file__).parents[1]


@pytest.mark.parametrize(
    ("edited", "changes"),
    [
        ("cli.py", False),
        ("packed/layer.py", False),
        ("packed/kernels/avx2.py", False),
        ("packed/engine/program.py", True),
        ("kernels/gemm.py", True),
    ],
)
def test_the_digest_covers_the_toolkit_and_the_callers_folder_alone(tmp_path, edited, changes):
    shutil.copytree(SOURCES, tmp_path / "copy", ignore=shutil.ignore_patterns("__pycache__"))
    spec = importlib.util.spec_from_file_location("copied", tmp_path / "copy" / "kernels" / "compile.py")
    copied = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copied)
    caller = tmp_path / "copy" / "packed" / "engine"
    before = copied.source_digest(caller)
    with (tmp_path / "copy" / edited).open("a") as file:
        file.write("# a comment\n")
    copied.source_digest.cache_clear()
    assert (copied.source_digest(caller) != before) == changes


# Loads compile.py alone, without torch. `chain` is too long for LLVM to put it into its callers.
STEPS = "        v = (v * v + factor) % 1009\n" * 80
COLLISION = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("jit", sys.argv[1])
jit = importlib.util.module_from_spec(spec)
spec.loader.exec_module(jit)

def make(factor):
    @jit.compiled(None)
    def chain(v):
{STEPS}        return v

    @jit.compiled(f"{{factor}}")
    def compute(v):
        return chain(v) + chain(v + 1) + chain(v + 2)

    return compute

print(*(make(factor)(3) for factor in map(int, sys.argv[2:])))
"""


def chained(factor: int) -> int:
    values = [3, 4, 5]
    for _ in range(80):
        values = [(v * v + factor) % 1009 for v in values]
    return sum(values)


def test_code_from_several_processes_does_not_mix(tmp_path):
    script = tmp_path / "collision.py"
    script.write_text(COLLISION)

    def compute(*factors: int) -> list[int]:
        done = subprocess.run(
            [sys.executable, str(script), qlstm_core.kernels.compile.__file__, *map(str, factors)],
            env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")},
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
        )
        return [int(number) for number in done.stdout.split()]

    assert compute(3) == [chained(3)]
    assert compute(4) == [chained(4)]
    assert compute(4, 3, 5) == [chained(4), chained(3), chained(5)]


DAMAGES = {
    "empty": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "zeros": lambda content: bytes(len(content)),
    "random": lambda content: random.Random(0).randbytes(len(content)),
    "one bit": lambda content: content[:-100] + bytes([content[-100] ^ 1]) + content[-99:],
    "its digest only": lambda content: content[-32:],
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
def test_damaged_code_is_compiled_anew_and_overwritten(process, tmp_path, suffix, damage):
    assert process(1)(3)(10) == 33
    (path,) = (tmp_path / "cache").rglob(f"*{suffix}")
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    anew = process(1)(3)
    assert (anew(10), hits(anew)) == (33, 0)
    again = process(1)(3)
    assert (again(10), hits(again)) == (33, 1)


def test_nothing_of_a_damaged_file_is_executed(process, tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path / "sprung").touch, ()

    assert process(1)(3)(10) == 33
    for path in [*(tmp_path / "cache").rglob("*.nb?")]:
        digest = path.read_bytes()[-32:]
        path.write_bytes(pickle.dumps(Trap()) + digest)
        assert process(1)(3)(10) == 33
    assert not (tmp_path / "sprung").exists()


def test_code_of_one_signature_is_not_taken_for_anothers(process, tmp_path):
    # What two processes leave that compile for different types at the same time, the slower to write last.
    assert process(1)(3)(10) == 33
    (code,) = (tmp_path / "cache").rglob("*.nbc")
    whole = code.read_bytes()
    for path in (tmp_path / "cache").rglob("*.nb?"):
        path.unlink()
    assert process(1)(3)(10.5) == 34.5
    code.write_bytes(whole)
    other = process(1)(3)
    assert (other(10.5), hits(other)) == (34.5, 0)


def test_code_that_cannot_be_saved_runs_all_the_same(process, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(qlstm_core.kernels.compile._KernelCache, "warned", False)
    first, second = process(1)(3), process(1)(4)
    with monkeypatch.context() as patch:
        patch.setattr(qlstm_core.kernels.compile._Files, "save", full)
        with pytest.warns(
            RuntimeWarning, match=r"cache.*\(No space left on device\): every process compiles"
        ):
            assert first(10) == 33
        assert second(10) == 44, "and says so once"
    assert process(1)(3)(10) == 33


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)], check=True, capture_output=True
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("only root may mount, and not everywhere")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_costs_the_cache_and_not_the_run(process, small_disk, monkeypatch):
    monkeypatch.setattr(qlstm_core.kernels.compile._KernelCache, "warned", False)
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(small_disk))
    makers = [process(1)(factor) for factor in range(3, 7)]
    (small_disk / "filler").write_bytes(bytes(60_000))
    with pytest.warns(RuntimeWarning, match="No space left on device") as told:
        assert [compute(10) for compute in makers] == [33, 44, 55, 66]
    assert len(told) == 1
    assert not [path.name for path in small_disk.rglob("*.tmp.*")]
    (small_disk / "filler").unlink()
    assert process(1)(3)(10) == 33
    again = process(1)(3)
    assert (again(10), hits(again)) == (33, 1)
