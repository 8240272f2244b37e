"""`twotower`: each verb calls one function that a notebook or a test can call too.

Nothing heavy is imported here: `--help` answers at once, a verb imports what it needs.
"""

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
from collections.abc import Iterator
from pathlib import Path

import click

from twotower.pipelines.errors import OURS

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
TRACEBACK = "TWOTOWER_TRACEBACK"
# What an operating system answers whose disk, permissions or limits do not allow it.
NOT_ALLOWED = (
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


class Commands(click.Group):
    """Says in a sentence what went wrong; a traceback is for those who ask for it."""

    def main(self, *arguments, **options):
        with _noted_interrupt() as interrupted:
            try:
                return super().main(*arguments, **options)
            except (click.ClickException, click.exceptions.Exit, click.Abort):
                raise
            except Exception as error:
                if interrupted:  # a library may raise another error when interrupted during import
                    sys.exit(_say_interrupted())
                if os.environ.get(TRACEBACK):
                    raise
                if not (isinstance(error, BrokenPipeError) and _nobody_reads()):
                    click.secho(f"error: {explained(error)}", fg="red", err=True)
                if isinstance(error, OSError):
                    _end_output()
                sys.exit(1)

    def invoke(self, context: click.Context):
        try:
            return super().invoke(context)
        except KeyboardInterrupt:
            context.exit(_say_interrupted())


def _say_interrupted() -> int:
    """Says what an interrupt leaves; the exit status that shells know it by."""
    click.echo(
        "\ninterrupted; finished steps are kept and the step in progress changed nothing. "
        "`twotower train` continues an interrupted training from its last saved state"
    )
    return 130


@contextlib.contextmanager
def _noted_interrupt() -> Iterator[list[int]]:
    """Yields a list that is filled when Ctrl-C is pressed in the block."""
    interrupted: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:  # ignored, or somebody else's
        yield interrupted
        return

    def interrupt(number: int, frame: object) -> None:
        interrupted.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


def explained(error: Exception) -> str:
    """The error message; for an unexpected error also where its traceback was saved."""
    if isinstance(error, OURS):
        return str(error)
    if isinstance(error, OSError) and error.errno in NOT_ALLOWED:
        where = error.filename or "the output"
        return f"{where}: {error.strerror}; make room or allow it, then run the same command again"
    if isinstance(error, ModuleNotFoundError):
        return (
            f"{error}; `make env` installs what is needed, `twotower doctor` says what is missing"
        )
    reason = str(error).strip().split("\n")[0]
    text = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
    if isinstance(error, MemoryError):
        return f"{text}; it needs more memory than there is. Smaller batches need less"
    return (
        f"{text}. This is a fault of the project, not of what you typed; {_kept(error)}: please "
        f"report it with that. With {TRACEBACK}=1 it is printed here"
    )


def _kept(error: Exception) -> str:
    """Where the traceback of `error` is now."""
    lines = [f"twotower {' '.join(sys.argv[1:])}\n", *traceback.format_exception(error)]
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="twotower-", suffix=".log", delete=False, errors="replace"
        ) as file:
            file.writelines(lines)
    except OSError:
        return "there was no room for its traceback:\n" + "".join(lines)
    return f"its traceback is in {file.name}"


def _nobody_reads() -> bool:
    """Whether the other end of standard output is closed, as `| head -1` does."""
    poll = select.poll()
    poll.register(1, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _end_output() -> None:
    """Drop what could not be written: Python would try, and fail, again as it ends."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def quiet() -> None:
    """Keep TensorFlow's and Merlin's greetings and warnings off the console.

    They warn of their own deprecated imports, of being untraced, of a missing GPU. Has to happen
    before they are imported; set TF_CPP_MIN_LOG_LEVEL yourself to hear TensorFlow again.
    """
    if "TF_CPP_MIN_LOG_LEVEL" in os.environ:
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    warnings.filterwarnings("ignore")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    with contextlib.suppress(ImportError):  # `doctor` works where TensorFlow is missing
        from absl import logging as absl_logging

        absl_logging.set_verbosity(absl_logging.ERROR)


@click.group(cls=Commands, context_settings=CONTEXT)
def main() -> None:
    """Two-tower retrieval on NVIDIA Merlin, from interactions to a Triton server's answers."""
    quiet()


run_option = click.option(
    "--run", "folder", type=click.Path(path_type=Path), help="Run folder; default: the last run."
)
set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override any config key; repeatable, or several in one, separated by spaces.",
)
config_option = click.option(
    "--config", type=click.Path(path_type=Path), help="YAML file, see configs/."
)
data_option = click.option(
    "--data", type=click.Path(path_type=Path), help="Folder or zip of MovieLens-1M or -100K."
)


def _open(folder: Path | None, overrides: tuple[str, ...] = (), keep: bool = True):
    from twotower.pipelines.run import Run

    run = Run(folder) if folder else Run.last()
    run.override(overrides, keep)
    if folder:
        run.remember()
    return run


@main.command()
@config_option
@data_option
@click.option("--run", "folder", type=click.Path(path_type=Path), help="Default: runs/<name>.")
@set_option
def run(config, data, folder, overrides) -> None:
    """The main job: every step, then recommendations from a real Triton."""
    from twotower.pipelines.job import choose, main_job

    chosen, line = choose(config, data, overrides)
    click.echo(line)
    main_job(chosen, folder)


