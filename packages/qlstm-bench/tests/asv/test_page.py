"""What `tools/asv_publish.py` writes, opened in a browser: the grid and the graph of every benchmark."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).resolve().parents[2]
SUITE = BENCH / "src" / "qlstm_bench" / "benchmarks"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

spec = importlib.util.spec_from_file_location("asv_publish", BENCH / "tools" / "asv_publish.py")
assert spec is not None
assert spec.loader is not None
asv_publish: Any = importlib.util.module_from_spec(spec)
spec.loader.exec_module(asv_publish)

COMMITS = 3

# Put behind the page: opens the grid, then every benchmark, and counts the coloured pixels: frames are grey.
PROBE = """
<script>
const wait = milliseconds => new Promise(resolve => setTimeout(resolve, milliseconds));
const coloured = canvas => {
  if (!canvas.width || !canvas.height) return 0;
  const copy = new OffscreenCanvas(canvas.width, canvas.height);
  const context = copy.getContext("2d", {willReadFrequently: true});
  context.drawImage(canvas, 0, 0);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
  let count = 0;
  for (let at = 0; at < pixels.length; at += 4) {
    const rgb = pixels.slice(at, at + 3);
    count += pixels[at + 3] > 0 && Math.max(...rgb) - Math.min(...rgb) > 40;
  }
  return count;
};
const ofAll = selector => Math.max(0, ...[...document.querySelectorAll(selector)].map(coloured));
const look = async () => {
  const seen = {problems: window.problems, grid: {}, graphs: {}};
  await wait(1000);
  for (const element of document.querySelectorAll(".benchmark-plot")) {
    element.scrollIntoView();
    window.dispatchEvent(new Event("scroll"));
    await wait(200);
    const name = element.id.replace("summarygrid-", "");
    seen.grid[name] = Math.max(0, ...[...element.querySelectorAll("canvas")].map(coloured));
  }
  for (const name of Object.keys(seen.grid)) {
    location.hash = "#" + name;
    await wait(800);
    const lines = document.querySelectorAll("#main-graph .legendColorBox").length;
    seen.graphs[name] = {coloured: ofAll("#main-graph canvas.flot-base"), title: $("#title").text(), lines};
  }
  document.title = "seen:" + JSON.stringify(seen);
};
look();
</script>
"""
CATCH = (
    "<script>window.problems = []; addEventListener('error', e => problems.push(String(e.message)));</script>"
)


def discover() -> dict[str, Any]:
    """Return the suite's benchmarks as asv keeps them."""
    program = "import sys; from asv_runner.discovery import list_benchmarks as f; f(sys.argv[1], sys.stdout)"
    command = [sys.executable, "-c", program, str(SUITE)]
    listed = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return {benchmark["name"]: benchmark for benchmark in listed}


def commit(repository: Path, message: str) -> str:
    """Commit nothing, and return the commit's hash."""
    git = ["git", "-C", str(repository), "-c", "user.name=A", "-c", "user.email=a@b.org"]
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "--message", message], check=True)
    return subprocess.run(
        [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()


def figures_of(benchmark: dict[str, Any], commit: int) -> list[Any]:
    """Return a made-up row of results: every combination of parameters has its own height, and rises."""
    combinations = math.prod(map(len, benchmark["params"]))
    return [
        [1.0 + index + 0.1 * commit for index in range(combinations)],
        benchmark["params"],
        benchmark["version"],
    ]


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Publish three commits whose figures are made up, of the benchmarks that there are."""
    pytest.importorskip("asv")
    folder = tmp_path_factory.mktemp("asv")
    subprocess.run(["git", "init", "--quiet", str(folder / "repository")], check=True)
    machine = folder / "results" / "machine"
    machine.mkdir(parents=True)
    benchmarks = discover()
    (folder / "results" / "benchmarks.json").write_text(json.dumps({**benchmarks, "version": 2}))
    (machine / "machine.json").write_text(json.dumps({"machine": "machine", "version": 1}))
    for number in range(COMMITS):
        name = commit(folder / "repository", f"{number}")
        results = {
            "version": 2, "commit_hash": name, "env_name": "env",
            "date": 1_700_000_000_000 + number * 86_400_000,
            "params": {"machine": "machine", "python": "3.11"}, "python": "3.11", "requirements": {},
            "env_vars": {}, "durations": {}, "result_columns": ["result", "params", "version"],
            "results": {key: figures_of(benchmark, number) for key, benchmark in benchmarks.items()},
        }  # fmt: skip
        (machine / f"{name[:8]}-env.json").write_text(json.dumps(results))
    config = {
        "version": 1, "project": "qlstm", "project_url": "https://example.org", "repo": "repository",
        "branches": ["HEAD"], "show_commit_url": "https://example.org/", "environment_type": "virtualenv",
        "results_dir": "results", "benchmark_dir": str(SUITE),
    }  # fmt: skip
    (folder / "asv.conf.json").write_text(json.dumps(config))
    page = folder / "html"
    assert asv_publish.main(["--config", str(folder / "asv.conf.json"), "--html-dir", str(page)]) == 0
    return page


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder on this machine, and give its address."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def look(html: Path, profile: Path) -> tuple[dict[str, Any], str]:
    """Return what the probe noted, and what the browser said."""
    page = (html / "index.html").read_text(encoding="utf-8")
    page = page.replace("<head>", f"<head>{CATCH}").replace("</body>", f"{PROBE}</body>")
    (html / "probed.html").write_text(page, encoding="utf-8")
    with served(html) as address:
        command = [
            str(BROWSER), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--enable-logging=stderr", f"--user-data-dir={profile}", "--window-size=1200,800",
            "--virtual-time-budget=60000", "--dump-dom", f"{address}/probed.html",
        ]  # fmt: skip
        result = subprocess.run(command, capture_output=True, text=True, timeout=240)
    title = re.search(r"<title>seen:(.*?)</title>", result.stdout, re.DOTALL)
    assert title, result.stderr
    return json.loads(title[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")), result.stderr


def test_the_page_loads_nothing_from_the_network(html: Path) -> None:
    page = (html / "index.html").read_text(encoding="utf-8")
    loaded = re.findall(r'(?:<script|<link)[^>]*(?:src|href)="([^"]+)"', page)
    assert len(loaded) > 15
    for path in loaded:
        assert not path.startswith("http"), path
        assert (html / path).exists() or path == "regressions.xml"


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_a_browser_draws_the_grid_and_every_graph(html: Path, tmp_path: Path) -> None:
    seen, said = look(html, tmp_path / "profile")
    assert seen["problems"] == []
    assert "CONSOLE" not in said, said
    benchmarks = json.loads((html / "index.json").read_text())["benchmarks"]
    assert set(seen["grid"]) == set(benchmarks) == set(seen["graphs"])
    assert {name.partition(".")[0] for name in benchmarks} == {
        "accuracy", "conformance", "first_call", "gradients", "memory", "packed", "size", "training",
    }  # fmt: skip
    for name, benchmark in benchmarks.items():
        assert seen["grid"][name] > 100, f"{name} is not drawn in the grid"
        assert seen["graphs"][name]["coloured"] > 500, f"{name} has no graph"
        assert seen["graphs"][name]["title"] == name
        combinations = math.prod(map(len, benchmark["params"]))
        lines = seen["graphs"][name]["lines"]  # in the legend, which a single line lacks; 8 at first
        assert 2 <= lines <= 8 if combinations > 1 else lines == 0
