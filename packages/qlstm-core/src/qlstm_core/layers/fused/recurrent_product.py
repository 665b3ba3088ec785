"""Products and their derivatives, without autograd and into buffers that are given."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from qlstm_core.layers.border import compiles
from qlstm_core.layers.linear import Dense, Factored, Grouped, LinearMap


class Product(Protocol):
    """``p = W h`` for a batch of h."""

    def apply(self, h: Tensor, out: Tensor) -> None:
        """Write ``W h``, ``(n, S · units)``, for h ``(n, cols)``."""
        ...

    def pull(self, d: Tensor, out: Tensor, *, add: bool) -> None:
        """Write ``Wᵀ d``, ``(n, cols)``, or add it to what is there."""
        ...

    def collect(self, d: Tensor, h: Tensor) -> None:
        """Add ``Σ d hᵀ`` over the rows of both to the gradient."""
        ...

    @property
    def gradients(self) -> tuple[Tensor, ...]:
        """The gradients of the weights, in the order in which :func:`weights` has them."""
        ...


def weights(linear: LinearMap) -> tuple[Tensor, ...]:
    """Return the tensors that a linear map consists of, as matrices; for groups ``(groups, rows, cols)``."""
    if isinstance(linear, Dense):
        return (linear.matrix,)
    if isinstance(linear, Factored):
        return linear.outer.flatten(0, 1), linear.inner
    assert isinstance(linear, Grouped)
    return (linear.weight.reshape(linear.groups, -1, linear.weight.shape[-1]),)


def features(linear: LinearMap) -> int:
    """Return how many features a linear map takes."""
    if isinstance(linear, Grouped):
        return linear.groups * linear.weight.shape[-1]
    return weights(linear)[-1].shape[-1]


def product(tensors: tuple[Tensor, ...]) -> Product:
    """Return the product with what :func:`weights` returned."""
    if len(tensors) == 2:
        return _Factored(*tensors)
    return _Grouped(tensors[0]) if tensors[0].dim() == 3 else _Dense(tensors[0])


class _Dense:
    def __init__(self, weight: Tensor) -> None:
        self.weight = weight
        self.gradient: Tensor | None = None

    def apply(self, h: Tensor, out: Tensor) -> None:
        torch.mm(h, self.weight.t(), out=out)

    def pull(self, d: Tensor, out: Tensor, *, add: bool) -> None:
        torch.addmm(out, d, self.weight, beta=int(add), out=out)

    def collect(self, d: Tensor, h: Tensor) -> None:
        add = self.gradient is not None
        if self.gradient is None:
            self.gradient = torch.empty_like(self.weight)
        write_outer(self.gradient, d, h, add=add)

    @property
    def gradients(self) -> tuple[Tensor, ...]:
        assert self.gradient is not None
        return (self.gradient,)


class _Factored:
    def __init__(self, outer: Tensor, inner: Tensor) -> None:
        self.outer = _Dense(outer)
        self.inner = _Dense(inner)

    def apply(self, h: Tensor, out: Tensor) -> None:
        self.outer.apply(h @ self.inner.weight.t(), out)

    def pull(self, d: Tensor, out: Tensor, *, add: bool) -> None:
        self.inner.pull(d @ self.outer.weight, out, add=add)

    def collect(self, d: Tensor, h: Tensor) -> None:
        self.outer.collect(d, h @ self.inner.weight.t())
        self.inner.collect(d @ self.outer.weight, h)

    @property
    def gradients(self) -> tuple[Tensor, ...]:
        return (*self.outer.gradients, *self.inner.gradients)


class _Grouped:
    def __init__(self, weight: Tensor) -> None:
        self.weight = weight
        self.gradient: Tensor | None = None

    def _split(self, rows: Tensor) -> Tensor:
        """``(n, groups · k)`` as ``(groups, n, k)``."""
        groups = len(self.weight)
        return rows.view(len(rows), groups, rows.shape[1] // groups).transpose(0, 1)

    def apply(self, h: Tensor, out: Tensor) -> None:
        self._split(out).copy_(torch.bmm(self._split(h), self.weight.transpose(1, 2)))

    def pull(self, d: Tensor, out: Tensor, *, add: bool) -> None:
        pulled = torch.bmm(self._split(d), self.weight)
        target = self._split(out)
        if add:
            target += pulled
        else:
            target.copy_(pulled)

    def collect(self, d: Tensor, h: Tensor) -> None:
        product = torch.bmm(self._split(d).transpose(1, 2), self._split(h))
        self.gradient = product if self.gradient is None else self.gradient.add_(product)

    @property
    def gradients(self) -> tuple[Tensor, ...]:
        assert self.gradient is not None
        return (self.gradient,)


def write_outer(out: Tensor, d: Tensor, h: Tensor, *, add: bool) -> None:
    """``out = dᵀ h``, or with ``add`` ``out += dᵀ h``, for ``d`` ``(rows, n)`` and ``h`` ``(rows, k)``."""
    if _compiled(out):
        from qlstm_core.layers.fused.compiled import products

        products.write_outer(out, d, h, add=add)
    else:
        torch.addmm(out, d.t(), h, beta=int(add), out=out)


def write_product(out: Tensor, a: Tensor, matrix: Tensor) -> None:
    """``out = a · matrix``, for ``a`` ``(rows, k)`` and ``matrix`` ``(k, n)``."""
    if _compiled(out):
        from qlstm_core.layers.fused.compiled import products

        products.write_product(out, a, matrix)
    else:
        torch.mm(a, matrix, out=out)


def _compiled(out: Tensor) -> bool:
    return out.device.type == "cpu" and compiles()
