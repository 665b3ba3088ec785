"""``qlstm-bench run``: train one network."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from qlstm_bench.config import ConfigError
from qlstm_bench.errors import BenchError

HELP = """Train one network and write its run folder.

What a setting's help calls "the task's" is that of the paper: `qlstm-bench tasks NAME` shows it.

A finished run is not repeated, an interrupted one goes on where it was: give the same command again. A run
whose loss or gradients overflow ends as "diverged": that is a result, and the exit code is 0.

\b
Tasks:
  char-lm        next character of a text: stdlib-char (the default), ptb-char, war-and-peace, text8
  word-lm        next word of a text: ptb-word
  large-vocab-lm the same with sampled softmax: billion-word, ptb-word
  mnist, digits  digit of an image read pixel by pixel; mnist:permuted=true in a random order
  classify       class of a sequence, for data of your own
--data takes a dataset's name or a file: any text in UTF-8, split 80/10/10 % into training, validation and
test; or, to classify, an .npz file with arrays x and y. `qlstm-bench datasets` says what is where.

\b
Examples:
  qlstm-bench run char-lm --hidden 128 --steps 300
  qlstm-bench run char-lm --hidden 128 --steps 300 --quantizer binary-connect
  qlstm-bench run char-lm --hidden 128 --steps 300 --quantizer binary-connect --normalizer layer
  qlstm-bench run char-lm --data ptb-char --epochs 10 --quantizer bwn:per_row=true --device cuda
  qlstm-bench run word-lm --epochs 40 --quantizer ter-connect --normalizer batch-separate:max_steps=35
  qlstm-bench run large-vocab-lm:samples=512 --data ptb-word --hidden 1024 --proj 128 --cell g-lstm --groups 4
  qlstm-bench run mnist:permuted=true --cell gru --quantizer twn --normalizer layer
  qlstm-bench run char-lm --data my_novel.txt --batch 16 --epochs 20
  qlstm-bench run char-lm --data ptb-char --processes 2
  torchrun --nproc-per-node 8 -m qlstm_bench run char-lm --data text8
  qlstm-bench run classify --data my_sequences.npz --epochs 20 --patience 3

