"""The download of MovieLens-1M against a server of our own on the loopback interface."""

from __future__ import annotations

import hashlib
import http.server
import socket
import threading
import time
import zipfile
from functools import partial

import pytest

from twotower.workflows.errors import DataError
from twotower.workflows.ingest import detect_source
from twotower.workflows.sources.movielens.download import fetch_movielens_1m


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def served(ml_1m, tmp_path, monkeypatch):
    """(url, md5) of a small ml-1m.zip behind a real HTTP server."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    path = tmp_path / "www" / "ml-1m.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        for file in ml_1m.iterdir():
            archive.write(file, f"ml-1m/{file.name}")
    handler = partial(QuietHandler, directory=str(path.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/ml-1m.zip"
        yield url, hashlib.md5(path.read_bytes()).hexdigest()
        server.shutdown()


def test_a_download_is_checked_kept_and_not_repeated(served, tmp_path):
    url, md5 = served
    seen = []
    folder = tmp_path / "data" / "raw"
    path = fetch_movielens_1m(folder, lambda done, total: seen.append((done, total)), url, md5)
    assert path == folder / "ml-1m.zip"
    assert seen[-1] == (path.stat().st_size, path.stat().st_size)
    assert detect_source(folder) == ("ml-1m", path)
    assert fetch_movielens_1m(folder, url="http://127.0.0.1:9/gone.zip", md5=md5) == path


def test_an_earlier_download_needs_no_network(tmp_path):
    path = tmp_path / "ml-1m.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ml-1m/users.dat", "1::F::1::10::48067\n")
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    url = "http://no-such-host.invalid/ml-1m.zip"
    assert fetch_movielens_1m(tmp_path, url=url, md5=md5) == path
    with pytest.raises(DataError, match=r"cannot find the address|no answer for the name"):
        fetch_movielens_1m(tmp_path, url=url, md5="0" * 32)


def test_a_wrong_checksum_leaves_nothing(served, tmp_path):
    folder = tmp_path / "data"
    with pytest.raises(DataError, match=r"md5 of the downloaded file is not 0{32}"):
        fetch_movielens_1m(folder, url=served[0], md5="0" * 32)
    assert list(folder.iterdir()) == []


def test_a_missing_page_says_so_and_leaves_nothing(served, tmp_path):
    folder = tmp_path / "data"
    with pytest.raises(DataError, match="404"):
        fetch_movielens_1m(folder, url=served[0].replace("ml-1m", "other"), md5=served[1])
    assert list(folder.iterdir()) == []


def test_no_network_is_a_clear_error_soon(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    with socket.socket() as taken:  # bound, not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{taken.getsockname()[1]}/ml-1m.zip"
        for url in (closed, "http://no-such-host.invalid/ml-1m.zip"):
            start = time.monotonic()
            with pytest.raises(DataError, match=r"download failed .* by hand"):
                fetch_movielens_1m(tmp_path, url=url)
            assert time.monotonic() - start < 10
