"""What a sweep's file may say, and the runs that it asks for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from qlstm_bench.bounded_yaml import short_repr
from qlstm_bench.config import ConfigError, RunConfig
from qlstm_bench.sweep.yaml_lines import Document, Path
from qlstm_bench.tables import shorten
from qlstm_core.plugins.catalogue import Catalogue
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

_NOWHERE: Path = ()


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Scale(_Strict):
    """A size in which a sweep can be run; it changes and adds to what the file says for all sizes.

    Args:
        about: what it is for, and what differs from the paper.
        minutes: how long it takes on two cores, roughly.
        settings, grid: more of them; those of the same name are replaced.
        seeds: instead of the file's.
        include, exclude: more of them.
    """

    about: str = ""
    minutes: float | None = Field(default=None, gt=0)
    settings: Settings = {}
    grid: Grid = {}
    seeds: Seeds | None = None
    include: list[Settings] = []
    exclude: list[Settings] = []


class SweepFile(_Strict):
    """What a sweep's YAML file holds.

    Args:
        title: one line.
        about: more of it.
        source: of the settings: paper and table.
        settings: what all runs share; fields of :class:`qlstm_bench.config.RunConfig`.
        grid: lists of values: every combination is a run.
        include: further runs, beside the combinations; a list of values makes one of each.
        exclude: combinations to leave out: those that have all of an entry's values, or one of each list.
        seeds: every run once with each: a list, or how many, counted from 0.
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


@dataclass(frozen=True)
class Plan:
    """The runs of a sweep, checked.

    Args:
        title: one line about it.
        scale: the size chosen, if the file has any.
        about: what the size is for, and what differs from the paper.
        minutes: how long it takes on two cores, roughly, if the file says so.
        configs: of the runs, each once, in the order of the file.
    """

    title: str
    scale: str | None
    about: str
    minutes: float | None
    configs: tuple[RunConfig, ...]

    def logged_to(self, names: str) -> Plan:
        """Return the same runs with these loggers, separated by commas."""
        configs = (RunConfig.build(config.model_dump() | {"log": names}) for config in self.configs)
        return replace(self, configs=tuple(configs))

    @property
    def labels(self) -> list[str]:
        """What tells the runs apart: quantizer, normaliser, and every other setting that differs."""
        dumps = [config.model_dump() for config in self.configs]
        differing = [
            name
            for name in RunConfig.model_fields
            if name not in ("quantizer", "normalizer") and any(dump[name] != dumps[0][name] for dump in dumps)
        ]
        return [
            shorten(
                ", ".join(
                    [dump["quantizer"], dump["normalizer"], *(f"{name} {dump[name]}" for name in differing)]
                )
            )
            for dump in dumps
        ]


def read_plan(document: Document, scale: str | None = None) -> Plan:
    """Return the runs that a file asks for.

    Args:
        document: the file.
        scale: one of its scales; default: ``small`` where it has scales.

    Raises:
        ConfigError, PluginError: a key, value or combination that cannot be; names file and line.
    """
    file = read_file(document)
    chosen, part, name = _choose(file, scale, document)
    return Plan(
        title=file.title or document.name,
        scale=name,
        about=part.about or file.about,
        minutes=part.minutes,
        configs=tuple(_configs(chosen, document)),
    )


@dataclass(frozen=True)
class _Item:
    """A setting's values, and where in the file each stands."""

    values: tuple[Any, ...]
    paths: tuple[Path, ...]


@dataclass(frozen=True)
class _Chosen:
    """A file's parts with those of one scale, each with its place in the file."""

    settings: dict[str, _Item]
    grid: dict[str, _Item]
    include: list[dict[str, _Item]]
    exclude: list[tuple[Path, Settings]]
    seeds: Sequence[int]
    seeds_path: Path