`qlstm plugins` lists the quantizers, normalisers and tasks that are installed.
"""


def run(
    task: Annotated[str, typer.Argument(metavar="TASK", help="What to train on; maybe with options.")],
    data: Annotated[str | None, typer.Option(metavar="NAME|FILE", help="Default: the task's.")] = None,
    quantizer: Annotated[
        str, typer.Option(metavar="NAME", help="Of the recurrent layers' weights.")
    ] = "none",
    normalizer: Annotated[str, typer.Option(metavar="NAME", help="Of their pre-activations.")] = "none",
    cell: Annotated[str, typer.Option(help="lstm, gru, f-lstm (factorized) or g-lstm (grouped).")] = "lstm",
    hidden: Annotated[int | None, typer.Option(help="Units of each layer; default: the task's.")] = None,
    layers: Annotated[int | None, typer.Option(help="Recurrent layers; default: the task's.")] = None,
    proj: Annotated[int | None, typer.Option(help="Size of an LSTM's projected state.")] = None,
    rank: Annotated[int | None, typer.Option(help="Of an F-LSTM; default: 512.")] = None,
    groups: Annotated[
        str | None, typer.Option(metavar="N[,N…]", help="Of a G-LSTM, or of each layer; default: 4.")
    ] = None,
    dropout: Annotated[float | None, typer.Option(help="Default: the task's.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data; default: 1.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps, instead of --epochs.")] = None,
    batch: Annotated[int | None, typer.Option(help="Sequences side by side; default: the task's.")] = None,
    unroll: Annotated[
        int | None, typer.Option(help="Steps of back-propagation; default: the task's.")
    ] = None,
    optimizer: Annotated[str | None, typer.Option(help="adam, sgd or adagrad; default: the task's.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate; default: the task's.")] = None,
    quantized_lr: Annotated[
        float | None, typer.Option(help="That of quantized weights as a multiple; default: the task's.")
    ] = None,
    stall_divisor: Annotated[
        float | None, typer.Option(help="Divides it when validation stalls; default: the task's.")
    ] = None,
    epoch_decay: Annotated[
        float | None, typer.Option(help="Multiplies it after each epoch; default: the task's.")
    ] = None,
    epoch_decay_after: Annotated[
        int | None, typer.Option(help="Epochs before that begins; default: the task's.")
    ] = None,
    patience: Annotated[
        int | None, typer.Option(help="Validations without a better one before stopping; default: no end.")
    ] = None,
    average: Annotated[
        float, typer.Option(help="Decay of the average of weights to evaluate; 0: none.")
    ] = 0.0,
    clip: Annotated[float | None, typer.Option(help="Largest gradient norm; default: the task's.")] = None,
    clipping: Annotated[
        str, typer.Option(help="global: one norm over all; apart: recurrent layers have one of their own.")
    ] = "global",
    eval_every: Annotated[
        int | None, typer.Option(help="Steps between validations; default: an epoch, or a tenth of the run.")
    ] = None,
    eval_symbols: Annotated[
        int | None,
        typer.Option(help="Validate and test on that many first symbols or sequences; default: all."),
    ] = None,
    gradients_every: Annotated[
        int | None, typer.Option(help="Steps between recordings of gradient stability; default: none.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of every random generator.")] = 0,
    processes: Annotated[
        int | None, typer.Option(help="That train side by side, each with its share of every batch.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:NUMBER.")] = "auto",
    precision: Annotated[str, typer.Option(help="32-true, 64-true or bf16-mixed.")] = "32-true",
    checkpoint_seconds: Annotated[float, typer.Option(help="Time between checkpoints.")] = 60.0,
    log: Annotated[
        str, typer.Option(metavar="NAMES", help="Log to tensorboard, mlflow, or both with a comma, too.")
    ] = "",
    out: Annotated[Path, typer.Option(help="Folder for run folders.")] = Path("runs"),
    force: Annotated[bool, typer.Option("--force", help="Train again what has finished already.")] = False,
) -> None:
    """Train one network."""
    from qlstm_bench.progress import RunProgress
    from qlstm_bench.training.run import train
    from qlstm_bench.training.team import launched_processes
    from qlstm_core.printable import printable

    given = {
        "data": data, "hidden": hidden, "layers": layers, "proj": proj, "rank": rank,
        "groups": None if groups is None else _read_groups(groups), "dropout": dropout, "batch": batch,
        "unroll": unroll, "optimizer": optimizer, "lr": lr, "quantized_lr": quantized_lr,
        "stall_divisor": stall_divisor, "epoch_decay": epoch_decay, "epoch_decay_after": epoch_decay_after,
        "patience": patience, "clip": clip, "steps": steps,
        "epochs": 1 if epochs is None and steps is None else epochs,
        "eval_every": eval_every, "eval_symbols": eval_symbols, "gradients_every": gradients_every,
        "processes": processes,
    }  # fmt: skip
    settings: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    settings |= {
        "task": task, "quantizer": quantizer, "normalizer": normalizer, "cell": cell, "average": average,
        "clipping": clipping, "seed": seed, "device": device, "precision": precision,
        "checkpoint_seconds": checkpoint_seconds, "log": [name for name in log.split(",") if name],
    }  # fmt: skip
    if settings.get("processes", 1) > 1 and launched_processes() is None:
        launch(settings)
        return
    with RunProgress() as progress:
        outcome = train(settings, out, force=force, listen=progress.update)
    config = outcome.run.config
    if os.environ.get("RANK", "0") != "0":
        return  # the first process speaks for all
    line = f"{config.quantizer}, {config.normalizer} on {outcome.result.dataset.name}: {outcome.describe()}"
    print(printable(line))


def _read_groups(text: str) -> int | list[int]:
    """Return ``"4"`` as 4 and ``"4,8"`` as [4, 8].

    Raises:
        ConfigError: anything else.
    """

    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(
            f"groups: expected a number, or one for each layer as in 4,8, got {text!r}"
        ) from None
    return numbers if len(numbers) > 1 else numbers[0]


def launch(settings: Mapping[str, Any]) -> None:
    """Start this command line again in several processes of this machine, through torchrun; wait for them.

    Args:
        settings: of the run, with ``processes``; what is wrong with them is found before anything starts.

    Raises:
        ConfigError, PluginError: as :func:`qlstm_bench.training.run.resolve`.
        BenchError: a process that failed.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main

    from qlstm_bench.training.run import resolve

    config, _ = resolve(settings)
    command = ["--standalone", "--nproc-per-node", str(config.processes), "-m", "qlstm_bench", *sys.argv[1:]]
    logging.getLogger("torch.distributed").setLevel(logging.ERROR)
    try:
        main(command)
    except ChildFailedError as error:
        raise BenchError(f"one of {config.processes} processes failed; its message is above") from error
