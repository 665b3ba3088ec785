"""The LSTM as a drop-in for torch.nn.LSTM: numbers, state dicts, shapes and errors."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recurrent_cases import Case, RowNorm, Sign, StepGain, WithCell, cases, run
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from qlstm_core import LSTM, Normalizer, record_states
from qlstm_core.layers.cell import LSTM_CELL
from qlstm_core.layers.sequence import run_loop

# torch's own, with either module: oneDNN has no projections.
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")


class LoopLSTM(LSTM):
    """The same layer without torch's own operator."""

    cell = replace(LSTM_CELL, operator=None)


def pair(case: Case, cls: type[LSTM] = LSTM) -> tuple[LSTM, torch.nn.LSTM]:
    theirs = torch.nn.LSTM(case.input_size, case.hidden_size, **case.options)
    ours = cls(case.input_size, case.hidden_size, **case.options)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def assert_same(ours: object, theirs: object) -> None:
    (our_values, our_gradients), (values, gradients) = ours, theirs  # type: ignore[misc]
    for mine, their in zip(our_values, values, strict=True):
        torch.testing.assert_close(mine, their, rtol=0, atol=1e-6)
    for mine, their in zip(our_gradients, gradients, strict=True):
        torch.testing.assert_close(mine, their, rtol=1e-5, atol=1e-5)


@settings(max_examples=80)
@given(cases(), st.sampled_from([LSTM, LoopLSTM]))
def test_unquantized_equals_torch(case: Case, cls: type[LSTM]) -> None:
    ours, theirs = pair(case, cls)
    assert_same(run(ours, case), run(theirs, case))


@settings(max_examples=25)
@given(cases())
def test_state_dict_goes_both_ways(case: Case) -> None:
    ours, theirs = pair(case)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.reset_parameters()
    theirs.load_state_dict(ours.state_dict())
    assert_same(run(ours, case), run(theirs, case))


@pytest.mark.parametrize("proj_size", [0, 3])
def test_same_seed_gives_torch_initial_weights(proj_size: int) -> None:
    torch.manual_seed(3)
    theirs = torch.nn.LSTM(4, 5, 2, bidirectional=True, proj_size=proj_size)
    torch.manual_seed(3)
    ours = LSTM(4, 5, 2, bidirectional=True, proj_size=proj_size)
    for (name, mine), (their_name, their) in zip(
        ours.named_parameters(), theirs.named_parameters(), strict=True
    ):
        assert name == their_name
        assert torch.equal(mine, their)
    for mine_list, their_list in zip(ours.all_weights, theirs.all_weights, strict=True):
        assert [w.shape for w in mine_list] == [w.shape for w in their_list]


def test_dropout_between_layers() -> None:
    torch.manual_seed(0)
    ours, theirs = LSTM(3, 4, 2, dropout=1.0), torch.nn.LSTM(3, 4, 2, dropout=1.0)
    ours.load_state_dict(theirs.state_dict())
    loop = LoopLSTM(3, 4, 2, dropout=1.0)
    loop.load_state_dict(theirs.state_dict())
    x = torch.randn(5, 2, 3)
    for training in (True, False):
        expected = theirs.train(training)(x)[0]
        torch.testing.assert_close(ours.train(training)(x)[0], expected)
        torch.testing.assert_close(loop.train(training)(x)[0], expected)


def single_layers(layer: LSTM, **options: Any) -> list[LSTM]:
    """Return layers of one layer in one direction each, with the parameters of those of ``layer``."""
    singles = []
    for k, direction in layer.layer_directions():
        single = LSTM(layer.layer_input_size(k), layer.hidden_size, **options)
        suffix = f"_l{k}{'_reverse' if direction else ''}"
        for name, parameter in single.named_parameters():
            parameter.data = layer.get_parameter(name.replace("_l0", suffix)).data
        singles.append(single)
    return singles


@pytest.mark.parametrize("normalizer", [StepGain(), "none"])
def test_dropout_falls_on_what_the_layers_hand_on_and_on_nothing_else(normalizer: Any) -> None:
    torch.manual_seed(0)
    layer = LoopLSTM(3, 40, 3, dropout=0.5, normalizer=normalizer)
    x = torch.randn(5, 2, 3)
    first, second, third = single_layers(layer, normalizer=normalizer)
    torch.manual_seed(1)
    y, _ = layer(x)
    torch.manual_seed(1)
    hidden = torch.nn.functional.dropout(first(x)[0], 0.5)
    hidden = torch.nn.functional.dropout(second(hidden)[0], 0.5)
    torch.testing.assert_close(y, third(hidden)[0])


