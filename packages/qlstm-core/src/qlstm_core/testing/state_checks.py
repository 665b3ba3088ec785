"""What holds for the state of quantizers and normalisers: prepared, copied, restored, built from text."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import torch
from torch import Tensor

from qlstm_core.interfaces import Normalizer
from qlstm_core.plugins import Catalogue
from qlstm_core.testing.assertions import require, require_equal, skip
from qlstm_core.testing.inputs import BATCH, SHAPE, Plugin, normal, observe, prepared, uses


def check_prepare(plugin: Plugin) -> None:
    """``prepare`` takes any dtype and the meta device, keeps its tensors registered, and can be repeated."""
    weight = normal() / 4
    for dtype in (torch.float32, torch.float64):
        module = prepared(plugin, weight.to(dtype))
        for name, tensor in module.state_dict().items():
            fits = tensor.dtype == dtype or not tensor.is_floating_point()
            require(fits, f"for a {dtype} weight, prepare makes {name!r} of {tensor.dtype}")
        for name, value in vars(module).items():
            require(
                not isinstance(value, Tensor),
                f"{name!r} is a plain tensor: only parameters and buffers are moved and saved with a layer",
            )
    on_meta = prepared(plugin, weight.to("meta"))
    for name, tensor in on_meta.state_dict().items():
        require(
            tensor.device.type == "meta", f"for a weight on the meta device, {name!r} is on {tensor.device}"
        )
    before, after = prepared(plugin, weight), on_meta
    after.prepare(weight)
    _require_same_behaviour(after, before, "prepared on the meta device first, then with a weight")
    after = prepared(plugin, weight * 2)
    after.prepare(weight)
    _require_same_behaviour(after, before, "prepared a second time")


def check_state_dict(plugin: Plugin) -> None:
    """What training has changed is in the ``state_dict``: loaded into a fresh copy, it behaves the same."""
    trained = _trained(plugin)
    buffer = io.BytesIO()
    torch.save(trained.state_dict(), buffer)
    buffer.seek(0)
    restored = prepared(plugin, normal(seed=21))
    restored.load_state_dict(torch.load(buffer, weights_only=True))
    _require_same_behaviour(restored, trained, "restored from its state_dict")


def check_deepcopy(plugin: Plugin) -> None:
    """A deep copy behaves the same and shares no tensor with the original."""
    trained = _trained(plugin)
    twin = copy.deepcopy(trained)
    _require_same_behaviour(twin, trained, "deep-copied")
    memory = {tensor.data_ptr() for tensor in trained.state_dict().values() if tensor.numel()}
    for name, tensor in twin.state_dict().items():
        require(
            tensor.data_ptr() not in memory, f"a deep copy shares the memory of {name!r} with the original"
        )


def check_pickle(plugin: Plugin) -> None:
    """It can be pickled, as ``torch.save(model)`` and worker processes do, and then behaves the same."""
    trained = _trained(plugin)
    twin = pickle.loads(pickle.dumps(trained))
    _require_same_behaviour(twin, trained, "pickled and restored")


def check_text_form(catalogue: Catalogue[Any], text: str | None) -> None:
    """Built from its text, and from the text's canonical spelling, it behaves the same each time.

    Args:
        catalogue: the registry's quantizers or normalisers.
        text: ``"name"`` or ``"name:option=value"``; ``None`` for a plugin that was given as an object.
    """
    if text is None:
        skip("given as an object: only a registered name has a text form")
    weight = normal() / 4
    canonical = catalogue.canonical(text)
    first = prepared(catalogue.create(text), weight)
    for spelling in (text, canonical):
        again = prepared(catalogue.create(spelling), weight)
        _require_same_behaviour(again, first, f"built from {spelling!r} instead of {text!r}")
    respelt = catalogue.canonical(canonical)
    require(respelt == canonical, f"the canonical spelling of {canonical!r} is {respelt!r}")


def _trained(plugin: Plugin) -> Plugin:
    """Return a prepared copy whose parameters and buffers are no longer those that it started with."""
    module = prepared(plugin, normal() / 4)
    with torch.no_grad():
        for use in uses(module):
            use.apply(module, use.ordinary() * 2)
        if isinstance(module, Normalizer):
            for step in (0, 1):
                module(normal((BATCH, *SHAPE[:2]), seed=step), step)
        for parameter in module.parameters():
            parameter.mul_(1.25).add_(0.01)
    return module


def _require_same_behaviour(module: Plugin, reference: Plugin, how: str) -> None:
    for found, expected in zip(observe(module), observe(reference), strict=True):
        require_equal(found, expected, f"{how}, it gives another result")
