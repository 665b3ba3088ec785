"""Published files are found, checked and downloaded, and what is wrong with one is said."""

from __future__ import annotations

import gzip
import hashlib
import struct
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from qlstm_bench.data import DataError, load_sequences
from qlstm_bench.data.files import fetch, locate
from qlstm_bench.data.idx import read_idx
from qlstm_bench.data.published import DataFile

CONTENT = b"a small published file\n" * 5000
FILE = DataFile(
    "toy/toy.txt", len(CONTENT), hashlib.sha256(CONTENT).hexdigest(), "http://127.0.0.1:9/toy.txt"
)


class Server:
    """A local web server with a few files, the requests that it had, and bad days.

    Attributes:
        drop_after: bytes after which each of the next connections ends, one item a connection.
        ranges: whether it knows of partial content.
        packs: whether it packs what it sends, asked for or not.
        refuses: whether it answers 416 where a range is asked for.
        endless: whether it goes on sending; ``sent`` counts the bytes.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.drop_after: list[int] = []
        self.ranges = True
        self.packs = self.endless = self.refuses = False
        self.sent = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                wanted = self.headers.get("Range", "")
                outer.asked.append(self.path + (f" {wanted}" if wanted else ""))
                content = outer.files.get(self.path)
                status = 200 if content is not None else 404
                body = content or b""
                if wanted and outer.ranges and content is not None:
                    status, body = 206, body[int(wanted.removeprefix("bytes=").removesuffix("-")) :]
                if wanted and outer.refuses:
                    status, body = 416, b"no such range"
                self.send_response(status)
                if outer.packs:
                    body = gzip.compress(body)
                    self.send_header("Content-Encoding", "gzip")
                if not outer.endless:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                while outer.endless and outer.sent < 2**28:
                    try:
                        outer.sent += self.wfile.write(bytes(2**20))
                    except OSError:
                        return
                if outer.drop_after:
                    body = body[: outer.drop_after.pop(0)]
                    self.close_connection = True
                self.wfile.write(body)

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
    assert fetch("toy", FILE).read_bytes() == CONTENT
    assert server.asked == []


@pytest.mark.parametrize("damaged", [CONTENT[:-1], CONTENT[:-1] + b"?", b""])
def test_a_damaged_file_names_both_hashes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: bytes
) -> None:
    (tmp_path / "toy.txt").write_bytes(damaged)
    monkeypatch.setenv("QLSTM_DATA", str(tmp_path))
    with pytest.raises(DataError) as caught:
        fetch("toy", FILE)
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
        fetch("toy", FILE)


def test_a_missing_file_is_downloaded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    monkeypatch.setenv("QLSTM_DATA", str(tmp_path))
    server.files["/toy/toy.txt"] = CONTENT
    assert fetch("toy", FILE).read_bytes() == CONTENT
    assert fetch("toy", FILE).read_bytes() == CONTENT
    assert server.asked == ["/toy/toy.txt"]


def test_a_damaged_cache_is_replaced(tmp_path: Path, server: Server) -> None:
    server.files["/toy/toy.txt"] = CONTENT
    fetch("toy", FILE)
    (tmp_path / "cache" / "toy" / "toy.txt").write_bytes(b"rotten")
    assert fetch("toy", FILE).read_bytes() == CONTENT


def test_wrong_bytes_are_refused_and_not_kept(tmp_path: Path, server: Server) -> None:
    server.files["/toy/toy.txt"] = CONTENT + b"more"
    with pytest.raises(DataError, match=r"toy/toy.txt is missing .* sends more than 115000 bytes"):
        fetch("toy", FILE)
    server.files["/toy/toy.txt"] = b"?" + CONTENT[1:]
    with pytest.raises(DataError, match=r"toy/toy.txt is missing .* another SHA-256") as caught:
        fetch("toy", FILE)
    assert FILE.sha256 in str(caught.value)
    assert "set QLSTM_DATA" in str(caught.value)
    assert not (tmp_path / "cache" / "toy" / "toy.txt").exists()


def test_a_server_without_the_file_is_named(server: Server) -> None:
    with pytest.raises(DataError, match=rf"could not be downloaded from {server.url}/toy/toy.txt: 404"):
        fetch("toy", FILE)


def test_no_server_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(DataError, match=r"could not be downloaded from http://127.0.0.1:9/toy.txt") as caught:
        fetch("toy", FILE)
    assert "\n" not in str(caught.value)


def test_a_dropped_download_goes_on_where_it_was(tmp_path: Path, server: Server) -> None:
    server.files["/toy/toy.txt"] = CONTENT
    server.drop_after = [32768, 16384]
    assert fetch("toy", FILE).read_bytes() == CONTENT
    assert server.asked == ["/toy/toy.txt", "/toy/toy.txt bytes=32768-", "/toy/toy.txt bytes=49152-"]
    assert not (tmp_path / "cache" / "toy" / "toy.txt.part").exists()


def test_an_interrupted_download_is_resumed_by_the_next_call(tmp_path: Path, server: Server) -> None:
    server.files["/toy/toy.txt"] = CONTENT
    server.drop_after = [16384, 0]
    with pytest.raises(DataError, match="could not be downloaded"):
        fetch("toy", FILE)
    assert (tmp_path / "cache" / "toy" / "toy.txt.part").read_bytes() == CONTENT[:16384]
    assert locate("toy", FILE) == ("missing", tmp_path / "cache" / "toy" / "toy.txt")
    server.asked.clear()
    assert fetch("toy", FILE).read_bytes() == CONTENT
    assert server.asked == ["/toy/toy.txt bytes=16384-"]
    assert locate("toy", FILE)[0] == "cache"


def test_a_server_without_partial_content_starts_again(tmp_path: Path, server: Server) -> None:
    server.files["/toy/toy.txt"] = CONTENT
    server.ranges = False
    server.drop_after = [16384]
    assert fetch("toy", FILE).read_bytes() == CONTENT
    assert server.asked == ["/toy/toy.txt", "/toy/toy.txt bytes=16384-"]


def test_the_rest_of_another_file_is_refused_and_forgotten(tmp_path: Path, server: Server) -> None:
    """A part whose rest has since changed fails its check once, and the next call starts from nothing."""
    part = tmp_path / "cache" / "toy" / "toy.txt.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 700)
    server.files["/toy/toy.txt"] = CONTENT
    with pytest.raises(DataError, match="another SHA-256"):
        fetch("toy", FILE)
    assert not part.exists()
    assert fetch("toy", FILE).read_bytes() == CONTENT


def test_a_server_that_sends_without_end_is_left(tmp_path: Path, server: Server) -> None:
    server.files["/toy/toy.txt"] = CONTENT
    server.endless = True
    with pytest.raises(DataError, match=r"could not be downloaded .* it sends more than 115000 bytes"):
        fetch("toy", FILE)
    assert server.sent < 2**26, "what fits into the buffers between, not all there is"
    assert [path.name for path in (tmp_path / "cache" / "toy").iterdir()] == [".toy.txt.lock"]


def test_what_a_server_packs_is_measured_unpacked(tmp_path: Path, server: Server) -> None:
    server.packs = True
    server.files["/toy/toy.txt"] = CONTENT
    assert fetch("toy", FILE).read_bytes() == CONTENT
    (tmp_path / "cache" / "toy" / "toy.txt").unlink()
    server.files["/toy/toy.txt"] = bytes(2**24)
    with pytest.raises(DataError, match="it sends more than 115000 bytes"):
        fetch("toy", FILE)


@pytest.mark.parametrize("packs", [True, False])
def test_a_part_that_cannot_go_on_is_begun_again(tmp_path: Path, server: Server, packs: bool) -> None:
    """A server that packs has another middle; one that knows no such range answers 416."""
    part = tmp_path / "cache" / "toy" / "toy.txt.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT[:700])
    server.files["/toy/toy.txt"] = CONTENT
    server.packs, server.refuses = packs, not packs
    assert fetch("toy", FILE).read_bytes() == CONTENT
    assert server.asked == ["/toy/toy.txt bytes=700-", "/toy/toy.txt"]


def test_a_cache_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("QLSTM_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"toy: toy/toy.txt is missing .*Not a directory"):
        fetch("toy", FILE)


def idx(magic: int, shape: tuple[int, ...], values: bytes) -> bytes:
    return gzip.compress(struct.pack(f">{1 + len(shape)}I", magic, *shape) + values, compresslevel=1, mtime=0)


@pytest.fixture
def mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with MNIST's files, of other bytes than the published ones: an image is its label's pixel."""
    folder = tmp_path / "data" / "mnist"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, count in (("train", 60_000), ("t10k", 10_000)):
        labels = rng.integers(0, 10, count, dtype=np.uint8)
        images = np.zeros((count, 28, 28), np.uint8)
        images[np.arange(count), 3, labels] = 255
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(idx(0x803, images.shape, images.tobytes()))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(idx(0x801, (count,), labels.tobytes()))
    monkeypatch.setenv("QLSTM_DATA", str(tmp_path / "data"))
    return folder


