"""Starts a server for another process, and cleans up when either of them ends.

A script that uses only the standard library, so that it starts in milliseconds:

    python -I -S guard.py <scratch folder> <stop seconds> <command> ...

It writes the command's process id to its standard output. When the command has ended and everything
is cleaned up, it writes the exit status. A line on its standard input stops the command, which then
has <stop seconds> to end before it is killed. It is also killed when its models have ended, because
Triton looks only once per second whether they have. End of file on its standard input, which also
occurs if the caller is killed, kills the command at once.

The guard is the parent of the command and adopts its orphaned descendants, for example the process
of Triton's Python backend, which would otherwise never end.
"""

from __future__ import annotations

import ctypes
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
STACK_BYTES = 1 << 29
"""Stack size of Triton's threads, because its JSON reader recurses at each bracket. The memory is
only used when it does."""
REAP_SECONDS = 5.0
LOOK_SECONDS = 0.02
"""Interval between looks at the models of a command that stops."""
LAST_SECONDS = 0.1
"""Time for the last answers after the models have ended; a model ends once it has given its own."""
SHARED_MEMORY = Path("/dev/shm")
ENVIRONMENTS, ENVIRONMENT_SECONDS = Path("/tmp"), 20.0
"""Where Triton makes a folder, and how soon after its start."""
LIBC = ctypes.CDLL(None)  # loaded before the fork, after which a child should load nothing


def main(scratch: Path, stop_seconds: float, command: list[str]) -> None:
    """Run `command` until it ends or the caller stops it; then clean up."""
    LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1)
    woken, started = _wake_on_signals(), time.time()
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        # Not the caller's folder, because Python would import modules from it.
        cwd=scratch,
        start_new_session=True,  # and therefore a separate process group
        preexec_fn=partial(_prepare, os.getpid()),
    )
    try:
        _report(process.pid)
        _await_end(process, woken, stop_seconds)
    finally:
        kill_group(process.pid)
        status = process.wait()
        _reap()
        remove(scratch)
        remove_environments(started)
        _report(status)


def kill_group(group: int) -> None:
    """Kill all processes of a process group."""
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def remove(scratch: Path) -> None:
    """Remove a scratch folder and the shared memory named after it."""
    shutil.rmtree(scratch, ignore_errors=True)
    for region in SHARED_MEMORY.glob(f"{scratch.name}*"):
        region.unlink(missing_ok=True)


def remove_environments(started: float) -> None:
    """Remove the folder that Triton makes for packed environments, which it leaves if it is killed.

    Its place is fixed and its name drawn, so it is known by its time and because it is empty, as no
    model here has a packed environment.

    Parameters
    ----------
    started : float
        When Triton was started, in seconds since 1970.
    """
    for folder in ENVIRONMENTS.glob("python_env_" + "[0-9A-Za-z]" * 6):
        with suppress(OSError):  # it is not empty, or somebody else's
            if started - 1 <= folder.stat().st_mtime <= started + ENVIRONMENT_SECONDS:
                folder.rmdir()


def _await_end(process: subprocess.Popen, woken: int, stop_seconds: float) -> None:
    """Wait until the command has ended or must be killed."""
    deadline: float | None = None
    while not _ended(process.pid):
        left = None
        if deadline is not None:
            if not _has_children(process.pid):
                deadline = min(deadline, time.monotonic() + LAST_SECONDS)
            left = min(deadline - time.monotonic(), LOOK_SECONDS)
            if left <= 0:
                return
        ready, _, _ = select.select([sys.stdin, woken], [], [], left)
        if woken in ready:
            os.read(woken, 512)
        if sys.stdin in ready:
            if not os.read(sys.stdin.fileno(), 512):
                return
            process.terminate()
            deadline = time.monotonic() + stop_seconds


def _ended(pid: int) -> bool:
    """Whether a child has ended. It is not reaped, so its process id is not reused."""
    options = os.WEXITED | os.WNOHANG | os.WNOWAIT
    return os.waitid(os.P_PID, pid, options) is not None


def _has_children(pid: int) -> bool:
    """Whether a process has a child that has not ended; True if the system does not say."""
    children: list[str] = []
    files = list(Path(f"/proc/{pid}/task").glob("*/children"))
    for file in files:
        with suppress(OSError):  # the thread has ended
            children += file.read_text().split()
    return not files or any(_runs(child) for child in children)


def _runs(pid: str) -> bool:
    try:
        # The state follows the name, which is in parentheses and may contain some.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _wake_on_signals() -> int:
    """Return a file that becomes readable when a child ends; ignore signals to terminate."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    # By handlers, because the command would inherit ignored signals.
    for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    return woken


def _reap() -> None:
    """Wait for the killed descendants, which are now children of this process."""
    deadline = time.monotonic() + REAP_SECONDS
    with suppress(ChildProcessError):
        while time.monotonic() < deadline:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(0.005)


def _report(number: int) -> None:
    """Write a number to standard output, for the caller."""
    with suppress(OSError):  # the caller may be gone
        os.write(1, b"%d\n" % number)


def _prepare(parent: int) -> None:
    """In the child: have the kernel kill it if the guard ends, and enlarge its stacks."""
    hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
    size = STACK_BYTES if hard == resource.RLIM_INFINITY else min(STACK_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_STACK, (size, hard))
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the guard ended before the call
        os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3:])
