"""Registers the quantizers: the only file of this package that touches the plugin interface."""

from __future__ import annotations

from collections.abc import Iterable

from qlstm_core.plugins import QuantizerSpec, hookimpl


@hookimpl
def qlstm_quantizers() -> Iterable[QuantizerSpec]:
    """Provide the quantizers of the literature."""
    yield QuantizerSpec(
        name="binary-connect",
        summary="1 bit: sign(w), or stochastic",
        factory="qlstm_quant.binary:BinaryConnect",
        references=("Courbariaux et al. 2015, arXiv:1511.00363",),
    )
    yield QuantizerSpec(
        name="ter-connect",
        summary="2 bits: −1, 0, +1 with threshold 0.7·mean|w|, or stochastic",
        factory="qlstm_quant.ternary:TerConnect",
        references=("Lin et al. 2016, arXiv:1510.03009", "Li et al. 2016, arXiv:1605.04711"),
    )
    yield QuantizerSpec(
        name="bwn",
        summary="1 bit: sign(w) times mean|w|",
        factory="qlstm_quant.binary:BWN",
        references=("Rastegari et al. 2016, arXiv:1603.05279",),
    )
    yield QuantizerSpec(
        name="twn",
        summary="2 bits: −α, 0, +α with threshold 0.7·mean|w|",
        factory="qlstm_quant.ternary:TWN",
        references=("Li et al. 2016, arXiv:1605.04711",),
    )
    yield QuantizerSpec(
        name="lab",
        summary="1 bit: sign(w) times the mean of |w| weighted by curvature",
        factory="qlstm_quant.loss_aware:LAB",
        references=("Hou et al. 2017, arXiv:1611.01600",),
    )
    yield QuantizerSpec(
        name="lat",
        summary="2 bits: −α, 0, +α nearest to w in curvature-weighted distance",
        factory="qlstm_quant.loss_aware:LAT",
        references=("Hou, Kwok 2018, arXiv:1802.08635",),
    )
    yield QuantizerSpec(
        name="alternating",
        summary="1 to 4 bits: sums of scaled signs, fitted by alternating least squares",
        factory="qlstm_quant.multibit:Alternating",
        references=("Xu et al. 2018, arXiv:1802.00150",),
    )
    yield QuantizerSpec(
        name="sbn",
        summary="1 bit: ±W0, sampled while training, W0 fixed by the layer's size",
        factory="qlstm_quant.binary:SBN",
        references=("Ardakani et al. 2019, arXiv:1809.11086",),
    )
    yield QuantizerSpec(
        name="stn",
        summary="2 bits: −W0, 0, +W0, sampled while training, W0 fixed by the layer's size",
        factory="qlstm_quant.ternary:STN",
        references=("Ardakani et al. 2019, arXiv:1809.11086",),
    )
    yield QuantizerSpec(
        name="uniform",
        summary="2 to 8 bits: evenly spaced levels that span the weights",
        factory="qlstm_quant.uniform:Uniform",
        references=("Jacob et al. 2018, arXiv:1712.05877",),
    )
    yield QuantizerSpec(
        name="lsq",
        summary="2 to 8 bits: evenly spaced levels with a learned step",
        factory="qlstm_quant.uniform:LSQ",
        references=("Esser et al. 2020, arXiv:1902.08153",),
    )
    yield QuantizerSpec(
        name="absmean",
        summary="2 bits: round(w / mean|w|) clipped to ±1, times mean|w|, as BitNet b1.58",
        factory="qlstm_quant.ternary:AbsMean",
        references=("Ma et al. 2024, arXiv:2402.17764",),
    )
