"""A ridge regression from what a tower reads of users or items to their solved vectors."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import tensorflow as tf
from merlin.schema import Schema, Tags
from scipy.linalg import cho_factor, cho_solve

from twotower.models.batch_keys import OUT_OF_VOCABULARY, PADDING
from twotower.models.towers.embeddings import MultiHotEmbedding
from twotower.models.towers.vectors import VectorProjection

if TYPE_CHECKING:
    import merlin.models.tf as mm

L2 = tuple(10.0**power for power in np.arange(-1, 4.5, 0.5))
"""L2 regularization to choose from, in units of rows."""
FOLDS = 5
MAX_CATEGORIES = 1_000
"""Values of a categorical column that have coefficients, the most frequent ones first."""
BLOCK = 8192
"""Rows whose features are in memory at a time."""


class Sums(NamedTuple):
    """Sums over rows of x'x, x'y and y'y, where x are features and y solved vectors."""

    xx: np.ndarray
    xy: np.ndarray
    yy: float

    def minus(self, other: Sums) -> Sums:
        """The sums over the rows that `other` does not have."""
        return Sums(self.xx - other.xx, self.xy - other.xy, self.yy - other.yy)


def fit_parts(parts: list[Part], solved: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, float]:
    """Set the weights of a tower's features to those that predict solved vectors.

    Parameters
    ----------
    parts : list of Part
    solved : ndarray of float32, shape (n, dim)
        The vectors to predict, of all rows of the table.
    rows : ndarray of int
        The rows to learn from, `2 * FOLDS` of them or more.

    Returns
    -------
    constant : ndarray of float32, shape (dim,)
        What the features do not explain.
    l2 : float
        The L2 regularization that was chosen.
    """
    folds = np.random.default_rng(0).permutation(len(rows)) % FOLDS
    sums = [sums_of(parts, solved, rows[folds == fold]) for fold in range(FOLDS)]
    coefficients, l2 = ridge(sums)
    start = 0
    for part in parts:
        part.assign(coefficients[start : start + part.width])
        start += part.width
    return coefficients[-1].astype(np.float32), l2


def ridge(sums: list[Sums]) -> tuple[np.ndarray, float]:
    """Solve a ridge regression, with the L2 regularization that cross-validation chooses.

    Parameters
    ----------
    sums : list of Sums
        Of each fold. The last feature is the constant 1, which is not regularized.

    Returns
    -------
    coefficients : ndarray of float64, shape (features, dim)
    l2 : float
        Of `L2`, the one with the smallest squared error on the folds that were left out.

    Notes
    -----
    With the sums over the other folds, W = (X'X + l2 D)^-1 X'Y, where D is the identity without the
    constant. The squared error on a fold is tr(Y'Y - 2 W'X'Y + W'X'X W).
    """
    xx, xy = (np.sum(parts, axis=0) for parts in ([s.xx for s in sums], [s.xy for s in sums]))
    whole = Sums(xx, xy, sum(s.yy for s in sums))
    errors = np.zeros(len(L2))
    for fold in sums:
        others = whole.minus(fold)
        for place, l2 in enumerate(L2):
            w = _solve(others, l2)
            errors[place] += fold.yy - 2 * np.sum(w * fold.xy) + np.sum(w * (fold.xx @ w))
    best = L2[int(errors.argmin())]
    return _solve(whole, best), best


def _solve(sums: Sums, l2: float) -> np.ndarray:
    penalty = np.full(len(sums.xx), l2)
    penalty[-1] = 1e-6  # only against a singular matrix
    return cho_solve(cho_factor(sums.xx + np.diag(penalty)), sums.xy)


class Part:
    """The features of one column, and the weights of the tower that read them.

    Attributes
    ----------
    width : int
        Number of features.
    """

    width: int

    def features(self, rows: np.ndarray) -> np.ndarray:
        """The features of some rows, float64 [n, width]."""
        raise NotImplementedError

    def assign(self, coefficients: np.ndarray) -> None:
        """Set the weights, so that the tower adds features times coefficients [width, dim]."""
        raise NotImplementedError


