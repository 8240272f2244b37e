"""The group of commands: help in sections, errors without tracebacks, Ctrl-C."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import click

from twotower.models.distributed.launcher import place, prepare
from twotower.pipelines.errors import is_ours

TRACEBACK = "TWOTOWER_TRACEBACK"
# Errors of the operating system that the user can resolve: disk, permissions, limits.
USER_ERRNOS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENAMETOOLONG,
    errno.ENOTDIR,
    errno.ELOOP,
)


class Verb(click.Command):
    """A command with a section in the group's help and an example in its own help."""

    def __init__(self, *args: Any, section: str, example: str, **options: Any):
        super().__init__(*args, **options)
        self.section, self.example = section, example

    def get_short_help_str(self, limit: int = 0) -> str:
        """Return the first paragraph of the help, whole at any width."""
        first = (self.help or "").partition("\n\n")[0]
        return " ".join(first.split()).removesuffix(".")

    def format_epilog(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the example as it is, without wrapping."""
        lines = self.example.splitlines()
        with formatter.section("Example" if len(lines) == 1 else "Examples"):
            for line in lines:
                formatter.write(f"{'':{formatter.current_indent}}{line}\n")


class Commands(click.Group):
    """Reports an error as one message; prints a traceback only on request."""

    def verb(self, section: str, example: str) -> Callable[[Callable[..., Any]], click.Command]:
        """Return a decorator that adds a function as a `Verb`."""
        return self.command(cls=Verb, section=section, example=example)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs by section, in the order in which they were added."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for name, command in self.commands.items():
            section = getattr(command, "section", "Commands")
            sections.setdefault(section, []).append((name, command.get_short_help_str()))
        width = max(map(len, self.commands))
        for section, rows in sections.items():
            with formatter.section(section):
                formatter.write_dl([(name.ljust(width), text) for name, text in rows])

    def format_epilog(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the epilog as it is, without wrapping."""
        formatter.write(f"\n{self.epilog}\n")

    def main(self, *args: Any, **options: Any) -> Any:
        """Run the command line; an error ends the process with a message and status 1."""
        with _recorded_interrupts() as interrupts:
            try:
                return super().main(*args, **options)
            except (click.ClickException, click.exceptions.Exit, click.Abort):
                raise
            except Exception as error:
                if interrupts:  # a library may raise another error when interrupted during import
                    sys.exit(_print_interrupted())
                if os.environ.get(TRACEBACK):
                    raise
                if not (isinstance(error, BrokenPipeError) and _stdout_is_closed()):
                    click.secho(f"error: {explained(error)}", fg="red", err=True)
                if isinstance(error, OSError):
                    _discard_stdout()
                sys.exit(1)

    def invoke(self, context: click.Context) -> Any:
        """Run the chosen command; Ctrl-C ends it with a message and status 130."""
        try:
            return super().invoke(context)
        except KeyboardInterrupt:
            context.exit(_print_interrupted())


def _print_interrupted() -> int:
    """Say what an interrupt leaves behind; return the exit status that shells expect."""
    click.echo(
        "\ninterrupted; finished steps are kept and the step in progress changed nothing. "
        "`twotower train` continues an interrupted training from its last saved state",
        err=True,
    )
    return 130


@contextlib.contextmanager
def _recorded_interrupts() -> Iterator[list[int]]:
    """Yield a list to which each Ctrl-C in the block adds its signal number."""
    interrupts: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:  # SIGINT is ignored or handled by the caller
        yield interrupts
        return

    def interrupt(number: int, frame: object) -> None:
        interrupts.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, before)


def explained(error: Exception) -> str:
    """Return the error message; for an unexpected error also say where its traceback is.

    Parameters
    ----------
    error : Exception
        What a command raised.

    Returns
    -------
    str
        One message, usually one line.
    """
    if is_ours(error):
        return str(error)
    if isinstance(error, OSError) and error.errno in USER_ERRNOS:
        where = error.filename or "the output"
        return (
            f"{where}: {error.strerror}; free space or change the permissions, then run the same "
            "command again"
        )
    if isinstance(error, ModuleNotFoundError):
        return f"{error}; run `make env` to install it; `twotower doctor` lists what is missing"
    reason = str(error).strip().split("\n")[0]
    text = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
    if isinstance(error, MemoryError):
        return f"{text}; there is not enough memory, smaller batches need less"
    return (
        f"{text}. This is a bug in this project, not a mistake in your command; "
        f"{_saved_traceback(error)}. Please open an issue and attach it. "
        f"Set {TRACEBACK}=1 to print it here"
    )


def _saved_traceback(error: Exception) -> str:
    """Save the traceback of `error` to a temporary file; return a phrase that says where it is."""
    lines = [f"twotower {' '.join(sys.argv[1:])}\n", *traceback.format_exception(error)]
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="twotower-", suffix=".log", delete=False, errors="replace"
        ) as file:
            file.writelines(lines)
    except OSError:
        return "its traceback could not be saved:\n" + "".join(lines)
    return f"its traceback is in {file.name}"


def _stdout_is_closed() -> bool:
    """Whether the reader of standard output has gone, as with `| head -1`."""
    poll = select.poll()
    poll.register(1, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _discard_stdout() -> None:
    """Drop output that could not be written: Python would try to write it again at exit."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def start_worker(verb: str | None) -> None:
    """Set up this process if `horovodrun` has started several; only `twotower train` may be.

    Parameters
    ----------
    verb : str, optional
        What was called.

    Raises
    ------
    ClickException
        If it is another verb.
    """
    own = place()
    if own.size == 1:
        return
    if verb != "train":
        raise click.ClickException(
            f"several workers can run `twotower train` only; run `twotower {verb}` without "
            "horovodrun"
        )
    prepare()
    if own.rank:  # errors go to stderr; everything else is what the first worker prints
        _discard_stdout()


def quiet() -> None:
    """Keep start-up messages and warnings of TensorFlow and Merlin off the console.

    They are about their own deprecated imports, untraced functions and a missing GPU. Call this
    before importing them. Set TF_CPP_MIN_LOG_LEVEL to see TensorFlow's messages.
    """
    if "TF_CPP_MIN_LOG_LEVEL" in os.environ:
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    warnings.filterwarnings("ignore")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    with contextlib.suppress(ImportError):  # `doctor` works without TensorFlow
        from absl import logging as absl_logging

        absl_logging.set_verbosity(absl_logging.ERROR)
