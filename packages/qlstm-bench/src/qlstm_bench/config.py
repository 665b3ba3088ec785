"""The settings of one run, checked before anything starts."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from qlstm_bench import bounded_yaml
from qlstm_bench.bounded_yaml import short_repr
from qlstm_bench.errors import ConfigError as ConfigError
from qlstm_core.plugins.errors import suggest
from qlstm_quant.rounding import Mode

Precision = Literal["32-true", "64-true", "bf16-mixed"]
Clipping = Literal["global", "apart", "recurrent"]
Start = Literal["torch", "identity", "orthogonal", "glorot"]
InitialStates = Literal["zeros", "learned"]
Products = Literal["exact", "packed16", "packed12"]
RoundingMode = Literal["none", Mode]

_NOT_PART_OF_THE_RESULT = {"log", "log_every", "checkpoint_seconds"}


def split_names(value: Any) -> Any:
    """Take ``"a,b:option=1,option=(2,3)"`` for a list of two, as a command line gives it."""
    if not isinstance(value, str):
        return value
    return [part for part in re.split(r",(?!\s*\w+=)(?![^(=]*\))", value) if part]


def _number_or_numbers(value: Any) -> Any:
    """Take ``"4"`` for a number, and ``"4,8"`` for one for each layer."""
    if not isinstance(value, str):
        return value
    try:
        numbers = [int(part) for part in value.split(",")]
    except ValueError:
        raise ValueError("expected a number, or one for each layer as in 4,8") from None
    return numbers if len(numbers) > 1 else numbers[0]


class RunConfig(BaseModel):
    """Everything that decides what a run computes. Fields without a default here have one in the task.

    The command line shows the descriptions as help, and the metavars as what a value looks like.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: str = Field(
        default="char-lm",
        description="name of the task, with options where it has any, as in mnist:permuted=true",
    )
    data: str = Field(
        min_length=1,
        description="name of a dataset, or a file; default: the task's",
        json_schema_extra={"metavar": "NAME|FILE"},
    )
    quantizer: str = Field(
        default="none",
        description="quantizer of the recurrent layers' weights, maybe with options",
        json_schema_extra={"metavar": "NAME"},
    )
    normalizer: str = Field(
        default="none",
        description="normaliser of their pre-activations, maybe with options",
        json_schema_extra={"metavar": "NAME"},
    )
    state_quantizer: str = Field(
        default="none",
        description="quantizer of the hidden state where it enters a product, maybe with options",
        json_schema_extra={"metavar": "NAME"},
    )
    input_quantizer: str | None = Field(
        default=None,
        description="another quantizer for the weights of the input's side, maybe with options; none keeps "
        "them at full precision; default: the quantizer of all weights",
        json_schema_extra={"metavar": "NAME"},
    )
    embedding_quantizer: str = Field(
        default="none",
        description="quantizer of the embedded words, maybe with options, as in uniform:bits=4,per_row=true",
        json_schema_extra={"metavar": "NAME"},
    )
    head_quantizer: str = Field(
        default="none",
        description="quantizer of the output layer's weight, likewise",
        json_schema_extra={"metavar": "NAME"},
    )
    cell: str = Field(
        default="lstm",
        description="cell of the recurrent layers, maybe with options; f-lstm is factorized, g-lstm grouped",
        json_schema_extra={"metavar": "NAME"},
    )
    hidden: int = Field(ge=1, description="units of each recurrent layer; default: the task's")
    layers: int = Field(default=1, ge=1, description="number of recurrent layers; default: the task's, or 1")
    proj: int | None = Field(
        default=None,
        ge=1,
        description="size of an LSTM's projected state; default: the task's, or no projection",
    )
    rank: int | None = Field(default=None, ge=1, description="rank of an F-LSTM's product; default: 512")
    groups: Annotated[int | list[int] | None, BeforeValidator(_number_or_numbers)] = Field(
        default=None,
        description="groups of a G-LSTM: one number, or one for each layer; default: 4",
        json_schema_extra={"metavar": "N[,N…]"},
    )
    dropout: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="probability of dropout between recurrent layers, and where else the task has it; "
        "default: the task's, or 0",
    )
    start: Start = Field(
        default="torch",
        description="how the recurrent layers' weights start: torch, uniformly as torch's do; identity, the "
        "candidate's recurrent weight from the identity and the rest orthogonal; orthogonal; glorot",
    )
    data_start: bool = Field(
        default=False,
        description="start the gains of weight normalisation from the first batch, so that pre-activations "
        "have unit variance",
        json_schema_extra={"metavar": "true|false"},
    )
    initial_state: InitialStates = Field(
        default="zeros",
        description="state that a sequence, or an epoch of a text, begins from: zeros, or learned",
    )
    initial_state_noise: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        description="standard deviation of noise that learned initial states get in training and evaluation",
    )
    rounding: RoundingMode = Field(
        default="none",
        description="rounding of the recurrent layers' weights to few levels after each optimizer step: to "
        "the nearest one, to one drawn at random, or of real weights, which the steps then go to",
    )
    rounding_levels: int = Field(
        default=2, ge=2, description="levels that weights are rounded to, evenly spaced around zero"
    )
    rounding_delta: float = Field(
        default=1.0, gt=0, allow_inf_nan=False, description="distance of neighbouring levels"
    )
    epochs: int | None = Field(
        default=None, ge=1, description="passes over the training part, instead of steps; default: 1"
    )
    steps: int | None = Field(default=None, ge=1, description="optimizer steps, instead of epochs")
    batch: int = Field(ge=1, description="sequences trained side by side; default: the task's")
    unroll: int | None = Field(
        default=None,
        ge=1,
        description="time steps of truncated back-propagation, for tasks that do not read whole sequences; "
        "default: the task's",
    )
    optimizer: str = Field(
        default="adam",
        description="optimizer, maybe with options, as in adamw:weight_decay=0.01; default: the task's, or "
        "adam",
        json_schema_extra={"metavar": "NAME"},
    )
    lr: float = Field(gt=0, allow_inf_nan=False, description="learning rate; default: the task's")
    quantized_lr: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="learning rate of quantized weights as a multiple of the others'; default: the task's",
    )
    gain_lr: float = Field(
        default=1.0,
        gt=0,
        allow_inf_nan=False,
        description="learning rate of the normalisers' gains as a multiple of the others'",
    )
    stall_divisor: float = Field(
        default=1.0,
        ge=1,
        allow_inf_nan=False,
        description="divides the learning rates at a validation no better than the best before; "
        "default: the task's, or 1",
    )
    epoch_decay: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="multiplies learning rates after each epoch; default: the task's, or 1",
    )
    epoch_decay_after: int = Field(
        default=0, ge=0, description="epochs before that decay begins; default: the task's, or 0"
    )
    decay_of: Literal["all", "quantized"] = Field(
        default="all",
        description="learning rates that epoch_decay multiplies: all, or those of quantized weights alone, "
        "so that without a quantizer none decays",
    )
    patience: int | None = Field(
        default=None,
        ge=1,
        description="validations in a row without a better one after which training stops; the weights of "
        "the best are then tested; default: training does not stop early",
    )
    tested: Literal["last", "best"] = Field(
        default="last",
        description="weights that are tested and kept: those after the last step, or those of the best "
        "validation; default: last, or best where patience is given",
    )
    average: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="decay of an exponential moving average of the weights, which is validated and tested in "
        "place of the weights; 0 is no average",
    )
    average_of: Literal["all", "recurrent"] = Field(
        default="all",
        description="weights that are averaged: all, or those of the recurrent layers, beside which the "
        "others are as trained",
    )
    clip: float = Field(
        gt=0,
        description="largest norm of the gradient: a longer one is scaled down to it; default: the task's",
    )
    clipping: Clipping = Field(
        default="global",
        description="norms that are clipped: global, one over all parameters; apart, one over the recurrent "
        "layers' and one over the rest, which an explosion then spares; recurrent, that of the recurrent "
        "layers alone; default: the task's, or global",
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="seed of every random generator")
    processes: int = Field(
        default=1,
        ge=1,
        description="processes that train side by side, each with its share of every batch, on a device "
        "of its own; default: 1, or under torchrun as many as it started",
    )
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="device to train on",
        json_schema_extra={"metavar": "auto|cpu|cuda|cuda:NUMBER"},
    )
    precision: Precision = Field(
        default="32-true", description="precision of the computation, as Lightning Fabric spells it"
    )
    products: Products = Field(
        default="exact",
        description="how recurrent layers multiply by quantized weights: exact, or as packed bits, with "
        "activations and gradients rounded to tables of 16 or 12 bits",
    )
    eval_every: int | None = Field(
        default=None,
        ge=1,
        description="optimizer steps between validations; default: those of an epoch, or a tenth of the run",
    )
    eval_symbols: int | None = Field(
        default=None,
        ge=2,
        description="number of first symbols (characters, words, or whole sequences) of each part to "
        "validate and test on; default: all",
    )
    log: Annotated[list[str], BeforeValidator(split_names)] = Field(
        default=[],
        description="loggers of the figures beside metrics.jsonl, with commas between: tensorboard, mlflow, "
        "wandb, or a plugin's",
        json_schema_extra={"metavar": "NAMES"},
    )
    log_every: int = Field(default=10, ge=1, description="optimizer steps between lines of metrics.jsonl")
    gradients_every: int | None = Field(
        default=None,
        ge=1,
        description="optimizer steps between recordings of gradient stability; default: no recordings",
    )
    checkpoint_seconds: float = Field(
        default=60.0, ge=0, description="shortest time between two checkpoints, in seconds"
    )

    @model_validator(mode="before")
    @classmethod
    def _patience_goes_back_to_the_best(cls, settings: Any) -> Any:
        if isinstance(settings, dict) and settings.get("patience") is not None:
            return {"tested": "best", **settings}
        return settings

    @model_validator(mode="after")
    def _best_with_patience(self) -> RunConfig:
        if self.patience is not None and self.tested != "best":
            raise ValueError(
                f"tested={self.tested}, and patience={self.patience} goes back to the best weights: "
                "expected tested=best, or no patience"
            )
        return self

    @model_validator(mode="after")
    def _rates_within_float32(self) -> RunConfig:
        largest = self.lr * max(1.0, self.gain_lr, self.quantized_lr or 1.0)
        if largest > 1e38:
            raise ValueError(f"a learning rate of {largest:g} is beyond float32: expected at most 1e38")
        return self

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
    def _fitting_start(self) -> RunConfig:
        if self.initial_state_noise and self.initial_state != "learned":
            raise ValueError(
                f"initial_state_noise={self.initial_state_noise} is for initial_state learned, and "
                f"initial_state is {self.initial_state}"
            )
        if self.quantizer == "none" and self.input_quantizer not in (None, "none"):
            raise ValueError(
                f"input_quantizer={self.input_quantizer} stands beside a quantizer, and quantizer is none"
            )
        return self

    @model_validator(mode="after")
    def _fitting_rounding(self) -> RunConfig:
        if self.rounding == "none":
            for name in ("rounding_levels", "rounding_delta"):
                if (value := getattr(self, name)) != RunConfig.model_fields[name].default:
                    raise ValueError(
                        f"{name}={value} is for rounding {' or '.join(get_args(Mode))}, and rounding is none"
                    )
        elif self.average:
            raise ValueError(
                f"average={self.average} would lie between the levels that rounding={self.rounding} keeps "
                "weights at: give one of them"
            )
        elif self.data_start:
            raise ValueError(
                f"data_start measures weights before rounding={self.rounding} moves them: give one of them"
            )
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
    message = str(first["msg"]).removeprefix("Value error, ")
    nearest = ""
    if first["type"] == "literal_error":
        nearest = suggest(str(first["input"]), re.findall("'([^']+)'", first["ctx"]["expected"]))
    return f"{name}: {message[0].lower()}{message[1:]}, got {short_repr(first['input'])}{nearest}"
