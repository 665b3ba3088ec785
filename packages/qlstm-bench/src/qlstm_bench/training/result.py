"""What a run came to: the content of its result.json, and how to say it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Status = Literal["completed", "diverged", "failed"]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Size = Annotated[int, Field(gt=0, lt=2**63, strict=True)]
Duration = Annotated[float, Field(ge=0, lt=1e12)]


class DatasetRecord(BaseModel):
    """Which data a run was trained on.

    Args:
        name: the dataset's, or the file's.
        sha256: SHA-256 of its bytes.
    """

    name: str
    sha256: str


@dataclass(frozen=True)
class StateGradientNorms:
    """``‖∂ξ_m/∂h_t‖`` and ``‖∂ξ_m/∂c_t‖`` of one layer and direction.

    Args:
        layer: counted from 0.
        direction: 0 forwards, 1 backwards in time.
        norms: of ``∂ξ_m/∂h_t`` for t = 1 … T, over batch and units; infinite where the gradient overflows
            float64.
        cell_norms: the same of ``∂ξ_m/∂c_t``; empty for a cell without cell state.
    """

    layer: int
    direction: int
    norms: tuple[float, ...]
    cell_norms: tuple[float, ...] = ()

    @property
    def growth(self) -> float:
        """``‖∂ξ_m/∂h_1‖ / ‖∂ξ_m/∂h_T‖``: above 1 the gradient explodes, below 1 it vanishes."""
        first, last = self.norms[0], self.norms[-1]
        if math.isinf(first) or last == 0:
            return math.inf if first > 0 else math.nan
        return first / last


class Result(BaseModel):
    """What result.json holds.

    Args:
        status: ``completed``, ``diverged`` (the loss or a gradient was not finite) or ``failed``.
        error: why it failed.
        diverged_at: the step at which it diverged.
        stopped_at: the step after which patience with its validations was at an end.
        task, quantizer, normalizer, seed: from the settings.
        metric: name of the task's figure of merit.
        metric_title: the figure of merit in words.
        higher_is_better: whether a larger one is the better one.
        metrics: ``baseline_<metric>`` and, as far as the run came, ``valid_<metric>`` and
            ``test_<metric>`` (of the weights that are kept: the last, or those of the best validation),
            ``best_valid_<metric>`` and its ``best_step``, ``largest_gradient_norm`` (over all parameters,
            before clipping), and what :func:`qlstm_bench.gradients.measure_stability` and ``clipped_share``
            measure.
        gradient_norms: through time, after training, of each layer and direction.
        steps: optimizer steps done.
        storage_bytes: size of the recurrent layer as deployed.
        float32_bytes: size of the same layer without quantizer and normaliser.
        model_bytes: size of the whole model as deployed.
        model_float32_bytes: size of the whole model without quantizers and normalisers.
        dataset: what it was trained on.
        device: device of the training.
        versions: versions of Python, PyTorch, NumPy and every plugin.
        git_commit: commit of the repository around the working directory, if any.
        wall_s: seconds of training, over all sessions; without those that loggers and other hooks take.
    """

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings")

    status: Status
    error: str | None = None
    diverged_at: Count | None = None
    stopped_at: Count | None = None
    task: str
    quantizer: str
    normalizer: str
    seed: Count
    metric: str
    metric_title: str
    higher_is_better: Annotated[bool, Field(strict=True)] = False
    metrics: dict[str, float]
    gradient_norms: list[StateGradientNorms] = []
    steps: Count
    storage_bytes: Size
    float32_bytes: Size
    model_bytes: Size
    model_float32_bytes: Size
    dataset: DatasetRecord
    device: str
    versions: dict[str, str]
    git_commit: str | None
    wall_s: Duration

    def figure(self, kind: str) -> float:
        """Return the figure of merit: ``"valid"``, ``"test"`` or ``"baseline"``; NaN where there is none."""
        return self.metrics.get(f"{kind}_{self.metric}", math.nan)

    @property
    def learnt(self) -> bool:
        """Whether the run ended better than the task's baseline, which looks at no input."""
        valid, baseline = self.figure("valid"), self.figure("baseline")
        return self.status == "completed" and (
            valid > baseline if self.higher_is_better else valid < baseline
        )

    @property
    def fate(self) -> str:
        """The status in words: completed, maybe early; learnt nothing; diverged when; or failed with what."""
        if self.status == "diverged":
            return f"diverged at step {self.diverged_at}"
        if self.status == "failed":
            return f"failed: {self.error}"
        if not self.learnt:
            return "learnt nothing"
        return "completed" if self.stopped_at is None else f"stopped early at step {self.stopped_at}"

    def describe(self) -> str:
        """Return all that matters on one line."""
        parts = [self.fate]
        if self.status == "completed":
            valid, test = self.figure("valid"), self.figure("test")
            parts.append(f"{valid:.3f} {self.metric_title} in validation, {test:.3f} in test")
        layer, plain, model, plain_model = (
            f"{size / 1024:.0f}"
            for size in (self.storage_bytes, self.float32_bytes, self.model_bytes, self.model_float32_bytes)
        )
        parts.append(
            f"recurrent layer {layer} KB instead of {plain} in float32, whole model {model} instead of "
            f"{plain_model}"
        )
        parts.append(f"gradient growth {format_growth(self.metrics.get('gradient_growth', math.nan))}")
        parts.append(f"{self.steps} steps in {self.wall_s:.0f} s")
        return "; ".join(parts)


def format_growth(growth: float) -> str:
    """Return a gradient's growth with two digits, as in ``3.2e+22``; a dash for NaN."""
    if math.isnan(growth):
        return "–"
    return "> 1e+308" if math.isinf(growth) else f"{growth:.1e}"
