"""Gated recurrent unit."""

from __future__ import annotations

from typing import ClassVar

import torch

from qlstm_core.layers.cell import GRU_CELL, Cell
from qlstm_core.layers.stack import RecurrentLayer
from qlstm_core.layers.templates import NormalizerLike, QuantizerLike


class GRU(RecurrentLayer):
    r"""A drop-in for :class:`torch.nn.GRU` with quantized weights and normalised pre-activations.

    With Q the quantizer, N the normaliser of each side, and one matrix per gate:

    .. math::
        r_t &= σ(N(Q(W_{ir}) x_t) + b_{ir} + N(Q(W_{hr}) h_{t-1}) + b_{hr}) \\
        z_t &= σ(N(Q(W_{iz}) x_t) + b_{iz} + N(Q(W_{hz}) h_{t-1}) + b_{hz}) \\
        n_t &= \tanh(N(Q(W_{in}) x_t) + b_{in} + r_t ⊙ (N(Q(W_{hn}) h_{t-1}) + b_{hn})) \\
        h_t &= (1 - z_t) ⊙ n_t + z_t ⊙ h_{t-1}

    With a normaliser there is one bias, ``bias_ih``, and the ``b_h`` are absent. All else as in
    :class:`qlstm_core.LSTM`; there is no projection, and no cell state to normalise.

    Example::

        layer = GRU(50, 128, num_layers=2, quantizer="twn", normalizer="layer")
        output, h = layer(torch.randn(100, 64, 50))   # (100, 64, 128), (2, 64, 128)

    Raises:
        ValueError: a ``proj_size`` other than 0, or a normaliser with ``cell=true``.

    Source: Cho et al. 2014, arXiv:1406.1078.
    """

    cell: ClassVar[Cell] = GRU_CELL

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        quantizer: QuantizerLike | dict[str, QuantizerLike] = "none",
        normalizer: NormalizerLike | dict[str, NormalizerLike] = "none",
        state_quantizer: QuantizerLike = "none",
        tokens: bool = False,
    ) -> None:
        if proj_size != 0:
            raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            proj_size,
            device,
            dtype,
            quantizer=quantizer,
            normalizer=normalizer,
            state_quantizer=state_quantizer,
            tokens=tokens,
        )
