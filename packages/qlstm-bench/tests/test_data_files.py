"""Published files are found, checked and downloaded, and what is wrong with one is said."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from qlstm_bench.data import DataError
from qlstm_bench.data.files import DataFile, read_checked

CONTENT = b"a small published file\n" * 100
FILE = DataFile(
    "toy/toy.txt", len(CONTENT), hashlib.sha256(CONTENT).hexdigest(), "http://127.0.0.1:9/toy.txt"
)


class Server:
    """A local web server with a few files, and the paths that it was asked for."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                content = outer.files.get(self.path)
                self.send_response(200 if content is not None else 404)
                self.send_header("Content-Length", str(len(content or b"")))
                self.end_headers()
                self.wfile.write(content or b"")

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A mirror of the published files."""
    mirror = Server()
    thread = Thread(target=mirror.server.serve_forever)
    thread.start()
    monkeypatch.setenv("QLSTM_DATA_URL", mirror.url + "/")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield mirror
    mirror.server.shutdown()
    mirror.server.server_close()
    thread.join()


@pytest.mark.parametrize("place", ["toy/toy.txt", "toy.txt"])
def test_data_folder_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server, place: str
) -> None:
    path = tmp_path / "data" / place
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    monkeypatch.setenv("QLSTM_DATA", str(tmp_path / "data"))
    assert read_checked("toy", FILE) == CONTENT
    assert server.asked == []


@pytest.mark.parametrize("damaged", [CONTENT[:-1], CONTENT[:-1] + b"?", b""])
def test_a_damaged_file_names_both_hashes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: bytes
) -> None:
    (tmp_path / "toy.txt").write_bytes(damaged)
    monkeypatch.setenv("QLSTM_DATA", str(tmp_path))
    with pytest.raises(DataError) as caught:
        read_checked("toy", FILE)
    message = str(caught.value)
    for part in (
        str(tmp_path / "toy.txt"), f"found {len(damaged)} bytes", hashlib.sha256(damaged).hexdigest(),
        f"expected {len(CONTENT)} bytes", FILE.sha256, FILE.url,
    ):  # fmt: skip
        assert part in message
    assert "\n" not in message


def test_a_data_folder_that_is_none_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QLSTM_DATA", "/no/such/folder")
    with pytest.raises(DataError, match="QLSTM_DATA is '/no/such/folder', which is not a folder"):
        read_checked("toy", FILE)


def test_a_missing_file_is_downloaded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    monkeypatch.setenv("QLSTM_DATA", str(tmp_path))
    server.files["/toy/toy.txt"] = CONTENT
    assert read_checked("toy", FILE) == CONTENT
    assert read_checked("toy", FILE) == CONTENT
    assert server.asked == ["/toy/toy.txt"]


def test_a_damaged_cache_is_replaced(tmp_path: Path, server: Server) -> None:
    server.files["/toy/toy.txt"] = CONTENT
    read_checked("toy", FILE)
    (tmp_path / "cache" / "toy" / "toy.txt").write_bytes(b"rotten")
    assert read_checked("toy", FILE) == CONTENT


def test_wrong_bytes_are_refused_and_not_kept(tmp_path: Path, server: Server) -> None:
    server.files["/toy/toy.txt"] = CONTENT + b"more"
    with pytest.raises(DataError, match=r"toy/toy.txt is missing .* another SHA-256") as caught:
        read_checked("toy", FILE)
    assert FILE.sha256 in str(caught.value)
    assert "set QLSTM_DATA" in str(caught.value)
    assert not (tmp_path / "cache" / "toy" / "toy.txt").exists()


def test_a_server_without_the_file_is_named(server: Server) -> None:
    with pytest.raises(DataError, match=rf"could not be downloaded from {server.url}/toy/toy.txt: 404"):
        read_checked("toy", FILE)


def test_no_server_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(DataError, match=r"could not be downloaded from http://127.0.0.1:9/toy.txt") as caught:
        read_checked("toy", FILE)
    assert "\n" not in str(caught.value)
