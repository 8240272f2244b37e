"""Part `explicit`: the ranking networks as predictors of liked films, against LightGBM.

Three tasks share a random split, 8:1:1, of all ratings of ML-1M. In the first one nothing but the
labels is used, as in RecBole's table of context-aware models. In the others, the features are
learned from the stars, 1 to 5, of all training rows, with those of 3 stars.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from merlin.schema import ColumnSchema, Schema, Tags
from scipy.optimize import minimize
from scipy.sparse import csr_matrix
from scipy.special import expit, logit

from benchmarks.report import Check, Rows
from twotower.models.ranking.candidates import Candidates
from twotower.models.ranking.config import RankingConfig
from twotower.models.ranking.fit import RankingModel, fit_ranking
from twotower.models.ranking.metrics import MIN_PROBABILITY, auc, log_loss, ranking_metrics
from twotower.models.ranking.networks import build_network
from twotower.workflows.sources.movielens.source import MovieLens1M

SEED = 42
TRAIN, VALID, TEST = 0, 1, 2
FOLDS = 8
"""The features of a training row are learned from the training rows of the other folds."""
FACTORS, ROUNDS = 16, 14
NETWORKS = ("mlp", "dcn", "dlrm", "deepfm")
MEAN = "mean of the networks"
SETTINGS: dict[str, Any] = {"hidden": [128, 64], "feature_dim": 16, "dropout": 0.3}
SETTINGS |= {"loss": "binary", "learning_rate": 0.001, "batch_users": 4096}
SETTINGS |= {"epochs": 8, "patience": 1}
TREES: dict[str, Any] = {"objective": "binary", "metric": "auc", "seed": SEED, "verbose": -1}
TREES |= {"learning_rate": 0.05, "num_leaves": 63, "min_data_in_leaf": 100, "cat_smooth": 100}
TREES |= {"cat_l2": 100, "max_cat_threshold": 64, "feature_fraction": 0.7}
TREES |= {"bagging_fraction": 0.8, "bagging_freq": 1}
Predict = Callable[[int], np.ndarray]
"""Returns the probabilities of the rows of a part."""


@dataclass(frozen=True)
class Ratings:
    """ML-1M: encoded tables, with codes from 3 and padding 0, and columns of the ratings.

    `genres` is float32 [items, genres], 1 where an item has a genre; `group` numbers the gender and
    age of each user; `user` and `item` are rows of the tables; `part` is TRAIN, VALID or TEST.
    """

    users: dict[str, np.ndarray]
    items: dict[str, np.ndarray]
    genres: np.ndarray
    group: np.ndarray
    user: np.ndarray
    item: np.ndarray
    stars: np.ndarray
    part: np.ndarray


@dataclass(frozen=True)
class Task:
    """Some rows of the ratings, of all parts, with their labels and their `learned_features`."""

    ratings: Ratings
    rows: np.ndarray
    labels: np.ndarray
    features: np.ndarray

    def where(self, part: int) -> np.ndarray:
        """Return the places in `rows` of a part."""
        return np.flatnonzero(self.ratings.part[self.rows] == part)

    def candidates(self, part: int) -> Candidates:
        """Return the ratings of a part, as one candidate per row."""
        places = self.where(part)
        rows, labels = self.rows[places], self.labels[places]
        return Candidates(
            users=self.ratings.user[rows],
            items=self.ratings.item[rows][:, None],
            features=self.features[places][:, None],
            labels=labels[:, None],
            relevant=labels.astype(int),
        )


class FactorModel:
    """Value = m_i + v_i . x_u + noise: matrix factorisation by variational Bayes.

    Notes
    -----
    VBPCA of Ilin and Raiko, JMLR 2010: the Gaussian posteriors of users and of items are updated in
    turn; x_u has the prior N(0, 1); the prior of m_i and v_i, and the noise, are estimated.
    """

    def __init__(self, users: int, items: int) -> None:
        self.shape = users, items

    def fit(self, user: np.ndarray, item: np.ndarray, values: np.ndarray) -> FactorModel:
        """Fit to the values of pairs, float32 [n]."""
        k, size = FACTORS, FACTORS + 1
        spread = float(values.std())
        ones = csr_matrix((np.ones(len(user), np.float32), (user, item)), self.shape)
        table = csr_matrix((values, (user, item)), self.shape)
        draw = np.random.default_rng(SEED)
        self.means = draw.normal(0, 0.1 * spread, (self.shape[1], size)).astype(np.float32)
        self.means[:, 0] = 0.4 * spread
        self.means[:, k] = smoothed(item, values, self.shape[1], values.mean(), 5)[0]
        one = 0.02 * spread**2 * np.eye(size, dtype=np.float32)
        covariance, self.noise = np.tile(one, (self.shape[1], 1, 1)), 0.6 * spread**2
        for _ in range(ROUNDS):
            self._update_users(ones, table, covariance)
            covariance = self._update_items(ones.T.tocsr(), table.T.tocsr(), covariance)
        self._update_users(ones, table, covariance)
        return self

    def predict(self, user: np.ndarray, item: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean and the variance, without noise, of the values of pairs."""
        v, x = self.means[item, :FACTORS], self.tastes[user]
        mean = self.means[item, FACTORS] + (v * x).sum(axis=1)
        return mean, np.einsum("nk,nkl,nl->n", v, self.uncertain[user], v, optimize=True)

    def _update_users(self, ones: csr_matrix, table: csr_matrix, covariance: np.ndarray) -> None:
        k = FACTORS
        total = _sums(ones, self.means[:, :, None] * self.means[:, None, :] + covariance)
        precision = total[:, :k, :k] / self.noise + np.eye(k, dtype=np.float32)
        self.uncertain = np.linalg.inv(precision)
        right = (table @ self.means[:, :k] - total[:, :k, k]) / self.noise
        self.tastes = np.einsum("ukl,ul->uk", self.uncertain, right)

    def _update_items(
        self, ones: csr_matrix, table: csr_matrix, covariance: np.ndarray
    ) -> np.ndarray:
        """Update the items, their prior and the noise; return the covariances of the items."""
        k = FACTORS
        x = np.concatenate([self.tastes, np.ones_like(self.tastes[:, :1])], axis=1)
        second = x[:, :, None] * x[:, None, :]
        second[:, :k, :k] += self.uncertain
        total, right = _sums(ones, second), table @ x
        center = self.means.mean(axis=0)
        variance = ((self.means - center) ** 2).mean(axis=0) + np.diag(covariance.mean(axis=0))
        precision = total / self.noise + np.diag(1 / variance)
        covariance = np.linalg.inv(precision).astype(np.float32)
        right_hand = right / self.noise + center / variance
        self.means = np.einsum("ide,ie->id", covariance, right_hand).astype(np.float32)
        errors = (table.data.astype(np.float64) ** 2).sum() - 2 * (self.means * right).sum()
        errors += np.einsum("id,ide,ie->", self.means, total, self.means, optimize=True)
        self.noise = float((errors + (covariance * total).sum()) / table.nnz)
        return covariance


