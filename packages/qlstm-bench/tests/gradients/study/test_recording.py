"""Recording while training: the training does not notice, and resumes as before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from qlstm_bench.gradients.study.recording import Recording, recordings
from qlstm_bench.training.run import train


@pytest.mark.parametrize("normalizer", ["none", "batch-shared"])
def test_training_is_the_same_bit_for_bit(tiny: dict[str, Any], normalizer: str) -> None:
    settings = {**tiny, "quantizer": "binary-connect:stochastic=true", "normalizer": normalizer}
    plain = train(settings, Path("plain")).run
    recorded = train({**settings, "gradients_every": 5}, Path("recorded")).run
    one, two = (load_file(run.directory / "model.safetensors") for run in (plain, recorded))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert [recording.step for recording in recordings(recorded.directory)] == [0, 5, 10]
    assert not (plain.directory / "gradients.jsonl").exists()


def test_recordings_hold_what_is_measured(tiny: dict[str, Any]) -> None:
    run = train(
        {**tiny, "quantizer": "twn", "normalizer": "layer", "layers": 2, "gradients_every": 6}, Path("runs")
    ).run
    kept = recordings(run.directory)
    assert [recording.step for recording in kept] == [0, 6, 12]
    for recording in kept:
        assert [(layer.norms.layer, layer.norms.direction) for layer in recording.layers] == [(0, 0), (1, 0)]
        for layer in recording.layers:
            assert len(layer.norms.norms) == len(layer.norms.cell_norms) == tiny["unroll"]
            assert layer.bounds is not None
            assert layer.bounds.lambda1 > 0
            assert [gate.gate for gate in layer.gates] == list("ifgo")
    logged = {row["step"]: row for row in run.metrics()}
    assert logged[6]["lambda1"] == pytest.approx(max(layer.bounds.lambda1 for layer in kept[1].layers))
    assert {"gradient_decades", "lambda1_excess"} <= set(logged[12])
    result = run.result()
    assert result is not None
    assert result.metrics["gradient_decades"] >= 0
    assert result.metrics["lambda1_excess"] == pytest.approx(max(0, result.metrics["lambda1"] - 1))
    assert 0 <= result.metrics["clipped_share"] <= 1


def as_text(kept: list[Recording]) -> list[str]:
    """NaN, which stands for what was not computed, is not equal to itself."""
    return [recording.model_dump_json() for recording in kept]


def test_interrupted_recording_goes_on(tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {**tiny, "normalizer": "layer", "gradients_every": 3, "checkpoint_seconds": 0.0}
    whole = recordings(train(settings, Path("whole")).run.directory)

    class InterruptionError(Exception):
        pass

    def interrupt(step: int, steps: int, figures: object) -> None:
        if step == 7:
            raise InterruptionError

    with pytest.raises(InterruptionError):
        train(settings, Path("parts"), listen=interrupt)
    (folder,) = Path("parts").iterdir()
    path = folder / "gradients.jsonl"
    lines = path.read_bytes()
    # What a crash can leave: a recording after the checkpoint, and a torn line.
    later = lines.splitlines(keepends=True)[-1].replace(b'"step":6', b'"step":9')
    path.write_bytes(lines + later + b'{"step":9,"lay')
    again = train(settings, Path("parts")).run
    assert as_text(recordings(again.directory)) == as_text(whole)

    train(settings, Path("parts"), force=True)
    assert as_text(recordings(again.directory)) == as_text(whole)
