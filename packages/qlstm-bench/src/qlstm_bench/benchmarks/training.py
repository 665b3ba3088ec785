"""Seconds of a training step, forward and backward, of one layer."""

from __future__ import annotations

from .choice import FAMILIES, cells, few_bits, normalizers

SHAPES = ("100,64,50,128", "35,20,300,300")


class _Step:
    """A training step after everything is compiled."""

    version = "2"
    rounds = 2
    warmup_time = 0.3
    repeat = (5, 40, 1.5)

    def prepare(self, shape: str, kind: str, quantizer: str, normalizer: str) -> None:
        """Make layer and data, and do a step; asv asks for that before each sample, and gets it once."""
        if hasattr(self, "layer"):
            return
        import torch

        import qlstm_core

        torch.manual_seed(0)
        torch.set_num_threads(1)
        steps, batch, features, hidden = map(int, shape.split(","))
        if kind == "torch":
            self.layer: torch.nn.Module = torch.nn.LSTM(features, hidden)
        else:
            options = {"quantizer": quantizer, "normalizer": normalizer}
            if kind in FAMILIES:
                self.layer = getattr(qlstm_core, kind)(features, hidden, **options)
            elif hasattr(qlstm_core, "layer_by_name"):
                self.layer = qlstm_core.layer_by_name(kind, features, hidden, **options)
            else:
                raise NotImplementedError
        self.x = torch.randn(steps, batch, features)
        self.weight = torch.randn(steps, batch, hidden)
        self.step()

    def step(self) -> None:
        """Go forward and backward once."""
        for parameter in self.layer.parameters():
            parameter.grad = None
        y, _ = self.layer(self.x)
        y.backward(self.weight)


class Normalizers(_Step):
    """Each normaliser on full precision, beside torch's own layer."""

    params = (SHAPES, ("torch", *normalizers()))
    param_names = ("steps,batch,input,hidden", "normalizer")

    def setup(self, shape: str, normalizer: str) -> None:
        """Prepare the step."""
        kind = "torch" if normalizer == "torch" else "LSTM"
        self.prepare(shape, kind, "none", normalizer)

    def time_step(self, shape: str, normalizer: str) -> None:
        """Time it."""
        self.step()


class Quantizers(_Step):
    """Each quantizer below layer normalisation."""

    params = (few_bits(),)
    param_names = ("quantizer",)

    def setup(self, quantizer: str) -> None:
        """Prepare the step."""
        self.prepare(SHAPES[1], "LSTM", quantizer, "layer")

    def time_step(self, quantizer: str) -> None:
        """Time it."""
        self.step()


class Cells(_Step):
    """Each family of cells, of 1 bit below layer normalisation."""

    params = (cells(),)
    param_names = ("cell",)

    def setup(self, cell: str) -> None:
        """Prepare the step."""
        self.prepare(SHAPES[1], cell, "bwn", "layer")

    def time_step(self, cell: str) -> None:
        """Time it."""
        self.step()
