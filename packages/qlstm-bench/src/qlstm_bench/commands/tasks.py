"""``qlstm-bench tasks``: what can be trained on."""

from __future__ import annotations

import inspect
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qlstm_bench.commands.options import AsJson

if TYPE_CHECKING:
    from qlstm_bench.tasks.task import TaskSpec
    from qlstm_core.plugins import Catalogue

HELP = """List the tasks of all installed plugins, or show one: its figure of merit, options and settings.

--json prints [{"name", "summary", "references": [TEXT]}], and for one task with them "metric",
"metric_title", "higher_is_better", "options": {OPTION: DEFAULT} and "settings": {SETTING: DEFAULT}; later
versions may add keys.

\b
Examples:
  qlstm-bench tasks
  qlstm-bench tasks word-lm
  qlstm-bench tasks word-lm --json
"""


def tasks(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Show this one.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the tasks, or show one."""
    from qlstm_bench.tasks import tasks_of
    from qlstm_core.plugins import registry

    catalogue = tasks_of(registry)
    if name is not None:
        record = _details(name, catalogue)
        print(json.dumps([record], indent=2)) if as_json else _show(record)
        return
    specs = dict(zip(catalogue.names(), catalogue.specs(), strict=True))
    if as_json:
        print(json.dumps([_record(title, spec) for title, spec in specs.items()], indent=2))
        return
    width = max(map(len, specs))
    for title, spec in specs.items():
        print(f"{title:<{width}}  {spec.summary}")
    print("\n`qlstm-bench tasks NAME` shows one; `qlstm-bench datasets` says what data there is.")


def _record(title: str, spec: TaskSpec) -> dict[str, Any]:
    return {"name": title, "summary": spec.summary, "references": list(spec.references)}


def _details(name: str, catalogue: Catalogue[TaskSpec]) -> dict[str, Any]:
    """Return all that is shown of one task, with options or without."""
    task, spec = catalogue.create(name), catalogue.get(name.partition(":")[0])
    options = {
        parameter.name: parameter.default
        for parameter in inspect.signature(spec.load()).parameters.values()
        if parameter.default is not parameter.empty
    }
    return {
        **_record(catalogue.canonical(name), spec),
        "metric": task.metric,
        "metric_title": task.metric_title,
        "higher_is_better": task.higher_is_better,
        "options": options,
        "settings": dict(task.defaults),
    }


def _show(record: dict[str, Any]) -> None:
    better = "higher" if record["higher_is_better"] else "lower"
    print(f"{record['name']}: {record['summary']}")
    print(f"figure of merit: {record['metric']}, {record['metric_title']}; {better} is better")
    for reference in record["references"]:
        print(f"source: {reference}")
    if record["options"]:
        options = [f"{name}={str(default).lower()}" for name, default in record["options"].items()]
        print(f"options: {', '.join(options)}, as in {record['name'].partition(':')[0]}:{options[0]}")
    print("settings, where none are given:")
    for setting, value in record["settings"].items():
        print(f"  {setting}: {value}")
