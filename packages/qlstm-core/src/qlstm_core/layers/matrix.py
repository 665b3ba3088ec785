"""Drop-ins for torch.nn.Linear and Embedding with a quantized weight."""

from __future__ import annotations

import copy
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qlstm_core.interfaces import NoQuantizer, Quantizer
from qlstm_core.layers.checks import check_kind
from qlstm_core.layers.quantized import QuantizedLayer, evaluating
from qlstm_core.layers.templates import QuantizerLike, labels, prepare_anew, resolve


class _Matrix(QuantizedLayer):
    """One weight ``(rows, cols)``, which quantizers see as the matrix of one gate, ``(1, rows, cols)``.

    Attributes:
        quantizer: this layer's own copy. Layers that share a weight share it too.
    """

    weight: Tensor
    quantizer: Quantizer

    def _quantize_by(self, quantizer: QuantizerLike) -> None:
        self.labels = labels(quantizer=quantizer)
        self.quantizer = copy.deepcopy(resolve("quantizer", quantizer))
        if self.quantizer.needs_curvature:
            self.register_buffer("curvature", torch.ones_like(self.weight))
        self.prepare_from_weights()

    def reset_parameters(self) -> None:
        """Draw the weight as torch does, and let the quantizer start anew from it."""
        super().reset_parameters()  # type: ignore[misc]
        if "quantizer" in self._modules:  # torch's constructor draws before there is one
            self.prepare_from_weights()

    @torch.no_grad()
    def prepare_from_weights(self) -> None:
        """Let the quantizer start anew from the weight as it is now; its parameters stay the same objects."""
        prepare_anew(self.quantizer, self.weight.unsqueeze(0))
        if self.quantizer.needs_curvature:
            self.get_buffer("curvature").fill_(1)

    @property
    def quantizes(self) -> bool:
        """Whether a quantizer acts on the weight."""
        return not isinstance(self.quantizer, NoQuantizer)

    def quantized_weight(self) -> Tensor:
        """Return Q(W), ``(rows, cols)``, connected to the graph."""
        if not self.quantizes:
            return self.weight
        return self.quantize("weight", self.weight.unsqueeze(0), self.quantizer).squeeze(0)

    def weight_quantizers(self) -> dict[str, Quantizer]:
        """Return the quantizer of ``weight``, if there is one."""
        return {"weight": self.quantizer} if self.quantizes else {}

    def matrices(self) -> dict[str, Tensor]:
        """Return ``weight`` as the matrix of one gate, ``(1, rows, cols)``."""
        return {"weight": self.weight.unsqueeze(0)}

    def adopt_quantizer(self, weight: str, quantizer: Quantizer) -> None:
        """Take the quantizer of another layer that has the same weight."""
        self.quantizer = quantizer

    def extra_repr(self) -> str:
        """Return torch's text, and the quantizer."""
        shown = super().extra_repr()
        return ", ".join([shown, *(f"{key}={label!r}" for key, label in self.labels.items())])

    def __repr__(self) -> str:
        """Return one line: the label says all that the quantizer's would."""
        return f"{type(self).__name__}({self.extra_repr()})"

    def _as_float(self, twin: nn.Module) -> Any:
        """Return torch's layer with the weight that this one computes with."""
        with evaluating(self):  # what is deployed is not sampled
            twin.weight = nn.Parameter(self.quantized_weight().detach().clone(), self.weight.requires_grad)
        return twin.train(self.training)


class Linear(_Matrix, nn.Linear):
    r"""A drop-in for :class:`torch.nn.Linear` with a quantized weight: :math:`y = Q(W) x + b`.

    Example::

        head = Linear(128, 50, quantizer="uniform:bits=4,per_row=true")

    Args:
        in_features, out_features, bias, device, dtype: as torch.nn.Linear.
        quantizer: a name, a name with options, or a :class:`qlstm_core.Quantizer`; it sees the weight as the
            matrix of one gate, ``(1, out_features, in_features)``.

    Raises:
        ValueError: an unknown name or option, with those allowed and the nearest.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        quantizer: QuantizerLike = "none",
    ) -> None:
        super().__init__(in_features, out_features, bias, device, dtype)
        self._quantize_by(quantizer)

    @classmethod
    def from_float(cls, layer: nn.Linear, *, quantizer: QuantizerLike = "none") -> Self:
        """Return a layer with a copy of torch's weight and bias.

        Args:
            layer: torch's layer.
            quantizer: as for a new layer.
        """
        check_kind(f"{cls.__name__}.from_float", layer, nn.Linear, "a torch.nn.Linear")
        sizes = (layer.in_features, layer.out_features, layer.bias is not None)
        new: Self = _from_float(cls(*sizes, device="meta", dtype=layer.weight.dtype), layer, quantizer)
        return new

    def to_float(self) -> nn.Linear:
        """Return a torch.nn.Linear that computes what this layer does in ``eval()``: its weight is Q(W)."""
        twin = nn.Linear(
            self.in_features, self.out_features, self.bias is not None, device="meta", dtype=self.weight.dtype
        )
        if self.bias is not None:
            twin.bias = nn.Parameter(self.bias.detach().clone(), self.bias.requires_grad)
        return self._as_float(twin)  # type: ignore[no-any-return]

    def forward(self, input: Tensor) -> Tensor:
        """Return Q(W) x + b, ``(…, out_features)``, from ``(…, in_features)``."""
        return F.linear(input, self.quantized_weight(), self.bias)

    def storage_bytes(self) -> int:
        """Bytes as deployed: the weight at its quantizer's bits and scales, the bias at 32 bits."""
        bias = 0 if self.bias is None else self.out_features
        return self.weight_bytes()["weight"] + 4 * bias


