"""Measure any model on one part of a run's split."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from twotower.models.batch_keys import PADDING
from twotower.pipelines.errors import RunError
from twotower.pipelines.run import Run
from twotower.pipelines.steps.preprocess import load_contexts, load_ids, load_split
from twotower.pipelines.steps.processed import PARTS, SPLIT
from twotower.workflows.availability import read_available
from twotower.workflows.order import POSITION, is_next_item, latest_first

if TYPE_CHECKING:
    from twotower.models.evaluation.metrics import Metrics, OnUsers
    from twotower.models.evaluation.queries import Queries
    from twotower.models.evaluation.ranking import Ranker, Scorer
    from twotower.models.two_tower import TowerScorer

Masked = Literal["seen", "other", "none"]
"""Which items are left out of a ranking, see `Evaluator.evaluate`."""

# Fixed, so that trainings with different seeds are validated on the same users.
SAMPLE_SEED = 0


class Evaluator:
    """Measures any model on one part of a run's split, always in the same way.

    On the valid part a user's train items are masked; on the test part train and valid items are.
    A pair of user and item is in one part only, so that masking never hides a positive, unless
    `split.repeats` keeps those of the next item: they are never found then, see `evaluate`.

    Parameters
    ----------
    run : Run
        With the steps `ingest` and `preprocess` done.
    part : str
        "valid" or "test".

    Attributes
    ----------
    train, relevant, seen : csr_matrix of bool, shape (n_users, n_items)
        Interactions of the train part, of `part`, and those that are masked.
    known : csr_matrix of bool, or None
        If the last items are left out, those that baselines score from: all before.
    candidates : ndarray of bool, shape (n_items,), or None
        Items that may be recommended; None for all. Withdrawn items may not, so they are not
        relevant either.
    withdrawn_items, withdrawn_pairs : int
        The number of withdrawn items, and of their pairs that are not in `relevant`.
    users : slice or ndarray of int
        Rows of the user table that a model scores as users 0, 1, ...; see `sample`.
    queries : Queries or None
        With features of the context: each pair of `part` is to be found in its own context.
    repeats : int
        The number of pairs of `part` that are masked.
    histories : ndarray of int64, shape (n_users, features.history), or None
        If the next item is predicted, the items before it, see `load_histories`; else the users
        have the history of the train part.
    """

    def __init__(self, run: Run, part: str):
        from scipy.sparse import csr_matrix

        self.config = run.config.evaluation
        parts = load_split(run.path / "processed")
        features = run.config.features
        n_users = _count_rows(run, "users", features.user_id)
        n_items = _count_rows(run, "items", features.item_id)

        def matrix(*names: str) -> csr_matrix:
            pairs = pd.concat([parts[name] for name in names])
            ones = np.ones(len(pairs), dtype=bool)
            indices = (pairs["user_row"], pairs["item_row"])
            return csr_matrix((ones, indices), shape=(n_users, n_items))

        self.users: slice | np.ndarray = slice(None)
        self.train = matrix("train")
        self.relevant = matrix(part)
        self.seen = self.train if part == "valid" else matrix("train", "valid")
        self.known = self.seen if run.config.split.method == "leave_last_out" else None
        self.candidates: np.ndarray | None = None
        if self.config.catalogue != "items":
            self.candidates = np.zeros(n_items, bool)
            for pairs in [parts[part]] if self.config.catalogue == "part" else parts.values():
                self.candidates[pairs["item_row"]] = True
        available = read_available(run.path / "data")
        self._leave_out_withdrawn(available)
        self.repeats = self.relevant.multiply(self.seen).nnz
        self.may_repeat = run.config.split.repeats == "keep"
        self.history: str | None = features.sides[0].internal.history
        self.item_id = features.sides[1].internal.id
        self.histories = load_histories(run, part)
        self.queries: Queries | None = None
        if features.context_columns:
            from twotower.models.evaluation.queries import Queries

            pairs = parts[part][available[parts[part]["item_row"]]]
            self.queries = Queries.of(pairs, load_contexts(run), n_items)

    def _leave_out_withdrawn(self, available: np.ndarray) -> None:
        """Remove withdrawn items from the candidates and from the relevant items."""
        pairs = self.relevant.nnz
        self.withdrawn_items = int((~available).sum())
        if self.withdrawn_items:
            is_candidate = True if self.candidates is None else self.candidates
            self.candidates = available & is_candidate
            self.relevant.data &= available[self.relevant.indices]
            self.relevant.eliminate_zeros()
        self.withdrawn_pairs = pairs - self.relevant.nnz

    def sample(self, count: int) -> None:
        """Use only some of the users with relevant items, always the same random ones.

        Parameters
        ----------
        count : int
            Number of users to keep.
        """
        users = np.flatnonzero(np.diff(self.relevant.indptr))
        chosen = np.random.default_rng(SAMPLE_SEED).choice(users, count, replace=False)
        self.users = np.sort(chosen)
        self.relevant, self.seen = self.relevant[self.users], self.seen[self.users]
        if self.queries is not None:
            self.queries = self.queries.of_users(self.users)

    def tower_scorer(
        self, model: Any, users: Mapping[str, np.ndarray], items: Mapping[str, np.ndarray]
    ) -> TowerScorer:
        """Create the scorer of a model, which answers each query with its context.

        Parameters
        ----------
        model : RetrievalModelV2
        users, items : mapping of str to ndarray
            The encoded tables, with all users.

        Returns
        -------
        TowerScorer
        """
        from twotower.models.two_tower import TowerScorer

        users = {
            name: column[self.users] for name, column in self.with_history(users, items).items()
        }
        if self.queries is None:
            return TowerScorer.of(model, users, items)
        return self.queries.tower_scorer(model, users, items)

    def with_history(
        self, users: Mapping[str, np.ndarray], items: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Return the encoded users with `histories`, if there are any, as the items' codes."""
        if self.histories is None or self.history is None:
            return dict(users)
        return {**users, self.history: encoded(self.histories, items[self.item_id])}

    def baselines(self) -> list[str]:
        """The names of the baselines to measure."""
        from twotower.models.evaluation.baselines import default_baselines

        if self.config.baselines is not None:
            return list(self.config.baselines)
        users = np.count_nonzero(np.diff(self.relevant.indptr))
        return default_baselines(self.train, users)

    def evaluate(
        self,
        scorer: Scorer | Ranker,
        progress: Callable[[int, int], None] | None = None,
        on_users: OnUsers | None = None,
        masked: Masked = "seen",
    ) -> Metrics:
        """Compute the metrics at all cutoffs in the settings.

        Parameters
        ----------
        scorer : Scorer or Ranker
            One that does not know the context answers all queries of a user alike.
        progress : callable (done, total), optional
            Called after each batch of users.
        on_users : callable (users, values), optional
            Called after each batch with the metrics of each user.
        masked : {"seen", "other", "none"}
            What is left out of a user's ranking. seen: all seen items; other: those that are not
            relevant, so that an item of `repeats` can be found; none: nothing.

        Returns
        -------
        Metrics
        """
        from scipy.sparse import csr_matrix

        from twotower.models.evaluation.metrics import evaluate

        rows = self._rows(scorer)
        if masked == "other":
            rows["seen"] = rows["seen"] > rows["relevant"]
        elif masked == "none":
            rows["seen"] = csr_matrix(rows["seen"].shape, dtype=bool)
        return evaluate(
            **rows,
            ks=self.config.ks,
            candidates=self.candidates,
            batch_size=self.config.batch_size,
            progress=progress,
            on_users=on_users,
            user_of=None if self.queries is None else self.queries.users,
            repeats=self.may_repeat,
        )

    def popularity_metrics(self, scorer: Scorer | Ranker, k: int) -> dict[str, float]:
        """Compute recall@k in head, middle and tail, and the popularity of recommended items.

        Parameters
        ----------
        scorer : Scorer or Ranker
        k : int
            Cutoff.

        Returns
        -------
        dict of str to float
        """
        from twotower.models.evaluation.popularity import popularity_metrics

        return popularity_metrics(
            **self._rows(scorer),
            train=self.train,
            k=k,
            candidates=self.candidates,
            batch_size=self.config.batch_size,
        )

    def _rows(self, scorer: Scorer | Ranker) -> dict[str, Any]:
        """What a ranking is of: users or, with a context, queries."""
        from twotower.models.evaluation.baselines import FromItems

        if self.known is not None and isinstance(scorer, FromItems):
            scorer.know(self.known)
        if self.queries is None:
            return {"scorer": scorer, "relevant": self.relevant, "seen": self.seen}
        return {
            "scorer": self.queries.by_user(scorer),
            "relevant": self.queries.relevant,
            "seen": self.seen[self.queries.users],
        }


