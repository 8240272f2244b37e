"""The evaluation step: the trained towers and the baselines, measured on the test part."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from rich.markup import escape
from rich.panel import Panel

from twotower.pipelines.console import console, say, stage
from twotower.pipelines.errors import ConfigError
from twotower.pipelines.evaluation.evaluator import Evaluator, Masked
from twotower.pipelines.libraries import load_libraries
from twotower.pipelines.run import Run, ranking_step, writes
from twotower.pipelines.steps.preprocess import load_ids, load_tables
from twotower.pipelines.verdict.facts import gather, overlap_of
from twotower.pipelines.verdict.per_user import OneMetric, both, check_user_file, user_file
from twotower.pipelines.verdict.verdict import MODEL, Verdict, judge
from twotower.pipelines.verdict.words import objection, paragraph

if TYPE_CHECKING:
    from twotower.models.evaluation.metrics import Metrics
    from twotower.models.evaluation.ranking import Ranker, Scorer
    from twotower.pipelines.config import Config

TWO_STAGE = "two-stage"
"""The name of towers and ranking model together."""
PROTOCOL = "{catalogue} ({candidates:,} candidates), seen items masked, mean of {users:,} users"
WITH_CONTEXT = ", each pair in its own context"


class Convention(NamedTuple):
    """Another way of masking seen items."""

    masked: Masked
    title: str


CONVENTIONS = {
    "metrics_not_masked": Convention("none", "not masked: seen items are candidates, too"),
    "metrics_others_masked": Convention("other", "seen items masked, except the one to be found"),
}
"""How the next item is also measured, by name in reports/metrics.json."""

QUERY_TIMES = {
    False: "; the time of a query is that of its pair",
    True: "; the time of a query is that of the user's positive before it",
}
"""Which time a query has, by whether the split leaves the last positives out."""


@writes
def evaluate(run: Run, per_user: Path | None = None) -> dict[str, dict]:
    """Measure the model and the baselines on the test part, and say what the numbers mean.

    Writes reports/metrics.json and prints a table and the verdict. With `split.method`
    leave_last_out, the metrics are also computed by `CONVENTIONS`.

    Parameters
    ----------
    run : Run
    per_user : Path, optional
        A parquet file to write, with the metrics of each user for each model.

    Returns
    -------
    dict of str to dict
        Name of each model to its metrics.
    """
    run.verified("ingest", "preprocess", "train", *ranking_step(run.config))
    if per_user is not None:
        check_user_file(per_user)
    from twotower.models.evaluation.metrics import metrics_table

    with stage("evaluate") as (report, result), run.step("evaluate") as (out, notes):
        report(0, 1, "import")
        load_libraries()
        report(0, 1, "load the towers")
        evaluator = Evaluator(run, "test")
        kept = OneMetric(run.config.training.monitor, run.config.evaluation.ks)
        metrics = {}
        others: dict[str, dict[str, Metrics]] = {
            convention: {} for convention in other_conventions(run, evaluator)
        }
        with _user_file(run, evaluator, per_user) as write:
            for name in (MODEL, *_second_stage(run), *evaluator.baselines()):
                scorer, ranked = _scorer(run, evaluator, name, report), _progress(name, report)
                metrics[name] = evaluator.evaluate(scorer, ranked, both(kept, write, name))
                for convention, found in others.items():
                    masked = CONVENTIONS[convention].masked
                    found[name] = evaluator.evaluate(scorer, ranked, masked=masked)
        report(0, 1, "verdict")
        if TWO_STAGE in metrics:
            notes["second_stage"] = _gain(kept)
        verdict = _verdict(run, evaluator, kept)
        protocol = _protocol(run, evaluator, metrics[MODEL])
        values = {name: m.to_dict() for name, m in metrics.items()}
        notes |= {"protocol": protocol, "metrics": values, "verdict": verdict.to_dict()}
        notes["standard_errors"] = {name: m.errors for name, m in metrics.items()}
        for convention, found in others.items():
            notes[convention] = {name: m.to_dict() for name, m in found.items()}
        compared = "recipes" in run.notes("preprocess")  # see pipelines.verdict.auto
        notes["verdict"]["text"] = paragraph(verdict, run.config, compared)
        notes["verdict"]["objection"] = objection(verdict)
        (out / "reports" / "metrics.json").write_text(json.dumps(notes, indent=1))
        result(protocol["ranking"])
    shown = run.config.evaluation.ks[:2]
    table = metrics_table(metrics, _title(protocol), shown)
    table.caption = f"test part of: {protocol['split']}{_error(metrics[MODEL], kept.name)}"
    console.print(table)
    if TWO_STAGE in metrics:
        say(_described(notes["second_stage"]))
    for convention, found in others.items():
        console.print(metrics_table(found, CONVENTIONS[convention].title, shown[:1]))
    color = "red" if notes["verdict"]["objection"] else "green"
    panel = Panel(escape(notes["verdict"]["text"]), title="verdict", border_style=color)
    console.print(panel, soft_wrap=False)
    return values


def _scorer(
    run: Run, evaluator: Evaluator, name: str, report: Callable[..., None]
) -> Scorer | Ranker:
    """The trained towers, or a baseline that is fitted."""
    from twotower.models.evaluation.baselines import fit_baseline
    from twotower.models.training.saving import load

    report(0, 1, f"{name}: {'vectors' if name in (MODEL, TWO_STAGE) else 'fit'}")
    if name in (MODEL, TWO_STAGE):
        model = load(run.path / "model").model
        towers = evaluator.tower_scorer(model, *load_tables(run))
        if name == MODEL:
            return towers
        from twotower.pipelines.ranking.reranked import TwoStage

        return TwoStage(run, evaluator, towers)
    return fit_baseline(name, evaluator.train, run.config.training.seed)


def _progress(name: str, report: Callable[..., None]) -> Callable[[int, int], None]:
    """Report how many users are ranked."""

    def ranked(done: int, total: int) -> None:
        report(done, total, f"{name}: rank", f"{done:,} of {total:,} users")

    return ranked


def _error(metrics: Metrics, name: str) -> str:
    """The standard error of the model's metric `name`, for the caption of the table."""
    error = metrics.errors.get(name)
    return "" if error is None else f"\nstandard error of the {MODEL}'s {name}: {error:.4f}"


