"""Packed layers and models as files: safetensors, with a JSON header that says what the tensors are.

A file holds each array once, as its quantizers and normalisers count their storage; the layout
that the kernels read is made again at loading. The header's digest covers everything else, so an altered file
is refused; but it is no signature: whoever can write files can write a right one.

Nothing in a file is executed, and no size in it is believed: every expected shape follows from the
configuration and must be that of a tensor which the file really contains before anything is made of it.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import IO, Any, NoReturn

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from qlstm_core.files import replace_file
from qlstm_core.layers.cell import GRU_CELL
from qlstm_core.packed.chain import (
    OUTCOMES,
    Chain,
    EmbeddingStage,
    LinearStage,
    RecurrentStage,
    Stage,
)
from qlstm_core.packed.kernels.layout import MAX_COLUMNS
from qlstm_core.packed.network import (
    PACKED_CELLS,
    Bits,
    Config,
    Level,
    Matrix,
    Network,
    PackedCell,
    PackedNorm,
)
from qlstm_core.packed.vocabulary import Vocabulary

FILE_VERSION = 2
"""Version of the files of whole models; this module reads no later one."""
_LAYER_VERSION = 1  # files of one layer are as they have always been

_KEY = "qlstm"
_LARGEST_HEADER = 100_000_000  # safetensors' own limit
_DTYPES: dict[str, np.dtype[Any]] = {"U8": np.dtype(np.uint8), "F32": np.dtype(np.float32)}
_MAX_PLANES = 8

Tensors = dict[str, NDArray[Any]]


class PackedFileError(ValueError):
    """A file that is no packed network, not a whole one, or of a later version."""


Target = str | os.PathLike[str] | IO[bytes]
"""A path, or a binary file that is open."""


Content = Network | Chain
"""What a file holds: a recurrent network by itself, or a whole model."""


def save(content: Content, file: Target, activation_bits: int) -> None:
    """Write a network or a model to a file.

    Args:
        content: the network or model to write.
        file: a path, where the file will be whole or not at all and replaces one that exists; or a binary
            file that is open for writing.
        activation_bits: bits of a table entry to run with, unless loading says otherwise.
    """
    tensors, about = _dismantle(content)
    version = FILE_VERSION if isinstance(content, Chain) else _LAYER_VERSION
    # Tuples become lists: the digest must be that of what a reader finds.
    about = json.loads(json.dumps({**about, "activation_bits": activation_bits}))
    header = {"version": version, "digest": _digest(about, tensors), **about}
    data = safetensors.numpy.save(tensors, {_KEY: json.dumps(header)})
    if isinstance(file, str | os.PathLike):
        replace_file(file, data)
    else:
        _method(file, "write")(data)


def load(file: Target) -> tuple[Content, int]:
    """Read a network or a model, and its ``activation_bits``.

    Args:
        file: a path, or a binary file that is open for reading; what is left of it is read.

    Raises:
        PackedFileError: a file that is truncated, altered, of a later version, or inconsistent, or a path of
            something else than a file, such as a pipe or a device.
        OSError: a file that cannot be read.
    """
    if not isinstance(file, str | os.PathLike):
        return _read(_method(file, "read"))
    try:
        # A pipe would wait for its other end, and a device may never end.
        if not stat.S_ISREG(os.stat(file).st_mode) and not os.path.isdir(file):
            _fail("not a regular file")
        with open(file, "rb") as opened:
            return _read(opened.read)
    except PackedFileError as error:
        raise PackedFileError(f"{os.fspath(file)}: {error}") from error.__cause__


def _method(file: Any, name: str) -> Callable[..., Any]:
    found = getattr(file, name, None)
    if found is None or isinstance(file, io.TextIOBase):
        given = "a text file" if isinstance(file, io.TextIOBase) else type(file).__name__
        raise TypeError(f"expected a path or a binary file, which can {name} bytes, got {given}")
    method: Callable[..., Any] = found
    return method


def nbytes(content: Content) -> int:
    """Return the bytes of all tensors of a file: its size up to the header."""
    return sum(tensor.nbytes for tensor in _dismantle(content)[0].values())


def name_of(file: Target) -> str:
    """Return what a file is called in messages."""
    return os.fspath(file) if isinstance(file, str | os.PathLike) else "the file"


def _fail(message: str) -> NoReturn:
    raise PackedFileError(message)


def _read(read: Callable[[int], bytes]) -> tuple[Content, int]:
    """Read a file; one that is no packed network is not read beyond its header."""
    start = read(8)
    size = int.from_bytes(start, "little")
    if len(start) < 8 or size > _LARGEST_HEADER or len(text := read(size)) < size:
        _fail("truncated, or no safetensors file")
    header = _header(text)
    return _parse(header, start + text + read(-1))


def _parse(header: dict[str, Any], data: bytes) -> tuple[Content, int]:
    try:
        deserialize: Any = safetensors.deserialize
        entries = deserialize(data)
    except safetensors.SafetensorError as error:
        raise PackedFileError(f"truncated or damaged: {error}") from error
    tensors: Tensors = {}
    for name, entry in entries:
        dtype = _DTYPES.get(entry["dtype"])
        if dtype is None:
            _fail(f"tensor {name!r} is {entry['dtype']}, expected one of {', '.join(_DTYPES)}")
        # frombuffer is read-only, which to compiled code is another type
        tensors[name] = np.frombuffer(entry["data"], dtype).reshape(entry["shape"]).copy()
    version = header.pop("version", None)
    if type(version) is not int or version < 1:
        _fail(f"version must be a positive integer, got {version!r}")
    if version > FILE_VERSION:
        _fail(f"version {version} is newer than {FILE_VERSION}, the newest that this qlstm-core reads")
    if header.pop("digest", None) != _digest(header, tensors):
        _fail("altered: the content is not that of its digest")
    return _content(header, tensors)


def _header(content: bytes) -> dict[str, Any]:
    try:
        outer = json.loads(content.decode(), parse_constant=_refuse)
        text = outer["__metadata__"][_KEY]
        header = json.loads(text, parse_constant=_refuse)
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise PackedFileError(f"no packed network: its header has no {_KEY!r} ({error!r})") from error
    if not isinstance(header, dict):
        _fail(f"no packed network: {_KEY!r} is no object")
    return header


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of a header")


def _digest(content: Mapping[str, Any], tensors: Tensors) -> str:
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name!r} {tensor.dtype.str} {tensor.shape}".encode())
        digest.update(tensor.tobytes())
    return digest.hexdigest()


# From a network or a model to tensors


def _prefix(layer: int, direction: int) -> str:
    return f"l{layer}{'_reverse' if direction else ''}."


def _dismantle(content: Content) -> tuple[Tensors, dict[str, Any]]:
    """Return all tensors, and what they do not say themselves."""
    tensors: Tensors = {}
    if isinstance(content, Chain):
        return tensors, _take_chain(content, tensors)
    return tensors, _take_network(content, "", tensors)


def _take_network(network: Network, place: str, tensors: Tensors) -> dict[str, Any]:
    """Put a network's tensors under names that begin with ``place``; return what they do not say."""
    cells = []
    for where, cell in zip(network.config.cells(), network.cells, strict=True):
        prefix = place + _prefix(*where)
        tensors |= {prefix + name: array for name, array in cell.tensors().items()}
        taken = {key: _take_matrix(m, prefix + key, tensors) for key, m in cell.matrices.items()}
        norms = {
            key: {"statistics": norm.statistics, "centered": norm.centered, "eps": norm.eps}
            for key, norm in cell.norms.items()
        }
        levels = {key: level for key, level in taken.items() if level is not None}
        cells.append({"levels": levels, "norms": norms})
    return {"config": {**vars(network.config), "cell": network.config.cell.name}, "cells": cells}


