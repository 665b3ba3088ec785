"""Which kernel is taken, and what is left alone until then."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from qlstm_core.packed.kernels.choose import ENVIRONMENT, Kernel, choose, has_avx2, has_vbmi
from qlstm_core.plugins import KernelSpec, PluginError, PluginWarning, UnknownNameError, hookimpl, registry


def run(script: str, **environment: str):
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(autouse=True)
def _no_override(monkeypatch):
    monkeypatch.delenv(ENVIRONMENT, raising=False)


@pytest.fixture
def provide():
    """Register a plugin with the given kernel specs for the test's time."""
    names = []

    def register(*specs: KernelSpec) -> None:
        class Plugin:
            @hookimpl
            def qlstm_kernels(self):
                return specs

        names.append(f"test-plugin-{len(names)}")
        registry.register(Plugin(), names[-1])

    yield register
    for name in names:
        registry.unregister(name)


def spec(
    name: str, priority: int = 0, supported=lambda: True, factory="qlstm_core.packed.kernels.portable:kernel"
):
    return KernelSpec(name=name, summary="a test's", factory=factory, supported=supported, priority=priority)


BEST = "avx512" if has_vbmi() else "avx2" if has_avx2() else "portable"


def test_the_host_decides():
    assert choose().name == BEST


def test_the_environment_overrides(monkeypatch):
    monkeypatch.setenv("QLSTM_KERNEL", "portable")
    assert choose().name == "portable"
    monkeypatch.setenv("QLSTM_KERNEL", "")
    assert choose().name == BEST


def test_an_unknown_name_lists_those_installed(monkeypatch):
    monkeypatch.setenv("QLSTM_KERNEL", "avx3")
    with pytest.raises(
        UnknownNameError, match=r"QLSTM_KERNEL=avx3.*did you mean 'avx2'.*avx2, avx512, portable"
    ):
        choose()


def test_a_kernel_that_the_host_lacks_is_refused(monkeypatch, provide):
    provide(spec("quantum", supported=lambda: False))
    with pytest.raises(PluginError, match="'quantum' does not run on this host"):
        choose("quantum")
    monkeypatch.setenv("QLSTM_KERNEL", "quantum")
    with pytest.raises(PluginError, match="QLSTM_KERNEL=quantum"):
        choose()


def test_a_plugin_may_add_a_kernel(provide):
    provide(
        spec("slower", priority=-5), spec("better", priority=99), spec("best", 100, supported=lambda: False)
    )
    asked = []
    portable = choose("portable")

    def factory():
        asked.append(1)
        return Kernel("better", portable.fill_tables, portable.product)

    provide(spec("better-still", priority=101, factory=factory))
    assert choose().name == "better"
    assert asked == [1]


class Undecided:
    def __bool__(self):
        raise SystemExit("no such silicon")


@pytest.mark.parametrize("fault", [RuntimeError, SystemExit, GeneratorExit, pytest.skip.Exception])
@pytest.mark.parametrize("part", ["supported", "factory"])
def test_a_broken_kernel_is_passed_over_and_named(monkeypatch, provide, part, fault):
    def explode():
        raise fault("no such silicon")

    provide(spec("broken", priority=99, **{part: explode}))
    told = rf"'broken'.*{fault.__name__}: no such silicon"
    with pytest.warns(PluginWarning, match=told):
        kernel = choose()
    assert kernel.name == BEST
    with pytest.raises(PluginError, match=told):
        choose("broken")
    monkeypatch.setenv("QLSTM_KERNEL", "broken")
    with pytest.raises(PluginError, match=f"QLSTM_KERNEL=broken: .*{told}"):
        choose()


def test_a_kernel_that_cannot_decide_is_named(provide):
    provide(spec("undecided", priority=99, supported=Undecided))
    told = "kernel 'undecided' cannot tell whether it runs on this host: SystemExit: no such silicon"
    with pytest.raises(PluginError, match=f"^{told}$"):
        choose("undecided")


_PRODUCT = """
import json, sys, numpy as np, torch
from qlstm_core import BitPlanes
from qlstm_core.packed.kernels.choose import choose, has_avx2
from qlstm_core.packed.kernels.layout import pack
from qlstm_core.packed.kernels.matmul import matmul
from qlstm_core.plugins import PluginError
planes = BitPlanes.from_binary((torch.arange(21).reshape(1, 3, 7) % 2).bool(), torch.ones(1, 1))
y = matmul(np.arange(7, dtype=np.float32)[None], pack(planes, choose().span), activation_bits=16)
try:
    refused = choose("avx2").name
except PluginError as error:
    refused = str(error)
json.dump([choose().name, has_avx2(), y.round(2).tolist(), refused], sys.stdout)
"""


def test_without_avx2_the_portable_kernel_runs():
    signs = np.where(np.arange(21).reshape(3, 7) % 2, 1, -1)
    for environment in (
        {"NUMBA_CPU_NAME": "generic"},
        {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": "+avx"},
    ):
        name, avx2, y, refused = run(_PRODUCT, **environment)
        assert (name, avx2) == ("portable", False)
        assert np.allclose(y, [[signs @ np.arange(7)]], atol=0.01)
        assert "does not run on this host" in refused


def test_numba_is_imported_only_for_a_kernel():
    script = """
import json, sys
import qlstm_core.packed.kernels.choose, qlstm_core.packed.kernels.layout
from qlstm_core.plugins import KernelSpec, registry
names = registry.catalogue("qlstm_kernels", KernelSpec, "kernel").names()
json.dump([names, "numba" in sys.modules], sys.stdout)
"""
    assert run(script, QLSTM_DISABLE_PLUGINS="") == [["avx2", "avx512", "portable"], False]


def test_nothing_is_compiled_at_import():
    script = """
import json, sys
import numba.core.compiler
compiled = []
numba.core.compiler.compile_extra = lambda *a, **k: compiled.append(a) or 1 / 0
from qlstm_core.packed.kernels import avx2, avx512, matmul, portable
for module in (avx2, avx512, portable):
    module._product(12, 0), module._fill_tables(8)
json.dump(len(compiled), sys.stdout)
"""
    assert run(script) == 0


def test_a_kernel_of_an_unknown_span_is_refused():
    portable = choose("portable")
    with pytest.raises(ValueError, match=r"kernel 'mine': span must be one of \(4, 6\), got 5"):
        Kernel("mine", portable.fill_tables, portable.product, span=5)


@pytest.mark.skipif(not has_vbmi(), reason="needs a CPU with AVX-512 VBMI")
def test_without_vbmi_the_next_kernel_runs():
    features = "+avx2,+fma,+avx,+sse4.2,+popcnt"
    name, avx2, _, refused = run(_PRODUCT, NUMBA_CPU_NAME="x86-64", NUMBA_CPU_FEATURES=features)
    assert (name, avx2, refused) == ("avx2", True, "avx2")


@pytest.mark.parametrize(("field", "value"), [("supported", True), ("priority", "high")])
def test_a_spec_checks_itself(field, value):
    fields = {"name": "mine", "summary": "mine", "factory": "a.b:c", "supported": has_avx2, "priority": 1}
    with pytest.raises(TypeError, match=field):
        KernelSpec(**{**fields, field: value})
