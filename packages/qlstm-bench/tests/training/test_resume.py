"""Checkpoints that no training can go on from are refused in one line; threads take turns."""

from __future__ import annotations

import math
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from qlstm_bench.cli import main
from qlstm_bench.errors import BenchError, RunError
from qlstm_bench.training.folder import Run
from qlstm_bench.training.run import train

STEPS = 12


class InterruptionError(Exception):
    pass


def interrupted(settings: dict[str, Any], out: str, at: int = 6) -> Run:
    """Train up to a step, with a checkpoint after each."""

    def interrupt(step: int, steps: int, figures: object) -> None:
        if step == at:
            raise InterruptionError

    with pytest.raises(InterruptionError):
        train({**settings, "checkpoint_seconds": 0}, out, listen=interrupt)
    (directory,) = Path(out).iterdir()
    return Run.read(directory)


def refused(settings: dict[str, Any], out: str, message: str) -> None:
    with pytest.raises(RunError, match=message) as caught:
        train(settings, out)
    assert "\n" not in str(caught.value)
    assert "state.pt: cannot be read: " in str(caught.value)
    assert str(caught.value).endswith("; --force trains the run from the start")


@pytest.mark.parametrize(
    ("name", "value", "named"),
    [
        ("seed", 5, "5, and here it is 0"),
        ("lr", 0.02, "0.02, and here it is 0.01"),
        ("quantizer", "bwn", "'bwn', and here it is 'none'"),
        ("hidden", 5, "5, and here it is 8"),
        ("optimizer", "sgd", "'sgd', and here it is 'adam'"),
        ("optimizer", "adam:eps=0.1", "'adam:eps=0.1', and here it is 'adam'"),
        ("rounding", "stochastic", "'stochastic', and here it is 'none'"),
    ],
)
def test_the_checkpoint_of_another_run_is_refused_by_the_setting_that_differs(
    tiny: dict[str, Any], name: str, value: Any, named: str
) -> None:
    other = interrupted({**tiny, name: value}, "other")
    own = interrupted(tiny, "own")
    shutil.copytree(other.directory, own.directory, dirs_exist_ok=True)
    refused(tiny, "own", f"of another run: its {name} is {named}")
    assert train(tiny, "own", force=True).result.status == "completed"


