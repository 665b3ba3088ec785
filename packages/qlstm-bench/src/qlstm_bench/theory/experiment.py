"""What an experiment is: settings, an equation, and measurements beside what the equation predicts."""

from __future__ import annotations

import inspect
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from qlstm_bench.errors import BenchError
from qlstm_core.plugins import PluginError, PluginWarning, Registry, Spec, registry
from qlstm_core.plugins.catalogue import Catalogue
from qlstm_core.plugins.errors import suggest

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

Progress = Callable[[float], None]
"""Told the share of the work that is done, between 0 and 1."""

Count = Annotated[int, Field(ge=1)]
"""A number of things, at least one."""

Positive = Annotated[float, Field(gt=0)]
"""A number above 0."""


class TheoryError(BenchError, ValueError):
    """An experiment or setting that does not exist or does not fit."""


@dataclass(frozen=True, kw_only=True)
class ExperimentSpec(Spec):
    """A prediction of a paper; ``factory()`` returns an :class:`Experiment` with its default settings.

    The experiments of one paper have the same references: reports show them together.
    """


@dataclass(frozen=True)
class Findings:
    """What an experiment has found.

    Args:
        table: one row per case; predictions stand beside measurements.
        draw: draws the picture on an empty figure of ``size``.
        caption: what the picture shows.
        remarks: what to see in it, and where the paper and the measurement differ, with figures.
        size: width and height of the figure, in inches.
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
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    seed: int = Field(default=0, ge=0, lt=2**32, description="seed of every random generator")

    @field_validator("*", mode="before")
    @classmethod
    def _several(cls, value: Any, info: ValidationInfo) -> Any:
        """Take a single value for a list of one, and ``"0.1,0.2"``, as the command line gives it, for two."""
        takes_several = isinstance(cls.model_fields[info.field_name or ""].default, tuple)
        if not takes_several or isinstance(value, tuple | list):
            return value
        return value.split(",") if isinstance(value, str) else (value,)

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
            name: name of the experiment, for messages.
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
        try:
            return cls.model_validate(settings)
        except ValidationError as error:
            first = error.errors()[0]
            message = first["msg"].removeprefix("Value error, ")
            setting = str(first["loc"][0]) if first["loc"] else name
            raise TheoryError(
                f"{setting}: {message[0].lower()}{message[1:]}, got {first['input']!r}"
            ) from error


def experiments_of(registry: Registry) -> Catalogue[ExperimentSpec]:
    """Return the catalogue of all experiments that the plugins of a registry provide."""
    return registry.catalogue("qlstm_theory_experiments", ExperimentSpec, "experiment", product=Experiment)


def installed_experiments() -> dict[str, ExperimentSpec]:
    """Return the experiments of the installed plugins by name, those of one paper together."""
    catalogue = experiments_of(registry)
    named = zip(catalogue.names(), catalogue.specs(), strict=True)
    return dict(sorted(named, key=lambda one: one[1].references))


def loadable_experiments() -> dict[str, Experiment]:
    """Return every installed experiment with its default settings; one that cannot be made is warned of."""
    found = {}
    for name in installed_experiments():
        try:
            found[name] = default_experiment(name)
        except PluginError as error:
            warnings.warn(f"left out: {error}", PluginWarning, stacklevel=2)
    return found


def default_experiment(name: str) -> Experiment:
    """Return an installed experiment with its default settings.

    Raises:
        PluginError: an unknown name, or a plugin that fails.
    """
    found: Experiment = experiments_of(registry).create(name)
    return found


def make_experiment(name: str, settings: Mapping[str, Any]) -> Experiment:
    """Return an installed experiment with some settings changed.

    Args:
        name: name of the experiment.
        settings: field to value; text as on the command line, or the value itself.

    Raises:
        PluginError: an unknown name, or a plugin that fails.
        TheoryError: the first setting that does not fit, in one line.
    """
    return type(default_experiment(name)).build(name, settings)
