"""The directory of one run: settings, figures, checkpoint and result, readable whenever it was killed."""

from __future__ import annotations

import errno
import os
import pickle
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from filelock import FileLock, Timeout
from pydantic import ConfigDict, TypeAdapter, ValidationError
from safetensors.torch import save as to_safetensors
from torch import Tensor

from qlstm_bench.config import ConfigError, RunConfig
from qlstm_bench.errors import BenchError
from qlstm_bench.results import Result

_ROW = TypeAdapter(dict[str, float], config=ConfigDict(ser_json_inf_nan="strings"))
"""A line of metrics.jsonl: standard JSON has no infinity, so that it is written as a string."""

FINISHED = ("completed", "diverged")
"""The statuses of a run that is not repeated."""


class RunError(BenchError):
    """A run directory that cannot be read or written; the message is one line that names it."""


class RunBusyError(RunError):
    """A run that another process is training."""


@dataclass(frozen=True)
class Run:
    """One run and its directory, ``<task>-<quantizer>-<normalizer>-<hash>/``.

    ==================  =====================================================================================
    config.yaml         its settings
    metrics.jsonl       a line of figures every few steps
    result.json         status and final figures; absent until the run ends
    checkpoint/         everything needed to go on after an interruption
    model.safetensors   the trained parameters and running statistics; its metadata holds the settings
    ==================  =====================================================================================

    Files are replaced whole, except ``metrics.jsonl``, which grows line by line; a torn last line is ignored.

    Args:
        directory: where.
        config: the settings.
    """

    directory: Path
    config: RunConfig

    @classmethod
    def of(cls, out: Path, config: RunConfig, dataset_sha256: str) -> Run:
        """Return the run with these settings and data, under the folder ``out``; writes nothing."""
        parts = (config.task, config.quantizer, config.normalizer, config.identity(dataset_sha256))
        return cls(out / "-".join(re.sub(r"[^A-Za-z0-9.]+", "-", part).strip("-") for part in parts), config)

    @classmethod
    def read(cls, directory: Path) -> Run:
        """Return the run whose directory this is.

        Raises:
            RunError: settings that are missing or damaged.
        """
        try:
            return cls(directory, RunConfig.from_yaml(directory / "config.yaml"))
        except ConfigError as error:
            raise RunError(str(error)) from error

    @property
    def name(self) -> str:
        """The directory's name."""
        return self.directory.name

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Make the directory and keep other processes from training the same run.

        Raises:
            RunBusyError: another process does so already.
            RunError: the directory cannot be written to.
        """
        with _refusals_named(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
            try:
                held = FileLock(self.directory / ".lock").acquire(timeout=0)
            except Timeout:
                raise RunBusyError(
                    f"{self.directory}: another process is training this run; wait for it or end it"
                ) from None
        with held:
            with _refusals_named(self.directory):
                for leftover in self.directory.rglob("*.tmp"):
                    leftover.unlink()
            yield

    def clear(self) -> None:
        """Forget everything that an earlier training left."""
        with _refusals_named(self.directory):
            for name in ("result.json", "metrics.jsonl", "model.safetensors"):
                (self.directory / name).unlink(missing_ok=True)
            shutil.rmtree(self.directory / "checkpoint", ignore_errors=True)

    def start(self) -> None:
        """Write config.yaml, and forget the result of a training that failed."""
        with _refusals_named(self.directory):
            (self.directory / "result.json").unlink(missing_ok=True)
            replace_file(self.directory / "config.yaml", self.config.to_yaml().encode())

    def result(self) -> Result | None:
        """Return what result.json holds, or ``None`` where the run has not ended.

        Raises:
            RunError: a damaged file.
        """
        path = self.directory / "result.json"
        if not path.exists():
            return None
        try:
            return Result.model_validate_json(path.read_bytes())
        except OSError as error:
            raise RunError(f"{path}: cannot be read: {error}") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise RunError(
                f"{path}: not the result of a run: {where + ': ' if where else ''}{first['msg']}"
            ) from error

    def write_result(self, result: Result) -> None:
        """Write result.json: the run has ended."""
        with _refusals_named(self.directory):
            replace_file(self.directory / "result.json", result.model_dump_json(indent=2).encode())

    def metrics(self) -> list[dict[str, float]]:
        """Return the lines of metrics.jsonl, each with its ``step``; a torn one is left out.

        Raises:
            RunError: a file that cannot be read.
        """
        path = self.directory / "metrics.jsonl"
        if not path.exists():
            return []
        rows = []
        try:
            content = path.read_bytes()
        except OSError as error:
            raise RunError(f"{path}: cannot be read: {error.strerror or error}") from error
        for line in content.splitlines(keepends=True):
            with suppress(ValidationError):
                row = _ROW.validate_json(line)
                if line.endswith(b"\n") and "step" in row:
                    rows.append(row)
        return rows

    def last_logged_step(self) -> int:
        """Return the step of the last line of metrics.jsonl; 0 where there is none."""
        return int(max((row["step"] for row in self.metrics()), default=0))

    def log(self, row: Mapping[str, float]) -> None:
        """Append a line to metrics.jsonl."""
        self.append("metrics.jsonl", _ROW.dump_json(dict(row)))

    def append(self, name: str, line: bytes) -> None:
        """Append a line to a file of the run, in one write.

        Raises:
            RunError: it cannot be written.
        """
        with _refusals_named(self.directory), (self.directory / name).open("ab", buffering=0) as file:
            if file.write(line + b"\n") <= len(line):  # the last bytes of a disk that is full now
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def rewrite(self, name: str, lines: Sequence[bytes]) -> None:
        """Write a file of lines anew, whole or not at all; without lines there is no such file.

        Raises:
            RunError: it cannot be written.
        """
        with _refusals_named(self.directory):
            if lines:
                replace_file(self.directory / name, b"".join(line + b"\n" for line in lines))
            else:
                (self.directory / name).unlink(missing_ok=True)

    def rewind_metrics(self, step: int) -> None:
        """Drop what was logged after ``step``: the training goes on from there."""
        self.rewrite("metrics.jsonl", [_ROW.dump_json(row) for row in self.metrics() if row["step"] <= step])

    def save_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Write the checkpoint: tensors and plain Python values, in nested dicts, lists and tuples."""
        directory = self.directory / "checkpoint"
        with _refusals_named(self.directory):
            directory.mkdir(exist_ok=True)
            replace_file(directory / "state.pt", lambda file: torch.save(dict(state), file))

    def load_checkpoint(self) -> dict[str, Any] | None:
        """Return the checkpoint, with tensors on the CPU, or ``None`` where there is none.

        Raises:
            RunError: a damaged file.
        """
        path = self.directory / "checkpoint" / "state.pt"
        if not path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise RunError(
                f"{path}: cannot be read: {reason}; --force trains the run from the start"
            ) from error
        return state

    def save_model(self, state_dict: Mapping[str, Tensor]) -> None:
        """Write model.safetensors."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state_dict.items()}
        metadata = {"config": self.config.model_dump_json()}
        with _refusals_named(self.directory):
            replace_file(self.directory / "model.safetensors", to_safetensors(tensors, metadata=metadata))


@contextmanager
def _refusals_named(directory: Path) -> Iterator[None]:
    """Turn the system's refusal to write in a run's directory into an error that says so in one line."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{directory}: cannot be written to: {error.strerror or error}; with that put right, the same "
            "command goes on from the last checkpoint"
        ) from error


def check_writable(out: Path) -> None:
    """Make the folder ``out`` and see that files can be made in it.

    Raises:
        RunError: they cannot.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise RunError(
            f"--out {str(out)!r} is not a folder that can be written to: {error.strerror or error}"
        ) from error


def replace_file(path: Path, content: bytes | Callable[[IO[bytes]], object]) -> None:
    """Write a file so that a reader sees either the old content or the new, even after a crash.

    Args:
        path: in a directory that exists.
        content: the bytes, or a function that writes them to an open file.
    """
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with draft.open("wb") as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                content(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
