"""Recommendations for many users at once, to a file, without a server."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from twotower.pipelines import lock
from twotower.pipelines.answers.output import format_of
from twotower.pipelines.answers.published import Published, open_published
from twotower.pipelines.answers.request import ALL, FiltersForAll, check_ranked
from twotower.pipelines.answers.users import Users, read_users
from twotower.pipelines.console import ShowProgress, say, stage
from twotower.pipelines.errors import ConfigError
from twotower.pipelines.run import Run, write_atomically
from twotower.pipelines.run.disk import explained_disk_errors, make_folder
from twotower.serving.client.values import Ranking
from twotower.serving.files import sync
from twotower.serving.local import LocalVersion
from twotower.serving.runtime.contract import SCORE
from twotower.serving.runtime.manifest import MANIFEST_FILE, sha256

BATCH = 256
"""Users that are answered at a time."""
PART_ROWS = 2_000_000
"""Rows of a part of the file. A part that is complete survives when the command is killed."""
RANK = "rank"
REQUEST = "request.json"


@dataclass(frozen=True)
class Written:
    """What `recommend` has written.

    Attributes
    ----------
    path : str
        The file.
    version : int
        The number of the version that answered.
    users : int
        The number of users asked for.
    unknown_users : int
        How many of them the version does not know. They get the answers for the out-of-vocabulary
        user, as from the server.
    k : int
        Items per user.
    rows : int
        Rows of the file; less than users times k if users have fewer unseen items left.
    resumed_users : int
        How many of the users an interrupted command had answered already.
    """

    path: str
    version: int
    users: int
    unknown_users: int
    k: int
    rows: int
    resumed_users: int


def recommend(
    run: Run,
    users: str,
    out: Path,
    k: int | None = None,
    filter_seen: bool = True,
    filters: FiltersForAll = ALL,
    overwrite: bool = False,
    part_rows: int = PART_ROWS,
    rank: bool = False,
) -> Written:
    """Write the k best items of many users to a file, as the server would answer them.

    The file has a row per user and item: the user id, `rank` from 1, the item id and the score.
    It appears when it is complete. Until then its parts are in a hidden folder beside it; if the
    command is killed, the same command continues there, and the file is the same byte for byte.

    Parameters
    ----------
    run : Run
        Has a published version.
    users : str
        "all", or a file of users, see `read_users`.
    out : Path
        The file to write; its suffix, .parquet, .csv or .jsonl, is the format.
    k : int, optional
        Items per user; default: `serving.default_k`.
    filter_seen : bool
        Whether to leave out items that the user has already seen.
    filters : FiltersForAll, optional
        What the answers may hold.
    overwrite : bool
        Whether to replace `out` if it exists.
    part_rows : int
        Rows per part.
    rank : bool
        Whether the ranking model orders the answers.

    Returns
    -------
    Written

    Raises
    ------
    ConfigError
        If `out` or `users` cannot be used, or `out` exists; if the ranking model cannot order as
        many items.
    RunError
        If nothing is published, or another command writes `out`.
    ServingError
        If the version cannot run in this process, or refuses a feature of the users.
    """
    format_of(out)
    if out.exists() and not overwrite:
        raise ConfigError(f"--out {out}: exists already; --overwrite replaces it")
    with stage("recommend") as (progress, result):
        progress(0, 1, "load the version")
        published = open_published(run)
        asked = read_users(users, published.version)
        if asked.unused:
            say(f"{users}: not used, as no feature of the model: {', '.join(asked.unused)}")
        k = min(k or run.config.serving.default_k, len(published.version.item_ids))
        if rank:
            check_ranked(published.version.candidates, k)
        allowed = Allowed(filter_seen, filters, rank)
        written = _write(_Parts(out, k, part_rows), published, asked, allowed, progress)
        for line in _described(written):
            result(line)
    return written


def _described(written: Written) -> Iterator[str]:
    """Say what was written, in a line or more."""
    counts = f"version {written.version}: {written.users:,} users, {written.rows:,} rows"
    unknown, resumed = written.unknown_users, written.resumed_users
    yield counts + (f", unknown users: {unknown:,}" if unknown else "")
    if resumed:
        yield f"{resumed:,} users were answered before an interruption"
    yield f"{written.path}, {Path(written.path).stat().st_size / 1e6:.1f} MB"


def _write(
    parts: _Parts, published: Published, users: Users, allowed: Allowed, progress: ShowProgress
) -> Written:
    """Write the parts that are missing, and join them."""
    version, total = published.version, len(users.ids)
    with parts.writing():
        resumed = parts.prepare(_request(published, users, allowed, parts))
        for done in parts.write_missing(version, users, allowed):
            progress(done, total, "", f"{done:,} of {total:,} users")
        return Written(
            path=str(parts.out),
            version=published.number,
            users=total,
            unknown_users=int((~version.knows(users.ids)).sum()),
            k=parts.k,
            rows=parts.finish(),
            resumed_users=resumed,
        )


def _request(published: Published, users: Users, allowed: Allowed, parts: _Parts) -> dict[str, Any]:
    """All that the content of the parts depends on."""
    return {
        "version": published.number,
        "manifest": sha256(published.version.folder / MANIFEST_FILE),
        "users": users.digest,
        "k": parts.k,
        "seen": not allowed.filter_seen,
        "ranking": allowed.rank,
        "filters": json.loads(json.dumps(allowed.filters)),
        "denied items": np.flatnonzero(published.version.denied).tolist(),
        "users per part": parts.users,
    }


class Allowed(NamedTuple):
    """Which items may be in the answers, and whether the ranking model orders them."""

    filter_seen: bool
    filters: FiltersForAll
    rank: bool = False


class _Parts:
    """The parts of a file of recommendations, in a folder beside it.

    A part is complete if it has its name: its number and its number of rows.

    Parameters
    ----------
    out : Path
        The whole file.
    k : int
        Items per user.
    part_rows : int
        Rows per part.
    """

    def __init__(self, out: Path, k: int, part_rows: int) -> None:
        self.folder, self.out, self.k = out.with_name(f".{out.name}.parts"), out, k
        self.format = format_of(out)
        # Whole batches, so that each user is in the same batch however often the command is killed.
        self.users = max(1, part_rows // (k * BATCH)) * BATCH

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the lock of the folder; an error leaves the folder only if it has a part."""
        make_folder(self.folder)
        with (
            explained_disk_errors(self.out.parent, "recommend"),
            lock.writing(self.folder, "recommend"),
        ):
            try:
                yield
            except BaseException:
                if not self._complete():
                    shutil.rmtree(self.folder, ignore_errors=True)
                raise

    def prepare(self, request: dict[str, Any]) -> int:
        """Keep the parts if they are of this request, else remove them.

        Returns
        -------
        int
            The number of users whose answers are kept.
        """
        path = self.folder / REQUEST
        if path.is_file():
            earlier = json.loads(path.read_text())
            changed = [name for name in request if earlier.get(name) != request[name]]
            if not changed:
                return self.users * len(self._complete())
            say(
                f"{self.out}: an interrupted command had another {', '.join(changed)}; what it "
                "wrote is not used"
            )
            for part in self._complete().values():
                part.unlink()
        write_atomically(path, json.dumps(request))
        return 0

    def write_missing(self, version: LocalVersion, users: Users, allowed: Allowed) -> Iterator[int]:
        """Write the parts that are missing; yield after each batch how many users are done."""
        complete, schema = self._complete(), _schema(version)
        for number, start in enumerate(range(0, len(users.ids), self.users)):
            end = min(start + self.users, len(users.ids))
            if number in complete:
                yield end
                continue
            unfinished, rows = self.folder / "unfinished", 0
            with self.format.open(unfinished, schema, number == 0) as writer:
                for first in range(start, end, BATCH):
                    last = min(first + BATCH, end)
                    ids, features = users.batch(first, last)
                    # By the clock, a resumed file would differ from one without interruption.
                    features = {**version.unknown_time(len(ids)), **features}
                    filters = allowed.filters.of(len(ids))
                    answer = version.answer(
                        ids,
                        self.k,
                        allowed.filter_seen,
                        features,
                        filters,
                        Ranking(allowed.rank),
                    )
                    table = _table(ids, answer, schema)
                    writer.write(table)
                    rows += len(table)
                    yield last
            sync(unfinished)
            unfinished.rename(self.folder / f"{number:06}-{rows}")
            sync(self.folder)

    def finish(self) -> int:
        """Join the parts to the whole file; return its number of rows."""
        complete = self._complete()
        parts = [complete[number] for number in sorted(complete)]
        whole = parts[0]
        if len(parts) > 1:
            whole = self.folder / "whole"
            self.format.join(parts, whole)
            sync(whole)
        rows = sum(int(part.name.partition("-")[2]) for part in parts)
        whole.replace(self.out)
        sync(self.out.parent)
        shutil.rmtree(self.folder)
        return rows

    def _complete(self) -> dict[int, Path]:
        """The complete parts by number."""
        found = self.folder.glob("[0-9]*-*")
        return {int(path.name.partition("-")[0]): path for path in found}


def _schema(version: LocalVersion) -> pa.Schema:
    contract = version.contract
    return pa.schema(
        [
            (contract.user_id, pa.array(version.user_ids[:1]).type),
            (RANK, pa.int32()),
            (contract.item_id, pa.array(version.item_ids[:1]).type),
            (SCORE, pa.float32()),
        ]
    )


def _table(
    user_ids: np.ndarray, answer: tuple[np.ndarray, np.ndarray], schema: pa.Schema
) -> pa.Table:
    """One row per user and item, without the places where a user has no item left."""
    item_ids, scores = answer
    found = np.isfinite(scores)
    rows, places = np.nonzero(found)
    columns = (user_ids[rows], places + 1, item_ids[found], scores[found])
    arrays = [pa.array(each, kind) for each, kind in zip(columns, schema.types, strict=True)]
    return pa.table(arrays, schema=schema)