def _sums(ones: csr_matrix, matrices: np.ndarray) -> np.ndarray:
    """Sum symmetric matrices [n, d, d] over the columns of each row of `ones` [m, n]."""
    first, second = np.triu_indices(matrices.shape[1])
    sums = np.empty((ones.shape[0], *matrices.shape[1:]), np.float32)
    sums[:, first, second] = ones @ matrices[:, first, second]
    sums[:, second, first] = sums[:, first, second]
    return sums


def smoothed(
    keys: np.ndarray, values: np.ndarray, size: int, prior: float, weight: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean value of each key, pulled to `prior` by `weight` rows, and its row count."""
    count = np.bincount(keys, minlength=size)
    total = np.bincount(keys, weights=values, minlength=size)
    return (total + weight * prior) / (count + weight), count


def learned_features(
    ratings: Ratings, known: np.ndarray, asked: np.ndarray, values: np.ndarray
) -> np.ndarray:
    """Return features of the ratings `asked`, learned from the values of the ratings `known`.

    float32 [asked, 9]: smoothed mean and row count of the user and of the item; the mean residual
    of the user in the genres and in the period of the film, and of the user's group for the film;
    mean and variance of a `FactorModel`. `known` and `asked` have no row in common.
    """
    user, item, y = ratings.user[known], ratings.item[known], values[known]
    users, items = len(ratings.group), len(ratings.genres)
    user_mean, user_count = smoothed(user, y, users, y.mean(), 5)
    item_mean, item_count = smoothed(item, y, items, y.mean(), 10)
    residual = y - user_mean[user] - item_mean[item] + y.mean()
    pairs = csr_matrix((residual, (user, item)), (users, items))
    ones = csr_matrix((np.ones(len(known)), (user, item)), (users, items))
    of_genre = (pairs @ ratings.genres) / (ones @ ratings.genres + 5)
    genres = ratings.genres / np.maximum(ratings.genres.sum(axis=1, keepdims=True), 1)
    period = ratings.items["year"][:, 0] // 8
    periods = int(period.max()) + 1
    of_period, _ = smoothed(user * periods + period[item], residual, users * periods, 0, 5)
    groups = int(ratings.group.max()) + 1
    of_group, _ = smoothed(ratings.group[user] * items + item, residual, groups * items, 0, 20)
    factors = FactorModel(users, items).fit(user, item, y)
    user, item = ratings.user[asked], ratings.item[asked]
    mean, variance = factors.predict(user, item)
    columns = [
        user_mean[user],
        np.log1p(user_count)[user],
        item_mean[item],
        np.log1p(item_count)[item],
        (of_genre[user] * genres[item]).sum(axis=1),
        of_period[user * periods + period[item]],
        of_group[ratings.group[user] * items + item],
        mean,
        variance,
    ]
    return np.stack(columns, axis=1).astype(np.float32)


def read(data: Path) -> Ratings:
    """Read, encode and split ML-1M."""
    tables = MovieLens1M(data).read()
    ratings, users, items = (table.to_pandas() for table in tables[:3])
    names = sorted({name for each in items["genres"] for name in each})
    codes = [[names.index(name) + 3 for name in each] for each in items["genres"]]
    lists = np.zeros((len(items), max(map(len, codes))), np.int32)
    for row, each in enumerate(codes):
        lists[row, : len(each)] = each
    part = np.full(len(ratings), TRAIN)
    order, tenth = np.random.default_rng(SEED).permutation(len(ratings)), len(ratings) // 10
    part[order[:tenth]], part[order[tenth : 2 * tenth]] = VALID, TEST
    user_columns = ("user_id", "gender", "age", "occupation")
    group = users["gender"] + users["age"].astype(str)
    return Ratings(
        users={name: _codes(users[name].to_numpy()) for name in user_columns},
        items={
            "item_id": _codes(items["item_id"].to_numpy()),
            "year": _codes(items["year"].to_numpy()),
            "genres": lists,
        },
        genres=(lists[:, :, None] == np.arange(3, len(names) + 3)).any(axis=1).astype(np.float32),
        group=np.unique(group, return_inverse=True)[1],
        user=np.searchsorted(users["user_id"], ratings["user_id"]),
        item=np.searchsorted(items["item_id"], ratings["item_id"]),
        stars=ratings["rating"].to_numpy(np.float32),
        part=part,
    )


def _codes(values: np.ndarray) -> np.ndarray:
    """Return codes from 3, as a column."""
    return np.unique(values, return_inverse=True)[1].astype(np.int32)[:, None] + 3


def out_of_fold(ratings: Ratings, rows: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return `learned_features` of rows, which for training rows are learned from other folds."""
    train = ratings.part[rows] == TRAIN
    fold = np.random.default_rng(SEED).integers(FOLDS, size=len(rows))
    features = np.empty((len(rows), 9), np.float32)
    for number in range(-1, FOLDS):
        asked = ~train if number < 0 else train & (fold == number)
        known = train & ~asked
        features[asked] = learned_features(ratings, rows[known], rows[asked], values)
        click.echo(f"  features, fold {number + 1} of {FOLDS}")
    return features


def network(task: Task, name: str) -> Predict:
    """Fit a network; the epoch is chosen by the AUC on valid."""
    config = RankingConfig(model=name, **SETTINGS)
    train = task.candidates(TRAIN)
    users, items = (
        Schema([column(n, int(t.max()) + 1, t.shape[1]) for n, t in each.items()])
        for each in (task.ratings.users, task.ratings.items)
    )
    made = build_network(users, items, *train.moments(), config, SEED)
    model = RankingModel(made, task.ratings.users, task.ratings.items)

    def on_epoch(done: int, total: int, text: str) -> None:
        click.echo(f"  {name}, epoch {done} of {total}: {text}")

    def measure(found: Candidates, logits: np.ndarray) -> float:
        return auc(found.labels[:, 0], logits[:, 0])

    valid = task.candidates(VALID)
    fit_ranking(model, train, valid, config, seed=SEED, progress=on_epoch, measure=measure)
    return lambda part: model.probabilities(task.candidates(part))[:, 0]


def column(name: str, size: int, width: int = 1) -> ColumnSchema:
    """Return a categorical column with codes below `size`, or lists of `width` codes."""
    properties: dict[str, Any] = {"domain": {"min": 0, "max": size - 1, "name": name}}
    if width > 1:
        properties["value_count"] = {"min": width, "max": width}
    return ColumnSchema(
        name,
        dtype=np.int32,
        tags=[Tags.CATEGORICAL],
        properties=properties,
        is_list=width > 1,
        is_ragged=False,
    )


def biases(task: Task) -> Predict:
    """Fit sigmoid(c + b_u + b_i), with a Gaussian prior of each b."""
    places = task.where(TRAIN)
    user, users = task.ratings.user[task.rows], len(task.ratings.group)
    item, size = task.ratings.item[task.rows] + users, users + len(task.ratings.genres) + 1
    u, i, y = user[places], item[places], task.labels[places]

    def loss(b: np.ndarray) -> tuple[float, np.ndarray]:
        z = b[u] + b[i] + b[-1]
        value, error = np.logaddexp(0, z) - y * z, expit(z) - y
        gradient = np.bincount(u, error, size) + np.bincount(i, error, size)
        gradient[:-1] += 2 * b[:-1]
        gradient[-1] = error.sum()
        return float(value.sum() + (b[:-1] ** 2).sum()), gradient

    b = minimize(loss, np.zeros(size), jac=True, method="L-BFGS-B").x
    return lambda part: expit(b[user] + b[item] + b[-1])[task.where(part)]


def trees(task: Task) -> Predict:
    """Fit LightGBM on the ids as categories and all that the networks read."""
    import lightgbm

    ratings, user, item = task.ratings, task.ratings.user[task.rows], task.ratings.item[task.rows]
    columns = [table[user] for table in ratings.users.values()]
    columns += [ratings.items[name][item] for name in ("item_id", "year")]
    x = np.concatenate([*columns, ratings.genres[item], task.features], axis=1).astype(np.float32)
    names = [*ratings.users, "item_id"]
    categories = [n for n, name in enumerate(names) if name in ("user_id", "occupation", "item_id")]
    train, valid = task.where(TRAIN), task.where(VALID)
    first = lightgbm.Dataset(x[train], task.labels[train], categorical_feature=categories)
    second = lightgbm.Dataset(x[valid], task.labels[valid], reference=first)
    stop = lightgbm.early_stopping(40, verbose=False)
    model = lightgbm.train(TREES, first, 1000, [second], callbacks=[stop])
    return lambda part: np.asarray(model.predict(x[task.where(part)]))


def calibrated(task: Task, predict: Predict) -> Predict:
    """Scale the logits on valid, by Platt's method."""
    labels = task.labels[task.where(VALID)]

    def scaled(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
        return expit(scale[0] * logit(x.clip(MIN_PROBABILITY, 1 - MIN_PROBABILITY)) + scale[1])

    valid = predict(VALID).astype(np.float64)
    scale = minimize(lambda each: log_loss(labels, scaled(valid, each)), [1.0, 0.0]).x
    return lambda part: scaled(predict(part).astype(np.float64), scale)


def measured(task: Task) -> Rows:
    """Return the metrics of every model on valid and test."""
    share = task.labels[task.where(TRAIN)].mean()
    models: dict[str, Predict] = {
        "constant": lambda part: np.full(len(task.where(part)), share),
        "user and item biases": biases(task),
        "LightGBM": trees(task),
    }
    fitted = {name: network(task, name) for name in NETWORKS}
    models |= fitted
    models[MEAN] = calibrated(
        task, lambda part: np.mean([each(part) for each in fitted.values()], axis=0)
    )
    rows: Rows = {}
    for name, part in (("valid", VALID), ("test", TEST)):
        places = task.where(part)
        users = task.ratings.user[task.rows[places]]
        rows[name] = {
            model: ranking_metrics(task.labels[places], predict(part), users).to_dict()
            for model, predict in models.items()
        }
        click.echo(f"  {name}: { {model: each['auc'] for model, each in rows[name].items()} }")
    return rows


def explicit(data: Path) -> tuple[Rows, list[Check]]:
    """Measure the networks, LightGBM and biases in the three tasks."""
    ratings = read(data)
    every = np.arange(len(ratings.stars))
    decided, liked = np.flatnonzero(ratings.stars != 3), ratings.stars > 3
    from_labels = out_of_fold(ratings, decided, 3 * liked.astype(np.float32))
    from_stars = out_of_fold(ratings, every, ratings.stars)
    tasks = {
        "4-5 against 1-2, labels": Task(ratings, decided, liked[decided], from_labels),
        "4-5 against 1-2, stars": Task(ratings, decided, liked[decided], from_stars[decided]),
        ">= 4 against <= 3, stars": Task(ratings, every, liked, from_stars),
    }
    found = {}
    for name, task in tasks.items():
        click.echo(f"  {name}")
        found[name] = measured(task)
    test = {name: each["test"] for name, each in found.items()}
    decided_test, all_test = test["4-5 against 1-2, labels"], test[">= 4 against <= 3, stars"]
    difference = all_test[MEAN]["auc"] - all_test["LightGBM"]["auc"]
    error = max(each[MEAN]["calibration_error"] for each in test.values())
    checks = [
        Check("ranker AUC, ML-1M 4-5 against 1-2", decided_test[MEAN]["auc"], ">=", 0.893),
        Check("ranker AUC, >= 4 against <= 3, minus LightGBM", difference, ">=", -0.003),
        Check("ranker, expected calibration error", error, "<=", 0.02),
    ]
    split = f"random 8:1:1 of all ratings, seed {SEED}; settings and epochs chosen on valid"
    return {"explicit ratings": {"split": split, "settings": SETTINGS, **found}}, checks
