"""The main job: data found, every step in order, a real answer at the end."""

from __future__ import annotations

from pathlib import Path

from rich.markup import escape
from rich.panel import Panel

from twotower.pipelines.config import CONFIGS, Config, load_config
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

DOWNLOADS = Path("data")


def choose(
    config: Path | None, data: Path | None, overrides: tuple[str, ...] = ()
) -> tuple[Config, str]:
    """The configuration and one line saying where its data comes from.

    With `data`: that folder; the configuration follows from what is in it. Without: what the
    configuration names, else ML-1M downloaded before, else the official download, else, without
    a network, the synthetic data set.
    """
    from twotower.workflows.ingest import detect_source, detectable

    if data is not None:
        if not data.exists():
            raise ConfigError(f"--data {data}: no such file or folder")
        found = detect_source(data)
        if config is None and found is None:
            raise ConfigError(
                f"--data {data}: no known data set there; expected one of {detectable()}. "
                "For other data pass --config"
            )
        path = config or CONFIGS / f"{found[0]}.yaml"
        chosen = load_config(path, overrides, data)
        return chosen, f"data: {data}"
    if config is not None:
        chosen = load_config(config, overrides)
        if chosen.ingest.source != "ml-1m" or chosen.ingest.path is not None:
            return chosen, f"data: {chosen.ingest.path or chosen.ingest.source}"
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
                f"MovieLens-1M could not be had: {escape(str(error))}\n\n"
                "Going on with [bold]SYNTHETIC DATA[/]: made-up users, films and ratings.\n"
                "It shows that everything runs; its metrics and recommendations mean nothing.\n"
                "For the real thing: make run DATA=<folder or zip of MovieLens-1M>",
                title="SYNTHETIC DATA",
                border_style="bold red",
            )
        )
        return load_config(CONFIGS / "synthetic.yaml", overrides), "data: synthetic"
    path = config or CONFIGS / "ml-1m.yaml"
    return load_config(path, overrides, archive), f"data: {archive}"


def main_job(config: Config, path: Path | None = None) -> Run:
    """Ingest, preprocess, train, evaluate, export, publish, and ask a real Triton."""
    from twotower.pipelines.steps.query import demonstrate, example_users

    run = Run.create(config, path)
    with recorded() as timeline, run.writing("run"):
        say(f"run folder: {run.path}")
        fit_and_publish(run)
        demonstrate(run)
    write_atomically(run.path / FILE, timeline.to_json())
    console.print(timeline_table(timeline))
    console.print(
        f"[bold]done[/] in {timeline.seconds:.0f} s. Next: "
        f"make serve | make query USER={example_users(run, 1)[0]} | make lab"
    )
    return run


def fit_and_publish(run: Run) -> None:
    """Ingest, preprocess, train, evaluate, export and publish.

    What the data and the settings make impossible is refused before TensorFlow is imported.
    """
    from twotower.pipelines.steps.evaluate import check_baselines, evaluate
    from twotower.pipelines.steps.export import export
    from twotower.pipelines.steps.ingest import ingest
    from twotower.pipelines.steps.preprocess import preprocess, split_ahead
    from twotower.pipelines.steps.publish import publish
    from twotower.pipelines.steps.query import shown_items
    from twotower.pipelines.steps.train import check_training, train

    ingest(run)
    shown_items(run)
    ahead = split_ahead(run)
    train_part = ahead[ahead["part"] == "train"]
    check_training(run.config, train_part)
    check_baselines(run.config, train_part)
    with stage("import") as (_, result):
        load_libraries()
        result("TensorFlow and Merlin")
    for step in (preprocess, train, evaluate, export, publish):
        step(run)


def show_timeline(run: Run) -> Timeline:
    """Print where the time of the run's main job went, and plot it to logs/timeline.png."""
    timeline = Timeline.read(run.path / FILE)
    plot_timeline(timeline, f"{run.path.name}: {timeline.seconds:.0f} s", run.path / PLOT)
    console.print(timeline_table(timeline))
    say(f"plotted to {run.path / PLOT}")
    return timeline
