"""MLflow: settings, figures and fate of each run, in ``mlflow.db`` beside the runs or at MLFLOW_TRACKING_URI.

``mlflow ui --backend-store-uri sqlite:///runs/mlflow.db`` shows them. A store that does not answer costs
seconds of a run; MLflow itself would try for minutes.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from qlstm_core.plugins import hookimpl

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from qlstm_bench.training.folder import Run
    from qlstm_bench.training.result import Result

_NAME = "qlstm.run"

_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}
"""With a server, unless the user says otherwise."""


@dataclass
class _Log:
    """A run of ours as one of MLflow's.

    Args:
        client: client of the store.
        run_id: MLflow's.
        last: step that was logged last.
    """

    client: MlflowClient
    run_id: str
    last: int

    def metrics(self, figures: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self.client.log_batch(
            self.run_id, [Metric(name, value, now, step) for name, value in figures.items()]
        )
        self.last = max(self.last, step)


_logs: dict[Path, _Log] = {}


@hookimpl
def qlstm_run_started(run: Run) -> None:
    """Make a run in the store, or go on with the one that an interruption left."""
    if "mlflow" not in run.config.log:
        return
    # A training tells nobody about itself but the store that its user chose.
    for name, value in _PATIENCE.items() | {("MLFLOW_DISABLE_TELEMETRY", "true")}:
        os.environ.setdefault(name, value)
    for noisy in ("alembic", "mlflow"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    _logs[run.directory] = _open(run)


@hookimpl
def qlstm_run_logged(run: Run, step: int, metrics: Mapping[str, float]) -> None:
    """Store the figures of a step, if it is not one that is done again."""
    log = _logs.get(run.directory)
    if log is not None and step > log.last:
        log.metrics(metrics, step)


@hookimpl
def qlstm_run_ended(run: Run, result: Result) -> None:
    """Store the final figures and what became of the run."""
    log = _logs.pop(run.directory, None)
    if log is None:
        return
    final = {name: value for name, value in result.metrics.items() if not name.startswith("valid_")}
    log.metrics(final, result.steps)
    for name, value in {
        "status": result.fate,
        "dataset": f"{result.dataset.name} {result.dataset.sha256}",
        "device": result.device,
        "git_commit": str(result.git_commit),
        **{f"version.{package}": version for package, version in result.versions.items()},
    }.items():
        log.client.set_tag(log.run_id, f"qlstm.{name}", value)
    log.client.set_terminated(log.run_id, "FAILED" if result.status == "failed" else "FINISHED")


def _open(run: Run) -> _Log:
    from mlflow import MlflowClient
    from mlflow.entities import Param

    out = run.directory.parent.absolute()
    with FileLock(out / ".mlflow.lock"):  # several runs that start at once would each set the store up
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{out / 'mlflow.db'}"
        _connect_once(uri)
        client = MlflowClient(uri)
        name = f"qlstm-{run.config.task.partition(':')[0]}"
        experiment = client.get_experiment_by_name(name)
        number = (
            experiment.experiment_id
            if experiment is not None
            else client.create_experiment(name, artifact_location=(out / "mlflow-artifacts").as_uri())
        )
    earlier = client.search_runs([number], f"tags.`{_NAME}` = '{run.name}'", order_by=["start_time DESC"])
    left = [found for found in earlier if found.info.status == "RUNNING"]
    last = run.last_logged_step()
    going_on = left.pop(0) if left and last else None
    for abandoned in left:
        client.set_terminated(abandoned.info.run_id, "KILLED")
    if going_on is not None:
        history = (client.get_metric_history(going_on.info.run_id, key) for key in going_on.data.metrics)
        steps = [metric.step for metrics in history for metric in metrics]
        return _Log(client, going_on.info.run_id, max(steps, default=0))
    made = client.create_run(number, tags={_NAME: run.name}, run_name=run.name).info.run_id
    settings = [Param(name, str(value)) for name, value in run.config.model_dump().items()]
    client.log_batch(made, params=settings)
    return _Log(client, made, 0)


def _connect_once(uri: str) -> None:
    """See that a database can be opened: MLflow would try ten times, for 100 seconds."""
    from mlflow.store.db.db_types import DATABASE_ENGINES
    from sqlalchemy import create_engine, make_url

    kind = uri.partition(":")[0].partition("+")[0]
    if kind in DATABASE_ENGINES:
        url = make_url(uri)
        if kind == "sqlite" and url.database:
            Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(url)
        engine.connect().close()
        engine.dispose()
