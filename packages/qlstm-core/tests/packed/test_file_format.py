"""Files: what is written comes back, and nothing else is taken for it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tracemalloc

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from packed_layers import Batch, FeaturesAndCell, Grid, Plain, Sign, Ternary, layers
from torch import nn

from qlstm_core import (
    GRU,
    LSTM,
    Embedding,
    InitialState,
    Linear,
    PackedGRU,
    PackedLSTM,
    PackedModel,
    Vocabulary,
    load_packed,
    pack,
)
from qlstm_core.layers.cell import LSTM_CELL
from qlstm_core.packed import file_format
from qlstm_core.packed.chain import Chain
from qlstm_core.packed.engine import program
from qlstm_core.packed.file_format import PackedFileError
from qlstm_core.packed.kernels.layout import MAX_COLUMNS, pack_signs
from qlstm_core.packed.network import Bits, Config, Network, PackedCell


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


@pytest.fixture(scope="module")
def whole_model() -> bytes:
    """The file of a model: a shared matrix, a padding's row, two layers that begin from a state, symbols."""
    torch.manual_seed(0)
    embedding = Embedding(6, 5, padding_idx=1, quantizer=Grid())
    lstm, gru = LSTM(5, 4, quantizer=Sign(), normalizer=Batch()), GRU(4, 5, quantizer=Ternary())
    start, head = InitialState(lstm), Linear(5, 6, quantizer=Grid())
    with torch.no_grad():
        embedding.weight[1] = torch.linspace(-1, 1, 5)  # a grid has no step for zeros alone
    head.weight = embedding.weight
    model = nn.Module()
    model.packed_stages = lambda: [embedding, start, lstm, gru, head, nn.LogSoftmax(-1)]
    buffer = io.BytesIO()
    pack(model, vocabulary=Vocabulary("abcdef")).save(buffer)
    return buffer.getvalue()


@pytest.fixture(scope="module", params=["layer", "model"])
def either(request) -> bytes:
    """A file of each kind."""
    return request.getfixturevalue("whole" if request.param == "layer" else "whole_model")


def running(content: Network | Chain, bits: int):
    """What was read, ready to run."""
    return PackedModel(content, bits) if isinstance(content, Chain) else PackedLSTM(content, bits)


def parts(data: bytes):
    """Header and tensors of a file."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["qlstm"])
    return header, safetensors.numpy.load(data)


def forged(header, tensors) -> bytes:
    """A file whose digest fits what it holds, whatever that is."""
    content = {k: v for k, v in header.items() if k not in ("version", "digest")}
    header = {**header, "digest": file_format._digest(content, tensors)}
    return safetensors.numpy.save(tensors, {"qlstm": json.dumps(header)})


def read(data: bytes):
    return file_format.load(io.BytesIO(data))


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
def test_a_changed_byte_is_noticed(either, data):
    changed = bytearray(either)
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(either) - 1))] ^= data.draw(st.integers(1, 255))
    tracemalloc.start()
    with contextlib.suppress(PackedFileError):
        read(bytes(changed))
        assert content(bytes(changed)) == content(either)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000


@given(st.data())
@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_truncated_file_is_refused(either, data):
    with pytest.raises(PackedFileError):
        read(either[: data.draw(st.integers(0, len(either) - 1))])


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
def test_a_header_that_its_digest_fits_is_checked_all_the_same(either, data):
    header, tensors = parts(either)
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
        packed = running(*read(forged(header, tensors)))
        assert packed.nbytes == sum(t.nbytes for t in tensors.values())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h, t: h.update(version=file_format.FILE_VERSION + 1), "newer"),
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


def forwarding(header):
    """A stage that has the embedding's matrix."""
    return {**header["stages"][3], "shares": 0, "bias": False}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h, t: h.update(version=1), None),
        (lambda h, t: h["stages"].reverse(), "missing|shares"),
        (lambda h, t: h["stages"].clear(), "none of them is recurrent"),
        (lambda h, t: h.update(stages=[*h["stages"], *70 * [forwarding(h)]]), "at most 64 stages, got 74"),
        (lambda h, t: h.update(stages={}), "stages must be a list"),
        (lambda h, t: h.update(outcome="argmax"), "outcome one of logits, softmax, log-softmax"),
        (lambda h, t: h.update(more=1), "described by the entries outcome, stages and vocabulary"),
        (lambda h, t: h["stages"][0].update(kind="convolution"), "stage 0 must be one of embedding"),
        (lambda h, t: h["stages"][0].update(kind=[]), "stage 0 must be one of embedding"),
        (lambda h, t: h["stages"][0].update(padding=6), "padding 6, expected a row from 0 to 5"),
        (lambda h, t: h["stages"][0].update(padding=True), "padding True"),
        (lambda h, t: h["stages"][0].update(padding=None), "'0.padding' does not belong"),
        (lambda h, t: h["stages"][0].update(size=[10**12, 5]), "1 or 1000000000000 columns, got 6"),
        (lambda h, t: h["stages"][0].update(size=[-6, 5]), "size .* two positive integers"),
        (lambda h, t: h["stages"][0].update(label=None), "stage 0 has the label None"),
        (lambda h, t: h["stages"][0].pop("name"), "stage 0 must have the entries"),
        (lambda h, t: h["stages"][1].update(start=False), "'1.start.c' does not belong"),
        (lambda h, t: h["stages"][1].update(start=1), "start of stage 1 must be true or false"),
        (lambda h, t: t["1.start.c"].fill(np.inf), "not finite"),
        (lambda h, t: h["stages"][3].update(shares=1), "shares the matrix of 1"),
        (lambda h, t: h["stages"][3].update(shares=-4), "shares the matrix of -4"),
        (lambda h, t: h["stages"][3].update(shares=False), "shares the matrix of False"),
        (lambda h, t: h["stages"][3].update(size=[5, 6]), "shares the matrix of 0"),
        (lambda h, t: h["stages"][3].update(bias=False), "'3.bias' does not belong"),
        (lambda h, t: h["vocabulary"].update(symbols="abcdef"), "symbols must be a list"),
        (lambda h, t: h["vocabulary"]["symbols"].pop(), "5 symbols does not fit stage '.*', which takes 6"),
        (lambda h, t: h["vocabulary"]["symbols"].__setitem__(0, 3), "symbols must be texts, got int"),
        (lambda h, t: h["vocabulary"]["symbols"].__setitem__(0, "b"), "'b' is there twice"),
        (lambda h, t: h["vocabulary"].update(separator=[]), "separator must be"),
    ],
)
def test_what_is_wrong_with_a_model_is_said(whole_model, change, message):
    header, tensors = parts(whole_model)
    change(header, tensors)
    if message is None:  # a version that is older is as good as any
        assert isinstance(read(forged(header, tensors))[0], Chain)
        return
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


