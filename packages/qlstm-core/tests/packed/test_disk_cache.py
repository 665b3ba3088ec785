"""Compiled code on disk: found by the next process, never older than its sources."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys

import numba
import pytest

import qlstm_core.jit
from qlstm_core.jit import source_digest

CALLED = """
from qlstm_core.jit import compiled

@compiled(None)
def called(x):
    return x + {added}
"""
CALLER = """
from qlstm_core.jit import compiled
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


# Loads jit.py alone, without torch. `chain` is too long for LLVM to put it into its callers.
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
            [sys.executable, str(script), qlstm_core.jit.__file__, *map(str, factors)],
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
