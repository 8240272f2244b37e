"""A proxy in front of Triton that loses connections."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

import pytest


class FlakyProxy:
    """Forwards connections to `target`, except the first `failures`, which it closes."""

    def __init__(self, target: str, failures: int) -> None:
        host, port = target.split(":")
        self.target, self.failures = (host, int(port)), failures
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self.listener.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                connection, _ = self.listener.accept()
                if self.failures > 0:
                    self.failures -= 1
                    connection.close()
                    continue
                server = socket.create_connection(self.target)
                for source, sink in ((connection, server), (server, connection)):
                    threading.Thread(target=_forward, args=(source, sink), daemon=True).start()


def _forward(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while content := source.recv(1 << 16):
            sink.sendall(content)
    for each in (source, sink):
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def flaky_proxy():
    """A function that starts a `FlakyProxy`."""
    started = []

    def start(target: str, failures: int) -> FlakyProxy:
        started.append(FlakyProxy(target, failures))
        return started[-1]

    yield start
    for proxy in started:
        proxy.close()
