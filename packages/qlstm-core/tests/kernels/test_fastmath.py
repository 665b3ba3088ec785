"""Compiled exp, tanh and the logistic function against NumPy in longer floats, to the stated errors."""

from __future__ import annotations

import numpy as np
import pytest

from qlstm_core.kernels import fastmath
from qlstm_core.kernels.compile import compiled
from qlstm_core.kernels.float_vectors import first, lanes, load, store

# The largest relative errors that qlstm_core.kernels.fastmath states, and the bounds between which they hold.
STATED = {
    ("exp", np.float32): (2e-7, 87.0),
    ("exp", np.float64): (4e-16, 708.0),
    ("sigmoid", np.float32): (3e-7, 87.0),
    ("sigmoid", np.float64): (5e-16, 708.0),
    ("tanh", np.float32): (4e-7, 1e4),
    ("tanh", np.float64): (4e-16, 1e4),
}
EXACT = {"exp": np.exp, "sigmoid": lambda x: 1 / (1 + np.exp(-x)), "tanh": np.tanh}


def numbers(function):
    @compiled(None)
    def apply(x, y):
        for i in range(x.size):
            y[0, 0, i] = function(x[0, 0, i])

    return apply


def whole_vectors(function):
    @compiled(None)
    def apply(x, y):
        for j in range(0, x.size, lanes(x)):
            inside = first(x, x.size - j)
            store(y, 0, 0, j, inside, function(load(x, 0, 0, j, inside)))

    return apply


def through(kind, function, x):
    y = np.empty((1, 1, x.size), x.dtype)
    kind(function)(x.reshape(1, 1, -1), y)
    return y.ravel()


def spread(dtype, bound):
    """Both signs of all magnitudes up to a bound, and everything near zero."""
    magnitudes = np.concatenate([np.geomspace(1e-30, bound, 20_001), np.linspace(0, min(bound, 20), 20_001)])
    return np.concatenate([magnitudes, -magnitudes]).astype(dtype)


@pytest.mark.parametrize("kind", [numbers, whole_vectors])
@pytest.mark.parametrize(("name", "dtype"), STATED)
def test_errors_are_below_those_stated(name, dtype, kind):
    stated, bound = STATED[name, dtype]
    x = spread(dtype, bound)
    found = through(kind, getattr(fastmath, name), x).astype(np.longdouble)
    wanted = EXACT[name](x.astype(np.longdouble))
    error = np.abs(found - wanted) / np.where(wanted == 0, 1, np.abs(wanted))
    assert error.max() <= stated


@pytest.mark.parametrize("kind", [numbers, whole_vectors])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_beyond_the_bounds_nothing_becomes_infinite_and_nan_stays(dtype, kind):
    x = np.array([np.inf, -np.inf, 1e30, -1e30, np.nan], dtype)
    exp, sigmoid, tanh = (through(kind, getattr(fastmath, n), x) for n in ("exp", "sigmoid", "tanh"))
    assert np.isfinite(exp[:4]).all()
    assert (exp[:4] > 0).all()
    assert np.allclose(sigmoid[:4], [1, 0, 1, 0], atol=1e-30)
    assert np.allclose(tanh[:4], [1, -1, 1, -1], atol=1e-6)
    assert np.isnan([exp[4], sigmoid[4], tanh[4]]).all()


@pytest.mark.parametrize("kind", [numbers, whole_vectors])
def test_the_ratio_is_tanh_with_a_denominator_near_one(kind):
    x = spread(np.float32, 1e4)
    quotient = through(kind, _quotient, x)
    denominator = through(kind, _below, x)
    assert np.array_equal(quotient, through(kind, fastmath.tanh, x))
    assert denominator.min() > 0.004
    assert denominator.max() < 1


@compiled(None, forceinline=True)
def _quotient(x):
    p, q = fastmath.tanh_ratio(x)
    return p / q


@compiled(None, forceinline=True)
def _below(x):
    return fastmath.tanh_ratio(x)[1]


def test_from_python_the_functions_say_what_to_take():
    for name in ("exp", "sigmoid", "tanh", "tanh_ratio"):
        with pytest.raises(NotImplementedError, match="compiled code only; use "):
            getattr(fastmath, name)(1.0)
