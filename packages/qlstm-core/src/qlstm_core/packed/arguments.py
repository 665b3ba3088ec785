"""What a packed network is called with, tensors or arrays, as what the engine takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qlstm_core.layers.border import watched
from qlstm_core.layers.checks import check_state
from qlstm_core.packed.network import Config

NO_TOKENS = np.zeros(0, np.int64)
_CPU = torch.device("cpu")


def as_tensor(x: Any) -> Tensor:
    """Return a tensor on the CPU, without gradient, that shares memory where it can.

    Raises:
        TypeError: neither a tensor nor an array; or torch compiles or transforms what calls this.
        ValueError: a tensor on another device.
    """
    if (observer := watched()) is not None:
        raise TypeError(f"packed networks are no operators of torch, and {observer}: call them outside of it")
    if isinstance(x, np.ndarray):
        return torch.from_numpy(x if x.flags.writeable and x.flags.c_contiguous else x.copy())
    if not isinstance(x, Tensor):
        raise TypeError(f"expected a torch tensor or a NumPy array, got {type(x).__name__}")
    if not x.is_cpu:
        raise ValueError(f"packed networks run on the CPU, got a tensor on {x.device}: use .cpu()")
    return x.detach() if x.requires_grad else x


def as_state(state: Any) -> tuple[Tensor, ...] | None:
    """Return a given state as tensors, one or two of them."""
    return None if state is None else tuple(as_tensor(s) for s in state_parts(state))


def state_parts(state: Any) -> tuple[Any, ...]:
    """Return a given state's parts as they are, none where there is none."""
    if state is None:
        return ()
    return (state,) if isinstance(state, Tensor | np.ndarray) else tuple(state)


def as_rows(x: Tensor, features: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return vectors ``(rows, features)`` and tokens ``(rows,)``, one of them without rows."""
    if x.is_floating_point():
        return np.ascontiguousarray(x.float().numpy()), NO_TOKENS
    return np.empty((0, features), np.float32), np.ascontiguousarray(x.numpy(), np.int64)


def initial_state(
    name: str, config: Config, state: tuple[Tensor, ...] | None, batch: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return copies of the initial state, zeros where none is given; c of a GRU has no features.

    Args:
        name: name of the class, for messages.
        config: the sizes of the network.
        state: ``(layers · directions, batch, …)`` each.
        batch: number of sequences.

    Raises:
        ValueError, RuntimeError: a state that does not fit, as the layer raises.
    """
    cells = config.num_layers * config.directions
    shapes = [(cells, batch, config.output_size), (cells, batch, config.hidden_size)]
    shapes = shapes[: len(config.cell.states)]
    if state is None:
        arrays = [np.zeros(shape, np.float32) for shape in shapes]
    else:
        check_state(name, state, shapes, torch.float32, _CPU)
        arrays = [np.array(s.detach().numpy(), order="C") for s in state]
    return arrays[0], arrays[1] if len(arrays) > 1 else np.zeros((cells, batch, 0), np.float32)
