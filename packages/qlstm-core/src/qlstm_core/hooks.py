"""The core's own plugin: full precision and no normalisation, registered like anyone else's."""

from __future__ import annotations

from collections.abc import Iterable

from qlstm_core.interfaces import NoNormalizer, NoQuantizer
from qlstm_core.plugins import NormalizerSpec, QuantizerSpec, hookimpl


@hookimpl
def qlstm_quantizers() -> Iterable[QuantizerSpec]:
    """Provide ``none``."""
    yield QuantizerSpec(name="none", summary="full precision", factory=NoQuantizer)


@hookimpl
def qlstm_normalizers() -> Iterable[NormalizerSpec]:
    """Provide ``none``."""
    yield NormalizerSpec(name="none", summary="no normalisation", factory=NoNormalizer)
