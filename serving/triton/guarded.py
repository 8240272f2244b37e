"""A Triton process that ends with the process that started it."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from twotower.serving.runtime.errors import ServingError
from twotower.serving.triton import guard
from twotower.serving.triton.scratch import Scratch

STOP_SECONDS = 15.0
"""Time that Triton has to stop before it is killed."""


class GuardedProcess:
    """A command that runs under a guard (see `serving.triton.guard`).

    Parameters
    ----------
    command : list of str
        The command and its arguments.
    environment : dict of str to str
        Its environment variables.
    scratch : Scratch
        Its working directory, which the guard removes when the command has ended.
    log : Path
        File for its output; replaced if it exists.

    Attributes
    ----------
    pid : int
        Process id of the command; 0 if it could not be started.

    Raises
    ------
    ServingError
        If the log cannot be written.
    """

    _status: int | None

    def __init__(
        self, command: list[str], environment: dict[str, str], scratch: Scratch, log: Path
    ) -> None:
        script = [sys.executable, "-I", "-S", guard.__file__]
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            output = log.open("wb")
        except OSError as error:
            raise ServingError(
                f"{error.filename}: {error.strerror}; the server's log is {log}: make room or make "
                "it writable"
            ) from error
        with output:
            self._guard = subprocess.Popen(
                [*script, str(scratch.path), str(STOP_SECONDS), *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                bufsize=0,
                env=environment,
                pass_fds=[scratch.lock],
                # A separate session, so that Ctrl-C reaches only this process, which then stops
                # the server.
                start_new_session=True,
            )
        assert self._guard.stdin and self._guard.stdout  # they are pipes
        self._stdin, self._stdout = self._guard.stdin, self._guard.stdout
        self.pid, self._status = 0, None
        try:
            self.pid = int(self._stdout.readline() or 0)
        except BaseException:  # Ctrl-C
            self.end(gently=False)
            raise

    @property
    def running(self) -> bool:
        """Whether the guard runs, and so the command."""
        return self._guard.poll() is None

    @property
    def status(self) -> int:
        """Exit status of a command that has ended; that of the guard if the guard was killed."""
        if self._status is None:
            self._status = int(self._stdout.readline() or self._guard.returncode)
        return self._status

    def end(self, gently: bool) -> None:
        """End the command.

        Parameters
        ----------
        gently : bool
            Whether it has `STOP_SECONDS` to stop; otherwise it is killed.
        """
        try:
            if gently:
                with suppress(BrokenPipeError):  # it has ended already
                    self._stdin.write(b"stop\n")
                self._guard.wait()
        finally:
            self._stdin.close()  # the guard kills what still runs
            if self._guard.wait() != 0 and self.pid:  # the guard itself was killed
                guard.kill_group(self.pid)
            self._stdout.close()
