"""Each mistake in a cell is caught by the check that is meant for it; right ones of any gates pass."""

from __future__ import annotations

from functools import partial
from typing import Any

import broken_cells as broken
import pytest
from right_cells import Coupled, Elman, Exponential, Leak

from qlstm_core import GRU, LSTM, FactorizedLSTM, GroupedLSTM, RecurrentLayer
from qlstm_core.testing import checks_of, run_checks

RIGHT = (
    Elman,
    Coupled,
    Exponential,
    partial(Leak, slowness=2.0),
    LSTM,
    GRU,
    partial(FactorizedLSTM, rank=3),
    partial(GroupedLSTM, groups=2),
)

# The check that is meant for the mistake first; then those that it cannot but fail too.
BROKEN: dict[type[RecurrentLayer], tuple[str, ...]] = {
    broken.OneGateTooMany: ("check_declarations", "check_state_shapes"),
    broken.DropsAUnit: ("check_state_shapes",),
    broken.ForgetsC: ("check_state_shapes",),
    broken.GivesAList: ("check_state_shapes",),
    broken.IgnoresDropout: ("check_arguments",),
    broken.ClaimsAProjection: ("check_projection",),
    broken.DividesBySteps: (
        "check_step_equals_sequence",
        "check_packed_equals_padded",
        "check_layers_and_directions",
        "check_record_states",
    ),
    broken.Remembers: ("check_calls_independent",),
    broken.MixesSequences: ("check_sequences_independent", "check_packed_equals_padded"),
    broken.NoTokens: ("check_tokens",),
    broken.DeeperIsLarger: ("check_layers_and_directions",),
    broken.AnotherOperator: ("check_routes_agree", "check_tokens"),
    broken.FoldsABias: ("check_separate",),
    broken.SkipsTheQuantizer: ("check_quantizers_seen",),
    broken.IgnoresTheNormalizer: ("check_normalizers_seen",),
    broken.DoublesItsOutput: ("check_record_states", "check_layers_and_directions"),
    broken.HasAnIdleParameter: ("check_gradient", "check_storage_bytes"),
    broken.CutsItsState: ("check_derivative",),
    broken.WrongDerivative: ("check_derivative",),
    broken.StartsElsewhere: ("check_reset_parameters",),
    broken.ForgetsToSave: ("check_state_dict", "check_layers_and_directions"),
    broken.SharesItsState: ("check_deepcopy",),
    broken.HoldsALambda: ("check_pickle",),
    broken.CountsWeightsAlone: ("check_storage_bytes",),
}


def failures(family: Any) -> dict[str, str]:
    """Return reasons by name of check."""
    return {r.name: r.reason for r in run_checks(checks_of(family)) if r.status == "failed"}


@pytest.mark.parametrize("family", RIGHT, ids=lambda family: next(checks_of(family)).plugin)
def test_a_right_cell_passes(family: Any) -> None:
    assert failures(family) == {}


@pytest.mark.parametrize(
    ("family", "names"), BROKEN.items(), ids=[f"{f.__name__}-{names[0]}" for f, names in BROKEN.items()]
)
def test_a_mistake_is_caught_by_its_check(family: type[RecurrentLayer], names: tuple[str, ...]) -> None:
    assert sorted(failures(family)) == sorted(names)
