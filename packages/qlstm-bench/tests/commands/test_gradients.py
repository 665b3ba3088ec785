"""``qlstm-bench gradients``, from run folders to tables and figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from qlstm_bench.cli import main
from qlstm_bench.training.run import train

PNG = b"\x89PNG"


@pytest.fixture
def runs(tiny: dict[str, Any]) -> Path:
    """Two runs of one dataset, one of them recorded."""
    train({**tiny, "quantizer": "binary-connect", "normalizer": "layer", "gradients_every": 6}, Path("runs"))
    train({**tiny, "quantizer": "none"}, Path("runs"))
    return Path("runs")


def test_tables_and_figures(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(runs), "--out", "found", "--jacobian", "--gains", "0.5,2", "--quantizer", "ter-connect"]
    assert main(["gradients", *arguments]) == 0
    out = capsys.readouterr().out
    assert "binary-connect, layer" in out
    assert "ter-connect, none, of none/none" in out
    assert "largest Lyapunov exponent" in out
    found = Path("found")
    for name in ("norms", "spectral", "lambda1", "gains", "sigma", "jacobian", "gain-effect"):
        assert (found / f"{name}.png").read_bytes().startswith(PNG)
    norms = pd.read_csv(found / "norms.csv", keep_default_na=False)
    assert len(norms) == 4 * 10  # two runs, each also quantized otherwise, of ten steps
    assert norms["t"].max() == 10
    bounds = pd.read_csv(found / "bounds.csv", keep_default_na=False, na_values=[""])
    assert (bounds["left"] <= bounds["measured_right"] * (1 + 1e-5)).all()
    assert (bounds["measured_right"] <= bounds["right"] * (1 + 1e-5)).all()
    gates = pd.read_csv(found / "gates.csv", keep_default_na=False, na_values=[""])
    binary = gates[(gates["quantizer"] == "binary-connect")]
    assert (binary["quantized"] >= binary["signs"]).all()
    assert set(pd.read_csv(found / "recorded.csv")["step"]) == {0, 6, 12}
    effect = pd.read_csv(found / "gain-effect.csv")
    assert effect["factor"].tolist() == [0.5, 2.0]
    assert effect["lambda1"].is_monotonic_increasing
    jacobian = pd.read_csv(found / "jacobian.csv", keep_default_na=False)
    assert (jacobian["exact"].astype(float) <= jacobian["bound"].astype(float) + 1e-5).all()


def test_a_model_file_and_another_normaliser(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (model,) = runs.glob("*-none-none-*/model.safetensors")
    assert main(["gradients", str(model), "--out", "found", "--normalizer", "weight"]) == 0
    assert "none, weight, of none/none" in capsys.readouterr().out
    frame = pd.read_csv(Path("found/stability.csv"), keep_default_na=False, na_values=[""])
    # Weight normalisation starts from the row norms of the weight: it changes nothing yet.
    plain, normalised = frame["growth"]
    assert normalised == pytest.approx(plain, rel=1e-4)
    assert not Path("found/recorded.csv").exists()


def test_networks_that_cannot_be_read_are_named_and_left_out(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, normalised = sorted(runs.glob("*"), key=lambda run: "none-none" not in run.name)
    (normalised / "model.safetensors").write_bytes(b"damaged")
    assert main(["gradients", str(runs), "--out", "found"]) == 0
    assert f"skipped: {normalised.name}: " in capsys.readouterr().err
    assert set(pd.read_csv("found/stability.csv", keep_default_na=False)["normalizer"]) == {"none"}
    (plain / "model.safetensors").write_bytes(b"damaged")
    assert main(["gradients", str(runs), "--out", "found"]) == 2
    assert "none of 2 networks can be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["missing"], "missing"),
        (["empty"], "no model.safetensors in it or below"),
        (["empty/model.bin"], "not the model of a run"),
        (["runs", "--gains", "1,zero"], "--gains: expected positive numbers"),
        (["runs", "--gains", "-1"], "--gains: expected positive numbers"),
        (["runs", "--quantizer", "bwm"], "bwn"),
    ],
)
def test_mistakes_are_named_in_one_line(
    tiny: dict[str, Any], arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    train({**tiny, "steps": 1}, Path("runs"))
    Path("empty").mkdir()
    Path("empty/model.bin").write_bytes(b"no model")
    capsys.readouterr()
    if arguments == ["empty"]:
        Path("empty/model.bin").unlink()
    assert main(["gradients", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gradients", "--help"]) == 0
    assert "qlstm-bench gradients runs --gains" in capsys.readouterr().out
