"""The asv suite and its tools, as far as that shows without measuring: `tox run -e asv-quick` measures."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import json
import math
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCH = Path(__file__).resolve().parents[2]
SUITE = BENCH / "src" / "qlstm_bench" / "benchmarks"
MODULES = sorted(path.stem for path in SUITE.glob("*.py") if path.stem != "__init__")


def load(path: Path, name: str = "") -> ModuleType:
    """Import a file that is in no package, or asv's folder as a package."""
    spec = importlib.util.spec_from_file_location(name or path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


asv_compare: Any = load(BENCH / "tools" / "asv_compare.py")
asv_planted: Any = load(BENCH / "tools" / "asv_planted.py")
asv_table: Any = load(BENCH / "tools" / "asv_table.py")
asv_wheels: Any = load(BENCH / "tools" / "asv_wheels.py")


@pytest.fixture
def suite(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[ModuleType]]:
    """Import the suite as asv does."""
    monkeypatch.setenv("QLSTM_ASV_QUANTIZERS", "my-quantizer other:bits=3")
    monkeypatch.setenv("QLSTM_ASV_CELLS", "my-cell")
    load(SUITE / "__init__.py", "benchmarks")
    yield [importlib.import_module(f"benchmarks.{name}") for name in MODULES]
    for name in [name for name in sys.modules if name.partition(".")[0] == "benchmarks"]:
        del sys.modules[name]


def benchmarks_of(module: ModuleType) -> Iterator[tuple[Any, str]]:
    """Yield every benchmark of a module."""
    for name, cls in vars(module).items():
        if inspect.isclass(cls) and not name.startswith("_") and cls.__module__ == module.__name__:
            for method in dir(cls):
                if method.startswith(("time_", "track_", "peakmem_")):
                    yield cls, method


def test_every_benchmark_says_version_and_unit(suite: list[ModuleType]) -> None:
    found = [pair for module in suite for pair in benchmarks_of(module)]
    families = {cls.__module__.partition(".")[2] for cls, _ in found}
    assert families == {
        "accuracy", "conformance", "first_call", "gradients", "memory", "packed", "size", "training",
    }  # fmt: skip
    for cls, method in found:
        assert cls.version.isdigit(), f"{cls.__qualname__} has no version of its own"
        if method.startswith("track_"):
            assert getattr(cls, method).unit, f"{cls.__qualname__}.{method} has no unit"


def test_installed_plugins_join(suite: list[ModuleType]) -> None:
    by_name = {module.__name__.partition(".")[2]: module for module in suite}
    assert {"none", "my-quantizer", "other:bits=3"} <= set(by_name["accuracy"].Characters.params[0])
    assert {"my-quantizer", "other:bits=3"} <= set(by_name["packed"].Quantizers.params[0])
    assert {"LSTM", "my-cell"} <= set(by_name["training"].Cells.params[0])
    assert by_name["accuracy"].Cells.params == by_name["gradients"].Cells.params == (["my-cell"],)
    assert by_name["conformance"].Plugins.params == (["my-quantizer", "other:bits=3", "my-cell"],)


FOLLOW = """
from qlstm_bench.benchmarks import follow
follow(quantizers=["q", "q:b=2"], cells=["c"])
from qlstm_bench.benchmarks import accuracy, conformance, packed, training
print(accuracy.Digits.params, packed.Quantizers.params, training.Normalizers.params[1])
print(training.Cells.params, accuracy.Cells.params, conformance.Plugins.params)
"""


def test_a_plugin_is_followed_beside_few_others() -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("QLSTM_ASV")}
    command = [sys.executable, "-c", FOLLOW]
    done = subprocess.run(command, env=clean, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "(['none', 'q', 'q:b=2'], ['none', 'layer']) (['q', 'q:b=2'],) ('torch', 'none', 'layer')",
        "(['LSTM', 'c'],) (['c'],) (['q', 'q:b=2', 'c'],)",
    ]


def test_a_followed_normaliser_meets_weights_of_few_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QLSTM_ASV_QUANTIZERS", raising=False)
    monkeypatch.delenv("QLSTM_ASV_NORMALIZERS", raising=False)
    choice: Any = load(SUITE / "choice.py", "followed_choice")
    choice.follow(normalizers=["n"])
    assert (choice.quantizers(), choice.normalizers()) == (["none", "bwn"], ["none", "layer", "n"])
    assert (choice.few_bits(), choice.cells(), choice.checked()) == (["bwn"], ["LSTM"], ["n"])


