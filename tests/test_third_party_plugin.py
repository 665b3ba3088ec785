"""A stranger's plugin, built and installed into a clean environment, is found, passes its checks and trains.

Two of them: examples/qlstm-plugin-example, and the three files that docs/writing-a-plugin.md starts from.
The environment holds wheels of these and of this repository's packages; the rest is lent from the environment
that runs the tests, so that nothing is downloaded.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "qlstm-plugin-example"
FILE = re.compile(r'^```\w+ title="(?P<name>[^"]+)"\n(?P<text>.*?)^```', re.DOTALL | re.MULTILINE)

TRAIN = """
import torch
from qlstm_core import LSTM

tokens = torch.arange(6).repeat(7)[:, None].expand(-1, 8)      # six symbols in a circle
for quantizer, normalizer in (("power-of-two", "max"), ("rms-sign", "none")):
    torch.manual_seed(0)
    layer = LSTM(6, 16, quantizer=quantizer, normalizer=normalizer)
    head = torch.nn.Linear(16, 6)
    optimizer = torch.optim.Adam([*layer.parameters(), *head.parameters()], lr=0.01)
    losses = []
    for step in range(60):
        logits = head(layer(tokens[:-1])[0])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        layer.constrain_()
        losses.append(loss.item())
    print(layer.quantizers["hh_l0"].__module__, losses[0], losses[-1])
"""


@dataclass(frozen=True)
class Environment:
    """A Python environment of its own, and a folder in which to work."""

    python: Path
    folder: Path

    def run(self, *arguments: str | Path, cwd: Path | None = None) -> str:
        """Run a module or a script and return what it prints; fail with its errors."""
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "QLSTM"))}
        result = subprocess.run(
            [self.python, *arguments],
            cwd=cwd or self.folder,
            env=clean | {"OMP_NUM_THREADS": "1", "PYTHONNOUSERSITE": "1"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert result.returncode == 0, f"{arguments}:\n{result.stdout}\n{result.stderr}"
        return result.stdout

    def command(self, name: str, *arguments: str) -> str:
        """Run an installed command."""
        return self.run(self.python.with_name(name), *arguments)


@pytest.fixture(scope="module")
def documented(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of docs/writing-a-plugin.md in a folder that was empty."""
    folder = tmp_path_factory.mktemp("documented")
    for match in FILE.finditer((ROOT / "docs" / "writing-a-plugin.md").read_text(encoding="utf-8")):
        (folder / match["name"]).write_text(match["text"], encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def environment(documented: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    python = folder / "venv" / "bin" / "python"
    site = next((folder / "venv" / "lib").glob("python*/site-packages"))
    # Lent packages come after the environment's own, and links to editable installs are not followed.
    lent = dict.fromkeys((sysconfig.get_path("purelib"), sysconfig.get_path("platlib")))
    (site / "lent.pth").write_text("\n".join(lent), encoding="utf-8")

    def pip(*arguments: str | Path) -> None:
        offline = ["--no-deps", "--no-index", "--quiet", "--disable-pip-version-check"]
        command = [sys.executable, "-m", "pip", *arguments, *offline]
        result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert result.returncode == 0, result.stderr

    wheels = folder / "wheels"
    sources = [*sorted((ROOT / "packages").iterdir()), EXAMPLE, documented]
    pip("wheel", "--no-build-isolation", "--wheel-dir", wheels, *sources)
    # The lent packages may be of the same version: what is tested is what has just been built.
    pip("--python", python, "install", "--ignore-installed", *wheels.iterdir())
    return Environment(python, folder)


def test_the_documented_package_is_as_small_as_claimed(documented: Path) -> None:
    lines = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in documented.iterdir()}
    assert lines == {"pyproject.toml": 11, "qlstm_rms_sign.py": 18, "test_qlstm_rms_sign.py": 6}


def test_is_found(environment: Environment) -> None:
    records = {r["name"]: r for r in json.loads(environment.command("qlstm", "plugins", "--json"))["plugins"]}
    assert {(r["status"], r["reason"]) for r in records.values()} == {("active", "")}
    example = records["qlstm-plugin-example:example"]
    provided = {"quantizer": ["power-of-two"], "normalizer": ["max"], "cell": ["mingru"]}
    assert example["provides"] == provided
    assert records["qlstm-rms-sign:rms-sign"]["provides"] == {"quantizer": ["rms-sign"]}


def test_passes_its_checks(environment: Environment) -> None:
    lines = environment.command("qlstm", "check", "qlstm-plugin-example", "rms-sign").splitlines()
    titles = [line for line in lines if line and not line.startswith(" ")]
    assert titles[:-1] == [
        "qlstm-plugin-example/power-of-two",
        "qlstm-plugin-example/max",
        "qlstm-plugin-example/mingru",
        "rms-sign",
    ]
    counts = re.fullmatch(r"4 checked: (\d+) run, 0 failed, (\d+) skipped", titles[-1])
    assert counts is not None
    assert int(counts[1]) > 85
    assert int(counts[2]) < 15


def test_its_own_tests_pass(environment: Environment, documented: Path, tmp_path: Path) -> None:
    """Copied, so that they can find nothing but what is installed."""
    shutil.copy(EXAMPLE / "tests" / "test_plugin.py", tmp_path)
    shutil.copy(documented / "test_qlstm_rms_sign.py", tmp_path)
    output = environment.run("-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", tmp_path)
    counts = re.search(r"(\d+) passed, (\d+) skipped in", output)
    assert counts is not None
    assert int(counts[1]) > 110


def test_trains_in_a_layer(environment: Environment) -> None:
    """Six symbols in a circle: from a loss of log 6 = 1.8 to nearly none."""
    runs = [line.split() for line in environment.run("-c", TRAIN).splitlines()]
    assert [module for module, _, _ in runs] == ["qlstm_plugin_example.quantizer", "qlstm_rms_sign"]
    for _, first, last in runs:
        assert float(first) > 1.5
        assert float(last) < 0.5


@pytest.mark.parametrize("cell", ["lstm", "mingru"])
def test_trains_in_the_bench(environment: Environment, cell: str) -> None:
    """A text of one sentence: far below a guess by the letters' frequencies, with weights of one bit."""
    (environment.folder / "text.txt").write_text("to be or not to be, that is the question. " * 200)
    plugin = ["--cell", cell, "--quantizer", "power-of-two", "--normalizer", "max"]
    size = ["--hidden", "32", "--steps", "60", "--batch", "8", "--unroll", "16", "--lr", "0.02"]
    where = ["--data", "text.txt", "--out", f"runs-{cell}", "--device", "cpu"]
    environment.command("qlstm-bench", "run", "char-lm", *plugin, *size, *where)
    (path,) = (environment.folder / f"runs-{cell}").glob("char-lm-power-of-two-max-*/result.json")
    result = json.loads(path.read_text(encoding="utf-8"))
    assert result["status"] == "completed"
    assert result["metrics"]["valid_bpc"] < 0.6 * result["metrics"]["baseline_bpc"]
