"""F-LSTM: an LSTM whose weight is a product of two smaller matrices."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from torch import Tensor, nn

from qlstm_core.interfaces import Normalizer
from qlstm_core.layers.linear import Dense, Factored, LinearMap
from qlstm_core.layers.lstm import LSTM
from qlstm_core.layers.weights import MatrixShape, reweighted


class FactorizedLSTM(LSTM):
    r"""An LSTM with :math:`W ≈ W_2 W_1`: all gates, input and state share one factor of low rank.

    .. math::
        \begin{bmatrix} W_i & W_h \end{bmatrix} = Q(W_2) \, Q(W_1), \quad
        W_1: rank × (in + out), \; W_2: 4 \, hidden × rank

    and the rest as in :class:`qlstm_core.LSTM`. Both factors are quantized. Normalisers act on the side as a
    whole: N(W_2 W_{1,x} x_t) and N(W_2 W_{1,h} h_{t−1}). One that acts on weights (weight normalisation) sees
    the product, so that the layer then multiplies it out once per forward call.

    Parameters per layer and direction: ``weight_outer`` (W2, ``(4 · hidden, rank)``), ``weight_inner`` (W1,
    ``(rank, in + out)``), one ``bias_ih`` and, with a projection, ``weight_hr``. W1 starts from U(−1/√hidden,
    1/√hidden), W2 from U(−√(3/rank), √(3/rank)), so that the product starts with the variance of an LSTM's
    weight.

    Example::

        layer = FactorizedLSTM(256, 512, proj_size=256, rank=64)
        output, (h, c) = layer(torch.randn(35, 20, 256))   # (35, 20, 256)

    Args:
        rank: of the product, from 1 to min(4 · hidden, in + out) of every layer; default 512.
        quantizer: as for LSTM; a dict has the keys ``"outer"``, ``"inner"``, ``"hr"``.

    Raises:
        ValueError: a rank out of range.

    Source: Kuchaiev and Ginsburg 2017, arXiv:1703.10722, section 2.1.
    """

    twin: ClassVar[type[nn.RNNBase] | None] = None

    def __init__(self, *args: Any, rank: int = 512, **kwargs: Any) -> None:
        self.rank = rank
        super().__init__(*args, **kwargs)

    def check_sizes(self) -> None:
        """Raise for a rank out of range."""
        for layer in range(self.num_layers):
            full = min(4 * self.hidden_size, self.layer_input_size(layer) + self.output_size)
            if not isinstance(self.rank, int) or not 1 <= self.rank <= full:
                raise ValueError(
                    f"rank must be an int from 1 to {full}, the full rank of layer {layer}, got {self.rank!r}"
                )

    def matrix_shapes(self, layer: int) -> dict[str, MatrixShape]:
        """Return the shapes of W2, of W1 and of a projection."""
        return {
            "outer": (4, self.hidden_size, self.rank),
            "inner": (1, self.rank, self.layer_input_size(layer) + self.output_size),
            **self.projection_shapes(),
        }

    @property
    def bias_names(self) -> tuple[str, ...]:
        """One bias, whatever the normaliser."""
        return ("bias_ih",) if self.bias else ()

    def initial_bound(self, name: str) -> float:
        """Return b, for a parameter drawn from U(−b, b): √(3/rank) for W2."""
        return math.sqrt(3.0 / self.rank) if name == "weight_outer" else super().initial_bound(name)

    def inner_factor(self, side: str, weights: dict[str, Tensor]) -> Tensor:
        """Return the columns of W1 that a side takes, ``(rank, cols)``."""
        inner = weights["inner"].squeeze(0)
        return inner[:, : -self.output_size] if side == "ih" else inner[:, -self.output_size :]

    def side_weight(self, side: str, weights: dict[str, Tensor]) -> Tensor:
        """Return W2 W1 of a side, ``(4, hidden, cols)``."""
        return weights["outer"] @ self.inner_factor(side, weights)

    def linear_map(
        self, side: str, layer: int, weights: dict[str, Tensor], normalizer: Normalizer | None
    ) -> LinearMap:
        """Return the two factors of a side, or their product where a normaliser acts on weights."""
        if normalizer is not None:
            return Dense(reweighted(normalizer, self.side_weight(side, weights), f"{side}_l{layer}"))
        return Factored(weights["outer"], self.inner_factor(side, weights))

    def extra_repr(self) -> str:
        """Return torch's text and the rank."""
        return f"{super().extra_repr()}, rank={self.rank}"
