"""Running checks: which are selected, and what becomes of each."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any
from unittest import SkipTest

import pytest
import torch
from broken_cells import MixesSequences
from broken_quantizers import ClipsTheGradient, GivesZeros, ShrinksTheWeight
from right_cells import Elman, Leak
from right_plugins import BatchNorm, FeatureNorm, LearnedSign, RandomSign, RowSign, ScaledSign

from qlstm_core import Quantizer
from qlstm_core.plugins import (
    CellSpec,
    NormalizerSpec,
    PluginError,
    QuantizerSpec,
    UnknownNameError,
    hookimpl,
    registry,
)
from qlstm_core.testing import (
    ConformanceError,
    check_cell,
    check_normalizer,
    check_quantizer,
    checks_of,
    parametrize_with_checks,
    run_checks,
)


class Forgetful(ScaledSign):
    """Its second instance differs from the first: built from text again, it is another."""

    built = 0

    def __init__(self) -> None:
        super().__init__()
        Forgetful.built += 1
        self.register_buffer("factor", torch.tensor(float(Forgetful.built)))

    def forward(self, weight: torch.Tensor, curvature: torch.Tensor | None = None) -> torch.Tensor:
        return self.factor.to(weight) * super().forward(weight)


def no_layer(*sizes: int, **keywords: Any) -> torch.nn.LSTM:
    return torch.nn.LSTM(*sizes)


class Plugins:
    """What the tests register."""

    @hookimpl
    def qlstm_quantizers(self) -> Iterator[QuantizerSpec]:
        yield QuantizerSpec(name="scaled", summary="right", factory=ScaledSign)
        yield QuantizerSpec(name="shrinks", summary="broken", factory=ShrinksTheWeight)
        yield QuantizerSpec(name="forgetful", summary="broken", factory=Forgetful)
        yield QuantizerSpec(name="two-kinds", summary="right", factory=ScaledSign)

    @hookimpl
    def qlstm_normalizers(self) -> Iterator[NormalizerSpec]:
        yield NormalizerSpec(name="two-kinds", summary="right", factory=FeatureNorm)

    @hookimpl
    def qlstm_cells(self) -> Iterator[CellSpec]:
        yield CellSpec(name="leak", summary="right", factory=Leak)
        yield CellSpec(name="no-layer", summary="broken", factory=no_layer)


@pytest.fixture
def registered() -> Iterator[None]:
    registry.register(Plugins(), "checked-plugins")
    yield
    registry.unregister("checked-plugins")


def names(plugin: object, only: object = None) -> list[str]:
    return [check.name for check in checks_of(plugin, only=only)]  # type: ignore[arg-type]


def test_checks_are_made_one_by_one() -> None:
    checks = checks_of(ScaledSign())
    assert iter(checks) is checks
    first = next(checks)
    assert (first.name, first.plugin) == ("check_declarations", "ScaledSign")
    assert names(ScaledSign())[0] == "check_declarations"
    assert len(set(names(ScaledSign()))) == len(names(ScaledSign())) == 27
    assert len(set(names(FeatureNorm()))) == len(names(FeatureNorm())) == 25
    assert len(set(names(Elman))) == len(names(Elman)) == 23


@pytest.mark.parametrize(
    ("plugin", "only", "error", "message"),
    [
        (ScaledSign, None, TypeError, r"got .*ScaledSign.*: give an instance, ScaledSign\(\)"),
        (
            3,
            None,
            TypeError,
            "a quantizer, a normaliser, a subclass of RecurrentLayer or a registered name is needed, got 3",
        ),
        (
            "nine",
            None,
            UnknownNameError,
            r"no quantizer, normaliser or cell is called 'nine' \(did you mean 'none'",
        ),
        ("none:x=1", None, PluginError, "it takes no options"),
        (
            ScaledSign(),
            ["check_levels"],
            ValueError,
            "no check 'check_levels' .did you mean 'check_level_count'",
        ),
        (ScaledSign(), ["check_cell_path"], ValueError, "no check of .* is selected"),
        (ScaledSign(), [], ValueError, "no check of .* is selected"),
    ],
)
def test_mistakes_of_the_caller(plugin: object, only: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        checks_of(plugin, only=only)  # type: ignore[arg-type]


def test_a_cell_is_named_or_given_as_a_class(registered: None) -> None:
    one = ["check_storage_bytes"]
    titles = [next(checks_of(given, only=one)).plugin for given in (Leak, partial(Leak, slowness=2.0))]
    assert titles == ["Leak", "Leak(slowness=2.0)"]
    assert [r.status for r in check_cell(partial(Leak, slowness=2.0), only=one)] == ["passed"]
    (result,) = run_checks(checks_of("leak:slowness=2", only=["check_text_form"]))
    assert (result.plugin, result.status, result.reason) == ("leak:slowness=2", "passed", "")
    with pytest.raises(TypeError, match=r"a subclass of RecurrentLayer is needed, got Elman\(3, 4\)"):
        check_cell(Elman(3, 4))
    with pytest.raises(
        ConformanceError, match="MixesSequences fails 1 of 1 checks:\n  check_sequences_indep"
    ):
        check_cell(MixesSequences, only=["check_sequences_independent"])


def test_what_gives_no_layer_fails_and_the_rest_is_skipped(registered: None) -> None:
    results = list(run_checks(checks_of("no-layer")))
    reasons = {r.name: r.reason for r in results if r.status == "failed"}
    assert reasons["check_declarations"] == "it gives a LSTM, not a RecurrentLayer"
    assert set(reasons) == {"check_declarations", "check_state_shapes"}
    assert {r.reason for r in results if r.status == "skipped"} == {"check_declarations fails"}


def test_a_name_stands_for_both_kinds(registered: None) -> None:
    titles = {check.plugin for check in checks_of("two-kinds")}
    assert titles == {"two-kinds (quantizer)", "two-kinds (normalizer)"}
    assert {check.plugin for check in checks_of("checked-plugins/scaled")} == {"checked-plugins/scaled"}


def test_results_and_reasons() -> None:
    results = {result.name: result for result in run_checks(checks_of(GivesZeros()))}
    assert len(results) == 27
    assert results["check_level_count"].status == "passed"
    assert results["check_level_count"].reason == ""
    assert results["check_rows_independent"].status == "skipped"
    assert results["check_rows_independent"].reason == "not per row"
    assert results["check_no_zero_from_one_bit"].status == "failed"
    reason = "in training, for a weight all zero, 960 values are zero"
    assert results["check_no_zero_from_one_bit"].reason == reason


def test_expected_failures() -> None:
    checks = ["check_straight_through", "check_level_count"]
    expected = {"check_straight_through": "clips on purpose"}
    results = check_quantizer(ClipsTheGradient(), only=checks, expected_failed_checks=expected)
    assert [(r.status, r.reason) for r in results] == [
        ("passed", ""),
        ("expected failure", "clips on purpose"),
    ]
    with pytest.raises(
        ConformanceError, match=r"passes, but is in expected_failed_checks \('clips on purpose'"
    ):
        check_quantizer(ScaledSign(), only=checks, expected_failed_checks=expected)
    with pytest.raises(
        ValueError, match=r"there is no check 'check_gradients' \(did you mean 'check_gradient'"
    ):
        check_quantizer(ScaledSign(), expected_failed_checks={"check_gradients": "typing mistake"})


def test_all_failures_are_reported_at_once() -> None:
    with pytest.raises(ConformanceError) as caught:
        check_quantizer(GivesZeros())
    lines = str(caught.value).splitlines()
    assert lines[0] == "GivesZeros fails 2 of 27 checks:"
    assert [line.split(":")[0].strip() for line in lines[1:]] == [
        "check_no_zero_from_one_bit",
        "check_bitplanes",
    ]
    assert isinstance(caught.value, AssertionError)
    assert len(caught.value.results) == 27


def test_a_check_of_one_kind_takes_no_other() -> None:
    with pytest.raises(TypeError, match="a Quantizer is needed, got FeatureNorm"):
        check_quantizer(FeatureNorm())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"a Normalizer is needed, got .*FeatureNorm.*give an instance"):
        check_normalizer(FeatureNorm)  # type: ignore[arg-type]
    assert {result.status for result in check_normalizer(BatchNorm())} == {"passed", "skipped"}


def test_text_form(registered: None) -> None:
    right, wrong = (
        next(run_checks(checks_of(text, only=["check_text_form"]))) for text in ("scaled", "forgetful")
    )
    assert right.status == "passed"
    assert wrong.status == "failed"
    assert "built from 'forgetful' instead of 'forgetful', it gives another result" in wrong.reason
    with pytest.raises(SkipTest, match="only a registered name has a text form"):
        next(checks_of(ScaledSign(), only=["check_text_form"]))()


def test_checks_leave_the_random_state_as_it_was() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    for plugin in (RandomSign(), BatchNorm()):
        assert {r.status for r in run_checks(checks_of(plugin))} == {"passed", "skipped"}
    assert torch.equal(torch.rand(4), expected)


def test_what_a_template_holds_is_left_alone() -> None:
    template = LearnedSign()
    check_quantizer(template)
    assert template.state_dict() == {}


def test_pytest_parameters() -> None:
    mark = parametrize_with_checks(
        [RowSign(), "none"],
        only=iter(["check_constrain", "check_any_step"]),
        expected_failed_checks={"check_constrain": "as an example"},
    ).mark
    assert mark.args[0] == "check"
    parameters = mark.args[1]
    assert [parameter.id for parameter in parameters] == [
        "RowSign-check_constrain",
        "none (quantizer)-check_constrain",
        "none (normalizer)-check_any_step",
    ]
    assert [m.kwargs for m in parameters[0].marks] == [{"reason": "as an example", "strict": True}]
    assert list(parameters[2].marks) == []
    for parameter in parameters:
        parameter.values[0]()


def test_no_plugin_is_an_error() -> None:
    with pytest.raises(ValueError, match="no plugin to check: give at least one instance or name"):
        parametrize_with_checks([])
    with pytest.raises(TypeError, match="plugins must be a list of instances and names, got 'none'"):
        parametrize_with_checks("none")


@parametrize_with_checks([ScaledSign(), FeatureNorm()])
def test_as_an_author_writes_it(check) -> None:  # type: ignore[no-untyped-def]
    check()


@parametrize_with_checks(
    [GivesZeros()],
    only=["check_no_zero_from_one_bit", "check_level_count"],
    expected_failed_checks={"check_no_zero_from_one_bit": "sign(0) is 0"},
)
def test_known_failure_as_an_author_writes_it(check) -> None:  # type: ignore[no-untyped-def]
    check()


def test_the_kit_needs_no_pytest() -> None:
    code = (
        "import sys; from qlstm_core.testing import check_quantizer;"
        "from qlstm_core.interfaces import NoQuantizer;"
        "check_quantizer(NoQuantizer(), only=['check_level_count']);"
        "print('pytest' in sys.modules)"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "False"


def test_a_quantizer_without_forward_fails_with_its_message() -> None:
    class Empty(Quantizer):
        bits = 1

    reasons = {r.reason for r in run_checks(checks_of(Empty(), only=["check_level_count"]))}
    assert reasons == {"NotImplementedError: Empty must define forward(weight, curvature=None)"}
