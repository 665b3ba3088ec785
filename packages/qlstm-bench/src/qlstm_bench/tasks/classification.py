"""Sequence classification: one label for a whole sequence, given after its last step."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from qlstm_bench.config import ConfigError, RunConfig
from qlstm_bench.data import DataError, Sequences, load_sequences
from qlstm_bench.tasks.layers import make_initial_state, make_layer
from qlstm_bench.tasks.task import Task
from qlstm_core import InitialState, Linear, RecurrentLayer


class SequenceClassifier(nn.Module):
    """A recurrent layer, and a linear one on its last output: ``logits = V h_T + a``.

    Args:
        recurrent: any recurrent layer.
        classes: number of labels.
        initial_state: state that it begins from; zeros by default.
        head_quantizer: quantizer of V.
    """

    def __init__(
        self,
        recurrent: RecurrentLayer,
        classes: int,
        initial_state: InitialState | None = None,
        *,
        head_quantizer: str = "none",
    ) -> None:
        super().__init__()
        self.recurrent = recurrent
        self.output = Linear(recurrent.output_size, classes, quantizer=head_quantizer)
        self.initial_state = initial_state

    def forward(self, sequences: Tensor) -> Tensor:
        """Return the logits ``(B, classes)``.

        Args:
            sequences: ``(T, B, features)``, or tokens ``(T, B)``.
        """
        state = None if self.initial_state is None else self.initial_state(sequences.shape[1])
        h, _ = self.recurrent(sequences, state)
        return self.output(h[-1])  # type: ignore[no-any-return]


class Classification(Task):
    """Read a sequence to its end, then say which class it is of. Back-propagation runs through all of it.

    Each epoch goes through the training part in an order of its own, drawn from the seed; what is left over
    from the last whole batch is left out.

    Args:
        permuted: read the steps of every sequence in one order drawn at random, the same in all runs, so that
            neighbours are far apart.
        per_step: how many numbers of a sequence ``(n, T)`` are read at each step, which makes it shorter: 28
            reads MNIST's images row by row, in 28 steps. (After ``permuted``; T must be a multiple.)
    """

    defaults: ClassVar[dict[str, Any]] = {
        "hidden": 100, "batch": 100, "lr": 0.002, "clip": 1.0, "epoch_decay": 0.5 ** (1 / 200)
    }  # fmt: skip
    quantizes: ClassVar[tuple[str, ...]] = ("head",)
    metric = "accuracy"
    metric_title = "% correct"
    higher_is_better = True

    def __init__(self, permuted: bool = False, per_step: int = 1) -> None:
        if not isinstance(permuted, bool):
            raise TypeError(f"permuted must be true or false, got {permuted!r}")
        if isinstance(per_step, bool) or not isinstance(per_step, int) or per_step < 1:
            raise ValueError(f"per_step must be a whole number from 1, got {per_step!r}")
        self._permuted, self._per_step = permuted, per_step

    def prepare(self, config: RunConfig) -> None:
        """Load the sequences and draw the order of their steps."""
        if config.unroll is not None:
            raise ConfigError(f"{config.task}: a sequence is read to its end: leave unroll out")
        data = load_sequences(config.data if self.given_data is None else self.given_data)
        self._config = config
        self._data: Sequences = data
        self.dataset, self.dataset_sha256 = data.name, data.sha256
        count, steps = data.train[0].shape[:2]
        if count < config.batch:
            raise DataError(
                f"{data.name}: its training part has {count} sequences, too few for batch {config.batch}; "
                "use a smaller batch"
            )
        self._check_per_step(steps)
        self._order = np.random.default_rng(0).permutation(steps) if self._permuted else np.arange(steps)
        self.steps_per_epoch = count // config.batch

    def _check_per_step(self, steps: int) -> None:
        if self._per_step == 1:
            return
        data = self._data
        if data.tokens or data.train[0].ndim == 3:
            found = "tokens" if data.tokens else f"{data.features} features"
            raise ConfigError(
                f"{self._config.task}: per_step is for one number a step; {data.name} has {found}"
            )
        if steps % self._per_step:
            raise ConfigError(
                f"{self._config.task}: per_step={self._per_step} does not divide the {steps} numbers of a "
                f"sequence of {data.name}"
            )

    def model(self, quantizer: str, normalizer: str) -> SequenceClassifier:
        """Return a fresh :class:`SequenceClassifier`."""
        data = self._data
        inputs = data.tokens or data.features * self._per_step
        layer = make_layer(self._config, inputs, quantizer, normalizer, tokens=data.tokens > 0)
        start = make_initial_state(self._config, layer)
        return SequenceClassifier(layer, data.classes, start, head_quantizer=self._config.head_quantizer)

    def recurrent(self, model: nn.Module) -> RecurrentLayer:
        """Return the model's ``recurrent``."""
        layer = model.recurrent
        assert isinstance(layer, RecurrentLayer)
        return layer

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return sequences of a step, ``(T, B, features)`` or tokens ``(T, B)``, and labels ``(1, B)``."""
        epoch, index = divmod(step, self.steps_per_epoch)
        shuffled = np.random.default_rng((self._config.seed, epoch)).permutation(len(self._data.train[0]))
        size = self._config.batch
        return self._take("train", shuffled[index * size : (index + 1) * size])

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor], state: None) -> tuple[Tensor, None]:
        """Return the mean cross-entropy; no state is carried."""
        sequences, labels = batch
        return cross_entropy(model(sequences), labels[0]), None

    def evaluate(self, model: nn.Module, split: str) -> float:
        """Return the share of a part's sequences that are classified correctly, in %."""
        chosen = np.arange(len(self._data.split(split)[0]))[: self._config.eval_symbols]
        correct = 0
        for start in range(0, len(chosen), self._config.batch):
            sequences, labels = self._take_for(model, split, chosen[start : start + self._config.batch])
            correct += int((model(sequences).argmax(-1) == labels[0]).sum())
        return 100 * correct / len(chosen)

    def final_step_loss(self, model: nn.Module) -> Tensor:
        """Return the mean cross-entropy of validation's first batch: its only loss is at the last step."""
        first = min(self._config.batch, len(self._data.valid[0]))
        sequences, labels = self._take_for(model, "valid", np.arange(first))
        return cross_entropy(model(sequences), labels[0])

    def baseline(self) -> float:
        """Return the share of the most frequent training label in validation, in %."""
        most = np.bincount(self._data.train[1]).argmax()
        labels = self._data.valid[1][: self._config.eval_symbols]
        return 100 * float((labels == most).mean())

    def _take_for(self, model: nn.Module, split: str, chosen: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return sequences and labels on the model's device, in its dtype."""
        parameter = next(model.parameters())
        sequences, labels = (part.to(parameter.device) for part in self._take(split, chosen))
        return sequences.to(parameter.dtype) if sequences.is_floating_point() else sequences, labels

    def _take(self, split: str, chosen: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        values, labels = self._data.split(split)
        steps = torch.from_numpy(np.ascontiguousarray(values[chosen][:, self._order].swapaxes(0, 1)))
        if self._data.tokens:
            steps = steps.long()
        else:
            steps = steps.float() / 255 if steps.dtype == torch.uint8 else steps.float()
            if steps.dim() == 2:
                steps = steps.unflatten(0, (-1, self._per_step)).transpose(1, 2)
        return steps, torch.from_numpy(labels[chosen]).unsqueeze(0)


class SequentialMNIST(Classification):
    """MNIST's digits, one pixel a step, 784 steps; ``mnist:permuted=true`` is pMNIST.

    ``mnist:per_step=28`` reads a row at a step: another and far easier task, for quick looks.

    Defaults are the paper's, of which the authors' code gives those that the poster does not: 100 units,
    batches of 100, Adam with learning rate 0.002 that shrinks to a half over 200 epochs, gradients clipped to
    norm 1. (``batch-separate`` wants ``max_steps=784``.)

    Source: Hou et al. 2019, "Normalization helps training of quantized LSTM".
    """

    defaults: ClassVar[dict[str, Any]] = {**Classification.defaults, "data": "mnist"}


class SequentialDigits(Classification):
    """scikit-learn's digits of 8×8, one pixel a step, 64 steps: MNIST's small relative, at hand anywhere."""

    defaults: ClassVar[dict[str, Any]] = {
        **Classification.defaults, "data": "digits", "batch": 50, "lr": 0.005
    }  # fmt: skip
