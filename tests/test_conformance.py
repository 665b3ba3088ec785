"""Every installed quantizer and normaliser passes the conformance checks, with each of its options."""

from __future__ import annotations

import inspect
from typing import Any

from qlstm_core.plugins import Catalogue, OptionError, registry
from qlstm_core.testing import Check, parametrize_with_checks

BITS = (1, 2, 3, 4, 8)


def variants(catalogue: Catalogue[Any]) -> list[str]:
    """Return every name alone, with each of its flags turned over, with all of them, and with other bits."""
    texts = []
    for name in catalogue.names():
        parameters = inspect.signature(catalogue.get(name).load()).parameters
        flags = [
            f"{key}={str(not p.default).lower()}"
            for key, p in parameters.items()
            if isinstance(p.default, bool)
        ]
        texts += [name, *(f"{name}:{flag}" for flag in flags), f"{name}:{','.join(flags)}" if flags else name]
        if "bits" in parameters:
            options = [[f"bits={bits}", *given] for bits in BITS for given in ([], flags)]
            sized = [f"{name}:{','.join(given)}" for given in options]
            texts += [text for text in sized if _accepted(catalogue, text)]
    return list(dict.fromkeys(texts))


def _accepted(catalogue: Catalogue[Any], text: str) -> bool:
    try:
        catalogue.create(text)
    except OptionError:  # not every method takes every number of bits
        return False
    return True


QUANTIZERS = variants(registry.quantizers)
NORMALIZERS = variants(registry.normalizers)


def test_no_method_is_missing() -> None:
    methods = "absmean alternating binary-connect bwn lab lat lsq none sbn stn ter-connect twn uniform"
    assert set(methods.split()) <= set(QUANTIZERS)
    assert {"batch-separate", "batch-shared", "layer", "none", "rms", "weight"} <= set(NORMALIZERS)
    variations = {
        "twn:per_row=true",
        "ter-connect:stochastic=true",
        "alternating:bits=4",
        "lsq:bits=8,per_row=true",
    }
    assert variations <= set(QUANTIZERS)
    assert {"layer:cell=true", "batch-separate:cell=true"} <= set(NORMALIZERS)


@parametrize_with_checks(dict.fromkeys(QUANTIZERS + NORMALIZERS))
def test_conformance(check: Check) -> None:
    check()
