"""The LSTM's and the GRU's equations, forward and backward, on vectors: compiled into the kernels.

``d_…`` is the derivative of the loss with respect to ….
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qlstm_core.kernels.compile import compiled
from qlstm_core.kernels.fastmath import sigmoid, tanh

# In a float32 vector's arithmetic a number becomes float32.
_ONE = np.float32(1)


@compiled(None, forceinline=True)
def lstm_gates(i: Any, f: Any, g: Any, o: Any) -> tuple[Any, Any, Any, Any]:
    """Return the gates from their pre-activations."""
    return sigmoid(i), sigmoid(f), tanh(g), sigmoid(o)


@compiled(None, forceinline=True)
def lstm_output_back(d_h: Any, o: Any, squashed: Any) -> tuple[Any, Any]:
    """Return the derivatives of o's pre-activation and of N(c): ``h = o · squashed = o · tanh(N(c))``."""
    return d_h * squashed * o * (_ONE - o), d_h * o * (_ONE - squashed * squashed)


@compiled(None, forceinline=True)
def lstm_cell_back(d_c: Any, i: Any, f: Any, g: Any, c: Any) -> tuple[Any, Any, Any]:
    """Return the derivatives of i's, f's and g's pre-activations, from ``c_t = f c + i g``."""
    return d_c * g * i * (_ONE - i), d_c * c * f * (_ONE - f), d_c * i * (_ONE - g * g)


@compiled(None, forceinline=True)
def gru_gates(r: Any, z: Any, xn: Any, hn: Any) -> tuple[Any, Any, Any]:
    """Return r, z and n from the pre-activations of r and z and the two sides of n's."""
    r = sigmoid(r)
    return r, sigmoid(z), tanh(xn + r * hn)


@compiled(None, forceinline=True)
def gru_back(d_h: Any, r: Any, z: Any, n: Any, hn: Any, h: Any) -> tuple[Any, Any, Any]:
    """Return the derivatives of r's, z's and n's pre-activations: ``h_t = (1 − z) n + z h``.

    That of hn is r times that of n.
    """
    d_n = d_h * (_ONE - z) * (_ONE - n * n)
    return d_n * hn * r * (_ONE - r), d_h * (h - n) * z * (_ONE - z), d_n
