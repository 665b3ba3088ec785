"""Packed networks against the layers they were made from, computed in float64."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from packed_layers import Batch, Features, FeaturesAndCell, Free, Grid, RowLength, Sign, Ternary, layers
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from qlstm_core import GRU, LSTM, FactorizedLSTM, GroupedLSTM, Normalizer, Quantizer, pack
from qlstm_core.layers import RecurrentLayer
from qlstm_core.layers.cell import Cell
from qlstm_core.packed.kernels.choose import has_avx2


def reference(layer: RecurrentLayer) -> RecurrentLayer:
    """The layer in eval() and float64, with the weights as its quantizers give them in float32."""
    exact = copy.deepcopy(layer).eval()
    with torch.no_grad():
        for index, direction in exact.layer_directions():
            suffix = f"_l{index}{'_reverse' if direction else ''}"
            for key, weight in exact.quantized_weights(index, direction).items():
                exact.get_parameter(f"weight_{key}{suffix}").copy_(weight.flatten(0, 1))
    exact.quantizers = torch.nn.ModuleDict()
    return exact.double()


def random_input(draw: st.DrawFn, layer: RecurrentLayer) -> tuple[Any, Any]:
    """An input of any kind, and an initial state or None."""
    kind = draw(st.sampled_from(["vectors", "tokens"]))
    form = draw(st.sampled_from(["batched", "batched", "unbatched", "packed"]))
    steps, batch = draw(st.integers(1, 6)), 1 if form == "unbatched" else draw(st.integers(1, 20))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    shape = (steps,) if form == "unbatched" else (batch, steps) if layer.batch_first else (steps, batch)
    if kind == "tokens":
        x = torch.randint(layer.input_size, shape, generator=generator)
    else:
        x = torch.randn(*shape, layer.input_size, generator=generator)
    if form == "packed":
        lengths = draw(st.lists(st.integers(1, steps), min_size=batch, max_size=batch))
        lengths[0] = steps
        x = pack_padded_sequence(x, lengths, batch_first=layer.batch_first, enforce_sorted=False)
    state = None
    if draw(st.booleans()):
        cells = layer.num_layers * layer.num_directions
        sizes = [layer.output_size, layer.hidden_size][: len(layer.cell.states)]
        middle = () if form == "unbatched" else (batch,)
        state = tuple(torch.randn(cells, *middle, size, generator=generator) for size in sizes)
        state = state if len(state) > 1 else state[0]
    return x, state


def in_float64(value: Any) -> Any:
    if isinstance(value, PackedSequence):
        return value._replace(data=in_float64(value.data))
    if isinstance(value, tuple):
        return tuple(in_float64(v) for v in value)
    return value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def flat(output: Any, state: Any) -> list[torch.Tensor]:
    y = output.data if isinstance(output, PackedSequence) else output
    return [y, *(state if isinstance(state, tuple) else (state,))]


@given(st.data())
@settings(deadline=None, max_examples=150)
def test_every_form_computes_what_the_layer_computes(data):
    layer = data.draw(layers())
    x, state = random_input(data.draw, layer)
    with torch.no_grad():
        wanted = reference(layer)(in_float64(x), in_float64(state))
    found = pack(layer, activation_bits=16)(x, state)
    assert type(found[0]) is type(wanted[0])
    for ours, exact in zip(flat(*found), flat(*wanted), strict=True):
        assert ours.shape == exact.shape
        assert ours.dtype == torch.float32
        assert torch.allclose(ours.double(), exact, rtol=0, atol=2e-3)


def sequence(packed, x, state=None):
    y, final = packed(x, state)
    return [y, *(final if isinstance(final, tuple) else (final,))]


@given(st.data())
@settings(deadline=None, max_examples=40)
def test_steps_give_what_the_sequence_gives(data):
    layer = data.draw(layers().filter(lambda layer: not layer.bidirectional))
    batch = data.draw(st.sampled_from([None, 1, 3]))
    shape = (5,) if batch is None else (5, batch)
    x = torch.randint(layer.input_size, shape)
    if data.draw(st.booleans()):
        x = torch.randn(*shape, layer.input_size)
    packed = pack(layer)
    whole = x.transpose(0, 1) if layer.batch_first and batch is not None else x
    begin = packed(whole)[1] if data.draw(st.booleans()) else None
    y, *final = sequence(packed, whole, begin)
    if layer.batch_first and batch is not None:
        y = y.transpose(0, 1)
    state = begin
    for x_t, y_t in zip(x, y, strict=True):
        found, state = packed.step(x_t, state)
        assert torch.equal(found, y_t)
    assert state.steps == 5
    for ours, theirs in zip(state, final, strict=True):
        assert torch.equal(ours, theirs)


def test_a_step_allocates_nothing_and_returns_the_same_objects():
    packed = pack(LSTM(4, 8, quantizer=Sign()))
    y, state = packed.step(np.ones(4, np.float32))
    again, same = packed.step(np.zeros(4, np.float32), state)
    assert same is state
    assert np.shares_memory(again, y)


def test_the_parts_of_a_state_are_copies():
    packed = pack(LSTM(4, 8, quantizer=Sign()))
    y, state = packed.step(torch.ones(4))
    h, c = state
    kept = h.clone(), c.clone()
    assert torch.equal(h[0], y)
    packed.step(torch.zeros(4), state)
    assert torch.equal(h, kept[0])
    assert torch.equal(c, kept[1])
    h.zero_()
    assert not torch.equal(next(iter(state)), h)


COPIES = {
    "clone": lambda packed, state: state.clone(),
    "copy": lambda packed, state: copy.copy(state),
    "deepcopy": lambda packed, state: copy.deepcopy(state),
    "pickle": lambda packed, state: pickle.loads(pickle.dumps(state)),
    "parts": lambda packed, state: packed.stream(tuple(state), state.steps),
}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("shape", [(4,), (3, 4)])
@pytest.mark.parametrize("family", [LSTM, GRU])
def test_a_copied_state_goes_on_by_itself_from_the_same_step(family, shape, how):
    torch.manual_seed(0)
    packed = pack(family(4, 8, num_layers=2, quantizer=Sign(), normalizer=Batch()))  # statistics of 3 steps
    x = torch.randn(5, *shape)

    def outputs(state, *steps):
        return torch.stack([packed.step(x[t], state)[0].clone() for t in steps])

    wanted = outputs(packed.step(x[0])[1], 1, 2)
    _, state = packed.step(x[0])
    other, third = COPIES[how](packed, state), COPIES[how](packed, state)
    assert not torch.equal(outputs(other, 3, 4), wanted)
    assert torch.equal(outputs(state, 1, 2), wanted)
    assert torch.equal(outputs(third, 1, 2), wanted)
    assert state.steps == other.steps == third.steps == 3


def test_a_copied_state_goes_on_in_a_copied_network():
    packed = pack(LSTM(4, 8, quantizer=Sign()))
    _, state = packed.step(torch.ones(4))
    saved = pickle.dumps((packed, state))
    wanted = packed.step(torch.ones(4), state)[0].clone()
    network, begun = pickle.loads(saved)
    found, same = network.step(torch.ones(4), begun)
    assert same is begun
    assert torch.equal(found, wanted)
    with pytest.raises(RuntimeError, match=r"Expected hidden\[0\] size"):
        pack(LSTM(4, 9, quantizer=Sign())).step(torch.ones(4), state.clone())


def test_a_stream_begins_with_a_state_and_a_number_of_steps():
    packed = pack(LSTM(4, 8, quantizer=Sign(), normalizer=Batch()))
    with pytest.raises(ValueError, match="steps must be an integer from 0, got -1"):
        packed.stream((torch.zeros(1, 8), torch.zeros(1, 8)), -1)
    with pytest.raises(ValueError, match="without a state begins with step"):
        packed.stream(None)
    with pytest.raises(RuntimeError, match="hidden"):
        packed.stream((torch.zeros(2, 8), torch.zeros(1, 8)))
    _, state = packed.step(torch.ones(4))
    with pytest.raises(ValueError, match="counts its steps from 0"):
        packed(torch.ones(5, 4), state)
    assert packed(torch.ones(5, 4), tuple(state))[0].shape == (5, 8)


def test_a_step_that_does_not_fit_is_refused():
    packed = pack(LSTM(4, 8, quantizer=Sign()))
    _, state = packed.step(torch.ones(2, 4))
    with pytest.raises(ValueError, match=r"shape \(2, 4\), got \(3, 4\)"):
        packed.step(torch.ones(3, 4), state)
    with pytest.raises(ValueError, match="float64"):
        packed.step(torch.ones(2, 4).double(), state)
    with pytest.raises(ValueError, match=r"\[0, 4\), got 1 to 4"):
        packed.step(torch.tensor([1, 4]), state)
    with pytest.raises(ValueError, match=r"\[0, 4\), got -1 to 3"):
        packed.step(torch.tensor([3, -1], dtype=torch.int32), state)
    with pytest.raises(ValueError, match="another packed network"):
        pack(LSTM(4, 8, quantizer=Sign())).step(torch.ones(2, 4), state)
    with pytest.raises(ValueError, match="bidirectional"):
        pack(LSTM(4, 8, bidirectional=True, quantizer=Sign())).step(torch.ones(2, 4))


def test_numpy_goes_in_and_out():
    packed = pack(LSTM(4, 8, num_layers=2, quantizer=Sign()))
    x = np.random.default_rng(0).standard_normal((5, 3, 4)).astype(np.float32)
    y, (h, c) = packed(x)
    wanted, (wanted_h, wanted_c) = packed(torch.from_numpy(x))
    assert np.array_equal(y, wanted.numpy())
    assert np.array_equal(h, wanted_h.numpy())
    assert np.array_equal(c, wanted_c.numpy())
    frozen = x[:, ::-1]
    frozen.flags.writeable = False
    assert np.array_equal(packed(frozen, (h[:, ::-1], c[:, ::-1]))[0], packed(x, (h, c))[0][:, ::-1])
    assert isinstance(packed(np.zeros((3, 1), np.int32))[0], np.ndarray)


def test_the_given_state_is_not_changed():
    packed = pack(GRU(4, 8, quantizer=Sign()))
    h = torch.ones(1, 2, 8)
    packed(torch.ones(5, 2, 4), h)
    packed.step(torch.ones(2, 4), h)
    assert torch.equal(h, torch.ones(1, 2, 8))


@pytest.mark.parametrize("normalizer", ["none", Batch()])
@pytest.mark.parametrize("quantizer", [Sign(), Ternary()])
def test_errors_stay_small_over_a_hundred_steps(quantizer, normalizer):
    torch.manual_seed(0)
    layer = LSTM(128, 128, quantizer=quantizer, normalizer=normalizer)
    x = torch.randn(100, 2, 128)
    with torch.no_grad():
        wanted, _ = reference(layer)(x.double())
    for bits, bound in {8: 2e-2, 12: 1e-3, 16: 1e-4}.items():
        found, _ = pack(layer, activation_bits=bits)(x)
        assert float((found - wanted).norm() / wanted.norm()) <= bound


@pytest.mark.parametrize("family", [LSTM, GRU])
def test_where_moments_amplify_errors_the_default_keeps_them_small_all_the_same(family):
    errors = []
    for seed in range(5):
        torch.manual_seed(seed)
        layer = family(128, 128, quantizer=Sign(), normalizer=Features())
        x = torch.randn(100, 2, 128)
        with torch.no_grad():
            wanted, _ = reference(layer)(x.double())
        found, _ = pack(layer)(x)
        errors.append(float((found - wanted).norm() / wanted.norm()))
    assert np.median(errors) <= 1e-3
    assert max(errors) <= 3e-3


def test_the_default_is_more_precise_where_moments_of_activations_amplify_errors():
    assert pack(LSTM(4, 8, quantizer=Sign())).activation_bits == 12
    assert pack(LSTM(4, 8, quantizer=Sign(), normalizer=Batch())).activation_bits == 12
    assert pack(LSTM(4, 8, quantizer=Sign(), normalizer=Features())).activation_bits == 16


@pytest.mark.skipif(not has_avx2(), reason="needs a CPU with AVX2")
@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("quantizer", [Sign(), Ternary()])
def test_kernels_agree_to_the_last_bit(monkeypatch, quantizer, bits):
    torch.manual_seed(0)
    layer = LSTM(21, 37, quantizer=quantizer, normalizer=FeaturesAndCell())
    x = torch.randn(7, 11, 21)
    found = []
    for kernel in ("avx2", "portable"):
        monkeypatch.setenv("QLSTM_KERNEL", kernel)
        packed = pack(layer, activation_bits=bits)
        assert packed.kernel == kernel
        found.append(sequence(packed, x))
    for fast, plain in zip(*found, strict=True):
        assert torch.equal(fast, plain)


def test_threads_share_a_network():
    torch.manual_seed(0)
    packed = pack(LSTM(24, 40, num_layers=2, quantizer=Sign(), normalizer=Features()))
    inputs = torch.randn(4, 30, 3, 24)
    wanted = [packed(x) for x in inputs]
    wrong: list[int] = []

    def work(i: int) -> None:
        for _ in range(20):
            y, (h, _c) = packed(inputs[i])
            state = None
            for x_t, y_t in zip(inputs[i], wanted[i][0], strict=True):
                found, state = packed.step(x_t, state)
                if not torch.equal(found, y_t):
                    wrong.append(i)
            if not (torch.equal(y, wanted[i][0]) and torch.equal(h, wanted[i][1][0])):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_copies_and_pickles_compute_the_same():
    packed = pack(LSTM(4, 8, quantizer=Sign()), activation_bits=8)
    x = torch.randn(5, 4)
    for other in (copy.deepcopy(packed), pickle.loads(pickle.dumps(packed))):
        assert other.activation_bits == 8
        assert torch.equal(other(x)[0], packed(x)[0])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize(
    "layer",
    [
        lambda: LSTM(4, 8, quantizer=Sign(), num_layers=2),
        lambda: LSTM(4, 8, quantizer=Ternary(), normalizer=FeaturesAndCell(), proj_size=3),
        lambda: GRU(4, 8, quantizer=Sign(), normalizer=Batch()),
        lambda: FactorizedLSTM(4, 8, quantizer=Sign(), rank=2),
    ],
)
def test_not_finite_inputs_spoil_their_own_sequence_only(layer, bad):
    packed = pack(layer())
    x = torch.randn(5, 9, 4)
    wanted, _ = packed(x)
    x[2, 0, 1] = bad
    y, _ = packed(x)
    assert torch.isnan(y[2:, 0]).all()
    assert torch.equal(y[:2], wanted[:2])
    assert torch.equal(y[:, 1:], wanted[:, 1:])
    state = None
    for x_t, y_t in zip(x, y, strict=True):
        found, state = packed.step(x_t, state)
        assert torch.equal(found.isnan(), y_t.isnan())


def test_a_group_whose_features_are_finite_is_not_spoilt_by_another():
    packed = pack(GroupedLSTM(8, 16, groups=2, quantizer=Sign()))
    x = torch.randn(3, 1, 8)
    wanted, _ = packed(x)
    x[1, 0, 0] = torch.inf
    y, _ = packed(x)
    assert torch.isnan(y[1:, :, :8]).all()
    assert torch.equal(y[:, :, 8:], wanted[:, :, 8:])


@pytest.mark.parametrize(("factor", "told"), [(1, False), (30, False), (1000, True)])
def test_a_feature_that_outweighs_all_others_is_told_and_measured(factor, told, recwarn):
    torch.manual_seed(0)
    layer = LSTM(50, 32, quantizer=Ternary())
    x = torch.randn(20, 3, 50)
    x[..., 7] *= factor
    packed = pack(layer)
    for _ in range(2):
        y, _ = packed(x)
    packed.step(x[0])
    fresh = pack(layer)
    fresh.step(x[0])
    assert len(recwarn) == 2 * told, "once for each network, however it is called first"
    for warning in recwarn:
        assert warning.filename == __file__
        assert "feature 7 of the input is up to" in str(warning.message)
        assert "12-bit tables: scale the features alike, or pack(layer, activation_bits=16)" in str(
            warning.message
        )
    with torch.no_grad():
        wanted, _ = reference(layer)(x.double())
    error = float((y - wanted).norm() / wanted.norm())
    assert packed.rounding_error(x) == pytest.approx(error, rel=1e-2)
    assert (error > 5e-3) == told
    assert pack(layer, 16).rounding_error(x) < error / 8


@pytest.mark.parametrize(
    "x", [torch.eye(12).view(12, 1, 12), torch.zeros(2, 1, 12), torch.full((2, 1, 12), torch.nan)]
)
def test_inputs_with_nothing_to_lose_are_not_told_of(x, recwarn):
    layer = LSTM(12, 4, quantizer=Sign())
    pack(layer, 8)(x)
    pack(layer)(torch.tensor([1, 2]))
    pack(LSTM(1, 4, quantizer=Sign()), 8)(x[..., :1] * 1e6)
    assert not recwarn.list


def test_the_rounding_error_of_every_form_of_input_is_that_of_the_outputs():
    layer = GroupedLSTM(8, 16, groups=2, quantizer=Sign(), normalizer=Features())
    packed = pack(layer, 8)
    x = torch.randn(6, 2, 8)
    whole = packed.rounding_error(x)
    assert 1e-4 < whole < 0.3
    assert packed.rounding_error(x.numpy()) == whole
    assert packed.rounding_error(pack_padded_sequence(x, [6, 6])) == whole
    assert packed.rounding_error(torch.tensor([[1], [2]]), packed(x[:, :1])[1]) < 0.3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("quantizer", [Grid(), Free(), Ternary()])
def test_layers_of_every_dtype_are_packed(quantizer, dtype):
    torch.manual_seed(0)
    layer = LSTM(12, 8, quantizer=quantizer, normalizer=RowLength()).to(dtype)
    x = torch.randn(5, 2, 12)
    with torch.no_grad():
        wanted, _ = reference(layer)(x.double())
    assert torch.allclose(
        pack(layer, 16)(x)[0].double(), wanted, atol=2e-3 if dtype == torch.float64 else 2e-2
    )


class OwnStatistics(Normalizer):
    """Nobody knows what it computes."""

    def forward(self, preactivation, step):
        return preactivation / 2


class Entrywise(Normalizer):
    """Changes weights one by one."""

    def weight(self, weight):
        return weight + weight.square()


class ManyLevels(Quantizer):
    """Has too many levels for bit planes."""

    bits = 12

    def forward(self, weight, curvature=None):
        return (weight * 1e5).round() / 1e5


class OwnStep(LSTM):
    """Another cell."""

    cell = Cell("held", gates="ifgo", states=("h", "c"), step=lambda x, r, h, c, norm_cell=None: (h, c))


def diverged():
    layer = LSTM(4, 8, quantizer=Sign())
    with torch.no_grad():
        layer.bias_ih_l0[3] = torch.nan
    return layer


class Clipped(Quantizer):
    """±1 whatever the weight: one that is not finite does not show."""

    bits = 1

    def forward(self, weight, curvature=None):
        return torch.where(weight < 0, -1, 1).to(weight)


def infinite(quantizer):
    layer = LSTM(4, 8, quantizer=quantizer)
    with torch.no_grad():
        layer.weight_hh_l0[3, 2] = torch.inf
    return layer


@pytest.mark.parametrize(
    ("layer", "error", "message"),
    [
        (lambda: LSTM(4, 8), ValueError, "nothing to pack.*quantizer='none'"),
        (lambda: torch.nn.LSTM(4, 8), TypeError, "pack takes an LSTM"),
        (
            lambda: LSTM(4, 8, quantizer=Sign(), normalizer=OwnStatistics()),
            ValueError,
            "OwnStatistics.*declares no",
        ),
        (
            lambda: LSTM(4, 8, quantizer=Sign(), normalizer=Entrywise()),
            ValueError,
            "Entrywise.*scale its rows",
        ),
        (lambda: LSTM(4, 80, quantizer=ManyLevels()), ValueError, "ManyLevels of weight_ih_l0.*levels"),
        (lambda: LSTM(4, 8, quantizer=Sign(), state_quantizer=Sign()), ValueError, "state_quantizer Sign"),
        (
            lambda: OwnStep(4, 8, quantizer=Sign()),
            TypeError,
            "cell 'held' of OwnStep cannot be packed yet: the kernels know the cells lstm and gru",
        ),
        (diverged, ValueError, "layer 0, direction 0: bias.*not finite"),
        (lambda: infinite(Clipped()), ValueError, "weight_hh_l0 holds values that are not finite"),
        (lambda: infinite(Sign()), ValueError, "weight_hh_l0 holds values that are not finite"),
    ],
)
def test_what_cannot_be_packed_is_named(layer, error, message):
    with pytest.raises(error, match=message):
        pack(layer())


def test_arguments_that_do_not_fit_are_named():
    packed = pack(LSTM(4, 8, quantizer=Sign()))
    with pytest.raises(ValueError, match="activation_bits must be one of"):
        pack(LSTM(4, 8, quantizer=Sign()), activation_bits=10)
    with pytest.raises(RuntimeError, match="Expected 4, got 5"):
        packed(torch.ones(3, 1, 5))
    with pytest.raises(ValueError, match=r'Convert input: .*float32\) \(NumPy: .astype\("float32"\)\)$'):
        packed(np.ones((3, 1, 4)))
    with pytest.raises(
        ValueError, match=r"Tokens are int32 or int64: convert input: input.to\(torch.int64\)"
    ):
        packed(np.ones((3, 1), np.uint8))
    with pytest.raises(ValueError, match=r"tokens must lie in \[0, input_size\)"):
        packed(torch.tensor([[4]]))
    with pytest.raises(RuntimeError, match=r"Expected hidden\[0\] size"):
        packed(torch.ones(3, 1, 4), (torch.ones(1, 2, 8), torch.ones(1, 1, 8)))
    with pytest.raises(TypeError, match="torch tensor or a NumPy array"):
        packed([[1.0]])


def test_packing_leaves_the_layer_as_it_is():
    layer = GroupedLSTM(8, 16, quantizer=Sign(), normalizer=Features()).train()
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    pack(layer)
    assert layer.training
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


def test_a_numba_that_must_not_compile_is_named():
    done = subprocess.run(
        [sys.executable, "-m", "qlstm_core.cli", "warmup"],
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    message = "packed networks need compiled code, and NUMBA_DISABLE_JIT is set: unset it"
    assert (done.returncode, done.stderr) == (2, f"qlstm: error: {message}\n")


_SCRIPT = """
import json, sys, torch, qlstm_core
lean = "numba" not in sys.modules
from packed_layers import Sign
torch.manual_seed(0)
packed = qlstm_core.pack(qlstm_core.LSTM(5, 6, quantizer=Sign()), activation_bits=16)
y, _ = packed(torch.linspace(-1, 1, 20).view(4, 5))
json.dump([lean, packed.kernel, y.tolist()], sys.stdout)
"""


@pytest.mark.parametrize(
    "environment", [{"QLSTM_KERNEL": "portable"}, {"NUMBA_CPU_NAME": "generic"}, {"NUMBA_ENABLE_AVX": "0"}]
)
def test_any_cpu_runs_and_importing_costs_no_numba(environment):
    support = str(Path(__file__).parents[1] / "support")
    path = os.pathsep.join([support, os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lean, kernel, found = json.loads(done.stdout)
    assert lean
    assert kernel == "portable"
    torch.manual_seed(0)
    wanted, _ = LSTM(5, 6, quantizer=Sign()).eval()(torch.linspace(-1, 1, 20).view(4, 5))
    assert torch.allclose(torch.tensor(found), wanted, atol=3e-5)


def test_a_layer_whose_forward_does_more_is_refused():
    class Doubled(LSTM):
        def forward(self, input, hx=None):
            y, state = super().forward(input, hx)
            return 2 * y, state

    with pytest.raises(TypeError, match="Doubled has a forward of its own"):
        pack(Doubled(5, 6, quantizer=Sign()))
