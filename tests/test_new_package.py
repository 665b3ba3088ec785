"""What ``qlstm new`` writes passes its own tests, and no longer does with a mistake in it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

from qlstm_core.new import KINDS, write_package

MISTAKES = {
    "quantizer": (".clamp(min=torch.finfo(weight.dtype).tiny)", "", "check_no_zero_from_one_bit"),
    "normalizer": (".clamp(min=self.eps)", "", "check_finite_values"),
    "cell": ("(1 - z) * h", "(1 - z) * h.mean(0)", "check_sequences_independent"),
    "task": ("batch[:-DELAY].flatten()", "batch[DELAY:].flatten()", "losses"),
}
"""A mistake in the code of each kind, and the test or check that must fail."""


@pytest.fixture
def packages(tmp_path: Path) -> dict[str, Path]:
    """A package of each kind."""
    return {kind: write_package(kind, f"a-{kind}", (), tmp_path / kind) for kind in KINDS}


def run_tests(packages: Mapping[str, Path], folder: Path, *options: str) -> str:
    """Run the packages' tests with the packages as an installer leaves them, and return what pytest says."""
    site = folder / "site"
    for package in packages.values():
        project = tomllib.loads((package / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
        info.mkdir(parents=True)
        metadata = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
        (info / "METADATA").write_text(metadata, encoding="utf-8")
        ((name, module),) = project["entry-points"]["qlstm"].items()
        (info / "entry_points.txt").write_text(f"[qlstm]\n{name} = {module}\n", encoding="utf-8")
    sources = [str(package / "src") for package in packages.values()]
    path = os.pathsep.join([str(site), *sources, os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "pytest", "-q", "-rf", "-W", "error", "-p", "no:cacheprovider", *options]
    done = subprocess.run(
        [*command, *(str(package / "tests") for package in packages.values())],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


def test_new_packages_pass_their_tests(packages: dict[str, Path], tmp_path: Path) -> None:
    said = run_tests(packages, tmp_path)
    counts = re.search(r"^(\d+) passed, (\d+) skipped in", said, re.MULTILINE)
    assert counts, said
    assert int(counts[1]) > 110
    assert int(counts[2]) < 20


def test_a_mistake_in_any_fails_its_tests(packages: dict[str, Path], tmp_path: Path) -> None:
    for kind, (right, wrong, _) in MISTAKES.items():
        path = packages[kind] / "src" / f"qlstm_a_{kind}" / f"{kind}.py"
        code = path.read_text(encoding="utf-8")
        assert code.count(right) == 1
        path.write_text(code.replace(right, wrong), encoding="utf-8")
    said = run_tests(packages, tmp_path, "-k", " or ".join(noticed for *_, noticed in MISTAKES.values()))
    for kind, (*_, noticed) in MISTAKES.items():
        assert re.search(rf"^FAILED .*test_{kind}\.py::.*{noticed}", said, re.MULTILINE), said
