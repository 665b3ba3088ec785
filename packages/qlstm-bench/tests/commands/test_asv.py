"""``qlstm-bench asv init``: a plugin's own repository, followed by asv from commit to commit."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qlstm_bench.cli import main
from qlstm_core import Normalizer, Quantizer, RecurrentLayer
from qlstm_core.new import write_package
from qlstm_core.plugins import CellSpec, NormalizerSpec, QuantizerSpec, hookimpl, registry


class Quantizers:
    @hookimpl
    def qlstm_quantizers(self) -> Iterator[QuantizerSpec]:
        yield QuantizerSpec(name="one", summary="one", factory=Quantizer)
        yield QuantizerSpec(name="two", summary="two", factory=Quantizer)


class Rest:
    @hookimpl
    def qlstm_normalizers(self) -> Iterator[NormalizerSpec]:
        yield NormalizerSpec(name="norm", summary="norm", factory=Normalizer)

    @hookimpl
    def qlstm_cells(self) -> Iterator[CellSpec]:
        yield CellSpec(name="cell", summary="cell", factory=RecurrentLayer)


class Nothing:
    @hookimpl
    def qlstm_run_ended(self, run: object) -> None: ...


@pytest.fixture
def plugins() -> Iterator[None]:
    """Distributions that provide quantizers, the rest, and nothing that the suite measures."""
    names = ["qlstm-numbers:a", "qlstm-rest:a", "qlstm-logger:a"]
    for name, plugin in zip(names, (Quantizers(), Rest(), Nothing()), strict=True):
        registry.register(plugin, name)
    yield
    for name in names:
        registry.unregister(name)


def repository(name: str) -> Path:
    """Return a folder that looks like the repository of a distribution."""
    Path(".git").mkdir()
    Path("pyproject.toml").write_text(f'[project]\nname = "{name}"\n')
    return Path()


def imports(path: Path) -> set[str]:
    """Return what a module of ``benchmarks/`` takes from the suite's module of that name."""
    (statement,) = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ImportFrom)]
    assert statement.module == f"qlstm_bench.benchmarks.{path.stem}"
    return {alias.name for alias in statement.names}


def test_each_kind_is_followed_by_what_it_is_seen_in(
    plugins: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repository("Qlstm_Rest")  # as pip compares it, qlstm-rest
    assert main(["asv", "init"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert "which follow Qlstm_Rest (normalizer: norm; cell: cell)" in said[0]
    assert len(said) == 4
    folder = tmp_path / "benchmarks"
    (call,) = [
        node for node in ast.parse((folder / "__init__.py").read_text()).body if isinstance(node, ast.Expr)
    ][1:]
    assert ast.unparse(call) == "follow(normalizers=['norm'], cells=['cell'])"
    assert {path.stem: imports(path) for path in folder.glob("*.py") if path.stem != "__init__"} == {
        "accuracy": {"Characters", "Digits", "Cells"},
        "conformance": {"Plugins"},
        "gradients": {"Characters", "Digits", "Cells"},
        "size": {"Layer"},
        "training": {"Normalizers", "Cells"},
    }


def test_names_and_versions_are_in_the_configuration(plugins: None, tmp_path: Path) -> None:
    config = pytest.importorskip("asv.config")
    repository("qlstm-numbers")
    assert main(["asv", "init", "--out", str(tmp_path)]) == 0
    loaded = config.Config.load("asv.conf.json")
    assert (loaded.project, loaded.repo, loaded.benchmark_dir) == ("qlstm-numbers", ".", "benchmarks")
    assert loaded.matrix["req"]["qlstm-bench"] == ["==0.1.0"]
    assert 'follow(\n    quantizers=["one", "two"],\n)' in Path("benchmarks/__init__.py").read_text()
    assert imports(Path("benchmarks/packed.py")) == {"Quantizers"}


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (lambda: None, "--out '.' is not the root of a git repository: asv measures commits"),
        (lambda: Path(".git").mkdir(), "'pyproject.toml' cannot be read"),
        (
            lambda: (repository("x") / "pyproject.toml").write_text("[project"),
            "'pyproject.toml' cannot be read",
        ),
        (lambda: (repository("x") / "pyproject.toml").write_text("[tool.x]"), "says no name below [project]"),
        (
            lambda: repository("qlstm-nubmers"),
            "no plugin 'qlstm-nubmers' is installed here (did you mean 'qlstm-numbers'?): `pip install -e .`",
        ),
        (
            lambda: repository("qlstm-logger"),
            "'qlstm-logger' provides none of quantizer, normalizer, cell, which the suite measures",
        ),
        (lambda: (repository("qlstm-numbers") / "benchmarks").mkdir(), "'benchmarks' is there already"),
        (lambda: (repository("qlstm-numbers") / "asv.conf.json").touch(), "'asv.conf.json' is there already"),
    ],
)
def test_what_cannot_be_followed_is_one_line(
    prepare: object, said: str, plugins: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(prepare)
    prepare()
    before = sorted(os.listdir())
    assert main(["asv", "init"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert sorted(os.listdir()) == before


def test_a_regression_of_a_plugin_is_named(tmp_path: Path) -> None:
    """Three commits of a repository: a plugin, a change of words, and one that forgets that sign(0) is +1."""
    pytest.importorskip("asv")
    package = write_package("quantizer", "followed", (), tmp_path / "plugin")
    info = tmp_path / "site" / "qlstm_followed-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: qlstm-followed\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[qlstm]\nfollowed = qlstm_followed\n")
    path = os.pathsep.join(map(str, (info.parent, package / "src", os.environ.get("PYTHONPATH", ""))))
    environment = {
        **os.environ,
        "PYTHONPATH": path,
        "ASV_PYTHONPATH": path,  # the other one asv keeps from what it measures
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": str(tmp_path),
    }

    def run(*command: str, codes: tuple[int, ...] = (0,)) -> str:
        done = subprocess.run(
            command, cwd=package, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode in codes, f"{command}: {done.stdout}\n{done.stderr}"
        return done.stdout

    def commit(message: str) -> str:
        run("git", "add", "--all")
        run("git", "-c", "user.name=A", "-c", "user.email=a@b.org", "commit", "--quiet", "-m", message)
        return run("git", "rev-parse", "HEAD").strip()

    asv = (sys.executable, "-m", "asv")
    run("git", "init", "--quiet")
    run(sys.executable, "-m", "qlstm_bench", "asv", "init")
    run(*asv, "machine", "--yes")
    module = package / "src" / "qlstm_followed" / "quantizer.py"
    right = module.read_text()
    wrong = right.replace("torch.where(weight < 0, -alpha, alpha)", "alpha * weight.sign()")
    assert wrong != right
    commits = []
    for message, text in (("A quantizer", right), ("A word", right + "\n# a word\n"), ("A sign", wrong)):
        module.write_text(text)
        commits.append(commit(message))
    for name in commits[1:]:
        run("git", "checkout", "--quiet", name)
        run(*asv, "run", "--python=same", "--set-commit-hash", name, "--bench", "conformance")
    named = run(*asv, "compare", "--only-changed", *commits[1:], codes=(0, 1)).splitlines()
    (line,) = [line for line in named if line.startswith("| + ")]
    assert "conformance.Plugins.track_failed('followed')" in line
