"""A comparison: what is trained and what is shipped, then ranks, durations and conformance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qlstm_bench.compare.at_hand import data_sha256, missing_data
from qlstm_bench.compare.reference import Reuse
from qlstm_bench.compare.standings import Standings
from qlstm_bench.compare.suite import Contest, Kind, Suite, plan_contests
from qlstm_bench.config import ConfigError
from qlstm_bench.report.records import Record, collect
from qlstm_bench.training.folder import Run


@dataclass(frozen=True)
class Planned:
    """One run of a comparison.

    Args:
        run: its settings, and the folder where it is, or would be.
        label: what tells it from others.
        shipped: the shipped run that stands for it; ``None``: it is trained here.
    """

    run: Run
    label: str
    shipped: Record | None


@dataclass(frozen=True)
class Comparison:
    """What is to be compared, with all that is at hand.

    Args:
        suite: tasks, rivals and seeds.
        contests: each kind on each task whose data is at hand.
        runs: the runs of all contests by their folders, each once.
        remarks: what is left out, and which shipped runs are not used.
        missing: those of them that tell of data.
        digests: SHA-256 of each task's data, by the name that the suite gives the task.
        folder: where the run folders are.
    """

    suite: Suite
    contests: tuple[Contest, ...]
    runs: Mapping[Path, Planned]
    remarks: tuple[str, ...]
    missing: tuple[str, ...]
    digests: Mapping[str, str]
    folder: Path

    @property
    def untrained(self) -> list[Planned]:
        """The runs that no shipped run stands for."""
        return [one for one in self.runs.values() if one.shipped is None]

    def standings(self, directories: Iterable[Path]) -> tuple[list[Standings], list[str]]:
        """Return the contests as they ended, and what cannot be read.

        Args:
            directories: folders of runs that have ended here.
        """
        trained, problems = collect(directories)
        records = {record.run.directory: record for record in trained}
        records |= {path: one.shipped for path, one in self.runs.items() if one.shipped is not None}
        shipped = {path for path, one in self.runs.items() if one.shipped is not None}
        found = []
        for contest in self.contests:
            digest = self.digests[contest.task]
            paths = [Run.of(self.folder, config, digest).directory for config in contest.configs]
            own = sorted((records[path] for path in paths if path in records), key=lambda one: one.order)
            if own:
                found.append(Standings(contest, own, paths[: contest.named], shipped))
        return found, problems


def prepare(suite: Suite, methods: Mapping[Kind, Sequence[str]], out: Path, reuse: Reuse) -> Comparison:
    """Plan a comparison: see which data is at hand, and which runs are shipped.

    Args:
        suite: tasks, rivals and seeds.
        methods: named methods by kind; no names stand for the rivals alone.
        out: folder of the run folders.
        reuse: the shipped runs. They stand for rivals alone: what was named is trained here.

    Raises:
        ConfigError: nothing can be compared.
        DataError: data that is damaged.
    """
    contests: list[Contest] = []
    remarks: dict[str, None] = {}  # each once, in their order
    missing: dict[str, None] = {}
    digests: dict[str, str] = {}
    for contest in plan_contests(suite, methods):
        remarks |= dict.fromkeys(contest.refused)
        if contest.task not in digests:
            if reason := missing_data(contest.configs[0]):
                missing[f"{contest.task} is left out: {reason}"] = None
                continue
            digests[contest.task] = data_sha256(contest.configs[0])
        contests.append(contest)
    if not contests:
        raise ConfigError("; ".join(missing))
    runs: dict[Path, Planned] = {}
    for contest in contests:
        digest = digests[contest.task]
        for number, (config, label) in enumerate(zip(contest.configs, contest.labels, strict=True)):
            run = Run.of(out, config, digest)
            if number < contest.named:
                runs[run.directory] = Planned(run, label, None)
            elif run.directory not in runs:
                result = reuse.find(contest.task, config, digest)
                shipped = None if result is None else Record(run, result, [])
                runs[run.directory] = Planned(run, label, shipped)
    told = (*missing, *remarks, *reuse.remarks)
    return Comparison(suite, tuple(contests), runs, told, tuple(missing), digests, out)
