"""The features of candidates: how well each fits the user's history and stands among the others.

Training and serving run this code, so that the ranking model reads the same numbers in both.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..filters.columns import ItemColumns
from ..index import StoredVectors, inverse_lengths
from .profiles import PROFILES, NumberProfile, ValueProfile, profile_of

NEAREST = 5
"""Number of the most similar items of a history whose mean similarity is a feature."""
OF_RETRIEVAL = ("score", "log of the rank", "score below the best", "standardised score")
OF_LIST = OF_RETRIEVAL[1:]
"""Features that compare a candidate with the others of its list."""
OF_POPULARITY = (
    "log popularity",
    "log length of the history",
    "mean log popularity of the history",
    "log popularity above the history's mean",
)
OF_SIMILARITY = (
    "largest similarity to the history",
    "mean similarity to the nearest of the history",
    "mean similarity to the history",
    "deviation of the similarity to the history",
)
FILE = "candidates.npz"


class History(NamedTuple):
    """The items of each user's history, as positions in the catalogue.

    Attributes
    ----------
    positions : ndarray of int, shape (m,)
        Those of all users, one user after the other.
    counts : ndarray of int64, shape (n,)
        How many each user has.
    """

    positions: np.ndarray
    counts: np.ndarray


class CandidateFeatures:
    """Computes the features of candidates.

    Parameters
    ----------
    vectors : ndarray of float32, shape (n_items, D), or StoredVectors
        The items' vectors. Similarity is their cosine.
    popularity : ndarray of float32, shape (n_items,)
        log(1 + number of training positives) of each item.
    profiles : mapping of str to NumberProfile or ValueProfile
        Columns that are compared with the history.

    Attributes
    ----------
    names : list of str
        What the features are.
    """

    def __init__(
        self,
        vectors: np.ndarray | StoredVectors,
        popularity: np.ndarray,
        profiles: Mapping[str, NumberProfile | ValueProfile],
    ) -> None:
        self.scale = inverse_lengths(vectors)
        self.vectors, self.popularity, self.profiles = vectors, popularity, dict(profiles)
        self.names = [
            *OF_RETRIEVAL,
            *OF_POPULARITY,
            *OF_SIMILARITY,
            *(f"{column}: {name}" for column, each in profiles.items() for name in each.names),
        ]

    @classmethod
    def of(
        cls, vectors: np.ndarray, positives: np.ndarray, columns: ItemColumns
    ) -> CandidateFeatures:
        """Prepare the features from the number of positives of each item, int [n_items]."""
        profiles = {name: profile_of(column, positives) for name, column in columns.columns.items()}
        return cls(vectors, np.log1p(positives).astype(np.float32), profiles)

    def compute(self, candidates: np.ndarray, scores: np.ndarray, history: History) -> np.ndarray:
        """Return the features of the candidates of n users.

        Parameters
        ----------
        candidates : ndarray of int, shape (n, c)
            Positions of items, best first; those of padding are of any item.
        scores : ndarray of float32, shape (n, c)
            Descending; -inf for padding, whose features are 0.
        history : History

        Returns
        -------
        ndarray of float32, shape (n, c, len(names))
        """
        given = np.isfinite(scores)
        features = np.zeros((*candidates.shape, len(self.names)), np.float32)
        users = np.repeat(np.arange(len(candidates)), history.counts)
        widths = [len(each) for each in (OF_RETRIEVAL, OF_POPULARITY, OF_SIMILARITY)]
        widths += [len(profile.names) for profile in self.profiles.values()]
        parts = np.split(features, np.cumsum(widths)[:-1], axis=2)  # views
        _fill_retrieval(parts[0], scores, given)
        self._fill_popularity(parts[1], candidates, history, users)
        self._fill_similarity(parts[2], candidates, history)
        for part, profile in zip(parts[3:], self.profiles.values(), strict=True):
            profile.fill(part, candidates, history.positions, users)
        features[~given] = 0
        return features

    def _fill_popularity(
        self, features: np.ndarray, candidates: np.ndarray, history: History, users: np.ndarray
    ) -> None:
        given = self.popularity[history.positions]
        sums = np.bincount(users, weights=given, minlength=len(candidates))
        mean = (sums / np.maximum(history.counts, 1)).astype(np.float32)[:, None]
        own, has_history = self.popularity[candidates], history.counts[:, None] > 0
        features[..., 0] = own
        features[..., 1] = np.log1p(history.counts)[:, None]
        features[..., 2] = mean
        np.copyto(features[..., 3], own - mean, where=has_history)

    def _fill_similarity(
        self, features: np.ndarray, candidates: np.ndarray, history: History
    ) -> None:
        """Fill the features of the cosines, which are 0 without a history."""
        last = 0
        for row, count in enumerate(history.counts.tolist()):
            first, last = last, last + count
            if not count:
                continue
            own, found = history.positions[first:last], candidates[row]
            units = self.vectors.take(own, axis=0) * self.scale.take(own)[:, None]
            cosines = self.vectors.take(found, axis=0) @ units.T
            cosines *= self.scale.take(found)[:, None]
            mean = cosines.mean(axis=1)
            features[row, :, 2] = mean
            square = np.einsum("ch,ch->c", cosines, cosines) / count
            # In the last bit, the mean of squares may be less than the square of the mean.
            features[row, :, 3] = np.sqrt(np.maximum(square - mean**2, 0))
            if count > NEAREST:
                cosines.partition(count - NEAREST, axis=1)
                cosines = cosines[:, -NEAREST:]
            features[row, :, 0] = cosines.max(axis=1)
            features[row, :, 1] = cosines.mean(axis=1)

    def take(self, items: np.ndarray) -> CandidateFeatures:
        """Return the features of some of the items, bool [n_items]."""
        profiles = {name: profile.take(items) for name, profile in self.profiles.items()}
        return CandidateFeatures(self.vectors[items], self.popularity[items], profiles)

    def save(self, folder: Path) -> dict[str, str]:
        """Write everything except the vectors.

        Returns
        -------
        dict of str to str
            The kind of each profile, for `load`.
        """
        arrays = {"popularity": self.popularity}
        kinds = {kind: name for name, kind in PROFILES.items()}
        for number, profile in enumerate(self.profiles.values()):
            for name, array in profile.arrays.items():
                arrays[f"{number}.{name}"] = array
        np.savez(folder / FILE, **arrays)
        return {column: kinds[type(profile)] for column, profile in self.profiles.items()}

    @classmethod
    def load(
        cls, folder: Path, kinds: Mapping[str, str], vectors: np.ndarray | StoredVectors
    ) -> CandidateFeatures:
        """Read what `save` wrote, for the items of these vectors."""
        with np.load(folder / FILE, allow_pickle=False) as file:
            arrays = dict(file)
        profiles = {}
        for number, (column, kind) in enumerate(kinds.items()):
            own = {
                name.partition(".")[2]: array
                for name, array in arrays.items()
                if name.startswith(f"{number}.")
            }
            profiles[column] = PROFILES[kind](**own)
        return cls(vectors, arrays["popularity"], profiles)


def _fill_retrieval(features: np.ndarray, scores: np.ndarray, given: np.ndarray) -> None:
    """Fill the features of the scores."""
    count = np.maximum(given.sum(axis=1, keepdims=True), 1)
    known = np.where(given, scores, 0)
    centred = np.where(given, known - known.sum(axis=1, keepdims=True) / count, 0)
    deviation = np.sqrt((centred**2).sum(axis=1, keepdims=True) / count)
    features[..., 0] = known
    features[..., 1] = np.log1p(np.arange(scores.shape[1]))
    features[..., 2] = known - known[:, :1]
    features[..., 3] = centred / np.where(deviation > 0, deviation, 1)
