"""The toy problem's histograms: BC concentrates, SR stagnates as theorem 5 says. Seed 0, tolerance 0.02."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from qlstm_bench.theory.rounded_training.descent import Array
from qlstm_bench.theory.rounded_training.lattice import Lattice
from qlstm_bench.theory.rounded_training.markov import limit_matrix, rates, stationary
from qlstm_bench.theory.rounded_training.nonconvex import ToyHistograms, at_minimizers

LATTICE = Lattice(0.5, 2.0)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return ToyHistograms(rate=(1.0, 0.1, 0.01, 0.003), steps=200_000, chains=32).run().table


def last(table: pd.DataFrame, method: str) -> float:
    share: float = table[(table.method == method)]["share at minima"].iloc[-1]
    return share


def test_points_at_minima() -> None:
    axis = np.arange(-1, 7, 0.5)
    assert axis[at_minimizers(axis, 0.5)].tolist() == [0.0, 2.5, 4.5, 5.0]


def _boltzmann(lattice: Lattice) -> Array:
    weight = np.exp(-lattice.value)
    share: Array = weight / weight.sum()
    return share


STATIONARY: dict[str, Callable[[Lattice], Array]] = {
    "uniform": lambda lattice: np.full(len(lattice.points), 1 / len(lattice.points)),
    "Boltzmann": _boltzmann,
    "half the noise": lambda lattice: stationary(
        limit_matrix(rates(Lattice(lattice.delta, lattice.noise / 2)))
    ),
    "upwards": lambda lattice: stationary(limit_matrix(rates(lattice).T)),
}


def accepts(formula: Callable[[Lattice], Array], table: pd.DataFrame) -> bool:
    share = formula(LATTICE)[at_minimizers(LATTICE.axis, LATTICE.delta)].sum()
    return bool(abs(share - last(table, "SR")) <= 0.02)


def test_stochastic_rounding_stagnates_where_theorem_5_says(table: pd.DataFrame) -> None:
    assert accepts(lambda lattice: stationary(limit_matrix(rates(lattice))), table)
    moved = table[table.method == "SR"]["TV to the rate before"]
    assert moved.iloc[1] > 0.5
    assert moved.iloc[-1] < 0.03


@pytest.mark.parametrize("mistake", STATIONARY)
def test_another_distribution_is_refused(mistake: str, table: pd.DataFrame) -> None:
    assert not accepts(STATIONARY[mistake], table)


def test_binary_connect_concentrates(table: pd.DataFrame) -> None:
    """Predicted share 1; SR's own prediction, 0.73, is refused."""
    assert last(table, "BC") == pytest.approx(1.0, abs=0.005)
    assert last(table, "SR") < 0.8
    shares = table[table.method == "BC"]["share at minima"].tolist()
    assert shares[0] < shares[1] < shares[2]
