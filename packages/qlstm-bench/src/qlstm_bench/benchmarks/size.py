"""Bytes of a deployed layer."""

from __future__ import annotations

import tempfile
from pathlib import Path

from .choice import few_bits, normalizers, quantizers


class Layer:
    """The layer of the papers' character models: 50 symbols, 512 units."""

    params = (quantizers(), normalizers())
    param_names = ("quantizer", "normalizer")
    version = "1"

    def setup(self, quantizer: str, normalizer: str) -> None:
        """Make the layer."""
        from qlstm_core import LSTM

        self.layer = LSTM(50, 512, quantizer=quantizer, normalizer=normalizer)

    def track_bytes(self, quantizer: str, normalizer: str) -> int:
        """Return what ``storage_bytes`` counts."""
        return self.layer.storage_bytes()

    track_bytes.unit = "bytes"  # type: ignore[attr-defined]


class PackedFile:
    """The same layer in a file, normalised over features."""

    params = (few_bits(),)
    param_names = ("quantizer",)
    version = "1"

    def setup(self, quantizer: str) -> None:
        """Pack the layer; skip a commit that cannot."""
        import qlstm_core

        if not hasattr(qlstm_core, "pack"):
            raise NotImplementedError
        self.packed = qlstm_core.pack(qlstm_core.LSTM(50, 512, quantizer=quantizer, normalizer="layer"))
        if not hasattr(self.packed, "save"):
            raise NotImplementedError

    def track_bytes(self, quantizer: str) -> int:
        """Return the size of the file."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "network.safetensors")
            self.packed.save(path)
            return path.stat().st_size

    track_bytes.unit = "bytes"  # type: ignore[attr-defined]