def test_in_reverse_steps_count_from_the_end() -> None:
    torch.manual_seed(0)
    layer = LSTM(3, 4, bidirectional=True, normalizer=WithCell())
    forward, backward = single_layers(layer, normalizer=WithCell())
    x = torch.randn(5, 2, 3)
    expected = torch.cat([forward(x)[0], backward(x.flip(0))[0].flip(0)], -1)
    torch.testing.assert_close(layer(x)[0], expected)


@settings(max_examples=20)
@given(cases(projection=False), st.sampled_from(["none", StepGain(), RowNorm()]))
def test_tokens_equal_one_hot_vectors(case: Case, normalizer: str | Normalizer) -> None:
    layer = LSTM(case.input_size, case.hidden_size, **case.options, normalizer=normalizer)
    torch.manual_seed(case.seed)
    shape = (case.steps, case.batch) if case.batched else (case.steps,)
    if case.batched and case.options["batch_first"]:
        shape = shape[::-1]
    tokens = torch.randint(case.input_size, shape)
    vectors = torch.nn.functional.one_hot(tokens, case.input_size).float()
    x, dense = tokens, vectors
    if case.lengths is not None:
        x, dense = (
            pack_padded_sequence(
                t, list(case.lengths), batch_first=case.options["batch_first"], enforce_sorted=False
            )
            for t in (tokens, vectors)
        )
    got, (h, c) = layer(x, case.state())
    expected, (h_expected, c_expected) = layer(dense, case.state())
    if case.lengths is not None:
        got, expected = got.data, expected.data
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(h, h_expected)
    torch.testing.assert_close(c, c_expected)


def test_packed_sequences_equal_each_sequence_alone() -> None:
    torch.manual_seed(1)
    layer = LSTM(3, 4, 2, bidirectional=True, quantizer=Sign())
    lengths = [2, 5, 1, 3]
    x = torch.randn(5, 4, 3)
    output, (h, c) = layer(pack_padded_sequence(x, lengths, enforce_sorted=False))
    padded, _ = pad_packed_sequence(output)
    for k, length in enumerate(lengths):
        alone, (h_alone, c_alone) = layer(x[:length, k])
        torch.testing.assert_close(padded[:length, k], alone)
        torch.testing.assert_close(h[:, k], h_alone)
        torch.testing.assert_close(c[:, k], c_alone)


def messages(call: object) -> tuple[type[BaseException], str]:
    try:
        call()  # type: ignore[operator]
    except Exception as error:
        return type(error), str(error)
    raise AssertionError("no error was raised")


@pytest.mark.parametrize(
    "arguments",
    [
        {"dropout": 1.5},
        {"dropout": True},
        {"bias": 1},
        {"batch_first": "yes"},
        {"input_size": 0},
        {"input_size": 2.0},
        {"hidden_size": -1},
        {"hidden_size": "8"},
        {"num_layers": 0},
        {"proj_size": -1},
        {"proj_size": 4},
    ],
    ids=str,
)
def test_constructor_errors_are_torchs(arguments: dict[str, object]) -> None:
    everything = {"input_size": 3, "hidden_size": 4} | arguments
    assert messages(lambda: LSTM(**everything)) == messages(lambda: torch.nn.LSTM(**everything))  # type: ignore[arg-type]


def test_dropout_on_one_layer_warns_like_torch() -> None:
    for cls in (LSTM, torch.nn.LSTM):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            cls(3, 4, dropout=0.5)
        assert [str(w.message) for w in caught] == [
            "dropout option adds dropout after all but last recurrent layer, so non-zero dropout expects "
            "num_layers greater than 1, but got dropout=0.5 and num_layers=1"
        ]
        assert caught[0].filename == __file__ or cls is torch.nn.LSTM


@pytest.mark.parametrize(
    ("x", "state"),
    [
        (torch.zeros(3), None),
        (torch.zeros(2, 2, 2, 3), None),
        (torch.zeros(5, 2, 4), None),
        (torch.zeros(5, 2, 3, dtype=torch.float64), None),
        (torch.zeros(5, 2, 3, dtype=torch.int64), None),
        (torch.zeros(0, 2, 3), None),
        (torch.zeros(5, 2, 3), (torch.zeros(1, 3, 4), torch.zeros(1, 2, 4))),
        (torch.zeros(5, 2, 3), (torch.zeros(1, 2, 4), torch.zeros(1, 2, 5))),
        (torch.zeros(5, 2, 3), (torch.zeros(2, 4), torch.zeros(2, 4))),
        (torch.zeros(5, 3), (torch.zeros(1, 1, 4), torch.zeros(1, 1, 4))),
    ],
    ids=lambda v: str(tuple(v.shape)) if isinstance(v, torch.Tensor) else "",
)
def test_call_errors_are_torchs(x: torch.Tensor, state: object) -> None:
    ours, theirs = LSTM(3, 4), torch.nn.LSTM(3, 4)
    assert messages(lambda: ours(x, state)) == messages(lambda: theirs(x, state))


