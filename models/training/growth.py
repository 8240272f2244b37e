"""A fitted model that learns more users, items and feature values, and goes on from new data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, Extra, Field

from twotower.models.two_tower import embedding_tables

if TYPE_CHECKING:
    import tensorflow as tf
    from merlin.schema import Schema

    from twotower.models.towers.embeddings import MultiHotEmbedding
    from twotower.models.training.fit import TrainingData, TwoTower


LEAST_BATCHES = 64
"""In a pass over the data: with fewer, a new user's few interactions share a step or two."""


class UpdateConfig(BaseModel, extra=Extra.forbid):
    """How an update fits the model further; what is not here is as in `training`."""

    replay: float = Field(
        4.0,
        ge=0,
        le=1e6,
        description="interactions from before per new one, drawn at random to fit on; more, where "
        "there are more, to make it 64 batches",
    )
    epochs: int = Field(
        4, gt=0, le=1_000_000, description="at most this many passes over new ones and replay"
    )
    warmup: int = Field(
        0,
        ge=0,
        le=2**31 - 1,
        description="number of steps over which the learning rate rises linearly; 0: none",
    )
    learning_rate: float = Field(0.01, gt=0, le=1000, description="initial learning rate")
    learning_rate_decay: float = Field(
        0.7, gt=0, le=1, description="factor on the learning rate after every epoch"
    )
    moving: float = Field(
        0.1,
        ge=0,
        le=1,
        description="fraction of each epoch's change that existing weights keep; 0: they stay "
        "as they are and only new users and items are learnt; 1: they change freely, and what is "
        "neither new nor replayed is soon forgotten",
    )
    max_loss: float = Field(
        0.1,
        ge=0,
        le=1,
        description="an update stops before anything changes if its model's training.monitor, on "
        "test users and items that the published version knows too, is lower than that of the "
        "published version by more than this share of it; 1: they are not compared",
    )
    max_changed: float = Field(
        0.5,
        ge=0,
        le=1,
        description="an update stops before it learns if a larger share of the known users or "
        "items that its interactions name (of all known ones, where it has no interactions) have "
        "other values in at least half of their columns: their ids may have been numbered anew; "
        "1: it never does",
    )
    max_shift: float = Field(
        3.0,
        ge=0,
        le=1e12,
        description="an update stops before it learns if the median of the new values of a number "
        "(features.user_numeric, features.item_numeric, positives.column) lies outside the range "
        "of 98 % of the values before by more than this many widths of that range: they may be in "
        "another unit; 0: any median outside, 1e12: it never does",
    )


def with_replay(
    data: TrainingData, new: int, replay: float, batch_size: int, seed: int
) -> TrainingData:
    """The last `new` interactions of `data`, and `replay` times as many drawn from those before.

    More are drawn, where there are more, to make it LEAST_BATCHES.
    """
    old = len(data.user_rows) - new
    wanted = min(old, max(round(replay * new), LEAST_BATCHES * batch_size - new))
    drawn = np.random.default_rng(seed).choice(old, wanted, replace=False)
    rows = np.append(drawn, np.arange(old, old + new))
    return replace(data, user_rows=data.user_rows[rows], item_rows=data.item_rows[rows])


def grow(tower: TwoTower, schema: Schema, data: TrainingData, seed: int) -> TwoTower:
    """The model with the vocabularies of `schema`, in which those of `tower` keep their codes.

    It answers as `tower` does: what was learnt is copied, and a value that is new starts where
    unknown ones have been answered from, its table's out-of-vocabulary row. In a list unknown
    values are left out, so that row was never trained: there a new value starts as the mean of the
    known ones. The optimizer starts afresh.

    `data` are all interactions, not only those to fit on: logQ counts the positives in them. A
    sample with all the new ones and a few old ones has a new item more often than users take it;
    with the sample's own counts that share would be learnt, and new items would lead every list.
    For the same reason it counts also where `tower` has learnt frequencies from the stream.
    """
    from twotower.models.training.fit import create

    config = tower.config.copy(update={"logq_estimate": "counts"})
    grown = create(schema, data, config, seed)
    for old, new, is_list in _pairs(tower, grown):
        # A learnt temperature is a scalar.
        more = new.shape[0] - len(old) if new.shape.rank else 0
        new.assign(_longer(old, more, is_list))
    return grown


def hold(grown: TwoTower, before: TwoTower, moving: float) -> None:
    """Keep only a fraction `moving` of the change that `grown` made to the weights of `before`.

    Averaging weights in this way keeps what they were good at (Wortsman et al., "Robust
    fine-tuning of zero-shot models", CVPR 2022). Fitted on a sample, an old user's vector would
    forget the interactions that are not in it.
    """
    for old, new, _ in _pairs(before, grown):
        values = np.array(new)
        kept = values[: len(old)] if old.ndim else values
        kept[...] = old + moving * (kept - old)
        new.assign(values)


def known_items(tower: TwoTower, items: Mapping[str, np.ndarray]) -> np.ndarray:
    """bool [n_items]: whether the vocabulary of `tower` has the id of a row of the encoded items.

    Codes beyond those of `tower`, of a vocabulary that has grown, are unknown to it.
    """
    from merlin.schema import Tags

    from twotower.models.batch_keys import OUT_OF_VOCABULARY

    item_id = tower.schema.select_by_tag(Tags.ITEM_ID).first
    codes = items[item_id.name][:, 0]
    return (codes > OUT_OF_VOCABULARY) & (codes <= item_id.int_domain.max)


def _pairs(before: TwoTower, after: TwoTower) -> Iterator[tuple[np.ndarray, tf.Variable, bool]]:
    """Everything trained: value before, variable after, whether it is the embedding of a list."""
    old_tables, new_tables = embedding_tables(before.model), embedding_tables(after.model)
    for name, table in new_tables.items():
        old = old_tables[name].table.embeddings
        yield old.numpy(), table.table.embeddings, table.schema.first.is_list
    # Variables have no names of their own; their order follows from the architecture. Augmented
    # vectors are among them: a table by id, which grows as the id's embeddings do.
    rest = [
        _rest(tower.model, tables) for tower, tables in ((before, old_tables), (after, new_tables))
    ]
    for old, new in zip(*rest, strict=True):
        yield old.numpy(), new, False


def _rest(model, tables: dict[str, MultiHotEmbedding]) -> list[tf.Variable]:
    embeddings = {id(table.table.embeddings) for table in tables.values()}
    return [each for each in model.trainable_variables if id(each) not in embeddings]


def _longer(table: np.ndarray, more: int, is_list: bool) -> np.ndarray:
    """`table` [n, dim] with `more` rows, the new ones as `grow` says."""
    from twotower.models.batch_keys import OUT_OF_VOCABULARY

    if not more:
        return table
    known = table[OUT_OF_VOCABULARY + 1 :]
    start = known.mean(axis=0) if is_list and len(known) else table[OUT_OF_VOCABULARY]
    return np.concatenate([table, np.tile(start, (more, 1))])
