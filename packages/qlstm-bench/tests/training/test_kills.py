"""``kill -9`` at any moment: the run stays readable and ends with the numbers of one that was left alone."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from qlstm_bench.training.folder import Run

KILLS = 24


def contents(out: Path) -> dict[str, Any]:
    """Return all that a finished run holds, without the seconds."""
    (directory,) = out.iterdir()
    run = Run.read(directory)
    result = run.result()
    assert result is not None
    return {
        "rows": [row | {"seconds": 0.0} for row in run.metrics()],
        "result": result.model_copy(update={"wall_s": 0.0}),
        "model": (directory / "model.safetensors").read_bytes(),
    }


def test_a_run_that_is_killed_often_ends_as_one_that_is_not(tiny: dict[str, Any], tmp_path: Path) -> None:
    stateful = {
        "quantizer": "binary-connect:stochastic=true",
        "normalizer": "batch-shared",
        "layers": 2,
        "dropout": 0.3,
    }
    settings = {**tiny, **stateful, "steps": 40, "eval_every": 7, "checkpoint_seconds": 0}
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    launcher = [sys.executable, str(Path(__file__).parents[1] / "support" / "launcher.py")]
    command = [*launcher, "settings.json", "out", str(KILLS)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    seen = json.loads(result.stdout)
    assert len(seen) == KILLS
    assert {attempt["kind"] for attempt in seen} == {"timer", "replacement", "line"}
    for _, attempts in itertools.groupby(seen, key=lambda attempt: attempt["folder"]):
        furthest = 0
        for attempt in attempts:
            left = attempt["left"]
            if left is None:  # killed before there was anything to lose
                assert furthest == 0
                continue
            assert left["result"] in (None, "completed")
            assert left["checkpoint"] >= furthest, "nothing that was saved is lost"
            furthest = left["checkpoint"]
            # Saved after every step: at most the one under way when the kill came is missing.
            assert left["steps"] == list(range(1, len(left["steps"]) + 1))
            assert 0 <= len(left["steps"]) - left["checkpoint"] <= 1
    assert max(attempt["left"]["checkpoint"] for attempt in seen if attempt["left"]) > 10
    whole = contents(tmp_path / "out" / "whole")
    assert [row["step"] for row in whole["rows"]] == list(range(1, 41))
    killed = sorted((tmp_path / "out").glob("killed-*"))
    assert killed
    for folder in killed:
        found = contents(folder)
        assert found["rows"] == whole["rows"]
        assert found["result"] == whole["result"]
        assert found["model"] == whole["model"]
