"""The built site, in build/site: links and pictures lead somewhere; a browser shows it without complaint.

Run by ``tox run -e docs`` after the build.
"""

from __future__ import annotations

import functools
import http.server
import json
import re
import shutil
import subprocess
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlparse

import pytest

ROOT = Path(__file__).parents[3]
SITE = ROOT / "build" / "site"
HOST = "https://github.com/qlstm/qlstm"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
PAGES = sorted(
    page.relative_to(SITE).as_posix() for page in SITE.rglob("*.html") if "_static" not in page.parts
)


class Page(HTMLParser):
    """What a page refers to and what can be referred to in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors.add(given.get("id", ""))
        if tag == "a" and "href" in given:
            self.targets.append(given["href"])
        for name in ("src", "href") if tag in ("img", "script", "link") else ():
            if name in given and given.get("rel") != "canonical":
                self.loaded.append(given[name])


@functools.cache
def page(name: str) -> Page:
    return Page((SITE / name).read_text("utf-8"))


def test_the_site_was_built() -> None:
    names = ("index", "docs/site/index", "docs/start", "search")
    assert {f"{name}.html" for name in names} <= set(PAGES)


@pytest.mark.parametrize("name", PAGES)
def test_links_and_pictures_lead_somewhere(name: str) -> None:
    broken = []
    for target in [*page(name).targets, *page(name).loaded]:
        whole = urlparse(urljoin(f"site:///{name}", target))
        if not target or urlparse(target).scheme:
            continue
        path = unquote(urlparse(urljoin(f"/{name}", target)).path).lstrip("/")
        anchor = unquote(whole.fragment)
        if not (SITE / path).is_file() or (
            anchor and path.endswith(".html") and anchor not in page(path).anchors
        ):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_fetched_from_elsewhere(name: str) -> None:
    assert [target for target in page(name).loaded if urlparse(target).scheme not in ("", "data")] == []


@pytest.mark.parametrize("name", PAGES)
def test_links_to_the_code_host_lead_to_files(name: str) -> None:
    own = [re.fullmatch(rf"{HOST}/(blob|tree|raw)/main/([^?#]+)\S*", target) for target in page(name).targets]
    missing = [
        match[2]
        for match in own
        if match and not ((ROOT / match[2]).is_dir() if match[1] == "tree" else (ROOT / match[2]).is_file())
    ]
    assert missing == []


# Shows each page in a frame as wide as a phone, and the search with a query; notes what is seen.
PROBE = """<!doctype html><meta charset="utf-8"><title>probe</title>
<iframe id="frame" style="width: 390px; height: 800px; border: 0"></iframe>
<script>
const pages = PAGES, seen = {};
const frame = document.getElementById("frame");
const wait = milliseconds => new Promise(done => setTimeout(done, milliseconds));
const show = address => new Promise(done => { frame.onload = done; frame.src = address; });
(async () => {
  for (const name of pages) {
    await show("/" + name);
    const inside = frame.contentDocument;
    seen[name] = {
      room: inside.documentElement.clientWidth,
      wide: [inside.documentElement, ...inside.querySelectorAll(".content")]
        .filter(element => element.scrollWidth > element.clientWidth).map(element => element.className),
      text: inside.body.innerText.trim().length,
      broken: [...inside.images].filter(image => !image.naturalWidth).map(image => image.src),
    };
  }
  await show("/search.html?q=spectral");
  const state = () => frame.contentDocument.querySelector(".search-summary")?.innerText ?? "";
  for (let i = 0; i < 100 && !state().includes("finished"); i++) await wait(100);
  const results = [...frame.contentDocument.querySelectorAll("#search-results li a")];
  seen.results = results.map(link => link.getAttribute("href"));
  await fetch("/seen", {method: "POST", body: JSON.stringify(seen)});
})();
</script>"""


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves the site and the probe, and takes what the probe has seen."""

    seen: dict[str, object]
    ended = threading.Event()

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """Serve the probe, or a file of the site."""
        if self.path != "/probe":
            super().do_GET()
            return
        names = [name for name in PAGES if name != "index.html"]  # which leads to another at once
        content = PROBE.replace("PAGES", json.dumps(names)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(content)

    def do_POST(self) -> None:
        """Take what was seen."""
        type(self).seen = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(204)
        self.end_headers()
        self.ended.set()


@pytest.fixture(scope="module")
def looked(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, dict[str, object]], str]:
    """What the probe saw, and what the browser said."""
    profile = tmp_path_factory.mktemp("profile")
    handler = functools.partial(Handler, directory=str(SITE))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        command = [
            str(BROWSER), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--enable-logging=stderr", f"--user-data-dir={profile}", "--window-size=1200,900",
            "--remote-debugging-port=0", f"http://127.0.0.1:{server.server_port}/probe",
        ]  # fmt: skip
        browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        ended = Handler.ended.wait(timeout=240)
        browser.terminate()
        _, said = browser.communicate(timeout=30)
        server.shutdown()
    assert ended, said
    return Handler.seen, said


@needs_browser
def test_a_browser_has_nothing_to_complain_of(looked: tuple[dict[str, dict[str, object]], str]) -> None:
    seen, said = looked
    assert [line for line in said.splitlines() if "CONSOLE" in line] == []
    shown = {name: one for name, one in seen.items() if name != "results"}
    assert len(shown) == len(PAGES) - 1
    assert [name for name, one in shown.items() if one["broken"]] == []
    assert min(int(str(one["text"])) for one in shown.values()) > 50


@needs_browser
def test_a_phone_shows_every_page_without_scrolling_sideways(
    looked: tuple[dict[str, dict[str, object]], str],
) -> None:
    seen, _ = looked
    shown = {name: one for name, one in seen.items() if name != "results"}
    assert [name for name, one in shown.items() if one["room"] not in range(300, 391)] == []
    assert {name: one["wide"] for name, one in shown.items() if one["wide"]} == {}


@needs_browser
def test_the_search_finds(looked: tuple[dict[str, dict[str, object]], str]) -> None:
    seen, _ = looked
    assert any("gradient-bounds" in str(result) for result in seen["results"])


def test_formulas_are_set() -> None:
    text = (SITE / "docs" / "site" / "reference" / "qlstm_core.html").read_text("utf-8")
    assert text.count("<math") > 5
    assert not re.search(r"\\tanh|:math:|:(?:meth|class|func):`", text)
