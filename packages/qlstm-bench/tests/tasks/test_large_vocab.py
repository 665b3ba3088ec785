"""Sampled softmax against the full one and brute force, and the task that uses it."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import cross_entropy

from qlstm_bench.config import ConfigError, RunConfig
from qlstm_bench.tasks.large_vocab import LargeVocabularyLM, SampledWordLanguageModel
from qlstm_bench.tasks.sampled_softmax import Draw, draw_words, probability, sampled_cross_entropy
from qlstm_bench.training.optimizer import make_optimizer
from qlstm_bench.training.run import train
from qlstm_core import LSTM

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")


def test_words_are_drawn_by_zipfs_law() -> None:
    """The first of each draw has the law's probabilities; all of a draw are different."""
    torch.manual_seed(0)
    q = probability(torch.arange(20), 20)
    assert q.sum().item() == pytest.approx(1)
    assert q[4].item() == pytest.approx(math.log(6 / 5) / math.log(21))
    draws = [draw_words(3, 20) for _ in range(10_000)]
    assert all(len(set(draw.words.tolist())) == 3 <= draw.tries for draw in draws)
    first = torch.bincount(torch.stack([draw.words[0] for draw in draws]), minlength=20) / len(draws)
    torch.testing.assert_close(first.double(), q, atol=0.016, rtol=0)
    # Of three different words out of many, the tries are three, and one more for each repetition.
    repeats = sum(draw.tries == 3 for draw in draws) / len(draws)
    pairs = q.unsqueeze(1) * (1 - torch.eye(20)) * q
    distinct = float((pairs * (1 - q.unsqueeze(1) - q)).sum())
    assert repeats == pytest.approx(distinct, abs=0.016)


def test_a_draw_may_hold_nearly_every_word() -> None:
    torch.manual_seed(0)
    draw = draw_words(49, 50)
    assert len(set(draw.words.tolist())) == 49
    assert draw.tries > 49


def test_loss_is_a_softmax_over_the_target_and_the_draw() -> None:
    """Against a loop over targets and drawn words."""
    torch.manual_seed(0)
    h, weight, bias = torch.randn(4, 3).double(), torch.randn(9, 3).double(), torch.randn(9).double()
    targets, draw = torch.tensor([0, 8, 3, 3]), Draw(torch.tensor([3, 0, 5, 1]), 7)

    def corrected(feature: torch.Tensor, k: int) -> float:
        q = math.log((k + 2) / (k + 1)) / math.log(10)
        return float(feature @ weight[k] + bias[k]) - math.log(1 - (1 - q) ** 7)

    losses = []
    for feature, target in zip(h, targets.tolist(), strict=True):
        words = {target, *draw.words.tolist()}
        total = sum(math.exp(corrected(feature, k)) for k in words)
        losses.append(math.log(total) - corrected(feature, target))
    found = sampled_cross_entropy(h, weight, bias, targets, draw)
    assert found.item() == pytest.approx(sum(losses) / 4)


def test_the_true_distribution_is_where_the_loss_is_flat() -> None:
    """Biases at the words' log-frequencies have hardly a gradient; without the correction they have one."""
    torch.manual_seed(0)
    frequencies = torch.rand(100).double() + 0.1
    bias = (frequencies / frequencies.sum()).log().requires_grad_()
    h, weight = torch.zeros(2000, 1).double(), torch.zeros(100, 1).double()
    corrected, plain = torch.zeros(100).double(), torch.zeros(100).double()
    for _ in range(300):
        targets = torch.multinomial(frequencies, 2000, replacement=True)
        draw = draw_words(30, 100)
        loss = sampled_cross_entropy(h, weight, bias, targets, draw)
        corrected += torch.autograd.grad(loss, bias)[0]
        others = bias[draw.words].masked_fill(targets.unsqueeze(1) == draw.words, -math.inf)
        logits = torch.cat([bias[targets].unsqueeze(1), others], 1)
        plain += torch.autograd.grad(cross_entropy(logits, torch.zeros_like(targets)), bias)[0]
    assert corrected.norm() < 0.25 * plain.norm()


def test_a_sparse_gradient_is_the_dense_one() -> None:
    torch.manual_seed(0)
    h, targets, draw = torch.randn(6, 4), torch.randint(12, (6,)), draw_words(5, 12)
    weight, bias = torch.randn(12, 4).requires_grad_(), torch.zeros(12)
    dense, sparse = (
        torch.autograd.grad(sampled_cross_entropy(h, weight, bias, targets, draw, sparse=flag), weight)[0]
        for flag in (False, True)
    )
    assert sparse.is_sparse
    torch.testing.assert_close(sparse.to_dense(), dense)


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    path = tmp_path / "cycle.txt"
    path.write_text("one two three four five six seven eight nine ten\n" * 300)
    return {
        "task": "large-vocab-lm:samples=5", "data": str(path), "hidden": 32, "proj": 16, "batch": 8,
        "unroll": 10, "device": "cpu", "lr": 0.5, "layers": 1,
    }  # fmt: skip


def test_embedding_and_softmax_start_as_eight_shards_of_unit_scale() -> None:
    """U(±√(3·8/V)), whose variance is 1/(V/8); at most ±0.1."""
    torch.manual_seed(0)
    for words, limit in ((6000, math.sqrt(24 / 6000)), (100, 0.1)):
        model = SampledWordLanguageModel(words, LSTM(8, 8), 0.0, samples=5, sparse=False)
        for weight in (model.embedding.weight, model.output.weight):
            assert 0.98 * limit < weight.abs().max() <= limit
        if limit < 0.1:
            assert model.output.weight.var().item() == pytest.approx(1 / (words / 8), rel=0.05)
        assert (model.output.bias == 0).all()


