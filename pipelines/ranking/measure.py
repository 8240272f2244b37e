"""What the ranking step reports of the users held out: metrics in its notes, and a plot."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from twotower.models.ranking.candidates import Candidates, ndcg
from twotower.models.ranking.fit import RankingModel
from twotower.models.ranking.metrics import (
    auc,
    calibration,
    log_loss,
    ranking_metrics,
    reliability_plot,
)
from twotower.pipelines.ranking.impressions import BOTH, FIRST

if TYPE_CHECKING:
    import pandas as pd

METRICS, PLOT = "metrics.json", "reliability.png"
SECOND = "second given first"
"""The second label, of rows whose first label is true."""
SMOOTHING = 10.0
"""Number of average rows that are added to those of a user or an item."""

Scores = Mapping[str, np.ndarray]
"""Probabilities float [n, c] of each label."""


def measure(
    model: RankingModel,
    train: Candidates,
    held_out: Candidates,
    folder: Path,
    earlier: pd.DataFrame | None = None,
) -> dict[str, Any]:
    """Measure the model and the order of retrieval; write the metrics and the plot.

    Parameters
    ----------
    model : RankingModel
    train, held_out : Candidates
        Of different users.
    folder : Path
    earlier : DataFrame, optional
        The train part of a log of impressions, see `load_log`: the baselines are its rates.

    Returns
    -------
    dict
        The notes of the step. "metrics" are of what is served. "labels" has those of each label if
        there are two, at the positions if there are any; of a log of impressions "baselines" has
        those of a constant and of the biases of users and items.
    """
    mask = held_out.mask
    labels = held_out.labels[mask]
    groups = np.broadcast_to(np.arange(len(mask))[:, None], mask.shape)[mask]
    probabilities = model.probabilities(held_out)
    metrics = ranking_metrics(labels, probabilities[mask], groups)
    order = -np.arange(mask.shape[1]) * np.ones(mask.shape)
    notes: dict[str, Any] = {
        "epochs": len(model.history["held_out"]),
        "users": len(train.users),
        "held_out": len(held_out.users),
        "ndcg@10 before": ndcg(held_out, order),
        "ndcg@10 after": ndcg(held_out, probabilities),
        "share of positives": float(train.labels[train.mask].mean()),
        "metrics": metrics.to_dict(),
    }
    if model.bias is not None:
        shown = model.probabilities_as_shown(held_out)[mask]
        notes["metrics at the positions"] = ranking_metrics(labels, shown, groups).to_dict()
    if held_out.clicks is not None:
        first, second = np.moveaxis(model.label_probabilities(held_out), -1, 0)
        both = model.probabilities_as_shown(held_out)
        of_labels = {FIRST: first, SECOND: second, BOTH: both}
        notes["labels"] = label_metrics(held_out, of_labels)
    if earlier is not None:
        notes["baselines"] = {
            "constant": label_metrics(held_out, _constant(train, mask.shape)),
            "biases of user and item": label_metrics(held_out, bias_scores(earlier, held_out)),
        }
    (folder / METRICS).write_text(json.dumps(notes, indent=1) + "\n")
    plot = folder / PLOT
    reliability_plot({"users held out": calibration(labels, probabilities[mask])}, plot)
    return notes


def label_metrics(found: Candidates, scores: Scores) -> dict[str, dict[str, float | None]]:
    """Compute the metrics of each label.

    Parameters
    ----------
    found : Candidates
    scores : mapping of str to ndarray of float, shape (n, c)
        Probabilities: `FIRST`, on all rows; `SECOND`, on the rows whose first label is true; and
        `BOTH`, on all rows. With one label, only `BOTH` is read.

    Returns
    -------
    dict
        By label "auc", "log_loss", "rows" and "positives"; the AUC of one class is None.
    """
    metrics = {}
    for name, (rows, labels) in _label_rows(found).items():
        truth, given = labels[rows], scores[name][rows]
        has_both = truth.any() and not truth.all()
        metrics[name] = {
            "auc": auc(truth, given) if has_both else None,
            "log_loss": log_loss(truth, given) if len(truth) else None,
            "rows": len(truth),
            "positives": int(truth.sum()),
        }
    return metrics


def bias_scores(earlier: pd.DataFrame, found: Candidates) -> dict[str, np.ndarray]:
    """Predict labels by the rates of each user and item in earlier rows.

    Parameters
    ----------
    earlier : DataFrame
        Rows of `load_log`.
    found : Candidates

    Returns
    -------
    dict of str to ndarray of float, shape (n, c)
        Probabilities, as `label_metrics` reads them: the log-odds of all, plus by how much those of
        the user and of the item differ from it. The product of the first two is `BOTH`.
    """
    clicked = earlier[earlier[FIRST]]
    first = _biases(earlier, earlier[FIRST].to_numpy(float), found)
    second = _biases(clicked, clicked[BOTH].to_numpy(float), found)
    return {FIRST: first, SECOND: second, BOTH: first * second}


def _biases(rows: pd.DataFrame, labels: np.ndarray, found: Candidates) -> np.ndarray:
    mean = (labels.sum() + 0.5) / (len(labels) + 1)
    total = _log_odds(mean)
    places = {"user_row": found.users[:, None], "item_row": np.maximum(found.items, 0)}
    for name, place in places.items():
        own, size = rows[name].to_numpy(), int(place.max()) + 1
        count = np.bincount(own, minlength=size)
        true = np.bincount(own, weights=labels, minlength=size)
        rate = (true + SMOOTHING * mean) / (count + SMOOTHING)
        total = total + _log_odds(rate[place]) - _log_odds(mean)
    return 1 / (1 + np.exp(-total))


def _log_odds(share: Any) -> Any:
    return np.log(share) - np.log1p(-share)


def _constant(train: Candidates, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Return the share of each label among the training users, in this shape."""
    return {
        name: np.full(shape, labels[rows].mean())
        for name, (rows, labels) in _label_rows(train).items()
    }


def _label_rows(found: Candidates) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return of each label the rows that it is measured on, and their labels, bool [n, c]."""
    mask = found.mask
    if found.clicks is None:
        return {BOTH: (mask, found.labels)}
    return {
        FIRST: (mask, found.clicks),
        SECOND: (mask & found.clicks, found.labels),
        BOTH: (mask, found.labels),
    }