def _take_matrix(matrix: Matrix, name: str, tensors: Tensors) -> dict[str, Any] | None:
    if not isinstance(matrix, Bits):
        tensors[f"{name}.weight"] = matrix
        return None
    tensors[f"{name}.signs"] = matrix.signs
    if len(matrix.scales):
        tensors[f"{name}.scales"] = matrix.scales
    return {"planes": matrix.planes, "offset": matrix.offset}


def _take_chain(chain: Chain, tensors: Tensors) -> dict[str, Any]:
    stages: list[dict[str, Any]] = []
    owners: dict[int, int] = {}
    for index, stage in enumerate(chain.stages):
        about: dict[str, Any] = {"name": stage.name}
        if isinstance(stage, RecurrentStage):
            about |= {"kind": "recurrent", **_take_network(stage.network, f"{index}.", tensors)}
            about["start"] = stage.start is not None
            for name, part in zip(stage.network.config.cell.states, stage.start or (), strict=False):
                tensors[f"{index}.start.{name}"] = part
        else:
            about |= {"label": stage.label, "size": stage.matrix.shape[1:], "levels": None}
            about["shares"] = owners.setdefault(id(stage.matrix), index)
            if about["shares"] == index:
                about["levels"] = _take_matrix(stage.matrix, f"{index}.matrix", tensors)
            if isinstance(stage, EmbeddingStage):
                about |= {"kind": "embedding", "padding": stage.padding and stage.padding[0]}
                if stage.padding is not None:
                    tensors[f"{index}.padding"] = stage.padding[1]
            else:
                about |= {"kind": "linear", "bias": stage.bias is not None}
                if stage.bias is not None:
                    tensors[f"{index}.bias"] = stage.bias
        stages.append(about)
    vocabulary = None
    if chain.vocabulary is not None:
        vocabulary = {"symbols": chain.vocabulary.symbols, "separator": chain.vocabulary.separator}
    return {"stages": stages, "outcome": chain.outcome, "vocabulary": vocabulary}


