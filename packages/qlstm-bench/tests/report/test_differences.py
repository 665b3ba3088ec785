"""How sure a difference is: against SciPy's own t-tests, closed forms, and tables worked out by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from qlstm_bench.report.differences import Difference

figures = st.lists(st.floats(-100, 100).map(lambda x: round(x, 3)), min_size=2, max_size=6, unique=True)


@given(first=figures, second=figures)
@settings(max_examples=50, deadline=None)
def test_the_interval_is_that_of_welchs_t_test(first: list[float], second: list[float]) -> None:
    difference = Difference.between(first, second)
    interval = stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.9)  # 5 % on each side
    reach = difference.reach(0.05, margin=1.0)
    assert difference.mean - reach == pytest.approx(interval.low, rel=1e-6, abs=1e-6)
    assert difference.mean + reach == pytest.approx(interval.high, rel=1e-6, abs=1e-6)


@given(one=st.floats(-100, 100), several=figures)
@settings(max_examples=50, deadline=None)
def test_one_seed_borrows_the_others_spread(one: float, several: list[float]) -> None:
    """The t-test of equal variances: with one value on a side, all of the variance is the other side's."""
    pooled = stats.ttest_ind([one], several, equal_var=True).confidence_interval(0.9)
    for sides, sign in (((([one]), several), 1), ((several, [one]), -1)):
        difference = Difference.between(*sides)
        reach = difference.reach(0.05, margin=0.0)
        assert sign * difference.mean + reach == pytest.approx(pooled.high, rel=1e-6, abs=1e-6)
        assert difference.seeds == (len(sides[0]), len(sides[1]))


def test_standard_error_and_degrees_of_freedom_by_hand() -> None:
    """Variances 1 and 4 of three seeds each: √(1/3 + 4/3), and (5/3)² / ((1/3)²/2 + (4/3)²/2)."""
    difference = Difference.between([1.0, 2.0, 3.0], [2.0, 4.0, 6.0])
    assert difference.mean == -2.0
    assert difference.error == pytest.approx(math.sqrt(5 / 3))
    assert difference.freedom == pytest.approx(25 * 2 / 17)
    # With one degree of freedom Student's distribution is Cauchy's: its upper 5 % begin at tan 0.45 π.
    pair = Difference.between([0.0, 2.0], [5.0])
    assert (pair.freedom, pair.error) == (1, pytest.approx(math.sqrt(2 * 1.5)))
    assert pair.reach(0.05, margin=9.0) == pytest.approx(math.sqrt(3) * math.tan(0.45 * math.pi))
    assert pair.reach(0.05, margin=12.0) == 12.0, "a single run may lie that far off, whatever the others do"
    assert difference.reach(0.05, margin=12.0) < 4, "several on both sides speak for themselves"


@pytest.mark.parametrize(
    ("first", "second"), [([3.0], [1.0]), ([3.0, 3.0, 3.0], [1.0]), ([3.0, 3.0], [1.0, 1.0])]
)
def test_seeds_that_agree_have_no_spread(first: list[float], second: list[float]) -> None:
    """Runs that count as the worst all have one figure: that is no sign of certainty."""
    difference = Difference.between(first, second)
    assert math.isnan(difference.error)
    assert (difference.mean, difference.reach(0.05, margin=0.25)) == (2.0, 0.25)


@pytest.mark.parametrize(
    ("relation", "verdicts"),
    [
        # Of two single runs, with margin 1, for these differences.
        #                -3     -1    -0.5   0     0.5   1     1.5   2     2.5   3
        ("worse",    [False, False, False, None, None, None, None, None, True, True]),
        ("no worse", [True, True, True, None, None, None, None, None, False, False]),
        ("alike",    [False, None, None, None, None, None, None, None, False, False]),
    ],
)  # fmt: skip
def test_what_one_seed_each_decides(relation: str, verdicts: list[bool | None]) -> None:
    found = [
        Difference.between([5.0 + d], [5.0]).decide(relation, 1.0)  # type: ignore[arg-type]
        for d in (-3, -1, -0.5, 0, 0.5, 1, 1.5, 2, 2.5, 3)
    ]
    assert found == verdicts


@pytest.mark.parametrize(
    ("relation", "verdicts"),
    [
        # Three seeds each of variance 0.01: standard error 0.0816, t(4) 2.132, so that d is known to ±0.174.
        #                -1.5   -0.9   -0.5   0     0.8    0.9   1.1   1.2   2
        ("worse",    [False, False, False, False, False, None, None, True, True]),
        ("no worse", [True, True, True, True, True, None, None, False, False]),
        ("alike",    [False, None, True, True, True, None, None, False, False]),
    ],
)  # fmt: skip
def test_what_three_seeds_each_decide(relation: str, verdicts: list[bool | None]) -> None:
    second = [4.9, 5.0, 5.1]
    found = [
        Difference.between([one + d for one in second], second).decide(relation, 1.0)  # type: ignore[arg-type]
        for d in (-1.5, -0.9, -0.5, 0, 0.8, 0.9, 1.1, 1.2, 2)
    ]
    assert found == verdicts


def test_a_smaller_chance_of_error_asks_for_a_larger_difference() -> None:
    """t(4) is 2.132 at 5 %, 2.776 at 2.5 % and 3.747 at 1 %: times 0.0816 they are 0.174, 0.227 and 0.306."""
    second = [4.9, 5.0, 5.1]
    difference = Difference.between([one + 1.25 for one in second], second)
    assert [difference.decide("worse", 1.0, hold=level) for level in (0.05, 0.025, 0.01)] == [
        True,
        True,
        None,
    ]
    assert [difference.decide("no worse", 1.0, refute=level) for level in (0.05, 0.025, 0.01)] == [
        False, False, None,
    ]  # fmt: skip


def test_what_no_seed_changes_is_decided_to_the_last_digit() -> None:
    exact = Difference(1.5, 0.0, math.inf, (1, 1))
    assert [exact.decide("worse", margin) for margin in (1.4, 1.5, 1.6)] == [True, None, False]
