"""Seconds of running, packing and loading a network of few-bit weights, on one thread."""

from __future__ import annotations

import tempfile
from pathlib import Path

from .choice import few_bits

ACTIVATION_BITS = (8, 12, 16)
STEPS = 100


class _Packed:
    """A packed LSTM whose input is as wide as its state."""

    version = "2"
    rounds = 2
    warmup_time = 0.2
    repeat = (5, 40, 1.0)

    def pack(self, quantizer: str, hidden: int, batch: int, bits: int, normalizer: str = "layer") -> None:
        """Pack it, and run it once; asv asks for that before each sample, and gets it once."""
        if hasattr(self, "packed"):
            return
        import numpy as np
        import torch

        import qlstm_core

        if not hasattr(qlstm_core, "pack"):
            raise NotImplementedError
        torch.manual_seed(0)
        torch.set_num_threads(1)
        self.layer = qlstm_core.LSTM(hidden, hidden, quantizer=quantizer, normalizer=normalizer).eval()
        self.packed = qlstm_core.pack(self.layer, activation_bits=bits)
        self.x = np.random.default_rng(0).standard_normal((STEPS, batch, hidden), np.float32)
        self.packed(self.x[:2])

    def need(self, method: str) -> None:
        """Skip a commit whose packed networks cannot do this yet."""
        if not hasattr(self.packed, method):
            raise NotImplementedError


class Sequences(_Packed):
    """100 steps in one call."""

    params = ((256, 512), (1, 16), ACTIVATION_BITS)
    param_names = ("hidden", "batch", "activation bits")

    def setup(self, hidden: int, batch: int, bits: int) -> None:
        """Pack the network."""
        self.pack("bwn", hidden, batch, bits)

    def time_sequence(self, hidden: int, batch: int, bits: int) -> None:
        """Time the call."""
        self.packed(self.x)


class Quantizers(_Packed):
    """100 steps in one call, for each quantizer with few bits."""

    params = (few_bits(),)
    param_names = ("quantizer",)

    def setup(self, quantizer: str) -> None:
        """Pack the network."""
        self.pack(quantizer, 512, 1, 12)

    def time_sequence(self, quantizer: str) -> None:
        """Time the call."""
        self.packed(self.x)


class Streaming(_Packed):
    """100 steps, each in a call of its own."""

    params = (ACTIVATION_BITS,)
    param_names = ("activation bits",)

    def setup(self, bits: int) -> None:
        """Begin a stream."""
        self.pack("bwn", 512, 1, bits)
        self.need("step")
        _, self.state = self.packed.step(self.x[0])

    def time_steps(self, bits: int) -> None:
        """Time the calls."""
        state = self.state
        for x in self.x:
            _, state = self.packed.step(x, state)


class Packing(_Packed):
    """A trained layer becomes bits."""

    def setup(self) -> None:
        """Make the layer."""
        self.pack("bwn", 512, 1, 12)

    def time_pack(self) -> None:
        """Time packing."""
        from qlstm_core import pack

        pack(self.layer)


class Loading(_Packed):
    """A file becomes a network."""

    def setup(self) -> None:
        """Save a network."""
        self.pack("bwn", 512, 1, 12)
        self.need("save")
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name, "network.safetensors")
        self.packed.save(self.path)

    def teardown(self) -> None:
        """Remove the file."""
        if hasattr(self, "folder"):
            self.folder.cleanup()

    def time_load(self) -> None:
        """Time loading."""
        from qlstm_core import PackedLSTM

        PackedLSTM.load(self.path)
