"""What a report shows of gradients that were recorded during training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qlstm_bench.gradients.study.figures import CAPTIONS
from qlstm_bench.report import collect, write_html
from qlstm_bench.training.run import train


def test_report_shows_what_was_recorded(tiny: dict[str, Any]) -> None:
    train({**tiny, "quantizer": "binary-connect", "normalizer": "layer", "gradients_every": 4}, Path("runs"))
    train({**tiny, "quantizer": "twn"}, Path("runs"))
    records, _ = collect([Path("runs")])
    write_html(records, Path("report.html"))
    page = Path("report.html").read_text(encoding="utf-8")
    assert "Gradient stability during training" in page
    for caption in CAPTIONS.values():
        assert caption.split("‖")[0].replace("'", "&#39;") in page
    for label in ("λ₁, median over steps (log scale)", "gain, mean |g|", "spectral norm of W_h (log scale)"):
        assert label in page


def test_report_without_recordings_says_nothing_of_them(tiny: dict[str, Any]) -> None:
    train(tiny, Path("runs"))
    records, _ = collect([Path("runs")])
    write_html(records, Path("report.html"))
    assert "Gradient stability" not in Path("report.html").read_text(encoding="utf-8")
