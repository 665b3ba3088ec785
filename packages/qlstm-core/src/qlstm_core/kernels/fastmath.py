"""exp, tanh and the logistic function of numbers and vectors inside compiled kernels, without branches.

Largest relative error between the bounds:

=========  ========  ========  =========================================================
function   float32   float64   bounds
=========  ========  ========  =========================================================
exp        2e-7      4e-16     −87 to 88 in float32, −708 to 709 in float64
sigmoid    3e-7      5e-16     the same
tanh       4e-7      4e-16     none
=========  ========  ========  =========================================================

Beyond its bounds exp stays as it is there, so that it never becomes infinite or denormal. NaN gives NaN.
Loops over numbers become vector code if LLVM sees that their arrays do not overlap.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba.core import types
from numba.extending import overload, register_jitable

from qlstm_core.kernels import float_vectors

# Products and sums may fuse. Nothing may be reordered: adding and subtracting a large constant is how exp
# rounds.
_OPTIONS: Any = {"fastmath": {"contract"}, "error_model": "numpy", "forceinline": True}


def exp(x: Any) -> Any:
    """Return e^x; callable from compiled code only."""
    raise NotImplementedError("exp is callable from compiled code only; use numpy.exp")


def sigmoid(x: Any) -> Any:
    """Return 1/(1 + e^−x); callable from compiled code only."""
    raise NotImplementedError("sigmoid is callable from compiled code only; use torch.sigmoid")


def tanh(x: Any) -> Any:
    """Return tanh x; callable from compiled code only."""
    raise NotImplementedError("tanh is callable from compiled code only; use numpy.tanh")


def tanh_ratio(x: Any) -> Any:
    """Return p and q with p/q = tanh x and 0.004 < q < 1, of float32; callable from compiled code only.

    Where the quotient is divided further, one division will do.
    """
    raise NotImplementedError("tanh_ratio is callable from compiled code only; use numpy.tanh")


@register_jitable(**_OPTIONS)
def _clamp(x: Any, low: Any, high: Any) -> Any:
    # Comparisons with NaN are false: NaN stays.
    x = high if x > high else x
    return low if x < low else x


@register_jitable(**_OPTIONS)
def _power32(rounded: Any) -> Any:
    return np.int32((np.float32(rounded).view(np.int32) + np.int32(127)) << np.int32(23)).view(np.float32)


@register_jitable(**_OPTIONS)
def _power64(rounded: Any) -> Any:
    return np.int64((np.float64(rounded).view(np.int64) + np.int64(1023)) << np.int64(52)).view(np.float64)


def _exp32(clamp: Callable[..., Any], power: Callable[..., Any]) -> Callable[[Any], Any]:
    def exp32(x: Any) -> Any:
        # e^x = 2^n e^r, |r| ≤ ln(2)/2: n is the nearest integer of x/ln 2, in the low bits of a float of 1.5
        # · 2^23.
        x = clamp(x, np.float32(-87), np.float32(88))
        rounded = x * np.float32(1.4426950408889634) + np.float32(12582912)
        n = rounded - np.float32(12582912)
        r = x - n * np.float32(0.693145751953125) - n * np.float32(1.428606820309417e-06)
        # The polynomial of Cephes' expf (Moshier).
        p = r * np.float32(1.9875691500e-4) + np.float32(1.3981999507e-3)
        p = p * r + np.float32(8.3334519073e-3)
        p = p * r + np.float32(4.1665795894e-2)
        p = p * r + np.float32(1.6666665459e-1)
        p = p * r + np.float32(5.0000001201e-1)
        return (p * (r * r) + r + np.float32(1)) * power(rounded)

    return exp32


def _exp64(clamp: Callable[..., Any], power: Callable[..., Any]) -> Callable[[Any], Any]:
    def exp64(x: Any) -> Any:
        # As exp32, with 1.5 · 2^52 and the rational function of Cephes' exp (Moshier).
        x = clamp(x, -708.0, 709.0)
        rounded = x * 1.4426950408889634 + 6755399441055744.0
        n = rounded - 6755399441055744.0
        r = x - n * 0.693145751953125 - n * 1.42860682030941723212e-6
        s = r * r
        p = r * ((s * 1.26177193074810590878e-4 + 3.02994407707441961300e-2) * s + 9.99999999999999999910e-1)
        q = (s * 3.00198505138664455042e-6 + 2.52448340349684104192e-3) * s + 2.27265548208155028766e-1
        q = q * s + 2.0
        return (2.0 * p / (q - p) + 1.0) * power(rounded)

    return exp64


def _ratio32(clamp: Callable[..., Any]) -> Callable[[Any], Any]:
    bound = np.float32(7.90531110763549805)

    def ratio32(x: Any) -> Any:
        # x P(x²)/Q(x²), the rational function of Eigen's ptanh; beyond the bound it would leave [−1, 1].
        x = clamp(x, -bound, bound)
        s = x * x
        p = s * np.float32(-2.76076847742355e-16) + np.float32(2.00018790482477e-13)
        p = p * s + np.float32(-8.60467152213735e-11)
        p = p * s + np.float32(5.12229709037114e-08)
        p = p * s + np.float32(1.48572235717979e-05)
        p = p * s + np.float32(6.37261928875436e-04)
        p = p * s + np.float32(4.89352455891786e-03)
        q = s * np.float32(1.19825839466702e-06) + np.float32(1.18534705686654e-04)
        q = q * s + np.float32(2.26843463243900e-03)
        q = q * s + np.float32(4.89352518554385e-03)
        return x * p, q

    return ratio32


def _tanh64(magnitude: Callable[[Any], Any], where_less: Callable[..., Any]) -> Callable[[Any], Any]:
    def tanh64(x: Any) -> Any:
        # Cephes' tanh (Moshier): x + x³ P(x²)/Q(x²) near zero, else from e^2|x|.
        a = magnitude(x)
        s = x * x
        p = (s * -9.64399179425052238628e-1 - 9.92877231001918586564e1) * s - 1.61468768441708447952e3
        q = ((s + 1.12811678491632931402e2) * s + 2.23548839060100448583e3) * s + 4.84406305325125486048e3
        near = x * s * (p / q) + x
        far = 1.0 - 2.0 / (exp(2.0 * a) + 1.0)
        return where_less(a, 0.625, near, where_less(x, 0.0, -far, far))

    return tanh64


@register_jitable(**_OPTIONS)
def _where_less(a: Any, bound: Any, then: Any, otherwise: Any) -> Any:
    return then if a < bound else otherwise


@register_jitable(**_OPTIONS)
def _clamp_vector(x: Any, low: Any, high: Any) -> Any:
    return float_vectors.at_least(float_vectors.at_most(x, high), low)


@overload(exp, jit_options=_OPTIONS)
def _compile_exp(x: Any) -> Any:
    return {
        types.float32: _exp32(_clamp, _power32),
        types.float64: _exp64(_clamp, _power64),
        float_vectors.Vector(types.float32): _exp32(_clamp_vector, float_vectors.power_of_two),
        float_vectors.Vector(types.float64): _exp64(_clamp_vector, float_vectors.power_of_two),
    }.get(x)


@overload(tanh_ratio, jit_options=_OPTIONS)
def _compile_tanh_ratio(x: Any) -> Any:
    return {
        types.float32: _ratio32(_clamp),
        float_vectors.Vector(types.float32): _ratio32(_clamp_vector),
    }.get(x)


@overload(tanh, jit_options=_OPTIONS)
def _compile_tanh(x: Any) -> Any:
    def tanh32(x: Any) -> Any:
        numerator, denominator = tanh_ratio(x)
        return numerator / denominator

    return {
        types.float32: tanh32,
        types.float64: _tanh64(abs, _where_less),
        float_vectors.Vector(types.float32): tanh32,
        float_vectors.Vector(types.float64): _tanh64(float_vectors.magnitude, float_vectors.where_less),
    }.get(x)


@overload(sigmoid, jit_options=_OPTIONS)
def _compile_sigmoid(x: Any) -> Any:
    single = x in (types.float32, float_vectors.Vector(types.float32))
    if not single and x not in (types.float64, float_vectors.Vector(types.float64)):
        return None
    one = np.float32(1) if single else 1.0

    def logistic(x: Any) -> Any:
        return one / (exp(-x) + one)

    return logistic
