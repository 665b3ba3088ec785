"""MLflow: settings, figures and fate of each run, in ``mlflow.db`` beside the runs or at MLFLOW_TRACKING_URI.

``mlflow ui --backend-store-uri sqlite:///runs/mlflow.db`` shows them. A store that does not answer costs
seconds of a run; MLflow itself would try for minutes.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from qlstm_bench.config import ConfigError
from qlstm_bench.loggers.logger import Logger, facts, final_figures

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from qlstm_bench.training.folder import Run
    from qlstm_bench.training.result import Result

_NAME = "qlstm.run"

_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}
"""With a server, unless the user says otherwise."""


class MLflow(Logger):
    """A run in a store of MLflow for each run."""

    needs = ("mlflow", "sqlalchemy", "alembic")
    install = "qlstm-bench[mlflow]"

    def check(self, out: Path) -> None:
        """See that a URL can name the store.

        Raises:
            ConfigError: a folder with a character that means something else in a URL.
        """
        path = str(out.absolute())
        strange = [character for character in "?%" if character in path]
        if strange and not os.environ.get("MLFLOW_TRACKING_URI"):
            raise ConfigError(
                f"log: mlflow names its store by a URL, in which {strange[0]!r} of {path!r} has another "
                "meaning: choose another --out, or set MLFLOW_TRACKING_URI"
            )

    def start(self, run: Run) -> None:
        """Make a run in the store, or go on with the one that an interruption left."""
        # A training tells nobody about itself but the store that its user chose.
        for name, value in _PATIENCE.items() | {("MLFLOW_DISABLE_TELEMETRY", "true")}:
            os.environ.setdefault(name, value)
        self._client, self._run_id, self._last = _open(run)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Store the figures of a step, if it is not one that is done again."""
        if step > self._last:
            self._store(step, metrics)

    def end(self, result: Result | None) -> None:
        """Store the final figures and what became of the run; one that was interrupted stays open."""
        if result is None:
            return
        self._store(result.steps, final_figures(result))
        for name, value in facts(result).items():
            self._client.set_tag(self._run_id, f"qlstm.{name}", value)
        self._client.set_terminated(self._run_id, "FAILED" if result.status == "failed" else "FINISHED")

    def _store(self, step: int, figures: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(
            self._run_id, [Metric(name, value, now, step) for name, value in figures.items()]
        )
        self._last = max(self._last, step)


def _open(run: Run) -> tuple[MlflowClient, str, int]:
    """Return the store, the number that it has for a run, and the last step that it holds of it."""
    from mlflow import MlflowClient
    from mlflow.entities import Param

    for noisy in ("alembic", "mlflow"):  # after the import, which sets the level
        logging.getLogger(noisy).setLevel(logging.WARNING)
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
        return client, going_on.info.run_id, max(steps, default=0)
    made = client.create_run(number, tags={_NAME: run.name}, run_name=run.name).info.run_id
    settings = [Param(name, str(value)) for name, value in run.config.model_dump().items()]
    client.log_batch(made, params=settings)
    return client, made, 0


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
