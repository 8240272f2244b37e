"""Start workers on this machine as `horovodrun` does, but with servers on 127.0.0.1 only."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


@contextmanager
def started(size: int, command: Sequence[str], logs: Path) -> Iterator[list[subprocess.Popen]]:
    """Start `command` as `size` workers, with their output in `logs`; end them with the block."""
    from horovod.runner.common.util.hosts import get_host_assignments, parse_hosts
    from horovod.runner.gloo_run import create_run_env_vars, create_slot_env_vars
    from horovod.runner.http.http_server import RendezvousHandler, RendezvousHTTPServer

    places = get_host_assignments(parse_hosts(f"localhost:{size}"), size)
    with RendezvousHTTPServer(("127.0.0.1", 0), RendezvousHandler, False) as server:
        server.init(places)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        shared = create_run_env_vars("127.0.0.1", ["lo"], server.server_port)
        workers = []
        try:
            for place in places:
                own = {**os.environ, **shared, **create_slot_env_vars(place)}
                own.pop("TF_CPP_MIN_LOG_LEVEL", None)  # as on a console, see `quiet`
                with (logs / f"worker-{place.rank}.log").open("w") as log:
                    workers.append(
                        subprocess.Popen(
                            command,
                            cwd=ROOT,
                            env={name: str(value) for name, value in own.items()},
                            stdout=log,
                            stderr=subprocess.STDOUT,
                        )
                    )
            yield workers
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()
            server.shutdown()


def run(size: int, command: Sequence[str], logs: Path, seconds: float) -> list[str]:
    """Run `command` as `size` workers that must all succeed; return the output of each."""
    with started(size, command, logs) as workers:
        codes = [worker.wait(seconds) for worker in workers]
        output = [(logs / f"worker-{rank}.log").read_text() for rank in range(size)]
    assert not any(codes), output
    return output
