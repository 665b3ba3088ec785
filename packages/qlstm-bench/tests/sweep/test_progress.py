"""What a sweep shows of itself."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from qlstm_bench.sweep.progress import Board


def told(run: int, step: int, worker: str = "a", **figures: float) -> dict[str, Any]:
    return {"run": run, "worker": worker, "step": step, "steps": 20, "figures": figures}


def test_without_a_terminal_a_line_is_written_when_something_happens() -> None:
    output = io.StringIO()
    with Board(["none, none", "bwn, layer"], Console(file=output)) as board:
        board.follow(told(1, 5))
        board.follow(told(1, 10, valid_bpc=2.5))
        board.follow(told(1, 10, worker="b"))
        board.end(1, "completed; 2.500 bits per character")
        board.follow(told(1, 20, worker="c"))  # late news of a run that has ended
        board.end(0, "failed: [Errno 28] No space")
    assert output.getvalue().splitlines() == [
        "bwn, layer: its worker died; it goes on from its checkpoint",
        "[1/2] bwn, layer: completed; 2.500 bits per character",
        "[2/2] none, none: failed: [Errno 28] No space",
    ]


def test_a_terminal_shows_a_table_that_fits() -> None:
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=100, height=12, legacy_windows=False)
    labels = [f"run {number}" for number in range(40)]
    board = Board(labels, console)
    for number in range(30):
        board.follow(told(number, 3))
        board.end(number, "learnt nothing; fine" if number % 2 else f"diverged at step {number}; no")
    board.follow(told(31, 7, valid_bpc=2.25))
    console.print(board.render())
    text = output.getvalue()
    assert len(text.splitlines()) <= 12
    assert "valid bpc 2.250" in text
    assert "7/20" in text
    assert text.index("run 31") < text.index("run 29")
    assert "30 of 40 ended: 15 diverged, 15 learnt nothing; 1 running, 9 waiting" in text