def read_file(document: Document) -> SweepFile:
    """Return the file's content with every key known and every value of a type that is allowed."""
    if not isinstance(document.value, dict):
        raise ConfigError(
            f"{document.name}: expected a sweep, as 'settings:' and 'grid:' with names below them"
        )
    try:
        file = SweepFile.model_validate(document.value)
    except ValidationError as error:
        raise ConfigError(_one_line(error, document)) from error
    scopes: list[tuple[Path, SweepFile | Scale]] = [((), file)]
    scopes += [(("scales", name), scale) for name, scale in file.scales.items()]
    for path, scope in scopes:
        for part in ("settings", "grid"):
            _check_names((*path, part), getattr(scope, part), document)
        for part in ("include", "exclude"):
            for index, entry in enumerate(getattr(scope, part)):
                _check_names((*path, part, index), entry, document)
    return file


def _one_line(error: ValidationError, document: Document) -> str:
    """Return the first thing that pydantic found, with its line and, for an unknown key, the nearest."""
    found = error.errors()
    # Of a union, the branch that the value came further in.
    first = max(
        (one for one in found if one["loc"][0] == found[0]["loc"][0]), key=lambda one: len(one["loc"])
    )
    path = first["loc"]
    while path and path not in document.lines:  # pydantic adds the branch of a union to the keys
        path = path[:-1]
    where, name = document.where(path), str(path[-1])
    if first["type"] == "extra_forbidden":
        known = Scale.model_fields if path[0] == "scales" else SweepFile.model_fields
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


def _choose(file: SweepFile, name: str | None, document: Document) -> tuple[_Chosen, Scale, str | None]:
    """Return the file's parts with those of the scale asked for."""
    if not file.scales:
        if name is not None:
            raise ConfigError(f"--scale {name}: {document.name} has no scales")
        part, prefix = Scale(), _NOWHERE
    else:
        name = name or "small"
        if name not in file.scales:
            raise ConfigError(
                f"{document.name} has no scale {name!r}{suggest(name, file.scales)}; "
                f"choose one with --scale: {', '.join(file.scales)}"
            )
        part, prefix = file.scales[name], ("scales", name)
    settings, grid = _single(file.settings, ("settings",)), _several(file.grid, ("grid",))
    own_settings = _single(part.settings, (*prefix, "settings"))
    own_grid = _several(part.grid, (*prefix, "grid"))
    # A scale may try several values of what is one value elsewhere, and the other way round.
    settings = {k: v for k, v in settings.items() if k not in own_grid} | own_settings
    grid = {k: v for k, v in grid.items() if k not in own_settings} | own_grid
    for twice in settings.keys() & grid.keys():
        raise ConfigError(
            f"{document.where(settings[twice].paths[0])}: {twice!r} stands both under 'settings' and under "
            "'grid'; remove one"
        )
    seeds = part.seeds if part.seeds is not None else file.seeds
    chosen = _Chosen(
        settings=settings,
        grid=grid,
        include=[
            _several(entry, path) for path, entry in _entries(file.include, part.include, "include", prefix)
        ],
        exclude=_entries(file.exclude, part.exclude, "exclude", prefix),
        seeds=range(seeds) if isinstance(seeds, int) else seeds,
        seeds_path=(*prefix, "seeds") if part.seeds is not None else ("seeds",),
    )
    return chosen, part, name


def _single(entry: Settings, path: Path) -> dict[str, _Item]:
    return {name: _Item((value,), ((*path, name),)) for name, value in entry.items()}


def _several(entry: Settings, path: Path) -> dict[str, _Item]:
    """Return the items of an entry in which a list stands for several values."""
    items = _single({name: value for name, value in entry.items() if not isinstance(value, list)}, path)
    for name, value in entry.items():
        if isinstance(value, list):
            items[name] = _Item(tuple(value), tuple((*path, name, index) for index in range(len(value))))
    return items


def _entries(
    own: list[Settings], scales: list[Settings], part: str, prefix: Path
) -> list[tuple[Path, Settings]]:
    entries: list[tuple[Path, Settings]] = [((part, n), entry) for n, entry in enumerate(own)]
    return entries + [((*prefix, part, n), entry) for n, entry in enumerate(scales)]


def _combinations(items: Mapping[str, _Item]) -> Iterator[tuple[dict[str, Any], dict[str, Path]]]:
    """Yield every choice of one value each, with where the values stand."""
    for choice in product(*(zip(item.values, item.paths, strict=True) for item in items.values())):
        values = dict(zip(items, (value for value, _ in choice), strict=True))
        yield values, dict(zip(items, (path for _, path in choice), strict=True))