@pytest.mark.parametrize("sparse", [True, False])
def test_the_embedding_has_the_gradient_of_the_summed_loss(settings: dict[str, Any], sparse: bool) -> None:
    """All else has that of the mean over the streams: against autograd on the loss times their number."""
    own = {**LargeVocabularyLM.defaults, **settings, "steps": 1, "optimizer": "adagrad" if sparse else "adam"}
    grads: dict[str, dict[str, Tensor]] = {}
    for reduction in ("sum", "mean"):
        task = LargeVocabularyLM(samples=5, embedding_reduction=reduction)
        task.prepare(RunConfig.build(own))
        torch.manual_seed(0)
        model = task.model("none", "none").eval()
        assert model.embedding.sparse == sparse
        torch.manual_seed(1)
        loss, _ = task.loss(model, task.batch(0), None)
        loss.backward()
        grads[reduction] = {n: p.grad.to_dense() for n, p in model.named_parameters() if p.grad is not None}
    torch.manual_seed(1)  # the mean's model once more, by autograd on the sum
    loss, _ = task.loss(model, task.batch(0), None)
    (summed,) = torch.autograd.grad(settings["batch"] * loss, model.embedding.weight)
    torch.testing.assert_close(grads["sum"].pop("embedding.weight"), summed.to_dense())
    assert grads["mean"].pop("embedding.weight").norm() > 0
    assert grads["sum"].keys() == grads["mean"].keys()
    for name, gradient in grads["sum"].items():
        torch.testing.assert_close(gradient, grads["mean"][name])


def test_the_embedding_trains(tmp_path: Path) -> None:
    """In 20 steps by most of what it starts from; with the mean's gradient by a twentieth of that.

    Adagrad's first sum, 1/400, outweighs the squared gradients of a word that a batch has once or twice.
    """
    choose = random.Random(0)
    path = tmp_path / "zipf.txt"
    path.write_text(" ".join(f"w{int(300 ** choose.random())}" for _ in range(12_000)))
    settings = {
        "data": str(path), "hidden": 32, "proj": 16, "layers": 1, "batch": 32, "unroll": 10, "device": "cpu",
        "eval_symbols": 200,
    }  # fmt: skip
    moved = {}
    for reduction in ("sum", "mean"):
        task = f"large-vocab-lm:embedding_reduction={reduction},samples=50"
        early, late = (
            load_file(outcome.run.directory / "model.safetensors")["embedding.weight"]
            for outcome in (train({**settings, "task": task, "steps": n}, tmp_path) for n in (1, 21))
        )
        moved[reduction] = float((late - early).norm() / early.norm())
    assert moved["sum"] > 0.5
    assert 0 < moved["mean"] < 0.1


@pytest.mark.parametrize(
    "cell", [{}, {"cell": "f-lstm", "rank": 8}, {"cell": "g-lstm", "groups": 2}], ids=str
)
def test_the_papers_models_learn(settings: dict[str, Any], tmp_path: Path, cell: dict[str, Any]) -> None:
    """A text whose every word follows from the last, from a sample of half the vocabulary."""
    result = train({**settings, **cell, "steps": 100}, tmp_path / "runs").result
    assert result.figure("test") < 0.5 * result.figure("baseline")


def test_sparse_and_dense_gradients_train_alike(settings: dict[str, Any]) -> None:
    task = LargeVocabularyLM(samples=5)
    config = {**LargeVocabularyLM.defaults, **settings, "steps": 1}
    task.prepare(RunConfig.build(config))
    torch.manual_seed(0)
    model = task.model("none", "none")
    assert model.embedding.sparse
    dense = task.model("none", "none")
    dense.load_state_dict(model.state_dict())
    dense.embedding.sparse = dense.sparse_head = False
    for trained in (model, dense):
        torch.manual_seed(1)
        optimizer = make_optimizer(trained, RunConfig.build(config), 1.0)
        state = None
        for step in range(3):
            loss, state = task.loss(trained, task.batch(step), state)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for one, other in zip(model.parameters(), dense.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_a_quantized_softmax_is_sampled_from_its_quantized_rows(settings: dict[str, Any]) -> None:
    task = LargeVocabularyLM(samples=5)
    parts = {"head_quantizer": "bwn:per_row=true", "embedding_quantizer": "twn"}
    task.prepare(RunConfig.build({**LargeVocabularyLM.defaults, **settings, **parts, "steps": 1}))
    model = task.model("none", "none").eval()
    words, following = task.batch(0)
    torch.manual_seed(0)
    loss, _ = task.loss(model, (words, following), None)
    loss.backward()
    torch.manual_seed(0)
    draw = draw_words(5, len(model.output.weight))
    embedded = model.embedding.quantizer(model.embedding.weight[None])[0][words]
    rows = model.output.weight.sign() * model.output.weight.abs().mean(1, keepdim=True)
    h, _ = model.recurrent(embedded)
    expected = sampled_cross_entropy(h.flatten(0, 1), rows, model.output.bias, following.flatten(), draw)
    torch.testing.assert_close(loss, expected)
    for weight in (model.output.weight, model.embedding.weight):
        assert weight.grad is not None
        assert not weight.grad.is_sparse


def test_a_sample_beyond_the_vocabulary_is_refused(settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"samples=11 is not below the vocabulary .* 11 words"):
        train({**settings, "task": "large-vocab-lm:samples=11", "steps": 1}, tmp_path)
