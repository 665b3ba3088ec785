"""``qlstm-bench compare``: methods beside the known ones, over a fixed suite of tasks."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qlstm_bench.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qlstm_bench.compare.comparison import Comparison
    from qlstm_bench.compare.durations import Duration
    from qlstm_bench.compare.reference import Reuse
    from qlstm_bench.compare.standings import Standings
    from qlstm_bench.compare.suite import Kind, Suite
    from qlstm_bench.config import RunConfig

HELP = """Set quantizers, normalisers or cells beside the known ones: one page.

Trains what is named, with several seeds, over a fixed suite of tasks. The known methods, its rivals, need no
training where their runs are shipped with the suite and version, data and settings agree. The page ranks the
methods on each task as far as the seeds can tell, with sizes, gradient growth, speed on this machine and the
conformance checks; each line says whether it was shipped or trained here. Finished runs are skipped; after an
interruption, give the same command again.

\b
Suites (--suite), with the time for one quantizer on one core:
  quick      digits and characters, one seed; about a minute, nothing to download
  standard   characters, words, sequential MNIST and digits, three seeds; about 15 minutes
  paper      the papers' sizes; for a GPU
  FILE       a YAML file of your own, see docs/comparing.md

\b
Examples:
  qlstm-bench compare my-quantizer
  qlstm-bench compare my-quantizer my-quantizer:levels=3 --suite quick --out runs/mine
  qlstm-bench compare none --kind normalizer --suite quick --dry-run
  qlstm-bench compare --suite standard --update-reference --workers 4
"""


class KindOfMethod(StrEnum):
    """What can be compared."""

    QUANTIZER = "quantizer"
    NORMALIZER = "normalizer"
    CELL = "cell"


def compare(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME...", help="Names, maybe with options, as `qlstm plugins` lists them."),
    ] = None,
    suite: Annotated[
        str, typer.Option(metavar="quick|standard|paper|FILE", help="Tasks, rivals and seeds.")
    ] = "standard",
    kind: Annotated[
        KindOfMethod | None,
        typer.Option(help="What the names are; default: as the registry knows.", show_default=False),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the page, its CSV file and the runs.")] = Path(
        "runs/compare"
    ),
    workers: Annotated[
        int | None, typer.Option(min=1, help="Worker processes on this machine; default: one for each core.")
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(metavar="tcp://HOST:PORT", help="Dask scheduler whose workers train instead."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Train again what has finished already.")] = False,
    reference: Annotated[
        bool, typer.Option(help="Use shipped runs of the rivals, or train them all here.")
    ] = True,
    update_reference: Annotated[
        bool,
        typer.Option("--update-reference", help="Train all rivals and write the suite's shipped runs."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the runs and train nothing.")] = False,
) -> None:
    """Compare methods with the known ones."""
    from qlstm_bench.compare.reference import Reuse, read_reference
    from qlstm_bench.compare.suite import find_methods, read_suite
    from qlstm_bench.training.folder import check_writable

    if scheduler is not None and workers is not None:
        raise ConfigError("--workers is for this machine; a cluster given by --scheduler has its own workers")
    chosen, out, how = read_suite(suite), out.absolute(), _How(workers, scheduler, force, dry_run)
    if update_reference:
        if names:
            raise ConfigError(
                f"--update-reference trains the rivals of the suite alone; it does not go with {names[0]!r}"
            )
        _update(chosen, out, how)
        return
    if not names:
        raise ConfigError("compare what? give quantizers, normalisers or cells; `qlstm plugins` lists them")
    methods = find_methods(names, None if kind is None else kind.value)
    reuse = Reuse(chosen, read_reference(chosen) if reference else None)
    if not dry_run:
        check_writable(out)
    _compare(chosen, methods, reuse, out, how)


@dataclass(frozen=True)
class _How:
    """How runs are trained: the options of the command line that are a sweep's, too."""

    workers: int | None
    scheduler: str | None
    force: bool
    dry_run: bool


