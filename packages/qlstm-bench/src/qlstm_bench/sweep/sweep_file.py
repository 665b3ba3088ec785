"""What a sweep's YAML file may say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from qlstm_bench.bounded_yaml import short_repr
from qlstm_bench.config import ConfigError, RunConfig
from qlstm_bench.sweep.yaml_lines import Document, Path
from qlstm_core.plugins.errors import suggest


def _several_values(value: Any) -> Any:
    if not isinstance(value, list) or not value:
        raise ValueError(
            "expected a list of values, as in [none, layer]; a single value goes below 'settings'"
        )
    return value


# The values themselves are checked as settings of a run.
Settings = dict[str, Any]
Grid = dict[str, Annotated[list[Any], BeforeValidator(_several_values)]]
MAX_RUNS = 10_000
"""Runs of one sweep, with all seeds; more are taken for a mistake."""


def _few_enough(count: int) -> int:
    if count > MAX_RUNS:
        raise ValueError(
            f"a number of seeds, counted from 0, and at most {MAX_RUNS:,}; the one seed {count} is written "
            f"[{count}]"
        )
    return count


Seed = Annotated[int, Field(ge=0, lt=2**32, strict=True)]
Seeds = (
    Annotated[int, Field(ge=1, strict=True), AfterValidator(_few_enough)]
    | Annotated[list[Seed], Field(min_length=1)]
)


class Strict(BaseModel):
    """A part of a file, without keys beside its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Scale(Strict):
    """A size in which a sweep can be run; it changes and adds to what the file says for all sizes.

    Args:
        about: what the size is for, and what differs from the paper.
        minutes: how long the sweep takes on two cores, roughly.
        settings, grid: further settings and lists; those of the same name are replaced.
        seeds: the seeds in place of the file's.
        include, exclude: further entries.
    """

    about: str = ""
    minutes: float | None = Field(default=None, gt=0)
    settings: Settings = {}
    grid: Grid = {}
    seeds: Seeds | None = None
    include: list[Settings] = []
    exclude: list[Settings] = []


class SweepFile(Strict):
    """What a sweep's YAML file holds.

    Args:
        title: one line about the sweep.
        about: more about the sweep.
        source: paper and table that the settings are from.
        settings: what all runs share; fields of :class:`qlstm_bench.config.RunConfig`.
        grid: lists of values: every combination is a run.
        include: further runs, beside the combinations; a list of values makes one of each.
        exclude: combinations to leave out: those that have all of an entry's values, or one of each list.
        seeds: the seeds that every run is made with: a list, or their number, counted from 0.
        scales: sizes to choose from.
    """

    title: str = ""
    about: str = ""
    source: str = ""
    settings: Settings = {}
    grid: Grid = {}
    include: list[Settings] = []
    exclude: list[Settings] = []
    seeds: Seeds = 1
    scales: dict[str, Scale] = {}


def read_file(document: Document) -> SweepFile:
    """Return the file's content with every key known and every value of a type that is allowed."""
    if not isinstance(document.value, dict):
        raise ConfigError(
            f"{document.name}: expected a sweep, as 'settings:' and 'grid:' with names below them"
        )
    try:
        file = SweepFile.model_validate(document.value)
    except ValidationError as error:
        raise ConfigError(first_mistake(error, document, {"": SweepFile, "scales": Scale})) from error
    scopes: list[tuple[Path, SweepFile | Scale]] = [((), file)]
    scopes += [(("scales", name), scale) for name, scale in file.scales.items()]
    for path, scope in scopes:
        for part in ("settings", "grid"):
            _check_names((*path, part), getattr(scope, part), document)
        for part in ("include", "exclude"):
            for index, entry in enumerate(getattr(scope, part)):
                _check_names((*path, part, index), entry, document)
    return file


def first_mistake(error: ValidationError, document: Document, parts: Mapping[str, type[BaseModel]]) -> str:
    """Return the first thing that pydantic found, with its line and, for an unknown key, the nearest.

    Args:
        error: of the file's model.
        document: the file.
        parts: models whose keys are allowed: of the file itself, as ``""``, and of what stands below a key.
    """
    found = error.errors()
    # Of a union, the branch that the value came further in.
    first = max(
        (one for one in found if one["loc"][0] == found[0]["loc"][0]), key=lambda one: len(one["loc"])
    )
    path = first["loc"]
    while path and path not in document.lines:  # pydantic adds the branch of a union to the keys
        path = path[:-1]
    where = document.where(path)
    if first["type"] == "missing":
        return f"{where}: no key {str(first['loc'][-1])!r} here, and it is needed"
    name = str(path[-1])
    if first["type"] == "extra_forbidden":
        known = parts.get(str(path[0]), parts[""]).model_fields
        hint = suggest(name, known)
        if name in RunConfig.model_fields:
            hint = "; a setting of the runs goes below 'settings' or 'grid'"
        return f"{where}: no key {short_repr(name)} here{hint}; allowed: {', '.join(known)}"
    message = str(first["msg"]).removeprefix("Value error, ")
    return f"{where}: {name}: {message[0].lower()}{message[1:]}, got {short_repr(first['input'])}"


def _check_names(path: Path, entry: Mapping[str, Any], document: Document) -> None:
    known = RunConfig.model_fields
    for name in entry:
        where = document.where((*path, name))
        if name == "seed":
            raise ConfigError(
                f"{where}: 'seed' is not given here; write 'seeds: 3' or 'seeds: [7, 8]' instead"
            )
        if name not in known:
            raise ConfigError(
                f"{where}: no setting {short_repr(name)}{suggest(name, known)}; allowed: {', '.join(known)}"
            )
