"""How far the figures of the asv suite's trainings move when weights begin a rounding error apart.

    python results/asv_rounding.py > asv-rounding.csv

Each pair is trained three times as the suite trains it, from weights multiplied by 1, 1 + 1e-6 and 1 + 2e-6.
Columns: the three figures, and (largest − smallest) / median.
"""

from __future__ import annotations

import csv
import itertools
import statistics
import sys
from unittest import mock

from qlstm_bench.benchmarks import choice, trained
from qlstm_core import RecurrentLayer

DISTANCES = (0.0, 1e-6, 2e-6)


def train(task: str, quantizer: str, normalizer: str, distance: float) -> dict[str, float]:
    """Return the suite's figures for a network whose first weights are ``1 + distance`` times theirs."""
    bound = RecurrentLayer._bound

    def scaled(layer: RecurrentLayer, name: str) -> float:
        return (1 + distance) * bound(layer, name)

    with mock.patch.object(RecurrentLayer, "_bound", scaled):
        return trained._train(task, quantizer, normalizer)


def main() -> None:
    """Write the table."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    runs = [f"1 + {distance:g}" for distance in DISTANCES]
    writer.writerow(["task", "quantizer", "normalizer", "figure", *runs, "spread"])
    for pair in itertools.product(trained.TASKS, choice.QUANTIZERS, choice.NORMALIZERS):
        figures = [train(*pair, distance) for distance in DISTANCES]
        for name in trained.READ:
            values = [run[name] for run in figures]
            middle = statistics.median(values)
            share = (max(values) - min(values)) / middle if middle else 0.0
            writer.writerow([*pair, name, *(f"{value:.6g}" for value in values), f"{share:.4f}"])
        sys.stdout.flush()


if __name__ == "__main__":
    main()
