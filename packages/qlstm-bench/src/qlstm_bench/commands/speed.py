"""``qlstm-bench speed``: what training and packed inference cost here, beside their peers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import pandas as pd

HELP = "Time a training step or a packed network on this machine, beside their peers."

TRAIN_HELP = """Time a training step with each normaliser, beside torch.nn.LSTM and the readable loop.

A step is the forward and backward pass of one layer. Everything is measured by turns in one run; a ratio is
the median, over the rounds, of the duration over torch.nn.LSTM's in the same round. "path" is the way the
layer takes: torch's own operator, the fused path, or the loop.

\b
Examples:
  qlstm-bench speed train
  qlstm-bench speed train --shape 35,20,650,650 --threads 1 --rounds 15
  qlstm-bench speed train --quantizer bwn --normalizer layer --normalizer my-normalizer --csv steps.csv
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
    loops: Annotated[bool, typer.Option(help="Measure the readable loop, too.")] = True,
    rounds: Annotated[int, typer.Option(min=1, help="How often each is timed.")] = 5,
    csv: Annotated[Path | None, typer.Option(help="Write the figures to this file, too.")] = None,
) -> None:
    """Time training steps."""
    import pandas as pd

    from qlstm_bench.progress import share_of_work
    from qlstm_bench.speed.training import NORMALIZERS, SHAPES, Shape, compare_training_steps

    shapes = [Shape.parse(text) for text in shape] if shape else [Shape(*sizes) for sizes in SHAPES]
    _check_writable(csv)
    rows = []
    with share_of_work("training steps") as done:
        for part in compare_training_steps(
            shapes,
            threads or [1, 2],
            normalizers=normalizer or NORMALIZERS,
            quantizer=quantizer,
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


def _show(frame: pd.DataFrame, sections: list[str], csv: Path | None) -> None:
    """Print one table per section, and write all to ``csv``."""
    from qlstm_bench.text_table import aligned

    for values, part in frame.groupby(sections, sort=False):
        print(
            "\n" + "; ".join(f"{name} {value}" for name, value in zip(sections, values, strict=True)) + "\n"
        )
        columns = [name for name in frame.columns if name not in sections]
        rows = [[_cell(value) for value in row] for row in part[columns].itertuples(index=False)]
        text = [name for name in columns if part[name].dtype == object or str(part[name].dtype) == "str"]
        print(aligned(columns, rows, text))
    if csv is not None:
        frame.to_csv(csv, index=False)
        print(f"\nfigures: {csv}")


def _check_writable(csv: Path | None) -> None:
    """Find out before measuring whether the figures can be kept."""
    from qlstm_bench.errors import BenchError

    if csv is not None and not (csv.parent.is_dir() and os.access(csv.parent, os.W_OK)):
        raise BenchError(
            f"--csv {str(csv)!r} cannot be written: {str(csv.parent)!r} is no folder to write in"
        )


def _cell(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.2f}" if abs(value) < 100 else f"{value:,.0f}"
