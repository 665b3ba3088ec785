"""The command line: one line for what is wrong, a result line for what went well."""

from __future__ import annotations

import io
import platform
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from qlstm_bench.cli import main
from qlstm_bench.config import RunConfig
from qlstm_bench.errors import BenchError
from qlstm_bench.training.run import resolve
from qlstm_core.plugins import hookimpl, registry

RUN = ["run", "char-lm"]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["rum"], ["'rum'", "did you mean 'run'", "demo", "report"]),
        ([*RUN, "--quantiser", "bwn"], ["'--quantiser'", "did you mean '--quantizer'", "--normalizer"]),
        ([*RUN, "--quantizer", "binaryconnect"], ["'binaryconnect'", "'binary-connect'", "ter-connect"]),
        ([*RUN, "--quantizer", "bwn:per_rwo=true"], ["'per_rwo'", "'per_row'"]),
        ([*RUN, "--normalizer", "layr"], ["'layr'", "'layer'", "batch-shared"]),
        ([*RUN, "--data", "ptb-chr"], ["'ptb-chr'", "'ptb-char'", "war-and-peace"]),
        ([*RUN, "--data", "no/such.txt"], ["'no/such.txt'", "does not exist"]),
        (["run", "char-ml"], ["'char-ml'", "'char-lm'"]),
        (["run"], ["TASK"]),
        ([*RUN, "--hidden", "many"], ["--hidden", "integer"]),
        ([*RUN, "--hidden", "-3"], ["hidden", "-3"]),
        ([*RUN, "--hidden"], ["--hidden"]),
        ([*RUN, "--epochs", "1", "--steps", "2"], ["epochs", "steps"]),
        ([*RUN, "--cell", "lsmt"], ["'lsmt'", "f-lstm"]),
        ([*RUN, "--cell", "g-lstm", "--groups", "4;8"], ["'4;8'", "4,8"]),
        ([*RUN, "--rank", "8"], ["rank=8", "f-lstm", "cell is lstm"]),
        (["run", "word-lm", "--data", "ptb-char"], ["'ptb-char'", "characters", "ptb-word"]),
        (["run", "word-lm", "--data", "stdlib-char"], ["words"]),
        (["run", "word-lm", "--quantizer", "lab"], ["optimizer", "'lab'", "sgd", "adam", "rmsprop"]),
        ([*RUN, "--optimizer", "adamv"], ["unknown optimizer 'adamv'", "'adam'", "rmsprop, rprop, sgd"]),
        ([*RUN, "--optimizer", "adamw:lr=0.1"], ["learning rate", "lr=0.1"]),
        ([*RUN, "--log", "tensorbord"], ["unknown logger 'tensorbord'", "'tensorboard'", "mlflow"]),
        ([*RUN, "--rounding", "nearest"], ["rounding", "'nearest'", "stochastic"]),
        (["sweep", "digits", "--dry-run", "--log", "wand"], ["unknown logger 'wand'", "'wandb'"]),
        (["run", "mnist:permute=true"], ["'permute'", "'permuted'"]),
        (["run", "mnist", "--unroll", "10"], ["unroll"]),
        ([*RUN, "--device", "tpu"], ["'tpu'", "cpu", "cuda"]),
        ([*RUN, "--precision", "half"], ["'half'", "32-true", "bf16-mixed"]),
        ([*RUN, "too-much"], ["too-much"]),
        (["report", "nowhere"], ["nowhere", "result.json"]),
        (["report"], ["RUNS"]),
        (["asv", "inti"], ["'inti'", "did you mean 'init'"]),
        (["completion", "tcsh"], ["'tcsh'", "'bash', 'zsh', 'fish'"]),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    words: list[str], named: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = [line for line in captured.err.splitlines() if "skipped" not in line]
    assert len(lines) == 1
    assert lines[0].startswith("qlstm-bench: error: ")
    for name in named:
        assert name in lines[0]


