"""The character task: streams, segments, carried state and bits per character, against brute force."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from qlstm_bench.config import RunConfig
from qlstm_bench.data import DataError
from qlstm_bench.tasks.char_lm import CharLM
from qlstm_bench.tasks.streams import count_segments, cut_streams, segment


def prepared(data: str, **settings: Any) -> CharLM:
    task = CharLM()
    task.prepare(RunConfig.build({**CharLM.defaults, "data": data, "steps": 1, **settings}))
    return task


@given(st.integers(2, 300), st.integers(1, 8), st.integers(1, 40))
def test_segments_cover_every_stream_once_and_in_order(length: int, streams: int, unroll: int) -> None:
    """Stream b is the b-th piece of the text, and each of its characters predicts the next."""
    length = max(length, 2 * streams)
    codes = np.arange(length, dtype=np.uint16)
    cut = cut_streams(codes, streams)
    per_stream = length // streams
    pairs: list[list[tuple[int, int]]] = [[] for _ in range(streams)]
    for index in range(count_segments(cut, unroll)):
        characters, following = segment(cut, index, unroll)
        assert characters.dtype == following.dtype == torch.int64
        assert 1 <= len(characters) <= unroll
        for row, next_row in zip(characters.tolist(), following.tolist(), strict=True):
            for stream, pair in enumerate(zip(row, next_row, strict=True)):
                pairs[stream].append(pair)
    for stream in range(streams):
        start = stream * per_stream
        assert pairs[stream] == [(p, p + 1) for p in range(start, start + per_stream - 1)]


def test_an_epoch_of_penn_treebank_is_784_steps() -> None:
    """5,017,482 characters in 64 streams of 78,398, of which 78,397 are predicted, 100 a step."""
    assert count_segments(cut_streams(np.zeros(5_017_482, np.uint8), 64), 100) == 784


def test_batches_start_again_with_each_epoch(text_file: Path) -> None:
    task = prepared(str(text_file), batch=4, unroll=100)
    assert task.steps_per_epoch == math.ceil((4800 // 4 - 1) / 100)
    for step in (0, 3, task.steps_per_epoch - 1):
        for part, again in zip(task.batch(step), task.batch(step + task.steps_per_epoch), strict=True):
            assert torch.equal(part, again)


def test_loss_is_the_mean_cross_entropy_and_carries_the_state(text_file: Path) -> None:
    """Two segments with carried state give the losses of one long pass of torch's own LSTM."""
    task = prepared(str(text_file), batch=4, unroll=30, hidden=8)
    model = task.model("none", "none")
    first, second = task.batch(0), task.batch(1)
    loss1, state = task.loss(model, first, None)
    loss2, _ = task.loss(model, second, state)
    assert not state[0].requires_grad
    assert not state[1].requires_grad

    reference = nn.LSTM(model.output.out_features, 8)
    reference.load_state_dict(model.recurrent.state_dict())
    characters = torch.cat([first[0], second[0]])
    one_hot = nn.functional.one_hot(characters, model.output.out_features).float()
    log_p = model.output(reference(one_hot)[0]).log_softmax(-1)
    following = torch.cat([first[1], second[1]])
    nats = -log_p.gather(-1, following.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(loss1, nats[:30].mean(), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(loss2, nats[30:].mean(), atol=1e-6, rtol=1e-5)


def test_the_output_layer_starts_within_a_tenth(text_file: Path) -> None:
    """U(−0.1, 0.1), whose standard deviation is 0.1/√3, and biases of 0."""
    torch.manual_seed(0)
    output = prepared(str(text_file), hidden=400, batch=4).model("none", "none").output
    assert 0.09 < output.weight.abs().max() <= 0.1
    assert output.weight.std().item() == pytest.approx(0.1 / math.sqrt(3), rel=0.03)
    assert (output.bias == 0).all()


@pytest.mark.parametrize("part", ["valid", "test"])
@pytest.mark.parametrize(("unroll", "eval_symbols"), [(7, None), (100, None), (10, 300)])
def test_evaluation_is_bits_per_character_of_each_stream(
    text_file: Path, unroll: int, eval_symbols: int | None, part: str
) -> None:
    """Against a loop over streams and characters that knows no segments."""
    task = prepared(str(text_file), batch=4, unroll=unroll, hidden=8, eval_symbols=eval_symbols)
    model = task.model("none", "none").eval()
    start = 4800 if part == "valid" else 5400
    text = text_file.read_text()[start : start + 600 if eval_symbols is None else start + eval_symbols]
    symbols = sorted(set(text_file.read_text()))
    streams = 4 if len(text) // 4 > unroll else len(text) // (unroll + 1)
    length = len(text) // streams
    bits = []
    with torch.no_grad():
        for stream in range(streams):
            piece = [symbols.index(c) for c in text[stream * length : (stream + 1) * length]]
            state = None
            for character, following in pairwise(piece):
                logits, state = model(torch.tensor([[character]]), state)
                bits.append(-logits[0, 0].log_softmax(-1)[following].item() / math.log(2))
        assert task.evaluate(model, part) == pytest.approx(sum(bits) / len(bits), abs=1e-5)


def test_the_measured_loss_is_that_of_the_last_step_alone(text_file: Path) -> None:
    """Of the first segment of validation's streams."""
    task = prepared(str(text_file), batch=4, unroll=7, hidden=8)
    model = task.model("none", "none").eval()
    text, symbols = text_file.read_text(), sorted(set(text_file.read_text()))
    nats = []
    for start in range(4800, 5400, 150):
        codes = torch.tensor([symbols.index(character) for character in text[start : start + 8]])
        logits, _ = model(codes[:7].unsqueeze(1))
        nats.append(nn.functional.cross_entropy(logits[-1, 0], codes[7]))
    torch.testing.assert_close(task.final_step_loss(model), torch.stack(nats).mean())


def test_baseline_is_the_entropy_under_training_frequencies(tmp_path: Path) -> None:
    path = tmp_path / "ab.txt"
    path.write_text("aaab" * 20 + "aaabbbbbbc" + "b" * 10)  # 100 characters: training never meets c
    task = prepared(str(path), batch=2, unroll=5)
    share = {"a": 61 / 83, "b": 21 / 83, "c": 1 / 83}
    expected = -sum(math.log2(share[symbol]) for symbol in "aaabbbbbbc") / 10
    assert task.baseline() == pytest.approx(expected, abs=1e-12)


def test_a_text_too_short_for_its_batch_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "short.txt"
    path.write_text("0123456789" * 4)
    with pytest.raises(
        DataError, match=r"short.txt: its training part has 32 characters, too few for batch 17"
    ):
        prepared(str(path), batch=17)
    assert prepared(str(path), batch=16).steps_per_epoch == 1


def test_a_part_with_nothing_to_predict_is_refused() -> None:
    task = CharLM()
    task.given_data = {"train": ["a text"] * 9, "valid": ["ab"], "test": [""]}
    with pytest.raises(
        DataError, match=r"its validation and test parts have 3 and 1 characters; .* 2 in each"
    ):
        task.prepare(RunConfig.build({**CharLM.defaults, "data": "given", "batch": 2, "steps": 1}))
