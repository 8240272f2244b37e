"""Starts a server for another process and cleans up after both, however either of them ends.

A script of the standard library alone, because it starts in milliseconds:

    python -I -S guard.py <scratch folder> <stop seconds> <command> ...

It writes the command's process id to its standard output, and the exit status when the command has
ended and everything is cleaned up. A line on its standard input asks the command to end, with
<stop seconds> of time for it. The end of its standard input ends the command at once: this is also
what happens when the caller is killed.

The guard is the parent of the command and adopts what the command's process leaves behind, for
example the stub of Triton's Python backend, which would otherwise load its model for ever.
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
"""Stack of each thread of Triton, whose JSON reader recurses at every bracket; memory is used only
when it does."""
REAP_SECONDS = 5.0
SHARED_MEMORY = Path("/dev/shm")
LIBC = ctypes.CDLL(None)  # loaded here: a forked child should only call into it


def main(scratch: Path, stop_seconds: float, command: list[str]) -> None:
    """Run `command` until it ends or the caller wants it to end; then clean up."""
    LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1)
    woken = _wake_on_signals()
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        # Away from the caller's folder, which Python would import from.
        cwd=scratch,
        start_new_session=True,  # and so a process group of its own
        preexec_fn=partial(_prepare, os.getpid()),
    )
    try:
        _tell(process.pid)
        _await_end(process, woken, stop_seconds)
    finally:
        kill_group(process.pid)
        status = process.wait()
        _reap()
        remove(scratch)
        _tell(status)


def kill_group(group: int) -> None:
    """Kill every process of a process group that is still there."""
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def remove(scratch: Path) -> None:
    """Remove a scratch folder and the shared memory that is named after it."""
    shutil.rmtree(scratch, ignore_errors=True)
    for region in SHARED_MEMORY.glob(f"{scratch.name}*"):
        region.unlink(missing_ok=True)


def _await_end(process: subprocess.Popen, woken: int, stop_seconds: float) -> None:
    """Return when the command has ended or must be killed."""
    deadline = None
    while not _ended(process.pid):
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
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
    """Whether a child has ended; it is not reaped, so its number belongs to nobody else."""
    options = os.WEXITED | os.WNOHANG | os.WNOWAIT
    return os.waitid(os.P_PID, pid, options) is not None


def _wake_on_signals() -> int:
    """A file that becomes readable when a child ends; signals to end are left to the caller."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    # By a handler each, because the command would inherit an ignored signal.
    for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    return woken


def _reap() -> None:
    """Wait for the killed descendants, which have become children of this process."""
    deadline = time.monotonic() + REAP_SECONDS
    with suppress(ChildProcessError):
        while time.monotonic() < deadline:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(0.005)


def _tell(number: int) -> None:
    with suppress(OSError):  # the caller may be gone
        os.write(1, b"%d\n" % number)


def _prepare(parent: int) -> None:
    """In the child: have the kernel end it with the guard, and give it large stacks."""
    hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
    most = STACK_BYTES if hard == resource.RLIM_INFINITY else min(STACK_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_STACK, (most, hard))
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the call
        os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3:])
