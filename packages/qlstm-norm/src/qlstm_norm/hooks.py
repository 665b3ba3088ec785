"""What this package provides to qlstm; the only file that knows of pluggy."""

from __future__ import annotations

from collections.abc import Iterable

from qlstm_core.plugins import NormalizerSpec, hookimpl


@hookimpl
def qlstm_normalizers() -> Iterable[NormalizerSpec]:
    """Provide weight, layer, rms and batch normalisation."""
    yield NormalizerSpec(
        name="weight",
        summary="weight normalisation: rows of the quantized weight scaled to a learned length",
        factory="qlstm_norm.weight:WeightNorm",
        references=("Salimans and Kingma 2016, arXiv:1602.07868",),
    )
    yield NormalizerSpec(
        name="layer",
        summary="layer normalisation of each gate over its features",
        factory="qlstm_norm.layer:LayerNorm",
        references=("Ba, Kiros and Hinton 2016, arXiv:1607.06450",),
    )
    yield NormalizerSpec(
        name="rms",
        summary="root-mean-square normalisation of each gate over its features",
        factory="qlstm_norm.rms:RMSNorm",
        references=("Zhang and Sennrich 2019, arXiv:1910.07467",),
    )
    yield NormalizerSpec(
        name="batch-shared",
        summary="batch normalisation, running statistics shared by all time steps",
        factory="qlstm_norm.batch:BatchShared",
        references=("Hou et al. 2019, NeurIPS",),
    )
    yield NormalizerSpec(
        name="batch-separate",
        summary="batch normalisation, running statistics for each time step up to max_steps",
        factory="qlstm_norm.batch:BatchSeparate",
        references=("Cooijmans et al. 2017, arXiv:1603.09025",),
    )
