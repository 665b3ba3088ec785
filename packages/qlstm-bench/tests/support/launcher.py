"""Trains one run again and again and kills it in between; prints what is found as JSON.

A process of its own, which imports once and forks a child for each attempt: so a kill costs little. It never
trains itself, as PyTorch's threads do not outlive a fork.

    python launcher.py SETTINGS.json OUT KILLS
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from qlstm_bench.training.folder import Run
from qlstm_bench.training.run import train

torch.set_num_threads(1)


def fork(settings: dict[str, Any], out: Path, prepare: Callable[[], None]) -> int:
    """Train in a child; return its process number."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            prepare()
            train(settings, out)
            code = 0
        finally:
            os._exit(code)
    return child


def as_it_is(_: int) -> Callable[[], None]:
    """Return what changes nothing."""
    return lambda: None


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at_replacement(countdown: int) -> Callable[[], None]:
    """Return what makes a process die when it is about to put its n-th file in place."""

    def prepare() -> None:
        replace, left = os.replace, [countdown]

        def replace_or_die(source: Any, target: Any) -> None:
            left[0] -= 1
            if left[0] == 0:
                die()
            replace(source, target)

        os.replace = replace_or_die  # type: ignore[assignment]

    return prepare


def in_a_line(countdown: int) -> Callable[[], None]:
    """Return what makes a process die half-way through its n-th line of metrics."""

    def prepare() -> None:
        log, left = Run.log, [countdown]

        def log_or_die(run: Run, row: Any) -> None:
            left[0] -= 1
            if left[0] == 0:
                with (run.directory / "metrics.jsonl").open("ab") as file:
                    file.write(b'{"step":1,"train_b')
                    file.flush()
                    die()
            log(run, row)

        Run.log = log_or_die  # type: ignore[method-assign]

    return prepare


def finish(settings: dict[str, Any], out: Path) -> float:
    """Train to the end; return the seconds that it took."""
    began = time.monotonic()
    _, status = os.waitpid(fork(settings, out, as_it_is(0)), 0)
    assert status == 0
    return time.monotonic() - began


def look(out: Path) -> dict[str, Any] | None:
    """Read everything that a killed run left; ``None`` where it had not begun."""
    directories = list(out.glob("*/config.yaml"))
    if not directories:
        return None
    run = Run.read(directories[0].parent)
    rows, result, checkpoint = run.metrics(), run.result(), run.load_checkpoint()
    return {
        "steps": [int(row["step"]) for row in rows],
        "checkpoint": checkpoint["step"] if checkpoint else 0,
        "result": result.status if result else None,
    }


def main() -> None:
    settings = json.loads(Path(sys.argv[1]).read_text())
    out, kills = Path(sys.argv[2]), int(sys.argv[3])
    choose = random.Random(0)
    finish(settings, out / "warm-up")
    duration = finish(settings, out / "whole")
    seen: list[dict[str, Any]] = []
    folder = 0
    while len(seen) < kills:
        target = out / f"killed-{folder}"
        kind = choose.choice(("timer", "timer", "replacement", "line"))
        traps = {"timer": as_it_is, "replacement": at_replacement, "line": in_a_line}
        child = fork(settings, target, traps[kind](choose.randrange(1, 30)))
        if kind == "timer":
            time.sleep(choose.uniform(0, duration))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            seen.append({"kind": kind, "folder": folder, "left": look(target)})
        else:
            assert status == 0
            folder += 1
    finish(settings, out / f"killed-{folder}")
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
