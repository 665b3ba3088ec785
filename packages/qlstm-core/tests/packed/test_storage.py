"""Files: what is written comes back, and nothing else is taken for it."""

from __future__ import annotations

import contextlib
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from packed_layers import Batch, FeaturesAndCell, Plain, Sign, layers

from qlstm_core import GRU, LSTM, PackedGRU, PackedLSTM, load_packed, pack
from qlstm_core.packed import storage
from qlstm_core.packed.storage import PackedFileError


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    """A file with every kind of content: two directions, a projection of floats, all normalisers' tensors."""
    torch.manual_seed(0)
    layer = LSTM(
        5,
        6,
        proj_size=3,
        bidirectional=True,
        quantizer=Sign(),
        normalizer={"ih": Batch(), "hh": FeaturesAndCell()},
    )
    path = tmp_path_factory.mktemp("whole") / "m.safetensors"
    pack(layer).save(path)
    return path.read_bytes()


def parts(data: bytes):
    """Header and tensors of a file."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["qlstm"])
    return header, safetensors.numpy.load(data)


def forged(header, tensors) -> bytes:
    """A file whose digest fits what it holds, whatever that is."""
    content = {k: v for k, v in header.items() if k not in ("version", "digest")}
    header = {**header, "digest": storage._digest(content, tensors)}
    return safetensors.numpy.save(tensors, {"qlstm": json.dumps(header)})


def read(data: bytes):
    return storage._parse(data)


def content(data: bytes):
    header, tensors = parts(data)
    return header, {name: (t.dtype, t.shape, t.tobytes()) for name, t in tensors.items()}


@given(st.data())
@settings(deadline=None, max_examples=40)
def test_a_saved_network_comes_back_whole(tmp_path_factory, data):
    layer = data.draw(layers())
    packed = pack(layer, activation_bits=16)
    path = tmp_path_factory.mktemp("saved") / "m.safetensors"
    packed.save(path)
    again = load_packed(path)
    assert type(again) is type(packed)
    assert again.activation_bits == 16
    assert again.network.config == packed.network.config
    assert packed.nbytes == again.nbytes == layer.storage_bytes()
    header = int.from_bytes(path.read_bytes()[:8], "little")
    assert path.stat().st_size == 8 + header + packed.nbytes
    x = torch.randint(layer.input_size, (3,))
    for ours, theirs in zip(packed(x)[1], again(x)[1], strict=True):
        assert torch.equal(ours, theirs)


def test_a_character_network_of_the_papers_takes_149_kilobytes():
    layer = LSTM(50, 512, quantizer=Plain())
    assert pack(layer).nbytes == 4 * 512 * (50 + 512) // 8 + 4 * 4 * 512
    assert pack(layer).nbytes / 1024 == 148.5


@given(st.data())
@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_changed_byte_is_noticed(whole, data):
    changed = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    tracemalloc.start()
    with contextlib.suppress(PackedFileError):
        read(bytes(changed))
        assert content(bytes(changed)) == content(whole)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000


@given(st.data())
@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_truncated_file_is_refused(whole, data):
    with pytest.raises(PackedFileError):
        read(whole[: data.draw(st.integers(0, len(whole) - 1))])


@given(st.binary(max_size=300))
@settings(deadline=None, max_examples=200)
def test_anything_else_is_refused(data):
    with pytest.raises(PackedFileError):
        read(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=6,
)


@given(st.data())
@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_header_that_its_digest_fits_is_checked_all_the_same(whole, data):
    header, tensors = parts(whole)
    where = header
    while True:
        keys = list(where) if isinstance(where, dict) else list(range(len(where)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(where[key], (dict, list)) or not where[key] or data.draw(st.integers(0, 3)) == 0:
            break
        where = where[key]
    where[key] = data.draw(
        JSON | st.sampled_from([0, -1, 2**31, 10**12, 10**30, float("inf"), float("nan"), "a", [], {}])
    )
    tracemalloc.start()
    with contextlib.suppress(PackedFileError):
        packed = PackedLSTM(*read(forged(header, tensors)))
        assert packed.nbytes == sum(t.nbytes for t in tensors.values())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h, t: h.update(version=storage.FILE_VERSION + 1), "newer"),
        (lambda h, t: h.update(activation_bits=7), "activation_bits"),
        (lambda h, t: h["config"].update(hidden_size=10**12), "expected"),
        (lambda h, t: h["config"].update(num_layers=10**12), "groups|cells"),
        (lambda h, t: h["config"].update(input_size=6), "expected"),
        (lambda h, t: t.pop("l0.ih.signs"), "missing"),
        (lambda h, t: t.update(more=np.zeros(3, np.float32)), "does not belong"),
        (lambda h, t: t.update({"l0.bias": t["l0.bias"].astype(np.float64)}), "F64"),
        (lambda h, t: t.update({"l0.bias": t["l0.bias"].reshape(-1)}), "expected"),
        (lambda h, t: t["l0.ih.scales"].fill(np.nan), "not finite"),
        (lambda h, t: t["l0.norm_ih.var"].fill(-1), "not positive"),
        (lambda h, t: h["cells"][0]["levels"]["ih"].update(planes=[[5, 1.0]]), "scale"),
        (lambda h, t: h["cells"][0]["levels"]["ih"].update(planes=[[0, 1.0]] * 9), "planes"),
    ],
)
def test_what_is_wrong_is_said(whole, change, message):
    header, tensors = parts(whole)
    change(header, tensors)
    with pytest.raises(PackedFileError, match=message):
        read(forged(header, tensors))


def test_an_altered_weight_is_refused_by_name_of_the_file(whole, tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(PackedFileError, match=r"m\.safetensors: altered"):
        load_packed(path)


def test_the_other_family_is_refused(tmp_path):
    path = tmp_path / "gru.safetensors"
    pack(GRU(3, 4, quantizer=Sign())).save(path)
    assert isinstance(PackedGRU.load(path), PackedGRU)
    with pytest.raises(PackedFileError, match="holds a PackedGRU, not a PackedLSTM"):
        PackedLSTM.load(path)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "m.safetensors"
    packed = pack(LSTM(3, 4, quantizer=Sign()))
    packed.save(path)
    before = path.read_bytes()

    def fail(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr(storage.os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        pack(LSTM(3, 4, quantizer=Sign())).save(path)
    assert path.read_bytes() == before
    assert [p.name for p in Path(tmp_path).iterdir()] == ["m.safetensors"]
