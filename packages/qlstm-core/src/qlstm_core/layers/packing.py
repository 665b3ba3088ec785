"""Which weights of a layer are multiplied as packed bits, where that is asked for, and why others are not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qlstm_core.layers.border import compiles
from qlstm_core.plugins.errors import suggest

if TYPE_CHECKING:
    from qlstm_core.kernels.levels import Levels

EXACT = "exact"
ACTIVATION_BITS = {EXACT: 0, "packed16": 16, "packed12": 12}
"""The names of products, and the bits of the sums of activations that they look up."""


@dataclass(frozen=True)
class Packing:
    """What products are made with.

    Args:
        products: a name of ``ACTIVATION_BITS``.
        levels: the levels of each weight, by the names of
            :class:`~qlstm_core.layers.fused.plan.Arguments`; ``None``: it has too many, or others.
        obstacle: why all products are exact although others are asked for.
    """

    products: str
    levels: dict[str, Levels | None]
    obstacle: str | None = None

    @property
    def activation_bits(self) -> int:
        """Bits of a table's entry."""
        return ACTIVATION_BITS[self.products]

    @property
    def packs(self) -> bool:
        """Whether any weight is packed."""
        return any(levels is not None for levels in self.levels.values())

    def of_input(self, x: Tensor) -> Packing:
        """Return what is left for this input: tokens pick columns of its weight, which is no product."""
        if x.is_floating_point() or self.obstacle is not None:
            return self
        return _checked(self.products, {k: v for k, v in self.levels.items() if k != "weight_x"})

    def __str__(self) -> str:
        if self.obstacle is not None:
            return f"exact products: {self.obstacle}"
        packed = [_TITLES[name] for name, levels in self.levels.items() if levels is not None]
        exact = [_TITLES[name] for name, levels in self.levels.items() if levels is None]
        rest = f"; exact ones with {' and '.join(exact)}, of more or other levels" if exact else ""
        return f"{self.products} products with {' and '.join(packed)}{rest}"


_TITLES = {
    "weight_x": "the input's weight",
    "recurrent": "the recurrent weight",
    "inner": "its inner factor",
    "projection": "the projection",
}


def _checked(products: str, levels: dict[str, Levels | None]) -> Packing:
    found = Packing(products, levels)
    return found if found.packs else Packing(products, {}, "no weight has few levels")


def check_products(name: object) -> str:
    """Return the name of products.

    Raises:
        ValueError: another name, with those allowed and the nearest.
    """
    if not isinstance(name, str) or name not in ACTIVATION_BITS:
        hint = suggest(name, list(ACTIVATION_BITS)) if isinstance(name, str) else ""
        raise ValueError(f"products must be one of {list(ACTIVATION_BITS)}, got {name!r}{hint}")
    return name


def find_packing(products: str, weights: dict[str, Tensor | None]) -> Packing:
    """Look at the values of a layer's weights.

    Args:
        products: a name of ``ACTIVATION_BITS``.
        weights: by name, each ``(rows, cols)`` or ``(groups, rows, cols)``.
    """
    given = {name: weight.detach() for name, weight in weights.items() if weight is not None}
    if products == EXACT:
        return Packing(products, {})
    if any(weight.dtype != torch.float32 or not weight.is_cpu for weight in given.values()):
        return Packing(products, {}, "others need float32 on a CPU")
    if not compiles():
        return Packing(products, {}, "others need Numba, set to compile")
    from qlstm_core.kernels.levels import find_levels

    levels = {}
    for name, weight in given.items():
        matrix = weight if weight.dim() == 3 else weight.unsqueeze(0)
        levels[name] = find_levels(matrix.contiguous().numpy())
    return _checked(products, levels)
