"""One version for the four packages, and each asks for the others at that version."""

from __future__ import annotations

import importlib
import re
import tomllib
from importlib.metadata import metadata, requires, version
from pathlib import Path
from typing import Any

import pytest

PACKAGES = ("qlstm-core", "qlstm-quant", "qlstm-norm", "qlstm-bench")
NEEDS = {
    "qlstm-core": set(),
    "qlstm-quant": {"qlstm-core"},
    "qlstm-norm": {"qlstm-core"},
    "qlstm-bench": {"qlstm-core", "qlstm-quant", "qlstm-norm"},
}


def project(package: str) -> dict[str, Any]:
    path = Path(__file__).parents[1] / "packages" / package / "pyproject.toml"
    table: dict[str, Any] = tomllib.loads(path.read_text())["project"]
    return table


def ours(requirements: list[str]) -> dict[str, str]:
    """Return the requirements on our own packages: name to version specifier."""
    split = [
        re.fullmatch(r"([a-z-]+)\s*(.*)", requirement.partition(";")[0].strip())
        for requirement in requirements
    ]
    return {match[1]: match[2] for match in split if match and match[1] in PACKAGES}


def compatible(release: str) -> str:
    major, minor, _ = release.split(".")
    return f"~={major}.{minor}.0"


def test_sources_share_one_version() -> None:
    versions = {package: project(package)["version"] for package in PACKAGES}
    assert len(set(versions.values())) == 1, versions
    assert re.fullmatch(r"\d+\.\d+\.\d+", versions["qlstm-core"])


@pytest.mark.parametrize("package", PACKAGES)
def test_sources_pin_each_other(package: str) -> None:
    pin = compatible(project("qlstm-core")["version"])
    assert ours(project(package)["dependencies"]) == dict.fromkeys(NEEDS[package], pin)


@pytest.mark.parametrize("package", PACKAGES)
def test_what_is_installed_is_what_the_sources_say(package: str) -> None:
    source = project(package)
    assert version(package) == source["version"]
    assert metadata(package)["Requires-Python"] == source["requires-python"]
    assert ours(requires(package) or []) == ours(source["dependencies"])


@pytest.mark.parametrize("package", PACKAGES)
def test_version_of_the_module_is_the_packages(package: str) -> None:
    module = importlib.import_module(package.replace("-", "_"))
    assert getattr(module, "__version__", version(package)) == version(package)
