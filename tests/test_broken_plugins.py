"""Plugins broken in every way we know: everything else works, and ``qlstm plugins`` says which and why."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HEADER = """
from qlstm_core import Quantizer, straight_through
from qlstm_core.plugins import NormalizerSpec, QuantizerSpec, hookimpl

class Sign(Quantizer):
    bits = 1

    def forward(self, weight, curvature=None):
        return straight_through(weight, (weight >= 0).to(weight) * 2 - 1)
"""

QUANTIZER = """
@hookimpl
def qlstm_quantizers():
    yield QuantizerSpec(name={name!r}, summary="sign of the weight", factory=Sign)
"""

MODULES = {
    "fine": HEADER + QUANTIZER.format(name="fine"),
    "missing-import": "import a_module_that_does_not_exist",
    "bad-syntax": "def qlstm_quantizers(:\n",
    "exits": "import sys\nsys.exit('this machine has no licence')",
    "claims-bwn": HEADER
    + QUANTIZER.format(name="bwn")
    + '    yield QuantizerSpec(name="own", summary="x", factory=Sign)\n',
    "claims-none": HEADER + QUANTIZER.format(name="none"),
    "nonsense": HEADER + "@hookimpl\ndef qlstm_quantizers():\n    return ['bwn', 'twn']\n",
    "not-iterable": HEADER + "@hookimpl\ndef qlstm_normalizers():\n    return 42\n",
    "raises": HEADER + "@hookimpl\ndef qlstm_quantizers():\n    raise RuntimeError('out of\\nideas')\n",
    "future": HEADER
    + QUANTIZER.format(name="present")
    + '    yield QuantizerSpec(name="tomorrow", summary="x", factory=Sign, api_version=99)\n',
    "misspelt": HEADER + QUANTIZER.format(name="lost").replace("qlstm_quantizers", "qlstm_quantisers"),
    "unfitting": HEADER + QUANTIZER.format(name="lost").replace("quantizers()", "quantizers(weight)"),
    "noisy": "print('hello from a plugin')\n" + HEADER + QUANTIZER.format(name="noisy"),
    "off": HEADER + QUANTIZER.format(name="off"),
}

EXPECTED = {
    "fine": ("active", ""),
    "missing-import": (
        "failed",
        "missing_import_module cannot be imported: "
        "ModuleNotFoundError: No module named 'a_module_that_does_not_exist'",
    ),
    "bad-syntax": ("failed", "bad_syntax_module cannot be imported: SyntaxError: invalid syntax"),
    "exits": ("failed", "exits_module cannot be imported: SystemExit: this machine has no licence"),
    "claims-bwn": ("active", ""),
    "claims-none": (
        "failed",
        "qlstm_quantizers gave the name 'none', every layer's default, which belongs to qlstm-core",
    ),
    "nonsense": ("failed", "qlstm_quantizers gave str in place of QuantizerSpec"),
    "not-iterable": ("failed", "qlstm_normalizers gave int, not an iterable of NormalizerSpec"),
    "raises": ("failed", "qlstm_quantizers raised RuntimeError: out of ideas"),
    "future": (
        "incompatible",
        "'tomorrow' needs version 99 of the plugin interface, this qlstm-core speaks version 1",
    ),
    "misspelt": (
        "active",
        "it implements 'qlstm_quantisers', which no installed package calls "
        "(did you mean 'qlstm_quantizers'?)",
    ),
    "unfitting": (
        "failed",
        "cannot be registered: PluginValidationError: Plugin 'unfitting:plugin' for hook",
    ),
    "noisy": ("active", ""),
    "off": ("disabled", "named in QLSTM_DISABLE_PLUGINS"),
}


def install(folder: Path, name: str, module: str) -> None:
    """Write what pip would: a module and the metadata beside it."""
    module_name = name.replace("-", "_") + "_module"
    (folder / f"{module_name}.py").write_text(module)
    info = folder / f"{name.replace('-', '_')}-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
    (info / "entry_points.txt").write_text(f"[qlstm]\nplugin = {module_name}\n")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process in which all the plugins above are installed."""
    site = tmp_path_factory.mktemp("site")
    for name, module in MODULES.items():
        install(site, name, module)
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH", "")]))
    return os.environ | {"PYTHONPATH": path, "QLSTM_DISABLE_PLUGINS": "off", "PYTHONDONTWRITEBYTECODE": "1"}


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return result


@pytest.fixture(scope="module")
def document(environment: dict[str, str]) -> dict[str, Any]:
    """What ``qlstm plugins --json`` prints."""
    result = run(environment, "-m", "qlstm_core.cli", "plugins", "--json")
    assert result.stderr == "hello from a plugin\n"
    loaded: dict[str, Any] = json.loads(result.stdout)
    return loaded


