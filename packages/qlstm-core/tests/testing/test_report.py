"""``qlstm check``: a table, counts, and exit codes for scripts."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator

import pytest
from broken_quantizers import DropsARow, ShrinksTheWeight
from right_plugins import FeatureNorm, RowSign, ScaledSign

from qlstm_core.cli import main
from qlstm_core.plugins import NormalizerSpec, QuantizerSpec, hookimpl, registry


def refuse() -> ScaledSign:
    raise ValueError("no licence")


def leave() -> ScaledSign:
    raise SystemExit(5)


def silence() -> ScaledSign:
    sys.stdout = io.StringIO()
    return ScaledSign()


class Right:
    @hookimpl
    def qlstm_quantizers(self) -> Iterator[QuantizerSpec]:
        yield QuantizerSpec(name="scaled", summary="one bit", factory=ScaledSign)
        yield QuantizerSpec(name="rows", summary="one bit", factory=RowSign)

    @hookimpl
    def qlstm_normalizers(self) -> Iterator[NormalizerSpec]:
        yield NormalizerSpec(name="features", summary="layer normalisation", factory=FeatureNorm)


class Wrong:
    @hookimpl
    def qlstm_quantizers(self) -> Iterator[QuantizerSpec]:
        yield QuantizerSpec(name="shrinks", summary="broken", factory=ShrinksTheWeight)
        yield QuantizerSpec(name="refuses", summary="broken", factory=refuse)
        yield QuantizerSpec(name="leaves", summary="broken", factory=leave)
        yield QuantizerSpec(name="absent", summary="broken", factory="no_such_module:Sign")
        yield QuantizerSpec(name="silences", summary="broken", factory=silence)
        yield QuantizerSpec(name="loses", summary="broken", factory=DropsARow)


class Empty:
    @hookimpl
    def qlstm_quantizers(self) -> list[QuantizerSpec]:
        return []


class Raises:
    @hookimpl
    def qlstm_quantizers(self) -> list[QuantizerSpec]:
        raise OSError("disk full")


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    plugins = {"right:entry": Right(), "wrong": Wrong(), "empty": Empty()}
    for name, plugin in plugins.items():
        registry.register(plugin, name)
    yield
    for name in plugins:
        registry.unregister(name)


def run(*arguments: str) -> int | str | None:
    """Return the exit code, also of a parser that exits."""
    try:
        return main(["check", *arguments])
    except SystemExit as error:
        return error.code


def test_table_and_counts(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("scaled", "--only", "check_curvature", "--only", "check_level_count") == 0
    assert capsys.readouterr().out.splitlines() == [
        "scaled",
        "  check_level_count             passed",
        "  check_curvature               skipped  does not use the curvature",
        "",
        "1 run, 0 failed, 1 skipped",
    ]


def test_a_failure_is_exit_code_1_and_tells_why(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("shrinks") == 1
    lines = capsys.readouterr().out.splitlines()
    failed = [line for line in lines if "failed  " in line]
    assert len(failed) == 1
    assert failed[0].startswith(
        "  check_constrain               failed   for a weight as initialised, constrain_"
    )
    assert lines[-1] == "25 run, 1 failed, 2 skipped"


def test_a_distribution_stands_for_all_that_it_provides(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("right", "features", "--only", "check_pickle") == 0
    lines = capsys.readouterr().out.splitlines()
    titles = [line for line in lines if line and not line.startswith(" ")]
    assert titles[:-1] == ["right/rows", "right/scaled", "right/features", "features"]
    assert titles[-1] == "4 checked: 4 run, 0 failed, 0 skipped"


def test_what_cannot_be_built_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("wrong/refuses", "wrong/shrinks", "--only", "check_pickle") == 1
    lines = capsys.readouterr().out.splitlines()
    assert "  can be built                  failed   quantizer 'wrong/refuses': no licence" in lines
    assert lines[-1] == "2 checked: 2 run, 1 failed, 0 skipped"


def test_what_fails_stops_nothing_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # put back afterwards
    names = ("leaves", "refuses", "absent", "silences", "loses", "scaled")
    assert run(*names, "--only", "check_shape_dtype_device", "--only", "check_storage_bytes") == 1
    lines = capsys.readouterr().out.splitlines()
    row = "  {:<28}  {:<7}  {}".format
    reasons = {
        "leaves": "quantizer 'leaves' of wrong: its factory raised SystemExit: 5",
        "refuses": "quantizer 'refuses': no licence",
        "absent": "quantizer 'absent' of wrong cannot be loaded from 'no_such_module:Sign': "
        "ModuleNotFoundError: No module named 'no_such_module'",
    }
    for name, reason in reasons.items():
        assert lines[lines.index(name) + 1] == row("can be built", "failed", reason)
    at = lines.index("loses")
    told = "in training, for a weight as initialised of torch.float32 on cpu, "
    told += "shape is (4, 11, 20) instead of (4, 12, 20)"
    assert lines[at + 1] == row("check_shape_dtype_device", "failed", told)
    assert lines[at + 2] == row("check_storage_bytes", "skipped", "check_shape_dtype_device fails")
    assert lines[-1] == "6 checked: 8 run, 4 failed, 1 skipped"


def test_nothing_runs_where_a_name_is_mistyped(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("scaled", "scald") == 2
    assert capsys.readouterr().out == ""


def test_a_plugin_that_does_not_work_fails(capsys: pytest.CaptureFixture[str]) -> None:
    registry.register(Raises(), "raises")
    try:
        with pytest.warns(match="disk full"):
            assert run("raises") == 1
    finally:
        registry.unregister("raises")
    assert capsys.readouterr().out.splitlines() == [
        "raises",
        "  works                         failed   failed: qlstm_quantizers raised OSError: disk full",
        "",
        "1 run, 1 failed, 0 skipped",
    ]


def test_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--all", "--only", "check_declarations") == 1, "refuses cannot be built"
    out = capsys.readouterr().out
    for title in ("scaled", "features", "shrinks", "none (quantizer)", "none (normalizer)"):
        assert f"{title}\n  check_declarations            passed" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "say what to check: one or more names, or --all"),
        (["scaled", "--all"], "say what to check: one or more names, or --all"),
        (["scald"], "no quantizer, normaliser or cell is called 'scald' (did you mean 'scaled'"),
        (["scaled:x=1"], "quantizer 'scaled' has no option 'x'; it takes no options"),
        (
            ["scaled", "--only", "check_level"],
            "there is no check 'check_level' (did you mean 'check_level_count'",
        ),
        (["scaled", "--only", "check_cell_path"], "no check is selected"),
        (["empty"], "plugin 'empty' has no quantizer, normaliser or cell to check"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_unusable_input_is_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"qlstm: error: {message}")
    assert printed.err.count("\n") == 1
    assert printed.out == ""
