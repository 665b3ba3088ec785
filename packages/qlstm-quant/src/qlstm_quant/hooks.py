"""Registers the quantizers: the only file of this package that touches the plugin interface.

Factories are lazy, so that listing plugins imports none of them.
"""

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
