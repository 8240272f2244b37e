"""What the ranking step reports of the users held out: metrics in its notes, and a plot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from twotower.models.ranking.candidates import Candidates, ndcg
from twotower.models.ranking.fit import RankingModel
from twotower.models.ranking.metrics import auc, calibration, ranking_metrics, reliability_plot

METRICS, PLOT = "metrics.json", "reliability.png"


def measure(
    model: RankingModel, train: Candidates, held_out: Candidates, folder: Path
) -> dict[str, Any]:
    """Measure the model and the order of retrieval; write the metrics and the plot.

    Parameters
    ----------
    model : RankingModel
    train, held_out : Candidates
        Of different users.
    folder : Path

    Returns
    -------
    dict
        The notes of the step. "labels" has the AUC of each label if there are two, see
        `label_areas`.
    """
    mask = held_out.mask
    labels = held_out.labels[mask]
    groups = np.broadcast_to(np.arange(len(mask))[:, None], mask.shape)[mask]
    probabilities = model.probabilities(held_out)
    metrics = ranking_metrics(labels, probabilities[mask], groups)
    order = -np.arange(mask.shape[1]) * np.ones(mask.shape)
    notes = {
        "epochs": len(model.history["held_out"]),
        "users": len(train.users),
        "held_out": len(held_out.users),
        "ndcg@10 before": ndcg(held_out, order),
        "ndcg@10 after": ndcg(held_out, probabilities),
        "share of positives": float(train.labels[train.mask].mean()),
        "metrics": metrics.to_dict(),
    }
    if held_out.clicks is not None:
        of_labels = model.label_probabilities(held_out)
        notes["labels"] = label_areas(
            held_out.clicks[mask], labels, of_labels[mask], probabilities[mask]
        )
    (folder / METRICS).write_text(json.dumps(notes, indent=1) + "\n")
    plot = folder / PLOT
    reliability_plot({"users held out": calibration(labels, probabilities[mask])}, plot)
    return notes


def label_areas(
    first: np.ndarray, both: np.ndarray, probabilities: np.ndarray, served: np.ndarray
) -> dict[str, float | None]:
    """Compute the AUC of each label and of both.

    Parameters
    ----------
    first, both : ndarray of bool, shape (n,)
        Whether the first label is true, and whether both are.
    probabilities : ndarray of float, shape (n, 2)
        Of the first label, and of the second one given the first.
    served : ndarray of float, shape (n,)
        The probability of both.

    Returns
    -------
    dict of str to float or None
        "first", on all rows; "second given first", on the rows whose first label is true; "both",
        on all rows. None if these rows have one class.
    """
    return {
        "first": _area(first, probabilities[:, 0]),
        "second given first": _area(both[first], probabilities[first, 1]),
        "both": _area(both, served),
    }


def _area(labels: np.ndarray, scores: np.ndarray) -> float | None:
    has_both = labels.any() and not labels.all()
    return auc(labels, scores) if has_both else None
