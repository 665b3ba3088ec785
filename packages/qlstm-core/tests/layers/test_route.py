"""Which way a layer is run, and why."""

from __future__ import annotations

from recurrent_cases import RowNorm, Sign
from right_plugins import FeatureNorm

from qlstm_core import LSTM


def test_routes_name_the_path_and_the_reason() -> None:
    assert [r.kind for r in LSTM(3, 4).routes()] == ["torch"]
    assert [r.kind for r in LSTM(3, 4, quantizer=Sign(), normalizer=RowNorm()).routes()] == ["torch"]
    assert [r.kind for r in LSTM(3, 4).routes(tokens=True)] == ["fused"]
    (route,) = LSTM(3, 4, normalizer=FeatureNorm()).routes()
    assert (route.kind, route.reason) == ("fused", "FeatureNorm acts on activations")
    (route,) = LSTM(3, 4, state_quantizer=Sign()).routes()
    assert (route.kind, route.reason) == ("loop", "the state is quantized")
