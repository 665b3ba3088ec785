"""The directory of one run: settings, figures, checkpoint and result, readable whenever it was killed."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import tempfile
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import Tensor

from qlstm_bench.config import ConfigError, RunConfig
from qlstm_bench.errors import RunBusyError, RunError
from qlstm_bench.training.result import Result
from qlstm_bench.training.run_files import AGAIN, read_checkpoint, read_lines, write_checkpoint, write_model
from qlstm_core.files import remove_leftovers, replace_file

_ROW = TypeAdapter(dict[str, float], config=ConfigDict(ser_json_inf_nan="strings"))
"""A line of metrics.jsonl: standard JSON has no infinity, so that it is written as a string."""

_LOGS = ("metrics.jsonl", "gradients.jsonl")
"""Files that grow line by line."""

_STATE = "checkpoint/state.pt"
_WHOLE = ("config.yaml", "result.json", "model.safetensors", _STATE)
"""Files that are replaced whole."""

FINISHED = ("completed", "diverged")
"""The statuses of a run that is not repeated."""


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
    The checkpoint and the model hold digests of themselves, and the checkpoint one of the lines before it:
    what was altered is refused.

    Args:
        directory: the run's directory.
        config: the run's settings.
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
        directory = Path(directory)
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
                for name in (*_WHOLE, *_LOGS):
                    remove_leftovers(self.directory / name)
            yield

    def clear(self) -> None:
        """Forget everything that an earlier training left."""
        with _refusals_named(self.directory):
            for name in ("result.json", "model.safetensors", *_LOGS):
                (self.directory / name).unlink(missing_ok=True)
            shutil.rmtree(self.directory / "checkpoint", ignore_errors=True)

    def start(self) -> None:
        """Write config.yaml, and forget the result of a training that failed."""
        with _refusals_named(self.directory):
            (self.directory / "result.json").unlink(missing_ok=True)
            replace_file(self.directory / "config.yaml", self.config.to_yaml())

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
            raise RunError(f"{path}: cannot be read: {error.strerror or error}") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise RunError(
                f"{path}: not the result of a run: {where + ': ' if where else ''}{first['msg']}; {AGAIN}"
            ) from error

    def write_result(self, result: Result) -> None:
        """Write result.json: the run has ended."""
        with _refusals_named(self.directory):
            replace_file(self.directory / "result.json", result.model_dump_json(indent=2))

    def metrics(self) -> list[dict[str, float]]:
        """Return the lines of metrics.jsonl, each with its ``step``; a torn last one is left out.

        Raises:
            RunError: a file that cannot be read, or a damaged line.
        """
        return read_lines(self.directory / "metrics.jsonl", _read_row)

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

    def rewind(self, checkpoint: Mapping[str, Any] | None) -> None:
        """Drop what was logged after a checkpoint: the training goes on from there.

        Args:
            checkpoint: from :meth:`load_checkpoint`; ``None``: the training begins, and nothing was logged.

        Raises:
            RunError: what was logged before it was altered since.
        """
        logged = {} if checkpoint is None else checkpoint["logs"]
        for name in _LOGS:
            path = self.directory / name
            size, digest = logged.get(name, (0, None))
            with _refusals_named(self.directory):
                if not size:
                    path.unlink(missing_ok=True)
                    continue
                content = path.read_bytes() if path.exists() else b""
                kept = content[:size]
                if hashlib.sha256(kept).hexdigest() != digest:
                    raise RunError(f"{path}: altered: its lines are not those before the checkpoint; {AGAIN}")
                if kept != content:
                    replace_file(path, kept)

    def save_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Write the checkpoint: tensors and plain Python values, in nested dicts, lists and tuples.

        Digests of what was logged so far are added, as ``logs``.
        """
        path = self.directory / _STATE
        with _refusals_named(self.directory):
            path.parent.mkdir(exist_ok=True)
            write_checkpoint(path, {**state, "logs": self._log_digests()})

    def _log_digests(self) -> dict[str, tuple[int, str]]:
        found = {}
        for name in _LOGS:
            path = self.directory / name
            if path.exists():
                with path.open("rb+") as file:
                    os.fsync(file.fileno())  # a power cut must not leave a checkpoint without its lines
                    content = file.read()
                found[name] = (len(content), hashlib.sha256(content).hexdigest())
        return found

    def load_checkpoint(self) -> dict[str, Any] | None:
        """Return the checkpoint, with tensors on the CPU, or ``None`` where there is none.

        Raises:
            RunError: a file that cannot be read, is damaged, or was altered.
        """
        path = self.directory / _STATE
        if not path.exists():
            return None
        with self.checkpoint_read():
            return read_checkpoint(path)

    @contextmanager
    def checkpoint_read(self) -> Iterator[None]:
        """Turn whatever goes wrong while the checkpoint is read into one line that says the way out."""
        try:
            yield
        except RunError:
            raise
        except Exception as error:
            lines = str(getattr(error, "strerror", None) or error).splitlines()
            reason = lines[0] if lines and isinstance(error, ValueError | OSError) else _name(error)
            raise RunError(f"{self.directory / _STATE}: cannot be read: {reason}; {AGAIN}") from error

    def save_model(self, state_dict: Mapping[str, Tensor]) -> None:
        """Write model.safetensors."""
        with _refusals_named(self.directory):
            write_model(self.directory / "model.safetensors", self.config, state_dict)


def _read_row(line: bytes) -> dict[str, float]:
    row = _ROW.validate_json(line)
    if "step" not in row:
        raise ValueError("no step")
    return row


def _name(error: BaseException) -> str:
    return textwrap.shorten(f"{type(error).__name__}: {error}", 300, placeholder=" …")


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
