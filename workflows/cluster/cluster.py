"""Worker processes by dask.distributed: started on this machine, or those of a running cluster."""

from __future__ import annotations

import importlib.util
import logging
import os
import platform
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twotower.workflows.cluster.config import DaskConfig
from twotower.workflows.cluster.tasks import RunTasks
from twotower.workflows.errors import ClusterError

if TYPE_CHECKING:
    from distributed import Client, Future

CONNECT_SECONDS = 10
START_SECONDS = 180
WAIT_SECONDS = 180
"""How long to wait while a cluster has no worker."""
ALLOWED_FAILURES = 3
"""How often the worker of a task may die before the task is given up."""
AHEAD = 4
"""Tasks per worker that are handed out before their results are used."""
SCRATCH = ".dask"
"""The folder for what workers on this machine put on the disk."""
PACKAGES = ("dask", "distributed", "numpy", "nvtabular", "pandas", "pyarrow", "two-tower-on-merlin")
"""The versions that the results depend on."""
PRELOAD = """
import signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
sys.modules.setdefault("tensorflow", None)
"""
"""What a worker on this machine does first.

After Ctrl-C, which a terminal sends to all, the command ends its workers. TensorFlow, which Merlin
imports if it can, would take half of a worker's memory and most of the time that it needs to start.
"""


@dataclass
class Cluster:
    """Worker processes that run tasks.

    Attributes
    ----------
    client : distributed.Client
    workers : int
        How many there are.
    """

    client: Client
    workers: int

    def run(self, function: Callable[[Any], Any], arguments: Iterable[Any]) -> Iterator[Any]:
        """Call `function` with each of `arguments` in the workers, see `RunTasks`.

        If a worker dies, its tasks are run again by another one.

        Raises
        ------
        ClusterError
            If workers die again and again, or none is left.
        """
        waiting: deque[Future] = deque()
        try:
            for argument in arguments:
                waiting.append(self.client.submit(function, argument, pure=False))
                if len(waiting) > AHEAD * self.workers:
                    yield self._result(waiting.popleft())
            while waiting:
                yield self._result(waiting.popleft())
        finally:
            self.client.cancel(list(waiting))

    def _result(self, future: Future) -> Any:
        from distributed import CancelledError, KilledWorker, TimeoutError

        alone_since = time.monotonic()
        while True:
            try:
                return future.result(timeout=1)
            except TimeoutError:
                if self.client.status == "running" and self.client.scheduler_info()["workers"]:
                    alone_since = time.monotonic()
                elif time.monotonic() - alone_since > WAIT_SECONDS:
                    raise ClusterError(
                        f"the Dask cluster has had no worker for {WAIT_SECONDS} seconds; start "
                        "workers, then run this command again"
                    ) from None
            except KilledWorker:
                raise ClusterError(
                    f"Dask workers died {ALLOWED_FAILURES + 1} times at the same task, probably "
                    "because memory ran out; give each more with dask.worker_memory, or use fewer "
                    "with dask.workers"
                ) from None
            except (CancelledError, OSError):
                raise ClusterError(
                    "the connection to the Dask scheduler is lost; see that it runs, then run this "
                    "command again"
                ) from None


@contextmanager
def opened_cluster(
    config: DaskConfig, folder: Path, on_message: Callable[[str], None]
) -> Iterator[RunTasks]:
    """Start workers, or connect to those of a running cluster, and end or leave them at the end.

    Parameters
    ----------
    config : DaskConfig
    folder : Path
        A folder on the disk, which workers on this machine may use, and which those of a running
        cluster must be able to read and write.
    on_message : callable
        Is told which workers are used.

    Yields
    ------
    callable
        What runs tasks, see `RunTasks`. `map` if there are no workers.

    Raises
    ------
    ClusterError
        If the cluster cannot be reached or used.
    """
    if config.scheduler is not None:
        with _connected(config.scheduler) as client:
            cluster = _checked(client, config.scheduler, folder)
            on_message(f"Dask: {cluster.workers} workers of {config.scheduler}")
            yield cluster.run
    elif config.workers:
        with _started(config, folder) as (client, link):
            on_message(f"Dask: {config.workers} workers on this machine{link}")
            yield Cluster(client, config.workers).run
    else:
        yield map


def check_cluster(config: DaskConfig, folder: Path) -> None:
    """Raise ClusterError if the running cluster that the settings name cannot be used."""
    if config.scheduler is not None:
        with _connected(config.scheduler) as client:
            _checked(client, config.scheduler, folder)


