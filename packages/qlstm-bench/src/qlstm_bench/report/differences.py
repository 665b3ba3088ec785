"""How sure a difference between two lines of runs is, with one seed or several.

Figures are taken so that larger is worse. Each side of a difference d = mean(first) − mean(second) has n
seeds and the standard deviation s:

==========================  ===========================  =====================================================
seeds                       standard error               degrees of freedom
==========================  ===========================  =====================================================
two or more on both sides   √(s₁²/n₁ + s₂²/n₂)           Welch and Satterthwaite's
one on one side             s √(1 + 1/n), s the other's  n − 1
one on both sides           none                         none: d is known to ± the margin
==========================  ===========================  =====================================================

With one seed on a side, d is never taken to be known better than to ± the margin: the spread of the other
side may be the smaller one. Seeds that all agree, as those that count as the worst do, have no spread: where
no side has one, there is no standard error either.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from qlstm_bench.papers.claims import Relation

LEVEL = 0.05
"""Probability at which a verdict may be wrong, where the truth lies at the margin."""


@dataclass(frozen=True)
class Difference:
    """How much worse the first side is than the second.

    Args:
        mean: mean of the first side minus that of the second.
        error: standard error; NaN where the seeds show no spread; 0 for what no seed changes.
        freedom: degrees of freedom of the standard error.
        seeds: number of seeds of each side.
    """

    mean: float
    error: float
    freedom: float
    seeds: tuple[int, int]

    @classmethod
    def between(cls, first: Sequence[float], second: Sequence[float]) -> Difference:
        """Return the difference between two sides.

        Args:
            first: a figure for each seed, larger is worse; at least one.
            second: the same of the other side.
        """
        sides = [np.asarray(first, float), np.asarray(second, float)]
        seeds = (len(first), len(second))
        mean = float(sides[0].mean() - sides[1].mean())
        variances = [float(side.var(ddof=1)) if side.size > 1 else 0.0 for side in sides]
        if not any(variances):
            return cls(mean, math.nan, math.nan, seeds)
        if min(seeds) == 1:
            return cls(mean, math.sqrt(max(variances) * (1 + 1 / max(seeds))), max(seeds) - 1, seeds)
        parts = [variance / count for variance, count in zip(variances, seeds, strict=True)]
        squares = sum(part**2 / (count - 1) for part, count in zip(parts, seeds, strict=True))
        return cls(mean, math.sqrt(sum(parts)), sum(parts) ** 2 / squares, seeds)

    def reach(self, level: float, margin: float) -> float:
        """Return how far the true difference may lie from the measured one, to one side.

        Args:
            level: probability that it lies further.
            margin: so far single trainings may lie apart; what is taken without a standard error, and at
                least taken where one side has a single seed.
        """
        if self.error == 0:
            return 0.0
        if math.isnan(self.error):
            return margin
        reach = float(stats.t.ppf(1 - level, self.freedom) * self.error)
        return max(reach, margin) if min(self.seeds) == 1 else reach

    def decide(
        self, relation: Relation, margin: float, *, hold: float = LEVEL, refute: float = LEVEL
    ) -> bool | None:
        """Return whether a relation holds; ``None`` where that is not decided.

        It holds where all values that the true difference may have fit it, and does not where none fits.

        Args:
            relation: ``"worse"``: the difference is above the margin; ``"no worse"``: it is not; ``"alike"``:
                it is not, either way round.
            margin: the largest difference that counts as none.
            hold: probability at which "holds" may be wrong.
            refute: probability at which "does not hold" may be wrong.
        """
        near, far = self.reach(hold, margin), self.reach(refute, margin)
        if relation == "worse":
            holds, refuted = self.mean - near > margin, self.mean + far < margin
        else:
            size = abs(self.mean) if relation == "alike" else self.mean
            holds, refuted = size + near < margin, size - far > margin
        return True if holds else False if refuted else None
