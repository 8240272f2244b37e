"""Two servers behind nginx under load: a publication, a killed server, and nothing left behind."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import pytest
from click.testing import CliRunner

from tests.gateway import Gateway, free_port, needs_nginx
from twotower.client import RetrievalClient
from twotower.pipelines.cli import main
from twotower.pipelines.run import TRITON, Run
from twotower.pipelines.steps.export import export
from twotower.pipelines.steps.publish import publish
from twotower.pipelines.steps.query import example_users
from twotower.serving.local import LocalVersion
from twotower.serving.runtime.errors import ServingError

K, TIMEOUT = 100, 60.0
ADAPTER = Path(__file__).resolve().parents[2] / "docker/helm/two-tower/prometheus-adapter.yaml"


@dataclass
class Server:
    """`twotower serve --replica` on ports of its own."""

    run: Run
    scratch: Path
    http: str = field(default_factory=lambda: f"127.0.0.1:{free_port()}")
    grpc: str = field(default_factory=lambda: f"127.0.0.1:{free_port()}")
    process: subprocess.Popen | None = None

    def start(self) -> None:
        settings = [f"serving.{n}_port={getattr(self, n).split(':')[1]}" for n in ("http", "grpc")]
        command = [sys.executable, "-m", "twotower.pipelines.cli", "serve", "--replica"]
        command += ["--run", str(self.run.path), "--set", " ".join(settings)]
        with (self.scratch / "log").open("a") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.scratch,
                env={**os.environ, "TMPDIR": str(self.scratch)},
                stdout=log,
                stderr=log,
            )
        limit = time.monotonic() + 120
        while self.version() is None:
            assert self.process.poll() is None and time.monotonic() < limit, self.log()
            time.sleep(0.1)

    def version(self) -> int | None:
        """The version that answers; None if none does."""
        with RetrievalClient(self.http, retries=0) as client:
            try:
                return client.version() if client.ready() else None
            except ServingError:
                return None

    def triton(self) -> psutil.Process:
        assert self.process
        children = psutil.Process(self.process.pid).children(recursive=True)
        return next(child for child in children if child.name() == "tritonserver")

    def end(self, number: signal.Signals) -> None:
        assert self.process
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)
        self.process.wait(60)

    def log(self) -> str:
        return (self.scratch / "log").read_text()


class Load:
    """Clients that ask for random users until the block ends.

    Attributes
    ----------
    answers : list of (user, Recommendations)
    failures : list of (protocol, str)
    """

    def __init__(self, gateway: Gateway, users: list) -> None:
        self.answers: list = []
        self.failures: list[tuple[str, str]] = []
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(getattr(gateway, protocol), protocol, users))
            for protocol in ("http", "http", "http", "grpc", "grpc")
        ]

    def _ask(self, address: str, protocol, users: list) -> None:
        draw = np.random.default_rng()
        # nginx, and not the client, is to hide from HTTP that a server is gone.
        retries = 0 if protocol == "http" else 2
        with RetrievalClient(address, protocol, timeout=TIMEOUT, retries=retries) as client:
            while not self._over.wait(0.01):
                user = users[draw.integers(len(users))]
                try:
                    self.answers.append((user, client.recommend([user], K)))
                except ServingError as error:
                    self.failures.append((protocol, str(error)))

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


@pytest.fixture(scope="module")
def run(small_run, tmp_path_factory) -> Run:
    """Version 1 is published; version 2 hides fewer seen items, so it answers otherwise."""
    run = Run(shutil.copytree(small_run.path, tmp_path_factory.mktemp("run") / "run"))
    run.override(("serving.seen=train_valid",))
    export(run)
    return run


@pytest.fixture
def servers(run, tmp_path):
    """Two running replicas; they have ended when the test has, and left nothing."""
    publish(run, 1)
    both = []
    with contextlib.ExitStack() as stack:
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            server = Server(run, tmp_path / name)
            stack.callback(server.end, signal.SIGTERM)
            server.start()
            both.append(server)
        yield both
    for server in both:
        assert list(server.scratch.glob("twotower-triton-*")) == [], server.log()


@pytest.fixture
def gateway(servers, tmp_path):
    http, grpc = [each.http for each in servers], [each.grpc for each in servers]
    with Gateway(tmp_path, http, grpc) as running:
        yield running


@pytest.fixture(scope="module")
def users(run) -> list:
    return list(example_users(run, 30))


@pytest.fixture(scope="module")
def right(run, users) -> dict[int, dict]:
    """The answer to each user by each version, computed without a server."""
    folders = {number: run.path / TRITON / "retrieval" / str(number) for number in (1, 2)}
    versions = {number: LocalVersion(folder) for number, folder in folders.items()}
    return {
        number: {user: version.answer([user], K, filter_seen=True) for user in users}
        for number, version in versions.items()
    }


def assert_right(load: Load, right: dict[int, dict]) -> None:
    for user, answer in load.answers:
        ids, scores = right[answer.version][user]
        np.testing.assert_array_equal(answer.item_ids, ids)
        np.testing.assert_allclose(answer.scores, scores, atol=1e-5)


def wait_for(servers: list[Server], version: int) -> None:
    limit = time.monotonic() + 60
    while any(server.version() != version for server in servers):
        assert time.monotonic() < limit, [server.log() for server in servers]
        time.sleep(0.1)


@needs_nginx
@pytest.mark.slow
def test_a_publication_under_load_fails_no_request(run, servers, gateway, users, right):
    assert any((right[1][u][0] != right[2][u][0]).any() for u in users), "answers must differ"
    with Load(gateway, users) as load:
        time.sleep(1)
        publish(run, 2)
        wait_for(servers, 2)
        time.sleep(1)
    assert load.failures == []
    assert {answer.version for _, answer in load.answers} == {1, 2}
    assert load.answers[0][1].version == 1 and load.answers[-1][1].version == 2
    assert_right(load, right)


@needs_nginx
@pytest.mark.slow
@pytest.mark.parametrize("what", ["Triton", "all of it"])
def test_a_killed_server_fails_no_request_and_comes_back(what, servers, gateway, users, right):
    first = servers[0]
    with Load(gateway, users) as load:
        time.sleep(1)
        if what == "Triton":  # which `twotower serve` starts again
            before = first.triton()
            before.kill()
            before.wait(30)
        else:
            first.end(signal.SIGKILL)
        killed = len(load.answers)
        if what == "Triton":
            limit = time.monotonic() + 60
            while first.version() is None:
                assert time.monotonic() < limit, first.log()
                time.sleep(0.1)
        else:
            first.start()
        time.sleep(3)
    assert load.failures == []
    assert len(load.answers) > killed > 0
    assert_right(load, right)
    named = set(re.findall(r"nv_\w+", ADAPTER.read_text()))
    assert named == {"nv_inference_queue_duration_us", "nv_inference_request_success"}
    assert all(f'{name}{{model="retrieval",version="' in metrics(first) for name in named)
    assert answered(first) > 0, "nginx sends requests to the server that is back"


@needs_nginx
@pytest.mark.slow
def test_the_servers_key_opens_nothing_through_the_gateway(servers, gateway):
    restricted = next(a for a in servers[0].triton().cmdline() if "--http-restricted-api" in a)
    headers, path = {"twotower-key": restricted.rpartition("=")[2]}, "/v2/systemsharedmemory/status"
    assert status(servers[0].http, path, {}) == 403
    assert status(servers[0].http, path, headers) == 200
    assert status(gateway.http, path, headers) == 404


@pytest.mark.slow
def test_options_that_do_not_fit_are_refused(run, monkeypatch):
    monkeypatch.chdir(run.path.parent)
    call = ["serve", "--run", str(run.path)]
    told = CliRunner().invoke(main, [*call, "--version", "1"]).output
    assert "--version is for --replica" in told
    told = CliRunner().invoke(main, [*call, "--replica", "--set", "serving.events.store=sqlite"])
    assert told.exit_code == 1
    assert "serving.events.store is sqlite, which a replica cannot share" in told.output
    experiment = 'serving.experiment={"control": 1, "treatment": 2} serving.events.store=redis'
    told = CliRunner().invoke(main, [*call, "--replica", "--set", experiment])
    assert told.exit_code == 1 and "--set serving.experiment=null" in told.output


def status(address: str, path: str, headers: dict[str, str]) -> int:
    connection = http.client.HTTPConnection(address, timeout=TIMEOUT)
    try:
        connection.request("GET", path, headers=headers)
        return connection.getresponse().status
    finally:
        connection.close()


def metrics(server: Server) -> str:
    """The metrics of the server, whose port it printed last."""
    address = server.log().rpartition("metrics http://")[2].partition("/")[0]
    connection = http.client.HTTPConnection(address, timeout=TIMEOUT)
    try:
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def answered(server: Server) -> float:
    lines = [line for line in metrics(server).splitlines() if line.startswith("nv_inference_req")]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if "request_success" in line)
