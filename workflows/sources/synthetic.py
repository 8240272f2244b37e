"""Generate a data set with the shape of MovieLens-1M and known tastes.

Columns, sizes and distributions are those of MovieLens-1M; no row, title or link between ids
comes from it. Each user has a taste, which depends on gender, age and occupation and on a random
part; each item has a character, which depends on its genres and on a random part. Both are unit
vectors in a latent space. Users pick items without replacement with probability proportional to
exp(affinity + popularity) (Gumbel top-k: Kool et al. 2019, arXiv:1903.06059), and rate them by
affinity and by the item's quality. So popularity predicts a little, a model of tastes predicts
much more, and demographics help for users without history.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, Field, root_validator

from twotower.workflows.errors import DataError
from twotower.workflows.sources.base import IdTypes, OnMessage, Progress, Source, ignore
from twotower.workflows.sources.wanted import Wanted
from twotower.workflows.tables import Tables

GENRES = {  # name: percentage of the films that have it
    "Action": 13.0,
    "Adventure": 7.3,
    "Animation": 2.7,
    "Children's": 6.5,
    "Comedy": 31.0,
    "Crime": 5.4,
    "Documentary": 3.3,
    "Drama": 41.0,
    "Fantasy": 1.8,
    "Film-Noir": 1.1,
    "Horror": 8.8,
    "Musical": 2.9,
    "Mystery": 2.7,
    "Romance": 12.0,
    "Sci-Fi": 7.1,
    "Thriller": 12.7,
    "War": 3.7,
    "Western": 1.8,
}
GENRES_PER_ITEM = (0.52, 0.34, 0.11, 0.03)  # shares of items with 1, 2, 3, 4 genres
AGES = {1: 0.04, 18: 0.18, 25: 0.35, 35: 0.20, 45: 0.09, 50: 0.08, 56: 0.06}
FEMALE = 0.28  # share of the users
OCCUPATIONS = (12, 9, 4, 3, 13, 2, 4, 11, 0.5, 1.5, 3, 2, 6.5, 2.5, 5, 2.5, 4, 8, 1, 1, 4.5)
RATINGS = (0.056, 0.108, 0.261, 0.349, 0.226)  # shares of 1..5; their mean is 3.58
MIN_RATINGS = 20
ACTIVITY_SIGMA = 1.25  # log-normal spread of the number of ratings beyond MIN_RATINGS
POPULARITY_SIGMA = 2.1  # log-normal spread of the items' popularity
LATENT = 12  # dimensions of the latent space
TASTE_STRENGTH = 1.8  # standard deviation of a user's affinities, as logits
DEMOGRAPHIC_SHARE = 0.5  # share of the variance of tastes that demographics explain
GENRE_SHARE = 0.6  # share of the variance of characters that genres explain
FIRST_SECOND, SECONDS = 956_700_000, 90_000_000  # April 2000, almost three years
BLOCK = 256  # users per block: 256 x 3,883 float32 scores are 4 MB


class SyntheticConfig(BaseModel, extra="forbid"):
    """Size and seed of a synthetic data set. The default sizes are those of MovieLens-1M."""

    users: int = Field(6040, ge=2, le=10_000_000, description="Number of users.")
    items: int = Field(3883, ge=80, le=10_000_000, description="Number of items.")
    interactions: int = Field(
        1_000_000,
        ge=40,
        le=2**31 - 1,
        description="Number of ratings. The result differs from it by up to about one percent.",
    )
    seed: int = Field(42, ge=0, le=2**31 - 1, description="Random seed of the data set.")

    @root_validator(skip_on_failure=True)
    def _has_a_possible_size(cls, values: dict[str, Any]) -> dict[str, Any]:
        low, high = MIN_RATINGS * values["users"], values["users"] * values["items"] // 4
        if not low <= values["interactions"] <= high:
            raise ValueError(
                f"interactions is {values['interactions']}; for this number of users and items it "
                f"must be {low} ({MIN_RATINGS} per user) to {high} (a quarter of all pairs)"
            )
        return values


class SyntheticSource(Source):
    """Generated data, which needs no files."""

    name = "synthetic"

    def __init__(self, path: Path | None, settings: SyntheticConfig, wanted: Wanted | None = None):
        super().__init__(path, settings, wanted)

    @property
    def synthetic(self) -> bool:
        """Always."""
        return True

    def files(self) -> list[Path]:
        """No files."""
        return []

    def read(self, progress: Progress | None = None, on_message: OnMessage = ignore) -> Tables:
        """Generate the tables. `progress` counts users."""
        return synthesise(self.settings, progress)

    def read_update(
        self,
        folder: Path,
        id_types: IdTypes,
        progress: Progress | None = None,
        on_message: OnMessage = ignore,
    ) -> dict[str, pa.Table]:
        """Raise DataError: there is no new data."""
        raise DataError("source synthetic has no new data to read; make a run from a data set")


def synthesise(config: SyntheticConfig, progress: Progress | None = None) -> Tables:
    """Generate the tables.

    Parameters
    ----------
    config : SyntheticConfig
    progress : callable, optional
        Called with (users done, users in total).

    Returns
    -------
    Tables
        With the columns and types of MovieLens-1M; interactions are ordered by user.
    """
    streams = [np.random.default_rng(s) for s in np.random.SeedSequence(config.seed).spawn(6)]
    users, tastes = _make_users(config.users, streams[0])
    items, characters = _make_items(config.items, streams[1])
    appeal = streams[2].normal(0, POPULARITY_SIGMA, config.items).astype(np.float32)
    counts = _activity(config, streams[3])
    chosen, affinities = _choose(tastes, characters, appeal, counts, streams[4], progress)
    of_user = np.repeat(np.arange(config.users), counts)
    ratings = _rate(of_user, affinities, appeal[chosen], streams[5])
    interactions = pa.table(
        {
            "user_id": users["user_id"].to_numpy()[of_user],
            "item_id": items["item_id"].to_numpy()[chosen],
            "rating": ratings,
            "timestamp": _timestamps(of_user, counts, streams[5]),
        }
    )
    return Tables(interactions, users, items)


def _make_users(count: int, rng: np.random.Generator) -> tuple[pa.Table, np.ndarray]:
    """Make the user table and the tastes: unit vectors, float32, shape (users, LATENT)."""
    female = (rng.random(count) < FEMALE).astype(np.int64)
    age = rng.choice(len(AGES), count, p=list(AGES.values()))
    shares = np.asarray(OCCUPATIONS) / sum(OCCUPATIONS)
    occupation = rng.choice(len(OCCUPATIONS), count, p=shares)
    zips = np.sort(rng.choice(100_000, 3500, replace=False))
    zip_code = zips[(len(zips) * rng.random(count) ** 2).astype(np.int64)]
    explained = sum(
        weight * rng.normal(size=(size, LATENT))[values]
        for weight, size, values in (
            (1.0, 2, female),
            (1.0, len(AGES), age),
            (0.7, len(OCCUPATIONS), occupation),
        )
    )
    table = pa.table(
        {
            "user_id": _ids_with_gaps(count, rng),
            "gender": np.where(female == 1, "F", "M").tolist(),
            "age": np.asarray(list(AGES))[age],
            "occupation": occupation,
            "zip_code": [f"{code:05d}" for code in zip_code],
        }
    )
    return table, _blend(explained, DEMOGRAPHIC_SHARE, rng)


def _make_items(count: int, rng: np.random.Generator) -> tuple[pa.Table, np.ndarray]:
    """Make the item table and the characters: unit vectors, float32, shape (items, LATENT)."""
    ids = _ids_with_gaps(count, rng)
    year = 2000 - np.minimum(rng.exponential(14, count), 80).astype(np.int64)
    log_shares = np.log(list(GENRES.values()))
    keys = log_shares + rng.gumbel(size=(count, len(GENRES)))
    how_many = rng.choice(len(GENRES_PER_ITEM), count, p=GENRES_PER_ITEM) + 1
    rank = np.argsort(np.argsort(-keys, axis=1), axis=1)
    has = rank < how_many[:, None]
    names = np.asarray(list(GENRES))
    table = pa.table(
        {
            "item_id": ids,
            "title": [f"Film {i:04d} ({y})" for i, y in zip(ids, year, strict=True)],
            "year": year,
            "genres": pa.array([names[row].tolist() for row in has], pa.list_(pa.string())),
        }
    )
    explained = has @ rng.normal(size=(len(GENRES), LATENT))
    return table, _blend(explained, GENRE_SHARE, rng)


def _ids_with_gaps(count: int, rng: np.random.Generator) -> np.ndarray:
    """Make ascending int64 ids; about one in fifty is missing, as in MovieLens-1M."""
    return np.sort(rng.choice(count + count // 50 + 1, count, replace=False)) + 1


def _blend(explained: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Make unit vectors: `share` of their variance comes from `explained`, the rest is noise."""
    explained = explained - explained.mean(axis=0)
    own = rng.normal(size=explained.shape)
    mixed = np.sqrt(share) * explained / explained.std() + np.sqrt(1 - share) * own
    return (mixed / np.linalg.norm(mixed, axis=1, keepdims=True)).astype(np.float32)


