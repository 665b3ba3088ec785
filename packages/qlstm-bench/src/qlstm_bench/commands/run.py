"""``qlstm-bench run``: train one network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

HELP = """Train one network and write its run folder.

What a setting's help calls "the task's" is, for char-lm, that of the paper: 512 units, Adam with learning
rate 0.002, gradients clipped to norm 5, 64 streams of text, back-propagation through 100 steps.

A finished run is not repeated, an interrupted one goes on where it was: give the same command again. A run
whose loss or gradients overflow ends as "diverged": that is a result, and the exit code is 0.

\b
Data:
  stdlib-char    source of Python's own standard library; nothing to download (the default)
  ptb-char       Penn Treebank characters
  war-and-peace  the novel
  FILE           any text in UTF-8, split 80/10/10 % into training, validation and test
Published files are looked for in $QLSTM_DATA, else downloaded and kept; each is checked by its SHA-256.

\b
Examples:
  qlstm-bench run char-lm --hidden 128 --steps 300
  qlstm-bench run char-lm --hidden 128 --steps 300 --quantizer binary-connect
  qlstm-bench run char-lm --hidden 128 --steps 300 --quantizer binary-connect --normalizer layer
  qlstm-bench run char-lm --data ptb-char --epochs 10 --quantizer bwn:per_row=true --device cuda
  qlstm-bench run char-lm --data my_novel.txt --batch 16 --epochs 20

`qlstm plugins` lists the quantizers, normalisers and tasks that are installed.
"""


def run(
    task: Annotated[
        str, typer.Argument(metavar="TASK", help="What to train on: char-lm, or a plugin's task.")
    ],
    data: Annotated[str | None, typer.Option(metavar="NAME|FILE", help="Dataset, or a text file.")] = None,
    quantizer: Annotated[
        str, typer.Option(metavar="NAME", help="Of the recurrent layers' weights.")
    ] = "none",
    normalizer: Annotated[str, typer.Option(metavar="NAME", help="Of their pre-activations.")] = "none",
    hidden: Annotated[int | None, typer.Option(help="Units of each layer; default: the task's.")] = None,
    layers: Annotated[int, typer.Option(help="Recurrent layers.")] = 1,
    dropout: Annotated[float, typer.Option(help="Between recurrent layers.")] = 0.0,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data; default: 1.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps, instead of --epochs.")] = None,
    batch: Annotated[int | None, typer.Option(help="Sequences side by side; default: the task's.")] = None,
    unroll: Annotated[
        int | None, typer.Option(help="Steps of back-propagation; default: the task's.")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate; default: the task's.")] = None,
    clip: Annotated[float | None, typer.Option(help="Largest gradient norm; default: the task's.")] = None,
    eval_every: Annotated[
        int | None, typer.Option(help="Steps between validations; default: an epoch, or a tenth of the run.")
    ] = None,
    eval_symbols: Annotated[
        int | None, typer.Option(help="Validate and test on that many first symbols; default: all.")
    ] = None,
    gradients_every: Annotated[
        int | None, typer.Option(help="Steps between recordings of gradient stability; default: none.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of every random generator.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:NUMBER.")] = "auto",
    precision: Annotated[str, typer.Option(help="32-true, 64-true or bf16-mixed.")] = "32-true",
    checkpoint_seconds: Annotated[float, typer.Option(help="Time between checkpoints.")] = 60.0,
    out: Annotated[Path, typer.Option(help="Folder for run folders.")] = Path("runs"),
    force: Annotated[bool, typer.Option("--force", help="Train again what has finished already.")] = False,
) -> None:
    """Train one network."""
    from qlstm_bench.progress import RunProgress
    from qlstm_bench.train import train

    given = {
        "data": data, "hidden": hidden, "batch": batch, "unroll": unroll, "lr": lr, "clip": clip,
        "steps": steps,
        "epochs": 1 if epochs is None and steps is None else epochs,
        "eval_every": eval_every, "eval_symbols": eval_symbols, "gradients_every": gradients_every,
    }  # fmt: skip
    settings: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    settings |= {
        "task": task, "quantizer": quantizer, "normalizer": normalizer, "layers": layers, "dropout": dropout,
        "seed": seed, "device": device, "precision": precision, "checkpoint_seconds": checkpoint_seconds,
    }  # fmt: skip
    with RunProgress() as progress:
        outcome = train(settings, out, force=force, listen=progress.update)
    config = outcome.run.config
    print(f"{config.quantizer}, {config.normalizer} on {outcome.result.dataset.name}: {outcome.describe()}")