STRANGER = """
import sys
from qlstm_bench.benchmarks import accuracy, choice, conformance, gradients, packed, size, trained, training

quantizer, normalizer = choice.quantizers()[-1], choice.normalizers()[-1]
figures = {("digits", quantizer, normalizer): trained._train("digits", quantizer, normalizer)}
trained.TASKS["char-lm"] |= {"steps": 8, "eval_symbols": 4_000}
figures |= trained.train_cells()
measured = {"pair": f"{quantizer} {normalizer}"}
for cls, name, given, parameters in [
    (accuracy.Digits, "track_validation", [figures], [quantizer, normalizer]),
    (gradients.Digits, "track_decades", [figures], [quantizer, normalizer]),
    (accuracy.Cells, "track_validation", [figures], [choice.cells()[-1]]),
    (gradients.Cells, "track_decades", [figures], [choice.cells()[-1]]),
    (conformance.Plugins, "track_failed", [], [quantizer]),
    (size.Layer, "track_bytes", [], [quantizer, normalizer]),
    (size.PackedFile, "track_bytes", [], [quantizer]),
    (training.Normalizers, "time_step", [], [training.SHAPES[0], normalizer]),
    (training.Quantizers, "time_step", [], [quantizer]),
    (training.Cells, "time_step", [], [choice.cells()[-1]]),
    (packed.Quantizers, "time_sequence", [], [quantizer]),
]:
    benchmark = cls()
    benchmark.setup(*given, *parameters)
    key = f"{cls.__module__.rpartition('.')[2]}.{cls.__name__}"
    measured[key] = getattr(benchmark, name)(*given, *parameters)
import json
print(json.dumps(measured))
"""


def test_an_installed_plugin_is_measured(tmp_path: Path) -> None:
    """The example of a third party's package, as an installer leaves it, in every family."""
    example = BENCH.parent.parent / "examples" / "qlstm-plugin-example"
    info = tmp_path / "qlstm_plugin_example-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: qlstm-plugin-example\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[qlstm]\nexample = qlstm_plugin_example.hooks\n")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(
            map(str, (tmp_path, example / "src", os.environ.get("PYTHONPATH", "")))
        ),
        "QLSTM_ASV_SEEDS": "1",
        "QLSTM_ASV_QUANTIZERS": "power-of-two",
        "QLSTM_ASV_NORMALIZERS": "max",
        "QLSTM_ASV_CELLS": "mingru",
    }
    command = [sys.executable, "-c", STRANGER]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout.splitlines()[-1])
    assert measured.pop("pair") == "power-of-two max"
    guess = 90.0
    assert 0 < measured["accuracy.Digits"] <= guess + 5
    assert measured["gradients.Digits"] > 0
    assert 3 < measured["accuracy.Cells"] < 6.5, "better than a guess among 96 characters"
    assert measured["gradients.Cells"] > 0
    assert measured["conformance.Plugins"] == 0.01, "no check fails, and asv knows no ratio of 0"
    float32 = 4 * 512 * (50 + 512) * 4
    assert float32 / 40 < measured["size.Layer"] < float32 / 8, "a bit or so for each weight"
    assert float32 / 40 < measured["size.PackedFile"] < float32 / 8
    assert {name.partition(".")[0] for name in measured} == {
        "accuracy", "conformance", "gradients", "packed", "size", "training",
    }  # fmt: skip


def test_trainings_are_shared(suite: list[ModuleType]) -> None:
    by_name = {module.__name__.partition(".")[2]: module for module in suite}
    caches = {
        by_name[module].__dict__[cls].setup_cache
        for module in ("accuracy", "gradients")
        for cls in ("Characters", "Digits")
    }
    assert len(caches) == 1, "asv runs setup_cache once for all classes that share it"


TABLE = """
All benchmarks:

| Change   | Before [0123abcd] <main>   | After [4567cdef] |   Ratio | Benchmark (Parameter)                |
|----------|----------------------------|------------------|---------|--------------------------------------|
| +        | 1.00±0.1ms                 | 2.00±0.1ms       |    2    | training.Quantizers.time_step('bwn') |
| -        | 3.5                        | 2.5              |    0.71 | accuracy.Digits.track_validation('') |
| !        | 10.0ms                     | failed           |     n/a | packed.Packing.time_load             |
|          | 1.00±0ms                   | 1.01±0ms         |    1.01 | training.Cells.time_step('GRU')      |
"""


