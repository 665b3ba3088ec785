"""Comparing durations on a machine that is not quiet: everything by turns, ratios within a round."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

Clock = Callable[[], float]


@dataclass(frozen=True)
class Case:
    """One thing to be timed.

    Args:
        name: what it is called in the table.
        call: what is timed; it is called once before any timing, so that compiling does not count.
        units: how many units, such as time steps, one call is; durations are per unit.
        note: remark for the table.
    """

    name: str
    call: Callable[[], object]
    units: int = 1
    note: str = ""


@dataclass
class Timing:
    """The seconds per unit of one case, one entry per round."""

    case: Case
    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The median over the rounds, in seconds per unit."""
        return statistics.median(self.seconds)

    @property
    def best(self) -> float:
        """The smallest of the rounds, in seconds per unit: what the machine does when nobody disturbs it."""
        return min(self.seconds)

    def ratio(self, peer: Timing) -> float:
        """Return the median over the rounds of this duration over the peer's in the same round."""
        return statistics.median(a / b for a, b in zip(self.seconds, peer.seconds, strict=True))

    def ratio_of_best(self, peer: Timing) -> float:
        """Return the smallest duration over the peer's smallest."""
        return self.best / peer.best


def interleaved(
    cases: Sequence[Case],
    rounds: int = 7,
    *,
    seconds: float = 0.1,
    clock: Clock = time.perf_counter,
    done: Callable[[int], None] = lambda measured: None,
) -> Mapping[str, Timing]:
    """Time each case once per round, back and forth, so that a slow spell meets them all alike.

    A case is called first without being timed, then once more to find how often it must be called for
    ``seconds``. The order is turned round in every second round. The garbage collector waits meanwhile.

    Args:
        cases: cases with names that differ.
        rounds: number of times that each is measured.
        seconds: the least duration of one measurement.
        clock: a clock in seconds.
        done: told, after each measurement, how many there have been.

    Returns:
        a :class:`Timing` for each name.
    """
    timings = {case.name: Timing(case) for case in cases}
    if len(timings) != len(cases):
        raise ValueError(f"names of cases must differ, got {[case.name for case in cases]}")
    calls = {case.name: _calls_for(case, seconds, clock) for case in cases}
    measured = 0
    with _no_collection():
        for number in range(rounds):
            for case in cases if number % 2 == 0 else reversed(cases):
                count = calls[case.name]
                start = clock()
                for _ in range(count):
                    case.call()
                timings[case.name].seconds.append((clock() - start) / (count * case.units))
                measured += 1
                done(measured)
    return timings


def part_of(
    done: Callable[[float], None], number: int, total: int, measurements: int
) -> Callable[[int], None]:
    """Return what tells ``done`` the share of all work, given how much is measured of one part of it.

    Args:
        done: told a share between 0 and 1.
        number, total: which part it is, from 0, of how many alike.
        measurements: number of measurements in this part.
    """
    return lambda measured: done((number + measured / measurements) / total)


def _calls_for(case: Case, seconds: float, clock: Clock) -> int:
    case.call()
    start = clock()
    case.call()
    once = clock() - start
    return max(1, math.ceil(seconds / once)) if once > 0 else 1


@contextmanager
def _no_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch's operators use ``count`` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
