"""A packed network as constants of C: its bits, its numbers, and the structs that say where they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qlstm_core.kernels.feature_moments import LAYER, NO_NORM, RMS
from qlstm_core.packed.engine.program import LANES, NOWHERE, Program
from qlstm_core.packed.kernels.layout import LINES, RUN

_BLOCK = LINES // 2
"""Bytes of a block of four columns."""
_PER_LINE = 16
_NORMS = {NO_NORM: "QLSTM_NO_NORM", RMS: "QLSTM_RMS", LAYER: "QLSTM_LAYER_NORM"}


class Constants:
    """The constants of a network, of which equal ones are kept once.

    Args:
        program: the network, laid out for a span of four columns.

    Attributes:
        nbytes: bytes of the blocks and the numbers.

    Raises:
        ValueError: a number that is not finite in float32.
    """

    def __init__(self, program: Program) -> None:
        self._program = program
        blocks, numbers = _Array("qlstm_blocks"), _Array("qlstm_numbers")
        self._put_block, self._put = blocks.put, numbers.put
        self._matrices = [self._matrix(m) for m in program.matrices]
        self._cells = [self._cell(cell) for cell in program.cells]
        self._blocks, self._numbers = blocks.values(np.uint8), numbers.values(np.float32)
        if not np.isfinite(self._numbers).all():
            raise ValueError("factors of the normalisers are beyond float32: the network has diverged")
        self.nbytes = self._blocks.nbytes + self._numbers.nbytes

    def text(self) -> str:
        """Return ``qlstm_blocks``, ``qlstm_numbers``, ``qlstm_matrices`` and ``qlstm_cells`` in C."""
        return "".join(
            [
                *_array("uint8_t", "qlstm_blocks", [str(value) for value in self._blocks.tolist()]),
                *_array("float", "qlstm_numbers", [literal(value) for value in self._numbers]),
                *_structs("qlstm_matrix", "qlstm_matrices", self._matrices),
                *_structs("qlstm_cell", "qlstm_cells", self._cells),
            ]
        )

    def _floats(self, at: int, count: int) -> NDArray[np.float32]:
        values: NDArray[np.float32] = self._program.floats[at : at + count]
        return values

    def _matrix(self, m: Any) -> dict[str, str]:
        names = ("rows", "cols", "tiles", "groups", "sums", "pairing")
        fields = {name: str(int(m[name])) for name in names}
        if m["sums"] == 0:
            tiles = self._floats(m["at"], m["tiles"] * m["cols"] * LANES).reshape(-1, m["cols"], LANES)
            kept = m["rows"] % LANES or LANES  # the other rows of the last tile only fill it up
            weights = np.concatenate([tiles[:-1].reshape(-1), tiles[-1, :, :kept].reshape(-1)])
            return fields | {"weights": self._put(weights)}
        size = m["tiles"] * m["groups"] * _BLOCK
        scales = self._floats(m["scales"], m["sums"] * m["rows"]).reshape(m["sums"], m["rows"])
        shared = _shared(scales)
        fields |= {
            "shared": str(shared),
            "blocks": self._put_block(self._program.blocks[m["at"] : m["at"] + size]),
            "scales": self._put(scales[:, ::shared]),
        }
        if m["offsets"] != NOWHERE:
            fields["offsets"] = self._put(self._floats(m["offsets"], m["rows"]))
        return fields

    def _cell(self, cell: Any) -> dict[str, str]:
        fields = {"groups": str(int(cell["split"]))}
        fields |= {name: str(int(cell[name])) for name in ("units", "parts", "steps")}
        for key in ("ih", "hh", "cell"):
            fields[f"norm_{key}"] = _NORMS[int(cell[f"norm_{key}"])]
            fields[f"eps_{key}"] = literal(cell[f"eps_{key}"])
        matrices = {name: name for name in ("inner_ih", "inner_hh", "outer_ih", "outer_hh")}
        for name, column in (matrices | {"projection": "hr"}).items():
            if cell[column] != NOWHERE:
                fields[name] = f"qlstm_matrices + {int(cell[column])}"
        gates = 3 if cell["gru"] else 4
        own = int(cell["steps"] * cell["units"])
        segments = gates * own * int(cell["split"])
        sizes = {
            "factor_ih": segments,
            "factor_hh": segments,
            "shift": segments,
            "new_shift": own,
            "factor_cell": own * int(cell["split"]),
            "shift_cell": own * int(cell["split"]),
        }
        for name, size in sizes.items():
            values = self._floats(cell[name], size)
            multiplies = name in ("factor_ih", "factor_hh")
            if cell[name] != NOWHERE and not (multiplies and (values == 1).all()):
                fields[name] = self._put(values)
        return fields


class _Array:
    """Parts one after the other in one array of C."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._parts: list[NDArray[Any]] = []
        self._starts: dict[bytes, int] = {}
        self._size = 0

    def put(self, values: NDArray[Any]) -> str:
        """Append a part, unless it is there already, and return a pointer to it, as C writes it."""
        flat = np.ascontiguousarray(values).reshape(-1)
        content = flat.tobytes()
        if content not in self._starts:
            self._starts[content] = self._size
            self._parts.append(flat)
            self._size += flat.size
        return f"{self.name} + {self._starts[content]}"

    def values(self, dtype: type[Any]) -> NDArray[Any]:
        return np.concatenate([np.zeros(0, dtype), *self._parts])


def _shared(scales: NDArray[np.float32]) -> int:
    """Return how many neighbouring rows have the same scales, of ``(sums, rows)``; 1 where it is few."""
    changes = np.flatnonzero((scales[:, 1:] != scales[:, :-1]).any(0)) + 1
    shared = int(np.gcd.reduce([scales.shape[1], *changes.tolist()]))
    return shared if shared >= RUN else 1


def literal(value: Any) -> str:
    """Return a float32 as C writes it, with as many digits as tell it from all others."""
    return f"{np.float32(value)!s}f"


def _array(kind: str, name: str, values: list[str]) -> Iterator[str]:
    if values:
        yield f"\nstatic const {kind} {name}[{len(values)}] = {{\n"
        for start in range(0, len(values), _PER_LINE):
            yield f"    {', '.join(values[start : start + _PER_LINE])},\n"
        yield "};\n"


def _structs(kind: str, name: str, structs: Iterable[Mapping[str, str]]) -> Iterator[str]:
    """Yield an array of structs; what a struct does not name is 0 or NULL."""
    given = list(structs)
    yield f"\nstatic const {kind} {name}[{len(given)}] = {{\n"
    for fields in given:
        yield "    {\n"
        yield from (f"        .{field} = {value},\n" for field, value in fields.items())
        yield "    },\n"
    yield "};\n"
