"""What a task is: data, a model, a loss, and a figure of merit."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from qlstm_core.plugins import Registry
from qlstm_core.plugins.catalogue import Catalogue
from qlstm_core.plugins.specs import Spec

if TYPE_CHECKING:
    from torch import Tensor, nn

    from qlstm_bench.config import RunConfig
    from qlstm_core import RecurrentLayer, Vocabulary


@dataclass(frozen=True, kw_only=True)
class TaskSpec(Spec):
    """Something to train on; ``factory(**options)`` returns a :class:`qlstm_bench.tasks.Task`."""


class Task(ABC):
    """One thing to train on; a plugin provides it through ``qlstm_tasks``.

    :meth:`prepare` is called first, once. After it, every method depends on its arguments alone: a batch is a
    function of the step's number, so that a run can go on from nothing but that number and the carried state.

    Attributes:
        defaults: settings of :class:`qlstm_bench.config.RunConfig` where the user gives none: the paper's
            optimizer and schedule, sizes and data.
        metric: name of the figure of merit, as in ``valid_bpc`` and ``test_bpc``.
        metric_title: the same in words.
        higher_is_better: whether a larger figure of merit is the better one.
        quantizes: parts of the model, beside the recurrent layer, that take a quantizer: ``"embedding"``,
            ``"head"``. The settings ``embedding_quantizer`` and ``head_quantizer`` are refused for others.
        batch_axis: of the tensors that :meth:`batch` returns and of the carried state: which dimension counts
            the sequences side by side. Data parallel training splits along it.
        given_data: what a program gave as ``data`` instead of a name; ``None`` otherwise.
        dataset: name of the data.
        dataset_sha256: SHA-256 of the data's bytes.
        steps_per_epoch: optimizer steps in one pass over the training part.
    """

    defaults: ClassVar[Mapping[str, Any]] = {}
    metric: ClassVar[str]
    metric_title: ClassVar[str]
    higher_is_better: ClassVar[bool] = False
    quantizes: ClassVar[tuple[str, ...]] = ()
    batch_axis: ClassVar[int] = 1
    given_data: Any = None
    dataset: str
    dataset_sha256: str
    steps_per_epoch: int

    @abstractmethod
    def prepare(self, config: RunConfig) -> None:
        """Load the data and set the attributes.

        Raises:
            DataError: data that is missing, damaged, or too small for the settings.
            ConfigError: settings that do not fit the task.
        """

    @abstractmethod
    def model(self, quantizer: str, normalizer: str) -> nn.Module:
        """Return a freshly initialised model."""

    @abstractmethod
    def recurrent(self, model: nn.Module) -> RecurrentLayer:
        """Return the model's recurrent layer, whose size and gradient norms are reported."""

    @abstractmethod
    def batch(self, step: int) -> Any:
        """Return the training batch of a step, counted from 0, as a tensor or tuple of tensors on the CPU."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Any, state: Any) -> tuple[Tensor, Any]:
        """Return the mean loss of a batch in nats, and the state to carry on: detached tensors, or ``None``.

        Args:
            model: a model in training mode.
            batch: a batch from :meth:`batch`, on the model's device.
            state: what the previous step returned; ``None`` at the start of each epoch.
        """

    @abstractmethod
    def evaluate(self, model: nn.Module, split: str) -> float:
        """Return the figure of merit on ``"valid"`` or ``"test"``, of a model in evaluation mode.

        Where the task's model has ``packed_stages()``, a packed one may stand in for it, which has no
        parameters and returns its output and its state.
        """

    @abstractmethod
    def final_step_loss(self, model: nn.Module) -> Tensor:
        """Return ξ_T: the mean loss of the last time step alone, on one batch of the validation part."""

    @abstractmethod
    def baseline(self) -> float:
        """Return the figure of merit on validation of a model that has learnt nothing from its input."""

    def vocabulary(self) -> Vocabulary | None:
        """Return what the model's tokens stand for; ``None`` (the default) where it reads none."""
        return None

    def to_metric(self, loss: float) -> float | None:
        """Return a mean loss in nats as the figure of merit; ``None`` (the default) where it is not one."""
        return None

    def quantized_lr(self, layer: RecurrentLayer) -> float:
        """Return the learning rate of quantized weights, as a multiple of the others' (default: 1)."""
        return 1.0


def tasks_of(registry: Registry) -> Catalogue[TaskSpec]:
    """Return the catalogue of all tasks that the installed plugins provide."""
    return registry.catalogue("qlstm_tasks", TaskSpec, "task", product=Task)
