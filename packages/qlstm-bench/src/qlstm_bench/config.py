"""The settings of one run, checked before anything starts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from qlstm_bench.errors import BenchError
from qlstm_core.plugins.errors import suggest

Precision = Literal["32-true", "64-true", "bf16-mixed"]

_NOT_PART_OF_THE_RESULT = {"log_every", "checkpoint_seconds"}


class ConfigError(BenchError, ValueError):
    """A setting that cannot be used; the message is one line that names it and what is allowed."""


class RunConfig(BaseModel):
    """Everything that decides what a run computes. Fields without a default here have one in the task.

    Args:
        task: a task's name, with options if it has any, as in ``name:option=value``.
        data: a dataset's name or a file.
        quantizer: as for :class:`qlstm_core.LSTM`, in text form.
        normalizer: likewise.
        hidden: units of each recurrent layer.
        layers: recurrent layers.
        dropout: between recurrent layers.
        epochs: passes over the training part; give this or ``steps``.
        steps: optimizer steps; give this or ``epochs``.
        batch: sequences trained side by side.
        unroll: time steps of truncated back-propagation.
        lr: Adam's learning rate.
        clip: largest norm of the gradient, over all parameters; a longer one is scaled down to it.
        seed: of every random generator.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
        precision: of the computation, as Lightning Fabric spells it.
        eval_every: optimizer steps between validations; by default every epoch, and at least ten times a run.
        eval_symbols: validate and test on that many first symbols of each part; by default on all.
        log_every: optimizer steps between lines of metrics.jsonl.
        gradients_every: optimizer steps between recordings of gradient stability; by default there are none.
        checkpoint_seconds: shortest time between two checkpoints.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: str = "char-lm"
    data: str = Field(min_length=1)
    quantizer: str = "none"
    normalizer: str = "none"
    hidden: int = Field(ge=1)
    layers: int = Field(default=1, ge=1)
    dropout: float = Field(default=0.0, ge=0, le=1)
    epochs: int | None = Field(default=None, ge=1)
    steps: int | None = Field(default=None, ge=1)
    batch: int = Field(ge=1)
    unroll: int = Field(ge=1)
    lr: float = Field(gt=0, allow_inf_nan=False)
    clip: float = Field(gt=0)
    seed: int = Field(default=0, ge=0, lt=2**32)
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    precision: Precision = "32-true"
    eval_every: int | None = Field(default=None, ge=1)
    eval_symbols: int | None = Field(default=None, ge=2)
    log_every: int = Field(default=10, ge=1)
    gradients_every: int | None = Field(default=None, ge=1)
    checkpoint_seconds: float = Field(default=60.0, ge=0)

    @model_validator(mode="after")
    def _one_length(self) -> RunConfig:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give either epochs or steps, and not both")
        return self

    def identity(self, dataset_sha256: str) -> str:
        """Return eight hexadecimal digits that tell apart runs with different results.

        Args:
            dataset_sha256: stands for the data instead of its name, which may be a path.
        """
        settings = self.model_dump(exclude={"data", *_NOT_PART_OF_THE_RESULT}) | {"sha256": dataset_sha256}
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]

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
        try:
            settings = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error
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
        return f"no setting {name!r}{suggest(name, known)}; allowed: {', '.join(known)}"
    if not name:
        return str(first["msg"]).removeprefix("Value error, ")
    if name == "device":
        return f"device: expected auto, cpu, cuda or cuda:NUMBER, got {first['input']!r}"
    message = first["msg"]
    return f"{name}: {message[0].lower()}{message[1:]}, got {first['input']!r}"
