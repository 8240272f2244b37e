"""The features of candidates, computed slowly for one candidate at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from twotower.serving.runtime.ranking.features import NEAREST
from twotower.serving.runtime.ranking.profiles import SMOOTHING


def features_of(
    place: int,
    candidates: Sequence[int],
    scores: Sequence[float],
    history: Sequence[int],
    *,
    vectors: np.ndarray,
    positives: np.ndarray,
    columns: Mapping[str, Sequence[Any]],
) -> list[float]:
    """The features of the candidate at a place, in the order of `CandidateFeatures.names`.

    `columns` have for each item a number, a list of values, or None.
    """
    item = candidates[place]
    given = [score for score in scores if score > -math.inf]
    mean = sum(given) / len(given)
    deviation = math.sqrt(sum((score - mean) ** 2 for score in given) / len(given))
    found = [
        scores[place],
        math.log(1 + place),
        scores[place] - scores[0],
        (scores[place] - mean) / deviation if deviation else 0.0,
    ]
    popularity = [math.log(1 + count) for count in positives]
    average = sum(popularity[i] for i in history) / len(history) if history else 0.0
    found += [
        popularity[item],
        math.log(1 + len(history)),
        average,
        popularity[item] - average if history else 0.0,
    ]
    cosines = sorted((_cosine(vectors[item], vectors[i]) for i in history), reverse=True)
    if history:
        near, middle = cosines[:NEAREST], sum(cosines) / len(cosines)
        square = sum((each - middle) ** 2 for each in cosines) / len(cosines)
        found += [cosines[0], sum(near) / len(near), middle, math.sqrt(square)]
    else:
        found += [0.0] * 4
    for values in columns.values():
        is_list = any(isinstance(each, list) for each in values)
        found += (_of_values if is_list else _of_numbers)(values, item, history, positives)
    return found


def _cosine(first: np.ndarray, second: np.ndarray) -> float:
    lengths = np.linalg.norm(first) * np.linalg.norm(second)
    return float(first @ second / lengths) if lengths else 0.0


def _of_numbers(
    values: Sequence[float | None], item: int, history: Sequence[int], positives: np.ndarray
) -> list[float]:
    known = [(value, n) for value, n in zip(values, positives, strict=True) if value is not None]
    total = sum(n for _, n in known)
    mean = sum(value * n for value, n in known) / total
    deviation = math.sqrt(sum((value - mean) ** 2 * n for value, n in known) / total)
    scaled = [None if value is None else (value - mean) / deviation for value in values]
    own = [scaled[i] for i in history if scaled[i] is not None]
    average = sum(own) / len(own) if own else 0.0
    spread = math.sqrt(sum((each - average) ** 2 for each in own) / len(own)) if own else 0.0
    value = scaled[item]
    above = value - average if value is not None and own else 0.0
    return [value or 0.0, above, spread]


def _of_values(
    values: Sequence[list | None], item: int, history: Sequence[int], positives: np.ndarray
) -> list[float]:
    lists = [set(each or []) for each in values]
    if not lists[item] or not history:
        return [0.0, 0.0]
    shares, lifts = [], []
    for value in lists[item]:
        share = sum(value in lists[i] for i in history) / len(history)
        everybody = sum(n for n, each in zip(positives, lists, strict=True) if value in each)
        everybody = everybody / sum(positives)
        shares.append(share)
        lifts.append(math.log((share + SMOOTHING) / (everybody + SMOOTHING)))
    return [sum(shares) / len(shares), sum(lifts) / len(lifts)]
