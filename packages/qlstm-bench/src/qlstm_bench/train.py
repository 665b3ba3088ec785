"""Training one run: from settings to result, through interruptions and divergence."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from lightning_fabric import Fabric, seed_everything

from qlstm_bench import provenance
from qlstm_bench.averaging import averaged
from qlstm_bench.clipping import clip_gradients_
from qlstm_bench.config import ConfigError, RunConfig
from qlstm_bench.gradients import StateGradientNorms, clipped_share, measure_stability
from qlstm_bench.gradients.recording import GradientRecorder
from qlstm_bench.loggers import check_installed
from qlstm_bench.optimization import Schedule, make_optimizer
from qlstm_bench.random_state import random_state, restore_random_state
from qlstm_bench.results import DatasetRecord, Result, Status
from qlstm_bench.runs import FINISHED, Run, RunError, check_writable
from qlstm_bench.tasks import Task, tasks_of
from qlstm_core import Quantizer, RecurrentLayer, track_curvature
from qlstm_core.plugins import registry

Listener = Callable[[int, int, Mapping[str, float]], None]
"""Called after each step with the steps done, the steps to do, and the figures logged here, if any."""


@dataclass(frozen=True)
class Outcome:
    """What became of a run.

    Args:
        run: where it is.
        result: what its result.json holds.
        reused: whether it had finished before and was not repeated.
    """

    run: Run
    result: Result
    reused: bool

    def describe(self) -> str:
        """Return what became of it on one line."""
        before = "finished before; " if self.reused else ""
        return f"{before}{self.result.describe()}; {self.run.directory}"


def resolve(settings: Mapping[str, Any]) -> tuple[RunConfig, Task]:
    """Return complete settings and their task, not yet prepared.

    The task's defaults fill what ``settings`` leaves out; the names of task, quantizer and normaliser get
    their one spelling; an object given as ``data`` goes to the task, and its type's name into the settings.

    Raises:
        ConfigError, PluginError: a setting or name that does not fit.
    """
    tasks = tasks_of(registry)
    names = {
        "task": tasks.canonical(settings.get("task", "char-lm")),
        "quantizer": registry.quantizers.canonical(settings.get("quantizer", "none")),
        "normalizer": registry.normalizers.canonical(settings.get("normalizer", "none")),
    }
    task: Task = tasks.create(names["task"])
    merged = {**task.defaults, **settings, **names}
    if "data" in merged and not isinstance(merged["data"], str):
        task.given_data = merged["data"]
        merged["data"] = f"object of type {type(task.given_data).__name__}"
    return RunConfig.build(merged), task


def train(
    settings: Mapping[str, Any], out: Path, *, force: bool = False, listen: Listener | None = None
) -> Outcome:
    """Train a run to its end and return its result; go on from its checkpoint where there is one.

    Training stops at the first loss or gradient norm that is not finite: the run has then ``diverged``, which
    is a result like any other.

    Args:
        settings: fields of :class:`qlstm_bench.config.RunConfig`; ``data`` may also be an object that the
            task takes, such as a torch Dataset.
        out: folder that holds the run's directory.
        force: train again, from the start, what has finished or was interrupted.
        listen: told of every step.

    Raises:
        ConfigError, PluginError, DataError, RunError: before any training.
    """
    check_writable(out)
    config, task = resolve(settings)
    check_installed(config.log)
    task.prepare(config)
    fabric = _fabric(config)
    seed_everything(config.seed, verbose=False)
    model = task.model(config.quantizer, config.normalizer)
    optimizer = make_optimizer(model, config, task.quantized_lr(task.recurrent(model)))
    run = Run.of(out, config, task.dataset_sha256)
    with run.writing():
        if force:
            run.clear()
        before = run.result()
        if before is not None and before.status in FINISHED:
            return Outcome(run, before, reused=True)
        run.start()
        training = _Training(fabric, task, model, optimizer, run, listen)
        training.restore()
        registry.notify("qlstm_run_started", run=run)
        try:
            result = training.loop()
        except Exception as error:
            message = " ".join(f"{type(error).__name__}: {error}".split())
            with suppress(RunError):  # a full disk: the error says so already
                _end(run, training.result("failed", error=message))
            raise
        _end(run, result)
    return Outcome(run, result, reused=False)


def _end(run: Run, result: Result) -> None:
    run.write_result(result)
    registry.notify("qlstm_run_ended", run=run, result=result)


def _fabric(config: RunConfig) -> Fabric:
    """Return Fabric for the device and precision of a run."""
    kind, _, index = config.device.partition(":")
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        here = ", ".join(["cpu", *(f"cuda:{n}" for n in range(torch.cuda.device_count()))])
        raise ConfigError(f"device {config.device!r} is not on this machine; expected auto or one of: {here}")
    return Fabric(
        accelerator=kind, devices=[int(index or 0)] if kind == "cuda" else 1, precision=config.precision
    )


@dataclass
class _Tally:
    """Sums over the steps since the last line of metrics.jsonl."""

    loss: float = 0.0
    gradient_norm: float = 0.0
    clipped: int = 0
    steps: int = 0

    def add(self, loss: float, gradient_norm: float, clip: float) -> None:
        self.loss += loss
        # max() would let a NaN pass for a small norm.
        self.gradient_norm = max(self.gradient_norm, math.inf if math.isnan(gradient_norm) else gradient_norm)
        self.clipped += not gradient_norm <= clip
        self.steps += 1


class _Training:
    """The state of a training: model, optimizer, carried state, and how far it has come."""

    def __init__(
        self,
        fabric: Fabric,
        task: Task,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        run: Run,
        listen: Listener | None,
    ) -> None:
        self.fabric, self.task, self.run, self.config = fabric, task, run, run.config
        self.listen = listen or (lambda step, steps, figures: None)
        self.module = model
        self.model, self.optimizer = fabric.setup(model, optimizer)
        if any(module.needs_curvature for module in model.modules() if isinstance(module, Quantizer)):
            track_curvature(model, optimizer)  # after fabric has moved the model: it holds on to its buffers
        self.schedule = Schedule(self.config, optimizer, task.higher_is_better)
        self.average = averaged(model, self.config.average) if self.config.average else None
        self.best: dict[str, Any] | None = None
        self.steps = self.config.steps or (self.config.epochs or 0) * task.steps_per_epoch
        self.eval_every = self.config.eval_every or min(task.steps_per_epoch, math.ceil(self.steps / 10))
        self.recorder = GradientRecorder(run, task, self.config.gradients_every)
        self.step = 0
        self.carried: Any = None
        self.tally = _Tally()
        self.diverged_at: int | None = None
        self.stopped_at: int | None = None
        self.seconds_before = 0.0
        self.started = self.saved = time.monotonic()

    def restore(self) -> None:
        """Go back to the checkpoint, if there is one, and forget what was logged after it."""
        state = self.run.load_checkpoint()
        if state is not None:
            self.module.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.schedule.load_state_dict(state["schedule"])
            if self.average is not None:
                self.average.load_state_dict(state["average"])
            self.best = state["best"]
            self.step, self.diverged_at = state["step"], state["diverged_at"]
            self.stopped_at = state["stopped_at"]
            self.carried = self.fabric.to_device(state["carried"])
            self.tally = _Tally(**state["tally"])
            self.seconds_before = state["seconds"]
            restore_random_state(state["random"])
        self.run.rewind_metrics(self.step)
        self.recorder.restore(self.step, self.module)

    def checkpoint(self) -> None:
        """Save all that decides how the training goes on."""
        self.run.save_checkpoint(
            {
                "model": self.module.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "average": None if self.average is None else self.average.state_dict(),
                "best": self.best,
                "step": self.step,
                "carried": self.carried,
                "diverged_at": self.diverged_at,
                "stopped_at": self.stopped_at,
                "tally": dataclasses.asdict(self.tally),
                "seconds": self.seconds,
                "random": random_state(),
            }
        )
        self.saved = time.monotonic()

    @property
    def seconds(self) -> float:
        """Wall time, over all sessions."""
        return self.seconds_before + time.monotonic() - self.started

    def loop(self) -> Result:
        """Train to the end, until patience is at its end, or to divergence; return the result."""
        while not self.ended:
            self.advance()
            figures = self.figures()
            if figures:
                self.run.log({"step": self.step, **figures})
                registry.notify("qlstm_run_logged", run=self.run, step=self.step, metrics=figures)
            if self.ended or time.monotonic() - self.saved >= self.config.checkpoint_seconds:
                self.checkpoint()
            self.listen(self.step, self.steps, figures)
        if self.best is not None and self.diverged_at is None:
            self.evaluated.load_state_dict(self.best)
        self.run.save_model(self.evaluated.state_dict())
        return self.finish()

    @property
    def ended(self) -> bool:
        """Whether there is nothing more to train."""
        return self.step == self.steps or self.diverged_at is not None or self.stopped_at is not None

    @property
    def evaluated(self) -> torch.nn.Module:
        """The model that is validated, tested and kept: the trained one, or the average of its weights."""
        if self.average is None:
            return self.module
        module: torch.nn.Module = self.average.module
        return module

    def advance(self) -> None:
        """Do one step of the optimizer, or find that the training has diverged."""
        if self.step % self.task.steps_per_epoch == 0:
            self.carried = None
        self.model.train()
        batch = self.fabric.to_device(self.task.batch(self.step))
        loss, self.carried = self.task.loss(self.model, batch, self.carried)
        value = loss.item()
        norm = math.nan
        if math.isfinite(value):
            self.optimizer.zero_grad()
            self.fabric.backward(loss)
            norm = clip_gradients_(self.module, self.config.clip, apart=self.config.clipping == "apart")
        self.step += 1
        self.tally.add(value, norm, self.config.clip)
        if not math.isfinite(norm):
            self.diverged_at = self.step
            return
        self.optimizer.step()
        for layer in self.module.modules():
            if isinstance(layer, RecurrentLayer):
                layer.constrain_()
        if self.average is not None:
            self.average.update_parameters(self.module)
        if self.step % self.task.steps_per_epoch == 0:
            self.schedule.epoch_ended(self.step // self.task.steps_per_epoch)

    def figures(self) -> dict[str, float]:
        """Return what is due to be logged after this step: training figures, validation, both or nothing."""
        figures: dict[str, float] = {}
        last = self.step == self.steps or self.diverged_at is not None
        if last or self.step % self.config.log_every == 0:
            figures |= {
                "epoch": self.step / self.task.steps_per_epoch,
                **self.training_figures(),
                "gradient_norm": self.tally.gradient_norm,
                "clipped": self.tally.clipped / self.tally.steps,
                "lr": self.optimizer.param_groups[0]["lr"],
                "seconds": round(self.seconds, 3),
            }
            self.tally = _Tally()
        if self.diverged_at is None and (last or self.step % self.eval_every == 0):
            figures[f"valid_{self.task.metric}"] = self.validate()
        if self.diverged_at is None:
            figures |= self.recorder.record(self.step, self.module)
        return figures

    def training_figures(self) -> dict[str, float]:
        """Return the mean loss since the last line, and as the figure of merit where it is one."""
        loss = self.tally.loss / self.tally.steps
        metric = self.task.to_metric(loss)
        return {"train_loss": loss} | ({} if metric is None else {f"train_{self.task.metric}": metric})

    def validate(self) -> float:
        """Return the figure of merit in validation, and draw the consequences."""
        figure = self.evaluate("valid")
        better = self.schedule.validated(figure)
        if self.config.patience is not None:
            if better:
                self.best = {name: value.clone() for name, value in self.evaluated.state_dict().items()}
            if self.schedule.exhausted:
                self.stopped_at = self.step
        return figure

    @torch.no_grad()
    def evaluate(self, split: str) -> float:
        """Return the figure of merit on a part of the data."""
        model = self.model if self.average is None else self.average.module
        model.eval()
        return self.task.evaluate(model, split)

    def finish(self) -> Result:
        """Measure what is measured once, at the end, and return the result."""
        traces, metrics = measure_stability(self.task, self.evaluated, self.config.seed)
        if self.diverged_at is not None:
            return self.result("diverged", metrics, traces)
        return self.result("completed", metrics | {f"test_{self.task.metric}": self.evaluate("test")}, traces)

    def result(
        self,
        status: Status,
        measured: Mapping[str, float] = MappingProxyType({}),
        gradient_norms: Sequence[StateGradientNorms] = (),
        error: str | None = None,
    ) -> Result:
        """Return the result, with the figures that were logged and those measured at the end."""
        metric = self.task.metric
        rows = self.run.metrics()
        validated = [(row[f"valid_{metric}"], row["step"]) for row in rows if f"valid_{metric}" in row]
        metrics = {f"baseline_{metric}": self.task.baseline(), **measured}
        if rows:
            metrics["clipped_share"] = clipped_share(rows)
            metrics["largest_gradient_norm"] = max(row.get("gradient_norm", 0.0) for row in rows)
        if validated:
            best = max if self.task.higher_is_better else min
            value, step = best(validated, key=lambda pair: pair[0])  # the first of equals, as the schedule's
            metrics[f"best_valid_{metric}"], metrics["best_step"] = value, step
            metrics[f"valid_{metric}"] = validated[-1][0] if self.best is None else value
        with torch.device("meta"):
            plain = self.task.recurrent(self.task.model("none", "none"))
        return Result(
            status=status,
            error=error,
            diverged_at=self.diverged_at,
            stopped_at=self.stopped_at,
            task=self.config.task,
            quantizer=self.config.quantizer,
            normalizer=self.config.normalizer,
            seed=self.config.seed,
            metric=metric,
            metric_title=self.task.metric_title,
            higher_is_better=self.task.higher_is_better,
            metrics=metrics,
            gradient_norms=list(gradient_norms),
            steps=self.step,
            storage_bytes=self.task.recurrent(self.module).storage_bytes(),
            float32_bytes=plain.storage_bytes(),
            dataset=DatasetRecord(name=self.task.dataset, sha256=self.task.dataset_sha256),
            device=provenance.device_title(self.fabric.device),
            versions=provenance.versions(),
            git_commit=provenance.git_commit(),
            wall_s=round(self.seconds, 3),
        )
