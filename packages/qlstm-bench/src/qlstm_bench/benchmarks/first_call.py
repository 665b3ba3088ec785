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

CALLS = {"training": TRAINING, "packed": PACKED}

MEASURE = """
import time, torch, qlstm_core
torch.set_num_threads(1)
{prepare}
start = time.perf_counter()
call()
print(time.perf_counter() - start)
"""


def _run(call: str, folder: str) -> float:
    done = subprocess.run(
        [sys.executable, "-c", MEASURE.format(prepare=CALLS[call])],
        env={**os.environ, "NUMBA_CACHE_DIR": folder},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


Figures = dict[tuple[str, str], float]


class FirstCall:
    """A first training step on the fused route; a first packed sequence. Each in a process of its own."""

    params = (tuple(CALLS), ("cold", "cached"))
    param_names = ("call", "cache on disk")
    version = "2"

    def setup_cache(self) -> Figures:
        """Measure each call with an empty cache, then three times with the one that it has filled."""
        import qlstm_core

        figures: Figures = {}
        for call in CALLS:
            if call == "packed" and not hasattr(qlstm_core, "pack"):
                continue
            with tempfile.TemporaryDirectory() as folder:
                figures[call, "cold"] = _run(call, folder)
                figures[call, "cached"] = min(_run(call, folder) for _ in range(3))
        return figures

    setup_cache.timeout = 600  # type: ignore[attr-defined]

    def setup(self, figures: Figures, call: str, cache: str) -> None:
        """Skip what the commit cannot do."""
        if (call, cache) not in figures:
            raise NotImplementedError

    def track_seconds(self, figures: Figures, call: str, cache: str) -> float:
        """Return the duration of the first call."""
        return figures[call, cache]

    track_seconds.unit = "s"  # type: ignore[attr-defined]
