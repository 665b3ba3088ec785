"""Sequence classification: batches, labels and accuracy, and data of every kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from qlstm_bench.config import ConfigError, RunConfig
from qlstm_bench.data import DataError, load_sequences
from qlstm_bench.tasks.classification import Classification, SequentialDigits
from qlstm_bench.training.run import train


def prepared(data: Any, *, permuted: bool = False, per_step: int = 1, **settings: Any) -> Classification:
    task = Classification(permuted=permuted, per_step=per_step)
    if not isinstance(data, str):
        task.given_data, data = data, "given"
    defaults = {**Classification.defaults, "hidden": 5, "batch": 4, "steps": 1}
    task.prepare(RunConfig.build({**defaults, "data": data, **settings}))
    return task


@pytest.fixture
def npz(tmp_path: Path) -> str:
    """50 sequences of 6 numbers; the label says whether their sum is positive."""
    values = np.random.default_rng(0).normal(size=(50, 6))
    path = tmp_path / "signs.npz"
    np.savez(path, x=values, y=(values.sum(1) > 0).astype(np.int8))
    return str(path)


def test_an_epoch_meets_every_sequence_once_with_its_label(npz: str) -> None:
    task = prepared(npz, seed=3)
    assert task.steps_per_epoch == 10
    seen: list[tuple[float, ...]] = []
    for step in range(10):
        sequences, labels = task.batch(step)
        assert sequences.shape == (6, 4, 1)
        assert labels.shape == (1, 4)
        assert sequences.dtype == torch.float32
        assert ((sequences.sum(0)[:, 0] > 0) == labels[0].bool()).all()
        seen += [tuple(row) for row in sequences[:, :, 0].T.tolist()]
    train_values, _ = load_sequences(npz).train
    assert sorted(seen) == sorted(tuple(row) for row in train_values.astype(np.float32).tolist())
    assert torch.equal(task.batch(7)[0], prepared(npz, seed=3).batch(7)[0])
    assert not torch.equal(task.batch(0)[0], task.batch(10)[0]), "each epoch has an order of its own"
    assert not torch.equal(task.batch(0)[0], prepared(npz, seed=4).batch(0)[0])


def test_permuted_steps_are_the_same_for_every_sequence_and_run(npz: str) -> None:
    plain, permuted, other = prepared(npz), prepared(npz, permuted=True), prepared(npz, permuted=True, seed=1)
    values, _ = plain._take("valid", np.arange(5))
    shuffled, _ = permuted._take("valid", np.arange(5))
    assert not torch.equal(values, shuffled)
    assert torch.equal(values.sort(0).values, shuffled.sort(0).values)
    assert torch.equal(shuffled, other._take("valid", np.arange(5))[0])
    order = [int((values[:, 0, 0] == value).nonzero()) for value in shuffled[:, 0, 0]]
    assert torch.equal(values[order], shuffled)


@pytest.mark.parametrize("permuted", [False, True])
def test_several_numbers_are_read_at_a_step(npz: str, permuted: bool) -> None:
    one, two = prepared(npz, permuted=permuted), prepared(npz, permuted=permuted, per_step=2)
    singly, labels = one.batch(3)
    in_pairs, same = two.batch(3)
    assert in_pairs.shape == (3, 4, 2)
    for step in range(3):
        assert torch.equal(in_pairs[step], torch.cat([singly[2 * step], singly[2 * step + 1]], -1))
    assert torch.equal(labels, same)
    model = two.model("none", "none")
    assert two.recurrent(model).input_size == 2
    assert model(in_pairs).shape == (4, 2)


def test_numbers_that_cannot_be_read_together_are_named(npz: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"per_step=4 does not divide the 6 numbers .* signs\.npz"):
        prepared(npz, per_step=4)
    for values, has in ((np.zeros((20, 4), np.int64), "tokens"), (np.zeros((20, 4, 3)), "3 features")):
        np.savez(tmp_path / "other.npz", x=values, y=np.arange(20) % 2)
        with pytest.raises(ConfigError, match=rf"one number a step; other\.npz has {has}"):
            prepared(str(tmp_path / "other.npz"), per_step=2)
    for wrong in (0, True, 1.5):
        with pytest.raises(ValueError, match="per_step must be a whole number from 1"):
            Classification(per_step=wrong)  # type: ignore[arg-type]


def test_accuracy_counts_what_the_model_gets_right(npz: str) -> None:
    class Sum(nn.Module):
        """Right but for a bias."""

        def __init__(self, bias: float) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.tensor(bias))

        def forward(self, sequences: Tensor) -> Tensor:
            total = sequences.sum((0, 2)) + self.bias
            return torch.stack([-total, total], -1)

    for eval_symbols in (None, 3):
        task = prepared(npz, eval_symbols=eval_symbols)
        values, labels = (part[:eval_symbols] for part in load_sequences(npz).valid)
        assert task.evaluate(Sum(0.0), "valid") == 100
        expected = 100 * float(((values.sum(1) + 1.0 > 0) == labels).mean())
        assert task.evaluate(Sum(1.0).double(), "valid") == pytest.approx(expected)
        always = 100 * float((labels == np.bincount(load_sequences(npz).train[1]).argmax()).mean())
        assert task.baseline() == pytest.approx(always)


def test_loss_is_taken_at_the_last_step(npz: str) -> None:
    task = prepared(npz)
    model = task.model("none", "none")
    sequences, labels = task.batch(0)
    reference = nn.LSTM(1, 5)
    reference.load_state_dict(model.recurrent.state_dict())
    logits = model.output(reference(sequences)[0][-1])
    loss, state = task.loss(model, (sequences, labels), None)
    assert state is None
    torch.testing.assert_close(loss, nn.functional.cross_entropy(logits, labels[0]))


def test_the_measured_loss_is_that_of_validations_first_sequences(npz: str) -> None:
    for batch in (4, 9):
        task = prepared(npz, batch=batch)
        model = task.model("none", "none")
        values, labels = (torch.from_numpy(part[:batch]) for part in load_sequences(npz).valid)
        expected = nn.functional.cross_entropy(model(values.T.unsqueeze(-1).float()), labels)
        torch.testing.assert_close(task.final_step_loss(model), expected)


def test_one_set_of_sequences_is_shuffled_and_split(tmp_path: Path) -> None:
    """Sequences that come sorted by label are mixed, always alike, and each is in one part with its label."""
    labels = np.arange(200) // 100
    np.savez(tmp_path / "sorted.npz", x=np.stack([np.arange(200.0), labels], 1), y=labels)
    data = load_sequences(str(tmp_path / "sorted.npz"))
    parts = [data.split(part) for part in ("train", "valid", "test")]
    assert [len(values) for values, _ in parts] == [160, 20, 20]
    assert sorted(np.concatenate([values[:, 0] for values, _ in parts])) == list(range(200))
    for values, labels in parts:
        assert values[:, 1].tolist() == labels.tolist()
        assert 0.2 < labels.mean() < 0.8
    again = load_sequences(str(tmp_path / "sorted.npz"))
    assert again.valid[0].tolist() == data.valid[0].tolist()


def test_pixels_are_scaled_and_tokens_are_not(tmp_path: Path) -> None:
    pixels = np.array([[0, 51, 255]] * 20, dtype=np.uint8)
    labels = np.arange(20) % 2
    np.savez(tmp_path / "pixels.npz", x=pixels, y=labels)
    sequences, _ = prepared(str(tmp_path / "pixels.npz")).batch(0)
    torch.testing.assert_close(sequences[:, 0, 0], torch.tensor([0.0, 0.2, 1.0]))
    np.savez(tmp_path / "tokens.npz", x=pixels.astype(np.int32), y=labels)
    task = prepared(str(tmp_path / "tokens.npz"))
    assert task.batch(0)[0].dtype == torch.int64
    assert task.recurrent(task.model("none", "none")).input_size == 256


def test_digits_are_scaled_by_their_largest_value() -> None:
    """scikit-learn's pixels are integers from 0 to 16."""
    digits = load_sequences("digits")
    for values, _ in (digits.train, digits.valid, digits.test):
        assert (values.min(), values.max()) == (0, 1)
        assert np.array_equal(values * 16, np.rint(values * 16))


