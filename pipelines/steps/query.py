"""Ask the server of a run for recommendations, and print them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pandas as pd
from rich.table import Table
from rich.text import Text

from twotower.pipelines.answers.request import (
    ALL,
    FiltersForAll,
    Id,
    check_ranked,
    published_contract,
)
from twotower.pipelines.console import console, printable, stage
from twotower.pipelines.errors import ConfigError, RunError
from twotower.pipelines.run import TRITON, Run
from twotower.pipelines.steps.preprocess import load_split, read_ids
from twotower.pipelines.steps.processed import ITEMS, USERS
from twotower.pipelines.steps.serve import Addresses, running_server, serving
from twotower.serving.repository import ModelRepository

if TYPE_CHECKING:
    from twotower.serving.client import Recommendations

Protocol = Literal["http", "grpc"]


def query(
    run: Run,
    users: Sequence[Id],
    k: int | None = None,
    protocol: Protocol = "http",
    filter_seen: bool = True,
    features: Mapping[str, Any] | None = None,
    filters: FiltersForAll = ALL,
    rank: bool = False,
) -> dict[str, Recommendations]:
    """Ask the run's server, or one that is started for this query, and print the answer.

    Parameters
    ----------
    run : Run
        The run.
    users : sequence of int or str
        The user ids as given in the data.
    k : int, optional
        Items per user; default: `serving.default_k`.
    protocol : {"http", "grpc"}
        How to ask.
    filter_seen : bool
        Whether to leave out items that the user has already seen.
    features : mapping of str to Any, optional
        Values of features of the request, the same for all users; see `parse_features`.
    filters : FiltersForAll, optional
        What the answers may hold.
    rank : bool
        Whether the ranking model orders the answers.

    Returns
    -------
    dict of str to Recommendations
        The answer by protocol.

    Raises
    ------
    ConfigError
        If `k` is more than the published version answers, or it has no ranking model.
    RunError
        If the run has no data.
    ServingError
        If no server can be started, or it refuses the request.
    """
    with run.reading("ingest"):
        shown_items(run)  # fails before the query if the answer cannot be printed
        k = k or run.config.serving.default_k
        if running_server(run) is None:
            check_k(run, k)
            if rank and (contract := published_contract(run)) is not None:
                check_ranked(contract.get("candidates", 0), k)
        with _server_for(run) as addresses:
            answers = ask(addresses, users, k, [protocol], filter_seen, features, filters, rank)
        print_recommendations(run, users, answers)
        unknown = unknown_users(run, users)
    for user in unknown:
        console.print(
            Text(printable(f"user {user} is not in the run's data: answered as an unknown user"))
        )
    (version,) = {answer.version for answer in answers.values()}
    published = ModelRepository(run.path / TRITON).published
    console.print(
        f"version {version} answered"
        + ("" if version == published else f"; {published} is published: restart `twotower serve`")
    )
    return answers


@contextlib.contextmanager
def _server_for(run: Run) -> Iterator[Addresses]:
    """The running server of the run, or one that runs as long as the block."""
    if server := running_server(run):
        yield server
        return
    console.print("no server is running for this run: starting one for this query")
    with serving(run, events=True) as addresses:
        yield addresses


def ask(
    addresses: Addresses,
    users: Sequence[Id],
    k: int,
    protocols: Sequence[Protocol] = get_args(Protocol),
    filter_seen: bool = True,
    features: Mapping[str, Any] | None = None,
    filters: FiltersForAll = ALL,
    rank: bool = False,
) -> dict[str, Recommendations]:
    """The server's answer for `users` by each of the protocols; all have the same `features`."""
    from twotower.serving.client import RetrievalClient

    given = {name: [value] * len(users) for name, value in (features or {}).items()}
    answers: dict[str, Recommendations] = {}
    for protocol in protocols:
        with RetrievalClient(getattr(addresses, protocol), protocol=protocol) as client:
            answers[protocol] = client.recommend(
                users, k, filter_seen, given, **filters.of(len(users))._asdict(), rank=rank
            )
    return answers


def unknown_time(run: Run) -> dict[str, None]:
    """The feature of a request whose time is unknown; {} without features of the time.

    With a time, and without one by the clock, answers differ from those for the user table.
    """
    features = run.config.features
    return {features.time_column: None} if features.time else {}


def max_k(run: Run) -> int | None:
    """The maximum number of items per user of the published version; None if it is unknown."""
    contract = published_contract(run)
    return None if contract is None else int(contract["max_k"])


def check_k(run: Run, k: int) -> None:
    """Raise ConfigError if the published version does not answer with `k` items."""
    limit = max_k(run)
    if limit is not None and k > limit:
        raise ConfigError(
            f"-k {k}: the published version answers with at most {limit} items; ask for fewer, or "
            f"run `twotower export --set serving.max_k={k}` and `twotower publish`"
        )


