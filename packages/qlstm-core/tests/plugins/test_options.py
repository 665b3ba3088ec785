"""``name:key=value,key=value``: what a user types reaches the factory with the type that it declares."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qlstm_core import Quantizer
from qlstm_core.plugins import OptionError
from qlstm_core.plugins.options import format_options, parse_options, split_options


def typed(
    bits: int = 2,
    scale: float = 1.0,
    stochastic: bool = False,
    note: str = "",
    seed: int | None = None,
    mode: Literal["sum", "mean", 3] = "sum",
) -> None:
    """A factory with an annotation of each checkable kind."""


def untyped(bits=2, scale=1.0, stochastic=False, note="", seed=None) -> None:  # type: ignore[no-untyped-def]
    """A factory whose defaults alone tell the types."""


def parse(factory: Callable[..., Any], text: str) -> dict[str, Any]:
    return parse_options(factory, split_options(text)[1], "quantizer 'x'")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bwn", ("bwn", {})),
        ("a:k=1", ("a", {"k": "1"})),
        (" a : k = 1 , j=x=y ", ("a", {"k": "1", "j": "x=y"})),
        ("dist/a:k=b:c", ("dist/a", {"k": "b:c"})),
        ("a:k=(1, 2),j=3,i=(4)", ("a", {"k": "(1, 2)", "j": "3", "i": "(4)"})),
    ],
)
def test_split(text: str, expected: tuple[str, dict[str, str]]) -> None:
    assert split_options(text) == expected


@pytest.mark.parametrize("text", ["a:", "a:k", "a:k=", "a:=1", "a:k=1,", "a:,k=1", "a:k=1,,j=2"])
def test_options_of_another_form_are_refused(text: str) -> None:
    with pytest.raises(OptionError, match=r"must be written option=value"):
        split_options(text)


def test_option_given_twice_is_refused() -> None:
    with pytest.raises(OptionError, match=r"^'a:k=1,k=2': option 'k' is given twice$"):
        split_options("a:k=1,k=2")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("bits=3", 3),
        ("bits=-3", -3),
        ("scale=2", 2.0),
        ("scale=1e-3", 1e-3),
        ("stochastic=true", True),
        ("stochastic=False", False),
        ("note=abc", "abc"),
    ],
)
@pytest.mark.parametrize("factory", [typed, untyped])
def test_value_has_the_declared_type(factory: Callable[..., Any], option: str, value: object) -> None:
    (result,) = parse(factory, f"x:{option}").values()
    assert result == value
    assert type(result) is type(value)


def pair(betas: tuple[float, float] = (0.9, 0.999), sizes=(1, 2), anything=None) -> None:  # type: ignore[no-untyped-def]
    """A factory with tuples, annotated or by default, and what may be one."""


@pytest.mark.parametrize(
    ("text", "values", "again"),
    [
        ("x:betas=(0.8, 0.9)", {"betas": (0.8, 0.9)}, ":betas=(0.8,0.9)"),
        ("x:betas=(0.9,0.999),sizes=(1,2)", {"betas": (0.9, 0.999), "sizes": (1, 2)}, ""),
        ("x:sizes=(3),anything=(a,true,1e3)", {"sizes": (3,), "anything": ("a", True, 1000.0)},
         ":anything=(a,true,1000.0),sizes=(3)"),
    ],
)  # fmt: skip
def test_values_in_parentheses_are_a_tuple(text: str, values: dict[str, Any], again: str) -> None:
    assert parse(pair, text) == values
    assert format_options(pair, values) == again
    if again:
        assert parse(pair, f"x{again}") == values


@pytest.mark.parametrize("value", ["0.9", "0.9;0.99", "true", "(0.9"])
def test_one_value_is_no_tuple(value: str) -> None:
    message = rf"option 'betas' must be values in parentheses, as in \(1,2\), got '{re.escape(value)}'"
    with pytest.raises(OptionError, match=message):
        parse(pair, f"x:betas={value}")


def test_annotation_decides_between_spellings() -> None:
    assert parse(typed, "x:note=8") == {"note": "8"}
    assert parse(typed, "x:note=true") == {"note": "true"}
    assert parse(typed, "x:seed=none") == {"seed": None}
    assert parse(typed, "x:seed=4") == {"seed": 4}
    assert parse(typed, "x:mode=mean") == {"mode": "mean"}
    assert parse(typed, "x:mode=3") == {"mode": 3}


def test_without_a_declared_type_the_spelling_decides() -> None:
    def free(**options: Any) -> None: ...

    values = parse(free, "x:a=true,b=1,c=1.5,d=text")
    assert values == {"a": True, "b": 1, "c": 1.5, "d": "text"}
    assert [type(value) for value in values.values()] == [bool, int, float, str]
    assert parse(untyped, "x:seed=7") == {"seed": 7}
    assert parse(untyped, "x:bits=1.5") == {"bits": 1.5}, "an integer default alone does not exclude 1.5"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("bits=two", "option 'bits' must be an integer, got 'two'"),
        ("bits=1.5", "option 'bits' must be an integer, got '1.5'"),
        ("bits=true", "option 'bits' must be an integer, got 'true'"),
        ("scale=big", "option 'scale' must be a number, got 'big'"),
        ("stochastic=1", "option 'stochastic' must be true or false, got '1'"),
        ("seed=x", "option 'seed' must be an integer or none, got 'x'"),
        ("mode=max", "option 'mode' must be 'sum' or 'mean' or 3, got 'max'"),
        (
            "bit=2",
            "has no option 'bit' (did you mean 'bits'?); allowed: bits, scale, stochastic, note, seed, mode",
        ),
    ],
)
def test_error_says_what_is_allowed(option: str, message: str) -> None:
    with pytest.raises(OptionError) as caught:
        parse(typed, f"x:{option}")
    assert str(caught.value) in (f"quantizer 'x': {message}", f"quantizer 'x' {message}")


def test_required_option_is_asked_for() -> None:
    def needy(bits: int, *, scale: float) -> None: ...

    with pytest.raises(
        OptionError, match=r"^quantizer 'x' needs a value for 'scale', as in name:scale=value$"
    ):
        parse(needy, "x:bits=1")
    assert parse(needy, "x:bits=1,scale=2") == {"bits": 1, "scale": 2.0}


def test_module_without_its_own_init_takes_no_options() -> None:
    class Sign(Quantizer):
        bits = 1

    with pytest.raises(OptionError, match=r"^quantizer 'x' has no option 'bits'; it takes no options$"):
        parse(Sign, "x:bits=2")


def test_annotations_that_only_a_type_checker_knows_do_not_matter() -> None:
    def factory(bits: "Unknown" = 2) -> None: ...  # type: ignore[name-defined] # noqa: F821, UP037

    assert parse(factory, "x:bits=3") == {"bits": 3}
    with pytest.raises(OptionError, match="'bits' must be an integer or a number, got 'x'"):
        parse(factory, "x:bits=x")


def test_format_leaves_defaults_out_and_sorts() -> None:
    assert format_options(typed, {"bits": 2, "scale": 1.0, "mode": "sum", "seed": None}) == ""
    assert format_options(typed, {"stochastic": True, "bits": 3}) == ":bits=3,stochastic=true"
    assert format_options(typed, {"stochastic": 0, "seed": 1}) == ":seed=1,stochastic=0", "0 is not false"


words = st.text(st.characters(exclude_characters=",", exclude_categories=["C", "Z"]), min_size=1)


@given(
    bits=st.integers(),
    scale=st.floats(allow_nan=False),
    stochastic=st.booleans(),
    note=words,
    seed=st.none() | st.integers(),
    mode=st.sampled_from(["sum", "mean", 3]),
)
def test_formatted_options_parse_to_the_same_values(**values: Any) -> None:
    defaults = {"bits": 2, "scale": 1.0, "stochastic": False, "note": "", "seed": None, "mode": "sum"}
    assert defaults | parse(typed, "x" + format_options(typed, values)) == values
