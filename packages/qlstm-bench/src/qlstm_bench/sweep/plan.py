"""The runs that a sweep's file asks for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from typing import Any

from pydantic import ValidationError

from qlstm_bench.bounded_yaml import short_repr
from qlstm_bench.config import ConfigError, RunConfig, split_names
from qlstm_bench.sweep.sweep_file import MAX_RUNS, Scale, Settings, SweepFile, read_file
from qlstm_bench.sweep.yaml_lines import Document, Path
from qlstm_bench.tables import shorten
from qlstm_core.plugins.catalogue import Catalogue
from qlstm_core.plugins.errors import suggest

_NOWHERE: Path = ()


@dataclass(frozen=True)
class Plan:
    """The runs of a sweep, checked.

    Args:
        title: one line about it.
        scale: the size chosen, if the file has any.
        about: what the size is for, and what differs from the paper.
        minutes: how long it takes on two cores, roughly, if the file says so.
        configs: settings of the runs, each once, in the order of the file.
    """

    title: str
    scale: str | None
    about: str
    minutes: float | None
    configs: tuple[RunConfig, ...]

    def logged_to(self, names: str) -> Plan:
        """Return the same runs with these loggers, separated by commas."""
        from qlstm_bench.loggers.of_run import canonical_loggers

        log = canonical_loggers(split_names(names))
        return replace(self, configs=tuple(config.model_copy(update={"log": log}) for config in self.configs))

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
        parts: settings with their values, all combinations of which are runs.
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

    for name in (
        "task",
        "cell",
        "optimizer",
        "quantizer",
        "normalizer",
        "state_quantizer",
        "embedding_quantizer",
        "head_quantizer",
    ):
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
    from qlstm_bench.loggers import loggers_of
    from qlstm_bench.tasks import tasks_of
    from qlstm_bench.training.optimizer_catalogue import optimizers_of
    from qlstm_core import cells_of
    from qlstm_core.plugins import PluginError, registry

    if isinstance(error.__cause__, ValidationError):
        place = error.__cause__.errors()[0]["loc"]
        return str(place[0]) if place else ""
    catalogues: dict[str, Catalogue[Any]] = {
        "task": tasks_of(registry),
        "cell": cells_of(registry),
        "quantizer": registry.quantizers,
        "normalizer": registry.normalizers,
        "state_quantizer": registry.quantizers,
        "input_quantizer": registry.quantizers,
        "embedding_quantizer": registry.quantizers,
        "head_quantizer": registry.quantizers,
        "optimizer": optimizers_of(registry),
        "log": loggers_of(registry),
    }
    for name, catalogue in catalogues.items():
        if values.get(name) is not None:
            try:
                for text in split_names(values[name]) if name == "log" else [values[name]]:
                    catalogue.canonical(text)
            except PluginError:
                return name
    return ""