def load_histories(run: Run, before: str | None = None) -> np.ndarray | None:
    """The latest items of each user, if the next item is predicted; see `is_next_item`.

    Parameters
    ----------
    run : Run
    before : str, optional
        "valid" or "test": only the items before the user's first one in this part. By default all
        items, as in the histories that the server reads.

    Returns
    -------
    ndarray of int64, shape (n_users, features.history), or None
        Item rows, the latest first; -1 where a user has fewer items.

    Raises
    ------
    RunError
        If the run was preprocessed by an earlier release.
    """
    length = run.config.features.history
    if length is None or not is_next_item(run.config.split.method, length):
        return None
    rows = pd.read_parquet(run.path / "processed" / SPLIT)
    if POSITION not in rows:
        raise RunError(
            f"{run.path}: its split has no order in time, because an earlier release made it; run "
            "`twotower preprocess` again"
        )
    n_users = len(load_ids(run)[0])
    if before is not None:
        later = rows[rows["part"] == before]
        first = np.full(n_users, np.iinfo(np.int64).max)
        np.minimum.at(first, later["user_row"].to_numpy(), later[POSITION].to_numpy())
        rows = rows[rows["part"].isin(PARTS[: PARTS.index(before)])]
        rows = rows[rows[POSITION].to_numpy() < first[rows["user_row"].to_numpy()]]
    columns = (rows[name].to_numpy() for name in ("user_row", "item_row", POSITION))
    user_rows, item_rows, position = columns
    return latest_first(user_rows, item_rows, position, n_users, length)


def encoded(histories: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Return histories as the towers read them.

    Parameters
    ----------
    histories : ndarray of int64, shape (n, length)
        Item rows; -1 where there is no item.
    codes : ndarray of int32, shape (n_items, 1)
        The encoded id of each item.

    Returns
    -------
    ndarray of int32, shape (n, length)
        Codes; 0 where there is no item.
    """
    return np.where(histories < 0, PADDING, codes[histories, 0]).astype(np.int32)


def _count_rows(run: Run, table: str, id_name: str) -> int:
    return len(pd.read_parquet(run.path / "data" / f"{table}.parquet", columns=[id_name]))
