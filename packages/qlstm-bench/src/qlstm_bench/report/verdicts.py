"""What runs say of the claims of papers: one verdict a claim and scale, computed and never typed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import pandas as pd

from qlstm_bench.papers.checks import settings_fit
from qlstm_bench.papers.claims import Claim, Margin, Relation, given_claims
from qlstm_bench.report.differences import LEVEL, Difference
from qlstm_bench.report.records import NOT_COMPARED, Record
from qlstm_bench.report.summary import Line, differing, lines
from qlstm_bench.tables import shorten

Outcome = Literal["holds", "does not hold", "not decided by the spread", "not trained"]

_LARGEST = 1e308
"""Stands for a gradient's growth that overflowed."""


@dataclass(frozen=True)
class Decision:
    """One comparison of a claim, decided.

    Args:
        first, second: names of the lines compared.
        relation: how they are said to stand to each other.
        difference: how much worse the first is; of logarithms where the margin is relative; ``None`` where
            neither side has learnt anything.
        margin: the largest difference that counts as none.
        holds: whether the relation holds; ``None``: not decided.
    """

    first: str
    second: str
    relation: Relation
    difference: Difference | None
    margin: Margin
    holds: bool | None

    @property
    def slack(self) -> float:
        """How far the measured difference lies on the side that the relation says; negative on the other."""
        if self.difference is None:
            return 0.0
        mean, limit = self.difference.mean, self.margin.size
        return {"worse": mean - limit, "no worse": limit - mean, "alike": limit - abs(mean)}[self.relation]

    def describe(self, figure: str) -> str:
        """Return the measured difference in words, with its standard error."""
        if self.difference is None:
            return f"{self.first} and {self.second} have learnt nothing"
        mean, error, (n, m) = self.difference.mean, self.difference.error, self.difference.seeds
        words = ("worse", "better") if figure == "test" else ("larger", "smaller")
        if figure == "size":
            spread = ""
        elif math.isnan(error):
            spread = ", one seed each"
        else:
            spread = f", standard error {_amount(error, self.margin)}, {n} and {m} seeds"
        amount = _amount(abs(mean), self.margin)
        return f"{self.first} is {words[mean < 0]} than {self.second} by {amount}{spread}"


def _amount(value: float, margin: Margin) -> str:
    """Return a difference in words; one of logarithms as a share or, if it is large, as a factor."""
    if not margin.relative:
        return f"{value:.2g}" if value < 1 else f"{value:.3g}"
    if value < math.log(2):
        return f"{100 * math.expm1(value):.2g} %"
    return f"a factor of {math.exp(value):.2g}" if value < math.log(_LARGEST) else "a factor above 1e308"


@dataclass(frozen=True)
class Verdict:
    """What the runs of one scale say of a claim.

    Args:
        claim: the claim.
        section: task and dataset.
        scale: length and sizes of the runs, and the settings that tell this scale from others of the section.
        decisions: the comparisons of which both sides are trained.
        missing: names of the lines that are not trained.
    """

    claim: Claim
    section: tuple[str, str]
    scale: str
    decisions: tuple[Decision, ...]
    missing: tuple[str, ...]

    @cached_property
    def outcome(self) -> Outcome:
        """The verdict.

        Where all comparisons must hold, one that does not settles it, whatever is missing; where one is
        enough, one that holds does.
        """
        settling = self.claim.some
        if any(decision.holds is settling for decision in self.decisions):
            return "holds" if settling else "does not hold"
        if self.missing:
            return "not trained"
        if all(decision.holds is not settling and decision.holds is not None for decision in self.decisions):
            return "does not hold" if settling else "holds"
        return "not decided by the spread"

    @property
    def decisive(self) -> Decision | None:
        """The comparison that settles the verdict, or else that comes nearest to upsetting it."""
        settled = {"holds": True, "does not hold": False}.get(self.outcome)
        found = [one for one in self.decisions if one.holds is settled] or list(self.decisions)
        sign = -1 if self.claim.some else 1
        return min(found, key=lambda one: sign * one.slack, default=None)

    @property
    def reason(self) -> str:
        """What the verdict rests on, in one line."""
        parts = []
        count = sum(decision.holds is True for decision in self.decisions)
        against = sum(decision.holds is False for decision in self.decisions)
        if self.decisions:
            parts.append(
                f"{count} of {len(self.decisions)} hold" + (f", {against} against" if against else "")
            )
        if self.decisive is not None:
            parts.append(
                f"{self.decisive.describe(self.claim.figure)} (counts from {self.decisive.margin.text} on)"
            )
        if self.missing:
            more = f" and {len(self.missing) - 4} more" if len(self.missing) > 4 else ""
            parts.append(f"missing: {', '.join(self.missing[:4])}{more}")
        return "; ".join(parts)


