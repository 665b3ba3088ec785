"""``qlstm-bench demo``: the central finding, seen on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

HELP = """See the central finding of the field happen on this machine, in a few minutes.

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


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the report, the picture and the runs.")] = Path(
        "runs/demo"
    ),
    force: Annotated[bool, typer.Option("--force", help="Train again what has finished already.")] = False,
) -> None:
    """Train the demonstration's networks."""
    from qlstm_bench.demo import show

    show(out, force=force)
