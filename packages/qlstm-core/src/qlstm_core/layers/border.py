"""The border of compiled code: what is checked here is afterwards read and written by address.

Compiled code sees addresses, the shapes that it is told, and nothing of what torch may have wrapped a tensor
in. Whatever does not fit is refused here by name, or takes the readable loop, where torch's own operators
judge it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Proxy
from torch.fx.proxy import TraceError
from torch.nn.utils.rnn import PackedSequence

from qlstm_core.interfaces import Normalizer
from qlstm_core.plugins.errors import describe


def _plain_keys() -> int:
    key: Any = torch._C.DispatchKey
    names = ("CPU", "AutogradCPU", "AutocastCPU", "CUDA", "AutogradCUDA", "AutocastCUDA", "ADInplaceOrView")
    keys: Any = torch._C.DispatchKeySet(key.CPU)
    for name in names:
        keys = keys.add(getattr(key, name))
    return int(keys.raw_repr())


_PLAIN_KEYS = _plain_keys()
_PLAIN_TYPES = (Tensor, nn.Parameter)


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is itself rows of numbers in the memory of a CPU or of a CUDA device.

    Not so: subclasses, fake, meta, sparse, quantized and nested tensors, what torch.func and a batched
    backward pass wrap, and negated views. Some of them have an address all the same, of nothing.
    """
    return type(tensor) in _PLAIN_TYPES and not (torch._C._dispatch_keys(tensor).raw_repr() & ~_PLAIN_KEYS)


def watched() -> str | None:
    """Return who records or intercepts torch's operators, to whom compiled code would be invisible."""
    if torch._C._get_tracing_state() is not None:
        return "torch.jit.trace records operators"
    if torch._C._len_torch_dispatch_stack():
        return "a mode of torch intercepts operators"
    return transformed()


def transformed() -> str | None:
    """Return the reason why no operator for a whole sequence may run, torch's own included, or ``None``."""
    return "a torch.func transform is active" if torch._C._are_functorch_transforms_active() else None


def is_readable(tensor: Tensor) -> bool:
    """Whether a tensor's values may decide what is computed next, and nothing records or wraps it."""
    return not torch.compiler.is_compiling() and is_plain(tensor) and watched() is None


def misfit(tensors: Iterable[Tensor], dtype: torch.dtype) -> str | None:
    """Return why compiled code cannot take these tensors; all but integers are to be of one dtype."""
    device: torch.device | None = None
    for tensor in tensors:
        if not is_plain(tensor):
            return f"a {type(tensor).__name__} on {tensor.device} is no plain tensor on a CPU or CUDA device"
        if device is None:
            device = tensor.device
        elif tensor.device != device:
            return f"{device} meets {tensor.device}"
        if tensor.dtype != dtype and tensor.is_floating_point():
            return f"{tensor.dtype} meets {dtype}"
    return None


@cache
def compiles() -> bool:
    """Whether Numba is there, can be imported and is set to compile; without it torch runs the steps."""
    try:
        import numba
    except ModuleNotFoundError as error:
        if error.name == "numba":
            return False
        _warn(error)
        return False
    except Exception as error:  # Numba refuses a NumPy that it does not know
        _warn(error)
        return False
    config: Any = numba.config
    return not config.DISABLE_JIT


def _warn(error: Exception) -> None:
    warnings.warn(
        f"Numba cannot be imported, so torch's operators run the time steps, more slowly: {describe(error)}",
        stacklevel=4,
    )


def batch_sizes(packed: PackedSequence) -> list[int]:
    """Return how many sequences are alive at each step.

    Raises:
        RuntimeError: sizes that are no int64 vector on the CPU, not positive, that increase, or that do not
            add up to the rows.
    """
    given = packed.batch_sizes
    if not isinstance(given, Tensor) or given.dtype != torch.int64 or given.dim() != 1 or not given.is_cpu:
        kind = (
            f"{given.dim()}-D {given.dtype} on {given.device}" if isinstance(given, Tensor) else type(given)
        )
        raise RuntimeError(f"batch_sizes must be a 1-D int64 tensor on the CPU, got {kind}")
    sizes: list[int] = given.tolist()
    if not sizes or sizes[-1] < 1 or sizes != sorted(sizes, reverse=True):
        raise RuntimeError(f"batch_sizes must be positive and never increase, got {_short(sizes)}")
    if sum(sizes) != len(packed.data):
        raise RuntimeError(
            f"batch_sizes must add up to the {len(packed.data)} rows of data, "
            f"got {_short(sizes)}, which make {sum(sizes)}"
        )
    return sizes


def _short(sizes: list[int]) -> str:
    return str(sizes) if len(sizes) <= 8 else f"[{', '.join(map(str, sizes[:8]))}, …] of {len(sizes)} steps"


def check_result(source: nn.Module, what: str, given: Tensor, result: Any) -> Tensor:
    """Return what a quantizer or a normaliser made of ``given`` if it agrees with it, as its contract says.

    Args:
        source: the quantizer or normaliser.
        what: what ``given`` is, for the message.
        given: what it was called with.
        result: what it returned.

    Raises:
        ValueError: another shape, device, layout (sparse) or, without autocast, dtype.
        TypeError: no tensor.
    """
    if not isinstance(result, Tensor):
        raise TypeError(f"{_title(source)} returned a {type(result).__name__} for {what}, expected a tensor")
    if (
        result.shape != given.shape
        or result.device != given.device
        or result.layout != given.layout
        or (result.dtype != given.dtype and not torch._C._is_any_autocast_enabled())
    ):
        raise ValueError(
            f"{_title(source)} returned {_form(result)} for {what}, expected {_form(given)} as it was given"
        )
    return result


def _title(source: nn.Module) -> str:
    kind = "normalizer" if isinstance(source, Normalizer) else "quantizer"
    return f"{kind} {type(source).__name__}"


def record_call(module: nn.Module, input: Proxy, state: Any) -> Any:
    """Record a call of a layer in a graph of torch.fx as one node, as torch.fx does with torch's layers.

    Raises:
        TraceError: a layer that is traced by itself, without a module around it.
    """
    tracer: Any = input.tracer
    if tracer.root is module:
        raise TraceError(
            f"torch.fx cannot look into a {type(module).__name__}: "
            "trace a module that contains it, in whose graph it is one node"
        )
    path = tracer.path_of_module(module)
    return tracer.create_proxy("call_module", path, (input,) if state is None else (input, state), {})


def _form(tensor: Tensor) -> str:
    layout = "" if tensor.layout == torch.strided else f", {tensor.layout}"
    return f"shape {tuple(tensor.shape)} of {tensor.dtype} on {tensor.device}{layout}"