def test_the_checkpoint_of_other_data_is_refused(tiny: dict[str, Any], text_file: Path) -> None:
    other = interrupted(tiny, "other")
    text_file.write_text(text_file.read_text()[::-1])
    own = interrupted(tiny, "own")
    shutil.copytree(other.directory, own.directory, dirs_exist_ok=True)
    refused(tiny, "own", "of another run: its sha256 is")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": -5}, "its step is -5: expected a number from 1 to 12"),
        ({"step": 0}, "its step is 0: "),
        ({"step": STEPS + 1}, "its step is 13: "),
        ({"step": True}, "its step is True: "),
        ({"step": 5.0}, "its step is 5.0: "),
        ({"tally": {"loss": 0.0, "gradient_norm": 0.0, "clipped": 0, "steps": 7}}, "its tally.steps is 7: "),
        (
            {"tally": {"loss": 0.0, "gradient_norm": 0.0, "clipped": 2, "steps": 1}},
            "its tally.clipped is 2: ",
        ),
        ({"schedule": {"best": 1.0, "stalled": -1}}, "its schedule.stalled is -1: "),
        ({"diverged_at": 3}, "its diverged_at is 3: expected none, or its step, 5"),
        ({"stopped_at": 6}, "its stopped_at is 6: "),
        ({"seconds": math.nan}, "its seconds are nan: "),
        ({"seconds": -1.0}, "its seconds are -1.0: "),
        ({"random": []}, "IndexError: "),
        ({"model": {}}, "RuntimeError: .*Missing key"),
        ({"optimizer": {"param_groups": [], "state": {}}}, "different number of parameter groups"),
        ({"settings": None}, "AttributeError: "),
        ({"tally": None}, "TypeError: "),
    ],
)
def test_what_no_training_can_have_saved_is_refused(
    tiny: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    """Such a checkpoint has a right digest: another program wrote it, or another version of this one."""
    run = interrupted(tiny, "runs")
    checkpoint = run.load_checkpoint()
    assert checkpoint is not None
    assert checkpoint["step"] == 5
    run.save_checkpoint({**checkpoint, **change})
    refused(tiny, "runs", message)


def test_every_part_of_a_checkpoint_is_needed(tiny: dict[str, Any]) -> None:
    run = interrupted({**tiny, "average": 0.5}, "runs")
    checkpoint = run.load_checkpoint()
    assert checkpoint is not None
    for name in checkpoint.keys() - {"logs"}:
        run.save_checkpoint({key: value for key, value in checkpoint.items() if key != name})
        refused({**tiny, "average": 0.5}, "runs", f"KeyError: '{name}'")


def test_lines_that_were_altered_are_refused(
    tiny: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    run = interrupted(tiny, "runs")
    path = run.directory / "metrics.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"step":2.0', b'"step":3.0', 1))
    with pytest.raises(RunError, match=r"metrics\.jsonl: altered: .*; --force trains the run from the start"):
        train(tiny, "runs")


def test_the_seconds_of_all_sessions_add_up(tiny: dict[str, Any]) -> None:
    run = interrupted(tiny, "runs")
    checkpoint = run.load_checkpoint()
    assert checkpoint is not None
    run.save_checkpoint({**checkpoint, "seconds": 5000.0})
    assert 5000 < train(tiny, "runs").result.wall_s < 5500


def test_trainings_in_threads_take_turns_and_have_the_numbers_that_each_has_alone(
    tiny: dict[str, Any],
) -> None:
    """They would share the generators that dropout, sampled weights and initial weights are drawn from."""
    stochastic = {
        **tiny,
        "quantizer": "binary-connect:stochastic=true",
        "layers": 2,
        "dropout": 0.5,
        "steps": 6,
    }
    alone = [train({**stochastic, "seed": seed}, "alone").result.metrics for seed in range(2)]
    together: dict[int, Any] = {}
    training, most = 0, 0
    counted = threading.Lock()

    def count(step: int, steps: int, figures: object) -> None:
        nonlocal training, most
        with counted:
            training += (step == 1) - (step == steps)
            most = max(most, training)

    def work(seed: int) -> None:
        together[seed] = train({**stochastic, "seed": seed}, "together", listen=count).result.metrics

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[0], together[1]] == alone
    assert most == 1


def test_a_training_within_a_training_is_refused(tiny: dict[str, Any]) -> None:
    def start_another(step: int, steps: int, figures: object) -> None:
        train({**tiny, "seed": 1}, "inner")

    with pytest.raises(
        RunError, match=r"cannot start another one from within: .* or in a process of its own"
    ):
        train(tiny, "outer", listen=start_another)
    assert train(tiny, "outer").result.status == "completed"


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (
            lambda: torch.empty(2**46),
            r"not enough memory: .*can't allocate memory.*; smaller hidden, .* need less",
        ),
        (lambda: torch.empty(2**62), r"not enough memory: .*calculation overflowed.*"),
        (lambda: torch.empty(2**64), r"not enough memory: .*Overflow when unpacking long"),
        (lambda: (_ for _ in ()).throw(MemoryError()), r"not enough memory: MemoryError; "),
        (
            lambda: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory.\nMore")),
            "CUDA out of memory.; ",
        ),
    ],
)
def test_memory_that_cannot_be_had_is_one_line(
    tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch, failure: Callable[[], Any], message: str
) -> None:
    monkeypatch.setattr("qlstm_bench.tasks.char_lm.make_layer", lambda *_, **__: next(iter(failure())))
    with pytest.raises(BenchError, match=message) as caught:
        train(tiny, "runs")
    assert "\n" not in str(caught.value)


def test_a_network_that_is_too_large_is_one_line(
    tiny: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    for hidden in (10**9, 2**62):
        assert main(["run", "char-lm", "--data", tiny["data"], "--hidden", str(hidden), "--steps", "1"]) == 2
        error = capsys.readouterr().err
        assert error.startswith("qlstm-bench: error: not enough memory: ")
        assert error.count("\n") == 1
