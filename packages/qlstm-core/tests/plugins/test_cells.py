"""Cells are plugins as quantizers are: by name, with options, conflicts and failures told in one line."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from fake_plugins import plugin
from right_cells import Elman, Leak

from qlstm_core import (
    GRU,
    LSTM,
    FactorizedLSTM,
    GroupedLSTM,
    RecurrentLayer,
    cells_of,
    layer_by_name,
)
from qlstm_core.plugins import AmbiguousNameError, CellSpec, PluginError, PluginWarning, Registry, registry


def spec(name: str, **fields: Any) -> CellSpec:
    return CellSpec(**{"name": name, "summary": f"the cell {name}", "factory": Leak} | fields)


def leak_of_one_layer(input_size: int, hidden_size: int, slowness: float = 1.0, **keywords: Any) -> Leak:
    return Leak(input_size, hidden_size, 1, slowness=slowness, **keywords)


def no_layer(*sizes: int, **keywords: Any) -> torch.nn.LSTM:
    return torch.nn.LSTM(*sizes)


@pytest.fixture
def strangers() -> Iterator[None]:
    cells = [
        spec("leak", aliases=("leaky",)),
        spec("elman", factory=Elman),
        spec("one-layer", factory=leak_of_one_layer),
        spec("lstm", factory=Elman),
        spec("torchs", factory=torch.nn.LSTM),
        spec("no-layer", factory=no_layer),
        spec("absent", factory="no_such_module:Cell"),
    ]
    registry.register(plugin("1.0", qlstm_cells=lambda: cells), "strange-cells")
    yield
    registry.unregister("strange-cells")


def test_the_cores_families_are_registered_like_anyone_elses() -> None:
    cells = cells_of(registry)
    found = {name: cells.factory(f"qlstm-core/{name}") for name in ("lstm", "gru", "f-lstm", "g-lstm")}
    assert found == {"lstm": LSTM, "gru": GRU, "f-lstm": FactorizedLSTM, "g-lstm": GroupedLSTM}
    (record,) = [r for r in registry.plugins() if r.name == "qlstm-core:core"]
    assert record.provides["cell"] == ("f-lstm", "g-lstm", "gru", "lstm")


def test_a_name_with_options_makes_a_layer(strangers: None) -> None:
    layer = layer_by_name("leak:slowness=2", 3, 4, 2, bidirectional=True)
    assert type(layer) is Leak
    assert (layer.slowness, layer.num_layers, layer.bidirectional) == (2.0, 2, True)
    assert (layer_by_name("f-lstm:rank=3", 6, 8).rank, layer_by_name("leaky", 3, 4).slowness) == (3, 0.0)
    assert layer_by_name("one-layer:slowness=0.5", 3, 4).slowness == 0.5


def test_options_are_what_a_constructor_takes_beside_every_layers_arguments(strangers: None) -> None:
    cells = cells_of(registry)
    own = {name: cells.options(name) for name in ("gru", "f-lstm", "g-lstm", "leak", "elman", "one-layer")}
    assert own == {
        "gru": [], "f-lstm": ["rank"], "g-lstm": ["groups"], "leak": ["slowness"], "elman": [],
        "one-layer": ["slowness"],
    }  # fmt: skip
    assert "hidden_size" in inspect.signature(GRU).parameters, "which restates them all"


def test_one_spelling(strangers: None) -> None:
    cells = cells_of(registry)
    assert cells.canonical("leaky:slowness=0") == "leak"
    assert cells.canonical("leak:slowness=3") == "leak:slowness=3.0"
    assert cells.canonical("f-lstm:rank=512") == "f-lstm"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("laek", "unknown cell 'laek' (did you mean 'leak' or 'leaky'?); installed: absent, elman, f-lstm"),
        ("leak:slow=1", "cell 'leak' has no option 'slow' (did you mean 'slowness'?); allowed: slowness"),
        ("leak:slowness=x", "cell 'leak': option 'slowness' must be a number, got 'x'"),
        ("leak:hidden_size=3", "cell 'leak' has no option 'hidden_size'; allowed: slowness"),
        ("elman:slowness=3", "cell 'elman' has no option 'slowness'; it takes no options"),
        ("one-layer:bias=false", "cell 'one-layer' has no option 'bias'; allowed: slowness"),
        ("torchs", "cell 'torchs' of strange-cells 1.0: its factory is the class LSTM, which is no Recurr"),
        ("no-layer", "cell 'no-layer': its factory returned LSTM, not RecurrentLayer"),
        ("absent", "cell 'absent' of strange-cells 1.0 cannot be loaded from 'no_such_module:Cell': "),
        ("", "unknown cell ''; installed: "),
        (3, "cell must be a name, as text, got 3"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(strangers: None, text: Any, message: str) -> None:
    with pytest.raises(PluginError) as caught:
        layer_by_name(text, 3, 4)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_taken_name_is_asked_for_with_its_distribution(strangers: None) -> None:
    spellings = "write 'qlstm-core/lstm' or 'strange-cells/lstm'"
    message = rf"cell 'lstm' is claimed by qlstm-core .* and strange-cells 1\.0; {spellings}"
    with pytest.raises(AmbiguousNameError, match=message):
        layer_by_name("lstm", 3, 4)
    assert type(layer_by_name("qlstm-core/lstm", 3, 4)) is LSTM
    assert type(layer_by_name("strange-cells/lstm", 3, 4)) is Elman
    assert {"qlstm-core/lstm", "strange-cells/lstm"} <= set(cells_of(registry).names())


def test_sizes_keep_the_familys_own_errors(strangers: None) -> None:
    with pytest.raises(ValueError, match=r"^rank must be an int from 1 to 14, .* got 99$"):
        layer_by_name("f-lstm:rank=99", 6, 8)
    with pytest.raises(TypeError, match="unexpected keyword argument 'rank'"):
        layer_by_name("gru", 6, 8, rank=3)


def test_a_plugin_that_gives_no_cell_is_left_out() -> None:
    own = Registry(discover=False)
    own.register(plugin(qlstm_cells=lambda: [Leak]), "gives-a-class")
    own.register(plugin(qlstm_cells=lambda: [spec("leak")]), "right")
    with pytest.warns(PluginWarning, match="gives-a-class.* qlstm_cells gave type in place of CellSpec"):
        assert cells_of(own).names() == ["leak"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "Leak"}, "name 'Leak' must match"),
        ({"factory": "Leak"}, "factory 'Leak' must be callable or 'package.module:Attribute'"),
        ({"factory": 3}, "factory must be callable"),
        ({"summary": ""}, "summary must be one non-empty printable line"),
    ],
)
def test_a_spec_checks_itself(fields: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        spec(**{"name": "leak"} | fields)


def test_every_layer_comes_by_its_name() -> None:
    """So that a family that is written for the core is not forgotten in its hooks."""
    families = (cls for cls in _families(RecurrentLayer) if cls.__module__.startswith("qlstm_core."))
    own = {cls for cls in families if hasattr(cls, "cell")}
    cells = cells_of(registry)
    assert own == {cells.factory(name) for name in ("lstm", "gru", "f-lstm", "g-lstm")}


def _families(base: type[RecurrentLayer]) -> Iterator[type[RecurrentLayer]]:
    for family in base.__subclasses__():
        yield family
        yield from _families(family)
