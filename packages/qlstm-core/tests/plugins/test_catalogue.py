"""Looking names up, telling claimants apart, and building a thing from its text."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from fake_plugins import Sign, quantizer, quantizer_plugin
from hypothesis import given
from hypothesis import strategies as st

from qlstm_core.plugins import (
    AmbiguousNameError,
    OptionError,
    PluginError,
    PluginWarning,
    QuantizerSpec,
    Registry,
    UnknownNameError,
)


def registry_of(**plugins: tuple[QuantizerSpec, ...]) -> Registry:
    """A registry of one plugin for each distribution; version 1.0, 2.0, …"""
    registry = Registry(discover=False)
    for number, (distribution, specs) in enumerate(plugins.items(), start=1):
        registry.register(quantizer_plugin(*specs, version=f"{number}.0"), distribution.replace("_", "-"))
    return registry


def test_name_alias_and_qualified_name_find_the_spec() -> None:
    spec = quantizer("sign", aliases=("one-bit",))
    quantizers = registry_of(my_plugin=(spec, quantizer("other"))).quantizers
    for name in ("sign", "one-bit", "my-plugin/sign", "my-plugin/one-bit", "My_Plugin/sign"):
        assert quantizers.get(name) is spec
    assert quantizers.names() == ["other", "sign"]
    assert [s.name for s in quantizers.specs()] == ["other", "sign"]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("sing", " (did you mean 'sign'?)"),
        ("SIGN", " (did you mean 'sign'?)"),
        ("one_bit", " (did you mean 'one-bit'?)"),
        ("my-plugn/sig", " (did you mean 'my-plugin/sign' or 'my-plugin/one-bit' or 'my-plugin/other'?)"),
        ("zzz", ""),
        ("", ""),
    ],
)
def test_unknown_name_lists_the_nearest_and_the_installed(name: str, hint: str) -> None:
    quantizers = registry_of(
        my_plugin=(quantizer("sign", aliases=("one-bit",)), quantizer("other"))
    ).quantizers
    message = f"unknown quantizer {name!r}{hint}; installed: other, sign"
    with pytest.raises(UnknownNameError, match=f"^{re.escape(message)}$"):
        quantizers.get(name)


def test_unknown_name_with_nothing_installed() -> None:
    with pytest.raises(UnknownNameError, match=r"^unknown normalizer 'layer'; installed: none$"):
        Registry(discover=False).normalizers.get("layer")


def test_unknown_name_says_which_plugins_do_not_work() -> None:
    registry = registry_of(good=(quantizer("sign"),))
    registry.register(quantizer_plugin(version="3.1"), "silent")
    registry.register(quantizer_plugin("nonsense", version="4.1"), "bad")  # type: ignore[arg-type]
    with pytest.warns(PluginWarning, match="bad"):
        registry.quantizers.names()
    with pytest.raises(
        UnknownNameError, match=r"installed: sign; not available: bad 4\.1 \(failed\), see `qlstm plugins`$"
    ):
        registry.quantizers.get("mine")


def test_name_claimed_twice_fails_only_when_asked_for() -> None:
    first, second = quantizer("sign"), quantizer("sign", aliases=("s",))
    quantizers = registry_of(aaa=(first, quantizer("a")), bbb=(second, quantizer("b"))).quantizers
    message = "quantizer 'sign' is claimed by aaa 1.0 and bbb 2.0; write 'aaa/sign' or 'bbb/sign'"
    with pytest.raises(AmbiguousNameError, match=f"^{re.escape(message)}$"):
        quantizers.get("sign")
    assert quantizers.get("aaa/sign") is first
    assert quantizers.get("bbb/sign") is second
    assert quantizers.get("s") is second
    assert quantizers.names() == ["a", "aaa/sign", "b", "bbb/sign"]
    assert [quantizers.get(name) for name in quantizers.names()] == quantizers.specs()


def test_alias_that_is_another_plugins_name_is_ambiguous_too() -> None:
    quantizers = registry_of(aaa=(quantizer("x", aliases=("sign",)),), bbb=(quantizer("sign"),)).quantizers
    with pytest.raises(AmbiguousNameError, match=r"aaa 1\.0 and bbb 2\.0; write 'aaa/sign' or 'bbb/sign'"):
        quantizers.get("sign")
    assert quantizers.names() == ["bbb/sign", "x"]


def test_spec_for_another_version_of_the_interface_says_so_when_asked_for() -> None:
    registry = registry_of(future=(quantizer("sign"), quantizer("next", api_version=2)))
    with pytest.warns(
        PluginWarning, match=r"^incompatible plugin 'future' of future 1\.0: 'next' needs version 2 of"
    ):
        assert registry.quantizers.names() == ["sign"]
    for name in ("next", "future/next"):
        message = (
            rf"^quantizer '{name}' of future 1\.0 needs version 2 of the plugin interface, this qlstm-core"
        )
        with pytest.raises(UnknownNameError, match=message):
            registry.quantizers.get(name)


def test_create_passes_options_to_the_factory() -> None:
    quantizers = registry_of(p=(quantizer("sign", aliases=("s",)),)).quantizers
    built = quantizers.create("s:scale=2,per_row=true,label=7")
    assert isinstance(built, Sign)
    assert (built.scale, built.per_row, built.label) == (2.0, True, "7")
    assert quantizers.create("p/sign").scale == 1.0
    assert quantizers.create("sign") is not quantizers.create("sign")


def test_what_the_factory_refuses_becomes_one_line() -> None:
    quantizers = registry_of(p=(quantizer("sign"),)).quantizers
    with pytest.raises(
        OptionError, match=r"^quantizer 'sign:scale=-1': scale must be positive, got -1\.0$"
    ) as caught:
        quantizers.create("sign:scale=-1")
    assert isinstance(caught.value.__cause__, ValueError)
    with pytest.raises(
        OptionError, match=r"^quantizer 'sign' has no option 'scales' \(did you mean 'scale'\?\)"
    ):
        quantizers.create("sign:scales=1")


def test_what_is_not_text_is_refused() -> None:
    with pytest.raises(PluginError, match=r"^quantizer must be a name, as text, got 3$"):
        registry_of().quantizers.create(3)  # type: ignore[arg-type]


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise SystemExit("no message")


@pytest.mark.parametrize(
    ("defect", "told"),
    [
        (ZeroDivisionError("a defect"), "ZeroDivisionError: a defect"),
        (SystemExit(5), "SystemExit: 5"),
        (GeneratorExit(), "GeneratorExit"),
        (pytest.skip.Exception("no GPU\n\x1b[2J"), r"Skipped: no GPU \x1b[2J"),
        (UnspeakableError(), "UnspeakableError: (its message cannot be shown, SystemExit: no message)"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_factory_that_fails_is_named_and_keeps_its_traceback(defect: BaseException, told: str) -> None:
    def defective() -> None:
        raise defect

    quantizers = registry_of(p=(quantizer("x", factory=defective),)).quantizers
    message = f"quantizer 'x' of p 1.0: its factory raised {told}"
    with pytest.raises(PluginError, match=f"^{re.escape(message)}$") as caught:
        quantizers.create("x")
    assert caught.value.__cause__ is defect
    assert quantizers.canonical("x") == "x", "what needs no factory still works"


def test_the_user_may_interrupt_a_factory() -> None:
    def slow() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        registry_of(p=(quantizer("x", factory=slow),)).quantizers.create("x")


def test_lazy_factory_that_exits_while_it_is_imported_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "exits_when_imported.py").write_text("raise GeneratorExit('now')")
    monkeypatch.syspath_prepend(tmp_path)
    quantizers = registry_of(p=(quantizer("x", factory="exits_when_imported:Sign"),)).quantizers
    with pytest.raises(PluginError, match=r"cannot be loaded from 'exits_when_imported:Sign': GeneratorExit"):
        quantizers.create("x")


def test_annotation_that_is_no_type_is_named() -> None:
    def factory(scale=1.0):  # type: ignore[no-untyped-def]
        return Sign(scale)

    factory.__annotations__["scale"] = [int]
    message = r"quantizer 'x' of p 1\.0: its options cannot be read: TypeError: unhashable"
    with pytest.raises(PluginError, match=message):
        registry_of(p=(quantizer("x", factory=factory),)).quantizers.create("x:scale=2")


def test_annotation_that_exits_when_it_is_evaluated_is_left_alone() -> None:
    def factory(scale=1.0):  # type: ignore[no-untyped-def]
        return Sign(scale)

    factory.__annotations__["scale"] = "exit(3)"
    built = registry_of(p=(quantizer("x", factory=factory),)).quantizers.create("x:scale=2")
    assert built.scale == 2.0


def test_factory_that_builds_something_else_is_named() -> None:
    quantizers = registry_of(p=(quantizer("x", factory=dict),)).quantizers
    with pytest.raises(
        PluginError, match=r"^quantizer 'x' of p 1\.0: its factory returned dict, not Quantizer$"
    ):
        quantizers.create("x")


def test_lazy_factory_is_imported_at_first_use(monkeypatch: pytest.MonkeyPatch) -> None:
    quantizers = registry_of(p=(quantizer("x", factory="lazy_quantizers:Sign"),)).quantizers
    assert quantizers.names() == ["x"]
    message = "quantizer 'x' of p 1.0 cannot be loaded from 'lazy_quantizers:Sign': ModuleNotFoundError: "
    with pytest.raises(PluginError, match=f"^{re.escape(message)}"):
        quantizers.create("x")
    module = ModuleType("lazy_quantizers")
    module.Sign = Sign  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lazy_quantizers", module)
    assert isinstance(quantizers.create("x"), Sign)


def test_canonical_spelling() -> None:
    quantizers = registry_of(
        aaa=(quantizer("sign", aliases=("s",)), quantizer("both")), bbb=(quantizer("both"),)
    ).quantizers
    assert quantizers.canonical("s") == "sign"
    assert quantizers.canonical("aaa/s:scale=1,per_row=True") == "sign:per_row=true"
    assert quantizers.canonical("sign:per_row=true,label=b,scale=2") == "sign:label=b,per_row=true,scale=2.0"
    assert quantizers.canonical("aaa/both") == "aaa/both"


@given(
    name=st.sampled_from(["sign", "s", "aaa/s"]),
    options=st.fixed_dictionaries(
        {},
        optional={
            "scale": st.floats(min_value=1e-9, allow_infinity=False).map(str) | st.integers(1, 9).map(str),
            "per_row": st.sampled_from(["true", "false", "True"]),
            "label": st.from_regex(r"[a-z0-9.=:-]+", fullmatch=True),
        },
    ),
)
def test_canonical_spelling_builds_the_same_and_is_a_fixed_point(name: str, options: dict[str, str]) -> None:
    quantizers = registry_of(aaa=(quantizer("sign", aliases=("s",)),)).quantizers
    text = name + (":" if options else "") + ",".join(f"{key}={value}" for key, value in options.items())
    canonical = quantizers.canonical(text)
    assert quantizers.canonical(canonical) == canonical
    first, second = quantizers.create(text), quantizers.create(canonical)
    assert (first.scale, first.per_row, first.label) == (second.scale, second.per_row, second.label)
