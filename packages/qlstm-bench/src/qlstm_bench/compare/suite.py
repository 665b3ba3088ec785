"""Suites: the tasks, rivals and seeds that methods are compared by, and the runs that follow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, ValidationError

from qlstm_bench.config import ConfigError, RunConfig
from qlstm_bench.errors import BenchError
from qlstm_bench.speed.training import Shape
from qlstm_bench.sweep.plan import Plan, read_plan
from qlstm_bench.sweep.presets import load, preset_names
from qlstm_bench.sweep.sweep_file import Grid, Seeds, Settings, Strict, first_mistake, read_file
from qlstm_bench.sweep.yaml_lines import Document
from qlstm_bench.tasks.cells import OPTION_SETTINGS
from qlstm_core.plugins import PluginError
from qlstm_core.testing.runner import all_catalogues, checks_of, providers

_FOLDER = files("qlstm_bench.compare") / "suites"

Kind = Literal["quantizer", "normalizer", "cell"]
"""What a method is; the setting of a run that it is the value of."""


def _shape(text: str) -> str:
    try:
        Shape.parse(text)
    except BenchError as error:
        raise ValueError(str(error)) from error
    return text


class SuiteTask(Strict):
    """A task of a suite.

    Args:
        preset, scale: the preset, and which of its scales, whose settings the task has; none by default.
        settings: further settings; those of the same name are replaced.
    """

    preset: str | None = None
    scale: str | None = None
    settings: Settings = Field(default_factory=dict)


class Rivals(Strict):
    """The known methods of one kind.

    Args:
        settings: what all methods of the kind are compared with.
        grid: lists of values, every combination of which is a run; that of the kind itself lists the rivals.
    """

    settings: Settings = Field(default_factory=dict)
    grid: Grid


class SuiteFile(Strict):
    """What a suite's YAML file holds.

    Args:
        version: raised whenever results change: shipped runs of another version are not used.
        title: one line about the suite.
        about: more about it.
        minutes: how long one quantizer takes on one core, roughly.
        settings: what all runs share.
        seeds: a list of seeds, or their number, counted from 0.
        tasks: tasks by the name that a page gives them.
        rivals: known methods of each kind.
        speed: time steps, sequences, inputs and units of the layer that is timed, separated by commas.
    """

    version: Annotated[int, Field(ge=1, strict=True)]
    title: Annotated[str, Field(min_length=1)]
    about: str = ""
    minutes: Annotated[float, Field(gt=0)]
    settings: Settings = Field(default_factory=dict)
    seeds: Seeds = 1
    tasks: Annotated[dict[str, SuiteTask], Field(min_length=1)]
    rivals: Annotated[dict[Kind, Rivals], Field(min_length=1)]
    speed: Annotated[str, AfterValidator(_shape)]


_PARTS: dict[str, type[BaseModel]] = {"": SuiteFile, "tasks": SuiteTask, "rivals": Rivals}


@dataclass(frozen=True)
class Suite:
    """A suite that has been read.

    Args:
        name: name of a suite of the package, or path of its file.
        file: what it says.
        reference: path of the file of its shipped runs, which need not exist.
    """

    name: str
    file: SuiteFile
    reference: Path

    def settings(self, task: str) -> dict[str, Any]:
        """Return the settings of a task: the suite's, the preset's and the task's own, later ones first.

        Raises:
            ConfigError: an unknown preset or scale.
        """
        given = self.file.tasks[task]
        of_preset: dict[str, Any] = {}
        if given.preset is not None:
            preset = read_file(load(given.preset))
            if given.scale not in preset.scales:
                raise ConfigError(
                    f"suite {self.name}, task {task}: preset {given.preset} has no scale {given.scale!r}; "
                    f"expected one of {', '.join(preset.scales)}"
                )
            of_preset = preset.settings | preset.scales[given.scale].settings
        return {**self.file.settings, **of_preset, **given.settings}


def suite_names() -> list[str]:
    """Return the names of the suites that come with the package."""
    return preset_names(_FOLDER)


def read_suite(source: str) -> Suite:
    """Return the suite that a name or the path of a YAML file means.

    Raises:
        ConfigError: there is neither, or a key or value that cannot be; names file and line.
    """
    document = load(source, _FOLDER, "suite")
    if not isinstance(document.value, dict):
        raise ConfigError(f"{document.name}: expected a suite, as 'version:', 'tasks:' and 'rivals:'")
    try:
        file = SuiteFile.model_validate(document.value)
    except ValidationError as error:
        raise ConfigError(first_mistake(error, document, _PARTS)) from error
    for kind, rivals in file.rivals.items():
        if kind not in rivals.grid:
            raise ConfigError(
                f"{document.where(('rivals', kind, 'grid'))}: expected a list of rivals, as in "
                f"{kind}: [none, …]"
            )
    path = Path(str(_FOLDER / f"{source}.yaml")) if source in suite_names() else Path(source)
    return Suite(source, file, path.with_name(f"{path.stem}.reference.json"))


@dataclass(frozen=True)
class Contest:
    """Methods of one kind on one task: runs that differ in method, what it is tried with, and seed.

    Args:
        kind: what is compared.
        task: name that the suite gives the task.
        tried_with: further settings that the runs differ in, as cells do that are tried with two quantizers.
        configs: settings of the runs, each once, those of the named methods first.
        named: how many of them, counted from the first, are of the named methods.
        refused: a line for each method that does not fit the task.
    """

    kind: Kind
    task: str
    tried_with: tuple[str, ...]
    configs: tuple[RunConfig, ...]
    named: int
    refused: tuple[str, ...]

    @property
    def labels(self) -> list[str]:
        """What tells the runs apart."""
        return [f"{self.task}: {label}" for label in Plan(self.task, None, "", None, self.configs).labels]

    def method(self, config: RunConfig) -> str:
        """Return what a run compares: the method, and what it is tried with."""
        names = (self.kind, *self.tried_with)
        options = [
            f"{name} {value}" for name in OPTION_SETTINGS if (value := getattr(config, name)) is not None
        ]
        return ", ".join([*(getattr(config, name) for name in names), *options])


def find_methods(names: Iterable[str], kind: str | None = None) -> dict[Kind, list[str]]:
    """Return the methods that names mean, in their one spelling, each once, by kind.

    Args:
        names: names of quantizers, normalisers or cells, maybe with options.
        kind: what they are; default: as the registry knows.

    Raises:
        PluginError: an unknown or ambiguous name, or options that do not fit.
        ConfigError: a name that several kinds have.
    """
    found: dict[Kind, list[str]] = {}
    for name in names:
        catalogues = [one for one in all_catalogues() if one.kind == kind] if kind else providers(name)
        if not catalogues:
            checks_of(name)  # raises, with the nearest names
        if len(catalogues) > 1:
            kinds = [one.kind for one in catalogues]
            raise ConfigError(
                f"{name!r} is the name of a {' and of a '.join(kinds)}: say which with "
                f"{' or '.join(f'--kind {one}' for one in kinds)}"
            )
        (catalogue,) = catalogues
        of_kind = found.setdefault(catalogue.kind, [])  # type: ignore[arg-type]
        if (text := catalogue.canonical(name)) not in of_kind:
            of_kind.append(text)
    return found


def plan_contests(suite: Suite, methods: Mapping[Kind, Sequence[str]]) -> list[Contest]:
    """Return what is to be compared: every kind of the named methods on every task.

    Args:
        suite: tasks, rivals and seeds.
        methods: named methods by kind, from :func:`find_methods`; no names stand for the rivals alone.

    Raises:
        ConfigError: a kind without rivals, or settings that fit no method.
    """
    return [
        _contest(suite, kind, task, named) for kind, named in methods.items() for task in suite.file.tasks
    ]


def _contest(suite: Suite, kind: Kind, task: str, named: Sequence[str]) -> Contest:
    if kind not in suite.file.rivals:
        known = ", ".join(suite.file.rivals)
        raise ConfigError(f"suite {suite.name} has no rivals of a {kind}: it compares by {known}")
    common = suite.file.rivals[kind]
    settings = {**suite.settings(task), **common.settings}
    title = f"suite {suite.name}, task {task}"
    runs: dict[str, RunConfig] = {}
    refused: dict[str, str] = {}
    counts = []
    for methods in (named, map(str, common.grid[kind])):
        for method in methods:
            grid = {**common.grid, kind: [method]}
            try:
                for config in _runs(title, settings, grid, suite.file.seeds):
                    runs.setdefault(config.model_dump_json(), config)
            except (ConfigError, PluginError) as error:
                refused.setdefault(method, f"{method} is left out: {error}")
        counts.append(len(runs))
    if not runs:
        raise ConfigError(next(iter(refused.values())))
    tried_with = tuple(name for name in common.grid if name != kind)
    return Contest(kind, task, tried_with, tuple(runs.values()), counts[0], tuple(refused.values()))


def _runs(title: str, settings: Settings, grid: Grid, seeds: int | list[int]) -> tuple[RunConfig, ...]:
    """Return the runs of one method on one task, as a sweep plans them."""
    kept = {name: value for name, value in settings.items() if name not in grid}
    return read_plan(Document(title, {"settings": kept, "grid": grid, "seeds": seeds})).configs