class _Vectors(Part):
    """A pretrained vector of length 1, and whether there is none."""

    def __init__(self, values: np.ndarray, layer: VectorProjection):
        self._values, self._layer = values, layer
        self.width = values.shape[1] + 1

    def features(self, rows: np.ndarray) -> np.ndarray:
        vectors = np.asarray(self._values[rows], np.float64)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        none = norms == 0
        return np.hstack([vectors / np.where(none, 1, norms), none])

    def assign(self, coefficients: np.ndarray) -> None:
        self._layer.kernel.assign(coefficients[:-1])
        self._layer.missing.assign(coefficients[-1:])


class _Categories(Part):
    """The most frequent values of a column: 1 for a single value, 1 / n for each of a list."""

    def __init__(self, codes: np.ndarray, table: tf.Variable, is_list: bool):
        self._codes, self._table, self._is_list = codes, table, is_list
        counts = np.bincount(codes.ravel(), minlength=table.shape[0])
        counts[PADDING] = 0
        if is_list:  # the tower leaves unknown values of a list out
            counts[OUT_OF_VOCABULARY] = 0
        order = np.argsort(-counts, kind="stable")[:MAX_CATEGORIES]
        self._kept = order[counts[order] > 0]
        self.width = len(self._kept)
        self._place = np.full(table.shape[0], -1)
        self._place[self._kept] = np.arange(self.width)

    def features(self, rows: np.ndarray) -> np.ndarray:
        codes = self._codes[rows]
        known = codes != PADDING
        if self._is_list:
            known &= codes != OUT_OF_VOCABULARY
        share = 1 / np.maximum(known.sum(axis=1), 1) if self._is_list else np.ones(len(codes))
        result = np.zeros((len(codes), self.width))
        row, column = np.nonzero(known & (self._place[codes] >= 0))
        np.add.at(result, (row, self._place[codes[row, column]]), share[row])
        return result

    def assign(self, coefficients: np.ndarray) -> None:
        table = np.zeros(self._table.shape, np.float32)
        table[self._kept] = coefficients
        self._table.assign(table)


class _Numbers(Part):
    """All numeric columns, in the order in which the tower concatenates them: by name."""

    def __init__(self, columns: list[np.ndarray], kernel: tf.Variable):
        self._columns, self._kernel, self.width = columns, kernel, len(columns)

    def features(self, rows: np.ndarray) -> np.ndarray:
        return np.hstack([column[rows] for column in self._columns]).astype(np.float64)

    def assign(self, coefficients: np.ndarray) -> None:
        self._kernel.assign(coefficients)


def parts_of(
    encoder: mm.Encoder,
    schema: Schema,
    table: Mapping[str, np.ndarray],
    without: Collection[str],
) -> list[Part]:
    """The features that a tower reads of the rows of a table.

    Parameters
    ----------
    encoder : Encoder
        The tower, a sum of embeddings.
    schema : Schema
        The columns of the tower.
    table : mapping of str to ndarray
        The encoded table.
    without : collection of str
        Categorical columns that are left out.
    """
    layers = encoder._flatten_layers()
    projections, kernels, tables = {}, [], {}
    for layer in layers:
        if isinstance(layer, VectorProjection):
            projections[layer.column] = layer
        elif isinstance(layer, tf.keras.layers.Dense):
            kernels.append(layer.kernel)
        elif isinstance(layer, MultiHotEmbedding):
            tables[layer.schema.first.name] = layer.table.embeddings
    parts: list[Part] = [_Vectors(table[name], each) for name, each in projections.items()]
    for column in schema.select_by_tag(Tags.CATEGORICAL):
        if column.name not in without:
            parts.append(_Categories(table[column.name], tables[column.name], column.is_list))
    if kernels:
        names = sorted(schema.select_by_tag(Tags.CONTINUOUS).column_names)
        parts.append(_Numbers([table[name] for name in names], kernels[0]))
    return parts


def sums_of(parts: list[Part], solved: np.ndarray, rows: np.ndarray) -> Sums:
    """The sums over some rows, a block of them at a time.

    Parameters
    ----------
    parts : list of Part
    solved : ndarray of float32, shape (n, dim)
        The vectors to predict, of all rows of the table.
    rows : ndarray of int
    """
    width = sum(part.width for part in parts) + 1
    xx, xy, yy = np.zeros((width, width)), np.zeros((width, solved.shape[1])), 0.0
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        x = np.hstack([*(part.features(block) for part in parts), np.ones((len(block), 1))])
        y = solved[block].astype(np.float64)
        xx += x.T @ x
        xy += x.T @ y
        yy += float(np.sum(y * y))
    return Sums(xx, xy, yy)