# From tensors to a network or a model


class _Reader:
    """Hands out the tensors of a file, each once, in the shape that the configuration asks for."""

    def __init__(self, tensors: Tensors) -> None:
        self.left = dict(tensors)

    def has(self, name: str) -> bool:
        return name in self.left

    def take(self, name: str, shape: tuple[int | None, ...], dtype: Any = np.float32) -> NDArray[Any]:
        """Return a tensor; an axis of ``None`` may have any size but 0."""
        array = self.left.pop(name, None)
        if array is None:
            _fail(f"tensor {name!r} is missing")
        fits = len(array.shape) == len(shape) and all(
            have == want or (want is None and have) for have, want in zip(array.shape, shape, strict=True)
        )
        if not fits or array.dtype != dtype:
            wanted = "×".join("?" if want is None else str(want) for want in shape)
            _fail(f"tensor {name!r} is {array.dtype} {array.shape}, expected {np.dtype(dtype)} ({wanted})")
        if array.dtype == np.float32 and not np.isfinite(array).all():
            _fail(f"tensor {name!r} holds values that are not finite")
        return array


def _content(header: dict[str, Any], tensors: Tensors) -> tuple[Content, int]:
    bits = header.pop("activation_bits", None)
    if type(bits) is not int or bits not in (8, 12, 16):
        _fail(f"activation_bits must be 8, 12 or 16, got {bits!r}")
    reader = _Reader(tensors)
    content: Content = _chain(reader, header) if "stages" in header else _network(reader, "", header)
    if reader.left:
        _fail(f"tensor {min(reader.left)!r} does not belong to the network")
    return content, bits


def _network(reader: _Reader, place: str, about: dict[str, Any]) -> Network:
    if set(about) != {"config", "cells"}:
        _fail(f"a network is described by the entries config and cells, found {sorted(about)}")
    config, cells = _config(about["config"]), about["cells"]
    # Every cell has tensors: a number of layers that the file cannot hold is refused before it is counted to.
    if not isinstance(cells, list) or len(cells) != config.num_layers * config.directions:
        _fail(f"the header does not describe {config.num_layers} × {config.directions} cells")
    described = zip(config.cells(), cells, strict=True)
    return Network(config, tuple(_cell(reader, place, config, *where, one) for where, one in described))


def _chain(reader: _Reader, about: dict[str, Any]) -> Chain:
    if set(about) != {"stages", "outcome", "vocabulary"}:
        _fail(f"a model is described by the entries outcome, stages and vocabulary, found {sorted(about)}")
    if not isinstance(about["stages"], list) or about["outcome"] not in OUTCOMES:
        _fail(f"stages must be a list and outcome one of {', '.join(OUTCOMES)}")
    stages: list[Stage] = []
    for index, stage in enumerate(about["stages"]):
        stages.append(_stage(reader, index, stage, stages))
    try:
        return Chain(tuple(stages), about["outcome"], _vocabulary(about["vocabulary"]))
    except (TypeError, ValueError) as error:
        raise PackedFileError(str(error)) from error


def _vocabulary(about: Any) -> Vocabulary | None:
    if about is None:
        return None
    if not isinstance(about, dict) or set(about) != {"symbols", "separator"}:
        _fail("a vocabulary is described by the entries separator and symbols")
    if not isinstance(about["symbols"], list):
        _fail("symbols must be a list")
    return Vocabulary(about["symbols"], about["separator"])


_STAGES = {
    "embedding": {"label", "size", "levels", "shares", "padding"},
    "recurrent": {"config", "cells", "start"},
    "linear": {"label", "size", "levels", "shares", "bias"},
}
"""The entries of each kind of stage, beside kind and name."""


