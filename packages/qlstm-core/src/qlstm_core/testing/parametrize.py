"""The conformance checks as pytest tests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from qlstm_core.interfaces import Normalizer, Quantizer
from qlstm_core.testing.cell_checks import Family
from qlstm_core.testing.runner import checks_of, known_checks

if TYPE_CHECKING:
    import pytest


def parametrize_with_checks(
    plugins: Iterable[Quantizer | Normalizer | Family | str],
    *,
    only: Iterable[str] | None = None,
    expected_failed_checks: Mapping[str, str] | None = None,
) -> pytest.MarkDecorator:
    """Make one pytest test per check and plugin of a function that takes ``check``.

    Example::

        @parametrize_with_checks([MyQuantizer(), "my-normalizer:eps=0.1"])
        def test_conforms(check):
            check()

    The tests are called ``test_conforms[MyQuantizer-check_level_count]`` and so on. A check that does not
    apply is skipped with its reason.

    Args:
        plugins: instances as a user would give them to a layer, subclasses of RecurrentLayer, or registered
            names, with options or without.
        only: names of the checks; default: all.
        expected_failed_checks: reasons by name of check, for those known to fail, of all ``plugins``; such a
            test is marked ``xfail(strict=True)``, so that it fails once the check passes.

    Raises:
        PluginError: a name or an option that the registry does not know.
        TypeError: something else than names and instances.
        ValueError: an unknown name of a check, or no check selected.
    """
    import pytest

    expected = dict(expected_failed_checks or {})
    known_checks(expected)
    if isinstance(plugins, str):
        raise TypeError(f"plugins must be a list of instances and names, got {plugins!r}")
    if only is not None and not isinstance(only, str):
        only = list(only)
    parameters = [
        pytest.param(
            check,
            id=f"{check.plugin}-{check.name}",
            marks=[pytest.mark.xfail(reason=expected[check.name], strict=True)]
            if check.name in expected
            else [],
        )
        for plugin in plugins
        for check in checks_of(plugin, only=only)
    ]
    if not parameters:
        raise ValueError("no plugin to check: give at least one instance or name")
    return pytest.mark.parametrize("check", parameters)
