"""Streams: a long text cut into pieces that are read side by side, a segment of each at a time."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from qlstm_bench.data.text import Codes


def cut_streams(codes: Codes, streams: int) -> Codes:
    """Cut a text into contiguous streams, ``(streams, len(codes) // streams)``, without what is left over."""
    length = len(codes) // streams
    return codes[: streams * length].reshape(streams, length)


def count_segments(streams: Codes, unroll: int) -> int:
    """Return how many segments of ``unroll`` predictions streams of L symbols have: ⌈(L − 1) / unroll⌉."""
    length: int = streams.shape[1]
    return math.ceil((length - 1) / unroll)


def segment(streams: Codes, index: int, unroll: int) -> tuple[Tensor, Tensor]:
    """Return the symbols of one segment and those that follow them, both ``(T, streams)``, int64.

    ``T`` is ``unroll``, or less for the last segment of the streams.
    """
    start = index * unroll
    stop = min(start + unroll, streams.shape[1] - 1)
    part = torch.from_numpy(streams[:, start : stop + 1].T.astype(np.int64))
    return part[:-1], part[1:]
