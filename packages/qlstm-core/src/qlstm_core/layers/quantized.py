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
    def storage_bytes(self) -> int:
        """Bytes of the layer as deployed."""
