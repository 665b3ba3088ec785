"""The loop of a training: model, optimizer, carried state, and how far it has come."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from lightning_fabric import Fabric

from qlstm_bench.gradients import StateGradientNorms, clipped_share, measure_stability
from qlstm_bench.gradients.study.recording import GradientRecorder
from qlstm_bench.loggers.of_run import RunLoggers
from qlstm_bench.tasks import Task
from qlstm_bench.training import provenance
from qlstm_bench.training.folder import Run
from qlstm_bench.training.optimizer import GradientNorm, Schedule, WeightAverage, clip_gradients_
from qlstm_bench.training.random_state import random_state, restore_random_state
from qlstm_bench.training.result import DatasetRecord, Result, Status
from qlstm_bench.training.rounding import make_rounding
from qlstm_bench.training.team import Team
from qlstm_core import QuantizedLayer, Quantizer, model_bytes, track_curvature
from qlstm_core.plugins import registry

Listener = Callable[[int, int, Mapping[str, float]], None]
"""Called after each step with the steps done, the steps to do, and the figures logged here, if any."""


@dataclass
class Tally:
    """Sums over the steps since the last line of metrics.jsonl."""

    loss: float = 0.0
    gradient_norm: float = 0.0
    clipped: int = 0
    steps: int = 0

    def add(self, loss: float, norm: GradientNorm) -> None:
        """Take in one step."""
        self.loss += loss
        # max() would let a NaN pass for a small norm.
        self.gradient_norm = max(self.gradient_norm, math.inf if math.isnan(norm.value) else norm.value)
        self.clipped += norm.clipped
        self.steps += 1


class Training:
    """The state of a training, as one process of the team has it."""

    def __init__(
        self,
        fabric: Fabric,
        team: Team,
        task: Task,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        run: Run,
        loggers: RunLoggers,
        listen: Listener | None,
    ) -> None:
        self.fabric, self.task, self.run, self.config = fabric, task, run, run.config
        self.team, self.loggers = team, loggers
        self.listen = listen or (lambda step, steps, figures: None)
        self.module = model
        self.model, self.optimizer = fabric.setup(model, optimizer)
        if any(module.needs_curvature for module in model.modules() if isinstance(module, Quantizer)):
            track_curvature(model, optimizer)
        self.rounding = make_rounding(model, optimizer, self.config)
        self.schedule = Schedule(self.config, optimizer, task.higher_is_better)
        decay, of = self.config.average, self.config.average_of
        self.average = WeightAverage(model, decay, of) if decay else None
        self.best: dict[str, Any] | None = None
        self.steps = self.config.steps or (self.config.epochs or 0) * task.steps_per_epoch
        self.eval_every = self.config.eval_every or min(task.steps_per_epoch, math.ceil(self.steps / 10))
        self.recorder = GradientRecorder(run, task, self.config.gradients_every)
        self.step = 0
        self.carried: Any = None
        self.tally = Tally()
        self.diverged_at: int | None = None
        self.stopped_at: int | None = None
        self.checkpoint_due = False
        self.seconds_before = 0.0
        self.started = self.saved = time.monotonic()

    def restore(self) -> None:
        """Go back to the checkpoint, if there is one, and forget what was logged after it.

        Raises:
            RunError: a checkpoint that is damaged or of another run, or lines before it that were altered.
        """
        state = self.team.tell(self.run.load_checkpoint() if self.team.leader else None)
        if state is not None:
            with self.run.checkpoint_read():
                self._restore(state)
        elif self.team.rank:
            torch.manual_seed(self.config.seed + self.team.rank)  # dropout and samples of its own
        if self.team.leader:
            with self.run.checkpoint_read():
                self.run.rewind(state)
            self.recorder.restore(self.step, self.module)

    def _restore(self, state: dict[str, Any]) -> None:
        settings = self.config.deciding(self.task.dataset_sha256)
        for name, value in settings.items():
            if state["settings"].get(name) != value:
                there = state["settings"].get(name)
                raise ValueError(f"of another run: its {name} is {there!r}, and here it is {value!r}")
        _check_counters(state, self.steps)
        self.module.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        for part, saved in ((self.average, state["average"]), (self.rounding, state["rounding"])):
            if part is not None:
                part.load_state_dict(saved)
        self.best = state["best"]
        self.step, self.diverged_at = state["step"], state["diverged_at"]
        self.stopped_at = state["stopped_at"]
        self.carried = self.fabric.to_device(self.team.share(state["carried"]))
        self.tally = Tally(**state["tally"])
        self.seconds_before = state["seconds"]
        restore_random_state(state["random"][self.team.rank])

    def checkpoint(self) -> None:
        """Save all that decides how the training goes on."""
        carried, random = self.team.whole(self.carried), self.team.gather(random_state())
        if self.team.leader:
            self.run.save_checkpoint(
                {
                    "settings": self.config.deciding(self.task.dataset_sha256),
                    "model": self.module.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                    "schedule": self.schedule.state_dict(),
                    "average": None if self.average is None else self.average.state_dict(),
                    "rounding": None if self.rounding is None else self.rounding.state_dict(),
                    "best": self.best,
                    "step": self.step,
                    "carried": carried,
                    "diverged_at": self.diverged_at,
                    "stopped_at": self.stopped_at,
                    "tally": dataclasses.asdict(self.tally),
                    "seconds": self.seconds,
                    "random": random,
                }
            )
        self.saved = time.monotonic()

    @property
    def seconds(self) -> float:
        """Wall time of training, over all sessions."""
        return self.seconds_before + time.monotonic() - self.started

    @contextmanager
    def off_the_clock(self) -> Iterator[None]:
        """Keep what others do with the figures, and how long they take, out of :attr:`seconds`."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.started += time.monotonic() - began

    def loop(self) -> Result:
        """Train to the end, until patience is at its end, or to divergence; return the result."""
        while not self.ended:
            self.advance()
            figures = self.figures()
            if self.team.leader:
                if figures:
                    self.run.log({"step": self.step, **figures})
                with self.off_the_clock():
                    if figures:
                        self.loggers.log(self.step, figures)
                        registry.notify("qlstm_run_logged", run=self.run, step=self.step, metrics=figures)
                    self.listen(self.step, self.steps, figures)
            if self.ended or self.checkpoint_due:
                self.checkpoint()
        if self.best is not None and self.diverged_at is None:
            self.evaluated.load_state_dict(self.best)
        result = self.team.tell(self.finish() if self.team.leader else None)
        assert result is not None  # the leader has one
        return result

    @property
    def ended(self) -> bool:
        """Whether there is nothing more to train."""
        return self.step >= self.steps or self.diverged_at is not None or self.stopped_at is not None

    @property
    def evaluated(self) -> torch.nn.Module:
        """The model that is validated, tested and kept: the trained one, or the average of its weights."""
        if self.average is None:
            return self.module
        return self.average.module

    def advance(self) -> None:
        """Do one step of the optimizer, or find that the training has diverged."""
        if self.step % self.task.steps_per_epoch == 0:
            self.carried = None
        self.model.train()
        batch = self.fabric.to_device(self.team.share(self.task.batch(self.step)))
        loss, self.carried = self.task.loss(self.model, batch, self.carried)
        value = self.agree(loss.detach())
        norm = GradientNorm(math.nan, clipped=True)
        if math.isfinite(value):
            self.optimizer.zero_grad()
            self.fabric.backward(loss)
            norm = clip_gradients_(self.module, self.config.clip, self.config.clipping)
        self.step += 1
        self.tally.add(value, norm)
        if not math.isfinite(norm.value):
            self.diverged_at = self.step
            return
        self.optimizer.step()
        for layer in self.module.modules():
            if isinstance(layer, QuantizedLayer):
                layer.constrain_()
        if self.average is not None:
            self.average.update()
        if self.step % self.task.steps_per_epoch == 0:
            self.schedule.epoch_ended(self.step // self.task.steps_per_epoch)

    def agree(self, loss: torch.Tensor) -> float:
        """Return the team's mean loss, and learn whether its leader wants a checkpoint after this step."""
        due = self.team.leader and time.monotonic() - self.saved >= self.config.checkpoint_seconds
        value, wanted = self.team.mean(torch.stack([loss.double(), loss.new_tensor(due).double()])).tolist()
        self.checkpoint_due = wanted > 0
        return float(value)

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
                **self.rounding_figures(),
                **self.learning_rates(),
                "seconds": round(self.seconds, 3),
            }
            self.tally = Tally()
        if self.diverged_at is None and (last or self.step % self.eval_every == 0):
            figures[f"valid_{self.task.metric}"] = self.validate()
        if self.diverged_at is None and self.team.leader:
            figures |= self.recorder.record(self.step, self.module)
        return figures

    def learning_rates(self) -> dict[str, float]:
        """Return the learning rate as ``lr``, and those of named groups as ``lr_<name>``."""
        first, *named = self.optimizer.param_groups
        return {"lr": first["lr"]} | {f"lr_{group['name']}": group["lr"] for group in named}

    def rounding_figures(self) -> dict[str, float]:
        """Return the share of rounded weights that are at another level than at the start, as ``changed``."""
        rounding = self.rounding
        return {} if rounding is None else {"changed": rounding.changed_since_start / rounding.weights}

    def training_figures(self) -> dict[str, float]:
        """Return the mean loss since the last line, and as the figure of merit where it is one."""
        loss = self.tally.loss / self.tally.steps
        metric = self.task.to_metric(loss)
        return {"train_loss": loss} | ({} if metric is None else {f"train_{self.task.metric}": metric})

    def validate(self) -> float:
        """Return the figure of merit in validation, and draw the consequences."""
        figure = self.team.tell(self.evaluate("valid") if self.team.leader else math.nan)
        better = self.schedule.validated(figure)
        if better and self.config.tested == "best":
            self.best = {name: value.clone() for name, value in self.evaluated.state_dict().items()}
        if self.schedule.exhausted:
            self.stopped_at = self.step
        return figure

    @torch.no_grad()
    def evaluate(self, split: str) -> float:
        """Return the figure of merit on a part of the data; random draws are none of the training's."""
        devices = [self.fabric.device] if self.fabric.device.type == "cuda" else []
        with self.fabric.autocast(), torch.random.fork_rng(devices=devices):
            return self.task.evaluate(self.evaluated.eval(), split)

    def finish(self) -> Result:
        """Keep the model, measure what is measured once, at the end, and return the result."""
        self.run.save_model(self.evaluated.state_dict())
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
            plain = self.task.model("none", "none")
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
            float32_bytes=self.task.recurrent(plain).storage_bytes(),
            model_bytes=model_bytes(self.module),
            model_float32_bytes=model_bytes(plain, quantized=False),
            dataset=DatasetRecord(name=self.task.dataset, sha256=self.task.dataset_sha256),
            device=provenance.device_title(self.fabric.device),
            versions=provenance.versions(),
            git_commit=provenance.git_commit(),
            wall_s=round(self.seconds, 3),
        )


def _check_counters(state: Mapping[str, Any], steps: int) -> None:
    """Check the numbers of a checkpoint that a training counts on with.

    Raises:
        ValueError: one that no training of so many steps can have.
    """
    step = state["step"]
    limits = {
        "step": (step, 1, steps),
        "tally.steps": (state["tally"]["steps"], 0, step),
        "tally.clipped": (state["tally"]["clipped"], 0, state["tally"]["steps"]),
        "schedule.stalled": (state["schedule"]["stalled"], 0, step),
    }
    for name, (value, least, most) in limits.items():
        if type(value) is not int or not least <= value <= most:
            raise ValueError(f"its {name} is {value!r}: expected a number from {least} to {most}")
    for name in ("diverged_at", "stopped_at"):
        if state[name] not in (None, step):
            raise ValueError(f"its {name} is {state[name]!r}: expected none, or its step, {step}")
    if not 0 <= state["seconds"] < math.inf:
        raise ValueError(f"its seconds are {state['seconds']!r}: expected a number from 0")
