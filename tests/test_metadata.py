"""What a package index and the code host show and do: metadata, READMEs, workflows, issue forms."""

from __future__ import annotations

import importlib.util
import re
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PACKAGES = sorted(path.parent for path in ROOT.glob("packages/*/pyproject.toml"))
PYTHONS = ["3.11", "3.12", "3.13", "3.14"]
each_package = pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)


def project(package: Path) -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((package / "pyproject.toml").read_text("utf-8"))["project"]
    return table


HOST = project(PACKAGES[0])["urls"]["Source"]


@each_package
def test_all_addresses_are_on_one_host(package: Path) -> None:
    urls = project(package)["urls"]
    assert urls["Source"] == urls["Homepage"] == HOST
    assert {"Documentation", "Issues", "Changelog"} <= urls.keys()
    assert all(url == HOST or url.startswith(f"{HOST}/") for url in urls.values())


@each_package
def test_classifiers_name_the_pythons_that_are_tested(package: Path) -> None:
    found = project(package)["classifiers"]
    versions = [name.rpartition(" ")[2] for name in found if re.search(r"Python :: \d\.\d+$", name)]
    assert versions == PYTHONS
    assert "Operating System :: OS Independent" in found
    assert project(package)["requires-python"] == f">={PYTHONS[0]}"
    assert project(package)["keywords"]


@each_package
def test_the_licence_is_a_file_of_its_own(package: Path) -> None:
    """A link would lead nowhere in an sdist."""
    assert not (package / "LICENSE").is_symlink()
    assert (package / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert project(package)["license-files"] == ["LICENSE"]


def wrong_links(text: str) -> list[str]:
    """Return the links and pictures of a README that an index could not follow, or that lead nowhere."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    wrong = []
    for target in re.findall(r"\]\(([^()\s]+)\)", prose):
        own = re.match(rf"{re.escape(HOST)}/(blob|tree|raw)/main/([^#]+)", target)
        if own:
            path = ROOT / own[2]
            exists = path.is_dir() if own[1] == "tree" else path.is_file()
        else:
            exists = target.startswith("https://")
        if not exists:
            wrong.append(target)
    return wrong


@each_package
def test_links_of_the_readme_work_on_a_package_index(package: Path) -> None:
    text = (package / "README.md").read_text("utf-8")
    assert f"]({HOST}/blob/main/docs/start.md)" in text
    assert wrong_links(text) == []


def test_links_that_an_index_could_not_follow_are_found() -> None:
    text = (
        f"[a](../qlstm-core) ![b](images/demo.png) [c](#title) [d]({HOST}/blob/main/docs/start.md#install)\n"
        f"[e]({HOST}/blob/main/gone.md) [f]({HOST}/blob/main/docs) [g]({HOST}/tree/main/docs)\n"
        "[h](https://arxiv.org/abs/1511.00363) [i](http://plain.example)\n"
    )
    assert wrong_links(text) == [
        "../qlstm-core", "images/demo.png", "#title",
        f"{HOST}/blob/main/gone.md", f"{HOST}/blob/main/docs", "http://plain.example",
    ]  # fmt: skip


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "SECURITY.md", "CITATION.cff"])
def test_other_files_name_the_same_address(page: str) -> None:
    found = re.findall(r"https://github\.com/qlstm/\w+", (ROOT / page).read_text("utf-8"))
    assert set(found) == {HOST}


def test_the_citation_has_the_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == project(PACKAGES[0])["version"]
    assert citation["license"] == project(PACKAGES[0])["license"]


def workflow(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text("utf-8"))
    return loaded


@pytest.mark.parametrize("name", ["ci.yml", "release.yml"])
def test_workflows_run_nothing_but_tox(name: str) -> None:
    known = set(re.findall(r"^\[testenv:([\w-]+)\]", (ROOT / "tox.ini").read_text("utf-8"), re.MULTILINE))
    for job in workflow(name)["jobs"].values():
        commands = [step["run"] for step in job["steps"] if "run" in step]
        matrix = job.get("strategy", {}).get("matrix", {})
        for command in commands:
            if command != "python -m pip install tox":
                names = re.fullmatch(r"python -m tox run -e (\S+|\$\{\{ matrix\.environment \}\})", command)
                assert names, command
                chosen = matrix["environment"] if "matrix" in names[1] else [names[1]]
                assert set(",".join(chosen).split(",")) <= known


def test_the_tests_run_with_every_python_on_every_system() -> None:
    matrix = workflow("ci.yml")["jobs"]["tests"]["strategy"]["matrix"]
    assert matrix["python"] == PYTHONS
    assert {system.partition("-")[0] for system in matrix["system"]} == {"ubuntu", "macos", "windows"}
    assert any(system.endswith("-arm") for system in matrix["system"])


def test_forms_for_bugs_ask_for_what_tells_the_cause() -> None:
    forms = {
        path.stem: yaml.safe_load(path.read_text("utf-8")) for path in ROOT.glob(".github/ISSUE_TEMPLATE/*")
    }
    for name in ("bug", "plugin"):
        labels = [field["attributes"]["label"] for field in forms[name]["body"]]
        assert "Output of `qlstm plugins --json`" in labels
        assert "Output of `qlstm-bench doctor`" in labels
    assert all(link["url"].startswith(HOST) for link in forms["config"]["contact_links"])


def test_wheels_that_differ_are_told_apart(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("dist", ROOT / "tools" / "dist.py")
    assert spec is not None
    assert spec.loader is not None
    dist = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(dist)
    for name, files in {"one": {"a": "1", "b": "2"}, "two": {"b": "3", "c": "4"}}.items():
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for member, content in files.items():
                archive.writestr(member, content)
    assert dist.differences(tmp_path / "one", tmp_path / "one") == []
    assert dist.differences(tmp_path / "one", tmp_path / "two") == [
        "a is not in the wheel built from the sdist",
        "c is only in the wheel built from the sdist",
        "b is another in the wheel built from the sdist",
    ]