def _configs(chosen: _Chosen, document: Document) -> list[RunConfig]:
    """Return the settings of every run, each once."""
    # Without a grid, the settings alone are a run only where there is nothing else.
    grids = [chosen.settings | chosen.grid] if chosen.grid or not chosen.include else []
    included = [chosen.settings | items for items in chosen.include]
    _check_size(grids + included, chosen, document)
    unused = {path for path, _ in chosen.exclude}
    runs: list[tuple[dict[str, Any], dict[str, Path]]] = []
    for items in grids:
        for values, paths in _combinations(items):
            excluding = [path for path, entry in chosen.exclude if _matches(entry, values)]
            unused -= set(excluding)
            if not excluding:
                runs.append((values, paths))
    for path in sorted(unused, key=lambda path: document.lines.get(path, 0)):
        raise ConfigError(f"{document.where(path)}: this 'exclude' fits no combination of the grid")
    for items in included:
        runs += _combinations(items)
    found: dict[str, RunConfig] = {}
    for values, paths in runs:
        config = _config(values, paths, document)
        for seed in chosen.seeds:  # which no other setting depends on
            seeded = config.model_copy(update={"seed": seed})
            found.setdefault(seeded.model_dump_json(), seeded)
    if not found:
        raise ConfigError(f"{document.name}: nothing to run: every combination is excluded")
    return list(found.values())


def _check_size(parts: Sequence[Mapping[str, _Item]], chosen: _Chosen, document: Document) -> None:
    """Refuse a sweep of too many runs, before any of them is built.

    Args:
        parts: of whose values all combinations are runs.
    """
    combinations = sum(prod(len(item.values) for item in items.values()) for items in parts)
    seeds = len(chosen.seeds)
    if combinations * seeds <= MAX_RUNS:
        return
    hint = ""
    if isinstance(chosen.seeds, range) and seeds > 1:
        hint = f"; {seeds} seeds are counted from 0: the one seed {seeds} is written [{seeds}]"
    raise ConfigError(
        f"{document.where(chosen.seeds_path if hint else ('grid',))}: {combinations:,} combinations with "
        f"{seeds:,} seed{'s' if seeds > 1 else ''} each are {combinations * seeds:,} runs; a sweep has at "
        f"most {MAX_RUNS:,}{hint}"
    )


def _matches(entry: Settings, values: Mapping[str, Any]) -> bool:
    return all(
        name in values and (values[name] in wanted if isinstance(wanted, list) else values[name] == wanted)
        for name, wanted in entry.items()
    )


def _config(values: Mapping[str, Any], paths: Mapping[str, Path], document: Document) -> RunConfig:
    """Return one run's settings, complete; what does not fit is named with its line."""
    from qlstm_bench.training.run import resolve
    from qlstm_core.plugins import PluginError

    for name in ("task", "quantizer", "normalizer"):
        if not isinstance(values.get(name, ""), str):
            raise ConfigError(
                f"{document.where(paths[name])}: {name}: expected a name, got {short_repr(values[name])}"
            )
    try:
        return resolve(values)[0]
    except (ConfigError, PluginError) as error:
        culprit = _culprit(error, values)
        where = document.where(paths[culprit]) if culprit in paths else document.name
        hint = "; values to be tried go below 'grid'" if isinstance(values.get(culprit), list) else ""
        raise ConfigError(f"{where}: {error}{hint}") from error


def _culprit(error: Exception, values: Mapping[str, Any]) -> str:
    """Return the name of the setting that an error of ``resolve`` is about, or ""."""
    from qlstm_bench.tasks import tasks_of
    from qlstm_core.plugins import PluginError, registry

    if isinstance(error.__cause__, ValidationError):
        place = error.__cause__.errors()[0]["loc"]
        return str(place[0]) if place else ""
    catalogues: dict[str, Catalogue[Any]] = {
        "task": tasks_of(registry),
        "quantizer": registry.quantizers,
        "normalizer": registry.normalizers,
    }
    for name, catalogue in catalogues.items():
        if name in values:
            try:
                catalogue.canonical(values[name])
            except PluginError:
                return name
    return ""
