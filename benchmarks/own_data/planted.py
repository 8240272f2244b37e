"""Four data sets with a planted answer: tastes, popularity only, noise, and drift in time."""

from __future__ import annotations

import numpy as np
import pandas as pd

DAY = 86_400
START = 1_600_000_000


def tastes(users: int = 2000, items: int = 300, seed: int = 0) -> pd.DataFrame:
    """Users and items have eight hidden traits; users take what fits theirs, popular or not."""
    rng = np.random.default_rng(seed)
    wishes, traits = rng.normal(size=(users, 8)), rng.normal(size=(items, 8))
    fit = np.exp(0.8 * wishes @ traits.T) * _zipf(items)
    rows = [pair for user in range(users) for pair in _taken(user, fit[user], rng)]
    return _frame(rows, rng)


def popularity_only(users: int = 2000, items: int = 300, seed: int = 0) -> pd.DataFrame:
    """All users take items with the same probabilities, and some items are far more popular."""
    rng = np.random.default_rng(seed)
    rows = [pair for user in range(users) for pair in _taken(user, _zipf(items), rng)]
    return _frame(rows, rng)


def noise(users: int = 2000, items: int = 300, seed: int = 0) -> pd.DataFrame:
    """All users take all items with the same probability."""
    rng = np.random.default_rng(seed)
    rows = [pair for user in range(users) for pair in _taken(user, np.ones(items), rng)]
    return _frame(rows, rng)


def drift(users: int = 2000, items: int = 300, seed: int = 0) -> pd.DataFrame:
    """Items are in fashion for some weeks of a year; a user comes for a month and follows it."""
    rng = np.random.default_rng(seed)
    peaks, rows, times = rng.uniform(-30, 395, items), [], []
    for user in range(users):
        first = rng.uniform(0, 335)
        taken = _items(np.exp(-np.abs(peaks - 15 - first) / 20), rng)
        rows += [(user, item) for item in taken]
        times.append(START + DAY * (first + rng.uniform(0, 30, len(taken))))
    frame = pd.DataFrame(rows, columns=["user_id", "item_id"])
    return frame.assign(timestamp=np.concatenate(times).astype(np.int64))


def _zipf(items: int) -> np.ndarray:
    return 1 / (1 + np.arange(items)) ** 0.8


def _items(weight: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rng.choice(len(weight), rng.integers(10, 30), replace=False, p=weight / weight.sum())


def _taken(user: int, weight: np.ndarray, rng: np.random.Generator) -> list[tuple[int, int]]:
    return [(user, item) for item in _items(weight, rng)]


def _frame(rows: list[tuple[int, int]], rng: np.random.Generator) -> pd.DataFrame:
    """The pairs, at random times within a year."""
    frame = pd.DataFrame(rows, columns=["user_id", "item_id"])
    return frame.assign(timestamp=START + rng.integers(0, 365 * DAY, len(frame)))