def test_file_objects_hold_what_files_hold(tmp_path, whole):
    packed = PackedLSTM(*read(whole))
    buffer = io.BytesIO(b"before")
    buffer.seek(0, os.SEEK_END)
    packed.save(buffer)
    assert content(buffer.getvalue()[6:]) == content(whole)
    buffer.seek(6)
    assert load_packed(buffer).network.config == packed.network.config
    path = tmp_path / "m.safetensors"
    with open(path, "wb") as file:
        packed.save(file)
    with open(path, "rb") as file:
        assert PackedLSTM.load(file).nbytes == packed.nbytes
    with pytest.raises(PackedFileError, match="the file: holds a PackedLSTM, not a PackedGRU"):
        PackedGRU.load(io.BytesIO(whole))


@pytest.mark.parametrize(
    ("file", "given"), [(None, "NoneType"), (3, "int"), (b"m", "bytes"), (io.StringIO(), "a text file")]
)
def test_what_is_neither_path_nor_binary_file_is_named(whole, file, given):
    with pytest.raises(TypeError, match=f"path or a binary file, which can read bytes, got {given}"):
        load_packed(file)
    with pytest.raises(TypeError, match=f"path or a binary file, which can write bytes, got {given}"):
        PackedLSTM(*read(whole)).save(file)


def test_what_is_no_packed_network_is_not_read_to_its_end(tmp_path):
    path = tmp_path / "large.safetensors"
    header = json.dumps({"__metadata__": {"format": "pt"}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    os.truncate(path, 2**40)  # a file of holes: a terabyte that no memory takes
    with pytest.raises(PackedFileError, match="no packed network: its header has no 'qlstm'"):
        load_packed(path)


def test_a_pipe_or_device_is_refused_without_waiting(tmp_path):
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(PackedFileError, match="pipe: not a regular file"):
            load_packed(tmp_path / "pipe")
    with pytest.raises(PackedFileError, match="not a regular file"):
        load_packed(os.devnull)


def test_many_groups_are_placed_together():
    # One row and column each: as many matrices as a file of this size can hold.
    groups = 3000
    signs = np.full(groups // 2, 0b10110010, np.uint8)
    bits = Bits(signs, (4 * groups, 1, 1), np.zeros((0, 4 * groups, 1), np.float32), ((-1, 0.5),))
    bias = np.linspace(-1, 1, 4 * groups, dtype=np.float32).reshape(-1, 1)
    network = Network(
        Config(LSTM_CELL, groups, groups, groups=(groups,)),
        (PackedCell({"ih": bits, "hh": bits}, {}, {}, bias),),
    )
    buffer = io.BytesIO()
    file_format.save(network, buffer, 16)
    calls = []

    def counted(signs, span):
        calls.append(signs.shape)
        return pack_signs(signs, span)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program, "pack_signs", counted)
        packed = PackedLSTM(*read(buffer.getvalue()))
        assert packed.kernel, "what runs it is made when it is first asked for"
    assert calls == [(1, groups, 4, 1)] * 2, "a path's matrices at once, however many"
    x = np.linspace(-2, 2, groups, dtype=np.float32)
    y, (_, c) = packed(x[None])
    gates = bias.reshape(groups, 4) + np.array([0.5, -0.5, 0.5, 0.5]) * x[:, None]
    gates[1::2] = bias.reshape(groups, 4)[1::2] + np.array([-0.5, -0.5, 0.5, -0.5]) * x[1::2, None]
    i, _, g, o = gates.T

    def sigmoid(z):
        return 1 / (1 + np.exp(-z))

    assert np.allclose(c[0], sigmoid(i) * np.tanh(g), atol=1e-4)
    assert np.allclose(y[0], sigmoid(o) * np.tanh(sigmoid(i) * np.tanh(g)), atol=1e-4)


def test_a_wide_weight_without_quantizer_comes_back(tmp_path):
    layer = LSTM(MAX_COLUMNS + 3, 1, quantizer={"hh": Sign()})
    pack(layer).save(tmp_path / "m.safetensors")
    x = torch.tensor([MAX_COLUMNS + 2])
    with torch.no_grad():
        assert torch.allclose(load_packed(tmp_path / "m.safetensors")(x)[0], layer(x)[0], atol=1e-4)