def _stage(reader: _Reader, index: int, about: Any, before: list[Stage]) -> Stage:
    kind = about.get("kind") if isinstance(about, dict) else None
    if not isinstance(kind, str) or kind not in _STAGES:
        _fail(f"stage {index} must be one of {', '.join(_STAGES)}, got {kind!r}")
    if set(about) != {"kind", "name", *_STAGES[kind]} or not isinstance(about["name"], str):
        _fail(f"stage {index} must have the entries kind, name, {', '.join(sorted(_STAGES[kind]))}")
    name = about["name"]
    if kind == "recurrent":
        network = _network(reader, f"{index}.", {key: about[key] for key in ("config", "cells")})
        _check_flag(index, "start", about["start"])
        stage = RecurrentStage(name, network)
        if not about["start"]:
            return stage
        states = zip(network.config.cell.states, stage.state_shapes, strict=True)
        start = tuple(reader.take(f"{index}.start.{state}", shape) for state, shape in states)
        return RecurrentStage(name, network, start)
    if not isinstance(about["label"], str):
        _fail(f"stage {index} has the label {about['label']!r}")
    matrix = _stage_matrix(reader, index, about, before)
    _, rows, cols = matrix.shape
    if kind == "linear":
        _check_flag(index, "bias", about["bias"])
        return LinearStage(
            name, about["label"], matrix, reader.take(f"{index}.bias", (rows,)) if about["bias"] else None
        )
    row = about["padding"]
    if row is None:
        return EmbeddingStage(name, about["label"], matrix)
    if type(row) is not int or not 0 <= row < rows:
        _fail(f"stage {index} has padding {row!r}, expected a row from 0 to {rows - 1}")
    return EmbeddingStage(name, about["label"], matrix, (row, reader.take(f"{index}.padding", (cols,))))


def _stage_matrix(reader: _Reader, index: int, about: dict[str, Any], before: list[Stage]) -> Matrix:
    """Return the matrix of a stage: its own, or that of the stage before that it shares."""
    size, shares = about["size"], about["shares"]
    if not isinstance(size, list) or len(size) != 2 or not all(type(n) is int and n > 0 for n in size):
        _fail(f"stage {index} has size {size!r}, expected two positive integers")
    if shares == index and type(shares) is int:
        return _matrix(reader, f"{index}.matrix", (1, size[0], size[1]), about["levels"])
    other = before[shares] if type(shares) is int and 0 <= shares < index else None
    if not isinstance(other, EmbeddingStage | LinearStage) or other.matrix.shape != (1, *size):
        _fail(f"stage {index} shares the matrix of {shares!r}, expected itself or a stage before of its size")
    return other.matrix


def _check_flag(index: int, name: str, value: Any) -> None:
    if type(value) is not bool:
        _fail(f"{name} of stage {index} must be true or false, got {value!r}")


def _config(values: Any) -> Config:
    names = {field.name for field in fields(Config)}
    if not isinstance(values, dict) or set(values) != names:
        _fail(f"the configuration must have the entries {sorted(names)}")
    if not isinstance(values["cell"], str) or values["cell"] not in PACKED_CELLS:
        _fail(f"cell must be one of {', '.join(PACKED_CELLS)}, got {values['cell']!r}")
    for name in ("input_size", "hidden_size", "num_layers", "proj_size"):
        if type(values[name]) is not int or values[name] < (0 if name == "proj_size" else 1):
            _fail(f"{name} must be a positive integer, got {values[name]!r}")
    for name in ("bias", "batch_first", "bidirectional"):
        if type(values[name]) is not bool:
            _fail(f"{name} must be true or false, got {values[name]!r}")
    groups, rank, labels = values["groups"], values["rank"], values["labels"]
    if not isinstance(groups, list) or len(groups) != values["num_layers"]:
        _fail("groups must have one number for each layer")
    if not isinstance(labels, dict) or not all(isinstance(label, str) for label in labels.values()):
        _fail("labels must be texts")
    if rank is not None and (type(rank) is not int or rank < 1):
        _fail(f"rank must be a positive integer, got {rank!r}")
    if values["proj_size"] >= values["hidden_size"]:
        _fail(f"proj_size {values['proj_size']} is not smaller than hidden_size {values['hidden_size']}")
    config = Config(**{**values, "groups": tuple(groups), "cell": PACKED_CELLS[values["cell"]]})
    special = values["proj_size"] or rank is not None or any(count != 1 for count in groups)
    if config.cell == GRU_CELL and special:
        _fail("a GRU has no projection, groups or rank")
    for layer, count in enumerate(groups):
        if type(count) is not int or count < 1 or (rank is not None and count != 1):
            _fail(f"groups must be positive integers, and 1 of factorized weights, got {groups!r}")
        for size in (config.hidden_size, config.output_size, config.layer_input_size(layer)):
            if size % count:
                _fail(f"{count} groups do not divide {size} features")
    return config


