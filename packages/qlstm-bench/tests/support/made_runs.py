"""Run folders with figures that a test chooses, as if they had been trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qlstm_bench.config import RunConfig
from qlstm_bench.training.folder import Run
from qlstm_bench.training.result import Result


def make_run(out: Path, quantizer: str, normalizer: str, **changes: Any) -> Run:
    """Write a run that has ended with the given result."""
    settings = {"data": "toy", "hidden": 2, "batch": 2, "unroll": 3, "lr": 0.1, "clip": 5.0, "steps": 20}
    settings |= {"seed": changes.get("seed", 0), **changes.pop("config", {})}
    config = RunConfig.build({**settings, "quantizer": quantizer, "normalizer": normalizer})
    dataset, sha256 = changes.pop("dataset", "toy"), changes.pop("sha256", "ab" * 32)
    run = Run.of(out, config, dataset + sha256)
    run.directory.mkdir(parents=True)
    run.start()
    metrics = {
        "baseline_bpc": 4.0, "valid_bpc": 2.5, "best_valid_bpc": 2.5, "best_step": 20, "test_bpc": 2.625,
        "gradient_growth": 0.25,
    }  # fmt: skip
    result = {
        "status": "completed", "task": "char-lm", "quantizer": quantizer, "normalizer": normalizer,
        "metric": "bpc", "metric_title": "bits per character", "steps": 20, "diverged_at": None,
        "storage_bytes": 2048, "float32_bytes": 8192, "model_bytes": 4096, "model_float32_bytes": 16384,
        "seed": 0, "device": "cpu", "versions": {"torch": "2"},
        "dataset": {"name": dataset, "sha256": sha256}, "git_commit": None, "wall_s": 1.0,
        "gradient_norms": [{"layer": 0, "direction": 0, "norms": [0.25, 0.5, 1.0]}],
    }  # fmt: skip
    metrics = {**metrics, **changes.pop("metrics", {})}
    run.write_result(Result.model_validate({**result, "metrics": metrics, **changes}))
    for step in (10, 20):
        run.log({"step": step, "epoch": step / 10, "valid_bpc": 4 - step / 10})
    return run
