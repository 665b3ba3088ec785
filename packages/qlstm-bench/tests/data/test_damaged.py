"""Damaged and hostile files of data: the right data or one line, never another error and never other data."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qlstm_bench.data import DataError, Sequences, load_sequences
from qlstm_bench.data.idx import read_idx

many = settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])

X = np.random.default_rng(0).integers(0, 5, (30, 6)).astype(np.float32)
Y = np.arange(30) % 3
SPLIT = {"x_train": X, "y_train": Y, "x_test": X[:9], "y_test": Y[:9]}


@st.composite
def damages(draw: st.DrawFn) -> list[tuple[str, float, bytes]]:
    """One to three damages: of a kind, at a place from 0 to 1, with these bytes."""
    kinds = st.sampled_from(["flip", "cut", "insert", "remove", "overwrite"])
    return draw(
        st.lists(
            st.tuples(kinds, st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=4)),
            min_size=1,
            max_size=3,
        )
    )


def damaged(content: bytes, damages: list[tuple[str, float, bytes]]) -> bytes:
    for kind, where, some in damages:
        at = int(where * len(content))
        head, rest = content[:at], content[at:]
        if kind == "flip":
            content = head + bytes(byte ^ (some[0] or 1) for byte in rest[:1]) + rest[1:]
        else:
            content = head + {
                "cut": b"", "insert": some + rest, "remove": rest[len(some) :],
                "overwrite": some + rest[len(some) :],
            }[kind]  # fmt: skip
    return content


def packed(arrays: dict[str, Any], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """An ``.npz`` file; where a value is bytes, it is a member as it stands."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, value in arrays.items():
            archive.writestr(f"{name}.npy", value if isinstance(value, bytes) else npy(value))
    return buffer.getvalue()


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def header(text: str, version: int = 1) -> bytes:
    return b"\x93NUMPY" + bytes((version, 0)) + struct.pack("<H", len(text)) + text.encode("latin1")


def line_of(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        load_sequences(str(path))
    message = str(caught.value)
    assert "\n" not in message
    assert path.name in message
    return message


@many
@given(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA]), damages())
def test_a_damaged_npz_is_right_or_refused(
    tmp_path: Path, method: int, damages: list[tuple[str, float, bytes]]
) -> None:
    path = tmp_path / "mine.npz"
    content = packed(SPLIT, method)
    path.write_bytes(content)
    right = load_sequences(str(path))
    path.write_bytes(damaged(content, damages))
    try:
        found = load_sequences(str(path))
    except DataError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        check_same(found, right)


def check_same(one: Sequences, other: Sequences) -> None:
    assert one.classes == other.classes
    for part in ("train", "valid", "test"):
        for found, right in zip(one.split(part), other.split(part), strict=True):
            assert found.dtype == right.dtype
            np.testing.assert_array_equal(found, right)


@many
@given(st.booleans(), damages())
def test_a_damaged_idx_file_is_right_or_refused(
    tmp_path: Path, compressed: bool, damages: list[tuple[str, float, bytes]]
) -> None:
    """Plain bytes have no checksum: a damage within the values is seen by their number alone."""
    values = np.random.default_rng(0).integers(0, 10, (20, 3), dtype=np.uint8)
    content = struct.pack(">3I", 0x802, 20, 3) + values.tobytes()
    path = tmp_path / "values"
    path.write_bytes(damaged(gzip.compress(content, mtime=0) if compressed else content, damages))
    try:
        found = read_idx(path, (20, 3))
    except DataError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert found.shape == (20, 3)
        if compressed:
            np.testing.assert_array_equal(found, values)


HUGE = "{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776, 2)}\n"


@pytest.mark.parametrize(
    ("x", "problem"),
    [
        (header(HUGE), "x.npy has .* bytes, expected 17592186044496 of its shape and dtype"),
        (header(HUGE.replace("1099511627776", "0, 9" + "9" * 40)), "not a readable"),
        (header(HUGE.replace("1099511627776", "-4, -4")) + bytes(256), "not a readable"),
        (header("(" * 5000), "not a readable"),
        (header("-" * 9000 + "1"), "not a readable"),
        (header("{'descr': 1_0l, 'shape': 0777}"), "not a readable"),
        (header(HUGE, version=9), "not a readable"),
        (b"no array", "magic string is not correct"),
        (b"", "not a readable"),
        (npy(X)[:-4], "x.npy has 844 bytes, expected 848"),
        (npy(X) + b"more", "x.npy has 852 bytes, expected 848"),
        (header("{'descr': '|O', 'fortran_order': False, 'shape': (30, 6)}"), "holds Python objects"),
        (np.array([{}] * 30), "holds Python objects"),
        (X.astype(np.longdouble), "integers or float16, float32, float64, got dtype float128"),
        (X.astype(complex), "got dtype complex128"),
        (X > 2, "got dtype bool"),
        (np.zeros(30, "i4,f4"), "sequences must have shape"),
        (np.zeros((30, 6), "M8[s]"), "got dtype datetime64"),
        (np.full((30, 6), 1e300), r"read in float32, whose largest number is 3.4e\+38; got 1.0e\+300 to"),
        (np.full((30, 6), -1e39), r"got -1.0e\+39 to -1.0e\+39: scale them first"),
        (np.full((30, 6), 2_000_000_000), "tokens must be numbered from 0, below 262144, got 2000000000; "),
        (np.full((30, 6), 2**63, np.uint64), "tokens must be .* below 262144, got 9223372036854775808"),
    ],
)  # fmt: skip
def test_a_hostile_array_is_one_line(tmp_path: Path, x: Any, problem: str) -> None:
    path = tmp_path / "hostile.npz"
    path.write_bytes(packed({"x": x, "y": Y}))
    with pytest.raises(DataError, match=problem):
        load_sequences(str(path))
    assert len(line_of(path)) < 500


