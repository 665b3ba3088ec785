"""``qlstm-bench run``: train one network."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from qlstm_bench.commands.options import given, help_of, settings_as_options
from qlstm_bench.config import RunConfig
from qlstm_bench.errors import BenchError

HELP = """Train one network and write its run folder.

A default that is the task's is that of the paper: `qlstm-bench tasks NAME` shows it.

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
  qlstm-bench run digits --optimizer adamw:weight_decay=0.01 --quantizer lab --log wandb
  qlstm-bench run digits --quantizer bwn --rounding stochastic --normalizer layer

`qlstm plugins` lists the cells, quantizers, normalisers, optimizers, tasks and loggers that are installed.
"""


@settings_as_options(RunConfig.model_fields)
def run(
    task: Annotated[str, typer.Argument(metavar="TASK", help=help_of(RunConfig.model_fields["task"]))],
    *,
    out: Annotated[Path, typer.Option(help="Folder for run folders.")] = Path("runs"),
    force: Annotated[bool, typer.Option("--force", help="Train again what has finished already.")] = False,
    **settings: Any,
) -> None:
    """Train one network."""
    from qlstm_bench.progress import RunProgress
    from qlstm_bench.training.run import train
    from qlstm_bench.training.team import launched_processes
    from qlstm_core.printable import printable

    asked = {"task": task, **given(settings)}
    if "steps" not in asked:
        asked.setdefault("epochs", 1)
    if asked.get("processes", 1) > 1 and launched_processes() is None:
        launch(asked)
        return
    with RunProgress() as progress:
        outcome = train(asked, out, force=force, listen=progress.update)
    config = outcome.run.config
    if os.environ.get("RANK", "0") != "0":
        return  # the first process speaks for all
    line = f"{config.quantizer}, {config.normalizer} on {outcome.result.dataset.name}: {outcome.describe()}"
    print(printable(line))


def launch(settings: Mapping[str, Any]) -> None:
    """Start this command line again in several processes of this machine, through torchrun; wait for them.

    Args:
        settings: settings of the run, with ``processes``; they are checked before anything starts.

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