def demonstrate(run: Run) -> dict[str, Any]:
    """Start Triton, print recommendations for three users over HTTP and gRPC, and stop it.

    Returns
    -------
    dict
        The user ids, and whether both protocols answered the same.

    Raises
    ------
    RunError
        If they did not.
    """
    config = run.config.serving
    k = min(10, config.max_k)
    with stage("serve") as (progress, result):
        users = example_users(run, min(3, config.max_batch_size))
        shown_items(run)
        progress(0, 3, "start Triton")
        with serving(run) as addresses:
            progress(1, 3, "query over HTTP and gRPC")
            # Both protocols are compared, and the clock goes on between them.
            answers = ask(addresses, users, k, features=unknown_time(run))
            progress(2, 3, "stop Triton")
        http, grpc = answers["http"], answers["grpc"]
        equal = http.version == grpc.version and all(
            np.array_equal(getattr(http, part), getattr(grpc, part))
            for part in ("item_ids", "scores")
        )
        if not equal:
            raise RunError(f"HTTP and gRPC answered differently:\n{http}\n{grpc}")
        result(
            f"version {http.version} answered over HTTP ({addresses.http}) and gRPC "
            f"({addresses.grpc}) with equal results; stopped"
        )
    print_recommendations(run, users, answers)
    return {"users": users, "equal": equal}


def example_users(run: Run, count: int = 3) -> list[Id]:
    """The ids as given of the first `count` users of the test part."""
    test = load_split(run.path / "processed")["test"]
    codes = np.unique(test[run.config.features.user_id])[:count]
    return read_ids(run).users.decode(codes).tolist()


def unknown_users(run: Run, users: Sequence[Id]) -> list[Id]:
    """Return those of `users`, ids as given, that the data of the run does not have."""
    user_id = run.config.features.user_id
    codes = pd.read_parquet(run.path / "data" / USERS, columns=[user_id])[user_id].to_numpy()
    known = set(read_ids(run).users.decode(codes).tolist())
    return [user for user in dict.fromkeys(users) if user not in known]


def shown_items(run: Run) -> pd.DataFrame:
    """The columns of the item table that the setting `show` names, indexed by the ids as given.

    Raises
    ------
    RunError
        If there is no item table.
    ConfigError
        If the table lacks a column.
    """
    from twotower.workflows.tables import read_frame

    item_id, show = run.config.features.item_id, run.config.show
    run.notes("ingest")  # fails if the run has no data yet
    ids = read_ids(run).items
    path = run.path / "data" / ITEMS
    if not path.is_file():
        raise RunError(f"{path}: missing; run `twotower ingest` again")
    items = read_frame(path, without=run.config.features.item_vectors)
    if missing := [column for column in show if column not in items]:
        raise ConfigError(
            f"show: the item table has no column {', '.join(missing)}; "
            f"it has {', '.join(items.columns)}"
        )
    items[item_id] = ids.decode(items[item_id].to_numpy())
    return items.set_index(item_id, drop=False)[show]


def print_recommendations(
    run: Run, users: Sequence[Id], answers: dict[str, Recommendations]
) -> None:
    """Print a table per user: rank, item id, the `show` columns, and the score by each protocol.

    Parameters
    ----------
    run : Run
        Has the item table.
    users : sequence of int or str
        The user ids as given.
    answers : dict of str to Recommendations
        The answer by protocol; all have the same item ids.
    """
    item_id, items = run.config.features.item_id, shown_items(run)
    synthetic = " (synthetic data)" if run.notes("ingest")["synthetic"] else ""
    answer = next(iter(answers.values()))
    ids, is_item = answer.item_ids, np.isfinite(answer.scores)
    unknown = set(ids[is_item].tolist()) - set(items.index)
    for row, user in enumerate(users):
        rendered = Table(title=Text(printable(f"user {user}{synthetic}")), title_justify="left")
        rendered.add_column("#", justify="right")
        rendered.add_column(Text(item_id), justify="right")
        for column in items:
            rendered.add_column(Text(column))
        for protocol in answers:
            rendered.add_column(f"score, {protocol}", justify="right")
        for place, item in enumerate(ids[row].tolist()):
            if not is_item[row, place]:
                rendered.add_row(str(place + 1), "-", "no unseen item left")
                break
            shown = [
                Text("?") if item in unknown else as_text(items.at[item, column])
                for column in items
            ]
            scores = [f"{answer.scores[row, place]:.4f}" for answer in answers.values()]
            rendered.add_row(str(place + 1), as_text(item), *shown, *scores)
        console.print(rendered)
    if unknown:
        console.print(
            f"[bold red]{len(unknown)} of the items are not in the run's item table[/]: the "
            "version that answered was made from other data. To serve the run's data, run "
            "`twotower preprocess`, `twotower train`, `twotower export` and `twotower publish`"
        )


def as_text(value: Any) -> Text:
    """A value as it is: in a plain string rich would interpret tags and emoji codes."""
    if isinstance(value, (list, np.ndarray)):
        value = ", ".join(str(v) for v in value)
    return Text(printable(str(value)))