@pytest.fixture(scope="module")
def plugins(document: dict[str, Any]) -> dict[str, Any]:
    return {plugin["name"]: plugin for plugin in document["plugins"]}


@pytest.mark.parametrize("name", EXPECTED)
def test_list_says_what_became_of_it_and_why(plugins: dict[str, Any], name: str) -> None:
    plugin = plugins[f"{name}:plugin"]
    status, reason = EXPECTED[name]
    assert (plugin["distribution"], plugin["version"], plugin["status"]) == (name, "1.5", status)
    assert plugin["reason"].startswith(reason)
    assert bool(plugin["reason"]) == bool(reason)
    assert "\n" not in plugin["reason"]


def test_list_says_what_each_provides(plugins: dict[str, Any]) -> None:
    provided = {name: plugins[f"{name}:plugin"]["provides"] for name in EXPECTED}
    assert {name: value for name, value in provided.items() if value} == {
        "fine": {"quantizer": ["fine"]},
        "claims-bwn": {"quantizer": ["bwn", "own"]},
        "future": {"quantizer": ["present"]},
        "noisy": {"quantizer": ["noisy"]},
    }


def test_our_own_plugins_are_untouched(plugins: dict[str, Any]) -> None:
    for name in ("qlstm-core:core", "qlstm-quant:quant", "qlstm-norm:norm", "qlstm-bench:bench"):
        assert (plugins[name]["status"], plugins[name]["reason"]) == ("active", "")
    assert "bwn" in plugins["qlstm-quant:quant"]["provides"]["quantizer"]
    assert "none" in plugins["qlstm-core:core"]["provides"]["quantizer"]


def test_table_tells_the_same(environment: dict[str, str], plugins: dict[str, Any]) -> None:
    table = run(environment, "-m", "qlstm_core.cli", "plugins").stdout
    for name, plugin in plugins.items():
        start = table.index(f"{name} ")
        assert table[start:].split()[:3] == [name, plugin["version"], plugin["status"]]
        assert plugin["reason"] in table


SCRIPT = """
import json
import warnings

import torch

from qlstm_core import LSTM
from qlstm_core.plugins import PluginError

torch.manual_seed(0)
heard = []
losses = {}
errors = {}
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for name in ("none", "fine", "own", "present", "noisy", "twn", "qlstm-quant/bwn", "claims-bwn/bwn"):
        layer = LSTM(3, 4, quantizer=name, normalizer="layer")
        loss = layer(torch.randn(5, 2, 3))[0].square().mean()
        loss.backward()
        gradients = [p.grad for p in layer.parameters() if p.grad is not None]
        losses[name] = bool(gradients) and all(g.isfinite().all().item() for g in gradients)
    for name in ("bwn", "tomorrow", "lost", "off"):
        try:
            LSTM(3, 4, quantizer=name)
        except PluginError as error:
            errors[name] = f"{type(error).__name__}: {error}"
warned = [str(w.message) for w in caught if w.category.__name__ == "PluginWarning"]
print("\\n" + json.dumps({"losses": losses, "errors": errors, "warned": warned}))
"""


@pytest.fixture(scope="module")
def session(environment: dict[str, str]) -> dict[str, Any]:
    """What a program sees that builds layers beside the broken plugins."""
    loaded: dict[str, Any] = json.loads(run(environment, "-c", SCRIPT).stdout.splitlines()[-1])
    return loaded


def test_layers_of_everyone_else_train(session: dict[str, Any]) -> None:
    assert len(session["losses"]) == 8
    assert all(session["losses"].values())


def test_each_is_warned_of_once(session: dict[str, Any]) -> None:
    broken = {
        f"{name}:plugin" for name, (status, _) in EXPECTED.items() if status in ("failed", "incompatible")
    }
    named = [message.split("'")[1] for message in session["warned"]]
    assert sorted(named) == sorted(broken)


def test_name_that_is_not_to_be_had_is_explained(session: dict[str, Any]) -> None:
    errors = session["errors"]
    assert errors["bwn"].startswith(
        "AmbiguousNameError: quantizer 'bwn' is claimed by claims-bwn 1.5 and qlstm-quant "
    )
    assert errors["bwn"].endswith("; write 'claims-bwn/bwn' or 'qlstm-quant/bwn'")
    assert errors["tomorrow"].startswith(
        "UnknownNameError: quantizer 'tomorrow' of future 1.5 needs version 99 of "
    )
    assert errors["lost"].startswith("UnknownNameError: unknown quantizer 'lost'")
    assert (
        "misspelt 1.5 (it implements 'qlstm_quantisers', which no installed package calls" in errors["lost"]
    )
    assert "unfitting 1.5 (failed)" in errors["lost"]
    assert "off 1.5 (disabled)" in errors["off"]
    assert all("\n" not in error for error in errors.values())
