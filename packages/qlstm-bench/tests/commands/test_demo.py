"""The demonstration, at a size that shows nothing but that it works."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from qlstm_bench.commands import demo
from qlstm_bench.errors import RunError
from qlstm_bench.report import collect


def test_the_demo_trains_a_grid_survives_a_failure_and_reuses_what_has_finished(
    tiny: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "QUANTIZERS", ("none", "binary-connect"))
    monkeypatch.setattr(demo, "NORMALIZERS", ("layer", "none", "lyer"))
    settings = {**tiny, "steps": 2, "eval_every": 1}
    out = tmp_path / "demo"
    written = []
    for cores in (2, 1):
        monkeypatch.setattr("qlstm_bench.sweep.cluster.cores", lambda cores=cores: cores)
        with pytest.raises(RunError, match=r"2 of 6 runs failed: .*none, lyer: .*did you mean 'layer'"):
            demo.show(out, settings=settings)
        captured = capsys.readouterr()
        assert captured.err.count(" bits per character in validation") == 4
        assert captured.err.count("finished before; ") == (4 if written else 0)
        assert captured.err.count("failed: unknown normalizer 'lyer'") == 2
        records, problems = collect([out / "runs"])
        assert problems == []
        names = [(record.result.quantizer, record.result.normalizer) for record in records]
        assert names == [
            ("none", "none"), ("none", "layer"), ("binary-connect", "none"), ("binary-connect", "layer"),
        ]  # fmt: skip
        for quantizer, normalizer in names:
            assert re.search(rf"^{quantizer} +{normalizer} ", captured.out, re.MULTILINE)
        assert "\n4 runs in " in captured.out
        assert "weights: binary-connect" in (out / "report.html").read_text(encoding="utf-8")
        assert (out / "demo.png").read_bytes().startswith(b"\x89PNG")
        written.append([(record.run.directory / "result.json").stat().st_mtime_ns for record in records])
    assert written[0] == written[1]
