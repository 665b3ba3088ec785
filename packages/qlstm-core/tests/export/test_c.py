"""Exported C against the packed networks it was made from, on this machine and under emulators of others."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from c_programs import (
    MULTIPLY,
    SEQUENCE,
    SEQUENCE_TOKENS,
    SIZES,
    STEP,
    STEP_TOKEN,
    STRICT,
    TARGETS,
    Program,
    Target,
    compiled,
    read,
    targets,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from packed_layers import Batch, Features, Grid, Sign, Ternary, layers

from qlstm_core import GRU, LSTM, cli, pack
from qlstm_core.export import export_c
from qlstm_core.export.constants import literal
from qlstm_core.packed.engine.program import Program as NetworkProgram
from qlstm_core.packed.engine.program import build
from qlstm_core.packed.kernels.activations import quantize
from qlstm_core.packed.kernels.choose import choose
from qlstm_core.packed.kernels.layout import ENTRY_LIMIT, aligned
from qlstm_core.packed.kernels.matmul import tables_shape

SPAN = 4
BOUND = {8: 3e-2, 12: 2e-3, 16: 2e-4}
"""The largest difference that docs/exporting-to-c.md states, by the bits of a table's entry."""


@pytest.fixture(autouse=True)
def _kernel_of_the_same_span(monkeypatch):
    if choose().span != SPAN:
        monkeypatch.setenv("QLSTM_KERNEL", "portable")


def as_given(state: Any, packed: Any, steps: int) -> list[np.ndarray]:
    """The start of a command: a state, zeros where there is none, and two numbers of steps."""
    config = packed.network.config
    cells = config.num_layers * config.directions
    sizes = (config.output_size, config.hidden_size)[: len(config.cell.states)]
    if state is None:
        state = tuple(torch.zeros(cells, size) for size in sizes)
    states = state if isinstance(state, tuple) else (state,)
    return [*(s.numpy() for s in states), np.array([0, steps], np.int32)]


def parsed(packed: Any, steps: int, data: bytes) -> tuple[np.ndarray, list[np.ndarray], tuple[int, ...]]:
    """Outputs, states, and what was returned, raised and counted."""
    config = packed.network.config
    cells = config.num_layers * config.directions
    sizes = (config.output_size, config.hidden_size)[: len(config.cell.states)]
    output = (np.float32, (steps, config.output_size * config.directions))
    numbers, y, *state = read(
        data, (np.int32, (3,)), output, *[(np.float32, (cells, size)) for size in sizes]
    )
    return y, state, tuple(numbers.tolist())


def check_values(program: Program, number: int, packed: Any, data: st.DataObject) -> None:
    """Whole sequences, and steps where there are any, give what the packed network gives."""
    config = packed.network.config
    steps = data.draw(st.integers(1, 6))
    torch.manual_seed(data.draw(st.integers(0, 2**31)))
    tokens = data.draw(st.booleans())
    x = torch.randint(config.input_size, (steps,)) if tokens else torch.randn(steps, config.input_size)
    begin = packed(x)[1] if data.draw(st.booleans()) else None
    wanted, final = packed(x, begin)
    given = x.to(torch.int32).numpy() if tokens else x.numpy()
    commands = [SEQUENCE_TOKENS if tokens else SEQUENCE]
    if not config.bidirectional:
        commands.append(STEP_TOKEN if tokens else STEP)
    found = [
        parsed(packed, steps, program(number, command, *as_given(begin, packed, steps), given))
        for command in commands
    ]
    y, state, numbers = found[0]
    assert numbers == (0, 0, steps)
    bound = BOUND[packed.activation_bits]
    for ours, theirs in zip(
        [y, *state], [wanted, *(final if isinstance(final, tuple) else (final,))], strict=True
    ):
        assert np.abs(ours - theirs.numpy()).max() <= bound
    if len(found) > 1:
        stepped, left, _ = found[1]
        assert np.array_equal(stepped, y)
        assert all(np.array_equal(a, b) for a, b in zip(left, state, strict=True))