def test_mnist_is_accepted_by_its_content(mnist: Path) -> None:
    """Copies packed anew have other hashes than the published files, and are what they should be."""
    data = load_sequences("mnist")
    assert [data.split(part)[0].shape for part in ("train", "valid", "test")] == [
        (50_000, 784), (10_000, 784), (10_000, 784)
    ]  # fmt: skip
    for part in ("train", "valid", "test"):
        pixels, labels = data.split(part)
        assert (pixels[np.arange(len(labels)), 3 * 28 + labels] == 255).all(), (
            "row by row, with its own label"
        )
    assert data.classes == 10
    labels = gzip.decompress((mnist / "train-labels-idx1-ubyte.gz").read_bytes())[8:]
    assert data.valid[1].tolist() == list(labels[50_000:])
    sha256 = data.sha256
    path = mnist / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), compresslevel=9))
    assert load_sequences("mnist").sha256 != sha256, "each copy's own hash is recorded"


def test_mnist_may_lie_there_unpacked(mnist: Path) -> None:
    packed = load_sequences("mnist")
    for path in mnist.glob("*-labels-*"):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    unpacked = load_sequences("mnist")
    for part in ("train", "valid", "test"):
        np.testing.assert_array_equal(packed.split(part)[1], unpacked.split(part)[1])
    labels = mnist / "train-labels-idx1-ubyte"
    labels.write_bytes(labels.read_bytes()[:-1])
    with pytest.raises(DataError, match="train-labels-idx1-ubyte: has 59999 values after its header"):
        load_sequences("mnist")


