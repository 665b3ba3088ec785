"""``qlstm-bench pack``: a trained run as one file that runs without torch's layers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qlstm_bench.commands.options import check_file

HELP = """Pack the model of a run: weights as bits, with its vocabulary, in one file that is ready to run.

The recurrent layer must have a quantizer, or embedding or output layer one (--embedding-quantizer,
--head-quantizer); what has none stays float32. The packed model is evaluated on the run's own validation
data: both figures are printed, and the bytes of both.

\b
Examples:
  qlstm-bench run char-lm --quantizer bwn --normalizer layer --head-quantizer uniform:bits=8,per_row=true
  qlstm-bench pack runs/char-lm-bwn-layer-1a2b3c4d --out model.safetensors
  qlstm-bench pack runs/char-lm-bwn-layer-1a2b3c4d --out model.safetensors --activation-bits 8
  qlstm-bench generate model.safetensors --prompt "def "
"""


def pack(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or its model.safetensors.")],
    *,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The file to write.")],
    activation_bits: Annotated[
        int | None,
        typer.Option(
            metavar="BITS",
            help="8, 12 or 16: how finely activations are rounded; default: 12, or 16 by need.",
        ),
    ] = None,
) -> None:
    """Pack the model of a run."""
    import torch

    import qlstm_core
    from qlstm_bench.errors import BenchError
    from qlstm_bench.tables import aligned
    from qlstm_bench.training.trained import load_model
    from qlstm_core.printable import printable

    check_file("--out", out)
    model, task = load_model(run)
    own = run / "model.safetensors" if run.is_dir() else run
    if out.exists() and out.samefile(own):
        raise BenchError(f"--out {str(out)!r} is the model of the run itself: choose another file")
    for module in model.modules():
        if isinstance(module, qlstm_core.InitialState) and module.noise and module.noise_in_eval:
            module.noise_in_eval = False  # which would differ from call to call
            print("the noise of the initial state is left out, in both")
    try:
        packed = qlstm_core.pack(model, activation_bits, vocabulary=task.vocabulary())
    except (TypeError, ValueError) as error:
        raise BenchError(f"{run}: {error}") from error
    with torch.no_grad():
        figures = [task.evaluate(one, "valid") for one in (model, packed)]
    sizes = [qlstm_core.model_bytes(model, quantized=False), packed.nbytes]
    try:
        packed.save(out)
    except OSError as error:
        raise BenchError(f"--out {str(out)!r} cannot be written: {error.strerror or error}") from error
    headings = ["", f"{task.metric_title} in validation", "bytes"]
    names = ("as trained, weights in float32", f"packed, {packed.activation_bits}-bit tables")
    rows = [
        [name, f"{figure:.4f}", f"{size:,}"] for name, figure, size in zip(names, figures, sizes, strict=True)
    ]
    print(aligned(headings, rows, left=[""]))
    print(printable(f"{out}: {out.stat().st_size:,} bytes with header and vocabulary"))
