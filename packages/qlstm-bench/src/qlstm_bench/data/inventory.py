"""Which datasets there are, where each was found, and what is missing; reads and downloads nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qlstm_bench.data.catalogue import DATASETS, Dataset
from qlstm_bench.data.files import locate
from qlstm_bench.data.published import DataFile


@dataclass(frozen=True)
class Holding:
    """What there is of one dataset.

    Args:
        dataset: the dataset that is held.
        found: files by the path where they are; empty for a dataset that needs none.
        missing: files that would be downloaded.
    """

    dataset: Dataset
    found: dict[Path, DataFile]
    missing: tuple[DataFile, ...]

    @property
    def state(self) -> str:
        """``built in``, ``here``, ``incomplete`` or ``to download``."""
        if not self.dataset.files:
            return "built in"
        if not self.missing:
            return "here"
        return "incomplete" if self.found else "to download"

    @property
    def missing_bytes(self) -> int:
        """How much would be downloaded."""
        return sum(file.size for file in self.missing)


def take_inventory() -> list[Holding]:
    """Return what there is of every named dataset.

    Raises:
        DataError: ``$QLSTM_DATA`` is not a folder.
    """
    holdings = []
    for dataset in DATASETS.values():
        found, missing = {}, []
        for file in dataset.files:
            place, path = locate(dataset.name, file)
            if place == "missing":
                missing.append(file)
            else:
                found[path] = file
        holdings.append(Holding(dataset, found, tuple(missing)))
    return holdings