def decide_claims(records: Sequence[Record], claims: Iterable[Claim] | None = None) -> list[Verdict]:
    """Return what runs say of claims, one verdict for each claim and scale of which there is any run.

    Runs are compared only where all settings but those that the claim names agree, and the data's SHA-256.

    Args:
        records: runs that have ended, from :func:`qlstm_bench.report.collect`.
        claims: the claims; default: those that the installed plugins give.
    """
    found = [line for line in lines(records) if any(r.result.status != "failed" for r in line.records)]
    return [
        verdict
        for claim in (given_claims() if claims is None else claims)
        for verdict in _verdicts(claim, found)
    ]


def shown_claims(records: Sequence[Record]) -> pd.DataFrame:
    """Return the verdicts as text under its headings, one row for each."""
    rows = [
        {
            "verdict": verdict.outcome,
            "claim": verdict.claim.statement,
            "source": verdict.claim.source,
            "runs": verdict.scale,
            "why": verdict.reason,
        }
        for verdict in decide_claims(records)
    ]
    return pd.DataFrame(rows).map(lambda text: shorten(text, 400))


def _verdicts(claim: Claim, found: Sequence[Line]) -> Iterator[Verdict]:
    """Yield a verdict for each scale at which there is a run of the claim."""
    own = [line for line in found if claim.covers(line.config) and _name(line.config.task) in claim.margins]
    varied = NOT_COMPARED | claim.varied
    names = {name for pair in _named_pairs(claim) for name in pair}
    for section, lines_of in _grouped(own, lambda line: line.records[0].section).items():
        shown = [name for name in differing(lines_of) if name not in claim.varied]
        margin = claim.margin(section[0])
        scales = _grouped(
            lines_of,
            lambda line: (line.records[0].result.dataset.sha256, line.config.model_dump_json(exclude=varied)),
        )
        for at_scale in scales.values():
            decisions, missing = _compare(claim, margin, at_scale)
            if decisions or len(missing) < len(names):
                scale = _scale(at_scale[0], shown)
                yield Verdict(claim, section, scale, tuple(decisions), tuple(missing))


def _grouped(
    found: Iterable[Line], key: Callable[[Line], tuple[str, str]]
) -> dict[tuple[str, str], list[Line]]:
    groups: dict[tuple[str, str], list[Line]] = {}
    for line in found:
        groups.setdefault(key(line), []).append(line)
    return groups


def _name(task: str) -> str:
    return task.partition(":")[0]


def _scale(line: Line, shown: Iterable[str]) -> str:
    """Return units and length of a line's runs, and the settings that tell them from others, in words."""
    config = line.config
    length = f"{config.epochs} epochs" if config.epochs is not None else f"{config.steps} steps"
    rest = [f"{name}={getattr(config, name)}" for name in shown if name not in ("hidden", "epochs", "steps")]
    return ", ".join([f"{config.hidden} units", length, *rest])


def _named_pairs(claim: Claim) -> Iterator[tuple[str, str]]:
    for comparison in claim.compare:
        for first, second in comparison.pairs():
            yield _title(first), _title(second)


def _title(settings: Mapping[str, Any]) -> str:
    """Return how a line is called: ``binary-connect/layer``, or by the other settings that a claim names."""
    names = [str(settings[name]) for name in ("quantizer", "normalizer") if name in settings]
    rest = {k: v for k, v in settings.items() if k not in ("quantizer", "normalizer") and v != "any"}
    return " ".join(["/".join(names), *(f"{name}={value}" for name, value in rest.items())]).strip()


