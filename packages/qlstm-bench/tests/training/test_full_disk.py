"""A disk that fills up and a folder that is read-only: one line that says so, and nothing lost."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from qlstm_bench.cli import main
from qlstm_bench.errors import RunError
from qlstm_bench.training.folder import Run
from qlstm_bench.training.run import train
from qlstm_core import files
from qlstm_core.plugins import hookimpl, registry

FULL = Path("/dev/full")  # every write to it fails as on a full disk
needs_full = pytest.mark.skipif(not FULL.exists(), reason="no /dev/full on this system")


class Filler:
    """A plugin that, from a step on, has every draft of one of a run's files on a full disk."""

    def __init__(self, name: str, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.name, self.step, self.monkeypatch = name, step, monkeypatch

    @hookimpl
    def qlstm_run_logged(self, run: Run, step: int) -> None:
        if step != self.step:
            return
        self.step = -1  # the run that goes on finds room
        begin = files._begin

        def begin_full(target: Path) -> tuple[BinaryIO, Path]:
            file, draft = begin(target)
            if target != (run.directory / self.name).resolve():
                return file, draft
            file.close()
            return FULL.open("wb"), draft

        self.monkeypatch.setattr(files, "_begin", begin_full)


@pytest.fixture
def filled(request: pytest.FixtureRequest) -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        registry.register(Filler(request.param, 5, monkeypatch), "filler")
        yield monkeypatch
        registry.unregister("filler")


@needs_full
@pytest.mark.parametrize("filled", ["checkpoint/state.pt", "model.safetensors"], indirect=True)
def test_a_full_disk_is_named_and_the_run_goes_on_when_there_is_room(
    filled: pytest.MonkeyPatch, tiny: dict[str, Any], tmp_path: Path
) -> None:
    settings = {**tiny, "checkpoint_seconds": 0}
    with pytest.raises(
        RunError, match=r"cannot be written to: No space left on device; .* the last checkpoint"
    ) as caught:
        train(settings, tmp_path / "runs")
    assert "\n" not in str(caught.value)
    (directory,) = (tmp_path / "runs").iterdir()
    assert str(directory) in str(caught.value)
    run = Run.read(directory)
    checkpoint = run.load_checkpoint()
    assert checkpoint is not None
    assert checkpoint["step"] >= 4
    filled.undo()
    outcome = train(settings, tmp_path / "runs")
    assert outcome.result.metrics == train(tiny, tmp_path / "whole").result.metrics
    assert [row["step"] for row in outcome.run.metrics()] == list(range(1, 13))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 600 kB, where the system lets us have one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_real_disk_that_fills_up_is_named_wherever_it_does(
    small_disk: Path, tiny: dict[str, Any], tmp_path: Path
) -> None:
    """torch.save() into a file would hide the full disk: the checkpoint meets it at several of its pages."""
    settings = {**tiny, "checkpoint_seconds": 0, "gradients_every": 6}
    expected = train(settings, tmp_path / "whole").result.metrics
    for pages in (0, 1, 4, 6):
        free = os.statvfs(small_disk)
        filler = small_disk / "filler"
        filler.write_bytes(bytes(free.f_bavail * free.f_frsize - pages * 4096))
        with pytest.raises(RunError, match="No space left on device") as caught:
            train(settings, small_disk / "runs")
        assert "\n" not in str(caught.value)
        filler.unlink()
        outcome = train(settings, small_disk / "runs")
        assert outcome.result.metrics == expected
        assert not list(small_disk.rglob("*.partial"))
        shutil.rmtree(small_disk / "runs")


@needs_full
def test_a_line_that_does_not_fit_is_an_error(tiny: dict[str, Any], tmp_path: Path) -> None:
    run = train({**tiny, "steps": 2}, tmp_path / "runs").run
    (run.directory / "metrics.jsonl").unlink()
    (run.directory / "metrics.jsonl").symlink_to(FULL)
    with pytest.raises(RunError, match="No space left on device"):
        run.log({"step": 3})


@needs_full
@pytest.mark.parametrize("filled", ["checkpoint/state.pt"], indirect=True)
def test_the_command_line_says_it_in_one_line(
    filled: pytest.MonkeyPatch, tiny: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--hidden", "4", "--steps", "10", "--batch", "4", "--unroll", "5", "--device", "cpu"]
    options = ["--eval-every", "5", "--checkpoint-seconds", "0"]
    assert main(["run", "char-lm", "--data", tiny["data"], *words, *options]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("qlstm-bench: error")]
    assert len(errors) == 1
    assert "No space left on device" in errors[0]


@pytest.fixture
def as_a_user() -> Iterator[Callable[[Path], None]]:
    """Give a function that takes a folder's write permission away, from root as well."""
    user = os.geteuid()

    def forbid(folder: Path) -> None:
        folder.chmod(0o555)
        if user == 0:
            os.seteuid(65534)

    yield forbid
    os.seteuid(user)


def test_a_read_only_run_folder_is_named(as_a_user: Callable[[Path], None], tiny: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders can be entered by their owner alone
        out = Path(name)
        out.chmod(0o755)
        outcome = train({**tiny, "steps": 2}, out)
        as_a_user(outcome.run.directory)
        before, rows = outcome.run.result(), outcome.run.metrics()
        with (
            pytest.raises(RunError, match=r"cannot be written to: Permission denied") as caught,
            outcome.run.writing(),
        ):
            pass
        assert str(outcome.run.directory) in str(caught.value)
        for write in (
            lambda: outcome.run.log({"step": 3}),
            lambda: outcome.run.rewind(None),
            lambda: outcome.run.save_checkpoint({}),
            lambda: outcome.run.save_model({}),
            lambda: outcome.run.start(),
            lambda: outcome.run.clear(),
        ):
            with pytest.raises(RunError, match="Permission denied"):
                write()
        assert (outcome.run.result(), outcome.run.metrics()) == (before, rows)
        os.seteuid(os.getuid())
        outcome.run.directory.chmod(0o755)
