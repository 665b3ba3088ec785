"""Seconds of a process's first call, which compiles or finds compiled code on disk."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

TRAINING = """
layer = qlstm_core.LSTM(16, 32, quantizer="bwn", normalizer="layer")
def call():
    layer(torch.randn(5, 4, 16))[0].sum().backward()
"""

PACKED = """
packed = qlstm_core.pack(qlstm_core.LSTM(16, 32, quantizer="bwn", normalizer="layer"))
def call():
    packed(torch.randn(5, 1, 16))
"""

MEASURE = """
import time, torch, qlstm_core
torch.set_num_threads(1)
{prepare}
start = time.perf_counter()
call()
print(time.perf_counter() - start)
"""


class FirstCall:
    """A first training step on the fused path; a first packed sequence."""

    params = (("training", "packed"), ("cold", "cached"))
    param_names = ("call", "cache on disk")
    version = "1"
    timeout = 600

    def setup(self, call: str, cache: str) -> None:
        """Skip a commit that cannot pack; fill the cache where it is to be found full."""
        import qlstm_core

        if call == "packed" and not hasattr(qlstm_core, "pack"):
            raise NotImplementedError
        self.code = MEASURE.format(prepare={"training": TRAINING, "packed": PACKED}[call])
        self.folder = tempfile.TemporaryDirectory()
        if cache == "cached":
            self._run()

    def teardown(self, call: str, cache: str) -> None:
        """Remove the cache."""
        self.folder.cleanup()

    def track_seconds(self, call: str, cache: str) -> float:
        """Return the duration of the first call in a process of its own."""
        return self._run()

    track_seconds.unit = "s"  # type: ignore[attr-defined]

    def _run(self) -> float:
        done = subprocess.run(
            [sys.executable, "-c", self.code],
            env={**os.environ, "NUMBA_CACHE_DIR": self.folder.name},
            capture_output=True,
            text=True,
            check=True,
        )
        return float(done.stdout)
