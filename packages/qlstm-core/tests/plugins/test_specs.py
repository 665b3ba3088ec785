"""Specs check themselves, so that a plugin's author reads what is wrong where it was written."""

from __future__ import annotations

import dataclasses
import sys
from types import ModuleType
from typing import Any

import pytest

from qlstm_core.plugins import API_VERSION, NormalizerSpec, QuantizerSpec

GOOD: dict[str, Any] = {"name": "sign", "summary": "sign of the weight", "factory": dict}


def test_defaults() -> None:
    spec = QuantizerSpec(**GOOD)
    assert (spec.aliases, spec.references, spec.api_version) == ((), (), API_VERSION)
    assert spec.names == ("sign",)
    assert QuantizerSpec(**GOOD, aliases=("one-bit", "b1")).names == ("sign", "one-bit", "b1")


def test_is_frozen_and_keyword_only() -> None:
    spec = QuantizerSpec(**GOOD)
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.name = "other"  # type: ignore[misc]
    with pytest.raises(TypeError, match="positional"):
        QuantizerSpec("sign", "sign of the weight", dict)  # type: ignore[call-arg]


@pytest.mark.parametrize("name", ["", "Sign", "1bit", "my_sign", "a/b", "a:b", "sign ", "σ", 1, None])
def test_name_that_could_not_be_typed_is_refused(name: object) -> None:
    with pytest.raises(ValueError, match=r"must match \[a-z\]\[a-z0-9-\]\*"):
        QuantizerSpec(**GOOD | {"name": name})
    with pytest.raises((TypeError, ValueError), match=r"aliases|must match"):
        QuantizerSpec(**GOOD, aliases=(name,))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("summary", "", ValueError),
        ("summary", "two\nlines", ValueError),
        ("summary", None, ValueError),
        ("aliases", "sign", TypeError),
        ("aliases", ["sign"], TypeError),
        ("references", "Courbariaux et al. 2015", TypeError),
        ("api_version", "1", TypeError),
        ("factory", None, TypeError),
        ("factory", "package.module", ValueError),
        ("factory", "package.module:Attribute.method", ValueError),
    ],
)
def test_error_names_the_spec_and_the_field(field: str, value: object, error: type[Exception]) -> None:
    with pytest.raises(error, match=rf"^NormalizerSpec 'sign': {field} .*") as caught:
        NormalizerSpec(**GOOD | {field: value})
    assert repr(value) in str(caught.value)


def test_factory_given_as_text_is_imported_when_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = QuantizerSpec(**GOOD | {"factory": "lazy_plugin_module:Sign"})
    with pytest.raises(ModuleNotFoundError, match="lazy_plugin_module"):
        spec.load()
    module = ModuleType("lazy_plugin_module")
    monkeypatch.setitem(sys.modules, "lazy_plugin_module", module)
    with pytest.raises(AttributeError, match="Sign"):
        spec.load()
    module.Sign = 3  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="'lazy_plugin_module:Sign' is not callable"):
        spec.load()
    module.Sign = dict  # type: ignore[attr-defined]
    assert spec.load() is dict