def test_no_more_is_unpacked_than_an_idx_file_should_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of 1 MB that would fill 1 GB: its first four bytes are enough to refuse it."""
    path = tmp_path / "zeros.gz"
    path.write_bytes(gzip.compress(bytes(2**24)) * 64)
    asked = []
    read = gzip.GzipFile.read
    monkeypatch.setattr(gzip.GzipFile, "read", lambda self, size=-1: read(self, asked.append(size) or size))
    with pytest.raises(DataError, match="magic number is 0x00000000, expected 0x00000801"):
        read_idx(path, (5,))
    path.write_bytes(idx(0x801, (2**32 - 1,), b""))
    with pytest.raises(DataError, match=r"has shape \(4294967295,\), expected \(5,\)"):
        read_idx(path, (5,))
    path.write_bytes(idx(0x801, (5,), bytes(2**24)))
    with pytest.raises(DataError, match="has more than 5 values"):
        read_idx(path, (5,))
    assert 0 < min(asked) <= max(asked) <= 5


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("train-images-idx3-ubyte", idx(0x803, (60_000, 28, 28), bytes(47_040_000))[:-9], "truncated or dam"),
        ("train-images-idx3-ubyte", b"<html>404</html>", "magic number is 0x3c68746d, expected 0x00000803"),
        ("train-labels-idx1-ubyte", idx(0x801, (60_000,), bytes(60_001)), "has more than 60000 values"),
        (
            "train-images-idx3-ubyte",
            idx(0x801, (60_000,), b""),
            "magic number is 0x00000801, expected 0x00000803",
        ),
        ("train-labels-idx1-ubyte", idx(0x801, (59_999,), b""), r"has shape \(59999,\), expected \(60000,\)"),
        ("train-labels-idx1-ubyte", idx(0x801, (60_000,), b"\1" * 9), "has 9 values after its header"),
        ("train-labels-idx1-ubyte", idx(0x801, (60_000,), b"\x0b" * 60_000), "has label 11, expected 0 to 9"),
        ("train-labels-idx1-ubyte", gzip.compress(b"\0\0\x08\x01\0", mtime=0), "ends within its header"),
    ],
)
def test_damaged_mnist_is_named(mnist: Path, name: str, content: bytes, problem: str) -> None:
    (mnist / f"{name}.gz").write_bytes(content)
    with pytest.raises(DataError, match=problem) as caught:
        load_sequences("mnist")
    assert f"{name}.gz" in str(caught.value)
    assert "\n" not in str(caught.value)
