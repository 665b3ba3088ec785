"""The command line ``qlstm-bench``: one function per command, and errors of one line."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

# Heavy modules are imported by the commands that need them: `qlstm-bench --help` answers at once.

_INTERRUPTED = 130

app = typer.Typer(
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Train recurrent networks with few-bit weights, compare them, and see why some do not learn.",
    epilog="First: `qlstm-bench demo`. `qlstm-bench COMMAND --help` says more about a command.",
)

_RUN_HELP = """Train one network and write its run folder.

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

_DEMO_HELP = """See the central finding of the field happen on this machine, in a few minutes.

Trains 12 small LSTMs on the source of Python's own standard library: weights of full precision, 1 bit
(binary-connect) and 2 bits (ter-connect), each without normalisation and with weight, layer and batch
normalisation. With few-bit weights alone the gradient explodes on its way back through time, and the
network does not learn; normalised, it learns like full precision, in a fraction of the memory.

Prints one table, and writes report.html and demo.png beside the runs. Finished runs are not repeated.

\b
Examples:
  qlstm-bench demo
  qlstm-bench demo --out /tmp/demo --force
"""

_REPORT_HELP = """Compare finished runs: table, training curves and gradient norms through time, in one file.

\b
Examples:
  qlstm-bench report runs
  qlstm-bench report runs/char-lm-none-none-* runs/char-lm-bwn-layer-* --out comparison.html
"""


@app.callback()
def _commands() -> None:
    """Make ``run`` a command of its own even where it is the only one."""


@app.command(help=_RUN_HELP)
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
        "eval_every": eval_every, "eval_symbols": eval_symbols,
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


@app.command(help=_DEMO_HELP)
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the report, the picture and the runs.")] = Path(
        "runs/demo"
    ),
    force: Annotated[bool, typer.Option("--force", help="Train again what has finished already.")] = False,
) -> None:
    """Train the demonstration's networks."""
    from qlstm_bench.demo import show

    show(out, force=force)


@app.command(help=_REPORT_HELP)
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUNS...", help="Run folders, or folders of them.")],
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("report.html"),
) -> None:
    """Compare finished runs."""
    from qlstm_bench.report import collect, print_table, write_html
    from qlstm_bench.runs import RunError

    records, problems = collect(runs)
    for problem in problems:
        print(f"qlstm-bench: skipped: {problem}", file=sys.stderr)
    if not records:
        raise RunError(f"no finished run in {', '.join(map(str, runs))}: expected folders with a result.json")
    print_table(records)
    try:
        write_html(records, out)
    except OSError as error:
        raise RunError(f"--out {str(out)!r} cannot be written: {error.strerror or error}") from error
    print(f"\nreport: {out}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 2 for bad input, 130 when interrupted.

    Args:
        arguments: without the program's name; default: those of the process.
    """
    from qlstm_bench.config import ConfigError
    from qlstm_bench.data.errors import DataError
    from qlstm_bench.runs import RunError
    from qlstm_core.plugins import PluginError

    command = typer.main.get_command(app)
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            words = list(sys.argv[1:] if arguments is None else arguments)
            code = command.main(args=words or ["--help"], prog_name="qlstm-bench", standalone_mode=False)
        except (ConfigError, DataError, PluginError, RunError) as error:
            return _refuse(str(error))
        except Exception as error:
            # typer brings its own copy of click, or uses the installed one: told by what it can do.
            if hasattr(error, "format_message"):
                return _refuse(_usage_message(error))
            if type(error).__name__ == "Abort":
                return _interrupted()
            raise
        except KeyboardInterrupt:
            return _interrupted()
    return _interrupted() if code == _INTERRUPTED else 0


def _refuse(message: str) -> int:
    print(f"qlstm-bench: error: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _interrupted() -> int:
    print("qlstm-bench: interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
    return _INTERRUPTED


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: object = None,
    line: object = None,
) -> None:
    print(f"qlstm-bench: warning: {message}", file=sys.stderr)


def _usage_message(error: Any) -> str:
    """Return click's complaint about the command line, with what is allowed and the nearest name."""
    from qlstm_core.plugins.errors import suggest

    context = getattr(error, "ctx", None)
    message: str = error.format_message()
    if context is None:
        return message
    commands = getattr(context.command, "commands", None)
    if commands and "No such command" in message:
        typed = message.split("'")[1]
        return f"unknown command {typed!r}{suggest(typed, commands)}; commands: {', '.join(commands)}"
    option = getattr(error, "option_name", None)
    if option and "No such option" in message:
        known = [name for parameter in context.command.params for name in parameter.opts if name[:2] == "--"]
        return f"unknown option {option!r}{suggest(option, known)}; allowed: {', '.join(known)}"
    return f"{message} (see `{context.command_path} --help`)"