def _user_file(
    run: Run, evaluator: Evaluator, path: Path | None
) -> contextlib.AbstractContextManager[Any]:
    """The file of the users' metrics, see `user_file`; nothing without a path."""
    if path is None:
        return contextlib.nullcontext()
    from twotower.workflows.ids import RunIds

    ids = RunIds.read(run.path / "data").users
    sizes = np.diff(evaluator.relevant.indptr).astype(np.int64)
    return user_file(path, run.config.evaluation.ks, load_ids(run)[0], ids, sizes)


def _verdict(run: Run, evaluator: Evaluator, kept: OneMetric) -> Verdict:
    facts = gather(
        relevant=evaluator.relevant,
        train=evaluator.train,
        candidates=evaluator.candidates,
        split=run.config.split.method,
        overlap=overlap_of(run),
    )
    values = {name: each for name, each in kept.values.items() if name != TWO_STAGE}
    return judge(kept.name, values, facts)


def _second_stage(run: Run) -> list[str]:
    """The name of towers and ranking model together, if there is a ranking model."""
    return [] if run.config.ranking.model is None else [TWO_STAGE]


def _gain(kept: OneMetric) -> dict[str, Any]:
    """How much the ranking model changes the metric of the users, with a 95 % interval."""
    from twotower.models.evaluation.significance import paired_difference

    towers, both_stages = (np.asarray(kept.values[name]) for name in (MODEL, TWO_STAGE))
    if len(towers) < 2:
        return {"metric": kept.name, "difference": float(both_stages.mean() - towers.mean())}
    found = paired_difference(both_stages, towers)
    return {
        "metric": kept.name,
        "difference": found.mean,
        "low": found.low,
        "high": found.high,
        "before": float(towers.mean()),
    }