def _compare(suite: Suite, methods: dict[Kind, list[str]], reuse: Reuse, out: Path, how: _How) -> None:
    from qlstm_bench.compare.comparison import prepare
    from qlstm_bench.compare.conformance import check_methods
    from qlstm_bench.compare.page import Page, print_page, write_page
    from qlstm_bench.sweep.cluster import SweepError
    from qlstm_bench.training.provenance import machine_title

    comparison = prepare(suite, methods, out / "runs", reuse)
    print(_describe(comparison))
    if how.dry_run:
        _print_runs(comparison)
        return
    directories, failures = _train(comparison, how)
    standings, problems = comparison.standings(directories)
    if not standings:
        raise SweepError(f"no run has ended: {'; '.join([*failures, *problems])}")
    page = Page(
        suite=suite,
        standings=standings,
        durations=_measure(suite, standings),
        conformance=check_methods(methods),
        machine=machine_title(),
        shipped_machine=reuse.machine if any(one.shipped for one in comparison.runs.values()) else "",
        remarks=[*comparison.remarks, *problems, *(f"failed: {failure}" for failure in failures)],
    )
    print_page(page)
    try:
        html, csv = write_page(page, out)
    except OSError as error:
        raise ConfigError(f"--out {str(out)!r} cannot be written: {error.strerror or error}") from error
    print(f"\npage: {html}; figures: {csv}")
    if failures:
        raise SweepError(f"{len(failures)} of {len(comparison.runs)} runs failed: {'; '.join(failures)}")


def _update(suite: Suite, out: Path, how: _How) -> None:
    """Train all rivals of a suite and write its shipped runs."""
    from qlstm_bench.compare.comparison import prepare
    from qlstm_bench.compare.reference import Reuse, write_reference
    from qlstm_bench.report import collect
    from qlstm_bench.sweep.cluster import SweepError
    from qlstm_bench.training.folder import check_writable
    from qlstm_bench.training.provenance import git_commit

    # Runs of this commit go on where they were; those of others are other runs.
    runs = out / "reference" / (git_commit() or "no-commit")
    comparison = prepare(suite, {kind: [] for kind in suite.file.rivals}, runs, Reuse(suite, None))
    if comparison.missing:
        raise ConfigError(f"all tasks are needed for shipped runs: {'; '.join(comparison.missing)}")
    print(_describe(comparison))
    if how.dry_run:
        _print_runs(comparison)
        return
    check_writable(runs)
    if not os.access(suite.reference.parent, os.W_OK):
        raise ConfigError(f"{suite.reference} cannot be written: no permission to write in its folder")
    directories, failures = _train(comparison, how)
    records, problems = collect(directories)
    if failures or problems:
        raise SweepError(f"the shipped runs stay as they are: {'; '.join([*failures, *problems])}")
    write_reference(suite, records)
    print(f"{len(records)} runs: {suite.reference}")


def _describe(comparison: Comparison) -> str:
    from qlstm_bench.tables import shorten

    shipped = len(comparison.runs) - len(comparison.untrained)
    file = comparison.suite.file
    runs = f"{len(comparison.runs)} runs, {shipped} of them shipped"
    runs += f"; a quantizer takes about {file.minutes:g} minute{'' if file.minutes == 1 else 's'} of one core"
    first = f"{shorten(file.title)} (version {file.version}): {runs}"
    return "\n".join([first, *(shorten(remark, 400) for remark in comparison.remarks)])


def _print_runs(comparison: Comparison) -> None:
    from qlstm_core.printable import printable

    for one in comparison.runs.values():
        print(f"  {printable(one.label)}{'' if one.shipped is None else ': shipped'}")


def _train(comparison: Comparison, how: _How) -> tuple[list[Path], list[str]]:
    """Train what is not shipped; return the folders of runs that ended, and a line for each that failed."""
    from qlstm_bench.sweep.cluster import cores, local_workers, workers_of
    from qlstm_bench.sweep.progress import run_watched

    untrained = comparison.untrained
    if not untrained:
        return [], []
    count = min(how.workers or cores(), len(untrained))
    outcomes, failures = run_watched(
        [one.run.config for one in untrained],
        [one.label for one in untrained],
        comparison.folder,
        workers_of(how.scheduler) if how.scheduler else local_workers(count),
        force=how.force,
    )
    return [outcome.run.directory for outcome in outcomes], failures


def _measure(suite: Suite, standings: Sequence[Standings]) -> dict[Kind, dict[str, Duration]]:
    """Return what the methods of each kind cost here."""
    from qlstm_bench.compare.durations import measure
    from qlstm_bench.progress import share_of_work
    from qlstm_bench.speed.training import Shape

    methods: dict[Kind, dict[str, RunConfig]] = {}
    for one in standings:
        of_kind = methods.setdefault(one.contest.kind, {})
        for row in one.rows:
            of_kind.setdefault(row.method, row.line.config)
    found = {}
    for kind, configs in methods.items():
        with share_of_work(f"speed of {len(configs)} methods") as done:
            found[kind] = measure(configs, Shape.parse(suite.file.speed), done=done)
    return found