@main.command()
@config_option
@data_option
@click.option("--run", "folder", type=click.Path(path_type=Path), help="Default: runs/<name>.")
@set_option
def ingest(config, data, folder, overrides) -> None:
    """Read and check the data; makes the run folder when --config or --data is given."""
    from twotower.pipelines.steps.ingest import ingest as step

    if config is None and data is None:
        step(_open(folder, overrides))
        return
    from twotower.pipelines.job import choose
    from twotower.pipelines.run import Run

    chosen, line = choose(config, data, overrides)
    click.echo(line)
    step(Run.create(chosen, folder))


@main.command()
@run_option
@set_option
def preprocess(folder, overrides) -> None:
    """Filter positives, split, fit the NVTabular workflow, encode."""
    from twotower.pipelines.steps.preprocess import preprocess as step

    step(_open(folder, overrides))


@main.command()
@run_option
@set_option
@click.option(
    "--resume",
    is_flag=True,
    help="Go on with a finished training, to more epochs; an interrupted one goes on by itself.",
)
def train(folder, overrides, resume) -> None:
    """Fit the two towers."""
    from twotower.pipelines.steps.train import train as step

    step(_open(folder, overrides), resume)


@main.command()
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder or zip with what is new, in the format of the run's data.",
)
@run_option
@set_option
@click.option(
    "--anyway",
    is_flag=True,
    help="Take the data in and publish the result although numbers or changed rows look like a "
    "mistake, or the model answers worse after it (see update.max_loss).",
)
def update(data, folder, overrides, anyway) -> None:
    """The daily loop: learn what is new on top of what is there, and publish it."""
    from twotower.pipelines.steps.update import update as step

    step(_open(folder, overrides), data, anyway)


@main.command()
@run_option
@set_option
def evaluate(folder, overrides) -> None:
    """Measure the towers beside the baselines on test."""
    from twotower.pipelines.steps.evaluate import evaluate as step

    step(_open(folder, overrides))


@main.command()
@run_option
@set_option
def export(folder, overrides) -> None:
    """Index the items and add a version to the Triton model repository."""
    from twotower.pipelines.steps.export import export as step

    step(_open(folder, overrides))


@main.command()
@run_option
@click.option("--version", "number", type=click.IntRange(min=1), help="Default: the newest.")
def publish(folder, number) -> None:
    """Serve an exported version from now on; a running server loads it at once."""
    from twotower.pipelines.steps.publish import publish as step

    step(_open(folder), number)


@main.command()
@run_option
def rollback(folder) -> None:
    """Serve the version again that was published before."""
    from twotower.pipelines.steps.publish import rollback as step

    step(_open(folder))


@main.command()
@run_option
def versions(folder) -> None:
    """List the exported versions: what they are made of, which is published, which answers."""
    from twotower.pipelines.steps.publish import versions as step

    step(_open(folder))


@main.command()
@run_option
def timeline(folder) -> None:
    """Print where the time of the run's main job went, and plot it."""
    from twotower.pipelines.job import show_timeline

    show_timeline(_open(folder))


@main.command()
@run_option
@click.option(
    "--users",
    type=click.IntRange(min=1),
    default=500,
    show_default=True,
    help="How many to compare.",
)
@click.option(
    "-k", type=click.IntRange(min=1), help="Items a user; default: 100, or as many as are served."
)
def verify(folder, users, k) -> None:
    """Compare what the published version answers with brute force over the reloaded towers."""
    from twotower.pipelines.steps.verify import verify as step

    step(_open(folder), users, k)


@main.command()
@run_option
@set_option
def serve(folder, overrides) -> None:
    """Serve what is published with Triton until Ctrl-C."""
    from twotower.pipelines.steps.serve import serve as step

    # Not kept: an address to listen on is of this server, not of the run.
    step(_open(folder, overrides, keep=False))


@main.command()
@run_option
@click.option(
    "--user",
    "users",
    type=click.IntRange(-(2**63), 2**63 - 1),
    multiple=True,
    required=True,
    help="Repeatable.",
)
@click.option("-k", type=click.IntRange(min=1), help="Items a user; default: serving.default_k.")
@click.option("--protocol", type=click.Choice(["http", "grpc"]), default="http", show_default=True)
@click.option("--seen/--no-seen", default=False, help="Also items the user has already seen.")
def query(folder, users, k, protocol, seen) -> None:
    """Ask the run's server (starting one if none runs) and print the answer."""
    from twotower.pipelines.steps.query import query as step

    step(_open(folder), users, k, protocol, filter_seen=not seen)


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
@data_option
@click.option(
    "--docs", type=click.Path(path_type=Path), help="Folder to copy the report to, by its name."
)
@set_option
def compare(file, data, docs, overrides) -> None:
    """Train the variants in FILE (see configs/compare) and report how they compare."""
    from twotower.pipelines.experiments.compare import compare as step

    sys.exit(1 if step(file, data, docs, overrides).failed else 0)


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
@data_option
def tune(file, data) -> None:
    """Search for better settings in the space that FILE declares (see configs/tune)."""
    from twotower.pipelines.experiments.tune import tune as step

    step(file, data)


@main.command()
@click.option("--server", is_flag=True, help="How the run's running server is.")
@run_option
def doctor(server, folder) -> None:
    """Versions, GPU, Triton: what is there, what is missing; or how the server is."""
    from twotower.pipelines.doctor import doctor, doctor_server

    sys.exit(0 if (doctor_server(_open(folder)) if server else doctor()) else 1)


if __name__ == "__main__":
    main()