def _described(gain: dict[str, Any]) -> str:
    """Say how much the ranking model changes the metric."""
    text = f"ranking the towers' candidates changes {gain['metric']} by {gain['difference']:+.4f}"
    if "low" not in gain:
        return text
    return f"{text} (95 % interval {gain['low']:+.4f} to {gain['high']:+.4f})"


def other_conventions(run: Run, evaluator: Evaluator) -> list[str]:
    """List the `CONVENTIONS` by which a run is measured, too.

    Parameters
    ----------
    run : Run
    evaluator : Evaluator
        Of its test part.

    Returns
    -------
    list of str
    """
    if run.config.split.method != "leave_last_out":
        return []
    # Without repeats, the item to be found is never masked.
    return [
        name for name, each in CONVENTIONS.items() if evaluator.repeats or each.masked != "other"
    ]


def chosen_on(run: Run) -> str:
    """Describe the metric that chose the epoch, and on how many users it was measured.

    Parameters
    ----------
    run : Run
        With the step `train` done.

    Returns
    -------
    str
    """
    notes, again = run.notes("train"), ""
    if run.config.split.train_on_valid:
        if "chosen" not in notes:
            return "nothing: the number of epochs was given, and valid was trained on, too"
        notes, again = notes["chosen"], ", then trained on train and valid"
    users = notes.get("valid_users")
    of_users = f" of {users:,} users" if users else ""
    return f"valid {run.config.training.monitor}{of_users}{again}"


def check_baselines(config: Config, train: pd.DataFrame) -> None:
    """Check before training that no baseline is too expensive for the training part.

    Parameters
    ----------
    config : Config
    train : DataFrame
        The training part of the split.

    Raises
    ------
    ConfigError
        If `ease` would have to invert too large a matrix.
    """
    from twotower.models.evaluation.baselines import EASE_MAX_ITEMS

    items = train[config.features.item_id].nunique()
    if "ease" in (config.evaluation.baselines or ()) and items > EASE_MAX_ITEMS:
        raise ConfigError(
            f"evaluation.baselines: ease takes up to {EASE_MAX_ITEMS:,} items, and the training "
            f"part has {items:,}; take it out (itemknn has no such limit)"
        )


def _protocol(run: Run, evaluator: Evaluator, metrics: Metrics) -> dict[str, Any]:
    """How the metrics were measured, for the report."""
    catalogue = "items of the part" if evaluator.config.catalogue == "part" else "full catalogue"
    ranking = PROTOCOL.format(catalogue=catalogue, **metrics.to_dict())
    ranking += WITH_CONTEXT if evaluator.queries is not None else ""
    if run.config.features.time:
        ranking += QUERY_TIMES[run.config.split.method == "leave_last_out"]
    if evaluator.withdrawn_items:
        ranking += (
            f"; {evaluator.withdrawn_items:,} withdrawn items and their "
            f"{evaluator.withdrawn_pairs:,} pairs left out"
        )
    if evaluator.repeats:
        ranking += f"; {evaluator.repeats:,} pairs to be found are masked as seen, so never found"
    return {
        "part": "test",
        "data": run.notes("ingest")["summary"],
        "synthetic": run.notes("ingest")["synthetic"],
        "split": run.notes("preprocess")["split"]["protocol"],
        "ranking": ranking,
        "chosen_on": chosen_on(run),
    }


def _title(protocol: dict[str, Any]) -> str:
    """The name of the data set, with a warning if it is synthetic."""
    label = "SYNTHETIC DATA: these numbers say nothing about real people\n"
    return (label if protocol["synthetic"] else "") + protocol["data"]
