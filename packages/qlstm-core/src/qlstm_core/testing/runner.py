"""Runs checks: which apply to a plugin, and what became of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal, TypeGuard

import torch

from qlstm_core.interfaces import Normalizer, Quantizer
from qlstm_core.layers import RecurrentLayer, cells_of
from qlstm_core.plugins import Catalogue, UnknownNameError, registry
from qlstm_core.plugins.errors import blame, message_of, suggest
from qlstm_core.testing import (
    cell_checks,
    cell_state_checks,
    gradient_checks,
    layer_checks,
    normalizer_checks,
    quantizer_checks,
    state_checks,
    storage_checks,
    value_checks,
)
from qlstm_core.testing.assertions import NotApplicable, skip
from qlstm_core.testing.inputs import Plugin, seeded

Status = Literal["passed", "failed", "skipped", "expected failure"]

_BOTH: tuple[Callable[[Any], None], ...] = (
    value_checks.check_shape_dtype_device,
    value_checks.check_finite_values,
    value_checks.check_empty,
    value_checks.check_non_contiguous,
    value_checks.check_input_unchanged,
    value_checks.check_eval_deterministic,
    value_checks.check_eval_keeps_state,
    value_checks.check_training_reproducible,
    value_checks.check_gates_independent,
    gradient_checks.check_gradient,
    state_checks.check_prepare,
    state_checks.check_state_dict,
    state_checks.check_deepcopy,
    state_checks.check_pickle,
)

QUANTIZER_CHECKS: tuple[Callable[[Quantizer], None], ...] = (
    quantizer_checks.check_declarations,
    *_BOTH,
    quantizer_checks.check_level_count,
    quantizer_checks.check_no_zero_from_one_bit,
    quantizer_checks.check_rows_independent,
    quantizer_checks.check_constrain,
    quantizer_checks.check_curvature,
    gradient_checks.check_straight_through,
    storage_checks.check_bitplanes,
    storage_checks.check_pack_round_trip,
    storage_checks.check_packed_matmul,
    storage_checks.check_storage_bytes,
    layer_checks.check_quantizer_in_layer,
)
"""What is checked of every quantizer; each function takes one and raises AssertionError."""

NORMALIZER_CHECKS: tuple[Callable[[Normalizer], None], ...] = (
    normalizer_checks.check_declarations,
    *_BOTH,
    normalizer_checks.check_sequences_independent,
    normalizer_checks.check_any_step,
    normalizer_checks.check_scale_invariance,
    normalizer_checks.check_statistics,
    normalizer_checks.check_running_statistics,
    normalizer_checks.check_storage_bytes,
    gradient_checks.check_derivative,
    layer_checks.check_normalizer_in_layer,
    layer_checks.check_cell_path,
)
"""What is checked of every normaliser."""

CELL_CHECKS: tuple[Callable[[cell_checks.Family], None], ...] = (
    cell_checks.check_declarations,
    cell_checks.check_state_shapes,
    cell_checks.check_arguments,
    cell_checks.check_projection,
    cell_checks.check_step_equals_sequence,
    cell_checks.check_calls_independent,
    cell_checks.check_packed_equals_padded,
    cell_checks.check_sequences_independent,
    cell_checks.check_tokens,
    cell_checks.check_layers_and_directions,
    cell_checks.check_routes_agree,
    cell_checks.check_separate,
    cell_checks.check_quantizers_seen,
    cell_checks.check_normalizers_seen,
    cell_checks.check_record_states,
    cell_state_checks.check_gradient,
    cell_state_checks.check_derivative,
    cell_state_checks.check_reset_parameters,
    cell_state_checks.check_state_dict,
    cell_state_checks.check_deepcopy,
    cell_state_checks.check_pickle,
    cell_state_checks.check_storage_bytes,
)
"""What is checked of every cell; each function takes a family of layers."""

_COMPILED = (
    storage_checks.check_pack_round_trip,
    storage_checks.check_packed_matmul,
    layer_checks.check_quantizer_in_layer,
    layer_checks.check_normalizer_in_layer,
    layer_checks.check_cell_path,
)
"""What runs compiled code, which believes what a plugin declares and gives."""


@dataclass(frozen=True)
class Check:
    """One check of one plugin; calling it runs it.

    Args:
        name: the function's name, for example ``"check_level_count"``.
        plugin: what is checked, as text for people.
        function: takes no arguments; raises AssertionError where the plugin fails, SkipTest where the check
            does not apply.
    """

    name: str
    plugin: str
    function: Callable[[], None]

    def __call__(self) -> None:
        """Run the check; its random numbers are its own."""
        __tracebackhide__ = True
        with seeded(0):
            self.function()


@dataclass(frozen=True)
class CheckResult:
    """What became of one check.

    Args:
        name, plugin: as in :class:`Check`.
        status: ``"passed"``, ``"failed"``, ``"skipped"`` or ``"expected failure"``.
        reason: why it failed, was skipped, or was expected to fail; empty where it passed.
    """

    name: str
    plugin: str
    status: Status
    reason: str = ""


class ConformanceError(AssertionError):
    """A plugin failed checks; ``results`` holds what became of every check."""

    def __init__(self, results: list[CheckResult]) -> None:
        failed = [result for result in results if result.status == "failed"]
        title = f"{failed[0].plugin} fails {len(failed)} of {len(results)} checks:"
        super().__init__("\n".join([title, *(f"  {result.name}: {result.reason}" for result in failed)]))
        self.results = results


def checks_of(
    plugin: Plugin | cell_checks.Family | str, *, only: Iterable[str] | None = None
) -> Iterator[Check]:
    """Return an iterator over the checks of a plugin; each runs when it is called.

    Args:
        plugin: a quantizer or normaliser as a user would give it to a layer, a subclass of RecurrentLayer (or
            a ``functools.partial`` of one, with its options), or a registered name such as ``"bwn"`` or
            ``"alternating:bits=3"``; a name that several kinds have stands for each.
        only: names of the checks; default: all.

    Raises:
        TypeError: none of these.
        PluginError: a name or an option that the registry does not know.
        ValueError: ``only`` names an unknown check, or one that this kind of plugin does not have, or none.
    """
    subjects = _subjects(plugin)
    functions = [(subject, function) for subject in subjects for function in subject.functions()]
    if only is not None:
        wanted = known_checks({only} if isinstance(only, str) else set(only))
        functions = [(subject, function) for subject, function in functions if function.__name__ in wanted]
    if not functions:
        raise ValueError(f"no check of {plugin!r} is selected")
    return (Check(f.__name__, subject.title, partial(subject.run, f)) for subject, f in functions)


def run_checks(
    checks: Iterable[Check], *, expected_failed_checks: Mapping[str, str] | None = None
) -> Iterator[CheckResult]:
    """Run checks one by one and yield what became of each.

    Args:
        checks: from :func:`checks_of`.
        expected_failed_checks: reasons by name of check. One of these that passes is a failure: the entry is
            out of date.

    Raises:
        ValueError: ``expected_failed_checks`` names an unknown check.
    """
    expected = dict(expected_failed_checks or {})
    known_checks(expected)
    return (_run(check, expected.get(check.name)) for check in checks)


def check_quantizer(
    quantizer: Quantizer,
    *,
    only: Iterable[str] | None = None,
    expected_failed_checks: Mapping[str, str] | None = None,
) -> list[CheckResult]:
    """Run the conformance checks on a quantizer and return what became of each.

    Args:
        quantizer: an instance, as a user would give it to a layer.
        only: names of the checks to run; default: all.
        expected_failed_checks: reasons by name of check, for those known to fail.

    Raises:
        ConformanceError: some fail; the message lists each with its reason. An AssertionError.
        TypeError: not a quantizer.
        ValueError: an unknown name of a check, or none selected.
    """
    _require_instance(quantizer, Quantizer)
    return _run_all(checks_of(quantizer, only=only), expected_failed_checks)


def check_normalizer(
    normalizer: Normalizer,
    *,
    only: Iterable[str] | None = None,
    expected_failed_checks: Mapping[str, str] | None = None,
) -> list[CheckResult]:
    """Run the conformance checks on a normaliser; as :func:`check_quantizer`."""
    _require_instance(normalizer, Normalizer)
    return _run_all(checks_of(normalizer, only=only), expected_failed_checks)


def check_cell(
    family: cell_checks.Family,
    *,
    only: Iterable[str] | None = None,
    expected_failed_checks: Mapping[str, str] | None = None,
) -> list[CheckResult]:
    """Run the conformance checks on a cell; as :func:`check_quantizer`.

    Args:
        family: a subclass of RecurrentLayer, or a ``functools.partial`` of one, with its options.
        only, expected_failed_checks: as for a quantizer.
    """
    if not _is_family(family):
        raise TypeError(f"a subclass of RecurrentLayer is needed, got {family!r}")
    return _run_all(checks_of(family, only=only), expected_failed_checks)


def _run_all(checks: Iterable[Check], expected: Mapping[str, str] | None) -> list[CheckResult]:
    results = list(run_checks(checks, expected_failed_checks=expected))
    if any(result.status == "failed" for result in results):
        raise ConformanceError(results)
    return results


def _run(check: Check, expected: str | None) -> CheckResult:
    try:
        check()
    except NotApplicable as error:
        return CheckResult(check.name, check.plugin, "skipped", str(error))
    except BaseException as error:
        told = blame(error)
        if expected is not None:
            return CheckResult(check.name, check.plugin, "expected failure", expected)
        reason = (message_of(error) if isinstance(error, AssertionError) else "") or told
        return CheckResult(check.name, check.plugin, "failed", reason)
    if expected is not None:
        reason = f"passes, but is in expected_failed_checks ({expected!r}): remove it there"
        return CheckResult(check.name, check.plugin, "failed", reason)
    return CheckResult(check.name, check.plugin, "passed")


@dataclass(frozen=True)
class _Subject:
    """A quantizer or a normaliser to check.

    Args:
        title: what to call it.
        template: the instance.
        catalogue: the registry's catalogue of its kind.
        text: the text that built it, if any.
    """

    title: str
    template: Plugin
    catalogue: Catalogue[Any]
    text: str | None = None

    def functions(self) -> tuple[Callable[..., None], ...]:
        specific = QUANTIZER_CHECKS if isinstance(self.template, Quantizer) else NORMALIZER_CHECKS
        return (*specific, state_checks.check_text_form)

    def run(self, function: Callable[..., None]) -> None:
        """Run a check, or skip it where what it relies on does not hold: its results would mean nothing."""
        __tracebackhide__ = True
        if function is value_checks.check_shape_dtype_device or function is self._declarations:
            function(self.template)
            return
        if reason := self._misfit or (function in _COMPILED and self._undeclared):
            skip(reason)
        if function is state_checks.check_text_form:
            function(self.catalogue, self.text)
        else:
            function(self.template)

    @property
    def _declarations(self) -> Callable[..., None]:
        return self.functions()[0]

    @cached_property
    def _misfit(self) -> str:
        # In the dtypes that other checks work with: without float16, they still tell something.
        fit = partial(value_checks.require_results_fit, dtypes=(torch.float32, torch.float64))
        return _complaint("check_shape_dtype_device", fit, self.template)

    @cached_property
    def _undeclared(self) -> str:
        return _complaint("check_declarations", self._declarations, self.template)


@dataclass(frozen=True)
class _CellSubject:
    """A cell to check.

    Args:
        title: what to call it.
        family: what makes its layers.
        text: the text that names it, if any.
    """

    title: str
    family: cell_checks.Family
    text: str | None = None

    def functions(self) -> tuple[Callable[..., None], ...]:
        return (*CELL_CHECKS, cell_state_checks.check_text_form)

    def run(self, function: Callable[..., None]) -> None:
        """Run a check, or skip it where layers cannot be made or run."""
        __tracebackhide__ = True
        if function not in _CELL_BASIS and self._unusable:
            skip(self._unusable)
        if function is cell_state_checks.check_text_form:
            function(cells_of(registry), self.text)
        else:
            function(self.family)

    @cached_property
    def _unusable(self) -> str:
        for check in _CELL_BASIS:
            try:
                with seeded(0):
                    check(self.family)
            except BaseException as error:
                blame(error)
                return f"{check.__name__} fails"
        return ""


_CELL_BASIS = (cell_checks.check_declarations, cell_checks.check_state_shapes)
"""What the other checks of a cell rely on."""


def _complaint(name: str, check: Callable[[Any], None], template: Plugin) -> str:
    """Return why a check fails, empty where it passes; what raises on the way shows in other checks too."""
    try:
        with seeded(0):
            check(template)
    except AssertionError:
        return f"{name} fails"
    except BaseException as error:
        blame(error)
    return ""


def _is_family(plugin: object) -> TypeGuard[cell_checks.Family]:
    family = plugin.func if isinstance(plugin, partial) else plugin
    return isinstance(family, type) and issubclass(family, RecurrentLayer)


def _title(family: Any) -> str:
    """Return the name of a subclass of RecurrentLayer, with the options of a partial one."""
    if not isinstance(family, partial):
        return str(family.__name__)
    options = ", ".join(f"{name}={value!r}" for name, value in family.keywords.items())
    return f"{_title(family.func)}({options})"


def _subjects(plugin: Plugin | cell_checks.Family | str) -> list[_Subject | _CellSubject]:
    if _is_family(plugin):
        return [_CellSubject(_title(plugin), plugin)]
    if isinstance(plugin, Quantizer | Normalizer):
        options = plugin.extra_repr()
        title = f"{type(plugin).__name__}({options})" if options else type(plugin).__name__
        return [_Subject(title, plugin, _catalogue(plugin))]
    if not isinstance(plugin, str):
        hint = f": give an instance, {plugin.__name__}()" if isinstance(plugin, type) else ""
        raise TypeError(
            "a quantizer, a normaliser, a subclass of RecurrentLayer or a registered name is needed, "
            f"got {plugin!r}{hint}"
        )
    catalogues = providers(plugin)
    if not catalogues:
        name = plugin.partition(":")[0]
        known = sorted({known for catalogue in all_catalogues() for known in catalogue.names()})
        nearest = suggest(name, known)
        raise UnknownNameError(
            f"no quantizer, normaliser or cell is called {name!r}{nearest}; installed: {', '.join(known)}"
        )
    titles = [plugin if len(catalogues) == 1 else f"{plugin} ({c.kind})" for c in catalogues]
    return [
        _CellSubject(title, c.factory(plugin), plugin)
        if c is cells_of(registry)
        else _Subject(title, c.create(plugin), c, plugin)
        for title, c in zip(titles, catalogues, strict=True)
    ]


def _catalogue(plugin: Plugin) -> Catalogue[Any]:
    return registry.quantizers if isinstance(plugin, Quantizer) else registry.normalizers


def all_catalogues() -> tuple[Catalogue[Any], ...]:
    """Return the catalogues of what can be checked."""
    return registry.quantizers, registry.normalizers, cells_of(registry)


def providers(text: str) -> list[Catalogue[Any]]:
    """Return the catalogues, of :func:`all_catalogues`, that have what ``text`` names."""
    found: list[Catalogue[Any]] = []
    for catalogue in all_catalogues():
        with suppress(UnknownNameError):
            catalogue.get(text.partition(":")[0].strip())
            found.append(catalogue)
    return found


def known_checks(names: Iterable[str]) -> set[str]:
    """Return ``names``; raise ValueError where one is not the name of a check."""
    functions = (*QUANTIZER_CHECKS, *NORMALIZER_CHECKS, *CELL_CHECKS, state_checks.check_text_form)
    known = sorted({function.__name__ for function in functions})
    for name in names:
        if name not in known:
            raise ValueError(f"there is no check {name!r}{suggest(name, known)}; checks: {', '.join(known)}")
    return set(names)


def _require_instance(plugin: object, kind: type) -> None:
    if not isinstance(plugin, kind):
        hint = f": give an instance, {plugin.__name__}()" if isinstance(plugin, type) else ""
        raise TypeError(f"a {kind.__name__} is needed, got {plugin!r}{hint}")