def numba_sums(program: NetworkProgram, number: int, x: np.ndarray) -> list[np.ndarray]:
    """Scale, Σ|q|, Σq and the sums of all lines, of one of a network's matrices of bits."""
    m, bits = program.matrices[number], program.activation_bits
    groups, tiles = int(m["groups"]), int(m["tiles"])
    codes = aligned((1, SPAN + 1, groups), np.int16)
    scale, norm, total = quantize(x, ENTRY_LIMIT[bits], codes[0])
    tables = aligned(tables_shape(1, groups, bits, SPAN), np.uint8)
    sums = aligned((1, tiles * (32 if m["pairing"] else 64)), np.int32)
    blocks = program.blocks[m["at"] : m["at"] + tiles * groups * 32].reshape(tiles, groups, 32)
    kernel = choose()
    kernel.fill_tables(bits)(codes, tables)
    kernel.product(bits, int(m["pairing"]))(blocks, tables, np.array([norm], np.int32), sums)
    return [np.array([scale], np.float32), np.array([norm, total], np.int32), sums[0]]


def check_integers(program: Program, number: int, packed: Any, draw: Callable[[int], np.ndarray]) -> None:
    """Every product with bits gives the same integers as Numba's kernels, to the last bit.

    Args:
        draw: makes a vector of so many numbers.
    """
    numba = build(packed.network, packed.activation_bits, SPAN)
    for index, m in enumerate(numba.matrices):
        if m["sums"] == 0:
            continue
        x = np.zeros(SPAN * int(m["groups"]), np.float32)
        x[: m["cols"]] = draw(int(m["cols"]))
        wanted = numba_sums(numba, index, x)
        found = read(
            program(number, MULTIPLY, np.array([index], np.int32), x),
            *[(array.dtype, array.shape) for array in wanted],
        )
        assert all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True))


def check(target: Target, data: st.DataObject, count: int) -> None:
    networks = [pack(data.draw(layers(90)), data.draw(st.sampled_from([8, 12, 16]))) for _ in range(count)]
    with compiled(target, networks) as program:
        for number, packed in enumerate(networks):
            check_values(program, number, packed, data)
            generator = np.random.default_rng(data.draw(st.integers(0, 2**31)))
            check_integers(program, number, packed, generator.standard_normal)
            assert read(program(number, SIZES), (np.int32, (5,)))[0][4] == target.lanes


