"""``qlstm-bench gradients``: why a trained network's gradients explode, fade, or do not."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

HELP = """Measure the gradients of trained networks: how they grow or fade through time, and why.

On one batch of the validation part, with the loss at its last time step, for every layer and direction:
the gradient's norm at each step, spectral norms of the recurrent matrices before and after quantization,
gains and σ of the normaliser, λ1 and λ2 of the bound on one step, and both of its sides.
docs/gradient-bounds.md derives the bounds; docs/gradients.md says how to read the figures.

Prints two tables and writes into --out:

\b
  norms.csv, norms.png         gradient norm against time step
  gates.csv, spectral.png      spectral norms, sparsity, gains, σ of each gate
  stability.csv, bounds.csv    λ1, λ2, γ; both sides of the inequality at every step
  recorded.csv, lambda1.png, gains.png, sigma.png
                               during training, of runs with --gradients-every
  gain-effect.csv, .png        with --gains
  jacobian.csv, jacobian.png   with --jacobian

\b
Examples:
  qlstm-bench run char-lm --hidden 128 --steps 200 --quantizer binary-connect --gradients-every 20
  qlstm-bench gradients runs
  qlstm-bench gradients runs/char-lm-none-none-1a2b3c4d/model.safetensors --quantizer binary-connect
  qlstm-bench gradients runs --gains 0.1,0.3,1,3,10
  qlstm-bench gradients runs --jacobian --out figures
"""


def gradients(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="RUN|MODEL...", help="Run folders, folders of them, or model.safetensors."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for tables and figures.")] = Path("gradients"),
    quantizer: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Also measure the same weights quantized by this one."),
    ] = None,
    normalizer: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Also measure the same weights under this normaliser, untrained."),
    ] = None,
    gains: Annotated[
        str | None,
        typer.Option(metavar="F,F,...", help="Measure with all recurrent gains multiplied by each factor."),
    ] = None,
    jacobian: Annotated[
        bool, typer.Option("--jacobian", help="Exact Jacobians through time; small networks only.")
    ] = False,
) -> None:
    """Measure the gradients of trained networks."""
    from qlstm_bench.gradients.study.study import study

    study(paths, out, quantizer=quantizer, normalizer=normalizer, gains=_factors(gains), jacobian=jacobian)


def _factors(text: str | None) -> tuple[float, ...]:
    from qlstm_bench.errors import BenchError

    try:
        factors = tuple(float(part) for part in (text or "").split(",") if part)
    except ValueError:
        factors = (-1.0,)
    if any(not 0 < factor < float("inf") for factor in factors):
        raise BenchError(f"--gains: expected positive numbers with commas between them, got {text!r}")
    return factors