class Embedding(_Matrix, nn.Embedding):
    r"""A drop-in for :class:`torch.nn.Embedding` with a quantized weight: row :math:`k` of :math:`Q(W)`.

    The row of ``padding_idx``, zeros unless somebody changes it, keeps full precision: 1-bit weights have no
    zero.

    Example::

        words = Embedding(10000, 300, quantizer="uniform:bits=4,per_row=true")

    Args:
        num_embeddings, embedding_dim, padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse: as
            torch.nn.Embedding, which has ``from_pretrained`` too.
        device, dtype: as torch.nn.Embedding.
        quantizer: a name, a name with options, or a :class:`qlstm_core.Quantizer`; it sees the weight as the
            matrix of one gate, ``(1, num_embeddings, embedding_dim)``. With ``per_row=true`` each word has
            scales of its own.

    Raises:
        ValueError: an unknown name or option, with those allowed and the nearest; in the forward call,
            ``max_norm`` or ``sparse`` together with a quantizer.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        _weight: Tensor | None = None,
        _freeze: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        quantizer: QuantizerLike = "none",
    ) -> None:
        super().__init__(
            num_embeddings, embedding_dim, padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse,
            _weight, _freeze, device=device, dtype=dtype,
        )  # fmt: skip
        self._quantize_by(quantizer)

    @classmethod
    def from_float(cls, layer: nn.Embedding, *, quantizer: QuantizerLike = "none") -> Self:
        """Return a layer with a copy of torch's weight.

        Args:
            layer: torch's layer.
            quantizer: as for a new layer.
        """
        check_kind(f"{cls.__name__}.from_float", layer, nn.Embedding, "a torch.nn.Embedding")
        new: Self = _from_float(cls(**_embedding_settings(layer)), layer, quantizer)
        new._check_rows()
        return new

    def to_float(self) -> nn.Embedding:
        """Return a torch.nn.Embedding that computes what this layer does in ``eval()``: it has Q(W)."""
        twin: nn.Embedding = self._as_float(nn.Embedding(**_embedding_settings(self)))
        return twin

    def quantized_weight(self) -> Tensor:
        """Return Q(W), ``(num_embeddings, embedding_dim)``, with the padding's row in full precision."""
        weight = super().quantized_weight()
        if not self.quantizes or self.padding_idx is None:
            return weight
        padding = torch.arange(self.num_embeddings, device=weight.device).unsqueeze(1) == self.padding_idx
        return torch.where(padding, self.weight, weight)

    def forward(self, input: Tensor) -> Tensor:
        """Return the rows of Q(W) that tokens name, ``(…, embedding_dim)``, from integers ``(…)``."""
        self._check_rows()
        return F.embedding(
            input, self.quantized_weight(), self.padding_idx, self.max_norm, self.norm_type,
            self.scale_grad_by_freq, self.sparse,
        )  # fmt: skip

    def _check_rows(self) -> None:
        if self.quantizes and (self.sparse or self.max_norm is not None):
            given = "sparse=True" if self.sparse else f"max_norm={self.max_norm}"
            raise ValueError(
                f"Embedding: {given} changes single rows of the full-precision weight, and quantizer "
                f"{self.labels['quantizer']!r} looks at all of it: leave one of them out"
            )

    def storage_bytes(self) -> int:
        """Bytes as deployed: the weight at its quantizer's bits and scales, a padding's row at 32 bits."""
        padding = 4 * self.embedding_dim if self.quantizes and self.padding_idx is not None else 0
        return self.weight_bytes()["weight"] + padding


def _embedding_settings(layer: nn.Embedding) -> dict[str, Any]:
    names = ("num_embeddings", "embedding_dim", "padding_idx", "max_norm", "norm_type", "scale_grad_by_freq")
    return {name: getattr(layer, name) for name in (*names, "sparse")} | {"device": "meta"}


def _from_float(layer: Any, source: nn.Module, quantizer: QuantizerLike) -> Any:
    """Give a layer without weights copies of another's, and a quantizer that starts from them."""
    for name, parameter in source.named_parameters(recurse=False):
        setattr(layer, name, nn.Parameter(parameter.detach().clone(), parameter.requires_grad))
    layer._quantize_by(quantizer)
    return layer.train(source.training)
