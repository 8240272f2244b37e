"""The Python face: fit a recommender on data frames, ask it, serve it."""

from __future__ import annotations

import atexit
import contextlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from twotower.frames import Table, as_table
from twotower.pipelines.cli import quiet
from twotower.pipelines.config import parse_config, set_keys
from twotower.pipelines.errors import RunError
from twotower.pipelines.run import TRITON, Run
from twotower.pipelines.run.layout import RUNS

if TYPE_CHECKING:
    from twotower.serving.client import RetrievalClient
    from twotower.serving.client.values import Values
    from twotower.serving.local import LocalVersion

NAME = "python"
SOURCE = "source"
"""The folder within the run that keeps the data frames as parquet files."""


def fit(
    interactions: Table,
    *,
    user: str | None = None,
    item: str | None = None,
    time: str | None = None,
    rating: str | None = None,
    min_rating: float | None = None,
    users: Table | None = None,
    items: Table | None = None,
    user_features: Sequence[str] | None = None,
    item_features: Sequence[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    path: str | Path | None = None,
) -> Recommender:
    """Train both towers on interactions, evaluate them, and publish them for serving.

    It runs the steps of ``twotower run``; every command works on the run folder that it leaves.
    Columns that are not named are found as by ``twotower init``, which prints what it assumed.

    Parameters
    ----------
    interactions : DataFrame, str or Path
        One row per interaction; a pair may be repeated. A path names a file or folder that the
        source `files` reads: CSV, JSON lines or parquet.
    user, item : str, optional
        The columns that hold the ids: numbers or texts.
    time : str, optional
        The column that holds the time of the interaction: a datetime, a text or a number.
        ``"none"`` uses no time.
    rating : str, optional
        The column that holds the rating, count or event. ``"none"`` makes every interaction a
        positive.
    min_rating : float, optional
        With `rating`, an interaction is a positive if its rating is at least this. By default the
        scale decides: 4 of 5, 7 of 10.
    users, items : DataFrame, str or Path, optional
        One row per user or item: the id and features.
    user_features, item_features : sequence of str, optional
        The columns that the towers read. By default all that are of use; the type of a column
        decides whether it is a category, a number, a text or a list.
    settings : mapping of str to Any, optional
        Settings of the configuration by their dotted names, such as ``{"training.epochs": 3}``.
    path : str or Path, optional
        The run folder. The default is ``runs/python``; an earlier run there is replaced.

    Returns
    -------
    Recommender

    Raises
    ------
    ConfigError
        If a column or a setting does not exist, a setting has a wrong value, or a column cannot be
        told. The message names the candidates.
    DataError
        If the data has a column, a type or a value that cannot be used. The message names it.
    """
    quiet()
    from twotower.pipelines.init.guess import Named
    from twotower.pipelines.init.init import guess_tables
    from twotower.pipelines.init.report import print_guess
    from twotower.pipelines.init.settings import settings as settings_of
    from twotower.pipelines.job import fit_and_publish

    folder = Path(path) if path is not None else RUNS / NAME
    folder = folder.absolute()
    given = {"interactions": interactions, "users": users, "items": items}
    tables = {name: as_table(name, each) for name, each in given.items() if each is not None}
    guess = guess_tables(
        tables,
        Named(
            user=user,
            item=item,
            time=time,
            value=rating,
            user_features=user_features,
            item_features=item_features,
        ),
    )
    files = {
        name: f"{name}.parquet" if isinstance(each, pa.Table) else str(each)
        for name, each in tables.items()
    }
    tree = settings_of(guess, files, NAME)
    tree["ingest"]["path"] = str(folder / SOURCE)
    if min_rating is not None:
        column = guess.value.column if guess.value else None
        tree["positives"] = {"column": column, "at_least": min_rating}
    run = Run.create(parse_config(set_keys(tree, settings or {}, "settings"), "settings"), folder)
    print_guess(guess)
    with run.writing("fit"):
        source = folder / SOURCE
        source.mkdir(exist_ok=True)
        for name, each in tables.items():
            if isinstance(each, pa.Table):
                pq.write_table(each, source / f"{name}.parquet")
        fit_and_publish(run)
    return Recommender(run)


def load(path: str | Path) -> Recommender:
    """Open a run folder that ``fit`` or the command line has made.

    Parameters
    ----------
    path : str or Path
        The run folder.

    Returns
    -------
    Recommender

    Raises
    ------
    RunError
        If the folder holds no run, or the run has published nothing yet.
    """
    quiet()
    return Recommender(Run(Path(path).absolute()))


class Recommender:
    """A run whose model is published: ask it in this process, or serve it.

    Attributes
    ----------
    path : Path
        The run folder.
    client : RetrievalClient or None
        A connection to the server, while `serve` is in effect.
    """

    def __init__(self, run: Run) -> None:
        from twotower.serving.repository import ModelRepository

        published = ModelRepository(run.path / TRITON).published
        if published is None:
            raise RunError(
                f"{run.path}: nothing is published; `twotower run` does all that is needed"
            )
        self.path = run.path
        self.client: RetrievalClient | None = None
        self._run, self._version = run, published
        self._server = contextlib.ExitStack()

    def __repr__(self) -> str:
        return f"<Recommender of {self.path}, version {self._version}>"

    @property
    def metrics(self) -> pd.DataFrame:
        """Metrics on the test part: a row for the model and for each baseline."""
        report = json.loads((self.path / "reports" / "metrics.json").read_text())
        return pd.DataFrame.from_dict(report["metrics"], orient="index")

    @property
    def verdict(self) -> str:
        """What the metrics mean, and what to try next: one paragraph.

        Raises
        ------
        RunError
            If another version of this project, without verdicts, has evaluated the run.
        """
        return self._run.notes("evaluate")["verdict"]["text"]

    def recommend(
        self,
        users: Iterable,
        k: int = 10,
        *,
        filter_seen: bool = True,
        features: Mapping[str, Values] | None = None,
        where: Mapping[str, Any] | str | None = None,
        allow_item_ids: Values | None = None,
        exclude_item_ids: Values | None = None,
        max_per: Mapping[str, int] | None = None,
        diversity: float | None = None,
        diversity_by: str | None = None,
        rank: bool = False,
    ) -> pd.DataFrame:
        """Return the k best items for each user, computed in this process.

        Parameters
        ----------
        users : iterable of int or str
            User ids, such as a list, an array or a column of a frame. An unknown user gets the
            items for the out-of-vocabulary user.
        k : int, default 10
            Items per user.
        filter_seen : bool, default True
            Whether to leave out the items that the user has seen.
        features : mapping of str to sequence, optional
            Features of the context, and of users in place of those in the data: one value per user,
            such as ``{"month": ["May", "June"]}``.
        where, allow_item_ids, exclude_item_ids, max_per, diversity, diversity_by : optional
            Which items may be in the answer, see `twotower.client.RetrievalClient.recommend`.
        rank : bool, default False
            Whether the ranking model orders the answers, see there.

        Returns
        -------
        DataFrame
            Columns user (in the type of `users`), rank (from 1), item, score; fewer than k rows for
            a user who has seen almost everything.

        Raises
        ------
        ServingError
            If a user id is of another kind than those that the model was fitted on, or a feature is
            unknown or has a value of another kind.
        """
        from twotower.serving.client.values import Filters, Ranking

        ids = users if isinstance(users, (pd.Series, pd.Index, np.ndarray)) else list(users)
        if not len(ids):
            empty = {"user": ids, "rank": [], "item": self._local.item_ids[:0], "score": []}
            return pd.DataFrame(empty)
        filters = Filters(where, allow_item_ids, exclude_item_ids, max_per, diversity, diversity_by)
        found, scores = self._local.answer(
            ids, k, filter_seen, features or {}, filters, Ranking(rank)
        )
        frame = pd.DataFrame(
            {
                "user": pd.Series(ids).repeat(found.shape[1]).array,
                "rank": np.tile(np.arange(1, found.shape[1] + 1), len(ids)),
                "item": found.ravel(),
                "score": scores.ravel(),
            }
        )
        return frame[np.isfinite(frame["score"])].reset_index(drop=True)

    def similar(
        self, item: int | str | Sequence, k: int = 5, *, where: Mapping[str, Any] | None = None
    ) -> pd.DataFrame:
        """Return the k items that are most similar to an item, or to several as a basket.

        Parameters
        ----------
        item : int, str, or sequence of these
            Item ids.
        k : int, default 5
            Number of items.
        where : mapping of str to Any, optional
            What the items must satisfy, see `twotower.client.RetrievalClient.recommend`.

        Returns
        -------
        DataFrame
            Columns item, rank (from 1), score (cosine similarity).

        Raises
        ------
        RunError
            If the model does not know an item.
        """
        from twotower.pipelines.answers.request import FiltersForAll
        from twotower.pipelines.answers.similar import most_similar

        items = np.atleast_1d(np.asarray(item, object)).tolist()
        return most_similar(self._local, items, k, FiltersForAll(where=where))

    def recommend_all(
        self,
        out: str | Path,
        k: int = 10,
        *,
        users: str | Path = "all",
        filter_seen: bool = True,
        overwrite: bool = False,
    ) -> Path:
        """Write the k best items of all users to a file, as ``twotower recommend`` does.

        Parameters
        ----------
        out : str or Path
            The file; its suffix, .parquet, .csv or .jsonl, is the format. It has a row per user
            and item: user id, rank (from 1), item id, score.
        k : int, default 10
            Items per user.
        users : str or Path, default "all"
            A parquet, CSV or JSON lines file of user ids, to answer only these.
        filter_seen : bool, default True
            Whether to leave out the items that a user has seen.
        overwrite : bool, default False
            Whether to replace `out` if it exists.

        Returns
        -------
        Path
            The file.
        """
        from twotower.pipelines.answers.recommend import recommend

        recommend(self._run, str(users), Path(out), k, filter_seen, overwrite=overwrite)
        return Path(out)

    def vectors(self, out: str | Path, *, overwrite: bool = False) -> Path:
        """Write the vectors of users and items as files, as ``twotower vectors`` does.

        Parameters
        ----------
        out : str or Path
            The folder to make.
        overwrite : bool, default False
            Whether to replace `out` if it exists.

        Returns
        -------
        Path
            The folder.
        """
        from twotower.pipelines.answers.vectors import write_vectors

        write_vectors(self._run, Path(out), overwrite)
        return Path(out)

    def serve(self) -> Recommender:
        """Start a Triton server on free ports of this machine; `client` asks it.

        The server stops with `stop`, at the end of a ``with`` block, or with this process.

        Returns
        -------
        Recommender
            This object, for ``with recommender.serve():``.
        """
        if self.client is None:
            from twotower.pipelines.steps.serve import serving
            from twotower.serving.client import RetrievalClient

            addresses = self._server.enter_context(serving(self._run))
            self.client = self._server.enter_context(RetrievalClient(addresses.http))
            atexit.register(self.stop)
        return self

    def stop(self) -> None:
        """Stop the server, if it runs."""
        self.client = None
        self._server.close()
        atexit.unregister(self.stop)

    def __enter__(self) -> Recommender:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def _local(self) -> LocalVersion:
        from twotower.pipelines.answers.published import deny_current

        return deny_current(self._opened)

    @cached_property
    def _opened(self) -> LocalVersion:
        from twotower.pipelines.answers.published import open_version

        return open_version(self._run, self._version)
