"""Figures that papers published, to stand beside ours."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from types import MappingProxyType
from typing import Any

import yaml

from qlstm_bench.config import RunConfig
from qlstm_bench.papers.checks import check_line, check_number, check_settings, settings_fit, task_fits
from qlstm_core.plugins import PluginWarning, Registry, registry

_TAKEN = ("task", "data", "quantizer", "normalizer", "cell", "hidden", "epochs")


@dataclass(frozen=True, kw_only=True)
class PublishedFigure:
    """A figure of merit that a paper gives for one combination, as printed.

    Args:
        task: name of the task, with options where they matter, as in ``"mnist:permuted=true"``.
        data: name of the dataset.
        figure: the figure of merit in test, in the unit of the task's.
        hidden: units of the paper's recurrent layer.
        source: paper and table, in one line.
        quantizer, normalizer, cell: as in the settings of a run, without ``max_steps``, ``clip`` and gains,
            which papers' tables do not tell.
        settings: further settings of a run that the figure is for, as in ``{"layers": 1}``.
        epochs: passes over the training data; ``None`` where it is not known.
        size_kb: size of the recurrent layer as deployed, in 1024 bytes; ``None`` where the paper gives none.

    Raises:
        TypeError, ValueError: a field that does not fit, naming it.
    """

    task: str
    data: str
    figure: float
    hidden: int
    source: str
    quantizer: str = "none"
    normalizer: str = "none"
    cell: str = "lstm"
    settings: Mapping[str, Any] = field(default_factory=dict)
    epochs: float | None = None
    size_kb: float | None = None

    def __post_init__(self) -> None:
        title = f"PublishedFigure of {self.source!r}"
        for name in ("task", "data", "source", "quantizer", "normalizer", "cell"):
            check_line(title, name, getattr(self, name))
        check_number(title, "figure", self.figure)
        if not isinstance(self.hidden, int):
            raise TypeError(f"{title}: hidden must be an int, got {self.hidden!r}")
        check_number(title, "hidden", self.hidden, above=0)
        for name in ("epochs", "size_kb"):
            if getattr(self, name) is not None:
                check_number(title, name, getattr(self, name), above=0)
        check_settings(title, "settings", self.settings, _TAKEN)
        object.__setattr__(self, "settings", MappingProxyType(dict(self.settings)))

    @property
    def combination(self) -> tuple[Any, ...]:
        """What the figure is for: all but the figure itself, its length, its size and its source."""
        names = ("task", "data", "quantizer", "normalizer", "cell", "hidden")
        return *(getattr(self, name) for name in names), *sorted(
            (n, repr(v)) for n, v in self.settings.items()
        )

    def fits(self, config: RunConfig, dataset: str) -> bool:
        """Return whether a run is what the figure is for, except for the number of units.

        Args:
            config: settings of the run.
            dataset: name of its data.
        """
        names = ("quantizer", "normalizer", "cell")
        own = {name: getattr(self, name) for name in names}
        wanted = {"state_quantizer": "none", **own, **self.settings}
        return self.data == dataset and task_fits(self.task, config.task) and settings_fit(wanted, config)


def published(config: RunConfig, dataset: str) -> list[PublishedFigure]:
    """Return what papers give for a run's task, data, quantizer, normaliser, cell and layers.

    One figure of each source: where it has several sizes, that of the run, else the smallest. Figures for
    the run's own size come first, then those for the smallest. Two that one source cannot both have are
    kept, and warned of with the plugins that give them.

    Args:
        config: settings of the run.
        dataset: name of its data.
    """
    fitting: list[PublishedFigure] = []
    first: dict[tuple[Any, ...], tuple[str, PublishedFigure]] = {}
    for title, one in figures_of(registry)():
        if not one.fits(config, dataset) or one in fitting:
            continue
        fitting.append(one)
        before, known = first.setdefault((one.source, *one.combination), (title, one))
        if known is not one:
            warnings.warn(
                f"{one.source}: {one.quantizer} with {one.normalizer} on {one.data} is {known.figure:g} from "
                f"{before}, and {one.figure:g} from {title}: both are shown",
                PluginWarning,
                stacklevel=2,
            )
    fitting.sort(key=lambda one: (one.hidden != config.hidden, one.hidden))
    nearest: dict[str, int] = {}
    for one in fitting:
        nearest.setdefault(one.source, one.hidden)
    return [one for one in fitting if one.hidden == nearest[one.source]]


def figures_of(registry: Registry) -> Callable[[], list[tuple[str, PublishedFigure]]]:
    """Return a function that returns all figures that the plugins of a registry give, with their titles."""
    return registry.collection("qlstm_published", PublishedFigure)


def own_figures() -> Iterable[PublishedFigure]:
    """Return the figures of the papers that this package is about, from ``published.yaml``."""
    text = (files("qlstm_bench.papers") / "published.yaml").read_text(encoding="utf-8")
    for table in yaml.safe_load(text):
        settings = dict(table["settings"])
        common = {name: table[name] for name in ("task", "data", "source", "epochs")}
        common |= {name: settings.pop(name) for name in ("hidden", "cell") if name in settings}
        for quantizer, normalizer, figure, size in table["rows"]:
            yield PublishedFigure(
                **common,
                quantizer=quantizer,
                normalizer=normalizer,
                figure=figure,
                size_kb=size,
                settings=settings,
            )
