"""``qlstm new``: what it writes, says and refuses. Whether the packages work is tried across packages."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest
from fake_plugins import quantizer, quantizer_plugin

from qlstm_core import cli
from qlstm_core.new import KINDS, NewPackageError, write_package
from qlstm_core.plugins import Registry


@pytest.fixture(autouse=True)
def _somewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty working folder, and a registry that knows a quantizer ``sign`` alone."""
    registry = Registry(discover=False)
    registry.register(quantizer_plugin(quantizer("sign")), "other:entry")
    monkeypatch.setattr(cli, "registry", registry)
    monkeypatch.chdir(tmp_path)


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line that ``qlstm`` ends with."""
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert caught.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    return printed.err.removeprefix("qlstm: error: ").rstrip()


@pytest.mark.parametrize("kind", KINDS)
def test_the_folder_is_a_package_with_an_entry_point(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["new", kind, "my-method2"]) == 0
    folder = Path("qlstm-my-method2")
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == {
        ".github/workflows/tests.yaml", ".gitignore", "README.md", "pyproject.toml",
        "src/qlstm_my_method2/__init__.py", f"src/qlstm_my_method2/{kind}.py",
        "src/qlstm_my_method2/py.typed", f"tests/test_{kind}.py", "tox.ini",
    }  # fmt: skip
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["name"] == "qlstm-my-method2"
    assert project["entry-points"]["qlstm"] == {"my-method2": "qlstm_my_method2"}
    needed = "qlstm-bench~=0.1.0" if kind == "task" else "qlstm-core~=0.1.0"
    assert needed in project["dependencies"]
    code = (folder / f"src/qlstm_my_method2/{kind}.py").read_text()
    assert "class MyMethod2(" in code
    for path in folder.rglob("*"):
        assert path.is_dir() or "$" not in path.read_text(), f"{path} has a name that was not replaced"
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 4
    assert said[1] == "  cd qlstm-my-method2 && python -m pip install -e '.[test]'"
    assert said[2] == "  python -m pytest"
    tried = "qlstm-bench run my-method2 --steps 60" if kind == "task" else "qlstm check my-method2"
    assert said[3] == f"  {tried}"
    assert tried in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    "name", ["", "My", "my_sign", "2bits", "-a", "a-", "a--b", "a b", "á", "a/b", "../x"]
)
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(NewPackageError, match="no name of a plugin: use small letters"):
        write_package("cell", name, ())
    assert os.listdir() == []


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        ("quantizer", "sign", "the name 'sign' is taken, by a quantizer of other:entry; choose another"),
        ("cell", "core", "the name 'core' is taken: qlstm-core "),
        ("cell", "qlstm-cell", "leave 'qlstm-' out of 'qlstm-cell'"),
        ("cell", "none", "'none' cannot be the name of a plugin"),
        ("cell", "true", "'true' cannot be the name of a plugin"),
        ("cell", "tensor", "'tensor' would make a class Tensor, which there is already"),
        ("quantizer", "quantizer", "'quantizer' would make a class Quantizer, which there is already"),
        ("task", "model", "'model' would make a class Model, which there is already"),
        ("task", "fixed", "'fixed' would make a class Fixed, which there is already"),
    ],
)
def test_a_name_that_is_taken_is_refused(
    kind: str, name: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(["new", kind, name], capsys).startswith(said)
    assert os.listdir() == []


def test_a_name_of_another_kind_is_free() -> None:
    assert cli.main(["new", "normalizer", "sign"]) == 0


def test_what_is_there_is_never_written_over(capsys: pytest.CaptureFixture[str]) -> None:
    Path("full").mkdir()
    Path("full", "thesis.tex").write_text("years")
    Path("file").touch()
    words = ["new", "quantizer", "mine", "--out"]
    assert refused([*words, "full"], capsys) == "folder 'full' is not empty; --out names another"
    assert refused([*words, "file"], capsys) == "'file' is a file; --out names another folder"
    assert refused([*words, "no/such/folder"], capsys).startswith("'no/such/folder' cannot be written: ")
    assert sorted(os.listdir()) == ["file", "full"]
    assert os.listdir("full") == ["thesis.tex"]


def test_an_empty_folder_is_filled_unless_one_stands_in_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("empty").mkdir()
    monkeypatch.chdir("empty")
    words = ["new", "quantizer", "mine", "--out"]
    assert "is the one you are in" in refused([*words, "."], capsys)
    monkeypatch.chdir("..")
    assert cli.main([*words, "empty"]) == 0
    assert Path("empty", "pyproject.toml").exists()
    assert os.listdir() == ["empty"]