def test_digits_are_learnt(tmp_path: Path) -> None:
    """Sixty steps on the embedded images go well beyond one in ten."""
    settings = {"task": "digits", "normalizer": "layer", "hidden": 32, "steps": 60, "device": "cpu"}
    result = train({**settings, "quantizer": "twn", "lr": 0.02}, tmp_path).result
    assert result.higher_is_better
    assert result.learnt
    assert result.figure("valid") > 2.5 * result.figure("baseline")
    assert result.metrics["best_valid_accuracy"] == max(
        result.metrics["valid_accuracy"], result.metrics["best_valid_accuracy"]
    )
    assert len(result.gradient_norms[0].norms) == 64
    assert SequentialDigits.defaults["data"] == result.dataset.name


class Parity(Dataset[tuple[Tensor, int]]):
    """A torch Dataset of the user's: is the number of ones even?"""

    def __init__(self, count: int) -> None:
        self.bits = torch.randint(2, (count, 5), generator=torch.Generator().manual_seed(0)).float()

    def __len__(self) -> int:
        return len(self.bits)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.bits[index], int(self.bits[index].sum()) % 2


def test_a_torch_dataset_is_trained_on(tmp_path: Path) -> None:
    settings = {"task": "classify", "hidden": 4, "batch": 8, "steps": 2, "device": "cpu"}
    outcome = train({**settings, "data": Parity(40)}, tmp_path)
    assert outcome.result.dataset.name == "Parity"
    assert outcome.run.config.data == "object of type Parity"
    assert train({**settings, "data": Parity(40)}, tmp_path).reused
    assert not train({**settings, "data": Parity(50)}, tmp_path).reused
    parts = {name: Parity(size) for name, size in (("train", 16), ("valid", 8), ("test", 9))}
    assert [len(load_sequences(parts).split(name)[0]) for name in parts] == [16, 8, 9]
    pair = TensorDataset(torch.randn(20, 3, 2), torch.arange(20) % 2)
    assert load_sequences(pair).features == 2


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"a": np.zeros(3)}, "holds 'a'; expected x and y, or x_train"),
        ({"x": np.zeros((20, 3))}, "holds 'x'; expected x and y"),
        ({"x": np.zeros(20), "y": np.zeros(20, int)}, r"shape \(n, T\) or \(n, T, features\), got \(20,\)"),
        ({"x": np.zeros((20, 3)), "y": np.zeros(20)}, "labels must be 20 integers.* got float64"),
        ({"x": np.zeros((20, 3)), "y": np.zeros(19, int)}, r"labels must be 20 integers.* got int64 \(19,\)"),
        ({"x": np.full((20, 3), np.nan), "y": np.zeros(20, int)}, "must be finite numbers"),
        ({"x": np.full((20, 3), "a"), "y": np.zeros(20, int)}, "got dtype <U1"),
        ({"x": np.zeros((20, 3)), "y": np.zeros(20, int)}, "all training labels are 0"),
        ({"x": np.zeros((20, 3)), "y": np.arange(20) - 1}, "labels must be 0 or more, got -1"),
        ({"x": np.zeros((9, 3)), "y": np.arange(9)}, "9 sequences cannot be split 80/10/10"),
        ({"x": -np.ones((20, 3), int), "y": np.arange(20) % 2}, "integers other than uint8 are tokens"),
    ],
)
def test_unfit_arrays_are_named(tmp_path: Path, arrays: dict[str, Any], problem: str) -> None:
    np.savez(tmp_path / "mine.npz", **arrays)
    with pytest.raises(DataError, match=problem) as caught:
        load_sequences(str(tmp_path / "mine.npz"))
    assert "mine.npz" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_npz_with_its_own_split(tmp_path: Path) -> None:
    arrays = {"x_train": np.arange(60.0).reshape(20, 3), "y_train": np.arange(20) % 2}
    arrays |= {"x_test": np.ones((4, 3)), "y_test": np.arange(4) % 2}
    np.savez(tmp_path / "keras.npz", **arrays)
    data = load_sequences(str(tmp_path / "keras.npz"))
    assert [len(data.split(name)[0]) for name in ("train", "valid", "test")] == [18, 2, 4]
    assert data.valid[0].tolist() == [[54, 55, 56], [57, 58, 59]]
    whole = {**arrays, "x_valid": np.full((3, 3), 5.0), "y_valid": np.array([1, 0, 1])}
    np.savez(tmp_path / "whole.npz", **whole)
    whole_data = load_sequences(str(tmp_path / "whole.npz"))
    for part in ("train", "valid", "test"):
        for found, name in zip(whole_data.split(part), "xy", strict=True):
            np.testing.assert_array_equal(found, whole[f"{name}_{part}"])
    np.savez(tmp_path / "other.npz", **{**arrays, "x_test": np.ones((4, 2))})
    with pytest.raises(DataError, match="different shapes"):
        load_sequences(str(tmp_path / "other.npz"))
    np.savez(tmp_path / "strange.npz", **{**arrays, "y_test": np.arange(4)})
    with pytest.raises(DataError, match="test: has label 3, training has labels from 0 to 1 only"):
        load_sequences(str(tmp_path / "strange.npz"))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", b"text"])
