"""``qlstm-bench theory``: the papers' theorems beside measurements."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from qlstm_bench.commands.options import AsJson, given, merged, settings_as_options, spelled
from qlstm_bench.errors import BenchError

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from qlstm_bench.theory import Experiment

HELP = """Run the theorems of the papers: prediction beside measurement, in tables and figures.

Every setting of an experiment is an option; several values are separated by commas. `all` gives an option to
every experiment that has that setting. The same settings give the same figures.

Writes report.html with every figure and table, and NAME.csv, to --out.

--list --json prints [{"name", "summary", "settings": [{"name", "default", "description"}]}]; later versions
may add keys.

\b
Examples:
  qlstm-bench theory --list
  qlstm-bench theory least-squares --help
  qlstm-bench theory least-squares --delta 0.1,0.4 --dimensions 8,128
  qlstm-bench theory markov --rate 0.1,0.01 --noise 3 --seed 1
  qlstm-bench theory all
"""

_ALL = "Run every experiment; a setting goes to those that have it."


class Experiments(TyperGroup):
    """A command for each experiment that the plugins provide, made when it is asked for, and ``all``."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the experiments with their summaries, importing none of them."""
        from qlstm_bench.theory import installed_experiments

        found = installed_experiments()
        with formatter.section("Experiments"):
            formatter.write_dl([*((name, spec.summary) for name, spec in found.items()), ("all", _ALL)])

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all, importing none of them."""
        from qlstm_bench.theory import installed_experiments

        return [*installed_experiments(), "all"]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the command of one experiment, or of all.

        Raises:
            PluginError: there is no experiment of this name, or it cannot be loaded.
        """
        from qlstm_bench.theory import default_experiment, loadable_experiments

        if cmd_name == "all":
            fields = merged(
                item for one in loadable_experiments().values() for item in type(one).model_fields.items()
            )
            return _command(cmd_name, fields, _ALL)
        experiment = type(default_experiment(cmd_name))
        paragraphs = experiment.equation().split("\n\n")
        return _command(cmd_name, experiment.model_fields, "\n\n".join(f"\b\n{text}" for text in paragraphs))


app = typer.Typer(cls=Experiments, rich_markup_mode=None, help=HELP)


@app.callback(invoke_without_command=True, subcommand_metavar="[NAME|all [OPTIONS]]")
def theory(
    ctx: typer.Context,
    listing: Annotated[
        bool, typer.Option("--list", help="Name the experiments and their settings, and end.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run experiments and write their report."""
    from qlstm_bench.theory import TheoryError, installed_experiments

    if listing:
        _print_list(as_json)
        raise typer.Exit
    if as_json:
        raise TheoryError("--json goes with --list, for the experiments; tables of results are CSV files")
    if ctx.invoked_subcommand is None:
        raise TheoryError(f"which experiment? expected all, or one of {', '.join(installed_experiments())}")


def _command(name: str, fields: dict[str, FieldInfo], about: str) -> Any:
    """Return the command that runs an experiment with these settings, or all."""

    @settings_as_options(fields)
    def command(
        *,
        out: Annotated[Path, typer.Option(help="Folder for the report and the tables.")] = Path(
            "runs/theory"
        ),
        **settings: Any,
    ) -> None:
        _run(_chosen(name, given(settings)), out)

    single = typer.Typer(rich_markup_mode=None, add_completion=False)
    single.command(name, help=about)(command)
    return typer.main.get_command(single)


def _chosen(name: str, settings: dict[str, Any]) -> dict[str, Experiment]:
    """Return the experiments to run, each with the settings that it takes."""
    from qlstm_bench.theory import loadable_experiments, make_experiment

    if name != "all":
        return {name: make_experiment(name, settings)}
    return {
        known: type(one).build(
            known, {name: value for name, value in settings.items() if name in type(one).model_fields}
        )
        for known, one in loadable_experiments().items()
    }


def _run(experiments: dict[str, Experiment], out: Path) -> None:
    import time

    from qlstm_bench.progress import share_of_work
    from qlstm_bench.theory import TheoryError, installed_experiments
    from qlstm_bench.theory.report import Ended, as_text, write_report
    from qlstm_bench.training.folder import check_writable

    check_writable(out)
    ended = []
    for number, (name, experiment) in enumerate(experiments.items()):
        started = time.monotonic()
        with share_of_work(f"{number + 1}/{len(experiments)} {name}") as done:
            try:
                findings = experiment.run(done)
            except BenchError:
                raise
            except Exception as error:
                raise TheoryError(
                    f"experiment {name!r} failed: {type(error).__name__}: {error}; the settings were "
                    + ", ".join(f"{key}={spelled(value)}" for key, value in experiment)
                ) from error
        title = installed_experiments()[name].summary
        ended.append(Ended(name, title, experiment, findings, time.monotonic() - started))
        write_report(ended, out)  # what has ended is there, whatever becomes of the rest
        if len(experiments) > 1:
            print(
                f"{number + 1}/{len(experiments)} {name}: {ended[-1].seconds:.1f} s",
                file=sys.stderr,
                flush=True,
            )
        else:
            print(experiment.equation(), as_text(findings.table), sep="\n\n", end="\n\n")
        for remark in findings.remarks:
            print(f"{name}: {remark}" if len(experiments) > 1 else remark)
    print(f"\nreport: {out / 'report.html'}")


def _print_list(as_json: bool) -> None:
    from qlstm_bench.theory import installed_experiments, loadable_experiments

    specs = installed_experiments()
    records: list[dict[str, Any]] = [
        {
            "name": name,
            "summary": specs[name].summary,
            "settings": [
                {"name": setting, "default": field.default, "description": field.description}
                for setting, field in type(experiment).model_fields.items()
            ],
        }
        for name, experiment in loadable_experiments().items()
    ]
    if as_json:
        print(json.dumps(records, indent=2, default=str))  # a stranger's setting may be anything
        return
    for record in records:
        print(f"{record['name']}: {record['summary']}")
        for setting in record["settings"]:
            option = setting["name"].replace("_", "-")
            print(f"  --{option} {spelled(setting['default'])}  {setting['description']}")
        print()
