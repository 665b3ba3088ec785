"""What is measured by turns, on a clock that the test moves."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest

from qlstm_bench.speed.timing import Case, Timing, interleaved


class FakeClock:
    """A clock that only the cases move."""

    def __init__(self) -> None:
        self.now = 0.0
        self.called: list[str] = []

    def __call__(self) -> float:
        return self.now

    def case(self, name: str, durations: Callable[[int], float], units: int = 1) -> Case:
        """Return a case whose n-th call takes ``durations(n)`` seconds."""
        calls = iter(range(10**9))

        def call() -> None:
            self.called.append(name)
            self.now += durations(next(calls))

        return Case(name, call, units)


def test_seconds_are_those_of_a_unit_and_the_first_call_does_not_count() -> None:
    clock = FakeClock()
    slow_start = clock.case("a", lambda n: 100.0 if n == 0 else 0.5, units=5)
    timing = interleaved([slow_start], rounds=3, seconds=1.0, clock=clock)["a"]
    assert timing.seconds == pytest.approx([0.1, 0.1, 0.1])
    assert timing.median == timing.best == pytest.approx(0.1)
    assert len(clock.called) == 2 + 3 * 2, "a first call, one to find the count, and two a round"


def test_every_second_round_goes_back() -> None:
    clock = FakeClock()
    cases = [clock.case(name, lambda n: 1.0) for name in "abc"]
    interleaved(cases, rounds=3, seconds=0.5, clock=clock)
    assert "".join(clock.called[6:]) == "abc" + "cba" + "abc"


def test_a_ratio_is_taken_within_rounds() -> None:
    ours, peer = Timing(Case("ours", int)), Timing(Case("peer", int))
    ours.seconds, peer.seconds = [1.0, 20.0, 3.0], [1.0, 10.0, 1.0]
    assert ours.ratio(peer) == 2.0, "the medians alone would say 3"
    assert ours.ratio_of_best(peer) == 1.0


def test_the_collector_waits_and_comes_back() -> None:
    seen = []
    interleaved([Case("a", lambda: seen.append(gc.isenabled()))], rounds=1, seconds=0.0)
    assert seen == [True, True, False], "before the rounds it may run"
    assert gc.isenabled()


def test_progress_is_told_and_names_differ() -> None:
    clock = FakeClock()
    told: list[int] = []
    cases = [clock.case(name, lambda n: 1.0) for name in "ab"]
    interleaved(cases, rounds=2, clock=clock, done=told.append)
    assert told == [1, 2, 3, 4]
    with pytest.raises(ValueError, match="must differ"):
        interleaved([cases[0], cases[0]], clock=clock)
