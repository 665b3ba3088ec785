"""Adam with rounded weights on a recurrent task: table 1 of Li et al. (2017), and how many weights change."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from qlstm_bench.theory.experiment import Experiment, Findings, Progress
from qlstm_bench.training.optimizer import clip_gradients_
from qlstm_bench.training.rounding import fill_grid_, grid_of
from qlstm_quant import Rounding
from qlstm_quant.rounding import Mode

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from qlstm_bench.tasks import Task

METHODS: dict[str, tuple[Mode | None, bool]] = {
    "ADAM": (None, False),
    "BC-ADAM": ("binary-connect", False),
    "Big SR-ADAM": ("stochastic", True),
    "SR-ADAM": ("stochastic", False),
    "R-ADAM": ("deterministic", False),
}
"""Method to its rounding and whether its batches are big, in the order of errors of the poster's table 1."""


def flip_probability(before: Tensor, after: Tensor, delta: float, mode: Mode) -> Tensor:
    """Return the probability that a binary weight moves to the other point: ``min(max(±u/Δ, 0), 1)`` for SR.

    u is the update; one away from the other point is cut off by the grid's end. R moves a weight where that
    is above ½.

    Args:
        before: weights ±Δ/2.
        after: the same with the optimizer's update, not yet rounded.
        delta: Δ.
        mode: ``"stochastic"`` or ``"deterministic"``.
    """
    p = (-torch.sign(before) * (after - before) / delta).clamp(0, 1)
    return p if mode == "stochastic" else (p > 0.5).to(p.dtype)


