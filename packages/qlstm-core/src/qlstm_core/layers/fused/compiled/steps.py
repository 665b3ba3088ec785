"""The time steps by Numba kernels: for CPUs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from qlstm_core.kernels.feature_moments import LAYER, NO_NORM, RMS
from qlstm_core.kernels.gemm import pack
from qlstm_core.kernels.levels import Levels
from qlstm_core.kernels.packed_weight import PackedWeight
from qlstm_core.kernels.threads import parts_worth, share_work
from qlstm_core.layers.fused.compiled import step_feature_norm
from qlstm_core.layers.fused.compiled.operands import Derivatives, Flat, Matrices, Share, Side, Steps
from qlstm_core.layers.fused.compiled.products import write_product
from qlstm_core.layers.fused.compiled.time_loop import LOOPS
from qlstm_core.layers.fused.plan import Arguments, Chunk, Plan
from qlstm_core.layers.fused.steps import Backward, Forward
from qlstm_core.layers.fused.tape import Scales, Sums, Tape
from qlstm_core.layers.norm_contract import Norm
from qlstm_core.packed.engine.row_products import in_bits, in_panels, multiply_shared

CACHED = 1 << 17
"""Elements of a recurrent weight that a processor has in its own cache, beside all else."""


def _code(norm: Norm | None) -> int:
    return NO_NORM if norm is None else LAYER if norm.centered else RMS


class CompiledSteps:
    """All steps; methods as :class:`qlstm_core.layers.fused.steps.TimeSteps` has them."""

    def __init__(self, plan: Plan, arguments: Arguments, tape: Tape) -> None:
        self.plan = plan
        self.arguments = arguments
        self.scales = Scales.of(plan, arguments)
        self.order = np.arange(plan.rows)
        self.parts = self._parts()
        self.fresh = arguments.weight_x is not None and len(tape.x) == 0
        self.input_weight: PackedWeight | None = None
        self.x = self._input_side(tape)
        scales = self.scales
        self.p = self._side(tape.p.numpy(), tape.p_moments, scales.gain_h, scales.bias_h, plan.norm_h)
        self.previous = tape.previous.numpy()
        self.cell = self._side(self.previous, tape.c_moments, scales.gain_c, scales.bias_c, plan.norm_c)
        self.steps = Steps(
            order=np.array(plan.order(), dtype=np.int64),
            start=0,
            stop=len(plan.batch_sizes),
            keep=False,
            fresh=self.fresh,
            own_x=arguments.weight_x is not None,
            pull_start=False,
            barrier=np.zeros(1, dtype=np.int64),
        )

    def _input_side(self, tape: Tape) -> Side:
        plan, given = self.plan, self.arguments.weight_x is None
        x = self.arguments.input if given else tape.x
        if self.fresh:
            x = tape.p.new_empty(plan.batch_sizes[0], plan.segments, plan.units)
        moments = tape.x_moments
        if not plan.over_batch and len(moments[0]) == 0:
            moments = (x.new_empty(x.shape[:2]), x.new_empty(x.shape[:2]))
        side = self._side(x.numpy(), moments, self.scales.gain_x, self.scales.bias_x, plan.norm_x)
        if plan.tokens is not None:
            side = side._replace(index=plan.tokens.long().numpy())
        if given and not plan.over_batch:
            step_feature_norm.input_moments(side)
        return side

    def _side(
        self, values: Any, moments: tuple[Tensor, Tensor], gain: Tensor, bias: Tensor, norm: Norm | None
    ) -> Side:
        mean, spread = moments
        return Side(
            values=values,
            index=self.order,
            mean=mean.numpy(),
            spread=spread.numpy(),
            gain=gain.unsqueeze(0).numpy(),
            bias=bias.unsqueeze(0).numpy(),
            norm=int(norm is not None and norm.training) if self.plan.over_batch else _code(norm),
            eps=0.0 if norm is None else norm.eps,
        )

    def _parts(self) -> int:
        """Into how many parts of the batch, or of the units, the work is worth dividing."""
        plan = self.plan
        work = plan.rows * plan.segments * plan.units * self.arguments.h.shape[1]
        room = plan.units // 16 if plan.over_batch else plan.batch_sizes[0] // 8
        return parts_worth(work, room)

    def _share(self, part: int) -> Share:
        """Return what a thread does.

        Where a thread has rows of its own, it computes all columns of their products, unless the weight is
        too large for every processor to keep all of it in its cache.
        """
        over_batch = self.plan.over_batch
        whole = self.plan.units if over_batch else self.plan.batch_sizes[0]
        grain = 16 if over_batch else 1
        begin, end = (whole * k // self.parts // grain * grain for k in (part, part + 1))
        end = whole if part + 1 == self.parts else end
        if not over_batch and self._floats() < CACHED:
            return Share(part, 0, 1, begin, end)
        return Share(part, part, self.parts, begin, end)

    def _floats(self) -> int:
        """Return how many elements of the recurrent weight are floats: those in bits take no room."""
        recurrent = {"recurrent": self.arguments.recurrent, "inner": self.arguments.inner}
        return sum(t.numel() for name, t in recurrent.items() if t is not None and self._levels(name) is None)

    def _levels(self, name: str) -> Levels | None:
        return None if self.plan.packing is None else self.plan.packing.levels.get(name)

    def _pack(self, name: str, *, forward: bool) -> Any:
        """Return a weight for products W·x, or Wᵀ·δ: in panels or, where packed products are run, in either.

        Args:
            name: of the argument; of none, panels that have no rows.
            forward: whether W is multiplied, or Wᵀ.
        """
        weight: Tensor | None = getattr(self.arguments, name) if name else None
        packing = self.plan.packing
        if packing is None or weight is None or (levels := packing.levels.get(name)) is None:
            panels = pack(weight, self.arguments.h, transposed=forward)
            return panels if packing is None else in_panels(panels)
        matrix = (weight if weight.dim() == 3 else weight.unsqueeze(0)).numpy()
        return in_bits(matrix, levels, packing.activation_bits, transposed=not forward, parts=self.parts)

    def _between(self) -> Any:
        inner, h = self.arguments.inner, self.arguments.h
        return h.new_empty(len(h), 1 if inner is None else len(inner)).numpy()

    def _by_units(self, rows: Tensor) -> Any:
        return rows.view(-1, self.plan.groups, self.plan.units).numpy()

    def _inputs(self) -> tuple[Any, Any]:
        """Return the layer's input and the input side, one row per sequence and step."""
        return self.arguments.input.flatten(1).numpy(), torch.from_numpy(self.x.values).flatten(1).numpy()

    def forward(self, buffers: Forward, *, keep: bool) -> None:
        """See TimeSteps."""
        plan, given = self.plan, self.arguments
        first, second = ("recurrent", "") if given.inner is None else ("inner", "recurrent")
        h, c, hidden, y = buffers
        matrices = Matrices(
            input=self._pack("weight_x", forward=True),
            first=self._pack(first, forward=True),
            second=self._pack(second, forward=True),
            projection=self._pack("projection", forward=True),
            factored=given.inner is not None,
            projected=given.projection is not None,
        )
        products = torch.from_numpy(self.p.values).flatten(1).numpy()
        flat = Flat(
            *self._inputs(), products, h.numpy(), self._between(), hidden.numpy(), y.numpy(), y[:0].numpy()
        )
        steps, cell = self.steps._replace(keep=keep), self.cell._replace(values=self._by_units(c))
        outputs = self._by_units(y if given.projection is None else hidden[:0])
        loop, _ = LOOPS[plan.packing is not None, plan.over_batch, plan.cell]
        operands = (
            steps,
            matrices,
            flat,
            self.x,
            self.p,
            self.previous,
            cell,
            self._by_units(hidden),
            outputs,
        )
        share_work(self.parts, lambda part: loop(self._share(part), *operands))

    def start_backward(self, buffers: Backward) -> None:
        """See TimeSteps."""
        given = self.arguments
        self.sums = Sums.new(self.plan, buffers.dh, self.parts)
        dy, dh, dc, d_hidden, dx, dp, hidden, d_outputs, initial = buffers
        self.matrices = Matrices(
            input=self._pack("weight_x" if self.fresh else "", forward=True),
            first=self._pack("recurrent", forward=False),
            second=self._pack("" if given.inner is None else "inner", forward=False),
            projection=self._pack("projection", forward=False),
            factored=given.inner is not None,
            projected=given.projection is not None,
        )
        self.flat = Flat(
            *self._inputs(), dp.flatten(1).numpy(), dh.numpy(), self._between(), d_hidden.numpy(), dy.numpy(),
            d_outputs.numpy(),
        )  # fmt: skip
        self.steps = self.steps._replace(pull_start=initial)
        sides, cell = (sums.flatten(0, 1).numpy() for sums in self.sums)
        self.derivatives = Derivatives(
            dy=self._by_units(dy if given.projection is None else hidden[:0]),
            dh=self._by_units(d_hidden),
            dc=self._by_units(dc),
            first=0,
            dx=dx.numpy(),
            dp=dp.numpy(),
            hidden=self._by_units(hidden),
            sums=sides,
            cell_sums=cell,
        )

    def backward(self, chunk: Chunk) -> None:
        """See TimeSteps."""
        steps = self.steps._replace(start=chunk.counts.start, stop=chunk.counts.stop)
        derivatives = self.derivatives._replace(first=chunk.first)
        _, loop = LOOPS[self.plan.packing is not None, self.plan.over_batch, self.plan.cell]
        operands = (steps, self.matrices, self.flat, self.x, self.p, self.previous, self.cell, derivatives)
        share_work(self.parts, lambda part: loop(self._share(part), *operands))

    def pull_input(self, d: Tensor, first: int, out: Tensor) -> None:
        """See TimeSteps."""
        rows, weight = d.flatten(1), self.arguments.weight_x
        assert weight is not None
        if self._levels("weight_x") is None:
            write_product(out[first : first + len(d)], rows, weight)
            return
        if self.input_weight is None:
            self.input_weight = self._pack("weight_x", forward=False)
        multiply_shared(self.input_weight, rows.numpy(), out[first : first + len(d)].numpy(), self.parts)

    def input_back(self, d: Tensor) -> None:
        """See TimeSteps."""
        if not self.plan.over_batch and self.plan.norm_x is not None:
            step_feature_norm.input_back(d.numpy(), self.x, self.sums.sides[0].numpy())

    def scatter(self, d: Tensor, first: int, table: Tensor) -> None:
        """See TimeSteps."""
        step_feature_norm.scatter(d.numpy(), self.x.index[first : first + len(d)], table.numpy())

    def gradients(self) -> Sums:
        """See TimeSteps."""
        return self.sums
