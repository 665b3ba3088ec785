"""Data parallel training: two processes give the numbers of one with the whole batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file

from qlstm_bench.cli import main
from qlstm_bench.config import ConfigError
from qlstm_bench.training.folder import Run
from qlstm_bench.training.run import train
from qlstm_bench.training.team import Team

SETTINGS = {
    "hidden": 8, "batch": 4, "unroll": 10, "steps": 9, "lr": 0.01, "log-every": 1, "eval-every": 4,
    "quantizer": "bwn", "normalizer": "weight", "data-start": True, "initial-state": "learned",
    "device": "cpu",
}  # fmt: skip


def command(text_file: Path, out: Path, **changes: Any) -> list[str]:
    words = ["run", "char-lm", "--data", str(text_file), "--out", str(out)]
    for name, value in {**SETTINGS, **changes}.items():
        if name != "log-every":
            words += [f"--{name}", str(value)]
    return words


def run_processes(
    words: list[str], cwd: Path, launcher: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    return subprocess.run(
        [sys.executable, "-m", *launcher, "qlstm_bench", *words],
        capture_output=True, text=True, cwd=cwd, timeout=240, env=environment,
    )  # fmt: skip


def the_run(out: Path) -> Run:
    (directory,) = out.iterdir()
    return Run.read(directory)


def test_two_processes_train_as_one(text_file: Path, tmp_path: Path) -> None:
    """Gains, streams, carried states, gradients, losses and validations are those of the whole batch.

    Only the first step of an epoch has a gradient of the initial state.
    """
    assert main(command(text_file, tmp_path / "one")) == 0
    words = command(text_file, tmp_path / "two", processes=2)
    done = run_processes(words, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("bwn, weight on words.txt:") == 1
    one, two = the_run(tmp_path / "one"), the_run(tmp_path / "two")
    assert two.config == one.config.model_copy(update={"processes": 2})
    for first, second in zip(one.metrics(), two.metrics(), strict=True):
        assert first.keys() == second.keys()
        for name in first.keys() - {"seconds"}:
            assert second[name] == pytest.approx(first[name], rel=1e-4), name
    tensors, others = (load_file(run.directory / "model.safetensors") for run in (one, two))
    for name, tensor in tensors.items():
        torch.testing.assert_close(others[name], tensor, rtol=1e-3, atol=1e-5)
    first_result, result = one.result(), two.result()
    assert first_result is not None
    assert result is not None
    assert result.metrics["test_bpc"] == pytest.approx(first_result.metrics["test_bpc"], rel=1e-4)
    # The checkpoint holds the whole state and every process's generators: a run goes on from it.
    state, whole = two.load_checkpoint(), one.load_checkpoint()
    assert state is not None
    assert whole is not None
    assert len(state["random"]) == 2
    for part, expected in zip(state["carried"], whole["carried"], strict=True):
        torch.testing.assert_close(part, expected, rtol=1e-3, atol=1e-5)
    (two.directory / "result.json").unlink()
    again = run_processes(
        words[:-2], tmp_path, ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")
    )
    assert again.returncode == 0, again.stderr
    repeated = two.result()
    assert repeated is not None
    assert repeated.metrics == result.metrics
    assert repeated.steps == 9


def test_a_team_of_one_changes_nothing() -> None:
    team = Team(Fabric(accelerator="cpu", devices=1), 1)
    pair = (torch.arange(6).view(2, 3), torch.zeros(1, 3))
    assert team.share(pair) is pair
    assert team.whole(pair) is pair
    assert team.share(None) is None
    assert team.gather(5) == [5]
    assert team.tell("x") == "x"
    assert team.mean(pair[1]) is pair[1]
    assert team.leader


def test_shares_of_a_batch_are_whole_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of three processes has a third of the sequences, in their order."""
    whole = (torch.arange(24).view(2, 6, 2), torch.arange(6).view(1, 6))
    shares = []
    for rank in range(3):
        team = Team(Fabric(accelerator="cpu", devices=1), 1)
        team.size, team.rank = 3, rank
        shares.append(team.share(whole))
    for part in range(2):
        joined = torch.cat([share[part] for share in shares], 1)
        assert torch.equal(joined, whole[part])
        assert [share[part].shape[1] for share in shares] == [2, 2, 2]


def test_settings_that_do_not_fit_are_found_before_any_process_starts(
    text_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for change, problem in (
        ({"processes": 3}, "batch=4 must be divisible by processes=3"),
        ({"processes": 2, "device": "cuda:0"}, "device=cuda:0 is one device, and processes is 2"),
        ({"processes": 2, "quantizer": "bwm"}, "did you mean 'bwn'"),
        ({"processes": 0}, "processes"),
    ):
        assert main(command(text_file, tmp_path, **change)) == 2
        assert problem in capsys.readouterr().err


def test_a_program_is_told_how_to_start_processes(tiny: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"processes is 2, and 1 run together; start them with .*torchrun"):
        train({**tiny, "processes": 2}, tmp_path)
