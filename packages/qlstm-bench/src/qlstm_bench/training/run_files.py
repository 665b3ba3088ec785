"""What the files of a run hold: checkpoint and model, each with a digest of itself, and lines of figures."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from qlstm_bench.config import RunConfig
from qlstm_bench.errors import RunError
from qlstm_core.files import replace_file

T = TypeVar("T")

_CHECKPOINT = b"qlstm checkpoint 1, sha256 "
"""A checkpoint begins with this, the digest of the rest, and a line feed."""

AGAIN = "--force trains the run from the start"
"""What to do about a damaged file."""


def write_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint: tensors and plain Python values, in nested dicts, lists and tuples."""
    # torch.save() into a file hides a full disk behind an error of its own.
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    digest = hashlib.sha256(buffer.getbuffer()).hexdigest()

    def write(file: BinaryIO) -> None:
        file.write(_CHECKPOINT + digest.encode() + b"\n")
        file.write(buffer.getbuffer())

    replace_file(path, write)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return what :func:`write_checkpoint` wrote, with tensors on the CPU.

    Raises:
        ValueError: the content is not that of its digest.
        Exception: whatever reading the file raises.
    """
    head, _, content = path.read_bytes().partition(b"\n")
    if head != _CHECKPOINT + hashlib.sha256(content).hexdigest().encode():
        raise ValueError("truncated, altered, or of another version: the content is not that of its digest")
    state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return state


def write_model(path: Path, config: RunConfig, state_dict: Mapping[str, Tensor]) -> None:
    """Write trained parameters and running statistics, with the settings and a digest of both."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state_dict.items()}
    settings = config.model_dump_json()
    metadata = {"config": settings, "sha256": _model_digest(settings, tensors)}
    replace_file(path, to_safetensors(tensors, metadata=metadata))


def read_model(path: Path) -> tuple[RunConfig, dict[str, Tensor]]:
    """Return the settings and the parameters and buffers that :func:`write_model` wrote.

    Raises:
        RunError: a file that cannot be read, is damaged, was altered, or was not written by a run.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        config = RunConfig.model_validate_json(metadata.get("config", ""))
    except (SafetensorError, OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise RunError(f"{path}: not the model of a run: {reason}") from error
    if metadata.get("sha256") != _model_digest(metadata["config"], tensors):
        raise RunError(f"{path}: altered: the content is not that of its digest; {AGAIN}")
    return config, tensors


def _model_digest(config: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(config.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read_lines(path: Path, parse: Callable[[bytes], T]) -> list[T]:
    """Return the lines of a file that grows line by line, parsed; none where there is no such file.

    A last line that lacks its end, as a killed run leaves it, is left out.

    Args:
        path: the file.
        parse: takes a line; raises ``ValueError`` where it is damaged.

    Raises:
        RunError: a file that cannot be read, or a damaged line.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror or error}") from error
    lines = content.split(b"\n")[:-1]
    parsed = []
    for number, line in enumerate(lines, 1):
        try:
            parsed.append(parse(line))
        except ValueError as error:
            raise RunError(f"{path}: line {number} is damaged; {AGAIN}") from error
    return parsed
