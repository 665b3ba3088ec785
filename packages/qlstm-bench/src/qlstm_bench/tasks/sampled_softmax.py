"""Sampled softmax: the loss of a large vocabulary from a few of its words."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, embedding


@dataclass(frozen=True)
class Draw:
    """Different words, drawn by Zipf's law.

    Args:
        words: ``(S,)``, int64.
        tries: number of words drawn until there were S different ones.
    """

    words: Tensor
    tries: int


def draw_words(count: int, vocabulary: int, device: torch.device | None = None) -> Draw:
    """Draw words until ``count`` different ones are there, each time word k with probability

    ``q_k = log((k + 2)/(k + 1)) / log(V + 1)``, Zipf's law for V words of which the most frequent come first.

    Args:
        count: below the vocabulary's size.
        vocabulary: V.
        device: device of the sample.
    """
    drawn = _log_uniform(2 * count, vocabulary, device)
    while len(words := drawn.unique()) < count:
        drawn = torch.cat([drawn, _log_uniform(len(drawn), vocabulary, device)])
    place = torch.searchsorted(words, drawn)
    order = torch.arange(len(drawn), device=device)
    first = order.new_full(words.shape, len(drawn)).scatter_reduce_(0, place, order, "amin")
    kept = first.argsort()[:count]
    return Draw(words[kept], int(first[kept[-1]]) + 1)


def _log_uniform(count: int, vocabulary: int, device: torch.device | None) -> Tensor:
    u = torch.rand(count, dtype=torch.float64, device=device)
    return (torch.exp(u * math.log(vocabulary + 1)).long() - 1).clamp_(0, vocabulary - 1)


def probability(words: Tensor, vocabulary: int) -> Tensor:
    """Return q_k of :func:`draw_words` for each of ``words``, float64."""
    return torch.log1p(1 / (words.double() + 1)) / math.log(vocabulary + 1)


def sampled_cross_entropy(
    features: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, draw: Draw, *, sparse: bool = False
) -> Tensor:
    """Return the mean cross-entropy of a softmax over each target and the drawn words.

    Logits are corrected for the chance of a word to be in the draw, which ended after n tries:
    ``h·w_k + a_k − log(1 − (1 − q_k)^n)``. Drawn words that are the target itself are left out.

    Args:
        features: h, ``(N, d)``.
        weight: weight of the output layer, ``(V, d)``.
        bias: a, ``(V,)``.
        targets: ``(N,)``, int64.
        draw: S different words.
        sparse: have the gradient of ``weight`` as a sparse tensor, of the rows that were used alone.

    Source: Jean et al. 2015, arXiv:1412.2007; Jozefowicz et al. 2016, arXiv:1602.02410.
    """
    count, used = len(targets), torch.cat([targets, draw.words])
    rows = embedding(used, weight, sparse=sparse)
    chances = -torch.expm1(draw.tries * torch.log1p(-probability(used, len(weight))))
    offsets = bias[used] - chances.log().to(bias.dtype)
    true = (features * rows[:count]).sum(-1) + offsets[:count]
    others = features @ rows[count:].T + offsets[count:]
    others = others.masked_fill(targets.unsqueeze(1) == draw.words, -math.inf)
    logits = torch.cat([true.unsqueeze(1), others.to(true.dtype)], 1)
    return cross_entropy(logits, torch.zeros_like(targets))
