"""How many of the conformance checks methods pass, as ``qlstm check`` counts them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qlstm_bench.compare.suite import Kind
from qlstm_bench.config import RunConfig
from qlstm_bench.tasks.cells import cell_settings
from qlstm_core.plugins import PluginError
from qlstm_core.testing.runner import CheckResult, checks_of, run_checks


@dataclass(frozen=True)
class Conformance:
    """What became of the checks of one method.

    Args:
        kind: what the method is.
        text: its name, with options.
        results: of each check; none where the method cannot be built.
        trouble: why it cannot be built.
    """

    kind: Kind
    text: str
    results: tuple[CheckResult, ...]
    trouble: str = ""

    @property
    def failed(self) -> list[CheckResult]:
        """The checks that failed."""
        return [result for result in self.results if result.status == "failed"]

    @property
    def run(self) -> int:
        """How many checks apply."""
        return sum(result.status != "skipped" for result in self.results)

    def is_of(self, config: RunConfig) -> bool:
        """Return whether a run is of this method."""
        settings = cell_settings({"cell": self.text}) if self.kind == "cell" else {self.kind: self.text}
        return all(str(getattr(config, name)) == value for name, value in settings.items())

    @property
    def summary(self) -> str:
        """How many passed of those that apply, as in ``24/25``."""
        return "–" if self.trouble else f"{self.run - len(self.failed)}/{self.run}"


def check_methods(methods: Mapping[Kind, Sequence[str]]) -> list[Conformance]:
    """Return what becomes of the conformance checks of methods.

    Args:
        methods: texts of methods by kind.
    """
    return [_check(kind, text) for kind, texts in methods.items() for text in texts]


def _check(kind: Kind, text: str) -> Conformance:
    titles = (text, f"{text} ({kind})")  # a name that several kinds have stands for each
    try:
        checks = [check for check in checks_of(text) if check.plugin in titles]
    except PluginError as error:
        return Conformance(kind, text, (), str(error))
    return Conformance(kind, text, tuple(run_checks(checks)))
