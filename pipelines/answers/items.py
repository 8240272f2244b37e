"""Deny items, so that they are in no answer, and allow them again, without a new version."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from twotower.pipelines.answers.request import Id, parse_ids, published_contract
from twotower.pipelines.answers.users import ids_of, open_ids
from twotower.pipelines.console import console, say
from twotower.pipelines.errors import ConfigError
from twotower.pipelines.run import TRITON, Run
from twotower.pipelines.run.disk import explained_disk_errors
from twotower.pipelines.steps.preprocess import read_ids
from twotower.pipelines.steps.query import as_text, shown_items
from twotower.pipelines.steps.serve import running_server
from twotower.serving.files import write_atomically
from twotower.serving.repository import ModelRepository
from twotower.serving.runtime.filters.denied import DENIED_FILE, ITEMS, read_denied

SUFFIXES = (".csv", ".tsv", ".txt", ".parquet", ".jsonl", ".json")
"""Ends of what is taken for a file of ids, not for an id."""
MAX_SHOWN = 20
"""Items that a table shows."""


class Denied(NamedTuple):
    """The denied items.

    Attributes
    ----------
    items : list of int or str
        Ids as given, in the order in which they were denied.
    shown : DataFrame
        The columns that the setting `show` names, by item id.
    """

    items: list[Id]
    shown: pd.DataFrame


def change_items(run: Run, deny: Sequence[str] = (), allow: Sequence[str] = ()) -> Denied:
    """Deny items and allow items, and print which are denied then.

    A denied item is in no answer of any version of the run. A running server leaves it out within a
    second.

    Parameters
    ----------
    run : Run
    deny, allow : sequence of str
        Item ids, or files of item ids in any format that own data may have.

    Returns
    -------
    Denied

    Raises
    ------
    ConfigError
        If an item is to be denied and allowed.
    DataError
        If an id is of another kind than those of the run, or a file cannot be read.
    ServingError
        If the list of denied items cannot be read or written.
    """
    denied, allowed = (dict.fromkeys(_read(run, given)) for given in (deny, allow))
    if both := [item for item in denied if item in allowed]:
        raise ConfigError(f"item {both[0]} is given to --deny and to --allow; choose one")
    repository = ModelRepository(run.path / TRITON)
    path = repository.root / DENIED_FILE
    with explained_disk_errors(run.path, "items"), repository.lock():
        before = read_denied(path)
        after = [item for item in dict.fromkeys([*before, *denied]) if item not in allowed]
        if after != before:
            write_atomically(path, json.dumps({ITEMS: after}, ensure_ascii=False) + "\n")
    shown = shown_items(run)
    _print(run, Denied(after, shown), before, list(denied), list(allowed))
    return Denied(after, shown)


def _read(run: Run, given: Sequence[str]) -> list[Id]:
    """Return the ids that were given, and those in the files that were given."""
    ids = read_ids(run).items
    found: list[Id] = []
    for each in given:
        if Path(each).suffix not in SUFFIXES:
            found += parse_ids(run, "items", [each])
        elif not Path(each).is_file():
            raise ConfigError(f"{each}: no such file of item ids")
        else:
            table, name = open_ids(
                Path(each), run.config.features.item_id, ids.type, shown_items(run).index.to_numpy()
            )
            found += ids_of(table, name, ids.type).tolist()
    return found


def _print(run: Run, denied: Denied, before: list[Id], deny: list[Id], allow: list[Id]) -> None:
    """Print what has changed, and a table of the denied items."""
    known, items = set(denied.shown.index.tolist()), denied.items
    for item in (each for each in deny if each not in known):
        say(f"item {item} is not in the run's data; it is denied if it comes")
    for item in (each for each in allow if each not in before):
        say(f"item {item} was not denied")
    if deny and (contract := published_contract(run)) is not None and "filters" not in contract:
        console.print(
            "[bold red]warning[/] the published version is of an earlier release, which answers "
            "with denied items; run `twotower export` and `twotower publish`"
        )
    if items:
        table = Table(title=Text(f"{len(items):,} denied items"), title_justify="left", box=None)
        for name in ("item", *denied.shown.columns):
            table.add_column(Text(name))
        for item in items[:MAX_SHOWN]:
            row = denied.shown.loc[item] if item in known else ["" for _ in denied.shown.columns]
            table.add_row(as_text(item), *map(as_text, row))
        console.print(table)
        if len(items) > MAX_SHOWN:
            console.print(f"and {len(items) - MAX_SHOWN:,} more; --json prints all")
    else:
        console.print("no item is denied")
    if (deny or allow) and (server := running_server(run)):
        console.print(escape(f"the server at {server.http} takes this over within a second"))
