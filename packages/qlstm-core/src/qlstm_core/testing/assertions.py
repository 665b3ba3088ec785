"""How a check says that something does not hold: with what was found and what is allowed."""

from __future__ import annotations

from typing import NoReturn
from unittest import SkipTest

import torch
from torch import Tensor


def require(condition: object, message: str) -> None:
    """Raise AssertionError with ``message`` unless ``condition`` holds, under ``python -O`` too."""
    __tracebackhide__ = True  # pytest then points at the check
    if not condition:
        raise AssertionError(message)


def require_fit(result: object, given: Tensor, where: str) -> None:
    """Raise AssertionError unless ``result`` is a tensor of the shape, dtype and device of ``given``.

    Nothing compiled may see one that is not: it would read beyond the end.
    """
    __tracebackhide__ = True
    if not isinstance(result, Tensor):
        raise AssertionError(f"{where} the result must be a Tensor, got {type(result).__name__}")
    wrong = [
        f"{name} is {found} instead of {expected}"
        for name, found, expected in (
            ("shape", tuple(result.shape), tuple(given.shape)),
            ("dtype", result.dtype, given.dtype),
            ("device", result.device, given.device),
        )
        if found != expected
    ]
    require(not wrong, f"{where} {', '.join(wrong)}")


def require_equal(actual: Tensor, expected: Tensor, message: str) -> None:
    """Raise AssertionError unless both tensors agree in shape, dtype and, bit for bit, in their values."""
    __tracebackhide__ = True
    require_close(actual, expected, message, tolerance=0.0)


def require_close(actual: Tensor, expected: Tensor, message: str, *, tolerance: float) -> None:
    """Raise AssertionError unless ``|actual − expected| ≤ tolerance``, naming the worst element.

    Args:
        actual, expected: same shape and dtype.
        message: what should hold.
        tolerance: absolute.
    """
    __tracebackhide__ = True
    for name, a, b in (
        ("shape", tuple(actual.shape), tuple(expected.shape)),
        ("dtype", actual.dtype, expected.dtype),
    ):
        require(a == b, f"{message}: {name} {a} instead of {b}")
    if actual.numel() == 0:
        return
    difference = (actual.detach().double() - expected.detach().double()).abs()
    wrong = ~(difference <= tolerance)
    if wrong.any():
        index = tuple(wrong.nonzero()[0].tolist())
        raise AssertionError(
            f"{message}: element {index} is {actual[index].item():.9g} instead of "
            f"{expected[index].item():.9g} ({int(wrong.sum())} of {wrong.numel()} differ)"
        )


def require_finite(values: Tensor, what: str) -> None:
    """Raise AssertionError unless every value is finite."""
    __tracebackhide__ = True
    finite = torch.isfinite(values)
    if not finite.all():
        index = tuple((~finite).nonzero()[0].tolist())
        raise AssertionError(f"{what} is {values[index].item()} at {index}; it must be finite")


class NotApplicable(SkipTest):
    """What leaves a check out; pytest and unittest know its base, which a plugin may raise as well."""


def skip(reason: str) -> NoReturn:
    """Leave a check out that does not apply."""
    raise NotApplicable(reason)
