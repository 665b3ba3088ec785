"""``qlstm-bench demo``: the central finding, seen on this machine."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

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


QUANTIZERS = ("none", "binary-connect", "ter-connect")

NORMALIZERS = ("batch-shared", "layer", "weight", "none")
"""The slowest first, so that short runs end the show."""

SETTINGS: dict[str, Any] = {
    "data": "stdlib-char",
    "hidden": 128,
    "steps": 200,
    "lr": 0.004,
    "eval_every": 40,
    "eval_symbols": 32_000,
    "device": "cpu",
}
"""What all runs share; the rest is the paper's. So few steps need twice the paper's learning rate."""


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the report, the picture and the runs.")] = Path(
        "runs/demo"
    ),
    force: Annotated[bool, typer.Option("--force", help="Train again what has finished already.")] = False,
) -> None:
    """Train the demonstration's networks."""
    show(out, force=force)


def show(out: Path, *, settings: Mapping[str, Any] = SETTINGS, force: bool = False) -> None:
    """Train what has not finished yet, print the table, and write ``report.html`` and ``demo.png``.

    Each run uses one thread, and as many runs go side by side as there are cores: the figures do not depend
    on the number of cores.

    Args:
        out: folder for the report, the picture and the runs.
        settings: settings that every run shares.
        force: whether to train again what has finished already.

    Raises:
        RunError: a folder that cannot be written to, or runs that failed.
    """
    from qlstm_bench.errors import RunError
    from qlstm_bench.report import collect, print_table, write_html
    from qlstm_bench.report.figures import draw_overview
    from qlstm_bench.sweep.cluster import cores, local_workers
    from qlstm_bench.sweep.progress import run_watched
    from qlstm_bench.training.folder import check_writable
    from qlstm_bench.training.run import resolve

    check_writable(out)
    started = time.monotonic()
    shared, _ = resolve({"task": "char-lm", **settings})
    configs = [
        shared.model_copy(update={"quantizer": quantizer, "normalizer": normalizer})
        for normalizer in NORMALIZERS
        for quantizer in QUANTIZERS
    ]
    labels = [f"{config.quantizer}, {config.normalizer}" for config in configs]
    workers = local_workers(min(len(configs), cores()))
    outcomes, failures = run_watched(configs, labels, (out / "runs").absolute(), workers, force=force)
    records, _ = collect(outcome.run.directory for outcome in outcomes)
    if records:
        print_table(records)
        write_html(records, out / "report.html")
        draw_overview(records, out / "demo.png")
        seconds = time.monotonic() - started
        print(f"\n{len(records)} runs in {seconds:.0f} s; {out / 'report.html'}, {out / 'demo.png'}")
    if failures:
        raise RunError(f"{len(failures)} of {len(configs)} runs failed: {'; '.join(failures)}")
