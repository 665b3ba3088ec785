"""``qlstm-bench tasks``: what can be trained on."""

from __future__ import annotations

import inspect
from typing import Annotated, Any

import typer

HELP = """List the tasks of all installed plugins, or show one: its figure of merit, options and settings.

\b
Examples:
  qlstm-bench tasks
  qlstm-bench tasks word-lm
"""


def tasks(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Show this one.")] = None,
) -> None:
    """List the tasks, or show one."""
    from qlstm_bench.tasks import tasks_of
    from qlstm_core.plugins import registry

    catalogue = tasks_of(registry)
    if name is not None:
        _show(name, catalogue)
        return
    specs = dict(zip(catalogue.names(), catalogue.specs(), strict=True))
    width = max(map(len, specs))
    for title, spec in specs.items():
        print(f"{title:<{width}}  {spec.summary}")
    print("\n`qlstm-bench tasks NAME` shows one; `qlstm-bench datasets` says what data there is.")


def _show(name: str, catalogue: Any) -> None:
    task, spec = catalogue.create(name), catalogue.get(name.partition(":")[0])
    better = "higher" if task.higher_is_better else "lower"
    print(f"{catalogue.canonical(name)}: {spec.summary}")
    print(f"figure of merit: {task.metric}, {task.metric_title}; {better} is better")
    for reference in spec.references:
        print(f"source: {reference}")
    options = [
        f"{parameter.name}={str(parameter.default).lower()}"
        for parameter in inspect.signature(spec.load()).parameters.values()
        if parameter.default is not parameter.empty
    ]
    if options:
        print(f"options: {', '.join(options)}, as in {spec.name}:{options[0]}")
    print("settings, where none are given:")
    for setting, value in task.defaults.items():
        print(f"  {setting}: {value}")
