"""What all layers with quantized weights have in common, recurrent or not."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from qlstm_core.interfaces import NoQuantizer, Quantizer
from qlstm_core.layers.border import check_result
from qlstm_core.layers.computed_weights import assign
from qlstm_core.packed.module import PackedModule


class QuantizedLayer(nn.Module):
    """A layer that computes with Q(W) and trains W: a recurrent layer, ``Linear`` or ``Embedding``.

    Training loops need no more of it::

        for layer in model.modules():
            if isinstance(layer, QuantizedLayer):
                layer.constrain_()
    """

    @abstractmethod
    def weight_quantizers(self) -> dict[str, Quantizer]:
        """Return the quantizers by the name of the full-precision weight that each acts on.

        A quantizer with ``needs_curvature`` gets the buffer that :func:`curvature_name` names.
        """

    @abstractmethod
    def adopt_quantizer(self, weight: str, quantizer: Quantizer) -> None:
        """Take the quantizer of another layer that has the same weight.

        Args:
            weight: name of the weight here, which has a quantizer already.
            quantizer: the other layer's.
        """

    @abstractmethod
    def matrices(self) -> dict[str, Tensor]:
        """Return each full-precision weight by its name, as quantizers see it, ``(gates, rows, cols)``."""

    def quantize(self, weight: str, matrix: Tensor, quantizer: Quantizer) -> Tensor:
        """Return Q(W) of one weight, ``(gates, rows, cols)``, with its second moments where it has them.

        Args:
            weight: name of the weight.
            matrix: the full-precision weight, ``(gates, rows, cols)``.
            quantizer: acts on it.
        """
        curvature = getattr(self, curvature_name(weight), None)
        quantized = quantizer(matrix, None if curvature is None else curvature.view_as(matrix))
        return check_result(quantizer, weight, matrix, quantized)

    @torch.no_grad()
    def constrain_(self) -> None:
        """Apply every quantizer's own constraint to its weight; call after each optimizer step."""
        quantizers = self.weight_quantizers()
        if not quantizers:
            return
        for name, weight in self.matrices().items():
            if name not in quantizers:
                continue
            if name in self._parameters:
                quantizers[name].constrain_(weight)
                continue
            constrained = weight.clone()
            quantizers[name].constrain_(constrained)
            if not torch.equal(constrained, weight):
                assign(self, name, constrained.view_as(getattr(self, name)))

    def weight_bytes(self) -> dict[str, int]:
        """Return the bytes of each weight by its name: at its quantizer's bits and scales, or at 32 bits."""
        quantizers = self.weight_quantizers()
        return {
            name: quantizers.get(name, NoQuantizer()).storage_bytes(*weight.shape)
            for name, weight in self.matrices().items()
        }

    @abstractmethod
    def storage_bytes(self) -> int:
        """Bytes of the layer as deployed."""


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into ``eval()`` for a while, and every module of it back into the mode it was in."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def curvature_name(weight: str) -> str:
    """Return the name of the buffer with a weight's second moments."""
    return weight.replace("weight", "curvature", 1)


def model_bytes(model: nn.Module, *, quantized: bool = True) -> int:
    """Return the bytes of a whole model as deployed.

    Quantized and packed layers count what they store; all other parameters and floating-point buffers count
    4 bytes a number. A weight that several layers share counts once, and one that is not made yet not at all.

    Args:
        model: any module.
        quantized: ``False`` counts 4 bytes for every number of a quantized weight too: the same model at
            float32.
    """
    total = 0
    seen: set[int] = set()
    inside: set[nn.Module] = set()
    for module in model.modules():
        if module in inside:
            continue
        if isinstance(module, PackedModule):
            inside.update(module.modules())
            total += module.nbytes if quantized else module.float32_nbytes
            continue
        if isinstance(module, QuantizedLayer):
            inside.update(module.modules())
            sizes = module.weight_bytes()
            total += module.storage_bytes() - sum(sizes.values())
            for name, size in sizes.items():
                weight = getattr(module, name)
                if id(weight) not in seen:
                    total += size if quantized else 4 * weight.numel()
                seen.add(id(weight))
            continue
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            if tensor.is_floating_point() and not is_lazy(tensor) and id(tensor) not in seen:
                total += 4 * tensor.numel()
                seen.add(id(tensor))
    return total
