"""The settings of one run, checked before anything starts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from qlstm_bench import bounded_yaml
from qlstm_bench.bounded_yaml import short_repr
from qlstm_bench.errors import ConfigError as ConfigError
from qlstm_core.plugins.errors import suggest

Precision = Literal["32-true", "64-true", "bf16-mixed"]
Cell = Literal["lstm", "gru", "f-lstm", "g-lstm"]
OptimizerName = Literal["adam", "sgd", "adagrad"]
Clipping = Literal["global", "apart"]
Logger = Literal["tensorboard", "mlflow"]

_CELL_OPTIONS = {"proj": ("lstm", "f-lstm", "g-lstm"), "rank": ("f-lstm",), "groups": ("g-lstm",)}
"""Settings that some cells have, and which."""

_NOT_PART_OF_THE_RESULT = {"log", "log_every", "checkpoint_seconds"}


class RunConfig(BaseModel):
    """Everything that decides what a run computes. Fields without a default here have one in the task.

    Args:
        task: a task's name, with options if it has any, as in ``name:option=value``.
        data: a dataset's name or a file; in a program also an object, of which the name is kept here.
        quantizer: as for :class:`qlstm_core.LSTM`, in text form.
        normalizer: likewise.
        cell: ``lstm``, ``gru``, ``f-lstm`` (factorized) or ``g-lstm`` (grouped).
        hidden: units of each recurrent layer.
        layers: recurrent layers.
        proj: size of the projected state, of an LSTM of any kind; by default the state is not projected.
        rank: of an F-LSTM's product; by default the layer's own, 512.
        groups: of a G-LSTM, one number or one for each layer; by default the layer's own, 4.
        dropout: between recurrent layers, and where else the task has it.
        epochs: passes over the training part; give this or ``steps``.
        steps: optimizer steps; give this or ``epochs``.
        batch: sequences trained side by side.
        unroll: time steps of truncated back-propagation; not given where whole sequences are read.
        optimizer: ``adam``, ``sgd`` or ``adagrad``.
        lr: its learning rate.
        quantized_lr: learning rate of quantized weights as a multiple of ``lr``; by default the task's.
        stall_divisor: learning rates are divided by it at a validation no better than the best before.
        epoch_decay: learning rates are multiplied by it after each epoch beyond ``epoch_decay_after``.
        epoch_decay_after: epochs before that begins.
        patience: validations in a row without a better one after which training stops and goes back to the
            weights of the best; by default it never does.
        average: decay of an exponential moving average of the weights, which is then validated and tested in
            place of the weights; 0, the default, is none.
        clip: largest norm of the gradient; a longer one is scaled down to it.
        clipping: ``global``, one norm over all parameters, as the paper's authors clip; or ``apart``, one
            over the recurrent layers' parameters and one over the rest, which an explosion then spares.
        seed: of every random generator.
        processes: that train side by side, each with its share of every batch, on a device of its own; under
            torchrun, as many as it started.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
        precision: of the computation, as Lightning Fabric spells it.
        eval_every: optimizer steps between validations; by default every epoch, and at least ten times a run.
        eval_symbols: validate and test on that many first symbols (characters, words, or whole sequences) of
            each part; by default on all.
        log: where the figures go beside metrics.jsonl: ``tensorboard``, ``mlflow``.
        log_every: optimizer steps between lines of metrics.jsonl.
        gradients_every: optimizer steps between recordings of gradient stability; by default there are none.
        checkpoint_seconds: shortest time between two checkpoints.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: str = "char-lm"
    data: str = Field(min_length=1)
    quantizer: str = "none"
    normalizer: str = "none"
    cell: Cell = "lstm"
    hidden: int = Field(ge=1)
    layers: int = Field(default=1, ge=1)
    proj: int | None = Field(default=None, ge=1)
    rank: int | None = Field(default=None, ge=1)
    groups: int | list[int] | None = None
    dropout: float = Field(default=0.0, ge=0, le=1)
    epochs: int | None = Field(default=None, ge=1)
    steps: int | None = Field(default=None, ge=1)
    batch: int = Field(ge=1)
    unroll: int | None = Field(default=None, ge=1)
    optimizer: OptimizerName = "adam"
    lr: float = Field(gt=0, allow_inf_nan=False)
    quantized_lr: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    stall_divisor: float = Field(default=1.0, ge=1, allow_inf_nan=False)
    epoch_decay: float = Field(default=1.0, gt=0, le=1)
    epoch_decay_after: int = Field(default=0, ge=0)
    patience: int | None = Field(default=None, ge=1)
    average: float = Field(default=0.0, ge=0, lt=1)
    clip: float = Field(gt=0)
    clipping: Clipping = "global"
    seed: int = Field(default=0, ge=0, lt=2**32)
    processes: int = Field(default=1, ge=1)
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    precision: Precision = "32-true"
    eval_every: int | None = Field(default=None, ge=1)
    eval_symbols: int | None = Field(default=None, ge=2)
    log: list[Logger] = []
    log_every: int = Field(default=10, ge=1)
    gradients_every: int | None = Field(default=None, ge=1)
    checkpoint_seconds: float = Field(default=60.0, ge=0)

    @model_validator(mode="after")
    def _one_length(self) -> RunConfig:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give either epochs or steps, and not both")
        return self

    @model_validator(mode="after")
    def _fair_shares(self) -> RunConfig:
        if self.batch % self.processes:
            raise ValueError(f"batch={self.batch} must be divisible by processes={self.processes}")
        if self.processes > 1 and ":" in self.device:
            raise ValueError(
                f"device={self.device} is one device, and processes is {self.processes}: expected cuda"
            )
        return self

    @model_validator(mode="after")
    def _options_of_the_cell(self) -> RunConfig:
        for name, cells in _CELL_OPTIONS.items():
            value = getattr(self, name)
            if value is not None and self.cell not in cells:
                raise ValueError(f"{name}={value} is for cell {' or '.join(cells)}, and cell is {self.cell}")
        return self

    def identity(self, dataset_sha256: str) -> str:
        """Return eight hexadecimal digits that tell apart runs with different results.

        Args:
            dataset_sha256: stands for the data instead of its name, which may be a path.
        """
        settings = self.deciding(dataset_sha256)
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]

    def deciding(self, dataset_sha256: str) -> dict[str, Any]:
        """Return what decides the result: the settings that :meth:`identity` looks at, by name.

        Args:
            dataset_sha256: stands for the data instead of its name.
        """
        return self.model_dump(exclude={"data", *_NOT_PART_OF_THE_RESULT}) | {"sha256": dataset_sha256}

    def to_yaml(self) -> str:
        """Return the settings as YAML, one per line."""
        text: str = yaml.safe_dump(self.model_dump(), sort_keys=False, allow_unicode=True)
        return text

    @classmethod
    def from_yaml(cls, path: Path) -> RunConfig:
        """Return the settings that :meth:`to_yaml` wrote.

        Raises:
            ConfigError: not YAML, or not settings of a run.
        """
        _, settings = bounded_yaml.parse(bounded_yaml.read_text(path), str(path))
        if not isinstance(settings, dict):
            raise ConfigError(f"{path}: expected the settings of a run, as 'name: value' lines")
        try:
            return cls.build(settings)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error

    @classmethod
    def build(cls, settings: Mapping[str, Any]) -> RunConfig:
        """Return checked settings.

        Raises:
            ConfigError: the first setting that does not fit, in one line.
        """
        try:
            return cls(**settings)
        except ValidationError as error:
            raise ConfigError(_one_line(error)) from error


def _one_line(error: ValidationError) -> str:
    """Return the first thing that pydantic found, with the nearest name for a setting that does not exist."""
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = RunConfig.model_fields
        return f"no setting {short_repr(name)}{suggest(name, known)}; allowed: {', '.join(known)}"
    if not name:
        return str(first["msg"]).removeprefix("Value error, ")
    if name == "device":
        return f"device: expected auto, cpu, cuda or cuda:NUMBER, got {short_repr(first['input'])}"
    if first["type"] == "missing":
        return f"{name}: expected a value, and there is none"
    message = first["msg"]
    return f"{name}: {message[0].lower()}{message[1:]}, got {short_repr(first['input'])}"
