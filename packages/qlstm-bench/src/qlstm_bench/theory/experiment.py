"""What an experiment is: settings, an equation, and measurements beside what the equation predicts."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from qlstm_bench.errors import BenchError
from qlstm_core.plugins.errors import suggest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Progress = Callable[[float], None]
"""Told the share of the work that is done, between 0 and 1."""


class TheoryError(BenchError, ValueError):
    """An experiment or setting that does not exist or does not fit."""


@dataclass(frozen=True)
class Findings:
    """What an experiment has found.

    Args:
        table: one row per case; predictions stand beside measurements.
        draw: draws the picture on an empty figure of ``size``.
        caption: what the picture shows.
        remarks: what to see in it, and where the paper and the measurement part, with figures.
        size: of the figure, in inches.
        details: further tables, by name, too long for the report: written as CSV only.
    """

    table: pd.DataFrame
    draw: Callable[[Figure], None]
    caption: str
    remarks: tuple[str, ...] = ()
    size: tuple[float, float] = (9.0, 3.4)
    details: Mapping[str, pd.DataFrame] = field(default_factory=dict)


class Experiment(BaseModel, ABC):
    """One prediction of a paper, run. The fields are its settings; the docstring gives the equation.

    An experiment is a function of its settings alone: the same settings give the same table on one machine.

    Attributes:
        title: one line for the list and the report.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    title: ClassVar[str]

    seed: int = Field(default=0, ge=0, lt=2**32, description="of every random generator")

    @field_validator("*", mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        """Take ``"0.1,0.2"`` for a list, as the command line gives it."""
        return value.split(",") if isinstance(value, str) and "," in value else value

    @abstractmethod
    def run(self, progress: Progress = lambda share: None) -> Findings:
        """Measure, and return it beside the prediction."""

    @classmethod
    def equation(cls) -> str:
        """Return the docstring: what is predicted, and where it is from."""
        return inspect.getdoc(cls) or ""

    @classmethod
    def build(cls, name: str, settings: Mapping[str, Any]) -> Self:
        """Return an experiment with some settings changed.

        Args:
            name: what the user calls it.
            settings: field to value; text as on the command line, or the value itself.

        Raises:
            TheoryError: the first setting that does not fit, in one line.
        """
        known = cls.model_fields
        for setting in settings:
            if setting not in known:
                raise TheoryError(
                    f"experiment {name!r} has no setting {setting!r}{suggest(setting, known)}; "
                    f"allowed: {', '.join(known)}"
                )
        lists = {key for key, field in known.items() if isinstance(field.default, tuple)}
        values = {
            key: (value,) if key in lists and not _is_list(value) else value
            for key, value in settings.items()
        }
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            message = first["msg"].removeprefix("Value error, ")
            setting = ".".join(str(part) for part in first["loc"])
            raise TheoryError(
                f"{setting or name}: {message[0].lower()}{message[1:]}, got {first['input']!r}"
            ) from error


def _is_list(value: Any) -> bool:
    return isinstance(value, (tuple, list)) or (isinstance(value, str) and "," in value)
