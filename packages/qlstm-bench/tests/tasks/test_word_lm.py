"""The word task: its model against torch's own modules, perplexity, learning rates of quantized weights."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from qlstm_bench.config import RunConfig
from qlstm_bench.tasks.word_lm import WordLM
from qlstm_bench.training.run import train


def prepared(data: str, **settings: Any) -> WordLM:
    task = WordLM()
    task.prepare(RunConfig.build({**WordLM.defaults, "data": data, "steps": 1, **settings}))
    return task


def test_the_model_is_an_embedding_an_lstm_and_a_linear_layer(text_file: Path) -> None:
    task = prepared(str(text_file), hidden=6, batch=3, unroll=5)
    model = task.model("none", "none").eval()
    words, following = task.batch(0)
    embedding, output = nn.Embedding(*model.embedding.weight.shape), nn.Linear(6, len(task._text.symbols))
    embedding.load_state_dict(model.embedding.state_dict())
    output.load_state_dict(model.output.state_dict())
    lstm = nn.LSTM(6, 6)
    lstm.load_state_dict(model.recurrent.state_dict())
    logits = output(lstm(embedding(words))[0])
    loss, _ = task.loss(model, (words, following), None)
    expected = nn.functional.cross_entropy(logits.flatten(0, 1), following.flatten())
    torch.testing.assert_close(loss, expected)
    assert model.embedding.weight.abs().max() <= 0.1
    assert (model.output.bias == 0).all()


def test_dropout_acts_on_words_and_outputs_while_training(text_file: Path) -> None:
    task = prepared(str(text_file), hidden=64, batch=3, unroll=5)
    model = task.model("none", "none")
    words, _ = task.batch(0)
    h, _ = model.train().features(words)
    assert 0.4 < (h == 0).float().mean() < 0.6
    assert h.abs().max() > 0
    model.recurrent.forward = lambda x, state: (x, state)
    x, _ = model.train().features(words)
    assert 0.65 < (x == 0).float().mean() < 0.85  # dropped before, after, or both: 3/4
    assert torch.equal(model.eval().features(words)[0], model.embedding(words))


def test_figures_are_perplexities(text_file: Path) -> None:
    task = prepared(str(text_file), hidden=6, batch=3, unroll=5)
    assert task.to_metric(math.log(50)) == pytest.approx(50)
    assert task.to_metric(1e6) < math.inf
    model = task.model("none", "none")
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    assert task.evaluate(model.eval(), "test") == pytest.approx(len(task._text.symbols), rel=1e-5)
    text = task._text
    counts = Counter(text.train.tolist())
    total = len(text.train) + len(text.symbols)
    nats = [-math.log((counts[code] + 1) / total) for code in text.valid.tolist()]
    assert task.baseline() == pytest.approx(math.exp(sum(nats) / len(nats)))


@pytest.mark.parametrize(
    ("quantizer", "factor"),
    [
        ("none", 1), ("bwn", 1), ("twn", 1), ("sbn", 1), ("alternating:bits=2", 1), ("lsq:bits=2", 1),
        ("binary-connect", 2 * math.sqrt(9)), ("ter-connect", 2 * math.sqrt(9)),
        ("binary-connect:stochastic=true", 2 * math.sqrt(9)),
    ],
)  # fmt: skip
def test_weights_of_unit_levels_are_learnt_faster(text_file: Path, quantizer: str, factor: float) -> None:
    task = prepared(str(text_file), hidden=9, batch=3, unroll=5)
    model = task.model(quantizer, "layer")
    assert task.quantized_lr(task.recurrent(model)) == pytest.approx(factor)
    assert model.training


def test_words_are_learnt(tmp_path: Path) -> None:
    """A text whose every word follows from the last is predicted nearly for sure, by 1-bit weights too."""
    path = tmp_path / "cycle.txt"
    path.write_text("one two three four five six seven\n" * 400)
    settings = {
        "task": "word-lm", "data": str(path), "hidden": 16, "batch": 8, "unroll": 10, "epochs": 2,
        "dropout": 0.1, "device": "cpu", "quantizer": "binary-connect", "normalizer": "layer", "lr": 5.0,
    }  # fmt: skip
    result = train(settings, tmp_path).result
    assert result.metrics["baseline_ppl"] == pytest.approx(8, rel=0.01)
    assert result.figure("test") < 1.5
