"""The main job: find the data, run every step in order, and query a real server at the end."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.panel import Panel

from twotower.pipelines.config import CONFIGS, DEFAULT_CONFIG, Config, load_config
from twotower.pipelines.console import console, say, stage
from twotower.pipelines.errors import ConfigError
from twotower.pipelines.libraries import load_libraries
from twotower.pipelines.run import Run, write_atomically
from twotower.pipelines.timeline import (
    FILE,
    PLOT,
    Timeline,
    plot_timeline,
    recorded,
    timeline_table,
)

if TYPE_CHECKING:
    from twotower.pipelines.verdict.auto import Auto

DOWNLOADS = Path("data")


def choose(
    config: Path | None, data: Path | None, overrides: tuple[str, ...] = ()
) -> tuple[Config, str]:
    """Choose the configuration and the data of a run.

    Parameters
    ----------
    config : Path, optional
        A YAML file, or the name of one in configs/. If it is None, the data set that is found in
        `data` decides; without `data` it is twotower.yaml in the working directory, if there is
        one.
    data : Path, optional
        A folder or zip. If it is None, the data that the configuration names is used; without one,
        or with ml-1m, MovieLens-1M is downloaded if it has not been before.
    overrides : tuple of str
        "section.key=value", values in YAML.

    Returns
    -------
    config : Config
        If the download fails and `config` is None: that of the synthetic data set.
    line : str
        Where the data comes from.

    Raises
    ------
    ConfigError
        If the data does not exist, or needs a `config`.
    DataError
        If the data that `config` needs cannot be downloaded.
    """
    from twotower.workflows.ingest import SOURCES, detect_source, detectable
    from twotower.workflows.sources.data_path import is_remote

    if data is not None:
        if not is_remote(data) and not data.exists():
            raise ConfigError(f"--data {data}: no such file or folder")
        if config is not None:
            return load_config(config, overrides, data), f"data: {data}"
        if is_remote(data):
            raise ConfigError(
                f"--data {data}: pass --config, too; data sets are recognised on this machine only"
            )
        found = detect_source(data)
        if found is None:
            raise ConfigError(
                f"--data {data}: no known data set there; expected one of {detectable()}. For "
                "other data pass --config; `twotower init FILE` writes one"
            )
        name, place = found
        line = f"data: {place}, recognised as {SOURCES[name].contents}"
        return load_config(SOURCES[name].shipped_config(data), overrides, data), line
    found_here = config is None and DEFAULT_CONFIG.is_file()
    if found_here:
        config = DEFAULT_CONFIG
    if config is not None:
        chosen = load_config(config, overrides)
        if chosen.ingest.source != "ml-1m" or chosen.ingest.path is not None:
            line = f"data: {chosen.ingest.path or chosen.ingest.source}"
            return chosen, f"configuration: {config} in this folder" if found_here else line
    return _download(config, overrides)


def _download(config: Path | None, overrides: tuple[str, ...]) -> tuple[Config, str]:
    from twotower.workflows.errors import DataError
    from twotower.workflows.sources.movielens.download import fetch_movielens_1m

    try:
        with stage("download") as (report, result):
            archive = fetch_movielens_1m(DOWNLOADS, report)
            result(str(archive))
    except DataError as error:
        if config is not None:
            raise
        console.print(
            Panel(
                f"MovieLens-1M is not available: {escape(str(error))}\n\n"
                "Continuing with [bold]SYNTHETIC DATA[/]: generated users, films and ratings.\n"
                "It shows that everything runs; its metrics and recommendations mean nothing.\n"
                "To use real data: make run DATA=<folder or zip of MovieLens-1M>",
                title="SYNTHETIC DATA",
                border_style="bold red",
            )
        )
        return load_config(CONFIGS / "synthetic.yaml", overrides), "data: synthetic"
    path = config or CONFIGS / "ml-1m.yaml"
    return load_config(path, overrides, archive), f"data: {archive}"


def main_job(
    config: Config, path: Path | None = None, auto: Auto | None = None, refit: bool = False
) -> Run:
    """Ingest, preprocess, train, evaluate, export, publish, and ask a real Triton.

    Parameters
    ----------
    config : Config
    path : Path, optional
        The run folder; default: runs/<name>.
    auto : Auto, optional
        Try the recipes first and take the best one.
    refit : bool
        After training, train again on the valid part, too, see `refit_on_valid`.

    Returns
    -------
    Run
    """
    from twotower.pipelines.steps.query import demonstrate, example_users

    if refit and config.ranking.model is not None:
        raise ConfigError(
            "--refit: ranking.model learns from valid, which --refit would train the towers on; "
            "remove ranking.model, or leave --refit out"
        )
    if refit and config.split.train_on_valid:
        raise ConfigError(
            "--refit: split.train_on_valid is true, so that valid cannot choose the number of "
            "epochs; set it to false, or leave --refit out"
        )
    run = Run.create(config, path)
    with recorded() as timeline, run.writing("run"):
        say(f"run folder: {run.path}")
        fit_and_publish(run, auto, refit)
        demonstrate(run)
    write_atomically(run.path / FILE, timeline.to_json())
    console.print(timeline_table(timeline))
    console.print(
        f"[bold]done[/] in {timeline.seconds:.0f} s. Next: "
        f"{escape(_next(example_users(run, 1)[0]))}"
    )
    return run


def _next(user: object) -> str:
    """Return commands to try next: make's in the project's folder, otherwise our own."""
    if Path.cwd() == CONFIGS.parent:
        return f"make serve | make query USER={user} | make lab"
    return f"twotower query --user {shlex.quote(str(user))} | twotower serve"


def fit_and_publish(run: Run, auto: Auto | None = None, refit: bool = False) -> None:
    """Ingest, preprocess, train, rank, evaluate, export and publish.

    What the data and the settings make impossible is refused before TensorFlow is imported.

    Parameters
    ----------
    run : Run
    auto : Auto, optional
        Try the recipes after ingesting, and go on with the best one.
    refit : bool
        After training, train again on the valid part, too, see `refit_on_valid`.
    """
    from twotower.pipelines.ranking.rank import check_ranking, rank
    from twotower.pipelines.steps.evaluate import check_baselines, evaluate
    from twotower.pipelines.steps.export import export
    from twotower.pipelines.steps.ingest import ingest
    from twotower.pipelines.steps.preprocess import preprocess, split_ahead
    from twotower.pipelines.steps.publish import publish
    from twotower.pipelines.steps.query import shown_items
    from twotower.pipelines.steps.train import check_training, train
    from twotower.pipelines.verdict.auto import choose_recipe
    from twotower.workflows.cluster.cluster import check_cluster

    if run.config.ranking.model is not None:
        check_ranking(run.config)
    check_cluster(run.config.dask, run.path)
    ingest(run)
    shown_items(run)
    ahead = split_ahead(run)
    train_part = ahead[ahead["part"] == "train"]
    if auto is not None:
        choose_recipe(run, auto)
    check_training(run.config, train_part)
    check_baselines(run.config, train_part)
    with stage("import") as (_, result):
        load_libraries()
        result("TensorFlow and Merlin")
    if auto is None:
        preprocess(run)
    train(run)
    if refit:
        refit_on_valid(run)
    if run.config.ranking.model is not None:
        rank(run)
    evaluate(run)
    export(run)
    publish(run, anyway=True)


def refit_on_valid(run: Run) -> None:
    """Train new towers on train and valid, for the number of epochs that was best on valid.

    Parameters
    ----------
    run : Run
        With the step `train` done. Its settings change: `split.train_on_valid` and
        `training.epochs`. The notes of `train` keep what was chosen on valid as "chosen".
    """
    from twotower.pipelines.steps.preprocess import preprocess
    from twotower.pipelines.steps.train import train

    chosen = run.notes("train")
    epochs = chosen["best_epoch"]
    say(f"train again on train and valid: {epochs} {'epoch' if epochs == 1 else 'epochs'}")
    run.override(("split.train_on_valid=true", f"training.epochs={epochs}"))
    preprocess(run)
    train(run, chosen=chosen)


def show_timeline(run: Run) -> Timeline:
    """Print how long each step of the run's main job took, and plot it to logs/timeline.png."""
    timeline = Timeline.read(run.path / FILE)
    plot_timeline(timeline, f"{run.path.name}: {timeline.seconds:.0f} s", run.path / PLOT)
    console.print(timeline_table(timeline))
    say(f"plotted to {run.path / PLOT}")
    return timeline