def _cell(reader: _Reader, place: str, config: Config, layer: int, direction: int, about: Any) -> PackedCell:
    prefix = place + _prefix(layer, direction)
    shapes = config.shapes(layer)
    levels, norms = _entries(about, "levels", shapes), _entries(about, "norms", ("ih", "hh", "cell"))
    matrices = {
        key: _matrix(reader, f"{prefix}{key}", shape, levels.get(key)) for key, shape in shapes.items()
    }
    groups = config.groups[layer]
    segments, units = config.gates * groups, config.hidden_size // groups
    factors = {
        key: reader.take(f"{prefix}factor_{key}", (segments, units))
        for key in ("ih", "hh")
        if reader.has(f"{prefix}factor_{key}")
    }
    if "cell" in norms and "c" not in config.cell.states:
        _fail(f"a {config.cell.name} has no cell state to normalise")
    described = {
        key: _norm(reader, f"{prefix}norm_{key}", norm, groups if key == "cell" else segments, units)
        for key, norm in norms.items()
    }
    bias = None
    if config.bias:
        separate = len(config.cell.separate)
        bias = reader.take(f"{prefix}bias", (None if separate else segments, units))
        if len(bias) not in (segments, segments + separate):
            _fail(
                f"tensor '{prefix}bias' must have {segments} or {segments + separate} rows, got {len(bias)}"
            )
    return PackedCell(matrices, factors, described, bias)


def _entries(about: Any, name: str, allowed: Any) -> dict[str, Any]:
    found = about.get(name) if isinstance(about, dict) and set(about) == {"levels", "norms"} else None
    if not isinstance(found, dict) or not set(found) <= set(allowed):
        _fail(f"{name} of a cell must be an object with some of the entries {', '.join(allowed)}")
    return found


def _matrix(reader: _Reader, name: str, shape: tuple[int, int, int], about: Any) -> Matrix:
    gates, rows, cols = shape
    if about is None:
        return reader.take(f"{name}.weight", shape)
    if cols > MAX_COLUMNS:
        _fail(f"{name} has {cols} columns, at most {MAX_COLUMNS} fit")
    if not isinstance(about, dict) or set(about) != {"planes", "offset"}:
        _fail(f"levels of {name} must have the entries offset and planes")
    planes, offset = about["planes"], about["offset"]
    if not isinstance(planes, list) or not 1 <= len(planes) <= _MAX_PLANES:
        _fail(f"{name} must have 1 to {_MAX_PLANES} planes")
    scales = np.zeros((0, gates, 1), np.float32)
    if reader.has(f"{name}.scales"):
        scales = reader.take(f"{name}.scales", (None, gates, None))
        if scales.shape[2] not in (1, rows):
            _fail(f"tensor '{name}.scales' must have 1 or {rows} columns, got {scales.shape[2]}")
    signs = reader.take(f"{name}.signs", (-(-len(planes) * math.prod(shape) // 8),), np.uint8)
    levels = tuple(_level(name, level, len(scales)) for level in planes)
    return Bits(signs, shape, scales, levels, None if offset is None else _level(name, offset, len(scales)))


def _level(name: str, level: Any, stored: int) -> Level:
    if (
        not isinstance(level, list)
        or len(level) != 2
        or type(level[0]) is not int
        or not -1 <= level[0] < stored
        or not _is_number(level[1])
    ):
        _fail(f"{name} has a scale made of {level!r}")
    return level[0], float(level[1])


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= float(np.finfo(np.float32).max)


def _norm(reader: _Reader, name: str, about: Any, segments: int, units: int) -> PackedNorm:
    if not isinstance(about, dict) or set(about) != {"statistics", "centered", "eps"}:
        _fail(f"{name} must have the entries statistics, centered and eps")
    statistics, centered, eps = about["statistics"], about["centered"], about["eps"]
    if statistics not in ("features", "batch") or type(centered) is not bool:
        _fail(f"{name} has statistics {statistics!r}, centered {centered!r}")
    if not _is_number(eps) or eps < 0:
        _fail(f"{name} has eps {eps!r}")
    shape = (segments, units)
    gain = reader.take(f"{name}.gain", shape)
    bias = reader.take(f"{name}.bias", shape) if reader.has(f"{name}.bias") else None
    running = None
    if statistics == "batch":
        mean = reader.take(f"{name}.mean", (None, *shape))
        running = (mean, reader.take(f"{name}.var", mean.shape))
        if running[1].min() + eps <= 0:
            _fail(f"{name} has a running variance that is not positive")
    return PackedNorm(statistics, centered, float(eps), gain, bias, running)
