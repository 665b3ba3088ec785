"""Claims of papers as data: comparisons of runs that a program can decide."""

from __future__ import annotations

import itertools
import math
import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Literal, get_args

import yaml

from qlstm_bench.config import RunConfig
from qlstm_bench.papers.checks import check_line, check_settings
from qlstm_core.plugins import PluginWarning, Registry, registry
from qlstm_core.plugins.errors import suggest

Relation = Literal["worse", "no worse", "alike"]
"""How a line stands to another: worse by more than the margin; not so; not so either way round."""

_NAME = re.compile(r"[a-z][a-z0-9-]*")
_MARGIN = re.compile(r"(?P<number>[0-9.]+) ?(?P<unit>%|times|)")


@dataclass(frozen=True)
class Margin:
    """The largest difference that counts as none.

    Args:
        size: in the figure's own unit; of its natural logarithm where ``relative``.
        text: as it was given: ``"0.06"``, ``"5.5 %"`` or ``"10 times"``.
        relative: whether figures are compared by their logarithms, as shares of one another.
    """

    size: float
    text: str
    relative: bool = False

    @classmethod
    def parse(cls, value: float | str) -> Margin:
        """Return the margin that a number or text says.

        Raises:
            ValueError: neither a number above 0, nor one of per cent, nor one above 1 of times.
        """
        match = _MARGIN.fullmatch(str(value))
        try:
            number = float(match["number"]) if match else math.nan
        except ValueError:
            number = math.nan
        unit = match["unit"] if match else ""
        factor = number if unit == "times" else 1 + number / 100
        if not math.isfinite(number) or number <= 0 or (unit == "times" and number <= 1):
            raise ValueError(f"expected a number above 0 as in 0.06, 5.5 % or 10 times, got {value!r}")
        return cls(math.log(factor) if unit else number, str(value), relative=bool(unit))


@dataclass(frozen=True)
class Comparison:
    """How two lines of runs stand to each other.

    Args:
        first: settings of a line; a list stands for a comparison with each of its values, and ``"any"`` for
            whatever a line has.
        relation: ``"worse"``, ``"no worse"`` or ``"alike"``.
        second: settings of the other line where they differ from the first's.
    """

    first: Mapping[str, Any]
    relation: Relation
    second: Mapping[str, Any]

    def __post_init__(self) -> None:
        if self.relation not in get_args(Relation):
            allowed = ", ".join(get_args(Relation))
            raise ValueError(
                f"relation {self.relation!r} is none{suggest(str(self.relation), get_args(Relation))}; "
                f"allowed: {allowed}"
            )
        for name in ("first", "second"):
            check_settings("Comparison", name, getattr(self, name), lists=name == "first")
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))
        if not self.second:
            raise ValueError("Comparison: second must name a setting in which it differs from the first")

    def pairs(self) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """Yield the settings of both lines, for each combination of the first's lists."""
        values = [value if isinstance(value, list | tuple) else [value] for value in self.first.values()]
        for chosen in itertools.product(*values):
            first = dict(zip(self.first, chosen, strict=True))
            yield first, {**first, **self.second}


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim of a paper, or a question of its reviewers, as comparisons of runs.

    Args:
        name: what it is called; matches ``[a-z][a-z0-9-]*``.
        statement: what is claimed, in words of our own, in one line.
        source: paper and place, in one line.
        margins: for each task, by its name without options, the largest difference that counts as none: a
            number in the unit of the figure, or a text as in ``"5.5 %"`` or ``"10 times"``.
        compare: the comparisons; all of them must hold.
        figure: what is compared: ``"test"``, the figure of merit; ``"size"`` of the recurrent layer; or one
            of the metrics of result.json, where larger counts as worse.
        where: settings that all its runs share; of several in a list any fits.
        some: whether it is enough that one comparison holds.

    Raises:
        TypeError, ValueError: a field that does not fit, naming it.
    """

    name: str
    statement: str
    source: str
    margins: Mapping[str, float | str]
    compare: tuple[Comparison, ...]
    figure: str = "test"
    where: Mapping[str, Any] = field(default_factory=dict)
    some: bool = False

    def __post_init__(self) -> None:
        title = f"Claim {self.name!r}"
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise ValueError(f"{title}: name must match [a-z][a-z0-9-]*")
        for name in ("statement", "source", "figure"):
            check_line(title, name, getattr(self, name))
        if not isinstance(self.compare, tuple) or not all(isinstance(c, Comparison) for c in self.compare):
            raise TypeError(f"{title}: compare must be a tuple of Comparison, got {self.compare!r}")
        if not self.compare:
            raise ValueError(f"{title}: compare must have at least one Comparison")
        check_settings(title, "where", self.where, self.varied, lists=True)
        if not isinstance(self.margins, Mapping) or not self.margins:
            raise TypeError(f"{title}: margins must map tasks to margins, got {self.margins!r}")
        for task in self.margins:
            check_line(title, "margins", task)
            if ":" in task:
                raise ValueError(f"{title}: margins: {task!r} must be a task's name without options")
            try:
                self.margin(task)
            except ValueError as error:
                raise ValueError(f"{title}: margins: {task}: {error}") from None
        for name in ("where", "margins"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    @property
    def varied(self) -> set[str]:
        """The settings that tell its lines apart; in all others, lines that are compared agree."""
        return set().union(*({*c.first, *c.second} for c in self.compare))

    def covers(self, config: RunConfig) -> bool:
        """Return whether a run belongs to the lines that the claim is about."""
        return all(
            getattr(config, name) in (wanted if isinstance(wanted, list | tuple) else (wanted,))
            for name, wanted in self.where.items()
        )

    def margin(self, task: str) -> Margin:
        """Return the margin for a task, with options or without, that :attr:`margins` names."""
        return Margin.parse(self.margins[task.partition(":")[0]])


def claims_of(registry: Registry) -> Callable[[], list[tuple[str, Claim]]]:
    """Return a function that returns all claims that the plugins of a registry give, with their titles."""
    return registry.collection("qlstm_claims", Claim)


def given_claims() -> list[Claim]:
    """Return the claims that the installed plugins give; a name given twice is warned of."""
    found = claims_of(registry)()
    titles: dict[str, list[str]] = defaultdict(list)
    for title, claim in found:
        titles[claim.name].append(title)
    for name, givers in titles.items():
        if len(givers) > 1:
            message = (
                f"claim {name!r} is given by {' and by '.join(givers)}: all are shown, with their sources"
            )
            warnings.warn(message, PluginWarning, stacklevel=2)
    return [claim for _, claim in found]


def own_claims() -> Iterable[Claim]:
    """Return the claims of the papers that this package is about, from ``claims.yaml``."""
    text = (files("qlstm_bench.papers") / "claims.yaml").read_text(encoding="utf-8")
    document = yaml.safe_load(text)
    for paper in document["papers"]:
        for entry in paper["claims"]:
            compare = tuple(
                Comparison(first, relation, second) for first, relation, second in entry["compare"]
            )
            settings = {"where": paper.get("where", {}), **entry}
            settings["margins"] = document["margins"][entry["margins"]]
            settings["source"] = f"{paper['paper']}, {entry['source']}"
            yield Claim(**{**settings, "compare": compare})
