"""Each mistake is caught by the check that is meant for it, and what passes every check stays possible."""

from __future__ import annotations

import broken_normalizers as norms
import broken_quantizers as quantizers
import pytest
import right_plugins as right

from qlstm_core import Normalizer, Quantizer
from qlstm_core.testing import checks_of, run_checks

RIGHT = (
    right.ScaledSign,
    right.LearnedSign,
    right.RandomSign,
    right.RowSign,
    right.WeightedSign,
    right.FeatureNorm,
    right.BatchNorm,
    right.UnitRows,
)

# The check that is meant for the mistake first; then those that it cannot but fail too.
BROKEN: dict[type[Quantizer | Normalizer], tuple[str, ...]] = {
    quantizers.FractionalBits: ("check_declarations",),
    quantizers.AlwaysFloat32: ("check_shape_dtype_device",),
    quantizers.DividesByZero: ("check_finite_values",),
    quantizers.TakesTheMaximum: ("check_empty",),
    quantizers.NeedsContiguous: ("check_non_contiguous",),
    quantizers.ClipsItsInput: ("check_input_unchanged",),
    quantizers.SamplesInEval: ("check_eval_deterministic",),
    quantizers.CountsInEval: ("check_eval_keeps_state",),
    quantizers.OwnRandomness: (
        "check_training_reproducible",
        "check_gates_independent",
        "check_quantizer_in_layer",
    ),
    quantizers.MixesGates: ("check_gates_independent",),
    quantizers.MixesRows: ("check_rows_independent",),
    quantizers.CutsTheGradient: ("check_gradient",),
    quantizers.LosesItsParameter: ("check_gradient",),
    quantizers.ClipsTheGradient: ("check_straight_through",),
    quantizers.NotOnMeta: ("check_prepare", "check_quantizer_in_layer"),
    quantizers.PlainTensor: ("check_prepare",),
    quantizers.ForgetsToSave: ("check_state_dict",),
    quantizers.SharesItsState: ("check_deepcopy",),
    quantizers.HoldsALambda: ("check_pickle",),
    quantizers.RoundsTheGradientAway: ("check_level_count", "check_bitplanes"),
    quantizers.ForgetsPerRow: ("check_level_count",),
    quantizers.GivesZeros: ("check_no_zero_from_one_bit", "check_bitplanes"),
    quantizers.ShrinksTheWeight: ("check_constrain",),
    quantizers.IgnoresCurvature: ("check_curvature",),
    quantizers.StoresAnother: ("check_bitplanes",),
    quantizers.StoresDouble: ("check_bitplanes", "check_pack_round_trip"),
    quantizers.ForgetsItsScales: ("check_storage_bytes",),
    quantizers.KeepsItsResult: ("check_quantizer_in_layer",),
    quantizers.DropsARow: ("check_shape_dtype_device",),
    quantizers.Transposes: ("check_shape_dtype_device",),
    quantizers.GivesOneNumber: ("check_shape_dtype_device",),
    quantizers.GivesAnArray: ("check_shape_dtype_device",),
    quantizers.GoesToMeta: ("check_shape_dtype_device",),
    quantizers.ShapesWeightsInConstrain: ("check_constrain",),
    quantizers.StoresAnotherShape: ("check_bitplanes", "check_pack_round_trip", "check_packed_matmul"),
    quantizers.LeavesOut: ("check_constrain", "check_quantizer_in_layer"),
    quantizers.Exits: ("check_constrain", "check_quantizer_in_layer"),
    norms.DropsARow: ("check_shape_dtype_device",),
    norms.GivesOneNumber: ("check_shape_dtype_device",),
    norms.DropsSequencesLater: ("check_any_step", "check_normalizer_in_layer"),
    norms.GainOfOneGate: ("check_declarations",),
    norms.CellIsANumber: ("check_declarations",),
    norms.Stretches: ("check_scale_invariance",),
    norms.AddsEpsToTheDeviation: ("check_statistics",),
    norms.MixesGates: ("check_gates_independent",),
    norms.MixesSequences: ("check_sequences_independent",),
    norms.ShortTable: ("check_any_step",),
    norms.UpdatesInEval: (
        "check_eval_keeps_state",
        "check_eval_deterministic",
        "check_prepare",
        "check_derivative",
    ),
    norms.BiasedRunningVariance: ("check_running_statistics",),
    norms.CountsItsGainAlone: ("check_storage_bytes",),
    norms.WrongDerivative: ("check_derivative",),
    norms.KnowsOneBatchSize: ("check_normalizer_in_layer",),
    norms.NoCellPath: ("check_cell_path", "check_normalizer_in_layer"),
    norms.NoGainOnMeta: ("check_prepare", "check_normalizer_in_layer"),
}


def failures(plugin: Quantizer | Normalizer) -> dict[str, str]:
    """Return reasons by name of check."""
    return {r.name: r.reason for r in run_checks(checks_of(plugin)) if r.status == "failed"}


@pytest.mark.parametrize("plugin", RIGHT, ids=lambda plugin: plugin.__name__)
def test_a_right_plugin_passes(plugin: type[Quantizer | Normalizer]) -> None:
    assert failures(plugin()) == {}


@pytest.mark.parametrize(
    ("plugin", "names"), BROKEN.items(), ids=[f"{p.__name__}-{names[0]}" for p, names in BROKEN.items()]
)
def test_a_mistake_is_caught_by_its_check(
    plugin: type[Quantizer | Normalizer], names: tuple[str, ...]
) -> None:
    assert sorted(failures(plugin())) == sorted(names)


def test_a_wrong_kernel_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products that are an eighth of a percent too small."""
    from qlstm_core.packed.kernels import matmul

    right_product = matmul.matmul
    monkeypatch.setattr(
        matmul, "matmul", lambda *given, **options: 0.99875 * right_product(*given, **options)
    )
    assert list(failures(right.ScaledSign())) == ["check_packed_matmul"]
