"""``qlstm-bench pack`` and ``qlstm-bench generate``: from a run to a file to a text."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from qlstm_bench.cli import main
from qlstm_bench.tasks.char_lm import CharLanguageModel
from qlstm_bench.training.run import train
from qlstm_core import LSTM, PackedModel, Vocabulary, model_bytes, pack

QUANTIZED = {"quantizer": "bwn", "normalizer": "layer"}
HEAD = {"head_quantizer": "uniform:bits=8,per_row=true"}


def packed_run(settings: dict[str, Any], *options: str) -> tuple[Any, Path]:
    outcome = train(settings, Path("runs"))
    assert main(["pack", str(outcome.run.directory), "--out", "packed.safetensors", *options]) == 0
    return outcome, Path("packed.safetensors")


def test_a_run_is_packed_and_measured_beside_itself(
    tiny: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    outcome, file = packed_run({**tiny, **QUANTIZED, **HEAD})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split("  ")[-2].strip() == "bits per character in validation"
    trained, packed = (line.split() for line in lines[1:3])
    assert float(trained[-2]) == pytest.approx(outcome.result.figure("valid"), abs=1e-4)
    assert float(packed[-2]) == pytest.approx(outcome.result.figure("valid"), abs=2e-3)
    model = PackedModel.load(file)
    assert packed[-1] == f"{model.nbytes:,}"
    assert model.nbytes == outcome.result.model_bytes
    assert lines[3] == f"packed.safetensors: {file.stat().st_size:,} bytes with header and vocabulary"
    assert model.vocabulary is not None
    assert "".join(model.vocabulary.symbols) == "".join(sorted(set(Path(tiny["data"]).read_text())))
    assert model.activation_bits == 16


def test_words_are_packed_with_their_embedding(
    tiny: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    both = {"embedding_quantizer": "uniform:bits=4,per_row=true", **HEAD}
    settings = {**tiny, "task": "word-lm", "lr": 1.0, "initial_state": "learned", **QUANTIZED, **both}
    outcome, file = packed_run(settings, "--activation-bits", "12")
    trained, packed = (line.split() for line in capsys.readouterr().out.splitlines()[1:3])
    assert float(packed[-2]) == pytest.approx(float(trained[-2]), rel=1e-2)
    assert int(packed[-1].replace(",", "")) == outcome.result.model_bytes
    assert main(["generate", str(file), "--prompt", "the gate", "-n", "12", "--seed", "1"]) == 0
    words = capsys.readouterr().out.split(" ")
    assert words[:2] == ["the", "gate"]
    assert len(words) == 14
    assert {word.strip() for word in words} <= {*Path(tiny["data"]).read_text().split(), "<eos>", "<unk>"}


def test_noise_of_the_initial_state_is_left_out(
    tiny: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    packed_run({**tiny, **QUANTIZED, "initial_state": "learned", "initial_state_noise": 0.5})
    note, _, trained, packed, _ = capsys.readouterr().out.splitlines()
    assert note == "the noise of the initial state is left out, in both"
    assert float(packed.split()[-2]) == pytest.approx(float(trained.split()[-2]), abs=1e-3)


def test_the_same_seed_writes_the_same_text(tiny: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    _, file = packed_run({**tiny, **QUANTIZED})
    capsys.readouterr()

    def written(*options: str) -> str:
        assert main(["generate", str(file), "--prompt", "the ", "-n", "40", *options]) == 0
        return capsys.readouterr().out

    text = written("--seed", "7")
    assert text.startswith("the ")
    assert len(text) == len("the ") + 40 + len("\n")
    assert written("--seed", "7") == text
    assert written("--seed", "8") != text
    model = PackedModel.load(file)
    assert model.vocabulary is not None
    likeliest = model.generate(model.vocabulary.encode("the "), 40, 0)
    assert written("--temperature", "0") == f"the {model.vocabulary.decode(likeliest)}\n"
    assert written("--top-k", "1") == written("--temperature", "0")


def made(symbols: list[str], separator: str = "") -> Path:
    """A small packed model whose symbols these are."""
    torch.manual_seed(0)
    model = CharLanguageModel(LSTM(len(symbols), 8, quantizer="bwn"))
    pack(model, vocabulary=Vocabulary(symbols, separator)).save("made.safetensors")
    return Path("made.safetensors")


def test_symbols_do_not_steer_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = made(["\n", "\t", "\x1b", "\x07", "\u202e", "a", "é"])
    assert main(["generate", str(file), "--prompt", "a\n\x1b\té", "-n", "60", "--seed", "1"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("a\n\\x1b\té")
    assert "\\x1b" in out[5:]
    assert "\\u202e" in out
    assert "\\x07" in out
    assert not set(out) & set("\x1b\x07\u202e")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prompt", "axb"], "--prompt: 'x' is not one of the 3 characters of the model: 'abc'"),
        (["--prompt", ""], "--prompt '' has nothing to go on from: expected at least one character"),
        (["--prompt", "a", "--temperature", "-1"], "temperature must be a finite number from 0, got -1.0"),
        (["--prompt", "a", "--top-k", "4"], "top_k must be a whole number from 1 to 3, the tokens, got 4"),
        (["--prompt", "a", "--seed", "-1"], "seed must be a whole number from 0"),
        (["--prompt", "a", "-n", "0"], "'-n'"),
        ([], "--prompt"),
    ],
)
def test_a_prompt_that_does_not_fit_is_one_line(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = made(["a", "b", "c"])
    assert main(["generate", str(file), *options]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert message in captured.err


def test_files_that_hold_no_language_model_are_one_line(
    tiny: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    directory = train(tiny, Path("runs")).run.directory
    torch.manual_seed(0)
    pack(LSTM(3, 8, quantizer="bwn")).save("layer.safetensors")
    pack(CharLanguageModel(LSTM(3, 8, quantizer="bwn"))).save("dumb.safetensors")
    Path("bad.safetensors").write_bytes(b"not at all")
    for name, message in {
        str(directory / "model.safetensors"): "no packed network",
        "layer.safetensors": "holds a recurrent layer alone",
        "dumb.safetensors": "holds no vocabulary",
        "bad.safetensors": "truncated, or no safetensors file",
        "gone.safetensors": "No such file",
    }.items():
        assert main(["generate", name, "--prompt", "a"]) == 2
        captured = capsys.readouterr()
        assert captured.err.count("\n") == 1
        assert message in captured.err
        assert "`qlstm-bench pack RUN --out FILE`" in captured.err


def test_what_cannot_be_packed_is_one_line(tiny: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    plain = train(tiny, Path("runs")).run.directory
    digits = {"task": "digits", "steps": 2, "hidden": 8, "batch": 4, "device": "cpu", "quantizer": "bwn"}
    images = train(digits, Path("runs")).run.directory
    words = train({**tiny, "quantizer": "bwn"}, Path("runs")).run.directory
    capsys.readouterr()
    for given, message in {
        ("nowhere", "--out", "m.safetensors"): "nowhere: no such file",
        (str(plain), "--out", "m.safetensors"): "nothing to pack: every weight",
        (str(images), "--out", "m.safetensors"): "packed_stages()",
        (str(words), "--out", "no/m.safetensors"): "--out 'no/m.safetensors' cannot be written",
        (str(words), "--out", str(words)): "it is a folder",
        (str(words), "--out", str(words / "model.safetensors")): "is the model of the run itself",
        (str(words), "--out", "m.safetensors", "--activation-bits", "7"): "one of [8, 12, 16], got 7",
        (str(words),): "--out",
    }.items():
        assert main(["pack", *given]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.count("\n") == 1
        assert message in captured.err
    assert not Path("m.safetensors").exists()


def test_a_reader_that_has_gone_away_ends_it_quietly() -> None:
    file = made(["a", "b", "c"])
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as broken:
        gone = subprocess.run(
            [sys.executable, "-m", "qlstm_bench", "generate", str(file), "--prompt", "a", "-n", "100"],
            stdout=broken,
            stderr=subprocess.PIPE,
            check=False,
            timeout=300,
        )
    assert (gone.returncode, gone.stderr) == (1, b"")


def test_sizes_are_counted_alike() -> None:
    torch.manual_seed(0)
    model = CharLanguageModel(LSTM(5, 8, quantizer="bwn"), head_quantizer="twn")
    assert pack(model).nbytes == model_bytes(model)
