"""Conformance checks for plugins: is a quantizer, a normaliser or a cell right?

In a notebook::

    from qlstm_core.testing import check_quantizer

    check_quantizer(MyQuantizer())     # raises ConformanceError, listing each check that fails and why

With pytest, one test per check::

    from qlstm_core.testing import parametrize_with_checks

    @parametrize_with_checks([MyQuantizer(), "my-normalizer:eps=0.1"])
    def test_conforms(check):
        check()

On the command line, for what is installed: ``qlstm check my-normalizer``.
"""

from qlstm_core.testing.parametrize import parametrize_with_checks
from qlstm_core.testing.runner import (
    Check,
    CheckResult,
    ConformanceError,
    check_cell,
    check_normalizer,
    check_quantizer,
    checks_of,
    run_checks,
)

__all__ = [
    "Check",
    "CheckResult",
    "ConformanceError",
    "check_cell",
    "check_normalizer",
    "check_quantizer",
    "checks_of",
    "parametrize_with_checks",
    "run_checks",
]