def test_a_file_that_is_no_npz_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"bad\.npz' is not a readable \.npz"):
        load_sequences(str(tmp_path / "bad.npz"))


def test_settings_that_do_not_fit_are_named(npz: str) -> None:
    with pytest.raises(ConfigError, match="a sequence is read to its end: leave unroll out"):
        prepared(npz, unroll=3)
    with pytest.raises(DataError, match="40 sequences, too few for batch 41"):
        prepared(npz, batch=41)
    with pytest.raises(DataError, match="'ptb-char' holds characters, this task needs sequences"):
        prepared("ptb-char")
    with pytest.raises(DataError, match=r"failed with TypeError"):
        load_sequences(object())


def test_a_datasets_items_are_taken_as_they_are_or_refused() -> None:
    """Tensors with gradients are data too; numbers are neither rounded nor promoted without a word."""
    values = torch.randn(20, 3, requires_grad=True)
    data = load_sequences([(row, torch.tensor(float(index % 2))) for index, row in enumerate(values)])
    assert sorted(
        map(tuple, np.concatenate([data.split(part)[0] for part in ("train", "valid", "test")]))
    ) == (sorted(map(tuple, values.detach().numpy())))
    for items, problem in (
        ([(row, 0.5) for row in values], "a label must be a whole number, got 0.5"),
        ([(row, "1") for row in values], "a label must be a whole number, got '1'"),
        ([(row, float("inf")) for row in values], "OverflowError"),
        ([(row, 2**70) for row in values], "OverflowError"),
        ([(row, 2_000_000_000) for row in values], "labels must be numbered from 0, below 262144"),
        ([(np.zeros(3, [np.uint8, np.float32][n % 2]), 0) for n in range(20)], "dtypes: float32, uint8"),
        ([(row.bfloat16(), 1) for row in values], "TypeError: Got unsupported ScalarType BFloat16"),
        ([(row.to("meta"), 1) for row in values], "failed with"),
        ([(values[n, : 1 + n % 2], 1) for n in range(20)], "all sequences of one shape and dtype"),
    ):
        with pytest.raises(DataError, match=problem) as caught:
            load_sequences(items)
        assert "\n" not in str(caught.value)


