"""Data parallel training: several processes, each with its share of every batch."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from lightning_fabric import Fabric
from torch import Tensor

from qlstm_bench.config import ConfigError, RunConfig

T = TypeVar("T")


def launched_processes() -> int | None:
    """Return how many processes torchrun started together with this one; ``None`` without it."""
    return int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else None


def make_fabric(config: RunConfig) -> Fabric:
    """Return Fabric for the device, precision and processes of a run, ready to use.

    Raises:
        ConfigError: a device that is not there, or another number of processes than torchrun started.
    """
    kind, _, index = config.device.partition(":")
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    launched = launched_processes() or 1
    if launched != config.processes:
        raise ConfigError(
            f"processes is {config.processes}, and {launched} run together; start them with `qlstm-bench run "
            f"--processes {config.processes}`, or with torchrun, whose number it then is"
        )
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if launched > 1 else 1
    needed = max(int(index or 0) + 1, local)
    if kind == "cuda" and needed > torch.cuda.device_count():
        here = ", ".join(["cpu", *(f"cuda:{n}" for n in range(torch.cuda.device_count()))])
        wanted = f"device {config.device!r} is" if launched == 1 else f"{local} CUDA devices are"
        raise ConfigError(f"{wanted} not on this machine; expected auto or one of: {here}")
    if launched == 1:
        devices = [int(index or 0)] if kind == "cuda" else 1
        return Fabric(accelerator=kind, devices=devices, precision=config.precision)
    fabric = Fabric(
        accelerator=kind,
        devices=local,
        num_nodes=launched // local,
        # Most steps carry a state on: a learned one has no gradient then.
        strategy="ddp_find_unused_parameters_true" if config.initial_state == "learned" else "ddp",
        precision=config.precision,
    )
    fabric.launch()
    return fabric


class Team:
    """The processes that train together. A process alone is a team of one, and everything below is its own.

    Args:
        fabric: Fabric of this process.
        axis: dimension of batches and states that counts the sequences.
    """

    def __init__(self, fabric: Fabric, axis: int) -> None:
        self._fabric, self._axis = fabric, axis
        self.size: int = fabric.world_size
        self.rank: int = fabric.global_rank

    @property
    def leader(self) -> bool:
        """Whether this process validates, logs and writes for all."""
        return self.rank == 0

    def share(self, whole: Any) -> Any:
        """Return this process's share of a batch or state: of a tensor, a tuple of tensors, or ``None``."""
        return self._each(whole, lambda tensor: tensor.chunk(self.size, self._axis)[self.rank].contiguous())

    def whole(self, share: Any) -> Any:
        """Return what :meth:`share` took the share of; every process gets it."""
        return self._each(share, self._join)

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean over the processes."""
        if self.size == 1:
            return value
        averaged = self._fabric.all_reduce(value, reduce_op="mean")
        assert isinstance(averaged, Tensor)
        return averaged

    def tell(self, value: T) -> T:
        """Return the leader's value."""
        return value if self.size == 1 else self._fabric.broadcast(value)

    def gather(self, value: T) -> list[T]:
        """Return every process's value, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(values, value)
        return values

    def _join(self, tensor: Tensor) -> Tensor:
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        torch.distributed.all_gather(parts, tensor.contiguous())
        return torch.cat(parts, self._axis)

    def _each(self, value: Any, function: Callable[[Tensor], Tensor]) -> Any:
        if self.size == 1 or value is None:
            return value
        return function(value) if isinstance(value, Tensor) else tuple(map(function, value))
