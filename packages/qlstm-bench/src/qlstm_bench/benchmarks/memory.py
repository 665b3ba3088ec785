"""Peak memory of a process that trains one layer."""

from __future__ import annotations

from .choice import normalizers
from .training import _Step


class Training(_Step):
    """A training step at the size of the papers' character models; torch's own layer beside."""

    params = (("torch", *normalizers()),)
    param_names = ("normalizer",)
    version = "2"

    def setup(self, normalizer: str) -> None:
        """Prepare the step."""
        kind = "torch" if normalizer == "torch" else "LSTM"
        self.prepare("100,64,50,512", kind, "none", normalizer)

    def peakmem_step(self, normalizer: str) -> None:
        """Do one step."""
        self.step()
