"""How many conformance checks fail."""

from __future__ import annotations

from .choice import checked
from .gradients import FLOOR


class Plugins:
    """The checks of quantizers, normalisers and cells, each by its name."""

    params = (checked(),)
    param_names = ("name",)
    version = "1"

    def setup(self, name: str) -> None:
        """Skip a commit that does not have the name yet."""
        from qlstm_core.plugins import UnknownNameError
        from qlstm_core.testing import checks_of

        try:
            self.checks = list(checks_of(name))
        except UnknownNameError:
            raise NotImplementedError from None

    def track_failed(self, name: str) -> float:
        """Return the number of checks that fail, and a small one so that none is 0."""
        from qlstm_core.testing import run_checks

        return sum(result.status == "failed" for result in run_checks(self.checks)) + FLOOR

    track_failed.unit = "checks"  # type: ignore[attr-defined]
