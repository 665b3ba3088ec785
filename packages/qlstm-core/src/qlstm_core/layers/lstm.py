"""Long short-term memory."""

from __future__ import annotations

from typing import ClassVar

from qlstm_core.layers.cell import LSTM_CELL, Cell
from qlstm_core.layers.stack import RecurrentLayer


class LSTM(RecurrentLayer):
    r"""A drop-in for :class:`torch.nn.LSTM` with quantized weights and normalised pre-activations.

    With Q the quantizer, N the normaliser of each side, and one matrix per gate:

    .. math::
        i_t &= σ(N(Q(W_{ii}) x_t) + N(Q(W_{hi}) h_{t-1}) + b_i) \\
        f_t &= σ(N(Q(W_{if}) x_t) + N(Q(W_{hf}) h_{t-1}) + b_f) \\
        g_t &= \tanh(N(Q(W_{ig}) x_t) + N(Q(W_{hg}) h_{t-1}) + b_g) \\
        o_t &= σ(N(Q(W_{io}) x_t) + N(Q(W_{ho}) h_{t-1}) + b_o) \\
        c_t &= f_t ⊙ c_{t-1} + i_t ⊙ g_t \\
        h_t &= o_t ⊙ \tanh(N_c(c_t))

    Call, shapes, parameter names, state and errors are torch.nn.LSTM's; with neither quantizer nor normaliser
    so are the numbers, and ``state_dict`` goes both ways. In addition the input may be an integer tensor,
    ``(T, B)`` or ``(T,)`` (``(B, T)`` with ``batch_first``): each token stands for a one-hot vector of
    ``input_size``, whose product with the weight is a column look-up.

    Example::

        layer = LSTM(50, 128, quantizer="bwn", normalizer="layer")
        output, (h, c) = layer(torch.randint(50, (100, 64)))   # (100, 64, 128)

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size: as
            torch.nn.LSTM.
        quantizer: a name (``"bwn"``), a name with options (``"alternating:bits=2"``), a
            :class:`qlstm_core.Quantizer`, or a dict of these for matrices ``"ih"``, ``"hh"`` and ``"hr"``.
            A matrix that the dict leaves out stays full precision, and so does the projection ``"hr"`` unless
            the dict names it, since nothing normalises what it gives.
        normalizer: a name, a name with options, a :class:`qlstm_core.Normalizer`, or a dict of these for the
            sides ``"ih"`` and ``"hh"``. A normalised layer has one bias per direction, ``bias_ih``;
            ``bias_hh`` exists only without normaliser.
        state_quantizer: quantizes the hidden state where it enters a matrix product: h_{t−1} in the recurrent
            product, and the output of the layer below.
        tokens: the input will be tokens: what depends on the kind of input starts accordingly (the gains of
            ``weight:gain=auto``). Either kind of input is taken whatever this says.
        device, dtype: as torch.nn.LSTM.

    Raises:
        ValueError: an unknown name or option, with those allowed and the nearest.
        TypeError, ValueError, RuntimeError: torch.nn.LSTM's own, for arguments, shapes and dtypes.

    Source: Hou et al. 2019, "Normalization helps training of quantized LSTM".
    """

    cell: ClassVar[Cell] = LSTM_CELL
