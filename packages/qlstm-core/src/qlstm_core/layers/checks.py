"""What torch.nn.LSTM and GRU check, with torch's own messages."""

from __future__ import annotations

import numbers
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from qlstm_core.layers.border import is_readable
from qlstm_core.layers.cell import Cell

TOKEN_DTYPES = frozenset({torch.int64, torch.int32})
"""Dtypes of an input that stands for one-hot vectors."""


def check_arguments(
    input_size: int,
    hidden_size: int,
    num_layers: int,
    bias: bool,
    batch_first: bool,
    dropout: float,
    proj_size: int,
) -> None:
    """Raise what torch.nn.RNNBase raises for the same arguments, in its order."""
    if not isinstance(dropout, numbers.Number) or isinstance(dropout, bool) or not 0 <= dropout <= 1:
        raise ValueError(
            "dropout should be a number in range [0, 1] "
            "representing the probability of an element being zeroed"
        )
    if dropout > 0 and num_layers == 1:
        warnings.warn(
            "dropout option adds dropout after all but last recurrent layer, so non-zero dropout expects "
            f"num_layers greater than 1, but got dropout={dropout} and num_layers={num_layers}",
            stacklevel=3,
        )
    for name, flag in (("bias", bias), ("batch_first", batch_first)):
        if not isinstance(flag, bool):
            raise TypeError(f"{name} should be of type bool, got: {type(flag).__name__}")
    for name, size in (("input_size", input_size), ("hidden_size", hidden_size)):
        if not isinstance(size, int):
            raise TypeError(f"{name} should be of type int, got: {type(size).__name__}")
        if size <= 0:
            raise ValueError(f"{name} must be greater than zero")
    if num_layers <= 0:
        raise ValueError("num_layers must be greater than zero")
    if proj_size < 0:
        raise ValueError("proj_size should be a positive integer or zero to disable projections")
    if proj_size >= hidden_size:
        raise ValueError("proj_size has to be smaller than hidden_size")


def check_dimensions(family: str, x: Tensor, state: Sequence[Tensor] | None, features: int) -> bool:
    """Check the dimensions of a padded input and of its state; return whether it is batched.

    Args:
        family: the class's name, for the message.
        x: the input.
        state: the initial state as given.
        features: how many feature dimensions the input has: 1, or 0 for tokens.

    Raises:
        ValueError: an input of the wrong number of dimensions.
        RuntimeError: a state of the wrong number of dimensions.
    """
    if x.dim() not in (1 + features, 2 + features):
        raise ValueError(
            f"{family}: Expected input to be {1 + features}D or {2 + features}D, got {x.dim()}D instead"
        )
    batched = x.dim() == 2 + features
    dims = 3 if batched else 2
    if state is not None and any(s.dim() != dims for s in state):
        kind = f"{'batched 3-D' if batched else 'unbatched 2-D'} input"
        if len(state) > 1:
            states = "hx and cx" if len(state) == 2 else f"the {len(state)} states"
            found = ", ".join(f"{s.dim()}-D" for s in state)
            raise RuntimeError(f"For {kind}, {states} should also be {dims}-D but got ({found}) tensors")
        raise RuntimeError(f"For {kind}, hx should also be {dims}-D but got {state[0].dim()}-D tensor")
    return batched


def check_device(x: Tensor, device: torch.device) -> None:
    """Check that an input is where the weights are.

    Raises:
        RuntimeError: another device.
    """
    if x.device != device:
        raise RuntimeError(
            "Input and parameter tensors are not at the same device, "
            f"found input tensor at {x.device} and parameter tensor at {device}"
        )


def check_features(
    x: Tensor, dtype: torch.dtype, input_size: int, packed: bool, *, convertible: bool = True
) -> None:
    """Check a floating-point input, ``(T, B, features)`` or the data of a PackedSequence.

    Args:
        x: the input.
        dtype: that of the weights.
        input_size: features.
        packed: whether ``x`` is the data of a PackedSequence.
        convertible: whether the weights may take another dtype; those of a packed network may not.

    Raises:
        ValueError: a dtype other than the weights'.
        RuntimeError: the wrong number of dimensions or features, or no time step.
    """
    if x.dtype != dtype and not torch._C._is_any_autocast_enabled():
        message = f"RNN input dtype ({x.dtype}) does not match weight dtype ({dtype}). "
        if not x.is_floating_point() and x.dtype not in TOKEN_DTYPES:
            tokens = "Tokens are int32 or int64: convert input: input.to(torch.int64); "
            raise ValueError(f"{message}{tokens}features are not: input.to({dtype})")
        other = f", or convert model: model.to({x.dtype})" if convertible else ' (NumPy: .astype("float32"))'
        raise ValueError(f"{message}Convert input: input.to({dtype}){other}")
    expected = 2 if packed else 3
    if x.dim() != expected:
        raise RuntimeError(f"input must have {expected} dimensions, got {x.dim()}")
    if x.shape[-1] != input_size:
        raise RuntimeError(
            f"input.size(-1) must be equal to input_size. Expected {input_size}, got {x.shape[-1]}"
        )


