"""What is in a packed network or model, in words and numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator

from qlstm_core.packed import file_format
from qlstm_core.packed.chain import Chain, EmbeddingStage, LinearStage, RecurrentStage
from qlstm_core.packed.network import Bits, Config, Floats, Matrix, Network, PackedCell
from qlstm_core.printable import printable

_Row = tuple[str, str, str, str]
"""Part, shape, form and bytes."""


def summarize(content: file_format.Content, activation_bits: int) -> list[str]:
    """Return lines that say what is in a file, what each part of it takes, and how it will run here."""
    rows: list[_Row] = [("PART", "SHAPE", "STORED AS", "BYTES")]
    if isinstance(content, Chain):
        lines = _about_chain(content)
        rows += _chain_rows(content)
        dense = content.float32_nbytes
        what = "all"
    else:
        lines = _about_network(content.config)
        rows += _network_rows(content, "")
        dense = sum(4 * math.prod(m.shape) for cell in content.cells for m in cell.matrices.values())
        what = "weights"
    lines.append(f"runs with {activation_bits}-bit tables")
    size = file_format.nbytes(content)
    rows.append(("total", "", f"{what} as float32: {dense:,}", f"{size:,}"))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines.append("")
    for part, shape, kind, count in rows:
        columns = part.ljust(widths[0]), shape.ljust(widths[1]), kind.ljust(widths[2]), count.rjust(widths[3])
        lines.append("  ".join(columns))
    return lines


def _about_network(config: Config) -> list[str]:
    labels = (printable(f"{name} {label}") for name, label in config.labels.items())
    return [f"{config.kind}: {config.sizes}", *labels]


def _about_chain(chain: Chain) -> list[str]:
    lines = [f"model of {len(chain.stages)} stages, gives {chain.outcome}"]
    if chain.vocabulary is not None:
        kind = "words" if chain.vocabulary.separator else "characters"
        lines.append(f"vocabulary of {len(chain.vocabulary):,} {kind}")
    for stage in chain.stages:
        if isinstance(stage, RecurrentStage):
            about = "; ".join(_about_network(stage.network.config))
        else:
            kind = "embedding" if isinstance(stage, EmbeddingStage) else "linear"
            about = f"{kind}, quantizer {stage.label}"
        lines.append(printable(f"{stage.name}: {about}"))
    return lines


def _network_rows(network: Network, place: str) -> Iterator[_Row]:
    for (layer, direction), cell in zip(network.config.cells(), network.cells, strict=True):
        name = f"{place}layer {layer}{' reverse' if direction else ''}"
        for key, matrix in cell.matrices.items():
            yield f"{name} {key}", _shape(matrix.shape), _kind(matrix), f"{matrix.nbytes:,}"
        for key, (form, size) in _others(cell).items():
            yield f"{name} {key}", form, "float32", f"{size:,}"


def _chain_rows(chain: Chain) -> Iterator[_Row]:
    owners: dict[int, str] = {}
    for stage in chain.stages:
        name = printable(stage.name)
        others: dict[str, Floats] = {}
        if isinstance(stage, RecurrentStage):
            yield from _network_rows(stage.network, f"{name} ")
            states = stage.network.config.cell.states
            others = {f"start {s}": part for s, part in zip(states, stage.start or (), strict=False)}
        else:
            owner = owners.setdefault(id(stage.matrix), name)
            own = owner == name
            kind = _kind(stage.matrix) if own else f"that of {owner}"
            size = f"{stage.matrix.nbytes:,}" if own else "0"
            yield f"{name} weight", _shape(stage.matrix.shape[1:]), kind, size
            if isinstance(stage, LinearStage) and stage.bias is not None:
                others["bias"] = stage.bias
            if isinstance(stage, EmbeddingStage) and stage.padding is not None:
                others[f"row {stage.padding[0]}"] = stage.padding[1]
        for key, array in others.items():
            yield f"{name} {key}", _shape(array.shape), "float32", f"{array.nbytes:,}"


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