@contextmanager
def _connected(address: str) -> Iterator[Client]:
    from distributed import Client

    with _quiet():
        try:
            client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError, TypeError) as error:
            raise ClusterError(
                f"dask.scheduler: no Dask scheduler answers at {address} within {CONNECT_SECONDS} "
                f"seconds ({type(error).__name__}); start one with `dask scheduler`, or correct "
                "the address"
            ) from None
        try:
            yield client
        finally:
            client.close()


def _checked(client: Client, address: str, folder: Path) -> Cluster:
    """Check that there are workers, with our versions, which can read and write `folder`."""
    workers = client.scheduler_info()["workers"]
    if not workers:
        raise ClusterError(
            f"dask.scheduler: {address} has no workers; start some with `dask worker {address} "
            "--nthreads 1`"
        )
    try:
        about = client.run(_about, str(folder))
    except Exception as error:  # whatever another version, or a lack of this project, causes
        reason = (str(error).splitlines() or [""])[0]
        raise ClusterError(
            f"dask.scheduler: the workers of {address} cannot run this project "
            f"({type(error).__name__}: {reason}); install it on them, in the same version"
        ) from None
    ours = _about(str(folder))
    for worker, theirs in sorted(about.items()):
        for name, known in ours["versions"].items():
            if theirs["versions"].get(name) != known:
                raise ClusterError(
                    f"dask.scheduler: worker {worker} has {name} "
                    f"{theirs['versions'].get(name) or 'not installed'}, this command {known}; "
                    "install the same version on both"
                )
        if not theirs["has_folder"]:
            raise ClusterError(
                f"dask.scheduler: worker {worker} cannot read and write {folder}; put the run "
                "folder on a disk that all workers see under this path"
            )
    return Cluster(client, len(workers))


def _about(folder: str) -> dict[str, Any]:
    """The versions on a worker, and whether it can read and write a folder."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return {"versions": versions, "has_folder": os.access(folder, os.R_OK | os.W_OK | os.X_OK)}


@contextmanager
def _started(config: DaskConfig, folder: Path) -> Iterator[tuple[Client, str]]:
    """Start workers on this machine; yield a client and the words on the dashboard."""
    import dask
    from distributed import Client, TimeoutError

    scratch = folder / SCRATCH
    shutil.rmtree(scratch, ignore_errors=True)  # of a command that was killed
    has_dashboard = importlib.util.find_spec("bokeh") is not None
    options = {
        "distributed.scheduler.allowed-failures": ALLOWED_FAILURES,
        # By default Dask gives up a worker that takes 15 seconds to start again.
        "distributed.deploy.lost-worker-timeout": f"{START_SECONDS}s",
        # By default workers give freed memory back at once, and take 40 % longer for that.
        "distributed.nanny.pre-spawn-environ": {"OMP_NUM_THREADS": 1, "OPENBLAS_NUM_THREADS": 1},
    }
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, scratch, ignore_errors=True)
        stack.enter_context(_quiet())
        stack.enter_context(dask.config.set(options))
        cluster = stack.enter_context(
            _cluster_class()(
                n_workers=0,
                threads_per_worker=1,
                host="127.0.0.1",
                memory_limit=config.worker_memory,
                dashboard_address="127.0.0.1:0" if has_dashboard else None,
                local_directory=str(scratch),
                silence_logs=logging.CRITICAL,
                preload=[PRELOAD],
            )
        )
        # Otherwise results would go through the scheduler, which is in this process.
        client = stack.enter_context(Client(cluster, set_as_default=False, direct_to_workers=True))
        cluster.scale(config.workers)
        try:
            client.wait_for_workers(config.workers, timeout=START_SECONDS)
        except TimeoutError:
            raise ClusterError(
                f"dask.workers: {config.workers} workers have not started within {START_SECONDS} "
                "seconds. Use fewer; and in a script of your own, put what it does below "
                "`if __name__ == '__main__':`, because each worker imports the script"
            ) from None
        client.run(_import_libraries)
        yield client, f", {cluster.dashboard_link}" if has_dashboard else ""


def _cluster_class() -> Any:
    """LocalCUDACluster with a GPU, otherwise LocalCluster."""
    from merlin.core.compat import HAS_GPU

    if HAS_GPU:
        from dask_cuda import LocalCUDACluster

        return LocalCUDACluster
    from distributed import LocalCluster

    return LocalCluster


def _import_libraries() -> None:
    """Import what tasks need, so that the first ones take no longer than others."""
    import nvtabular  # noqa: F401


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the logs of Dask and its event loop out of the output; what matters is raised."""
    import distributed  # noqa: F401, so that its loggers are there

    names = [name for name in logging.root.manager.loggerDict if name.startswith("distributed")]
    loggers = [logging.getLogger(name) for name in (*names, "asyncio", "tornado")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