@dataclass
class Flips:
    """Counts a rounded training's moves, and what the flip probabilities predict.

    Args:
        delta: Δ.
        mode: mode of the rounding; nothing is predicted for BC, whose real weights are not at hand.
        expected: sum of all flip probabilities.
        variance: sum of p(1 − p).
        counted: number of moves.
    """

    delta: float
    mode: Mode
    expected: float = 0.0
    variance: float = 0.0
    counted: int = 0
    _before: list[Tensor] = field(default_factory=list)

    def attach(self, optimizer: Optimizer, params: list[Tensor]) -> None:
        """Watch the optimizer's steps; to be called before a :class:`Rounding` is put on it."""

        def keep(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            self._before = [param.detach().clone() for param in params]

        def add(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            for before, param in zip(self._before, params, strict=True):
                p = flip_probability(before, param.detach(), self.delta, self.mode).double()
                self.expected += float(p.sum())
                self.variance += float((p * (1 - p)).sum())

        if self.mode != "binary-connect":
            optimizer.register_step_pre_hook(keep)
            optimizer.register_step_post_hook(add)


@dataclass(frozen=True)
class Outcome:
    """What one training gave.

    Args:
        error: figure of merit in validation, at the end; of an accuracy in %, what is missing to 100.
        changed: share of the rounded weights that differ from their start, after each step.
        flips: moves counted and expected; ``None`` without rounding.
    """

    error: float
    changed: list[float]
    flips: Flips | None


def train_rounded(
    task: Task, *, mode: Mode | None, delta: float, rate: float, clip: float, steps: int, seed: int,
    normalizer: str, progress: Progress = lambda share: None,
) -> Outcome:  # fmt: skip
    """Train a task's network with the recurrent layer's weights at ±Δ/2, all else at full precision.

    Args:
        task: prepared.
        mode: mode of the rounding; ``None`` leaves the weights at full precision.
        delta: Δ, distance of the two grid points.
        rate: Adam's learning rate.
        clip: largest norm of the gradient.
        steps: number of steps of the optimizer.
        seed: seed of the initial weights and of the rounding.
        normalizer: normaliser of the recurrent layer.
        progress: function that is told the share that is done.
    """
    torch.manual_seed(seed)
    model = task.model("none", normalizer)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    params = _matrices(task.recurrent(model))
    flips = rounding = None
    if mode is not None:
        grid = grid_of(2, delta)
        fill_grid_(params, grid)
        flips = Flips(delta, mode)
        flips.attach(optimizer, params)
        generator = torch.Generator().manual_seed(seed)
        rounding = Rounding(params, optimizer, grid, mode=mode, generator=generator)
    state, changed = None, []
    for step in range(steps):
        model.train()
        loss, state = task.loss(model, task.batch(step), state if step % task.steps_per_epoch else None)
        optimizer.zero_grad()
        loss.backward()
        clip_gradients_(model, clip)
        optimizer.step()
        if rounding is not None and flips is not None:
            flips.counted += rounding.changed_last_step
            changed.append(rounding.changed_since_start / rounding.weights)
        progress((step + 1) / steps)
    model.eval()
    with torch.no_grad():
        figure = task.evaluate(model, "valid")
    return Outcome(100 - figure if task.higher_is_better else figure, changed, flips)


def _matrices(layer: nn.Module) -> list[Tensor]:
    """Return the input and recurrent weights of a layer, which are what is quantized."""
    return [parameter for name, parameter in layer.named_parameters() if name.startswith("weight_")]


class RoundingAdam(Experiment):
    """BC-, R-, SR- and big-batch SR-ADAM: binary weights ±Δ/2 in a recurrent, normalised network.

    Errors as in the poster's table 1:  ADAM < BC-ADAM < Big SR-ADAM < SR-ADAM < R-ADAM
    Share of weights changed:           SR most (explores), BC less (exploits)
    Exactly, for SR:  E[moves per step] = Σ min(max(±u/Δ, 0), 1), u Adam's update towards the other point
    R moves a weight only where |u| ≥ Δ/2: Adam's updates are about the learning rate, so that below Δ/2 none
    moves.

    Every method starts from the same weights, with as many steps. Big batches are ``big`` times as large.
    Source: Li et al. 2017, arXiv:1706.02379, table 1 and figure of exploration and exploitation.
    """

    task: tuple[str, ...] = Field(default=("digits", "char-lm"), description="recurrent tasks to train on")
    delta: float = Field(default=1.0, gt=0, description="Δ, distance of the two grid points")
    rate: float = Field(default=0.005, gt=0, description="Adam's learning rate")
    hidden: int = Field(default=48, ge=2, description="units of the recurrent layer")
    batch: int = Field(default=16, ge=1, description="sequences side by side")
    big: int = Field(default=6, ge=2, description="how many times larger big batches are")
    steps: int = Field(default=800, ge=2, description="optimizer steps")
    runs: int = Field(default=1, ge=1, description="trainings of each method, with seeds from --seed on")
    normalizer: str = Field(default="layer", description="normaliser of the recurrent layer")

    def run(self, progress: Progress = lambda share: None) -> Findings:
        """Train with every method, on every task."""
        rows, shown = [], {}
        number, total = 0, len(self.task) * len(METHODS) * self.runs
        for name in self.task:
            tasks = {
                False: self._prepared(name, self.batch),
                True: self._prepared(name, self.batch * self.big),
            }
            for method, (mode, big) in METHODS.items():
                outcomes = []
                for run in range(self.runs):
                    outcomes.append(
                        train_rounded(
                            tasks[big], mode=mode, delta=self.delta, rate=self.rate, clip=5.0,
                            steps=self.steps, seed=self.seed + run, normalizer=self.normalizer,
                            progress=_part(progress, number, total),
                        )
                    )  # fmt: skip
                    number += 1
                rows.append({"task": name, "unit": _unit(tasks[big]), "method": method, **_row(outcomes)})
                if mode is not None:
                    shown[name, method] = outcomes[0].changed
        table = pd.DataFrame(rows)
        remarks = [
            f"{name}: " + " < ".join(part.sort_values("error").method) for name, part in table.groupby("task")
        ]
        return Findings(
            table, lambda figure: _draw(figure, table, shown),
            "Left: error in validation over full precision's. Right: share of the binary weights that "
            "differ from their start.", tuple(remarks),
        )  # fmt: skip

    def _prepared(self, name: str, batch: int) -> Task:
        from qlstm_bench.training.run import resolve

        settings: dict[str, Any] = {
            "task": name, "hidden": self.hidden, "batch": batch, "steps": self.steps, "eval_symbols": 20_000
        }  # fmt: skip
        if name == "char-lm":
            settings |= {"data": "stdlib-char", "unroll": 32}
        config, task = resolve(settings)
        task.prepare(config)
        return task


def _unit(task: Task) -> str:
    return "% wrong" if task.higher_is_better else task.metric_title


def _part(progress: Progress, number: int, total: int) -> Callable[[float], None]:
    return lambda share: progress((number + share) / total)


def _row(outcomes: list[Outcome]) -> dict[str, float]:
    errors = torch.tensor([outcome.error for outcome in outcomes])
    row = {
        "error": float(errors.mean()),
        "spread": float(errors.std()) if len(outcomes) > 1 else math.nan,
        "changed": math.nan, "largest changed": math.nan, "moves": math.nan, "predicted moves": math.nan,
    }  # fmt: skip
    flips = [outcome.flips for outcome in outcomes if outcome.flips is not None]
    if flips:
        row["changed"] = sum(outcome.changed[-1] for outcome in outcomes) / len(outcomes)
        row["largest changed"] = max(max(outcome.changed) for outcome in outcomes)
        row["moves"] = sum(flip.counted for flip in flips) / len(flips)
        if flips[0].mode != "binary-connect":
            row["predicted moves"] = sum(flip.expected for flip in flips) / len(flips)
    return row


def _draw(figure: Figure, table: pd.DataFrame, shown: dict[tuple[str, str], list[float]]) -> None:
    left, right = figure.subplots(1, 2)
    for name, part in table.groupby("task"):
        full = part.error[part.method == "ADAM"].item()
        left.errorbar(part.error / full, part.method, xerr=part.spread / full, fmt="o", label=str(name))
    left.invert_yaxis()
    left.set_xlabel("error in validation, over ADAM's")
    left.legend(frameon=False, fontsize=8)
    for (name, method), changed in shown.items():
        right.plot(range(1, len(changed) + 1), changed, label=f"{name}, {method}")
    right.set_xlabel("optimizer step")
    right.set_ylabel("share of weights changed")
    right.legend(frameon=False, fontsize=7)
