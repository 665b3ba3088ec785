"""The bench's hooks: their docstrings are plugins that run, and its tasks come from the registry."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hook_examples import example

from qlstm_bench import hooks
from qlstm_bench.config import RunConfig
from qlstm_bench.loggers import loggers_of
from qlstm_bench.tasks import tasks_of
from qlstm_bench.tasks.char_lm import CharLM
from qlstm_bench.training.folder import Run
from qlstm_core.plugins import PluginError, Registry
from qlstm_core.plugins import registry as installed


@pytest.fixture
def registry() -> Registry:
    """A registry with the bench's plugin and no other."""
    fresh = Registry(discover=False)
    fresh.register(hooks, "qlstm-bench:bench")
    return fresh


def a_run() -> Run:
    settings = {"data": "toy", "hidden": 7, "batch": 2, "unroll": 3, "lr": 0.1, "clip": 5.0, "steps": 4}
    return Run(Path("runs/some-run"), RunConfig.build(settings))


def test_the_installed_plugin_provides_the_task() -> None:
    assert "char-lm" in tasks_of(installed).names()
    assert isinstance(tasks_of(installed).create("char-lm"), CharLM)
    (record,) = [record for record in installed.plugins() if record.name == "qlstm-bench:bench"]
    assert record.status == "active"


def test_a_third_party_can_add_a_task(registry: Registry) -> None:
    registry.register(example("qlstm_tasks"), "third-party")
    tasks = tasks_of(registry)
    assert {"char-lm", "short-memory"} <= set(tasks.names())
    task = tasks.create("short-memory")
    assert task.defaults == {**CharLM.defaults, "unroll": 10}
    with pytest.raises(PluginError, match=r"unknown task 'short-memry'.*did you mean 'short-memory'"):
        tasks.get("short-memry")


def test_a_third_party_can_add_a_logger(registry: Registry, tmp_path: Path) -> None:
    registry.register(example("qlstm_loggers"), "third-party")
    logger = loggers_of(registry).create("csv")
    logger.start(Run(tmp_path, a_run().config))
    for step in (1, 2):
        logger.log(step, {"loss": 0.5 / step})
    logger.end(None)
    assert (tmp_path / "metrics.csv").read_text().split() == ["1,loss,0.5", "2,loss,0.25"]


@pytest.mark.parametrize(
    ("hook", "arguments", "printed"),
    [
        ("qlstm_run_started", {}, "some-run: hidden 7\n"),
        (
            "qlstm_run_logged",
            {"step": 3, "metrics": {"valid_bpc": 2.5}},
            "some-run, step 3: 2.500 bits per character\n",
        ),
        ("qlstm_run_ended", {"result": SimpleNamespace(status="diverged")}, "some-run: diverged\n"),
    ],
)
def test_a_third_party_can_follow_a_run(
    registry: Registry, hook: str, arguments: dict[str, Any], printed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    registry.register(example(hook), "third-party")
    registry.notify(hook, run=a_run(), **arguments)
    assert capsys.readouterr().out == printed
