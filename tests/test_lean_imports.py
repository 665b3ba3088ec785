"""``import qlstm_core`` costs little more than ``import torch``: the heavy is imported where it is used."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

HEAVY = (
    "numba",
    "llvmlite",
    "matplotlib",
    "pandas",
    "distributed",
    "dask",
    "sklearn",
    "lightning_fabric",
    "safetensors",
)

PROBE = """
import sys
import torch
before = set(sys.modules)
{statement}
new = {{name.partition(".")[0] for name in set(sys.modules) - before}} - set(sys.stdlib_module_names)
print("|".join(sorted(new)))
"""


def third_party_imports(statement: str) -> set[str]:
    """Return the top-level packages that a statement imports, beyond torch's own and the standard library."""
    result = subprocess.run(
        [sys.executable, "-c", PROBE.format(statement=statement)],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return set(result.stdout.splitlines()[-1].split("|"))


def test_core_imports_pluggy_alone() -> None:
    assert third_party_imports("import qlstm_core, qlstm_core.plugins, qlstm_core.cli") == {
        "qlstm_core",
        "pluggy",
    }


@pytest.mark.parametrize("package", ["qlstm_quant", "qlstm_norm"])
def test_plugins_import_the_core_alone(package: str) -> None:
    statement = f"import {package}, {package}.hooks"
    assert third_party_imports(statement) == {"qlstm_core", "pluggy", package}


def test_listing_plugins_imports_nothing_heavy() -> None:
    imported = third_party_imports("from qlstm_core.cli import main; main(['plugins'])")
    assert {"qlstm_quant", "qlstm_norm", "qlstm_bench"} <= imported, "every plugin was asked"
    assert imported.isdisjoint(HEAVY)


def test_building_a_layer_by_name_imports_nothing_heavy() -> None:
    statement = "import qlstm_core; qlstm_core.LSTM(3, 4, quantizer='bwn', normalizer='layer')"
    imported = third_party_imports(statement)
    assert "qlstm_quant" in imported
    assert imported.isdisjoint(HEAVY)


def test_a_packed_network_is_looked_at_converted_and_copied_without_a_compiler(tmp_path: Path) -> None:
    file = tmp_path / "layer.safetensors"
    statement = f"""
import copy, pickle
from qlstm_core import LSTM, convert, load_packed, pack
from qlstm_core.cli import main
convert(torch.nn.LSTM(3, 4), "bwn")
packed = pack(LSTM(3, 4, quantizer="bwn", normalizer="layer").eval())
packed.save({str(file)!r})
main(["inspect", {str(file)!r}])
assert pickle.loads(pickle.dumps(load_packed({str(file)!r}))).nbytes == copy.deepcopy(packed).nbytes
repr(packed)
"""
    assert third_party_imports(statement.strip()).isdisjoint({"numba", "llvmlite"})


def test_what_is_exported_is_imported_when_it_is_used() -> None:
    assert third_party_imports("import qlstm_bench, qlstm_core.export, qlstm_core.packed") == {
        "qlstm_bench",
        "qlstm_core",
        "pluggy",
    }


@pytest.mark.parametrize("package", ["qlstm_core", "qlstm_core.export", "qlstm_core.packed", "qlstm_bench"])
def test_every_exported_name_is_there(package: str) -> None:
    module = import_module(package)
    assert [name for name in module.__all__ if not hasattr(module, name)] == []
    assert set(module.__all__) <= set(dir(module))
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'trian'"):
        _ = module.trian
