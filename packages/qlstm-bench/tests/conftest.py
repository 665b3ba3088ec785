"""What several tests need: a small text, an empty world around it, and tiny settings."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent / "support"))

WORDS = "the gate of a cell opens when its sum is large and closes when it is small\n"


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Keep the user's data, cache and folders out of the tests, and one thread."""
    for name in ("QLSTM_DATA", "QLSTM_DATA_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("QLSTM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    """A text of 6000 characters whose words come in random order."""
    choose = random.Random(0)
    words = WORDS.split()
    path = tmp_path / "words.txt"
    path.write_text(" ".join(choose.choice(words) for _ in range(3000))[:6000], encoding="utf-8")
    return path


@pytest.fixture
def tiny(text_file: Path) -> dict[str, Any]:
    """Settings of a run of two seconds at most."""
    return {
        "data": str(text_file),
        "hidden": 8,
        "batch": 4,
        "unroll": 10,
        "steps": 12,
        "log_every": 1,
        "eval_every": 4,
        "device": "cpu",
        "lr": 0.01,
    }