def test_the_digest_of_a_dataset_says_how_it_is_split() -> None:
    x, y = torch.arange(120.0).reshape(40, 3), torch.arange(40) % 2

    def digest(first: int, second: int, values: Tensor = x) -> str:
        cuts = {"train": slice(0, first), "valid": slice(first, second), "test": slice(second, None)}
        return load_sequences({part: TensorDataset(values[cut], y[cut]) for part, cut in cuts.items()}).sha256

    digests = [digest(20, 30), digest(20, 31), digest(21, 30), digest(20, 30, x.double())]
    digests += [
        load_sequences(TensorDataset(values, y)).sha256 for values in (x, x.double(), x.reshape(40, 1, 3))
    ]
    assert len(set(digests)) == 7
    assert digest(20, 30) == digests[0]


def test_the_digest_of_arrays_says_their_dtype() -> None:
    """The same bytes read as tokens and as numbers are other data."""
    bits = np.random.default_rng(0).random((20, 3)).astype(np.float32)
    labels = [index % 2 for index in range(20)]
    tokens = (bits * 1000).astype(np.int32)
    as_floats = tokens.view(np.float32)
    one, other = (load_sequences(list(zip(x, labels, strict=True))) for x in (tokens, as_floats))
    assert one.train[0].tobytes() == other.train[0].tobytes()
    assert one.sha256 != other.sha256
