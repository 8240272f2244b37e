"""Decay towers in closed form: a low-rank regression of the next item on the decayed history."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf
from merlin.schema import Tags
from scipy.linalg import cho_factor, cho_solve, orthogonal_procrustes
from scipy.sparse import coo_matrix, csr_matrix, diags

from twotower.models.batch_keys import OUT_OF_VOCABULARY
from twotower.models.errors import ModelError
from twotower.models.sequence.config import NextItemStart, SequenceConfig
from twotower.models.sequence.tower import sequence_tower
from twotower.models.sequence.training import copy_item_vectors
from twotower.models.training.data import TrainingData
from twotower.models.two_tower import embedding_tables

if TYPE_CHECKING:
    from twotower.models.training.model import TwoTower

Sequences = tuple[np.ndarray, np.ndarray]
"""Items in the order of time, user by user, and the offsets of the users."""

FOLD = 1 << 24
"""Entries of a sparse sum that are held before equal places are added up."""
SMALLEST_WEIGHT = 1e-3
"""Items with smaller weights than this are left out of the regression."""
MAX_DENSE = 10_000
"""Largest matrix that is factorized densely; a larger one is inverted by conjugate gradients."""
OVERSAMPLING, POWER_ITERATIONS = 32, 2
MAX_CG_STEPS, CG_TOLERANCE = 60, 1e-2
MAX_SAMPLE, MAX_SAMPLE_SCORES = 2_000, 20_000_000


def age_weights(config: SequenceConfig, length: int) -> np.ndarray:
    """Return the weight of an item at each age in the two sums of the query tower.

    Parameters
    ----------
    config : SequenceConfig
        Of kind `decay` with `last_item`.
    length : int
        Maximum length of a history.

    Returns
    -------
    ndarray of float64, shape (2, n)
        First the decay, then 1 for the newest item and 0 for all others. Columns with small
        weights only are left out.
    """
    age = np.arange(length)
    decay = np.maximum(np.exp(-age / config.decay_time), config.decay_floor)
    return np.stack([decay, age == 0])[:, decay >= SMALLEST_WEIGHT]


def moments(
    sequences: Sequences, n_items: int, weights: np.ndarray
) -> tuple[csr_matrix, csr_matrix]:
    """Compute the normal equations of the regression of each item on those before it.

    Parameters
    ----------
    sequences : (ndarray of int, shape (n,), ndarray of int, shape (n_users + 1,))
        See `TrainingData.sequences`.
    n_items : int
    weights : ndarray of float64, shape (k, length)
        Of an item at each age, in each of k sums.

    Returns
    -------
    gram : csr_matrix of float64, shape (k * n_items, k * n_items)
        The sum of x x' over all items but the first of each user, where x are the k decayed sums
        of one-hot vectors of the items before it, one after another.
    cross : csr_matrix of float64, shape (k * n_items, n_items)
        The sum of x y', where y is the one-hot vector of the item itself.

    Notes
    -----
    A weight depends on the distance alone. So the pairs of items s and s + lag of one user add
    sum_d w(d + lag) w(d) to `gram`, for all d from 0 to the number of later inputs, which is a
    cumulative sum per lag. No history is ever written out.
    """
    items, offsets = sequences
    n_sums, length = weights.shape
    end = np.repeat(offsets[1:], np.diff(offsets))
    place = np.arange(len(items))
    half = _SparseSum((n_sums * n_items, n_sums * n_items))
    cross = _SparseSum((n_sums * n_items, n_items))
    for lag in range(length):
        place = place[place + lag + 1 < end[place]]
        older, newer, target = (items[place + shift] for shift in (0, lag, lag + 1))
        later_inputs = np.minimum(end[place] - place - lag - 2, length - lag - 1)
        for i, weight in enumerate(weights[:, lag]):
            if weight:
                cross.add(i * n_items + older, target, np.full(len(place), weight))
            for j in range(n_sums):
                products = np.cumsum(weights[i, lag:] * weights[j, : length - lag])
                if products.any():
                    # An item with itself is in both halves.
                    values = products[later_inputs] / (1 if lag else 2)
                    half.add(i * n_items + older, j * n_items + newer, values)
    gram = half.total()
    return gram + gram.T, cross.total()


def solve(
    gram: csr_matrix, cross: csr_matrix, counts: np.ndarray, dim: int, l2: float
) -> tuple[np.ndarray, np.ndarray]:
    """Solve for the best item vectors of `dim` dimensions.

    Parameters
    ----------
    gram, cross : csr_matrix
        See `moments`.
    counts : ndarray of int, shape (n_items,)
        Number of positives of each item.
    dim : int
    l2 : float
        Added to the diagonal of `gram`.

    Returns
    -------
    inputs : ndarray of float32, shape (k * n_items, dim)
    candidates : ndarray of float32, shape (n_items, dim)
        Dimensions beyond the number of items are 0.

    Notes
    -----
    The ridge regression is B = (gram + l2 I)^-1 cross. With D = diag(counts)^-1/2, the product
    inputs candidates' has the smallest ridge loss for the targets y D among all of rank `dim`
    (reduced-rank regression, Izenman, Journal of Multivariate Analysis 1975): candidates are the
    first eigenvectors V of D cross' (gram + l2 I)^-1 cross D, and inputs are B D V.

    D makes it an approximation of the softmax: around the popularity p, log-probabilities change by
    (x B)_j / p_j, and an error of theirs costs p_j / 2 times its square. Eigenvectors are computed
    by subspace iteration from a fixed random start (Halko et al., SIAM Review 2011).
    """
    scaled = csr_matrix(cross @ diags(np.maximum(counts, 1.0) ** -0.5), dtype=np.float32)
    inverse = _inverse(gram, l2)
    n_items = scaled.shape[1]
    width = min(dim + OVERSAMPLING, n_items)
    block = np.random.default_rng(0).normal(size=(n_items, width)).astype(np.float32)
    for step in range(POWER_ITERATIONS + 1):
        block = np.linalg.qr(block)[0]
        solved = inverse(scaled @ block)
        image = scaled.T @ solved
        if step < POWER_ITERATIONS:
            block = image
    _, rotation = np.linalg.eigh(block.T @ image)
    rotation = rotation[:, ::-1][:, :dim]
    missing = ((0, 0), (0, dim - rotation.shape[1]))
    return np.pad(solved @ rotation, missing), np.pad(block @ rotation, missing)


def set_next_item_weights(tower: TwoTower, data: TrainingData, align: bool = False) -> None:
    """Set the weights of a decay tower to the closed-form solution, and all others to 0.

    The scores divided by the temperature are logits of the next item: log-popularity, which takes
    one dimension, plus the regression times the factor with the smallest cross-entropy on a sample
    of the training part.

    Parameters
    ----------
    tower : TwoTower
        A sequence model with `sequence.start`. Its weights are changed.
    data : TrainingData
        The data to solve for, with the order of each user's positives.
    align : bool
        Rotate the solution to the candidate embeddings that the tower has (orthogonal Procrustes).

    Raises
    ------
    ModelError
        If no user has two items, or if the users have too many pairs of items.
    """
    config, query = tower.config, sequence_tower(tower.model)
    assert config.sequence is not None and config.sequence.start is not None
    sequences, n_items, dim = data.sequences(), data.n_items, config.dim
    weights = age_weights(config.sequence, query.length)
    _check_size(sequences, weights.shape[1], config.sequence.start)
    gram, cross = moments(sequences, n_items, weights)
    counts = data.positives_per_item
    inputs, candidates = solve(gram, cross, counts, dim - 1, config.sequence.start.l2)
    decayed, newest = np.split(inputs, 2)
    popularity = np.log((counts + 1) / (counts.sum() + n_items)).astype(np.float32)
    sample = _sample(sequences, weights, decayed, newest, n_items)
    candidates = candidates * _best_factor(sample, candidates, popularity)

    # Both tables get the same size in each dimension, so that gradient steps move both.
    size = [np.sqrt((each**2).mean(axis=0)) for each in (decayed, candidates)]
    balance = np.sqrt(size[1] / np.maximum(size[0], 1e-30)) * config.temperature**0.5
    decayed, newest = decayed * balance, newest * balance
    candidates = candidates / np.maximum(balance, 1e-30) * config.temperature
    constant = np.float32((popularity.std() or 1.0) ** 0.5 * config.temperature**0.5)
    start = np.append(np.zeros(dim - 1, np.float32), constant)
    decayed = np.pad(decayed, ((0, 0), (0, 1)))
    newest = np.pad(newest, ((0, 0), (0, 1)), constant_values=constant)
    last = (popularity - popularity.mean()) / constant * config.temperature
    candidates = np.column_stack([candidates, last]).astype(np.float32)
    _assign(
        tower, data, decayed=decayed, newest=newest, candidates=candidates, start=start, align=align
    )


def _assign(
    tower: TwoTower,
    data: TrainingData,
    *,
    decayed: np.ndarray,
    newest: np.ndarray,
    candidates: np.ndarray,
    start: np.ndarray,
    align: bool,
) -> None:
    """Write vectors of the items [n_items, dim] and of an empty history [dim] to the tables."""
    query = sequence_tower(tower.model)
    assert query.own is not None
    item_id = tower.schema.select_by_tag(Tags.ITEM_ID).first.name
    table = embedding_tables(tower.model)[item_id].table.embeddings
    codes = data.items[item_id][:, 0]
    known = codes > OUT_OF_VOCABULARY
    rotation = np.eye(len(start), dtype=np.float32)
    if align:
        before = table.numpy()[codes[known]]
        rotation = orthogonal_procrustes(candidates[known], before)[0].astype(np.float32)
    for weight in (*tower.model.candidate_encoder.trainable_variables, query.own, query.map):
        weight.assign(tf.zeros_like(weight))
    rows = codes[known]
    inputs = np.hstack([decayed[known] @ rotation, newest[known] @ rotation])
    query.own.scatter_update(tf.IndexedSlices(inputs, rows))
    table.scatter_update(tf.IndexedSlices(candidates[known] @ rotation, rows))
    query.start.assign(start @ rotation)
    copy_item_vectors(tower, data)


def _check_size(sequences: Sequences, n_lags: int, config: NextItemStart) -> None:
    """Refuse data without pairs of items, or with too many."""
    lengths = np.maximum(np.diff(sequences[1]) - 1, 0)
    lags = np.minimum(lengths, n_lags)
    pairs = int((lags * lengths - lags * (lags - 1) // 2).sum())
    if not pairs:
        raise ModelError(
            "model.sequence.start: no user has two items in the training part, so there is nothing "
            "to solve; remove this setting"
        )
    if pairs > config.max_pairs:
        raise ModelError(
            f"model.sequence.start: the users have {pairs:,} pairs of items at most {n_lags} "
            "apart; lower model.sequence.decay_time or decay_floor, or features.history, or raise "
            f"model.sequence.start.max_pairs, which is {config.max_pairs:,}"
        )


def _sample(
    sequences: Sequences,
    weights: np.ndarray,
    decayed: np.ndarray,
    newest: np.ndarray,
    n_items: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Query vectors [m, dim] of the items before some random items, and those items [m]."""
    items, offsets = sequences
    first = np.repeat(offsets[:-1], np.diff(offsets))
    places = np.flatnonzero(np.arange(len(items)) > first)
    size = min(MAX_SAMPLE, max(1, MAX_SAMPLE_SCORES // n_items), len(places))
    places = np.random.default_rng(0).choice(places, size, replace=False)
    queries = newest[items[places - 1]]
    for row, place in enumerate(places):
        read = items[max(first[place], place - weights.shape[1]) : place][::-1]
        queries[row] += weights[0, : len(read)].astype(np.float32) @ decayed[read]
    return queries, items[places]


def _best_factor(
    sample: tuple[np.ndarray, np.ndarray], candidates: np.ndarray, popularity: np.ndarray
) -> float:
    """The factor of the scores with the smallest cross-entropy of the sample, within 5 %."""
    queries, targets = sample
    scores = queries @ candidates.T
    rows = np.arange(len(targets))

    def loss(factor: float) -> float:
        logits = factor * scores + popularity
        logits -= logits.max(axis=1, keepdims=True)
        return float((np.log(np.exp(logits).sum(axis=1)) - logits[rows, targets]).mean())

    factor = 1.0 / max(float(scores.std()), 1e-30)
    for ratio in (2.0, 1.05):
        for direction in (ratio, 1 / ratio):
            while loss(factor * direction) < loss(factor):
                factor *= direction
    return factor


def _inverse(gram: csr_matrix, l2: float) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function that multiplies float32 [n, m] by (gram + l2 I)^-1."""
    if gram.shape[0] <= MAX_DENSE:
        matrix = gram.toarray(order="F")
        matrix[np.diag_indices(len(matrix))] += l2
        factor = cho_factor(matrix, lower=True, overwrite_a=True, check_finite=False)
        return lambda right: cho_solve(factor, right, check_finite=False).astype(np.float32)
    matrix = csr_matrix(gram + l2 * diags(np.ones(gram.shape[0])), dtype=np.float32)
    return lambda right: _conjugate_gradients(matrix, right)


def _conjugate_gradients(matrix: csr_matrix, right: np.ndarray) -> np.ndarray:
    """Solve matrix x = right, float32 [n, m], for all columns at once.

    Each column takes its own steps (Hestenes and Stiefel 1952), preconditioned by the diagonal, but
    all are multiplied by the matrix together.
    """
    scale = (1 / matrix.diagonal())[:, None]
    x, residual = np.zeros_like(right), right.copy()
    direction = z = scale * residual
    energy = np.einsum("ij,ij->j", residual, z)
    enough = CG_TOLERANCE**2 * energy
    for _ in range(MAX_CG_STEPS):
        image = matrix @ direction
        step = energy / np.maximum(np.einsum("ij,ij->j", direction, image), 1e-30)
        x += step * direction
        residual -= step * image
        z = scale * residual
        before, energy = energy, np.einsum("ij,ij->j", residual, z)
        if (energy <= enough).all():
            break
        direction = z + energy / np.maximum(before, 1e-30) * direction
    return x


class _SparseSum:
    """A sparse matrix to which entries are added; equal places are added up.

    Parameters
    ----------
    shape : (int, int)
    """

    def __init__(self, shape: tuple[int, int]):
        self._sum = csr_matrix(shape)
        self._added: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._size = 0

    def add(self, rows: np.ndarray, columns: np.ndarray, values: np.ndarray) -> None:
        self._added.append((rows, columns, values))
        self._size += len(values)
        if self._size >= FOLD:
            self.total()

    def total(self) -> csr_matrix:
        """Return the sum of all entries so far."""
        if self._added:
            rows, columns, values = map(np.concatenate, zip(*self._added, strict=True))
            self._sum = self._sum + coo_matrix((values, (rows, columns)), self._sum.shape).tocsr()
            self._added, self._size = [], 0
        return self._sum
