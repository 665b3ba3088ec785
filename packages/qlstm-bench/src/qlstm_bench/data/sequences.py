"""Sequences with a label each: published ones, an ``.npz`` of the user's, or a torch Dataset."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from qlstm_bench.data.npz import read_npz
from qlstm_bench.data.text import check_splittable, split_in_order
from qlstm_bench.errors import DataError

Values = NDArray[Any]
Labels = NDArray[np.int64]
Part = tuple[Values, Labels]

MOST = 2**18
"""Labels and tokens are below this: each has its own row of weights, and larger numbers are names."""

_PARTS = ("train", "valid", "test")
_SMALLEST = 10
_FLOATS = ("float16", "float32", "float64")
_LARGEST_FLOAT = float(np.finfo(np.float32).max)

_WHOLE = frozenset({"x", "y"})
_SPLIT = frozenset({"x_train", "y_train", "x_test", "y_test"})
_LAYOUTS = (_WHOLE, _SPLIT, _SPLIT | {"x_valid", "y_valid"})


@dataclass(frozen=True)
class Sequences:
    """Sequences of one length, each with a label.

    Args:
        name: the dataset's name, or the file's.
        train: values and labels: values are ``(n, T)``, one number a step, or ``(n, T, features)``; floating
            point, ``uint8`` for pixels (0 to 255 stands for 0 to 1), or any other integers for tokens. Labels
            are ``(n,)``, from 0.
        valid, test: likewise, with values of the same dtype.
        classes: number of labels.
        sha256: SHA-256 of the bytes that they were made from.
    """

    name: str
    train: Part
    valid: Part
    test: Part
    classes: int
    sha256: str

    def split(self, name: str) -> Part:
        """Return values and labels of ``"train"``, ``"valid"`` or ``"test"``."""
        return {"train": self.train, "valid": self.valid, "test": self.test}[name]

    @cached_property
    def tokens(self) -> int:
        """How many tokens there are, where the values are tokens; else 0."""
        values = self.train[0]
        if values.dtype == np.uint8 or not np.issubdtype(values.dtype, np.integer):
            return 0
        return 1 + max(int(part[0].max()) for part in (self.train, self.valid, self.test))

    @property
    def features(self) -> int:
        """Numbers at each step."""
        values = self.train[0]
        return int(values.shape[2]) if values.ndim == 3 else 1


def make_sequences(name: str, parts: Mapping[str, Part], sha256: str) -> Sequences:
    """Return checked sequences.

    Args:
        name: what to call them in messages and reports.
        parts: ``train``, ``valid`` and ``test``.
        sha256: SHA-256 of the bytes that they were made from.

    Raises:
        DataError: shapes, dtypes, counts or labels that do not fit.
    """
    checked = {part: _check(f"{name}, {part}", *values) for part, values in parts.items()}
    shapes = {part: values.shape[1:] for part, (values, _) in checked.items()}
    if len(set(shapes.values())) > 1:
        raise DataError(f"{name}: the parts' sequences have different shapes: {shapes}")
    dtypes = {part: values.dtype for part, (values, _) in checked.items()}
    if len(set(dtypes.values())) > 1:
        listed = ", ".join(f"{part} {dtype}" for part, dtype in dtypes.items())
        raise DataError(
            f"{name}: the parts' sequences have different dtypes: {listed}; the dtype decides how they are "
            "read (uint8 is scaled to 0 … 1, other integers are tokens): convert them to one"
        )
    classes = 1 + int(checked["train"][1].max())
    for part, (_, labels) in checked.items():
        if labels.max() >= classes:
            raise DataError(
                f"{name}, {part}: has label {labels.max()}, training has labels from 0 to {classes - 1} only"
            )
    if classes < 2:
        raise DataError(f"{name}: all training labels are 0; expected at least two classes")
    return Sequences(name, checked["train"], checked["valid"], checked["test"], classes, sha256)


def split_sequences(name: str, values: Values, labels: Values, sha256: str) -> Sequences:
    """Return sequences split 80/10/10 % after a shuffle that is always the same.

    Raises:
        DataError: as :func:`make_sequences`, or fewer than ten sequences.
    """
    values, labels = _check(name, values, labels)
    check_splittable(name, len(values), "sequences", _SMALLEST)
    order = np.random.default_rng(0).permutation(len(values))
    first, second = split_in_order(len(values))
    cuts = dict(zip(_PARTS, np.split(order, [first, second]), strict=True))
    return make_sequences(name, {part: (values[cut], labels[cut]) for part, cut in cuts.items()}, sha256)


def load_npz(path: Path) -> Sequences:
    """Return the sequences of an ``.npz`` file.

    It holds ``x`` and ``y``, which are split 80/10/10 % after a shuffle; or ``x_train``, ``y_train``,
    ``x_test``, ``y_test`` and maybe ``x_valid``, ``y_valid``: without these the last tenth of the training
    part validates.

    Raises:
        DataError: not such a file.
    """
    arrays, sha256 = read_npz(
        path,
        _LAYOUTS,
        "x and y, or x_train, y_train, x_test and y_test (and maybe x_valid and y_valid), alone",
    )
    if "x" in arrays:
        return split_sequences(path.name, arrays["x"], arrays["y"], sha256)
    parts = {part: (arrays[f"x_{part}"], arrays[f"y_{part}"]) for part in _PARTS if f"x_{part}" in arrays}
    if "valid" not in parts:
        x, y = _check(f"{path.name}, train", *parts["train"])
        cut = len(x) * 9 // 10
        parts |= {"train": (x[:cut], y[:cut]), "valid": (x[cut:], y[cut:])}
    return make_sequences(path.name, parts, sha256)


def from_dataset(name: str, data: Any) -> Sequences:
    """Return the sequences of a torch Dataset, or of a mapping of ``train``, ``valid``, ``test`` to one.

    Args:
        name: what to call them.
        data: each with ``len()`` and items ``(sequence, label)``; a sequence is ``(T,)`` or
            ``(T, features)``. A single one is split 80/10/10 % after a shuffle.

    Raises:
        DataError: items of another form.
    """
    if isinstance(data, Mapping):
        if set(data) != set(_PARTS):
            raise DataError(
                f"{name}: expected the parts {', '.join(_PARTS)}, got {', '.join(map(str, data))}"
            )
        parts = {part: _collect(f"{name}, {part}", data[part]) for part in _PARTS}
        return make_sequences(name, parts, _hash_arrays([array for part in parts.values() for array in part]))
    values, labels = _collect(name, data)
    return split_sequences(name, values, labels, _hash_arrays([values, labels]))


def _collect(name: str, dataset: Any) -> Part:
    try:
        pairs = (dataset[index] for index in range(len(dataset)))
        items = [(_as_array(values), _as_label(label)) for values, label in pairs]
        dtypes = {values.dtype for values, _ in items}
        if len(dtypes) > 1:
            raise TypeError(f"sequences of different dtypes: {', '.join(sorted(map(str, dtypes)))}")
        labels = np.array([label for _, label in items], dtype=np.int64)
        return np.stack([values for values, _ in items]), labels
    except Exception as error:  # whatever the user's own code raises
        reason = " ".join(str(error).split())
        raise DataError(
            f"{name}: expected a dataset with a length and items (sequence, label), all sequences of one "
            f"shape and dtype; {type(dataset).__name__} failed with {type(error).__name__}: {reason}"
        ) from error


def _as_array(values: Any) -> Values:
    """Return a tensor, of any device and with or without gradient, or anything else as an array."""
    return values.numpy(force=True) if isinstance(values, Tensor) else np.asarray(values)


def _as_label(label: Any) -> int:
    whole = int(label)
    if whole != label:
        raise ValueError(f"a label must be a whole number, got {label!r}")
    return whole


def _hash_arrays(arrays: Sequence[Values]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _check(name: str, values: Values, labels: Values) -> Part:
    if values.ndim not in (2, 3) or 0 in values.shape:
        raise DataError(
            f"{name}: sequences must have shape (n, T) or (n, T, features), got {tuple(values.shape)}"
        )
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    if labels.shape != values.shape[:1] or labels.dtype.kind not in "iu":
        raise DataError(
            f"{name}: labels must be {len(values)} integers, one for each sequence, "
            f"got {labels.dtype} {tuple(labels.shape)}"
        )
    _check_values(name, values)
    if labels.min() < 0:
        raise DataError(f"{name}: labels must be 0 or more, got {labels.min()}")
    _check_most(name, "labels", "y", labels)
    return values, labels.astype(np.int64)


def _check_values(name: str, values: Values) -> None:
    kind = values.dtype.kind
    if kind not in "iu" and values.dtype.name not in _FLOATS:
        raise DataError(
            f"{name}: sequences must be integers or {', '.join(_FLOATS)}, got dtype {values.dtype}"
        )
    low, high = values.min(), values.max()
    if kind == "f":
        if not (np.isfinite(low) and np.isfinite(high)):
            raise DataError(f"{name}: sequences must be finite numbers, got values that are not finite")
        if max(-low, high) > _LARGEST_FLOAT:
            raise DataError(
                f"{name}: sequences are read in float32, whose largest number is {_LARGEST_FLOAT:.1e}; got "
                f"{low:.1e} to {high:.1e}: scale them first"
            )
    elif values.dtype != np.uint8:
        if values.ndim == 3 or low < 0:
            raise DataError(f"{name}: integers other than uint8 are tokens: expected (n, T), none below 0")
        _check_most(name, "tokens", "x", values)


def _check_most(name: str, what: str, array: str, numbers: Values) -> None:
    if numbers.max() >= MOST:
        raise DataError(
            f"{name}: {what} must be numbered from 0, below {MOST}, got {numbers.max()}; number them anew, "
            f"as np.unique({array}, return_inverse=True) does"
        )
