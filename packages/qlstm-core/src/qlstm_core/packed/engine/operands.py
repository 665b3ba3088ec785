"""What the engine takes, in bundles: arrays and numbers that belong together.

S = groups · gates segments, of which segment ``q · gates + k`` is gate k of group q.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class NetworkArrays(NamedTuple):
    """A network and the kernel that it was laid out for.

    Args:
        kernel: one record of :data:`qlstm_core.packed.engine.kernel_calls.KERNEL`.
        cells, matrices, blocks, floats: those of the :class:`~qlstm_core.packed.engine.program.Program`.
    """

    kernel: Any
    cells: Any
    matrices: Any
    blocks: Any
    floats: Any


class Inputs(NamedTuple):
    """The sequences, the rows of all steps one after the other.

    Args:
        x: ``(rows, features)`` float32; without rows where there are tokens.
        tokens: ``(rows,)`` int64; or none.
        sizes: ``(steps,)`` int64: how many sequences are alive at each step, never increasing.
        starts: ``(steps,)`` int64: where the rows of each step start.
    """

    x: Any
    tokens: Any
    sizes: Any
    starts: Any


class Workspace(NamedTuple):
    """Memory to compute in.

    Args:
        work: uint8.
        places: one record of where its parts start, from :meth:`Program.places
            <qlstm_core.packed.engine.program.Program.places>`.
    """

    work: Any
    places: Any


class Memory(NamedTuple):
    """What products are computed from: fields of the bundles above, the records out of their arrays."""

    kernel: Any
    matrices: Any
    blocks: Any
    floats: Any
    work: Any
    places: Any


class Affine(NamedTuple):
    """What follows the moments: factors and shifts of each step, those of both sides' shifts in one.

    Args:
        factor_x, factor_p: of the input side and the recurrent side, ``(steps, S, units)``.
        shift: added to their sum, ``(steps, S, units)``.
        new_shift: of a GRU, added to the recurrent side of its last gate, ``(steps, 1, units)``.
        factor_c, shift_c: of a normalised cell state, ``(steps, groups, units)``; otherwise without steps.
    """

    factor_x: Any
    factor_p: Any
    shift: Any
    new_shift: Any
    factor_c: Any
    shift_c: Any


class Group(NamedTuple):
    """Which features a matrix sees: those of group ``index`` of ``count``.

    Args:
        index: number of the group.
        count: number of groups.
        parts: number of vectors, each split into the groups, that stand one after the other in the input.
    """

    index: Any
    count: Any
    parts: Any
