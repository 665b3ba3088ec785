"""Exported networks as a program, compiled for this machine or another and called through its input."""

from __future__ import annotations

import importlib.util
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qlstm_core.export import export_c
from qlstm_core.packed.kernels.choose import has_avx2

STRICT = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror"]
SIZES, STEP, STEP_TOKEN, SEQUENCE, SEQUENCE_TOKENS, MULTIPLY = range(6)
_SUPPORT = Path(__file__).parent


@dataclass(frozen=True)
class Target:
    """A processor to compile for, and how to run what was compiled."""

    name: str
    compiler: list[str]
    lanes: int = 0
    emulator: str | None = None

    def obstacle(self) -> str | None:
        """Return why nothing can be compiled or run for it here."""
        if self.compiler[0] == "gcc":
            if shutil.which("gcc") is None:
                return "needs gcc"
            return "needs a CPU with AVX2" if "-mavx2" in self.compiler and not has_avx2() else None
        if importlib.util.find_spec("ziglang") is None:
            return "needs ziglang, a C compiler"
        if self.name.startswith("wasm32"):
            return None if importlib.util.find_spec("wasmtime") else "needs wasmtime"
        return None if self.emulator and shutil.which(self.emulator) else f"needs {self.emulator}"

    def run(self, program: Path, given: bytes) -> bytes:
        """Run a program with an input and return its output."""
        if self.name.startswith("wasm32"):
            return _run_wasm(program, given)
        command = [str(program)] if self.emulator is None else [self.emulator, str(program)]
        done = subprocess.run(command, input=given, capture_output=True, timeout=300, check=False)
        assert (done.returncode, done.stderr) == (0, b""), done.stderr.decode()
        return done.stdout


def _zig(target: str, *options: str) -> list[str]:
    return [sys.executable, "-m", "ziglang", "cc", "-target", target, "-O2", *options]


SANITIZED = ["-O1", "-fno-sanitize-recover=all"]
TARGETS = [
    Target("x86-64", ["gcc", *SANITIZED, "-DQLSTM_SCALAR", "-fsanitize=address,undefined"]),
    Target("x86-64-avx2", ["gcc", *SANITIZED, "-mavx2", "-fsanitize=address,undefined"], lanes=32),
    Target("aarch64", _zig("aarch64-linux-musl"), lanes=16, emulator="qemu-aarch64-static"),
    Target("armv7", _zig("arm-linux-musleabihf"), emulator="qemu-arm-static"),
    Target("riscv64", _zig("riscv64-linux-musl"), emulator="qemu-riscv64-static"),
    Target("wasm32", _zig("wasm32-wasi")),
    Target("wasm32-simd", _zig("wasm32-wasi", "-msimd128"), lanes=16),
]


def targets(*names: str) -> Any:
    """Return pytest's parameters for the named targets; those that cannot be tried here are skipped."""
    return [
        pytest.param(
            target,
            id=target.name,
            marks=pytest.mark.skipif(target.obstacle() is not None, reason=target.obstacle() or ""),
        )
        for target in TARGETS
        if target.name in names
    ]


@contextmanager
def compiled(target: Target, networks: list[Any]) -> Iterator[Program]:
    """Export packed networks, compile them for one target, and give one program for them all."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sources = [folder / "main.c", *(_source(folder, n, packed) for n, packed in enumerate(networks))]
        numbers = range(len(networks))
        declared = "".join(f"void m{n}_run(void);\n" for n in numbers)
        calls = "".join(f"    if (number == {n}) m{n}_run();\n" for n in numbers)
        sources[0].write_text(
            f"#include <stdio.h>\n{declared}int main(void)\n{{\n"
            f"    int number = getchar();\n{calls}    return 0;\n}}\n"
        )
        program = folder / "program"
        command = [*target.compiler, *STRICT, "-I", str(_SUPPORT), "-o", str(program), *map(str, sources)]
        # Where there is no home, zig does not know where to keep the C libraries that it builds.
        cache = {"ZIG_GLOBAL_CACHE_DIR": str(Path(tempfile.gettempdir(), "qlstm-zig"))}
        environment = os.environ if "HOME" in os.environ else os.environ | cache
        done = subprocess.run(
            [*command, "-lm"], capture_output=True, env=environment, timeout=600, check=False
        )
        assert (done.returncode, done.stderr) == (0, b""), done.stderr.decode()
        yield Program(target, program)


def _source(folder: Path, number: int, packed: Any) -> Path:
    name = f"m{number}"
    exported = export_c(packed, folder / name, name=name)
    source = folder / f"{name}.c"
    source.write_text(
        f'#define MODEL {name}\n#define UPPER {name.upper()}\n#include "{exported.source}"\n'
        '#include "c_driver.h"\n'
    )
    return source


@dataclass(frozen=True)
class Program:
    """Exported networks in one program; see :func:`compiled`."""

    target: Target
    path: Path

    def __call__(self, number: int, command: int, *given: Any) -> bytes:
        """Give a network a command and arrays, and return what comes out."""
        arrays = b"".join(np.ascontiguousarray(array).tobytes() for array in given)
        return self.target.run(self.path, bytes([number]) + struct.pack("=i", command) + arrays)


def read(data: bytes, *parts: tuple[Any, tuple[int, ...]]) -> list[Any]:
    """Return arrays of the given types and shapes, which are all of the data."""
    arrays = []
    for dtype, shape in parts:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        arrays.append(np.frombuffer(data[:size], dtype).reshape(shape))
        data = data[size:]
    assert data == b""
    return arrays


def _run_wasm(program: Path, given: bytes) -> bytes:
    import wasmtime

    engine = wasmtime.Engine()
    store = wasmtime.Store(engine)
    linker = wasmtime.Linker(engine)
    linker.define_wasi()
    config = wasmtime.WasiConfig()
    source, sink = program.with_name("stdin"), program.with_name("stdout")
    source.write_bytes(given)
    config.stdin_file, config.stdout_file = str(source), str(sink)
    store.set_wasi(config)
    start: Callable[..., Any] = linker.instantiate(
        store, wasmtime.Module.from_file(engine, str(program))
    ).exports(store)["_start"]
    start(store)
    del store
    return sink.read_bytes()
