"""Tables with every kind of column, and what NVTabular makes of their pairs joined to them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from twotower.workflows.features.config import FeaturesConfig
from twotower.workflows.features.names import internal_name
from twotower.workflows.features.rows import typed

EVERY_KIND = FeaturesConfig(
    user=["city", "age", "Zone-1", "score"],
    user_multi_hot={"likes": 3, "codes": 4, "flags": 3, "sizes": 2},
    user_numeric=["height"],
    item=["year"],
    item_multi_hot={"genres": 2},
    item_text={"title": 3},
    item_numeric=["price"],
    context=["place", "month"],
    context_numeric=["pause"],
    history=4,
)


def users_of(n: int, seed: int = 5) -> pd.DataFrame:
    """Users with texts in mixed case, negative numbers, nulls, empty lists and null lists."""
    rng = np.random.default_rng(seed)

    def some(values, share=0.2):
        return [None if rng.random() < share else value for value in values]

    def lists(draw):
        kept = [[draw() for _ in range(rng.integers(0, 6))] for _ in range(n)]
        return some(kept, 0.1)

    texts = ["Oslo", "oslo", "OSLO", "Rome", "Ürümqi", "", " Rome", "00042"]
    return pd.DataFrame(
        {
            "user_id": np.arange(n) * 3 - 7,
            "city": some(rng.choice(texts, n)),
            "age": pd.array(some(rng.integers(-40, 40, n).tolist()), dtype="Int64"),
            "Zone-1": rng.integers(-(2**62), 2**62, n) // 2**58,
            "score": some(rng.choice([0.5, -0.5, 1e300, 2**53 + 2.0, 0.0, -0.0], n)),
            "likes": lists(lambda: rng.choice(["a", "A", "b", None, "ß"])),
            "codes": lists(lambda: int(rng.integers(-9, 9))),
            "flags": lists(lambda: rng.choice([1, 2, None, 7])),
            "sizes": lists(lambda: rng.choice([1.0, -2.0, 3.0])),
            "height": some(rng.normal(170, 9, n)),
        }
    )


def items_of(n: int, seed: int = 6) -> pd.DataFrame:
    """Items, with texts in titles."""
    rng = np.random.default_rng(seed)
    words = ["Toy", "toy", "STORY", "of", "Zoë", "ii"]
    titles = [" ".join(rng.choice(words, rng.integers(0, 5))) for _ in range(n)]
    return pd.DataFrame(
        {
            "item_id": np.arange(n) * 5 + 2,
            "year": rng.integers(1990, 2000, n),
            "genres": [rng.choice(["War", "Noir", "Drama"], rng.integers(0, 4)) for _ in range(n)],
            "title": [None if rng.random() < 0.1 else title for title in titles],
            "price": rng.integers(1, 90, n),
        }
    )


def pairs_of(users: pd.DataFrame, items: pd.DataFrame, n: int, seed: int = 7) -> pd.DataFrame:
    """Pairs of most users and items, with a context and few distinct frequencies."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "user_id": rng.choice(users["user_id"][: len(users) * 3 // 4], n),
            "item_id": rng.choice(items["item_id"][: len(items) * 3 // 4], n),
            "place": [None if rng.random() < 0.3 else p for p in rng.choice(["a", "b", "c"], n)],
            "month": rng.integers(1, 13, n),
            "pause": rng.exponential(60, n),
        }
    )


def histories(users: pd.DataFrame, train: pd.DataFrame) -> list[list[int]]:
    """The last items of each user, the latest first, in the order of the rows."""
    items = train.groupby("user_id")["item_id"].agg(list)
    return [items.get(user, [])[: -EVERY_KIND.history - 1 : -1] for user in users["user_id"]]


def side_rows(table: pd.DataFrame, side) -> pd.DataFrame:
    """The columns of a side in the types that NVTabular needs."""
    rows = typed(table[side.columns], lists=list(side.multi_hot), numbers=side.numeric)
    return rows.rename(columns=internal_name)


def fit_joined(train, users, items, config: FeaturesConfig, out: Path):
    """Fit NVTabular's graph on the pairs joined to both tables, all in memory: the reference."""
    import nvtabular as nvt

    from twotower.workflows.features.graph import feature_workflow

    wide = train[["user_id", "item_id"]]
    if config.context_columns:
        wide = wide.join(side_rows(train, config.of_interaction).drop(columns="user_id"))
    for side, table in zip(config.sides, (users, items), strict=True):
        rows = side_rows(table, side).drop(columns=side.history or [])
        wide = wide.merge(rows, on=side.id)
    if config.history:
        wide["history"] = wide[["item_id"]].to_numpy().tolist()
    workflow = feature_workflow(config, out / "fitted")
    workflow.fit(nvt.Dataset(wide))
    return workflow, wide


@pytest.fixture(scope="session")
def every_kind(tmp_path_factory):
    """The reference on tables with every kind of column, and these tables."""
    users, items = users_of(400), items_of(120)
    train = pairs_of(users, items, 3000)
    users = users.assign(history=histories(users, train))
    out = tmp_path_factory.mktemp("joined")
    workflow, wide = fit_joined(train, users, items, EVERY_KIND, out)
    return {"train": train, "users": users, "items": items, "workflow": workflow, "wide": wide}
