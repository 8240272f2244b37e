"""Redis itself, on a free port of this machine."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from pathlib import Path

BINARY = "redis-server"
MISSING = f"needs {BINARY}: apt-get install redis-server"


class RedisServer:
    """Redis that keeps what it acknowledges.

    Parameters
    ----------
    folder : Path
    password : str, optional

    Raises
    ------
    FileNotFoundError
        Where it is not installed.
    """

    def __init__(self, folder: Path, password: str = "") -> None:
        if not shutil.which(BINARY):
            raise FileNotFoundError(MISSING)
        self.folder, self.password = folder, password
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"redis://127.0.0.1:{self.port}/0"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, with what it kept."""
        arguments = [
            *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)),
            *("--save", "", "--appendonly", "yes", "--appendfsync", "always"),
            *(("--requirepass", self.password) if self.password else ()),
        ]
        with (self.folder / "log").open("w") as log:
            self.process = subprocess.Popen([BINARY, *arguments], stdout=log, stderr=log)
        limit = time.monotonic() + 10
        while time.monotonic() < limit:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            time.sleep(0.02)
        raise TimeoutError((self.folder / "log").read_text())

    def stop(self) -> None:
        """Kill it."""
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None

    def __enter__(self) -> RedisServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
