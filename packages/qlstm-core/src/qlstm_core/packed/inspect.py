"""What is in a packed network, in words and numbers."""

from __future__ import annotations

import math

from qlstm_core.packed import file_format
from qlstm_core.packed.kernels.choose import choose
from qlstm_core.packed.network import Bits, Config, Matrix, Network, PackedCell
from qlstm_core.printable import printable


def summarize(network: Network, activation_bits: int) -> list[str]:
    """Return lines that say what ``network`` is, what each part of it takes, and how it will run here."""
    config = network.config
    lines = [title(config), *(printable(f"{name} {label}") for name, label in config.labels.items())]
    lines.append(f"runs with kernel {choose().name}, {activation_bits}-bit tables")
    rows = [("PART", "SHAPE", "STORED AS", "BYTES")]
    for (layer, direction), cell in zip(config.cells(), network.cells, strict=True):
        name = f"layer {layer}{' reverse' if direction else ''}"
        for key, matrix in cell.matrices.items():
            rows.append((f"{name} {key}", _shape(matrix.shape), _kind(matrix), f"{matrix.nbytes:,}"))
        for key, (form, size) in _others(cell).items():
            rows.append((f"{name} {key}", form, "float32", f"{size:,}"))
    dense = sum(4 * math.prod(m.shape) for cell in network.cells for m in cell.matrices.values())
    size = file_format.nbytes(network)
    rows.append(("total", "", f"weights as float32: {dense:,}", f"{size:,}"))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines.append("")
    for part, shape, kind, count in rows:
        columns = part.ljust(widths[0]), shape.ljust(widths[1]), kind.ljust(widths[2]), count.rjust(widths[3])
        lines.append("  ".join(columns))
    return lines


def title(config: Config) -> str:
    """Return the family and the sizes of a network in one line."""
    kind = config.cell.name.upper()
    if config.rank is not None:
        kind = f"factorized {kind} of rank {config.rank}"
    elif max(config.groups) > 1:
        kind = f"{kind} of {', '.join(map(str, config.groups))} groups"
    words = [f"{kind}: {config.input_size} inputs, {config.hidden_size} units"]
    if config.proj_size:
        words.append(f"projected to {config.proj_size}")
    words.append(f"{config.num_layers} layer{'s' if config.num_layers > 1 else ''}")
    if config.bidirectional:
        words.append("both directions")
    return ", ".join(words)


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


def _kind(matrix: Matrix) -> str:
    if not isinstance(matrix, Bits):
        return "float32"
    count = len(matrix.planes)
    return f"{count} bit{'s' if count > 1 else ''}, {matrix.scales.size:,} scales"


def _others(cell: PackedCell) -> dict[str, tuple[str, int]]:
    """Return shape and bytes of all but the matrices, the tensors of one normaliser together."""
    found: dict[str, tuple[str, int]] = {}
    for name, array in cell.tensors().items():
        part = name.split(".")[0].replace("_", " ")
        shape, size = found.get(part, ("", 0))
        found[part] = (
            f"{shape} + {_shape(array.shape)}" if shape else _shape(array.shape),
            size + array.nbytes,
        )
    return found
