"""A run's directory is readable whatever happened to it."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from qlstm_bench.config import RunConfig
from qlstm_bench.errors import RunError
from qlstm_bench.gradients import StateGradientNorms
from qlstm_bench.training.folder import Run, check_writable
from qlstm_bench.training.result import DatasetRecord, Result
from qlstm_bench.training.run_files import read_model

CONFIG = RunConfig.build(
    {"data": "toy", "hidden": 2, "batch": 2, "unroll": 3, "lr": 0.1, "clip": 5.0, "steps": 4}
)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = Run.of(tmp_path / "runs", CONFIG, "0" * 64)
    made.directory.mkdir(parents=True)
    made.start()
    return made


def test_the_name_tells_task_quantizer_and_normalizer(run: Run) -> None:
    config = run.config.model_copy(update={"quantizer": "alternating:bits=2", "normalizer": "batch-shared"})
    assert run.name.startswith("char-lm-none-none-")
    assert Run.of(Path(), config, "1").name.startswith("char-lm-alternating-bits-2-batch-shared-")


def a_result(metrics: dict[str, float]) -> Result:
    return Result(
        status="completed",
        task="char-lm",
        quantizer="none",
        normalizer="none",
        seed=0,
        metric="bpc",
        metric_title="bits per character",
        metrics=metrics,
        gradient_norms=[StateGradientNorms(0, 0, (math.inf, 1e-300, 1.0))],
        steps=4,
        storage_bytes=1024,
        float32_bytes=1024,
        model_bytes=2048,
        model_float32_bytes=2048,
        dataset=DatasetRecord(name="toy", sha256="0" * 64),
        device="cpu",
        versions={},
        git_commit=None,
        wall_s=0.5,
    )


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.text(max_size=5), st.floats()))
def test_numbers_that_json_lacks_come_back(
    tmp_path_factory: pytest.TempPathFactory, metrics: dict[str, float]
) -> None:
    run = Run(tmp_path_factory.mktemp("run"), CONFIG)
    run.write_result(a_result(metrics))
    run.log({**metrics, "step": 1})

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    for name in ("result.json", "metrics.jsonl"):
        json.loads((run.directory / name).read_text(encoding="utf-8"), parse_constant=refuse)
    result = run.result()
    assert result is not None
    assert result.gradient_norms == [StateGradientNorms(0, 0, (math.inf, 1e-300, 1.0))]
    (row,) = run.metrics()
    assert row.keys() == {*metrics, "step"}
    for name, value in metrics.items():
        for restored in (result.metrics[name], *([] if name == "step" else [row[name]])):
            assert restored == value or (math.isnan(restored) and math.isnan(value))


@pytest.mark.parametrize("torn", [b'{"step": 3, "los', b'{"step": 3}', b"\xff\xfe", bytes(9)])
def test_a_torn_last_line_is_left_out(run: Run, torn: bytes) -> None:
    run.log({"step": 1, "loss": 2.0})
    run.save_checkpoint({})
    run.log({"step": 2, "loss": math.inf})
    with (run.directory / "metrics.jsonl").open("ab") as file:
        file.write(torn)
    assert run.metrics() == [{"step": 1, "loss": 2.0}, {"step": 2, "loss": math.inf}]
    run.rewind(run.load_checkpoint())
    run.log({"step": 2, "loss": 1.0})
    assert run.metrics() == [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]
    run.rewind(None)
    assert run.metrics() == []


@pytest.mark.parametrize(
    "damaged", [b"\xff\xfe", b"[3]", b"", b'{"loss": 1.0}', b'{"step": 2, "lo', bytes(9)]
)
def test_a_damaged_line_is_named_and_not_left_out(run: Run, damaged: bytes) -> None:
    run.log({"step": 1, "loss": 2.0})
    run.append("metrics.jsonl", damaged)
    run.log({"step": 3, "loss": 2.0})
    with pytest.raises(RunError, match=r"metrics\.jsonl: line 2 is damaged; --force trains the run from the"):
        run.metrics()


@pytest.mark.parametrize("name", ["metrics.jsonl", "gradients.jsonl"])
def test_lines_before_the_checkpoint_must_be_as_they_were(run: Run, name: str) -> None:
    run.append(name, b'{"step": 1, "loss": 2.5}')
    run.save_checkpoint({})
    run.append(name, b'{"step": 2, "loss": 2.5}')
    checkpoint, path = run.load_checkpoint(), run.directory / name
    content = path.read_bytes()
    for altered in (content.replace(b"2.5", b"2.4", 1), content[:20], b"", content[1:]):
        path.write_bytes(altered)
        with pytest.raises(RunError, match=rf"{name}: altered: .* before the checkpoint; --force trains"):
            run.rewind(checkpoint)
        assert path.read_bytes() == altered
    path.unlink()
    with pytest.raises(RunError, match=rf"{name}: altered"):
        run.rewind(checkpoint)


def test_what_a_killed_writer_left_is_swept_away_and_nothing_else(run: Run) -> None:
    draft = f"{'0a' * 16}.partial"
    left = [f"{name}.{draft}" for name in ("result.json", "gradients.jsonl", "checkpoint/state.pt")]
    users = ["notes.partial", f"plot.{draft}", f"checkpoint/notes.{draft}", f"mine/result.json.{draft}"]
    for name in (*left, *users):
        (run.directory / name).parent.mkdir(exist_ok=True)
        (run.directory / name).write_bytes(b"{")
    with run.writing():
        assert not any((run.directory / name).exists() for name in left)
        assert all((run.directory / name).exists() for name in users)


def test_two_trainings_of_one_run_are_refused(run: Run) -> None:
    with run.writing(), pytest.raises(RunError, match="another process is training this run"), run.writing():
        pass


@pytest.mark.parametrize("content", ["", "{", "[]", '{"status": "completed"}', "\x00"])
def test_a_damaged_result_is_named(run: Run, content: str) -> None:
    (run.directory / "result.json").write_text(content)
    with pytest.raises(RunError, match=r"result\.json: .*; --force trains the run from the start"):
        run.result()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", b"not a checkpoint"])
def test_a_damaged_checkpoint_is_named(run: Run, content: bytes) -> None:
    run.save_checkpoint({})
    (run.directory / "checkpoint" / "state.pt").write_bytes(content)
    with pytest.raises(RunError, match=r"state\.pt: cannot be read: .*; --force trains the run") as caught:
        run.load_checkpoint()
    assert "\n" not in str(caught.value)


def test_no_altered_bit_of_a_checkpoint_goes_through(run: Run) -> None:
    run.save_checkpoint({"weight": torch.linspace(0, 1, 50), "step": 3})
    path = run.directory / "checkpoint" / "state.pt"
    content = path.read_bytes()
    for bit in range(0, 8 * len(content), 97):
        altered = bytearray(content)
        altered[bit // 8] ^= 1 << bit % 8
        path.write_bytes(altered)
        with pytest.raises(RunError, match="the content is not that of its digest; --force trains"):
            run.load_checkpoint()
    for length in (0, 1, 50, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(RunError, match="the content is not that of its digest"):
            run.load_checkpoint()
    path.write_bytes(content)
    assert run.load_checkpoint() is not None


class Malice:
    """Runs a command where it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("executed",)


