"""Back-propagation through batch normalisation: equations (1) and (2) of Sari and Partovi Nia."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

import pandas as pd
import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import batch_norm

from qlstm_bench.theory.experiment import Experiment, Findings, Progress

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_EPSILON = 1e-12  # torch wants one; far below any variance here, and part of σ̂ in the comparison


def gradient(standardized: Tensor, upstream: Tensor, gain: Tensor, deviation: Tensor) -> Tensor:
    """Return equation (1), ∂L/∂s = (γ/σ̂)·(∂L/∂z − mean ∂L/∂z − ŝ·mean(∂L/∂z·ŝ)), ``(B, K)``.

    Args:
        standardized: ŝ, ``(B, K)``.
        upstream: ∂L/∂z, ``(B, K)``.
        gain: γ, ``(K,)``.
        deviation: σ̂, ``(K,)``, with division by B.
    """
    return gain / deviation * (upstream - upstream.mean(0) - standardized * (upstream * standardized).mean(0))


def paper_factor(batch: int) -> float:
    """Return V(∂L/∂s)·σ̂²/γ² over V(∂L/∂z) by equation (2): ``(B² + 2B − 1 + V(ŝ))/B²``, V(ŝ) = 1."""
    return (batch**2 + 2 * batch - 1 + 1) / batch**2


def factor(batch: int) -> float:
    """Return the same with its covariances: ``1 − 2/B``.

    Equation (1) takes away the gradient's parts along 1 and along ŝ, two of B directions: for a gradient that
    is independent of ŝ that is 2/B of its variance. Equation (2) adds the variances of the parts instead.
    """
    return 1 - 2 / batch


class BatchNormGradient(Experiment):
    """The gradient behind a batch normalisation, and its variance for a gradient independent of the sums.

    (1)      ∂L/∂s_b = (γ/σ̂)·(∂L/∂z_b − (1/B)·Σ ∂L/∂z − (ŝ_b/B)·Σ ∂L/∂z·ŝ)
    (2)      V(∂L/∂s) = (γ/(B·σ̂))²·{B² + 2B − 1 + V(ŝ)}·V(∂L/∂z), that is (1 + 2/B) for V(ŝ) = 1
    Refined: (γ/σ̂)²·(1 − 2/B)·V(∂L/∂z)

    Source: Sari and Partovi Nia 2020, "Batch normalization in quantized networks".
    """

    batch: tuple[Annotated[int, Field(ge=2)], ...] = Field(
        default=(2, 3, 4, 6, 8, 16, 32, 64, 256), description="B, samples"
    )
    features: int = Field(default=20_000, ge=10, description="neurons, each with its own sums and gradient")

    def run(self, progress: Progress = lambda share: None) -> Findings:
        """Compare with autograd for each B."""
        rows = []
        for number, B in enumerate(self.batch):
            generator = torch.Generator().manual_seed(self.seed)
            s, upstream = (
                torch.randn(B, self.features, dtype=torch.float64, generator=generator) for _ in range(2)
            )
            gain, shift = torch.rand(2, self.features, dtype=torch.float64, generator=generator) + 0.5
            s.requires_grad_()
            batch_norm(s, None, None, gain, shift, training=True, eps=_EPSILON).backward(upstream)
            assert s.grad is not None
            with torch.no_grad():
                deviation = (s.var(0, unbiased=False) + _EPSILON).sqrt()
                ours = gradient((s - s.mean(0)) / deviation, upstream, gain, deviation)
                scale = (gain / deviation).pow(2) * upstream.square().mean()
                ratio = s.grad.square().mean(0) / scale
                rows.append(
                    {
                        "batch": B,
                        # Relative to what equation (1) cancels: at B = 2 nothing is left of it.
                        "(1) against autograd": float(((s.grad - ours).abs() / (gain / deviation)).max()),
                        "measured": float(ratio.mean()),
                        "stderr": float(ratio.std()) / math.sqrt(self.features),
                        "(2)": paper_factor(B),
                        "refined": factor(B),
                    }
                )
            progress((number + 1) / len(self.batch))
        table = pd.DataFrame(rows)
        remarks = (
            f"Equation (1) and autograd differ by at most {table['(1) against autograd'].max():.1e}.",
            "Equation (2) has the sign of its 1/B term wrong: the gradient shrinks by 1 − 2/B, to zero at "
            "B = 2; printed is 1 + 2/B. Both tend to 1.",
        )
        caption = "Variance behind batch normalisation, relative to before it and to (γ/σ̂)²."
        return Findings(table, lambda figure: _draw(figure, table), caption, remarks, (5.5, 3.4))


def _draw(figure: Figure, table: pd.DataFrame) -> None:
    axes = figure.subplots()
    axes.semilogx(table.batch, table["(2)"], "--", color="#D55E00", label="equation (2)")
    axes.semilogx(table.batch, table.refined, "-", color="#0072B2", label="1 − 2/B")
    axes.semilogx(table.batch, table.measured, "o", color="#000000", label="measured")
    axes.set_xlabel("batch size B")
    axes.set_ylabel("variance factor")
    axes.legend(frameon=False, fontsize=8)
