"""A result in words: what the command line and the reports say of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def describe_result(result: Mapping[str, Any]) -> str:
    """Return what a run came to, on one line.

    Args:
        result: what its result.json holds.
    """
    metric, metrics = result["metric"], result["metrics"]
    parts = [describe_status(result)]
    if result["status"] == "completed":
        valid, test = metrics[f"valid_{metric}"], metrics[f"test_{metric}"]
        parts.append(f"{valid:.3f} {result['metric_title']} in validation, {test:.3f} in test")
    size, plain = (result[name] / 1024 for name in ("storage_bytes", "float32_bytes"))
    parts.append(f"{size:.0f} KB instead of {plain:.0f} KB in float32")
    if "gradient_growth" in metrics:
        parts.append(f"gradient growth {format_growth(metrics['gradient_growth'])}")
    parts.append(f"{result['steps']} steps in {result['wall_s']:.0f} s")
    return "; ".join(parts)


def describe_status(result: Mapping[str, Any]) -> str:
    """Return a run's status: completed, learnt nothing, diverged at which step, or failed with what.

    A run has learnt nothing when it ends no better than the task's baseline, which looks at no input.
    """
    metric, metrics = result["metric"], result["metrics"]
    if result["status"] == "diverged":
        return f"diverged at step {result['diverged_at']}"
    if result["status"] == "failed":
        return f"failed: {result.get('error', 'no reason recorded')}"
    return "learnt nothing" if metrics[f"valid_{metric}"] >= metrics[f"baseline_{metric}"] else "completed"


def format_growth(growth: float) -> str:
    """Return a gradient's growth with two digits, as in ``3.2e+22``."""
    return "> 1e+308" if math.isinf(growth) else f"{growth:.1e}"
