"""Runs of rivals that are shipped with a suite, and which of them may stand for a run here."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Annotated

from pydantic import ConfigDict, Field, ValidationError

from qlstm_bench.bounded_yaml import read_text
from qlstm_bench.compare.suite import Suite
from qlstm_bench.config import ConfigError, RunConfig
from qlstm_bench.report.records import Record
from qlstm_bench.sweep.sweep_file import Strict
from qlstm_bench.training.provenance import machine_title
from qlstm_bench.training.result import Result
from qlstm_core.files import replace_file

_APART = {"seed", "sha256"}
"""What decides a result and is compared by itself, outside the hash."""


class ShippedRun(Strict):
    """A run that has ended.

    Args:
        settings: :func:`settings_hash` of its settings.
        result: its result.json, without the gradient norms through time.
    """

    settings: Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
    result: Result


class Reference(Strict):
    """What a file of shipped runs holds.

    Args:
        version: version of the suite.
        machine: what the runs were trained on.
        covers: settings that the hashes cover.
        runs: the runs.
    """

    # Those of the suite itself: other keys are refused, and standard JSON has no infinity.
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")

    version: int
    machine: str
    covers: tuple[str, ...]
    runs: tuple[ShippedRun, ...]

    @cached_property
    def _by_key(self) -> dict[tuple[str, int], list[Result]]:
        found: dict[tuple[str, int], list[Result]] = {}
        for run in self.runs:
            found.setdefault((run.settings, run.result.seed), []).append(run.result)
        return found

    def find(self, config: RunConfig, dataset_sha256: str) -> Result | str:
        """Return the result of the run with these settings, seed and data, or what does not agree.

        Args:
            config: settings of the run.
            dataset_sha256: SHA-256 of its data here.
        """
        same = self._by_key.get((settings_hash(config, self.covers), config.seed))
        if same is None:
            return "settings"
        return next((result for result in same if result.dataset.sha256 == dataset_sha256), "data")


def settings_hash(config: RunConfig, covers: Iterable[str]) -> str:
    """Return 16 hexadecimal digits that stand for the settings that decide a result, seed and data aside.

    Args:
        config: settings of the run.
        covers: settings that were known when the hash was first made. One that came later does not enter it
            as long as it has its default, which stands for what was done before; one that is gone does.
    """
    deciding = config.deciding("")
    known = {name: deciding.get(name) for name in covers}
    later = {
        name: value
        for name, value in deciding.items()
        if name not in known and name not in _APART and value != RunConfig.model_fields[name].default
    }
    gone = [name for name in known if name not in deciding]
    text = json.dumps([known, later, gone], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_reference(suite: Suite) -> Reference | None:
    """Return the shipped runs of a suite; ``None`` where there are none.

    Raises:
        ConfigError: a file that cannot be read, or holds something else.
    """
    if not suite.reference.exists():
        return None
    try:
        return Reference.model_validate_json(read_text(suite.reference))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigError(
            f"{suite.reference}: not the shipped runs of a suite: {where + ': ' if where else ''}"
            f"{first['msg']}; --update-reference makes them again, --no-reference does without"
        ) from error


def write_reference(suite: Suite, records: Sequence[Record]) -> None:
    """Write the shipped runs of a suite, whole or not at all.

    Args:
        suite: the suite whose file is written.
        records: all runs of its rivals, which have completed or diverged.

    Raises:
        ConfigError: the file cannot be written.
    """
    covers = tuple(name for name in records[0].run.config.deciding("") if name not in _APART)
    reference = Reference(
        version=suite.file.version,
        machine=machine_title(),
        covers=covers,
        runs=tuple(
            ShippedRun(settings=settings_hash(record.run.config, covers), result=_shortened(record.result))
            for record in records
        ),
    )
    document = json.loads(reference.model_dump_json(exclude_defaults=True))  # infinity as a string
    runs = document.pop("runs")
    # A line for each run, so that a change of one is seen as such.
    lines = ",\n".join(f"  {json.dumps(run, ensure_ascii=False)}" for run in runs)
    head = json.dumps(document, ensure_ascii=False)[:-1]
    try:
        replace_file(suite.reference, f'{head}, "runs": [\n{lines}\n]}}\n')
    except OSError as error:
        raise ConfigError(f"{suite.reference}: cannot be written: {error.strerror or error}") from error


def _shortened(result: Result) -> Result:
    """Return a result without what no comparison shows."""
    kept = {f"{kind}_{result.metric}" for kind in ("baseline", "valid", "test")} | {"gradient_growth"}
    metrics = {name: value for name, value in result.metrics.items() if name in kept}
    return result.model_copy(update={"metrics": metrics, "gradient_norms": []})


class Reuse:
    """Which shipped runs stand for runs here, and why others do not.

    Args:
        suite: the suite.
        reference: its shipped runs; ``None``: there are none, or none are wanted.
    """

    def __init__(self, suite: Suite, reference: Reference | None) -> None:
        self._suite = suite
        self._reference = reference
        self._misses: Counter[tuple[str, str]] = Counter()

    @property
    def fits(self) -> bool:
        """Whether there are shipped runs of this version of the suite."""
        return self._reference is not None and self._reference.version == self._suite.file.version

    @property
    def machine(self) -> str:
        """What the shipped runs were trained on."""
        return "" if self._reference is None else self._reference.machine

    def find(self, task: str, config: RunConfig, dataset_sha256: str) -> Result | None:
        """Return the result of the shipped run that stands for this one, of a rival.

        Args:
            task: name that the suite gives the task.
            config: settings of the run.
            dataset_sha256: SHA-256 of its data here.
        """
        if self._reference is None or not self.fits:
            return None
        found = self._reference.find(config, dataset_sha256)
        if isinstance(found, Result):
            return found
        self._misses[task, found] += 1
        return None

    @property
    def remarks(self) -> list[str]:
        """Why shipped runs are not used, a line for each reason."""
        if self._reference is None:
            return []
        if not self.fits:
            return [
                f"the shipped runs are of version {self._reference.version} of suite {self._suite.name}, "
                f"which is version {self._suite.file.version} here: rivals are trained here"
            ]
        reasons = {
            "data": "their data is not that of the shipped runs (another SHA-256)",
            "settings": "no run with their settings is shipped",
        }
        return [
            f"{task}: {count} run{'s' if count > 1 else ''} of rivals trained here: {reasons[reason]}"
            for (task, reason), count in self._misses.items()
        ]
