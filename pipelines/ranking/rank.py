"""The ranking step: train a model that orders what the towers find."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from twotower.models.ranking.options import TWO_LABELS, lacks_embeddings
from twotower.pipelines.console import say, stage
from twotower.pipelines.errors import ConfigError
from twotower.pipelines.evaluation.evaluator import Evaluator
from twotower.pipelines.libraries import load_libraries
from twotower.pipelines.run import Run, writes
from twotower.pipelines.steps.preprocess import load_tables
from twotower.pipelines.steps.processed import ITEMS, SCHEMA
from twotower.serving.item_columns import check_columns
from twotower.serving.runtime.ranking.features import OF_LIST, OF_RETRIEVAL

if TYPE_CHECKING:
    import pandas as pd
    from merlin.schema import Schema

    from twotower.models.ranking.candidates import Candidates
    from twotower.models.ranking.fit import RankingModel
    from twotower.pipelines.config import Config

FOLDER = "ranking"
MIN_USERS = 10


@writes
def rank(run: Run) -> dict[str, Any]:
    """Train the ranking model on candidates of the towers, or on interactions, of the valid part.

    Writes ranking/: the model, its metrics on users held out, and a plot of its probabilities.

    Parameters
    ----------
    run : Run
        With the step `train` done.

    Returns
    -------
    dict
        The notes of the step.

    Raises
    ------
    ConfigError
        If the settings have no ranking model, or one that cannot be trained.
    """
    check_ranking(run.config)
    run.verified("ingest", "preprocess", "train")
    items = pq.read_schema(run.path / "data" / ITEMS)
    check_columns(items, run.config.ranking.profile, "ranking.profile")
    with stage("rank") as (report, result), run.step("rank") as (out, notes):
        report(0, 1, "import")
        load_libraries()
        from twotower.models.ranking.saving import save_ranking
        from twotower.pipelines.ranking.measure import measure

        report(0, 1, "candidates")

        def progress(done: int, total: int, text: str) -> None:
            report(done, total, "training", text)

        def finding(done: int, total: int) -> None:
            report(done, total, "candidates", f"{done:,} of {total:,} users")

        train, held_out, earlier = _rows(run, finding)
        model = _fit(run, train, held_out, progress)
        report(phase="save the ranking model")
        save_ranking(model, run.config.ranking, out / FOLDER)
        notes |= measure(model, train, held_out, out / FOLDER, earlier)
        result(
            f"{run.config.ranking.model}, {notes['epochs']} epochs; of {notes['held_out']:,} users "
            f"held out, NDCG@10 on valid {notes['ndcg@10 before']:.4f} before and "
            f"{notes['ndcg@10 after']:.4f} after ranking, AUC {notes['metrics']['auc']:.4f}"
        )
        if notes["ndcg@10 after"] < notes["ndcg@10 before"]:
            say("the ranking model makes the order of the users held out worse")
    return notes


def check_ranking(config: Config) -> None:
    """Raise ConfigError if the settings have no ranking model that can be trained."""
    if config.ranking.model is None:
        raise ConfigError(
            "ranking.model is not set, so there is no ranking model to train; set it, such as "
            "--set ranking.model=mlp"
        )
    users, items = embedded_columns(config)
    if wrong := lacks_embeddings(config.ranking.model, users=len(users), items=len(items)):
        raise ConfigError(wrong)


def embedded_columns(config: Config) -> tuple[list[str], list[str]]:
    """The features of users and of items that the ranking model embeds."""
    features = config.features
    user, item = features.sides
    known = [
        {user.id, *features.user},
        {item.id, *features.item, *features.item_multi_hot},
    ]
    wanted = config.ranking.embedded
    if wanted is None:
        return [*features.user], [*features.item, *features.item_multi_hot]
    if unknown := [name for name in wanted if name not in known[0] | known[1]]:
        names = ", ".join(sorted(known[0] | known[1]))
        raise ConfigError(
            f"ranking.embedded: {unknown[0]} is no feature or id of users or items; there are "
            f"{names}"
        )
    return [n for n in wanted if n in known[0]], [n for n in wanted if n in known[1]]


def _rows(run: Run, progress: Any) -> tuple[Candidates, Candidates, pd.DataFrame | None]:
    """Return the rows of the training users and of those held out.

    And, of a log of impressions, the rows of the train part, for the baselines.
    """
    from twotower.models.training.saving import load
    from twotower.pipelines.ranking.candidates import CandidateSource, candidate_features
    from twotower.pipelines.ranking.impressions import impressions, load_log
    from twotower.pipelines.ranking.interactions import with_clicks

    config, evaluator = run.config.ranking, Evaluator(run, "valid")
    log = load_log(run) if config.rows == "interactions" else None
    with_positives = np.flatnonzero(np.diff(evaluator.relevant.indptr))
    valid = None if log is None else log[log["part"] == "valid"]
    users = with_positives if valid is None else np.unique(valid["user_row"])
    if len(users) < MIN_USERS:
        rows = "positives" if valid is None else "interactions"
        raise ConfigError(
            f"ranking.model: only {len(users)} users have {rows} in valid, from which the "
            "ranking model learns; give split.ratios a larger valid part, or remove ranking.model"
        )
    seed = run.config.training.seed
    users = np.random.default_rng(seed).permutation(users)[: config.max_users]
    scorer = evaluator.tower_scorer(load(run.path / "model").model, *load_tables(run))
    features = candidate_features(run, scorer.items)
    source = CandidateSource(evaluator, scorer, features, config.candidates)
    if valid is not None:
        found = impressions(valid, users, source, config, seed)
    else:
        found = source.candidates(users, progress)
        if config.model in TWO_LABELS:
            found = with_clicks(found, run, evaluator.relevant.shape)
    count = min(max(1, round(len(users) * config.held_out)), len(users) - 1)
    train, held_out = found.take(np.arange(count, len(users))), found.take(np.arange(count))
    return train, held_out, None if log is None else log[log["part"] == "train"]


def _fit(run: Run, train: Candidates, held_out: Candidates, progress: Any) -> RankingModel:
    from merlin.schema.io.tensorflow_metadata import TensorflowMetadata

    from twotower.models.ranking.candidates import ndcg, row_auc
    from twotower.models.ranking.fit import Measure, RankingModel, fit_ranking
    from twotower.models.ranking.networks import build_network

    text = TensorflowMetadata.from_proto_text_file(str(run.path / "processed"), SCHEMA)
    users, items = embedded_schemas(run.config, text.to_merlin_schema())
    config, seed = run.config.ranking, run.config.training.seed
    means, deviations = train.moments()
    chosen_by: Measure = ndcg
    if config.rows == "interactions":
        chosen_by = row_auc
        # An impression is not one of a list of candidates, so the network must not read these.
        deviations[[OF_RETRIEVAL.index(name) for name in OF_LIST]] = np.inf
    network = build_network(users, items, means, deviations, config, seed=seed)
    model = RankingModel(network, *load_tables(run))
    return fit_ranking(model, train, held_out, config, seed, progress, chosen_by)


def embedded_schemas(config: Config, schema: Schema) -> tuple[Schema, Schema]:
    """The columns of users and of items that the ranking model embeds."""
    from twotower.workflows.features.names import internal_name

    users, items = (
        schema.select_by_name([internal_name(name) for name in names])
        for names in embedded_columns(config)
    )
    return users, items
