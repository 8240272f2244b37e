"""nginx with docker/nginx.conf, in front of servers on this machine."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

CONFIG = Path(__file__).resolve().parents[1] / "docker" / "nginx.conf"
BINARY = shutil.which("nginx", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
needs_nginx = pytest.mark.skipif(BINARY is None, reason="needs nginx: apt-get install nginx-light")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Gateway:
    """nginx on free ports, used in a `with` statement.

    Parameters
    ----------
    folder : Path
        Where its files are.
    http, grpc : sequence of str
        "host:port" of the two servers' services.

    Attributes
    ----------
    http, grpc : str
        "host:port" of the gateway.
    """

    def __init__(self, folder: Path, http: Sequence[str], grpc: Sequence[str]) -> None:
        self.folder = folder
        self.http, self.grpc = (f"127.0.0.1:{free_port()}" for _ in range(2))
        text = CONFIG.read_text()
        for old, new in (
            *((f"server replica-{n}:8000 ", f"server {http[n - 1]} ") for n in (1, 2)),
            *((f"server replica-{n}:8001 ", f"server {grpc[n - 1]} ") for n in (1, 2)),
            ("listen 8080;", f"listen {self.http};"),
            ("listen 8081 http2;", f"listen {self.grpc} http2;"),
            ("worker_processes auto;", "worker_processes 2;"),
            # A busy machine is not what is tested.
            ("proxy_read_timeout 5s;", "proxy_read_timeout 30s;"),
            ("proxy_next_upstream_timeout 8s;", "proxy_next_upstream_timeout 40s;"),
            ("proxy_connect_timeout 1s;", "proxy_connect_timeout 10s;"),
            ("grpc_read_timeout 5s;", "grpc_read_timeout 30s;"),
            ("grpc_connect_timeout 1s;", "grpc_connect_timeout 10s;"),
        ):
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        (folder / "nginx.conf").write_text(re.sub(r" /tmp/", f" {folder}/", text))

    def __enter__(self) -> Gateway:
        # Its processes must reach the folder, which only its owner may enter.
        directives = "daemon off;" + (" user root;" if os.getuid() == 0 else "")
        config = str(self.folder / "nginx.conf")
        assert BINARY
        with (self.folder / "nginx.log").open("w") as log:
            self._process = subprocess.Popen(
                [BINARY, "-e", "stderr", "-c", config, "-g", directives], stderr=log
            )
        limit = time.monotonic() + 10
        while time.monotonic() < limit and self._process.poll() is None:
            with contextlib.suppress(OSError):
                for address in (self.http, self.grpc):
                    socket.create_connection((address.split(":")[0], address.split(":")[1])).close()
                return self
            time.sleep(0.05)
        self.__exit__()
        raise TimeoutError((self.folder / "nginx.log").read_text())

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(10)