def test_rows_of_a_comparison() -> None:
    changes = asv_compare.parse(TABLE)
    assert [(change.mark, change.ratio, change.benchmark) for change in changes] == [
        ("+", "2", "training.Quantizers.time_step('bwn')"),
        ("-", "0.71", "accuracy.Digits.track_validation('')"),
        ("!", "n/a", "packed.Packing.time_load"),
    ]
    assert asv_compare.judge(changes, Counter()) == 1
    assert asv_compare.judge([changes[1]], Counter()) == 0, "better is not worse"
    assert asv_compare.judge([], Counter({"size.Layer.track_bytes": 2})) == 1, "what is skipped now is worse"


def test_what_torch_shares_is_not_the_commits(capsys: pytest.CaptureFixture[str]) -> None:
    torch = "training.Normalizers.time_step('35,20,300,300', 'torch')"
    changes = [asv_compare.Change("+", "40.0±1ms", "80.0±1ms", "2", torch)]
    assert asv_compare.judge(changes, Counter()) == 0
    said = capsys.readouterr().out
    assert "worse: 0" in said
    assert "torch.nn.LSTM moved" in said
    assert torch in said


def test_each_benchmark_has_its_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def asv(*arguments: str) -> str:
        asked.append(arguments[arguments.index("--factor") + 1])
        return TABLE

    monkeypatch.setattr(asv_compare, "_asv", asv)
    changes = asv_compare.compare(["0123abcd", "4567cdef"], 1.3, None)
    assert asked == sorted(asked, key=float), "asv is asked once for each factor"
    assert len(set(asked)) == len(asked)
    assert "1.3" in asked
    assert sorted(change.benchmark.partition(".")[0] for change in changes) == [
        "accuracy",
        "packed",
        "training",
    ], "each once, although every table names all"
    assert [c.benchmark for c in asv_compare.compare(["a", "b"], 1.3, "packed")] == [
        "packed.Packing.time_load"
    ]


