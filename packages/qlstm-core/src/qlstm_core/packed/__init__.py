"""Packed inference: weights as bits, products by table look-up.

Importing this package imports neither Numba nor any kernel; see :mod:`qlstm_core.packed.dispatch`.
"""
