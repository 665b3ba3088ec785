"""``qlstm-bench sweep``: train every run of a grid."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qlstm_bench.commands.options import AsJson, settings_as_options
from qlstm_bench.config import ConfigError, RunConfig

if TYPE_CHECKING:
    from qlstm_bench.sweep.plan import Plan
    from qlstm_bench.sweep.sweep_file import SweepFile

HELP = """Train every run of a grid: one of the papers' tables, or a YAML file of your own.

Runs go side by side, one thread each, in worker processes of this machine or of a Dask cluster. Finished runs
are skipped; a run whose worker dies is tried again and goes on from its checkpoint; after an interruption,
give the same command again.

--list --json prints [{"name", "title", "source", "scales": [{"name", "about", "minutes"}]}]; later versions
may add keys.

\b
A file:
  settings: {task: char-lm, data: stdlib-char, hidden: 128, steps: 300}
  grid:
    quantizer: [none, bwn, "alternating:bits=2"]
    normalizer: [none, layer]
  exclude:
    - {quantizer: none, normalizer: layer}
  include:
    - {quantizer: sbn, normalizer: "batch-separate:cell=true"}
  seeds: 3

\b
Examples:
  qlstm-bench sweep --list
  qlstm-bench sweep hou2019-char-ptb --dry-run
  qlstm-bench sweep hou2019-char-ptb --scale paper --out runs/ptb
  qlstm-bench sweep my_grid.yaml --workers 4 --out runs/mine
  qlstm-bench sweep my_grid.yaml --scheduler tcp://cluster:8786 --out /shared/runs
"""


@settings_as_options({"log": RunConfig.model_fields["log"]})
def sweep(
    source: Annotated[
        str | None, typer.Argument(metavar="FILE|PRESET", help="A YAML file, or the name of a preset.")
    ] = None,
    *,
    scale: Annotated[
        str | None, typer.Option(help="Which of its sizes, as in small or paper; default: small.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for run folders.")] = Path("runs"),
    workers: Annotated[
        int | None, typer.Option(min=1, help="Worker processes on this machine; default: one for each core.")
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(metavar="tcp://HOST:PORT", help="Dask scheduler whose workers train instead."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Train again what has finished already.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="List the presets and train nothing.")] = False,
    as_json: AsJson = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the runs and train nothing.")] = False,
    **settings: Any,
) -> None:
    """Train every run of a grid."""
    from qlstm_bench.sweep.presets import load

    if list_:
        if source is not None:
            raise ConfigError(
                f"--list lists the presets; it does not go with {source!r}: did you mean --dry-run?"
            )
        _list(as_json)
        return
    if as_json:
        raise ConfigError("--json goes with --list, for the presets; `report --format csv` is for runs")
    if source is None:
        raise ConfigError("which sweep? give a YAML file or a preset; `qlstm-bench sweep --list` lists them")
    if scheduler is not None and workers is not None:
        raise ConfigError("--workers is for this machine; a cluster given by --scheduler has its own workers")

    from qlstm_bench.sweep.plan import read_plan

    plan = read_plan(load(source), scale)
    if loggers := settings["log"]:
        plan = plan.logged_to(loggers)
    print(_describe(plan))
    if dry_run:
        print("\n".join(f"  {label}" for label in plan.labels))
        return
    _train(plan, out, workers, scheduler, force)


def _train(plan: Plan, out: Path, workers: int | None, scheduler: str | None, force: bool) -> None:
    from qlstm_bench.report import collect, print_table
    from qlstm_bench.sweep.cluster import SweepError, local_workers, workers_of
    from qlstm_bench.sweep.progress import run_watched
    from qlstm_bench.training.folder import check_writable

    out = out.absolute()
    check_writable(out)
    cluster = workers_of(scheduler) if scheduler else local_workers(workers)
    outcomes, failures = run_watched(plan.configs, plan.labels, out, cluster, force=force)
    records, _ = collect(outcome.run.directory for outcome in outcomes)
    if records:
        print_table(records)
        print(f"\nruns: {out}; `qlstm-bench report {shlex.quote(str(out))}` makes a page of them")
    if failures:
        raise SweepError(f"{len(failures)} of {len(plan.configs)} runs failed: {'; '.join(failures)}")


def _list(as_json: bool) -> None:
    from rich.console import Console

    from qlstm_bench.sweep.presets import load, preset_names
    from qlstm_bench.sweep.sweep_file import read_file

    presets = {name: read_file(load(name)) for name in preset_names()}
    if as_json:
        print(json.dumps([_record(name, file) for name, file in presets.items()], indent=2))
        return
    console = Console(file=sys.stdout, highlight=False, markup=False, soft_wrap=True)
    for name, file in presets.items():
        console.print(f"{name}\n  {file.title}")
        for scale, part in file.scales.items():
            about = " ".join(part.about.split())
            console.print(f"  --scale {scale}: {_duration(part.minutes)}{about}")


def _record(name: str, file: SweepFile) -> dict[str, Any]:
    scales = [
        {"name": scale, "about": " ".join(part.about.split()), "minutes": part.minutes}
        for scale, part in file.scales.items()
    ]
    return {"name": name, "title": file.title, "source": file.source, "scales": scales}


def _describe(plan: Plan) -> str:
    from qlstm_bench.tables import shorten
    from qlstm_core.printable import printable

    size = f", {plan.scale} scale" if plan.scale else ""
    lines = [f"{shorten(plan.title + size)}: {len(plan.configs)} run{'s' if len(plan.configs) > 1 else ''}"]
    about = f"{_duration(plan.minutes)}{printable(' '.join(plan.about.split()))}"
    return "\n".join([*lines, about] if about else lines)


def _duration(minutes: float | None) -> str:
    if minutes is None:
        return ""
    time = f"{minutes:.0f} minutes" if minutes < 180 else f"{minutes / 60:.0f} hours"
    return f"about {time} on two cores. "
