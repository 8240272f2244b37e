"""Worker processes: order, errors, deaths, and what is left behind."""

from __future__ import annotations

import os
import signal
import socket
import time

import psutil
import pytest
from pydantic import ValidationError

from tests.workflows.cluster import work
from twotower.workflows.cluster.cluster import SCRATCH, check_cluster, opened_cluster
from twotower.workflows.cluster.config import DaskConfig
from twotower.workflows.errors import ClusterError, DataError


def ignore(message: str) -> None:
    """No-op callback."""


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scheduler": "10.0.0.5:8786"}, "'10.0.0.5:8786': give an address such as tcp://"),
        ({"scheduler": "tcp://h:1", "workers": 2}, "workers and scheduler both name processes"),
        ({"worker_memory": "lots"}, "'lots': give a size such as 2GB, or auto"),
        ({"workers": -1}, "greater than or equal to 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        DaskConfig(**settings)


def test_without_workers_the_tasks_run_in_this_process(tmp_path):
    with opened_cluster(DaskConfig(), tmp_path, ignore) as run:
        assert [pid for _, pid in run(work.slow_square, [3])] == [os.getpid()]


def test_a_scheduler_that_does_not_answer_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("twotower.workflows.cluster.cluster.CONNECT_SECONDS", 1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(ClusterError, match=f"no Dask scheduler answers at {address} within 1"):
            check_cluster(DaskConfig(scheduler=address), tmp_path)


@pytest.mark.slow
def test_tasks_are_shared_and_dead_workers_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr("twotower.workflows.cluster.cluster.ALLOWED_FAILURES", 1)
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    said: list[str] = []
    with opened_cluster(DaskConfig(workers=2), tmp_path, said.append) as run:
        found, pids = [], set()
        for square, pid in run(work.slow_square, range(60)):
            if len(found) == 5:
                os.kill(pid, signal.SIGKILL)
            found.append(square)
            pids.add(pid)
        assert found == [number * number for number in range(60)]
        assert len(pids) >= 2 and os.getpid() not in pids
        with pytest.raises(DataError, match="row 7 is wrong; correct it"):
            list(run(work.refuse, [7]))
        with pytest.raises(ClusterError, match=r"died 2 times at the same task, .*worker_memory"):
            list(run(work.die, [1]))
    assert said[0].startswith("Dask: 2 workers on this machine")
    assert not (tmp_path / SCRATCH).exists()
    left = {child.pid: child for child in psutil.Process().children(recursive=True)}
    commands = [left[pid].cmdline() for pid in left.keys() - before]
    assert not [each for each in commands if "spawn_main" in " ".join(each)]


@pytest.mark.slow
def test_a_running_cluster_is_used_and_left_running(tmp_path, monkeypatch):
    from distributed import Client, LocalCluster

    with LocalCluster(
        n_workers=1,
        threads_per_worker=1,
        host="127.0.0.1",
        dashboard_address=None,
        local_directory=str(tmp_path),
    ) as other:
        config = DaskConfig(scheduler=other.scheduler_address)
        check_cluster(config, tmp_path)
        with opened_cluster(config, tmp_path, ignore) as run:
            assert [square for square, _ in run(work.slow_square, [2, 3])] == [4, 9]
        with Client(other, set_as_default=False) as client:
            assert len(client.scheduler_info()["workers"]) == 1
        with pytest.raises(ClusterError, match=r"cannot read and write .*nowhere; put the run"):
            check_cluster(config, tmp_path / "nowhere")
        # The worker does not know of the change, so it does not tell the version.
        monkeypatch.setattr("twotower.workflows.cluster.cluster.PACKAGES", ("pytest",))
        with pytest.raises(ClusterError, match=r"has pytest not installed, this command \d"):
            check_cluster(config, tmp_path)
        monkeypatch.undo()
        other.scale(0)
        with Client(other, set_as_default=False) as client:
            while client.scheduler_info()["workers"]:
                time.sleep(0.1)
        with pytest.raises(ClusterError, match=r"has no workers; start some with `dask worker tcp"):
            check_cluster(config, tmp_path)