@pytest.mark.parametrize(
    ("benchmark", "before", "after", "worse"),
    [
        ("gradients.Digits.track_clipped('none', 'none')", "0.01", "10", False),
        ("gradients.Digits.track_clipped('none', 'none')", "0.01", "10.1", True),
        ("gradients.Digits.track_clipped('none', 'none')", "50", "70.1", True),
        ("gradients.Characters.track_decades('none', 'none')", "1.0", "1.6", False),
        ("gradients.Characters.track_decades('none', 'none')", "1.0", "1.8", True),
        ("gradients.Characters.track_decades('bwn', 'layer')", "1.8", "1.0", True),
        ("accuracy.Characters.track_validation('bwn', 'layer')", "4.0", "4.1", True),
        ("accuracy.Cells.track_validation('gru')", "4.0", "4.1", True),
        ("conformance.Plugins.track_failed('bwn')", "0.01", "1.01", True),
        ("accuracy.Characters.track_validation('ter-connect', 'none')", "4.0", "5.9", False),
        ("accuracy.Characters.track_validation('ter-connect', 'layer')", "4.0", "4.1", True),
    ],
)
def test_small_figures_have_slack(
    benchmark: str, before: str, after: str, worse: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ratio = float(after) / float(before)

    def asv(*arguments: str) -> str:
        factor = float(arguments[arguments.index("--factor") + 1])
        changed = max(ratio, 1 / ratio) > factor
        return f"| + | {before} | {after} | {ratio:.2f} | {benchmark} |\n" if changed else ""

    monkeypatch.setattr(asv_compare, "_asv", asv)
    assert bool(asv_compare.compare(["a", "b"], 1.3, None)) == worse


def test_what_is_not_measured_is_not_called_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert asv_compare.main(["no-such-commit", "HEAD"]) == 2
    assert "git knows no commit 'no-such-commit'" in capsys.readouterr().err
    assert asv_compare.main(["HEAD", "HEAD"]) == 2
    assert "the same commit" in capsys.readouterr().err
    monkeypatch.setattr(asv_compare, "HERE", tmp_path)
    folder = tmp_path / ".asv" / "results" / "machine"
    folder.mkdir(parents=True)
    figures = {"size.Layer.track_bytes": [[1.0, None, 2.0, math.nan]], "broken": [None]}
    (folder / "0123abcd-environment.json").write_text(json.dumps({"results": figures}))
    assert asv_compare.results("0123abcdef", None) == {"size.Layer.track_bytes": 2, "broken": 0}
    assert asv_compare.results("0123abcdef", "^size") == {"size.Layer.track_bytes": 2}
    for commit, bench in (("4567cdef01", None), ("0123abcdef", "broken")):
        with pytest.raises(asv_compare.NotMeasuredError, match=f"no results for {commit[:8]}"):
            asv_compare.results(commit, bench)


FORCED = ("install", "--no-deps", "--force-reinstall")


def test_wheels_of_every_package_of_the_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, ...]] = []
    monkeypatch.setattr(asv_wheels, "_pip", lambda *arguments: calls.append(tuple(map(str, arguments))))
    with pytest.raises(SystemExit, match="no packages"):
        asv_wheels.build(tmp_path, tmp_path / "wheels")
    (tmp_path / "pyproject.toml").touch()
    asv_wheels.build(tmp_path, tmp_path / "wheels")
    assert calls.pop()[-1] == str(tmp_path), "a repository of one package, such as a plugin's"
    for name in ("b", "a"):
        (tmp_path / "packages" / name).mkdir(parents=True)
        (tmp_path / "packages" / name / "pyproject.toml").touch()
    wheels = tmp_path / "wheels"
    (wheels / "stale.whl").touch()
    asv_wheels.build(tmp_path, wheels)
    assert calls.pop()[-2:] == (str(tmp_path / "packages" / "a"), str(tmp_path / "packages" / "b"))
    assert not list(wheels.iterdir()), "the wheels of another commit are gone"
    with pytest.raises(SystemExit, match="no wheels"):
        asv_wheels.install(tmp_path, wheels)
    (wheels / "a.whl").touch()
    asv_wheels.install(tmp_path, wheels)
    assert calls == [("install", str(wheels / "a.whl")), (*FORCED, str(wheels / "a.whl"))]
    calls.clear()
    (tmp_path / "constraints.txt").touch()
    asv_wheels.install(tmp_path, wheels)
    assert "--constraint" in calls[0]
    assert "--force-reinstall" not in calls[0]
    assert calls[1][:3] == FORCED


@pytest.mark.parametrize("name", asv_planted.REGRESSIONS)
def test_there_is_still_a_place_for_each_planted_regression(name: str, suite: list[ModuleType]) -> None:
    regression = asv_planted.REGRESSIONS[name]
    source = (BENCH.parent.parent / regression.path).read_text(encoding="utf-8")
    planted, count = re.subn(regression.place, regression.planted, source)
    assert count == 1, "its code has changed: asv_planted.py needs another place"
    assert ast.dump(ast.parse(planted)) != ast.dump(ast.parse(source))
    found = [
        f"{cls.__module__.partition('.')[2]}.{cls.__name__}" for m in suite for cls, _ in benchmarks_of(m)
    ]
    assert any(re.search(regression.bench, benchmark) for benchmark in found)


def test_a_table_of_results_and_their_spread(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = []
    for run, (step, size) in enumerate([(1.0, 8.0), (1.5, 8.0), (2.0, math.nan)]):
        rows = {
            "training.Cells.time_step": [[step, None], [["'LSTM'", "'GRU'"], ["'bwn'"]], "1"],
            "size.Layer.track_bytes": [[size], [], "1"],
            "broken": [None, []],
        }
        files.append(tmp_path / f"{run}.json")
        files[-1].write_text(json.dumps({"commit_hash": f"{run}" * 40, "results": rows}))
    assert asv_table.main([str(files[0]), str(files[2])]) == 0
    assert capsys.readouterr().out == (
        "benchmark,parameters,00000000,22222222\n"
        "size.Layer.track_bytes,,8,\n"
        'training.Cells.time_step,"LSTM, bwn",1,2\n'
    )
    assert asv_table.main(["--spread", *map(str, files)]) == 0
    said = capsys.readouterr()
    assert 'training.Cells.time_step,"LSTM, bwn",1,1.5,2,0.6667' in said.out
    assert said.err == "size: median 0.0%, worst 0.0%\ntraining: median 66.7%, worst 66.7%\n"
