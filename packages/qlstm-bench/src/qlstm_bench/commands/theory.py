"""``qlstm-bench theory``: the papers' theorems beside measurements."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from qlstm_bench.theory import Experiment

HELP = """Run the theorems of the papers: prediction beside measurement, in tables and figures.

A setting that an experiment has can be changed with an option of its name; several values are separated by
commas. With "all", an option goes to every experiment that has that setting. The same settings give the
same figures.

Writes report.html with every figure and table, and NAME.csv, to --out.

\b
Examples:
  qlstm-bench theory --list
  qlstm-bench theory least-squares
  qlstm-bench theory least-squares --delta 0.1,0.4 --dimensions 8,128
  qlstm-bench theory markov --rate 0.1,0.01 --noise 3 --seed 1
  qlstm-bench theory all
"""

_FIXED = ("name", "listing", "out")


def theory(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME|all]", help="Which experiment; see --list.")
    ] = None,
    listing: Annotated[
        bool, typer.Option("--list", help="Name the experiments and their settings, and end.")
    ] = False,
    delta: Annotated[str | None, typer.Option(help="Δ, distance of grid points.")] = None,
    dimensions: Annotated[str | None, typer.Option(help="d, number of weights.")] = None,
    steps: Annotated[int | None, typer.Option(help="Of descent, walk or training.")] = None,
    chains: Annotated[int | None, typer.Option(help="Independent repetitions.")] = None,
    noise: Annotated[float | None, typer.Option(help="σ of the gradient.")] = None,
    condition: Annotated[float | None, typer.Option(help="Largest over smallest curvature.")] = None,
    strength: Annotated[float | None, typer.Option(help="Of the ℓ2 regulariser.")] = None,
    rows: Annotated[int | None, typer.Option(help="Of the logistic regression's data.")] = None,
    scale: Annotated[str | None, typer.Option(help="c, unit of the weights.")] = None,
    share: Annotated[float | None, typer.Option(help="π, share of positive labels.")] = None,
    distance: Annotated[str | None, typer.Option(help="ρ, of the minimiser to the grid, in Δ.")] = None,
    rate: Annotated[str | None, typer.Option(help="α, learning rate.")] = None,
    task: Annotated[str | None, typer.Option(help="Recurrent tasks to train on.")] = None,
    hidden: Annotated[int | None, typer.Option(help="Units of the recurrent layer.")] = None,
    big: Annotated[int | None, typer.Option(help="How many times larger big batches are.")] = None,
    runs: Annotated[int | None, typer.Option(help="Trainings of each method.")] = None,
    normalizer: Annotated[str | None, typer.Option(help="Of the recurrent layer.")] = None,
    width: Annotated[str | None, typer.Option(help="K, width of a layer.")] = None,
    growth: Annotated[str | None, typer.Option(help="Width of a layer over that before it.")] = None,
    depth: Annotated[int | None, typer.Option(help="L, layers.")] = None,
    batch: Annotated[str | None, typer.Option(help="B, samples.")] = None,
    features: Annotated[int | None, typer.Option(help="Neurons behind one batch normalisation.")] = None,
    networks: Annotated[int | None, typer.Option(help="Random networks per case.")] = None,
    factor: Annotated[str | None, typer.Option(help="t, ternary threshold over E|w|.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of every random generator.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the report and the tables.")] = Path("runs/theory"),
) -> None:
    """Run experiments and write their report."""
    given = {key: value for key, value in locals().items() if key not in _FIXED and value is not None}
    if listing:
        _print_list()
        return
    from qlstm_bench.theory import EXPERIMENTS, TheoryError

    if name is None:
        raise TheoryError(f"which experiment? expected all, or one of {', '.join(EXPERIMENTS)}")
    _run(_chosen(name, given), out)


def _chosen(name: str, given: dict[str, Any]) -> dict[str, Experiment]:
    """Return the experiments to run, each with the settings that it takes."""
    from qlstm_bench.theory import EXPERIMENTS, TheoryError, experiment_class

    if name != "all":
        return {name: experiment_class(name).build(name, given)}
    classes = {known: experiment_class(known) for known in EXPERIMENTS}
    for setting in given:
        if not any(setting in found.model_fields for found in classes.values()):
            raise TheoryError(f"no experiment has a setting {setting!r}")
    return {
        known: found.build(known, {key: value for key, value in given.items() if key in found.model_fields})
        for known, found in classes.items()
    }


def _run(experiments: dict[str, Experiment], out: Path) -> None:
    import sys
    import time

    from qlstm_bench.progress import share_of_work
    from qlstm_bench.text_table import aligned
    from qlstm_bench.theory.report import Ended, cells, text_columns, write_report
    from qlstm_bench.training.folder import check_writable

    check_writable(out)
    ended = []
    for number, (name, experiment) in enumerate(experiments.items()):
        started = time.monotonic()
        with share_of_work(f"{number + 1}/{len(experiments)} {name}") as done:
            findings = experiment.run(done)
        ended.append(Ended(name, experiment, findings, time.monotonic() - started))
        write_report(ended, out)  # what has ended is there, whatever becomes of the rest
        if len(experiments) > 1:
            print(
                f"{number + 1}/{len(experiments)} {name}: {ended[-1].seconds:.1f} s",
                file=sys.stderr,
                flush=True,
            )
        else:
            print(experiment.equation(), "", sep="\n")
            print(aligned(list(findings.table.columns), cells(findings.table), text_columns(findings.table)))
            print()
        for remark in findings.remarks:
            print(f"{name}: {remark}" if len(experiments) > 1 else remark)
    print(f"\nreport: {out / 'report.html'}")


def _print_list() -> None:
    from qlstm_bench.theory import EXPERIMENTS, experiment_class

    for name in EXPERIMENTS:
        found = experiment_class(name)
        print(f"{name}: {found.title}")
        for setting, field in found.model_fields.items():
            default = field.default
            shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
            print(f"  --{setting} {shown}  {field.description}")
        print()
