"""What packed layers and models are as modules of torch: for evaluation, on the CPU, without parameters."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, NoReturn, Self

import torch
from torch import Tensor, nn


class PackedModule(nn.Module):
    """A module that computes with weights as bits, so that it has no parameters and gives no gradients.

    It may take the place of a layer in a float model::

        model.rnn = pack(model.rnn)

    It computes what the layer computed in ``eval()``, in whichever mode the model around it is: ``training``
    is always ``False``. Copies and pickles compute the same; ``state_dict()`` and other devices and dtypes
    are refused.
    """

    def __init__(self) -> None:
        super().__init__()
        self.training = False

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes as stored."""

    @property
    @abstractmethod
    def float32_nbytes(self) -> int:
        """Bytes of the same with every weight as float32."""

    def train(self, mode: bool = True) -> Self:
        """Return the module as it is: it is for evaluation alone."""
        return self

    def state_dict(self, *args: Any, prefix: str = "", **keywords: Any) -> NoReturn:
        """Refuse: there are no parameters that a dictionary could hold.

        Raises:
            RuntimeError: always.
        """
        place = f"{prefix[:-1]}: " if prefix else ""
        raise RuntimeError(
            f"{place}a {type(self).__name__} has no state_dict, its weights are bits: keep it with "
            "save(path) and load_packed(path), or keep the state_dict of the float model before it is packed"
        )

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        place = f"{prefix[:-1]}: " if prefix else ""
        error_msgs.append(
            f"{place}a {type(self).__name__} takes no parameters: load them into the float model, "
            "and pack it then"
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Refuse what ``to``, ``cuda``, ``half`` and their like would make of float32 on the CPU.

        Raises:
            RuntimeError: another device or dtype.
        """
        moved = fn(torch.zeros(0))
        if not moved.is_cpu:
            raise RuntimeError(
                f"a {type(self).__name__} runs on the CPU and cannot move to {moved.device}: move the float "
                "model before it is packed, or keep this one where it is"
            )
        if moved.dtype != torch.float32:
            raise RuntimeError(f"a {type(self).__name__} computes in float32 and cannot become {moved.dtype}")
        return self

    def _without_gradient(self, given: Iterable[Any], outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return outputs whose ``backward()`` says that there are no gradients, where one would be asked for.

        Args:
            given: what the module was called with, of which tensors may require a gradient.
            outputs: what it has computed.
        """
        if not torch.is_grad_enabled():
            return outputs
        tracked = [one for one in given if isinstance(one, Tensor) and one.requires_grad]
        if not tracked:
            return outputs
        refused: tuple[Tensor, ...] = _Refusal.apply(type(self).__name__, tracked[0], *outputs)  # type: ignore[no-untyped-call]
        return refused


class _Refusal(torch.autograd.Function):
    """The identity, with an error for a gradient."""

    @staticmethod
    def forward(ctx: Any, name: str, given: Tensor, *outputs: Tensor) -> tuple[Tensor, ...]:
        ctx.name = name
        return tuple(output.view_as(output) for output in outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> NoReturn:
        raise RuntimeError(
            f"a {ctx.name} gives no gradients, its weights are bits: train the float layer and pack it then, "
            "or cut the graph where it gives its output, with detach() or torch.no_grad()"
        )
