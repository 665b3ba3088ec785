"""A packed network as one header and one C99 file, which need nothing but the C library.

The file consists of the runtime, which is the same for all, the network's constants and the functions that
the header declares: ``templates/``.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from qlstm_core import __version__
from qlstm_core.export.constants import Constants
from qlstm_core.files import remove_leftovers, replace_file
from qlstm_core.layers.cell import GRU_CELL
from qlstm_core.packed.engine.program import Program, build
from qlstm_core.packed.layer import PackedLayer
from qlstm_core.packed.network import Network

STACK_BYTES = 4096
"""More than all functions of the runtime take of the stack: none of their arrays grows with a network."""

_SPAN = 4
_LARGEST = 2**31 - 1
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_KEYWORDS = {
    "alignas", "alignof", "auto", "bool", "break", "case", "char", "const", "constexpr", "continue",
    "default", "do", "double", "else", "enum", "extern", "false", "float", "for", "goto", "if", "inline",
    "int", "long", "nullptr", "register", "restrict", "return", "short", "signed", "sizeof", "static",
    "static_assert", "struct", "switch", "thread_local", "true", "typedef", "typeof", "typeof_unqual",
    "union", "unsigned", "void", "volatile", "while",
}  # fmt: skip
_HEADERS = {
    "arm_neon", "assert", "complex", "ctype", "errno", "fenv", "float", "immintrin", "inttypes", "iso646",
    "limits", "locale", "math", "setjmp", "signal", "stdalign", "stdarg", "stdatomic", "stdbit",
    "stdbool", "stdckdint", "stddef", "stdint", "stdio", "stdlib", "stdnoreturn", "string", "tgmath",
    "threads", "time", "uchar", "wasm_simd128", "wchar", "wctype",
}  # fmt: skip
MARK = "Written by qlstm-core"
"""How the comment at the top of an exported file begins."""


@dataclass(frozen=True)
class CExport:
    """What :func:`export_c` wrote.

    Args:
        header, source: the two files.
        constant_bytes: bytes of weights and other constants, without code.
        state_bytes: bytes of the state of one stream, with the room to compute in.
        stack_bytes: more than any call takes of the stack.
    """

    header: Path
    source: Path
    constant_bytes: int
    state_bytes: int
    stack_bytes: int


def export_c(packed: PackedLayer, folder: str | os.PathLike[str], *, name: str = "model") -> CExport:
    """Write a packed network as ``NAME.h`` and ``NAME.c``.

    Args:
        packed: what :func:`qlstm_core.pack` or :func:`qlstm_core.load_packed` returned.
        folder: where the two files go; it is made where there is none. What an export wrote there before is
            replaced.
        name: begins the names of the two files and of all that the header declares: an identifier of C.

    Raises:
        TypeError: no packed network.
        ValueError: a name that is no identifier, or one that C or its library has taken; sizes beyond int32.
        FileExistsError: a folder that holds anything which no export wrote.
        OSError: a file that cannot be written.
    """
    if not isinstance(packed, PackedLayer):
        raise TypeError(f"expected a packed network, got {type(packed).__name__}: pack(layer) makes one")
    return export_network(packed.network, packed.activation_bits, folder, name)


def export_network(
    network: Network, activation_bits: int, folder: str | os.PathLike[str], name: str
) -> CExport:
    """Write a network that need not run here; see :func:`export_c`."""
    _check_name(name)
    header, source = (Path(folder) / f"{name}.{ending}" for ending in ("h", "c"))
    for path in (header, source):
        remove_leftovers(path)
    _check_folder(Path(folder))
    program = build(network, activation_bits, _SPAN)
    fields, texts = _generate(program, name)
    Path(folder).mkdir(parents=True, exist_ok=True)
    for path, text in zip((header, source), texts, strict=True):
        replace_file(path, text)
    return CExport(header, source, *(fields[f"{what}_bytes"] for what in ("constant", "state", "stack")))


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        fitting = re.sub(r"\W|^(?=[\d_])", "_", name, flags=re.ASCII).strip("_")
        hint = f"; {fitting!r} would do" if _NAME.fullmatch(fitting) else ""
        raise ValueError(
            f"name {name!r} is no identifier of C: a letter, then letters, digits and underscores{hint}"
        )
    if name in _KEYWORDS:
        raise ValueError(f"name {name!r} is a keyword of C: choose another, such as {name + '_model'!r}")
    if name.lower() in _HEADERS:
        raise ValueError(
            f"name {name!r} would hide the header <{name.lower()}.h>: choose another, such as "
            f"{name + '_model'!r}"
        )


def _check_folder(folder: Path) -> None:
    """Refuse a folder that holds what no export wrote.

    Raises:
        FileExistsError: names the folder and what is in it.
    """
    for path in sorted(folder.iterdir()) if folder.exists() else ():
        if not _is_export(path):
            raise FileExistsError(
                f"{os.fspath(folder)} holds {path.name!r}, which no export wrote: choose a folder of its own"
            )


def _is_export(path: Path) -> bool:
    if path.suffix not in (".h", ".c") or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.readline().startswith(f"/* {MARK}".encode())


def _generate(program: Program, name: str) -> tuple[dict[str, Any], tuple[str, str]]:
    """Return what the templates leave open, and the texts of header and source.

    Raises:
        ValueError: sizes beyond int32.
    """
    constants = Constants(program)
    fields = _fields(program, name) | {"constant_bytes": constants.nbytes}
    for what in ("constant", "state"):
        if (size := fields[f"{what}_bytes"]) > _LARGEST:
            raise ValueError(f"{what}s of {size:,} bytes are beyond int32: at most {_LARGEST:,} are possible")
    begin, functions, header = (_template(part) for part in ("begin.c", "functions.c", "header.h"))
    fixed = _template("runtime.c") + constants.text()
    # Only all of an export's text tells it from others.
    digest = hashlib.sha256((fixed + begin + functions + header + repr(fields)).encode()).hexdigest()
    fields["digest"] = f"0x{digest[:8]}u"
    source = Template(begin).substitute(fields) + fixed + Template(functions).substitute(fields)
    return fields, (Template(header).substitute(fields), source)


def _fields(program: Program, name: str) -> dict[str, Any]:
    """Return what the templates leave open."""
    config = program.config
    cells, output = config.num_layers * config.directions, config.output_size * config.directions
    has_c = "c" in config.cell.states
    room = _room(program)
    state = cells * (config.output_size + (config.hidden_size if has_c else 0)) + 1
    return {
        "name": name,
        "upper": name.upper(),
        "title": "\n   ".join(_comment(program)),
        "mark": f"{MARK} {__version__}: export again rather than edit.",
        "activation_bits": program.activation_bits,
        "gru": int(config.cell == GRU_CELL),
        "input_size": config.input_size,
        "hidden": config.hidden_size,
        "features": config.output_size,
        "output_size": output,
        "layers": config.num_layers,
        "directions": config.directions,
        "cells": cells,
        "between": output if config.bidirectional and config.num_layers > 1 else 0,
        "state_bytes": 4 * state + sum(size * count for _, size, _, count in room),
        "stack_bytes": STACK_BYTES,
        "order": "(layers, directions, features)" if config.bidirectional else "(layers, features)",
        "cell_state": f"    float c[{cells}][{config.hidden_size}]; /* cell state */\n" if has_c else "",
        "c": "state->c[0]" if has_c else "NULL",
        "states": "h and c" if has_c else "h",
        "room": "\n".join(f"        {kind} {part}[{count}];" for kind, _, part, count in room),
        "members": "\n".join(f"        .{part} = state->room.{part}," for _, _, part, _ in room),
    }


def _room(program: Program) -> list[tuple[str, int, str, int]]:
    """Return type, bytes of the type, name and count of each array that a step computes in."""
    config, m = program.config, program.matrices
    gates = config.gates * config.hidden_size
    room = [
        ("float", 4, "vector", int(np.maximum(_SPAN * m["groups"], m["cols"]).max())),
        ("uint16_t", 2, "tables", 2**_SPAN * int(m["groups"].max())),
        ("float", 4, "low_rank", config.rank or 0),
        ("float", 4, "input_side", gates),
        ("float", 4, "recurrent_side", gates),
        ("float", 4, "raw", config.hidden_size if config.proj_size else 0),
    ]
    return [part for part in room if part[-1]]


def _comment(program: Program) -> list[str]:
    """Return what the network is, in characters that cannot end a comment."""
    config = program.config
    lines = [f"{config.kind}: {config.sizes}", *(f"{key} {label}" for key, label in config.labels.items())]
    lines.append(f"{program.activation_bits}-bit tables")
    return [re.sub(r"[^\w .,:;=()+-]", "?", line, flags=re.ASCII) for line in lines]


def _template(name: str) -> str:
    return files("qlstm_core.export").joinpath("templates", name).read_text("utf-8")