def test_a_folder_that_cannot_be_written_fails_before_training(
    tiny: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main([*RUN, "--data", tiny["data"], "--out", str(tmp_path / "file")]) == 2
    assert "--out" in capsys.readouterr().err


def test_a_run_ends_with_one_line_of_result(
    tiny: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        *RUN, "--data", tiny["data"], "--quantizer", "twn", "--normalizer", "rms", "--hidden", "8",
        "--steps", "4", "--batch", "4", "--unroll", "10", "--eval-every", "2", "--device", "cpu",
        "--out", "out",
    ]  # fmt: skip
    assert main(words) == 0
    captured = capsys.readouterr()
    pattern = (
        r"twn, rms on words.txt: (completed|learnt nothing); (\d\.\d+) bits per character in validation, "
        r"\d\.\d+ in test; "
        r"recurrent layer \d KB instead of \d in float32, whole model \d+ instead of \d+; "
        r"gradient growth \S+; 4 steps in \d+ s; "
        r"(out/\S+)\n"
    )
    match = re.fullmatch(pattern, captured.out)
    assert match
    assert (tmp_path / match[3] / "result.json").exists()
    shown = re.findall(r"^step (\d)/4  .*valid bpc (\d\.\d+)$", captured.err, re.MULTILINE)
    assert [step for step, _ in shown] == ["2", "4"]
    assert shown[-1][1] == match[2]
    assert main(words) == 0
    again = capsys.readouterr()
    assert again.out == captured.out.replace("words.txt: ", "words.txt: finished before; ")
    assert again.err == ""


def test_what_is_not_given_is_the_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def capture(settings: dict[str, Any], *_: object, **options: object) -> None:
        asked.update(settings)
        raise BenchError("seen")

    monkeypatch.setattr("qlstm_bench.training.run.train", capture)
    words = ["--cell", "g-lstm", "--groups", "4,8", "--log", "tensorboard,mlflow", "--lr", "0.5"]
    assert main(["run", "large-vocab-lm", *words, "--log-every", "3"]) == 2
    config, _ = resolve(asked)
    assert (config.cell, config.groups, config.lr, config.log_every) == ("g-lstm", [4, 8], 0.5, 3)
    assert config.log == ["tensorboard", "mlflow"]
    assert (config.clipping, config.optimizer, config.epochs) == ("recurrent", "adagrad", 1)


@pytest.mark.parametrize("command", ["run", "sweep"])
def test_help_shows_what_the_settings_say_of_themselves(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for name, field in RunConfig.model_fields.items():
        if command == "run" or name == "log":
            assert field.description
            assert field.description[1:] in text


def test_divergence_has_exit_code_0(tiny: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "--hidden",
        "16",
        "--steps",
        "5",
        "--batch",
        "4",
        "--unroll",
        "10",
        "--lr",
        "3e37",
        "--device",
        "cpu",
    ]
    assert main([*RUN, "--data", tiny["data"], *words]) == 0
    assert "none, none on words.txt: diverged at step 2;" in capsys.readouterr().out


def test_an_interruption_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("qlstm_bench.training.run.train", interrupt)
    assert main(RUN) == 130
    assert "the same command goes on from the last checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "there is not enough memory: MemoryError"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4000 bytes"),
            "4000",
        ),
        (BenchError("data \x1b[31m\nred"), r"data \x1b[31m red"),
    ],
)
def test_what_a_user_can_put_right_is_one_line(
    error: Exception, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr("qlstm_bench.training.run.train", fail)
    assert main(RUN) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("qlstm-bench: error: ")
    assert said in line


def test_only_an_interrupt_is_called_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """typer takes any EOFError, such as that of an empty pickle, for ctrl-D at a prompt."""

    def fail(*args: object, **options: object) -> None:
        raise EOFError("Ran out of input")

    monkeypatch.setattr("qlstm_bench.training.run.train", fail)
    with pytest.raises(EOFError, match="Ran out of input"):
        main(RUN)


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1"])
def test_help_and_tables_are_printed_in_any_encoding(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding=encoding))
    assert main(["theory", "markov", "--help"]) == 0
    assert b"\\u0394, distance of grid points" in written.getvalue()


@pytest.mark.filterwarnings("always")
def test_a_broken_plugin_is_a_warning_of_one_line(
    tiny: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken:
        @hookimpl
        def qlstm_run_started(self, run: object) -> None:
            raise OSError("no room\nfor logs")

    registry.register(Broken(), "broken-logger")
    try:
        words = ["--hidden", "4", "--steps", "2", "--batch", "4", "--unroll", "5", "--device", "cpu"]
        assert main([*RUN, "--data", tiny["data"], *words]) == 0
    finally:
        registry.unregister("broken-logger")
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(warnings) == 1
    assert "broken-logger" in warnings[0]
    assert "no room for logs" in warnings[0]


def test_version_is_that_of_every_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    lines = capsys.readouterr().out.splitlines()
    ours = ("qlstm-bench", "qlstm-core", "qlstm-norm", "qlstm-quant")
    expected = [f"{name} {version(name)}" for name in (*ours, "torch", "numba")]
    assert [line for line in lines if line in expected] == expected
    assert lines[-1] == f"python {platform.python_version()}"


@pytest.mark.parametrize("group", ["asv", "speed"])
def test_a_group_alone_shows_its_help(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([group]) == 0
    assert f"Usage: qlstm-bench {group}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words", [[], ["--help"], ["run", "--help"], ["demo", "--help"], ["report", "--help"]]
)
def test_help_teaches(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "Usage: qlstm-bench" in text
    if len(words) == 2:
        assert f"qlstm-bench {words[0]}" in text.split("Examples:")[1]


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["sweep", "--help"]])
def test_help_does_not_wait_for_the_libraries(words: list[str]) -> None:
    code = (
        f"import sys; from qlstm_bench.cli import main; main({words}); "
        "print([m for m in ('matplotlib', 'pandas', 'lightning_fabric', 'pooch') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"
