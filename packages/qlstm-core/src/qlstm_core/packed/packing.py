"""From a trained layer or model, or from a file, to what runs packed."""

from __future__ import annotations

from typing import overload

from torch import nn

from qlstm_core.layers import RecurrentLayer
from qlstm_core.packed import file_format
from qlstm_core.packed.from_layer import extract
from qlstm_core.packed.from_model import chain_of
from qlstm_core.packed.layer import PackedLayer, packed_layer
from qlstm_core.packed.model import PackedModel
from qlstm_core.packed.network import Network
from qlstm_core.packed.vocabulary import Vocabulary


@overload
def pack(  # type: ignore[overload-overlap]
    layer: RecurrentLayer, activation_bits: int | None = None
) -> PackedLayer: ...
@overload
def pack(
    layer: nn.Module, activation_bits: int | None = None, *, vocabulary: Vocabulary | None = None
) -> PackedModel: ...
def pack(
    layer: nn.Module, activation_bits: int | None = None, *, vocabulary: Vocabulary | None = None
) -> PackedLayer | PackedModel:
    """Pack a trained layer or a whole model: what it computes in ``eval()``, with quantized weights as bits.

    Normalisers are folded in; the layer or model stays as it is.

    Example::

        packed = pack(LSTM(50, 512, quantizer="bwn", normalizer="layer"))
        y, state = packed(torch.randn(100, 1, 50))

    A model is a ``nn.Sequential``, or says what it consists of by a method ``packed_stages()``, which returns
    the modules that its ``forward`` applies, one after the other: an Embedding or none, InitialState, one or
    several recurrent layers, Linear, Softmax or none; dropout is passed over, and what has no quantizer stays
    float32::

        class Characters(nn.Module):
            ...

            def packed_stages(self):
                return [self.recurrent, self.dropout, self.output]


        packed = pack(Characters(), vocabulary=Vocabulary("abc "))
        tokens = packed.generate(packed.vocabulary.encode("a"), 100, temperature=0.8)

    Args:
        layer: an LSTM, GRU, FactorizedLSTM or GroupedLSTM with at least one quantized weight, or a model.
        activation_bits: bits of a table entry: 8 is fastest, 16 most precise; default: 12, or 16
            where a normaliser computes moments of the features. What suffices depends on the input, which is
            not known here: the first call warns where one feature outweighs all others, and
            :meth:`PackedLayer.rounding_error` measures.
        vocabulary: what the tokens of a model stand for; saved with it.

    Returns:
        A :class:`qlstm_core.PackedLSTM` or a :class:`qlstm_core.PackedGRU` of a layer, a
        :class:`PackedModel` of a model.

    Raises:
        TypeError: neither such a layer nor such a model; a stage of a kind that cannot be packed, by name.
        ValueError: a quantizer or normaliser that cannot be packed, naming it and what can; weights that are
            not finite; stages or a vocabulary that do not fit; nothing quantized or nothing recurrent;
            another ``activation_bits``.
    """
    if isinstance(layer, RecurrentLayer):
        if vocabulary is not None:
            raise TypeError("a vocabulary belongs to a whole model, not to a recurrent layer alone")
        return packed_layer(extract(layer), activation_bits)
    if not isinstance(layer, nn.Module):
        raise TypeError(f"pack takes an LSTM, GRU or another module, got {type(layer).__name__}")
    return PackedModel(chain_of(layer, vocabulary), activation_bits)


def load_packed(file: file_format.Target, activation_bits: int | None = None) -> PackedLayer | PackedModel:
    """Read a packed layer of either cell, or a packed model; nothing in the file is executed.

    Args:
        file: a path, or a binary file that is open for reading.
        activation_bits: 8, 12 or 16; default: as saved.

    Raises:
        PackedFileError: a file that is truncated, altered, of a later version or inconsistent.
        OSError: a file that cannot be read.
    """
    content, saved = file_format.load(file)
    bits = saved if activation_bits is None else activation_bits
    return packed_layer(content, bits) if isinstance(content, Network) else PackedModel(content, bits)