@pytest.mark.parametrize("label", [2_000_000_000, 20_000_000, 2**18, 2**40, 2**64 - 1])
def test_labels_that_are_names_are_refused(tmp_path: Path, label: int) -> None:
    """Each label up to the largest gets a row of weights: two thousand million do not fit into any memory."""
    labels = Y.astype(np.uint64)
    labels[3] = label
    np.savez(tmp_path / "ids.npz", x=X, y=labels)
    message = line_of(tmp_path / "ids.npz")
    assert (
        f"labels must be numbered from 0, below 262144, got {label}; number them anew, as np.unique(y,"
        in message
    )


def test_the_largest_label_and_token_are_allowed(tmp_path: Path) -> None:
    tokens, labels = np.zeros((30, 6), np.int32), Y.copy()
    labels[:] = tokens[:, 0] = 2**18 - 1
    np.savez(tmp_path / "most.npz", x=tokens, y=labels)
    data = load_sequences(str(tmp_path / "most.npz"))
    assert (data.classes, data.tokens) == (2**18, 2**18)


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({**SPLIT, "x_test": X[:9].astype(np.uint8)}, "dtypes: train float32, test uint8, valid float32; "),
        ({**SPLIT, "x_train": X.astype(np.int64)}, "dtypes: train int64, test float32, valid int64; "),
        ({**SPLIT, "x_test": X[:9].astype(np.float64)}, "test float64"),
        ({**SPLIT, "x_valid": X}, "holds 'x_train', 'y_train', 'x_test', 'y_test', 'x_valid'; expected x"),
        ({**SPLIT, "y_valid": Y}, "holds .*'y_valid'; expected"),
        ({**SPLIT, "x_val": X, "y_val": Y}, "holds .*'x_val', 'y_val'; expected"),
        ({**SPLIT, "x": X, "y": Y}, "holds .*; expected"),
        ({"y": Y}, "holds 'y'; expected x and y"),
        ({"x": X, "y": Y, "x_test": X}, "holds 'x', 'y', 'x_test'; expected"),
        ({}, "holds nothing; expected"),
        ({f"\x1b[2J{number}": Y for number in range(99)}, r"holds '\\x1b\[2J0', .*, …; expected"),
    ],
)  # fmt: skip
def test_arrays_that_would_be_read_otherwise_than_meant_are_refused(
    tmp_path: Path, arrays: dict[str, Any], problem: str
) -> None:
    path = tmp_path / "mixed.npz"
    path.write_bytes(packed(arrays))
    with pytest.raises(DataError, match=problem):
        load_sequences(str(path))
    line_of(path)


def test_an_array_far_larger_than_its_file_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """8 GB of zeros in 8 MB; here a limit of 1 MB stands for that of 1 GB."""
    path = tmp_path / "bomb.npz"
    zeros = np.zeros((1000, 1000), np.float32)
    arrays = {"x": zeros, "y": np.arange(1000) % 2}
    path.write_bytes(packed(arrays))
    load_sequences(str(path))
    monkeypatch.setattr("qlstm_bench.data.npz._ROOM", 10**6)
    with pytest.raises(
        DataError, match=r"its array x is said to be 0.0 GB, packed into \d+ bytes; .* np.savez"
    ):
        load_sequences(str(path))
    np.savez(path, **arrays)
    load_sequences(str(path))
    content = bytearray(packed({"x": X, "y": Y}))
    place = content.index(b"PK\1\2") + 24  # the size of x in the archive's directory
    content[place : place + 4] = struct.pack("<I", 2**32 - 2)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"its array x is said to be 4.3 GB"):
        load_sequences(str(path))


@pytest.mark.parametrize(
    ("flags", "method", "problem"), [(1, 8, "encrypted"), (0, 97, "compression method is not supported")]
)
def test_an_archive_that_python_cannot_unpack_is_named(
    tmp_path: Path, flags: int, method: int, problem: str
) -> None:
    content = bytearray(packed({"x": X, "y": Y}))
    for mark, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = content.index(mark) + place
        content[at : at + 4] = struct.pack("<HH", flags, method)
    (tmp_path / "locked.npz").write_bytes(content)
    assert problem in line_of(tmp_path / "locked.npz")


def test_two_arrays_of_one_name_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "twice.npz", "w") as archive:
        for name, array in (("x.npy", X), ("y.npy", Y), ("y", Y[::-1])):
            archive.writestr(name, npy(array))
    assert "two of its arrays have one name" in line_of(tmp_path / "twice.npz")


def test_bytes_in_another_order_are_the_same_numbers(tmp_path: Path) -> None:
    np.savez(tmp_path / "little.npz", **SPLIT)
    np.savez(
        tmp_path / "big.npz",
        **{name: array.astype(array.dtype.newbyteorder(">")) for name, array in SPLIT.items()},
    )
    np.savez(tmp_path / "columns.npz", **{name: np.asfortranarray(array) for name, array in SPLIT.items()})
    right = load_sequences(str(tmp_path / "little.npz"))
    for name in ("big", "columns"):
        check_same(load_sequences(str(tmp_path / f"{name}.npz")), right)
