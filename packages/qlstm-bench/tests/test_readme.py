"""The README's example runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


def test_the_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(
        r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    exec(code, {"__name__": "readme"})
    status, bits, growth, directory = capsys.readouterr().out.splitlines()
    assert status == "completed"
    assert float(bits) < 1
    assert float(growth) > 0
    assert Path(directory).is_dir()
    assert directory.startswith("runs/char-lm-bwn-layer-")
