"""What all layers with quantized weights have in common, recurrent or not."""

from __future__ import annotations

from abc import abstractmethod

from torch import nn

from qlstm_core.interfaces import Quantizer


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

        The buffer of second moments that a quantizer with ``needs_curvature`` gets has the same name with
        ``curvature`` in place of ``weight``.
        """

    @abstractmethod
    def adopt_quantizer(self, weight: str, quantizer: Quantizer) -> None:
        """Take the quantizer of another layer that has the same weight.

        Args:
            weight: name of the weight here, which has a quantizer already.
            quantizer: the other layer's.
        """

    @abstractmethod
    def constrain_(self) -> None:
        """Apply every quantizer's own constraint to its weight; call after each optimizer step."""

    @abstractmethod
    def weight_bytes(self) -> dict[str, int]:
        """Return the bytes of each weight as deployed, by its name; 4 a number where nothing quantizes."""

    @abstractmethod
    def storage_bytes(self) -> int:
        """Bytes of the layer as deployed."""


def model_bytes(model: nn.Module, *, quantized: bool = True) -> int:
    """Return the bytes of a whole model as deployed.

    Quantized layers count what they store; all other parameters and floating-point buffers count 4 bytes a
    number. A weight that several layers share counts once.

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
            if tensor.is_floating_point() and id(tensor) not in seen:
                total += 4 * tensor.numel()
                seen.add(id(tensor))
    return total