@pytest.mark.parametrize("target", targets("x86-64", "x86-64-avx2"))
@given(st.data())
@settings(deadline=None, max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_c_computes_what_the_packed_network_computes(target, data):
    check(target, data, 1)


@pytest.mark.parametrize("target", targets("aarch64", "armv7", "riscv64", "wasm32", "wasm32-simd"))
@given(st.data())
@settings(deadline=None, max_examples=2, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_other_processors_compute_the_same(target, data):
    check(target, data, 3)


HERE = TARGETS[0]
needs_gcc = pytest.mark.skipif(HERE.obstacle() is not None, reason="needs gcc")


def called(program: Program, packed: Any, command: int, x: Any, *, state: Any = None, steps: int = 0) -> Any:
    """Outputs, states, and what was returned, raised and counted, from a number of steps on."""
    given = as_given(state, packed, len(x))
    given[-1][0] = steps
    return parsed(packed, len(x), program(0, command, *given, x))


@pytest.mark.parametrize("target", targets("x86-64", "x86-64-avx2"))
def test_sums_of_thousands_of_agreeing_signs_are_exact(target):
    layer = LSTM(4199, 2, quantizer=Ternary())
    torch.nn.init.ones_(layer.weight_ih_l0)
    networks = [pack(layer, activation_bits) for activation_bits in BOUND]
    with compiled(target, networks) as program:
        for number, packed in enumerate(networks):
            check_integers(program, number, packed, np.ones)
            check_integers(program, number, packed, lambda count: -np.ones(count))


@needs_gcc
def test_what_is_not_finite_gives_nan_and_zeros_stay_zeros():
    packed = pack(LSTM(5, 6, bias=False, quantizer=Sign()))
    with compiled(HERE, [packed]) as program:
        x = np.zeros((4, 5), np.float32)
        y, _, numbers = called(program, packed, STEP, x)
        assert not y.any()
        assert numbers == (0, 0, 4)
        x[1, 2] = np.inf
        y, _, _ = called(program, packed, SEQUENCE, x)
        assert not y[0].any()
        assert np.isnan(y[1:]).all()


@needs_gcc
def test_a_token_that_does_not_exist_changes_nothing():
    packed = pack(GRU(5, 6, quantizer=Sign()))
    with compiled(HERE, [packed]) as program:
        for wrong in (5, -1, 2**31 - 1, -(2**31)):
            state = torch.randn(1, 6)
            y, (h,), numbers = called(
                program, packed, SEQUENCE_TOKENS, np.array([4, wrong], np.int32), state=state
            )
            assert numbers == (1, 0, 0)
            assert not y.any()
            assert np.array_equal(h, state.numpy())


@needs_gcc
def test_steps_count_on_for_statistics_of_each_step_and_never_overflow():
    packed = pack(LSTM(5, 6, quantizer=Sign(), normalizer=Batch()))
    with compiled(HERE, [packed]) as program:
        x = np.random.default_rng(0).standard_normal((4, 5)).astype(np.float32)
        state = packed.stream((torch.zeros(1, 6), torch.zeros(1, 6)), 1)
        wanted = [packed.step(row, state)[0].copy() for row in x]
        for command in (STEP, SEQUENCE):
            y, _, numbers = called(program, packed, command, x, steps=1)
            assert numbers == (0, 0, 5)
            assert np.abs(y - np.stack(wanted)).max() < BOUND[12]
        assert np.abs(called(program, packed, STEP, x)[0] - np.stack(wanted)).max() > 10 * BOUND[12]
        assert called(program, packed, SEQUENCE, x, steps=2**31 - 3)[2] == (0, 0, 2**31 - 1)


@needs_gcc
@pytest.mark.parametrize("options", [["-O2"], ["-O3", "-mavx2"]], ids=" ".join)
def test_the_stack_that_is_taken_is_less_than_stated(tmp_path, options):
    layer = LSTM(
        50, 70, proj_size=20, num_layers=2, quantizer={"ih": Grid(), "hh": Sign()}, normalizer=Features()
    )
    exported = export_c(pack(layer), tmp_path / "exported", name="sizes")
    command = ["gcc", *STRICT, *options, "-fstack-usage", "-S", "-o", str(tmp_path / "s.s")]
    subprocess.run([*command, str(exported.source)], check=True, timeout=120)
    # Nothing calls itself, so no chain of calls takes more than all functions together.
    frames = [int(line.split("\t")[1]) for line in (tmp_path / "s.su").read_text().splitlines()]
    assert sum(frames) < exported.stack_bytes
    called_functions = set(re.findall(r"\bcall\s+(\w+)", (tmp_path / "s.s").read_text()))
    library = {name for name in called_functions if not name.startswith(("qlstm_", "sizes_"))}
    assert library <= {"memcpy", "memset", "sqrtf", "__stack_chk_fail"}


@needs_gcc
def test_constants_and_states_have_the_stated_sizes():
    packed = [pack(LSTM(9, 70, quantizer=Grid(), normalizer=Features())), pack(GRU(9, 20, quantizer=Sign()))]
    with compiled(HERE, packed) as program:
        for number in range(2):
            state, constants, stated, stack, _ = read(program(number, SIZES), (np.int32, (5,)))[0]
            assert constants == stated
            assert state == (3764, 948)[number]
            assert stack == 4096


def test_what_is_the_same_for_all_rows_is_kept_once(tmp_path):
    """One scale for each gate of 64 rows, no factors of 1; 8 tiles of bits, and the shifts."""
    exported = export_c(pack(LSTM(16, 64, quantizer=Sign())), tmp_path)
    bits = 4 * (4 * 32) + 4 * (16 * 32)
    assert exported.constant_bytes == bits + 4 * (4 + 4 + 4 * 64)


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_numbers_are_written_to_the_last_bit(value):
    text = literal(value)
    assert re.fullmatch(r"-?\d+(\.\d+)?(e[+-]?\d+)?f", text)
    assert re.search(r"[.e]", text)
    assert np.float32(text[:-1]) == np.float32(value)


def test_an_export_is_the_same_byte_for_byte_and_replaces_the_last(tmp_path):
    torch.manual_seed(0)
    packed = pack(LSTM(5, 6, quantizer=Sign(), normalizer=Features()))
    first = export_c(packed, tmp_path / "one", name="net")
    (tmp_path / "two").mkdir()
    again = export_c(packed, tmp_path / "two", name="net")
    assert (first.header.read_bytes(), first.source.read_bytes()) == (
        again.header.read_bytes(),
        again.source.read_bytes(),
    )
    export_c(pack(GRU(5, 6, quantizer=Sign())), tmp_path / "two", name="other")
    export_c(pack(LSTM(5, 6, quantizer=Sign())), tmp_path / "two", name="net")
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == [
        "net.c",
        "net.h",
        "other.c",
        "other.h",
    ]
    assert again.source.read_bytes() != first.source.read_bytes()


@needs_gcc
def test_header_and_source_of_different_exports_do_not_compile(tmp_path):
    first = export_c(pack(LSTM(5, 6, quantizer=Sign())), tmp_path / "one")
    other = export_c(pack(LSTM(5, 6, quantizer=Sign())), tmp_path / "two")
    os.replace(first.header, other.header)
    command = ["gcc", *STRICT, "-fsyntax-only", str(other.source)]
    refused = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert refused.returncode != 0
    assert "model.h and model.c come from different exports" in refused.stderr


@needs_gcc
def test_labels_of_a_file_are_no_code(tmp_path):
    packed = pack(LSTM(5, 6, quantizer=Sign()))
    packed.network.config.labels["*/\n#error"] = "*/ int system; /* \\ ??/ $name"
    exported = export_c(packed, tmp_path)
    subprocess.run(["gcc", *STRICT, "-fsyntax-only", str(exported.source)], check=True, timeout=60)
    for path in (exported.header, exported.source):
        assert path.read_text().partition("*/")[0].endswith("\n   12-bit tables ")


@needs_gcc
def test_fast_math_is_refused(tmp_path):
    exported = export_c(pack(LSTM(5, 6, quantizer=Sign())), tmp_path)
    command = ["gcc", "-ffast-math", "-fsyntax-only", str(exported.source)]
    refused = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert "which -ffast-math leaves out" in refused.stderr


NO_IDENTIFIER = "is no identifier of C: a letter, then letters, digits and underscores"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my-net", f"name 'my-net' {NO_IDENTIFIER}; 'my_net' would do"),
        ("2nd", "name '2nd' is no identifier of C"),
        ("", "name '' is no identifier of C"),
        ("_net", f"name '_net' {NO_IDENTIFIER}; 'net' would do"),
        ("größe", "name 'größe' is no identifier of C"),
        ("net\n", "name 'net\\n' is no identifier of C"),
        ("while", "name 'while' is a keyword of C: choose another, such as 'while_model'"),
        ("Math", "name 'Math' would hide the header <math.h>: choose another, such as 'Math_model'"),
    ],
)  # fmt: skip
def test_a_name_that_c_does_not_allow_is_refused(tmp_path, name, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        export_c(pack(LSTM(5, 6, quantizer=Sign())), tmp_path / "exported", name=name)
    assert not (tmp_path / "exported").exists()


def test_a_layer_that_is_not_packed_is_refused(tmp_path):
    with pytest.raises(TypeError, match=r"^expected a packed network, got LSTM: pack\(layer\) makes one$"):
        export_c(LSTM(5, 6, quantizer=Sign()), tmp_path)


@pytest.mark.parametrize("name", ["model.c", "notes.txt", "sub"])
def test_a_folder_that_holds_other_files_is_refused(tmp_path, name):
    if name == "sub":
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).write_text("int mine;\n")
    with pytest.raises(FileExistsError, match=rf"holds '{name}', which no export wrote"):
        export_c(pack(LSTM(5, 6, quantizer=Sign())), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_what_a_killed_export_left_is_no_obstacle(tmp_path):
    (tmp_path / f"model.c.{'0' * 32}.partial").write_text("half of it")
    export_c(pack(LSTM(5, 6, quantizer=Sign())), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.c", "model.h"]


@pytest.mark.parametrize("what", ["constant", "state"])
def test_sizes_beyond_int32_are_refused(tmp_path, monkeypatch, what):
    packed = pack(LSTM(1000, 2, quantizer=Sign()))
    size = getattr(export_c(packed, tmp_path), f"{what}_bytes")
    monkeypatch.setattr("qlstm_core.export.c._LARGEST", size - 1)
    message = rf"^{what}s of {size:,} bytes are beyond int32: at most {size - 1:,} are possible"
    with pytest.raises(ValueError, match=message):
        export_c(packed, tmp_path)
    monkeypatch.setattr("qlstm_core.export.c._LARGEST", 2 * size)
    export_c(packed, tmp_path)


def test_factors_beyond_float32_are_refused(tmp_path):
    packed = pack(LSTM(5, 6, quantizer=Sign(), normalizer=Batch()))
    norms = packed.network.cells[0].norms
    assert norms["ih"].running is not None
    mean, var = norms["ih"].running
    norms["ih"] = replace(
        norms["ih"], gain=np.full_like(norms["ih"].gain, 3e38), running=(mean, np.full_like(var, 0.01))
    )
    refusal = pytest.raises(ValueError, match=r"^factors of the normalisers are beyond float32")
    with np.errstate(over="ignore"), refusal:
        export_c(packed, tmp_path)


@pytest.fixture
def saved(tmp_path) -> Path:
    path = tmp_path / "small.net.safetensors"
    pack(LSTM(5, 6, quantizer=Sign()), activation_bits=8).save(path)
    return path


def test_the_command_line_exports_what_python_does(saved, tmp_path, capsys):
    out = tmp_path / "out"
    assert cli.main(["export", str(saved), "--to", "c", "--out", str(out), "--name", "net"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"{out / 'net.h'} and net.c"
    assert re.fullmatch(r"[\d,]+ bytes of constants, [\d,]+ bytes of state for each stream", printed[1])
    assert "#define QLSTM_ACTIVATION_BITS 8\n" in (out / "net.c").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, f"name 'small.net' {NO_IDENTIFIER}; 'small_net' would do"),
        ({"--name": "int"}, "name 'int' is a keyword of C: choose another, such as 'int_model'"),
        ({"--name": "net", "--out": "{saved}"}, "{saved}: Not a directory"),
        (
            {"--name": "net", "--out": "{folder}"},
            "{folder} holds 'small.net.safetensors', which no export wrote: choose a folder of its own",
        ),
        ({"--to": "d"}, "argument --to: invalid choice: 'd' (choose from 'c')"),
    ],
)  # fmt: skip
def test_mistakes_on_the_command_line_are_one_line(saved, tmp_path, capsys, change, message):
    known = {"saved": str(saved), "folder": str(tmp_path)}
    options = {"--to": "c", "--out": str(tmp_path / "out")} | {
        k: v.format(**known) for k, v in change.items()
    }
    with pytest.raises(SystemExit) as stopped:
        cli.main(["export", str(saved), *(word for pair in options.items() for word in pair)])
    assert stopped.value.code == 2
    printed = capsys.readouterr().err
    assert printed == f"qlstm: error: {message.format(**known)}\n"
