"""Claims as data: they check themselves, and the papers' own tables agree with them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest

from qlstm_bench.config import RunConfig
from qlstm_bench.papers.claims import Claim, Comparison, Margin, own_claims
from qlstm_bench.papers.published import PublishedFigure, own_figures

CLAIMS = {claim.name: claim for claim in own_claims()}


def claim(**changes: Any) -> Claim:
    fields: dict[str, Any] = {
        "name": "a-claim",
        "statement": "One is behind the other.",
        "source": "Doe 2026",
        "margins": {"char-lm": 0.1},
        "compare": (Comparison({"quantizer": "bwn"}, "worse", {"quantizer": "none"}),),
    }
    return Claim(**{**fields, **changes})


@pytest.mark.parametrize(
    ("value", "size", "relative"),
    [(0.06, 0.06, False), ("0.06", 0.06, False), (5, 5.0, False), ("5.5 %", math.log(1.055), True),
     ("5%", math.log(1.05), True), ("10 times", math.log(10), True), ("1.7 times", math.log(1.7), True)],
)  # fmt: skip
def test_a_margin_is_a_number_a_share_or_a_factor(value: float | str, size: float, relative: bool) -> None:
    margin = Margin.parse(value)
    assert (margin.size, margin.relative) == (pytest.approx(size), relative)


@pytest.mark.parametrize(
    "value", [0, -1, "0 %", "1 times", "0.5 times", "ten", "5 per cent", "1.2.3", math.inf, "nan"]
)
def test_what_is_no_margin_is_refused(value: float | str) -> None:
    with pytest.raises(ValueError, match=r"Claim 'a-claim': margins: char-lm: expected a number above 0"):
        claim(margins={"char-lm": value})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "A claim"}, r"name must match \[a-z\]"),
        ({"statement": ""}, "statement must be one non-empty printable line, got ''"),
        ({"source": "a\nb"}, "source must be one non-empty printable line"),
        ({"compare": ()}, "compare must have at least one Comparison"),
        ({"compare": ["worse"]}, "compare must be a tuple of Comparison, got"),
        ({"margins": {}}, "margins must map tasks to margins"),
        ({"margins": {"mnist:permuted=true": 5}}, "must be a task's name without options"),
        ({"where": {"cel": "gru"}}, r"where: no setting 'cel' \(did you mean 'cell'\?\)"),
        ({"where": {"quantizer": "bwn"}}, "where: no setting 'quantizer'"),
        ({"where": {"layers": [1, "two"]}}, "where: layers cannot be 'two': Input should be a valid integer"),
    ],
)
def test_a_claim_checks_itself(changes: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"Claim .*{message}"):
        claim(**changes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (({"quantizer": "bwn"}, "wors", {"quantizer": "none"}), r"'wors' is none .did you mean 'worse'"),
        (({"quantiser": "bwn"}, "worse", {"quantizer": "none"}), r"first: no setting 'quantiser'"),
        (({"quantizer": []}, "worse", {"quantizer": "none"}), "quantizer must list at least one value"),
        (({"quantizer": "bwn"}, "worse", {"quantizer": ["none", "twn"]}), r"cannot be \['none'"),
        (({"quantizer": 3}, "worse", {"quantizer": "none"}), "first: quantizer cannot be 3: .* valid string"),
        (({"quantizer": "bwn"}, "worse", {}), "second must name a setting"),
        (({"quantizer": "bwn"}, "worse", "none"), "second must map settings of a run to values, got 'none'"),
    ],
)  # fmt: skip
def test_a_comparison_checks_itself(arguments: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        Comparison(*arguments)


def test_lists_stand_for_a_comparison_with_each_value() -> None:
    comparison = Comparison(
        {"quantizer": ["bwn", "twn"], "normalizer": ["layer", "weight"], "cell": "gru"},
        "no worse",
        {"quantizer": "none"},
    )
    assert [(a["quantizer"], a["normalizer"], b) for a, b in comparison.pairs()] == [
        (q, n, {"quantizer": "none", "normalizer": n, "cell": "gru"})
        for q in ("bwn", "twn")
        for n in ("layer", "weight")
    ]


def test_a_claim_is_about_the_runs_that_it_names() -> None:
    base = {"data": "x", "hidden": 2, "batch": 2, "lr": 0.1, "clip": 5.0, "steps": 1}
    several = claim(where={"layers": [2, 3]})
    assert [several.covers(RunConfig.build({**base, "layers": n})) for n in (1, 2, 3, 4)] == [
        False, True, True, False,
    ]  # fmt: skip
    assert several.varied == {"quantizer"}


def test_own_claims_have_names_of_their_own() -> None:
    assert len(CLAIMS) == len(list(own_claims())) > 25


def pairs_of_figures(
    named: Claim,
) -> Iterator[tuple[str, float, float]]:
    """Yield relation and published figures of every comparison that the papers' tables hold both sides of."""
    figures: dict[tuple[Any, ...], PublishedFigure] = {
        (one.source, one.data, one.hidden, one.quantizer, one.normalizer): one for one in own_figures()
    }
    places = {(one.source, one.data, one.hidden): one.task for one in own_figures()}
    for place, task in places.items():
        for comparison in named.compare if task in named.margins else ():
            for sides in comparison.pairs():
                found = [figures.get((*place, side["quantizer"], side["normalizer"])) for side in sides]
                if named.figure == "size":
                    values = [one.size_kb if one else None for one in found]
                else:
                    values = [one.figure if one else None for one in found]
                if None in values:
                    continue
                margin = named.margin(task)
                first, second = (math.log(v) if margin.relative else v for v in values)  # type: ignore[arg-type]
                yield comparison.relation, first - second, margin.size


POSTER = [
    "vanilla-fails", "normalisation-mends", "like-full-precision", "like-normalised-full-precision",
    "normalisers-alike", "shared-like-separate", "like-sbn-and-stn", "smaller-than-sbn-and-stn",
    "batch-norm-like-sbn",
]  # fmt: skip


@pytest.mark.parametrize("name", POSTER)
def test_the_posters_own_tables_agree_with_its_claims(name: str) -> None:
    """Every pair of printed figures stands as the claim says: no margin is too narrow for the paper."""
    found = list(pairs_of_figures(CLAIMS[name]))
    assert len(found) >= 4
    rounding = 1e-9
    for relation, difference, margin in found:
        if relation == "worse":
            assert difference > margin
        else:
            assert (abs(difference) if relation == "alike" else difference) <= margin + rounding


def test_margins_are_the_largest_difference_that_the_poster_calls_none() -> None:
    """Nor is any margin wider than it: 0.06 bits, and 5.48 % of perplexity, rounded to 5.5."""
    largest: dict[bool, float] = {}
    for name in POSTER:
        for relation, difference, margin in pairs_of_figures(CLAIMS[name]):
            if relation != "worse":
                size = abs(difference) if relation == "alike" else difference
                relative = margin != 0.06
                largest[relative] = max(largest.get(relative, 0.0), size)
    assert largest[False] == pytest.approx(0.06)
    assert 100 * math.expm1(largest[True]) == pytest.approx(5.48, abs=0.01)
    near = Margin.parse(CLAIMS["more-parameters-win"].margins["large-vocab-lm"])
    assert math.log(36.3 / 35.1) < near.size < math.log(36.4 / 35.1)
