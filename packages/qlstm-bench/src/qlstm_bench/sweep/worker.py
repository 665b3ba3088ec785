"""What a worker process does in a sweep: train one run, tell how far it is, stop when asked to."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distributed import get_worker

from qlstm_bench.errors import RunBusyError
from qlstm_bench.training.run import Outcome, train

_INTERVAL_S = 0.5
_BUSY_S = 2.0
_stopped: set[str] = set()  # sweeps that were interrupted


class _Stop(BaseException):
    """Ends a training without a result; no Exception, so that the run is not recorded as failed."""


def stop(sweep: str) -> None:
    """End every training of a sweep in this process after its current step."""
    _stopped.add(sweep)


def train_one(settings: Mapping[str, Any], out: Path, force: bool, sweep: str, number: int) -> Outcome | None:
    """Train a run to its end; wait where another process trains it.

    Args:
        settings: settings of the run.
        out: folder of the runs.
        force: train again what has finished.
        sweep: topic of the events that tell how far the run is.
        number: number of the run in its sweep.

    Returns:
        what became of it, or ``None`` where the sweep was stopped.
    """
    import torch

    torch.set_num_threads(1)
    worker = get_worker()
    told: float | None = None

    def tell(step: int, steps: int, figures: Mapping[str, float]) -> None:
        nonlocal told
        if sweep in _stopped:
            raise _Stop
        if told is None or time.monotonic() - told >= _INTERVAL_S or step == steps:
            told = time.monotonic() if step else None  # the first step is told in any case
            message = {"run": number, "worker": worker.address, "step": step, "steps": steps}
            worker.log_event(sweep, message | {"figures": dict(figures)})

    tell(0, 0, {})
    try:
        while True:
            try:
                return train(settings, out, force=force, listen=tell)
            except RunBusyError:
                # Another sweep, or a worker that the scheduler has lost sight of: its result will do.
                time.sleep(_BUSY_S)
                tell(0, 0, {})
    except _Stop:
        return None
