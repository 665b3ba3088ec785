"""The report in a browser: a quiet console, pictures, tables that sort; on a phone and in print."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from qlstm_bench.config import RunConfig
from qlstm_bench.report import collect, write_html
from qlstm_bench.training.folder import Run
from qlstm_bench.training.result import DatasetRecord, Result

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")

# Put behind the page: clicks on headings, and notes what is then seen.
PROBE = """
<script>
const table = document.querySelector("table.sortable");
const names = [...table.tHead.rows[0].cells].map(cell => cell.textContent);
const values = name => [...table.tBodies[0].rows].map(row => row.cells[names.indexOf(name)].textContent);
const click = name => table.tHead.rows[0].cells[names.indexOf(name)].querySelector("button").click();
const seen = {errors: window.problems, window: window.innerWidth};
seen.width = document.documentElement.scrollWidth;
for (const name of ["test", "KB", "growth", "quantizer"]) {
  click(name); seen[name + " up"] = values(name);
  click(name); seen[name + " down"] = values(name);
}
const area = box => box.width * box.height;
seen.pictures = [...document.querySelectorAll("svg")].map(svg => area(svg.getBoundingClientRect()));
seen.curves = document.querySelectorAll("svg path").length;
document.title = "seen:" + JSON.stringify(seen);
</script>
"""
CATCH = (
    "<script>window.problems = []; addEventListener('error', e => problems.push(String(e.message)));</script>"
)


def look(page: Path, width: int) -> tuple[dict[str, Any], str]:
    """Return what the probe noted in a window of that width, and what the browser said."""
    probed = page.with_name(f"probed-{width}.html")
    text = page.read_text(encoding="utf-8")
    probed.write_text(
        text.replace("<head>", f"<head>{CATCH}").replace("</body>", f"{PROBE}</body>"), encoding="utf-8"
    )
    command = [
        str(BROWSER), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--enable-logging=stderr", f"--user-data-dir={page.parent / 'profile'}", f"--window-size={width},800",
        "--virtual-time-budget=2000", "--dump-dom", probed.as_uri(),
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    title = re.search(r"<title>seen:(.*?)</title>", result.stdout, re.DOTALL)
    assert title, result.stderr
    return json.loads(title[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")), result.stderr


@pytest.fixture
def page(tmp_path: Path) -> Path:
    runs = [
        ("none", 2.25, 1024.0, 1e-3), ("twn", 2.5, 64.0, 3.25e22), ("bwn", 10.0, 32.0, float("inf")),
        ("lab", None, 33.0, float("nan")),
    ]  # fmt: skip
    for quantizer, test, size, growth in runs:
        config = RunConfig.build(
            {
                "data": "toy",
                "hidden": 2,
                "batch": 2,
                "lr": 0.1,
                "clip": 5.0,
                "steps": 20,
                "quantizer": quantizer,
            }
        )
        run = Run.of(tmp_path / "runs", config, quantizer)
        run.directory.mkdir(parents=True)
        run.start()
        metrics = {"baseline_bpc": 4.0, "gradient_growth": growth}
        metrics |= {} if test is None else {"valid_bpc": test, "test_bpc": test}
        run.write_result(
            Result.model_validate(
                {
                    "status": "completed" if test else "diverged", "diverged_at": None if test else 3,
                    "task": "char-lm", "quantizer": quantizer, "normalizer": "none", "seed": 0,
                    "metric": "bpc", "metric_title": "bits per character", "metrics": metrics,
                    "steps": 20, "wall_s": 1.0,
                    "storage_bytes": int(size * 1024), "float32_bytes": 1024**2,
                    "model_bytes": int(size * 1024), "model_float32_bytes": 1024**2,
                    "device": "cpu", "versions": {},
                    "dataset": DatasetRecord(name="toy", sha256="0"), "git_commit": None,
                    "gradient_norms": [{"layer": 0, "direction": 0, "norms": [0.5, 1.0]}],
                }
            )
        )  # fmt: skip
        run.log({"step": 10, "valid_bpc": 3.0})
        run.log({"step": 20, "valid_bpc": 2.5})
    write_html(collect([tmp_path / "runs"])[0], tmp_path / "report.html")
    return tmp_path / "report.html"


def test_a_browser_shows_and_sorts_it_and_has_nothing_to_complain_of(page: Path) -> None:
    seen, said = look(page, 1200)
    assert seen["errors"] == []
    assert "CONSOLE" not in said
    assert seen["test up"] == ["2.250", "2.500", "10.000", "–"], "as numbers; what is no number comes last"
    assert seen["test down"] == ["10.000", "2.500", "2.250", "–"]
    assert seen["KB up"] == ["32", "33", "64", "1024"]
    assert seen["growth up"] == ["1.0e-03", "3.2e+22", "> 1e+308", "–"]
    assert seen["growth down"] == ["> 1e+308", "3.2e+22", "1.0e-03", "–"]
    assert seen["quantizer up"] == ["bwn", "lab", "none", "twn"]
    assert seen["quantizer down"] == ["twn", "none", "lab", "bwn"]
    assert len(seen["pictures"]) == 1 + 2 * 4
    assert min(seen["pictures"]) > 10_000, "every picture has an area"
    assert seen["curves"] > 50


def test_a_phone_shows_it_without_scrolling_sideways(page: Path) -> None:
    seen, _ = look(page, 500)  # Chromium's smallest window
    assert seen["width"] <= seen["window"]
    assert min(seen["pictures"]) > 10_000


def test_it_can_be_printed(page: Path) -> None:
    printed = page.with_suffix(".pdf")
    command = [
        str(BROWSER), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        f"--user-data-dir={page.parent / 'profile'}", f"--print-to-pdf={printed}", page.as_uri(),
    ]  # fmt: skip
    subprocess.run(command, capture_output=True, check=True, timeout=120)
    content = printed.read_bytes()
    assert content.startswith(b"%PDF")
    assert len(content) > 20_000