def test_tokens_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"tokens must lie in .*\[0, 3\), got -1 to 3"):
        LSTM(3, 4)(torch.tensor([[0, 3], [-1, 2]]))


def test_copies_and_pickles_compute_the_same() -> None:
    layer = LSTM(3, 4, 2, quantizer=Sign(), normalizer=WithCell())
    x = torch.randn(5, 2, 3)
    expected = layer(x)[0]
    stored = io.BytesIO()
    torch.save(layer, stored)
    stored.seek(0)
    copies = [
        copy.deepcopy(layer),
        pickle.loads(pickle.dumps(layer)),
        torch.load(stored, weights_only=False),
    ]
    fresh = LSTM(3, 4, 2, quantizer=Sign(), normalizer=WithCell())
    fresh.load_state_dict(layer.state_dict())
    for other in (*copies, fresh):
        assert torch.equal(other(x)[0], expected)


def test_autocast_runs_both_paths() -> None:
    x = torch.randn(5, 2, 3)
    for normalizer in ("none", StepGain()):
        layer = LSTM(3, 4, normalizer=normalizer)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output, _ = layer(x)
        torch.testing.assert_close(output.float(), layer(x)[0], rtol=0.05, atol=0.05)


def test_recorded_states_are_the_outputs_and_carry_gradients() -> None:
    torch.manual_seed(0)
    layer = LSTM(3, 4, 2, bidirectional=True)
    x = torch.randn(6, 2, 3)
    with record_states(layer) as traces:
        recorded, (_, c) = layer(x)
    plain, _ = layer(x)
    torch.testing.assert_close(recorded, plain)
    assert [(t.layer, t.direction) for t in traces] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    forward, reverse = traces[2:]
    torch.testing.assert_close(torch.cat([torch.stack(forward.h), torch.stack(reverse.h)], -1), recorded)
    torch.testing.assert_close(forward.c[-1], c[2])
    torch.testing.assert_close(reverse.c[0], c[3])
    # h_1 of the forward direction acts on the last output only through time.
    (gradient,) = torch.autograd.grad(recorded[-1, :, :4].sum(), forward.h[0])
    assert gradient.abs().max() > 0
    assert layer._traces is None


def test_recorded_gates_are_those_that_made_the_states() -> None:
    torch.manual_seed(0)
    layer = LSTM(3, 4, bidirectional=True, quantizer=Sign(), normalizer=StepGain())
    initial = torch.randn(2, 2, 2, 4)
    with record_states(layer) as traces:
        layer(torch.randn(6, 2, 3), tuple(initial))
    for direction, trace in enumerate(traces):
        order = range(6) if direction == 0 else range(5, -1, -1)
        state = trace.initial
        assert torch.equal(torch.stack(state), initial[:, direction])
        for count, t in enumerate(order):
            expected = trace.prepared.norm_hh(trace.prepared.recurrent(state[0]), count)
            torch.testing.assert_close(trace.r[t], expected)
            state = layer.cell.step(trace.x[t], trace.r[t], *state)
            torch.testing.assert_close((trace.h[t], trace.c[t]), state)


def test_recording_stops_after_an_error() -> None:
    layer = LSTM(3, 4)
    with pytest.raises(RuntimeError, match="input_size"), record_states(layer):
        layer(torch.zeros(5, 2, 9))
    with record_states(layer) as traces:
        layer(torch.zeros(5, 2, 3))
    assert len(traces) == 1


def test_loop_is_taken_where_torch_has_no_operator() -> None:
    """The readable loop, run by hand, is what a normalised layer computes."""
    layer = LSTM(3, 4, quantizer=Sign(), normalizer=StepGain())
    x = torch.randn(5, 2, 3)
    zeros = torch.zeros(2, 4)
    expected, _ = run_loop(layer.prepared_cell(0, 0), x.flatten(0, 1), (zeros, zeros), [2] * 5)
    torch.testing.assert_close(layer(x)[0].flatten(0, 1), expected)