def _compare(claim: Claim, margin: Margin, found: Sequence[Line]) -> tuple[list[Decision], list[str]]:
    """Return the comparisons of which both sides are there, decided, and the names of what is missing."""
    usable = [line for line in found if _values(line, claim.figure, margin)]
    sides: list[tuple[tuple[str, str], Relation, tuple[Line, Line]]] = []
    missing: dict[str, None] = {}
    for comparison in claim.compare:
        for first, second in comparison.pairs():
            names = _title(first), _title(second)
            ones, others = (
                [line for line in usable if settings_fit(side, line.config)] for side in (first, second)
            )
            missing |= {name: None for name, side in zip(names, (ones, others), strict=True) if not side}
            sides += [(names, comparison.relation, pair) for pair in itertools.product(ones, others)]
    # All comparisons must hold, each at the level: then so does the claim. That one of many fails by chance
    # is more likely than that a certain one does: Bonferroni. Where one is enough, the other way round.
    levels = {"hold" if claim.some else "refute": LEVEL / max(1, len(sides))}
    decisions = []
    for names, relation, pair in sides:
        difference = _difference(pair, claim.figure, margin)
        holds = None if difference is None else difference.decide(relation, margin.size, **levels)
        decisions.append(Decision(*names, relation, difference, margin, holds))
    return decisions, list(missing)


def _difference(pair: tuple[Line, Line], figure: str, margin: Margin) -> Difference | None:
    """Return how much worse the first line is; ``None`` where neither has learnt anything."""
    first, second = (_values(line, figure, margin) for line in pair)
    if figure == "size":
        return Difference(first[0] - second[0], 0.0, math.inf, (len(first), len(second)))
    if figure == "test" and not any(record.result.learnt for line in pair for record in line.records):
        return None
    return Difference.between(first, second)


def _values(line: Line, figure: str, margin: Margin) -> list[float]:
    """Return a figure of each seed, larger is worse; without runs that failed or have none.

    A run that diverged or learnt nothing counts as the worst: its figure in test is that without looking at
    the input, which no figure exceeds. What was measured of its gradients is taken as it is; a run that
    diverged before it could be measured counts as the largest number.
    """
    found = []
    for record in line.records:
        if record.result.status == "failed":
            continue
        value = (
            badness(record, relative=margin.relative) if figure == "test" else _metric(record, figure, margin)
        )
        if math.isfinite(value):
            found.append(value)
    return found


def badness(record: Record, *, relative: bool = False) -> float:
    """Return a run's figure in test so that larger is worse; where it learnt nothing, without its input.

    Args:
        record: a run that has not failed.
        relative: whether to take the natural logarithm.
    """
    result = record.result
    sign = -1.0 if result.higher_is_better else 1.0
    value, baseline = (
        sign * (_logarithm(figure) if relative else figure)
        for figure in (result.figure("test"), result.figure("baseline"))
    )
    return min(value, baseline) if result.learnt and not math.isnan(value) else baseline


def _metric(record: Record, figure: str, margin: Margin) -> float:
    result = record.result
    value = float(result.storage_bytes) if figure == "size" else result.metrics.get(figure, math.nan)
    if value > _LARGEST or (math.isnan(value) and result.status == "diverged"):
        value = _LARGEST
    return _logarithm(value) if margin.relative else value


def _logarithm(value: float) -> float:
    """Return the natural logarithm; that of the smallest float for 0, NaN for what has none."""
    return math.log(max(value, 5e-324)) if value >= 0 else math.nan


def claims_frame(records: Sequence[Record]) -> pd.DataFrame:
    """Return one row per verdict.

    Columns: task, dataset, scale; claim, statement, source; verdict; why, in words; difference and
    standard_error of the comparison that decides, of natural logarithms where ``relative``; margin; relative;
    comparisons, decided ones; held and refuted, how many of these; missing, names of the runs that lack.
    """
    return pd.DataFrame([_row(verdict) for verdict in decide_claims(records)], columns=_COLUMNS)


_COLUMNS = [
    "task", "dataset", "scale", "claim", "statement", "source", "verdict", "why", "difference",
    "standard_error", "margin", "relative", "comparisons", "held", "refuted", "missing",
]  # fmt: skip


def _row(verdict: Verdict) -> dict[str, Any]:
    decisive = verdict.decisive
    difference = decisive.difference if decisive else None
    margin = verdict.claim.margin(verdict.section[0])
    return {
        "task": verdict.section[0],
        "dataset": verdict.section[1],
        "scale": verdict.scale,
        "claim": verdict.claim.name,
        "statement": verdict.claim.statement,
        "source": verdict.claim.source,
        "verdict": verdict.outcome,
        "why": verdict.reason,
        "difference": difference.mean if difference else math.nan,
        "standard_error": difference.error if difference else math.nan,
        "margin": margin.size,
        "relative": margin.relative,
        "comparisons": len(verdict.decisions),
        "held": sum(decision.holds is True for decision in verdict.decisions),
        "refuted": sum(decision.holds is False for decision in verdict.decisions),
        "missing": ", ".join(verdict.missing),
    }
