"""What the compiled steps and loops take, in bundles: arrays and numbers that belong together.

S = groups · gates segments, of which segment ``q · gates + k`` is gate k of group q.
"""

from __future__ import annotations

from typing import Any, NamedTuple

BIAS_X, BIAS_H, GAIN_H, GAIN_X = 0, 1, 2, 3
"""Where ``sums`` has the gradients of the two sides' biases and gains."""
BIAS_C, GAIN_C = 0, 1
"""Where ``cell_sums`` has those of the cell state's."""


class Side(NamedTuple):
    """What is normalised: the input side of the gates, the recurrent side, or the cell state.

    ``value = gain ⊙ z + bias`` with ``z = (values − mean) · scale``.

    Args:
        values: ``(rows, S, units)``; of the cell state ``(batch, groups, units)``.
        index: which row of ``values`` each row of the sequence takes, before a base is subtracted, int64.
        mean: over features ``(rows, S)``, over the batch ``(steps, S, units)``.
        spread: of the same shape: over features the scale, ``1/√(v + eps)``; over the batch the variance v.
        gain, bias: ``(1, S, units)``.
        norm: over features ``NO_NORM``, ``RMS`` or ``LAYER``; over the batch 1 where the moments are the
            batch's own, which the forward pass then writes, and 0 where they are given.
        eps: added to the variance.
    """

    values: Any
    index: Any
    mean: Any
    spread: Any
    gain: Any
    bias: Any
    norm: int
    eps: float


class Derivatives(NamedTuple):
    """The derivatives of a backward run; dx, dp and hidden hold the rows of one chunk.

    Args:
        dy: of the outputs, ``(rows, groups, units)``, still to be added to dh; or no rows.
        dh, dc: of the state after a step, which become those of the state before it, ``(batch, groups,
            units)``; for the GRU dc is dh.
        first: the row of the sequence where dx, dp and hidden start.
        dx: written: of the input side, ``(…, S, units)``; over features of its normalised value.
        dp: written: of the recurrent product, likewise.
        hidden: written, unless it has no rows: h before a projection, ``(…, groups, units)``.
        sums: added to: of the sides' gains and biases, ``(4 · parts, S, units)``.
        cell_sums: added to: of the cell's gain and bias, ``(2 · parts, groups, units)``.
    """

    dy: Any
    dh: Any
    dc: Any
    first: int
    dx: Any
    dp: Any
    hidden: Any
    sums: Any
    cell_sums: Any


class Share(NamedTuple):
    """What one of several threads does.

    Args:
        part: its number, and that of its sums.
        share, shares: which share of the columns of each product it computes, of all rows; of one share, all
            columns of its own rows.
        begin, end: its rows of the batch or, where statistics are over the batch, its units.
    """

    part: int
    share: int
    shares: int
    begin: int
    end: int


class Steps(NamedTuple):
    """Which steps are run.

    Args:
        order: first row and number of sequences alive of each step, as they are processed, ``(steps, 2)``.
        start, stop: the range of steps.
        keep: whether what the backward run needs is kept for every row of the sequence.
        fresh: whether the input side is computed step by step, into the rows of one step. Otherwise it is
            there for the whole sequence, or for every token.
        own_x: whether the input side is the product of input and weight, rather than given.
        pull_start: whether the derivative of the initial state is wanted.
        barrier: where the threads wait for each other.
    """

    order: Any
    start: int
    stop: int
    keep: bool
    fresh: bool
    own_x: bool
    pull_start: bool
    barrier: Any


class Matrices(NamedTuple):
    """Packed matrices: panels, or all of them :class:`~qlstm_core.kernels.packed_weight.PackedWeight`.

    Args:
        input: the input weight.
        first, second: the recurrent weight in the order of multiplication, in one factor or in two.
        projection: the weight that projects the hidden state.
        factored: whether there are two factors.
        projected: whether there is a projection.
    """

    input: Any
    first: Any
    second: Any
    projection: Any
    factored: bool
    projected: bool


class Flat(NamedTuple):
    """What products read and write, one row per sequence and step: views of the other bundles' arrays.

    Args:
        inputs: input of the layer, ``(rows, features)``.
        x: the input side, ``(…, S · units)``.
        p: the recurrent product, or its derivative.
        h: the state that enters it, or its derivative.
        between: room for what passes between two factors, ``(batch, rank)``.
        hidden: h before a projection, or its derivative.
        y: the outputs, or their derivatives.
        d_outputs: of a backward run, derivatives of what the projection returns.
    """

    inputs: Any
    x: Any
    p: Any
    h: Any
    between: Any
    hidden: Any
    y: Any
    d_outputs: Any
