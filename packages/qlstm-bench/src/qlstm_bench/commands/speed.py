"""``qlstm-bench speed``: what training and packed inference cost here, beside their peers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qlstm_bench.commands.options import check_file

if TYPE_CHECKING:
    import pandas as pd

HELP = "Time a training step or a packed network on this machine, beside their peers."

TRAIN_HELP = """Time a training step with each normaliser, beside torch.nn.LSTM and the readable loop.

A step is the forward and backward pass of one layer. Everything is measured by turns in one run; a ratio is
the median, over the rounds, of the duration over torch.nn.LSTM's in the same round. "path" is the way the
layer takes: torch's own operator, the fused route, or the loop. With a quantizer, packed products stand
beside exact ones.

\b
Examples:
  qlstm-bench speed train
  qlstm-bench speed train --shape 35,20,650,650 --threads 1 --rounds 15
  qlstm-bench speed train --quantizer bwn --normalizer layer --normalizer my-normalizer --csv steps.csv
  qlstm-bench speed train --quantizer binary-connect --products exact --products packed16 --products packed12
"""

INFERENCE_HELP = """Time packed networks beside torch and ONNX Runtime, float32 and int8, on one thread.

Everything is measured by turns in one run. "x NAME" is how many times faster than that peer: the median,
over the rounds, of the ratio in the same round. "error" is the relative error of the output over all steps,
against float64 with the same quantized weights. Every peer runs the weights of the first quantizer; a
normaliser, which they do not know, only the packed networks bear. ONNX Runtime takes part where it is
installed: pip install 'qlstm-bench[peers]'.

\b
Examples:
  qlstm-bench speed inference
  qlstm-bench speed inference --hidden 1024 --quantizer bwn --activation-bits 12
  qlstm-bench speed inference --hidden 512 --batch 64
  qlstm-bench speed inference --hidden 512 --symbols 50 --stepwise --normalizer layer --csv inference.csv
"""

app = typer.Typer(rich_markup_mode=None, help=HELP, no_args_is_help=True)


@app.command("train", help=TRAIN_HELP)
def train(
    shape: Annotated[
        list[str] | None,
        typer.Option(metavar="STEPS,BATCH,INPUT,HIDDEN", help="Size; may be given several times."),
    ] = None,
    threads: Annotated[
        list[int] | None, typer.Option(min=1, help="Threads; may be given several times; default: 1 and 2.")
    ] = None,
    normalizer: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="May be given several times; default: those of the papers."),
    ] = None,
    quantizer: Annotated[str, typer.Option(metavar="NAME", help="Of the layers' weights.")] = "none",
    products: Annotated[
        list[str] | None,
        typer.Option(
            metavar="exact|packed16|packed12",
            help="How they are multiplied by; may be given several times; default: exact, with a quantizer "
            "packed16, too.",
        ),
    ] = None,
    loops: Annotated[bool, typer.Option(help="Measure the readable loop, too.")] = True,
    rounds: Annotated[int, typer.Option(min=1, help="How often each is timed.")] = 5,
    csv: Annotated[Path | None, typer.Option(help="Write the figures to this file, too.")] = None,
) -> None:
    """Time training steps."""
    import pandas as pd

    from qlstm_bench.progress import share_of_work
    from qlstm_bench.speed.training import NORMALIZERS, SHAPES, Shape, compare_training_steps

    shapes = [Shape.parse(text) for text in shape] if shape else [Shape(*sizes) for sizes in SHAPES]
    if csv is not None:
        check_file("--csv", csv)
    rows = []
    with share_of_work("training steps") as done:
        for part in compare_training_steps(
            shapes,
            threads or [1, 2],
            normalizers=normalizer or NORMALIZERS,
            quantizer=quantizer,
            products=products or (["exact"] if quantizer == "none" else ["exact", "packed16"]),
            loops=loops,
            rounds=rounds,
            done=done,
        ):
            rows += [
                {
                    "steps,batch,input,hidden": str(row.shape),
                    "threads": row.threads,
                    "layer": row.name,
                    "path": row.route,
                    "ms": row.timing.median * 1e3,
                    "ms_best": row.timing.best * 1e3,
                    "ratio": row.ratio,
                    "ratio_best": row.ratio_of_best,
                }
                for row in part
            ]
    _show(pd.DataFrame(rows), ["steps,batch,input,hidden", "threads"], csv)


@app.command("inference", help=INFERENCE_HELP)
def inference(
    hidden: Annotated[
        int | None, typer.Option(min=1, help="Units, and input features; default: five scenarios.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Sequences side by side, with --hidden.")] = 1,
    steps: Annotated[int, typer.Option(min=1, help="Time steps, with --hidden.")] = 100,
    symbols: Annotated[
        int | None, typer.Option(min=2, help="The input is one of so many tokens, with --hidden.")
    ] = None,
    stepwise: Annotated[
        bool, typer.Option("--stepwise", help="One call per time step, with --hidden.")
    ] = False,
    quantizer: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="May be given several times; default: bwn and twn."),
    ] = None,
    normalizer: Annotated[str, typer.Option(metavar="NAME", help="Of the packed networks.")] = "none",
    activation_bits: Annotated[
        list[int] | None, typer.Option(help="8, 12 or 16; may be given several times; default: all.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often each is timed.")] = 7,
    csv: Annotated[Path | None, typer.Option(help="Write the figures to this file, too.")] = None,
) -> None:
    """Time packed networks and their peers."""
    import pandas as pd

    from qlstm_bench.progress import share_of_work
    from qlstm_bench.speed.inference import ACTIVATION_BITS, SCENARIOS, Scenario, compare_inference
    from qlstm_bench.speed.peers import onnx_runtime_missing

    if csv is not None:
        check_file("--csv", csv)
    scenarios = (
        SCENARIOS if hidden is None else [Scenario(hidden, batch, steps, stepwise=stepwise, symbols=symbols)]
    )
    rows = []
    with share_of_work("packed networks and their peers") as done:
        for part in compare_inference(
            scenarios,
            quantizers=quantizer or ("bwn", "twn"),
            normalizer=normalizer,
            activation_bits=activation_bits or ACTIVATION_BITS,
            rounds=rounds,
            done=done,
        ):
            rows += [
                {
                    "scenario": row.scenario.title,
                    "network": row.name,
                    "us/step": row.timing.median * 1e6,
                    "best": row.timing.best * 1e6,
                    "steps/s": row.scenario.batch / row.timing.median,
                    **{f"x {name}": ratio for name, ratio in row.ratios.items()},
                    "error": f"{row.error:.1e}",
                }
                for row in part
            ]
    _show(pd.DataFrame(rows), ["scenario"], csv)
    if missing := onnx_runtime_missing():
        print(f"\nwithout ONNX Runtime: {missing}")


def _show(frame: pd.DataFrame, sections: list[str], csv: Path | None) -> None:
    """Print one table per section, and write all to ``csv``."""
    from qlstm_bench.tables import aligned, cells, text_columns, to_csv
    from qlstm_core.files import replace_file

    for values, part in frame.groupby(sections, sort=False):
        print(
            "\n" + "; ".join(f"{name} {value}" for name, value in zip(sections, values, strict=True)) + "\n"
        )
        shown = part.drop(columns=sections)
        print(aligned(list(shown.columns), cells(shown, _number), text_columns(shown)))
    if csv is not None:
        replace_file(csv, to_csv(frame))
        print(f"\nfigures: {csv}")


def _number(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 100 else f"{value:,.0f}"