def _activity(config: SyntheticConfig, rng: np.random.Generator) -> np.ndarray:
    """Draw the number of ratings per user, from MIN_RATINGS to 60 % of the catalogue."""
    extra = rng.lognormal(0, ACTIVITY_SIGMA, config.users)
    max_extra = max(int(0.6 * config.items), MIN_RATINGS) - MIN_RATINGS
    wanted = config.interactions - MIN_RATINGS * config.users
    scale = wanted / extra.sum()
    for _ in range(20):  # ratings that the cap takes from a few users go to the others
        capped = np.minimum(scale * extra, max_extra)
        scale *= wanted / max(capped.sum(), 1)
    return MIN_RATINGS + np.rint(capped).astype(np.int64)


def _choose(
    tastes: np.ndarray,
    characters: np.ndarray,
    appeal: np.ndarray,
    counts: np.ndarray,
    rng: np.random.Generator,
    progress: Progress | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Choose the rated items of each user.

    Returns the items (positions, int64) and their affinities (float32), one per rating, by user. A
    user's items are in random order, so the last one is not special.
    """
    ends = np.cumsum(counts)
    chosen = np.empty(ends[-1], dtype=np.int64)
    affinities = np.empty(ends[-1], dtype=np.float32)
    # Unit vectors in LATENT dimensions have products of variance 1 / LATENT.
    strength = np.float32(TASTE_STRENGTH * np.sqrt(LATENT))
    for start in range(0, len(counts), BLOCK):
        users = slice(start, start + BLOCK)
        affinity = strength * (tastes[users] @ characters.T)
        noise = rng.standard_exponential(affinity.shape, dtype=np.float32)
        keys = np.log(np.maximum(noise, np.float32(1e-30))) - affinity - appeal
        for row, (count, end) in enumerate(zip(counts[users], ends[users], strict=True)):
            picked = rng.permutation(np.argpartition(keys[row], count - 1)[:count])
            chosen[end - count : end] = picked
            affinities[end - count : end] = affinity[row, picked]
        if progress:
            progress(min(start + BLOCK, len(counts)), len(counts))
    return chosen, affinities


def _rate(
    of_user: np.ndarray, affinities: np.ndarray, appeal: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Rate 1 to 5, float32, with the shares RATINGS, by affinity and by the items' quality."""
    generosity = rng.normal(0, 0.5, of_user[-1] + 1)[of_user]
    score = (
        affinities / TASTE_STRENGTH
        + 0.3 * appeal / POPULARITY_SIGMA
        + generosity
        + rng.normal(0, 0.8, len(affinities))
    )
    limits = np.quantile(score, np.cumsum(RATINGS)[:-1])
    return (1 + np.searchsorted(limits, score)).astype(np.float32)


def _timestamps(of_user: np.ndarray, counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Make unix seconds, ascending per user: one session, mostly in the first months."""
    starts = FIRST_SECOND + SECONDS * rng.random(len(counts)) ** 4
    passed = np.cumsum(rng.exponential(30, len(of_user)))
    first = passed[np.cumsum(counts) - counts]
    return (starts[of_user] + passed - first[of_user]).astype(np.int64)