def check_tokens(x: Tensor, input_size: int) -> None:
    """Check that tokens are smaller than ``input_size``; elsewhere the look-up of torch does.

    A GPU would have to be waited for; and what is recorded or wrapped has no values to look at.

    Raises:
        ValueError: a token out of range.
    """
    if is_readable(x) and x.is_cpu and x.numel():
        smallest, largest = int(x.min()), int(x.max())
        if smallest < 0 or largest >= input_size:
            raise ValueError(
                f"tokens must lie in [0, input_size), here [0, {input_size}), got {smallest} to {largest}"
            )


def check_state(
    family: str,
    state: Sequence[Tensor],
    shapes: Sequence[tuple[int, ...]],
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    """Check the number, shapes, dtype and device of the initial states.

    Raises:
        RuntimeError: a state of the wrong shape or dtype, or on another device.
        ValueError: too few or too many states.
    """
    if len(state) != len(shapes):
        raise ValueError(f"{family}: expected {len(shapes)} initial states, got {len(state)}")
    for k, (given, expected) in enumerate(zip(state, shapes, strict=True)):
        if tuple(given.shape) != expected:
            name = f"hidden[{k}]" if len(state) > 1 else "hidden"
            raise RuntimeError(f"Expected {name} size {expected}, got {list(given.shape)}")
        if given.device != device:
            raise RuntimeError(
                "Input and hidden tensors are not at the same device, "
                f"found input tensor at {device} and hidden tensor at {given.device}"
            )
        if given.dtype != dtype and not torch._C._is_any_autocast_enabled():
            raise RuntimeError(
                "Input and hidden tensors are not the same dtype, "
                f"found input tensor with {dtype} and hidden tensor with {given.dtype}. "
                f"Convert state: state.to({dtype})"
            )


def check_states(cell: Cell, new: Any, before: Sequence[Tensor], gates: Tensor) -> None:
    """Check what a cell's step returned: as many states as the cell names, of the form of those before.

    What is recorded or wrapped passes unchecked.

    Args:
        cell: whose step it was.
        new: what it returned.
        before: the states that it was given, ``(batch, features)``.
        gates: the pre-activations that it was given, ``(batch, gates, hidden)``; h is of ``hidden`` features
            until it is projected.

    Raises:
        TypeError: no tuple of tensors.
        ValueError: another number of states, or a state of another shape, device or, without autocast, dtype.
    """
    if not is_readable(gates):
        return
    title = f"cell {cell.name!r}: its step returned"
    if not isinstance(new, tuple) or not all(isinstance(state, Tensor) for state in new):
        found = [type(state).__name__ for state in new] if isinstance(new, tuple) else type(new).__name__
        raise TypeError(f"{title} {found}, expected a tuple of tensors ({', '.join(cell.states)},)")
    if len(new) != len(cell.states):
        raise ValueError(f"{title} {len(new)} states, expected {len(cell.states)}: {', '.join(cell.states)}")
    for name, state, old in zip(cell.states, new, before, strict=True):
        shape = gates[:, 0].shape if name == "h" else old.shape
        if (
            state.shape != shape
            or state.device != old.device
            or (state.dtype != old.dtype and not torch._C._is_any_autocast_enabled())
        ):
            raise ValueError(
                f"{title} {name} of shape {tuple(state.shape)} in {state.dtype} on {state.device}, "
                f"expected {tuple(shape)} in {old.dtype} on {old.device}"
            )


def check_kind(caller: str, given: object, kind: type, expected: str, *, exact: bool = False) -> None:
    """Refuse a layer of another kind, named by its full name: torch's and ours are called the same.

    Args:
        caller: who asks, for the message.
        given: what was given.
        kind: the class that it must be of.
        expected: what that is, in words.
        exact: refuse subclasses, which may compute something else.

    Raises:
        TypeError: something else.
    """
    if not (type(given) is kind if exact else isinstance(given, kind)):
        found = f"{type(given).__module__}.{type(given).__name__}"
        raise TypeError(f"{caller}: expected {expected}, got {found}")