def test_a_checkpoint_executes_nothing(run: Run) -> None:
    run.save_checkpoint({"a": Malice()})
    with pytest.raises(RunError, match=r"state\.pt: cannot be read: .*; --force trains") as caught:
        run.load_checkpoint()
    assert "\n" not in str(caught.value)
    assert not Path("executed").exists()


@pytest.mark.parametrize("content", ["", "a: [", "- list", "hidden: 3", "hiden: 3"])
def test_damaged_settings_are_named(run: Run, content: str) -> None:
    (run.directory / "config.yaml").write_text(content)
    with pytest.raises(RunError, match=r"config\.yaml") as caught:
        Run.read(run.directory)
    assert "\n" not in str(caught.value)


def test_settings_come_back(run: Run) -> None:
    assert Run.read(run.directory) == run


def test_a_checkpoint_holds_tensors_and_plain_values(run: Run) -> None:
    assert run.load_checkpoint() is None
    state = {"a": torch.arange(3.0), "b": {"c": (1, 2.5, None, "x")}, "d": [torch.tensor(True)]}
    run.save_checkpoint(state)
    loaded = run.load_checkpoint()
    assert loaded is not None
    assert torch.equal(loaded["a"], state["a"])
    assert loaded["b"] == state["b"]
    assert loaded["d"][0].dtype == torch.bool


def test_the_model_file_names_its_settings(run: Run) -> None:
    run.save_model({"weight": torch.eye(3).T[:2]})
    with safe_open(run.directory / "model.safetensors", "pt") as file:
        assert torch.equal(file.get_tensor("weight"), torch.eye(3)[:2])
        assert RunConfig.model_validate_json(file.metadata()["config"]) == run.config


def test_no_altered_bit_of_a_model_goes_through(run: Run) -> None:
    state = {
        "weight": torch.linspace(0, 1, 50),
        "half": torch.ones(3, dtype=torch.bfloat16),
        "count": torch.tensor(4),
        "mask": torch.tensor([True]),
    }
    run.save_model(state)
    path = run.directory / "model.safetensors"
    config, loaded = read_model(path)
    assert config == run.config
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())
    content = path.read_bytes()
    for bit in range(0, 8 * len(content), 97):
        altered = bytearray(content)
        altered[bit // 8] ^= 1 << bit % 8
        path.write_bytes(altered)
        with pytest.raises(RunError, match=r"model\.safetensors: (altered|not the model of a run): "):
            read_model(path)


def test_clearing_forgets_everything_but_the_settings(run: Run) -> None:
    run.log({"step": 1})
    run.append("gradients.jsonl", b"{}")
    run.save_checkpoint({})
    run.save_model({"weight": torch.zeros(1)})
    run.write_result(a_result({}))
    run.clear()
    assert os.listdir(run.directory) == ["config.yaml"]


def test_an_unwritable_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"--out .*file/below' is not a folder that can be written to"):
        check_writable(tmp_path / "file" / "below")
    check_writable(tmp_path / "new" / "folder")
    assert os.listdir(tmp_path / "new" / "folder") == []
