"""Updating a fitted model: larger vocabularies, and training on new and replayed interactions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf
from merlin.schema import Schema, Tags

from twotower.models.batch_keys import OUT_OF_VOCABULARY
from twotower.models.sequence.training import copy_item_vectors
from twotower.models.towers.embeddings import MultiHotEmbedding
from twotower.models.training.data import TrainingData
from twotower.models.training.model import TwoTower, create
from twotower.models.two_tower import embedding_tables

if TYPE_CHECKING:
    import merlin.models.tf as mm

MIN_BATCHES = 64
"""Batches per pass over the data. With fewer, all interactions of a new user would be in one or
two steps."""


def with_replay(
    data: TrainingData, new: int, replay: float, batch_size: int, seed: int
) -> TrainingData:
    """Select the new interactions and a random sample of the earlier ones.

    Parameters
    ----------
    data : TrainingData
        All interactions; the new ones are the last.
    new : int
        Number of new interactions.
    replay : float
        Number of earlier interactions per new one. If new and earlier ones fill fewer than
        `MIN_BATCHES` batches, more are drawn, up to all there are.
    batch_size : int
    seed : int

    Returns
    -------
    TrainingData
    """
    old = len(data.user_rows) - new
    wanted = min(old, max(round(replay * new), MIN_BATCHES * batch_size - new))
    drawn = np.random.default_rng(seed).choice(old, wanted, replace=False)
    rows = np.append(drawn, np.arange(old, old + new))
    return data.take(rows)


def grow(tower: TwoTower, schema: Schema, data: TrainingData, seed: int) -> TwoTower:
    """Create a model with larger vocabularies that answers as `tower` does.

    Weights are copied. A new value starts with the out-of-vocabulary embedding, which has answered
    for it so far. Lists leave out unknown values, so the out-of-vocabulary embedding of a list was
    never trained: a new value of a list starts with the mean of the known ones. The optimizer
    state is not copied.

    Parameters
    ----------
    tower : TwoTower
    schema : Schema
        The vocabularies; the codes of known values must not have changed.
    data : TrainingData
        All interactions, whose positives are counted for the logQ correction. In a sample of
        new and some earlier interactions, new items are too frequent, and the model would rank
        them too high. For the same reason the grown model uses counts, even if `tower` estimates
        frequencies from the batches.
    seed : int
        Random seed of the weights that are not copied.

    Returns
    -------
    TwoTower
    """
    config = tower.config.copy(update={"logq_estimate": "counts"})
    grown = create(schema, data, config, seed)
    grown.history = tower.history
    for old, new, is_list in _paired_weights(tower, grown):
        # A learnt temperature is a scalar, which has no rows to add.
        added = new.shape[0] - len(old) if new.shape.rank else 0
        new.assign(_with_new_rows(old, added, is_list))
    if config.sequence is not None:
        copy_item_vectors(grown, data)
    return grown


def limit_change(grown: TwoTower, before: TwoTower, fraction: float) -> None:
    """Keep only a fraction of the change of the weights that existed before the update.

    Parameters
    ----------
    grown : TwoTower
        Its weights are changed.
    before : TwoTower
        The model that `grown` was created from.
    fraction : float
        0 restores the weights of `before`, 1 keeps those of `grown`.

    Notes
    -----
    Averaging old and new weights keeps what the old ones were good at (Wortsman et al., "Robust
    fine-tuning of zero-shot models", CVPR 2022). Without it, the vectors of existing users would
    forget the interactions that are not in the sample.
    """
    for old, new, _ in _paired_weights(before, grown):
        values = np.array(new)
        existing = values[: len(old)] if old.ndim else values
        existing[...] = old + fraction * (existing - old)
        new.assign(values)


def known_items(tower: TwoTower, items: Mapping[str, np.ndarray]) -> np.ndarray:
    """Tell which items are in the model's vocabulary.

    Parameters
    ----------
    tower : TwoTower
    items : mapping of str to ndarray
        The encoded item table, perhaps with a larger vocabulary than the model's.

    Returns
    -------
    ndarray of bool, shape (n_items,)
    """
    item_id = tower.schema.select_by_tag(Tags.ITEM_ID).first
    codes = items[item_id.name][:, 0]
    return (codes > OUT_OF_VOCABULARY) & (codes <= item_id.int_domain.max)


def _paired_weights(
    before: TwoTower, after: TwoTower
) -> Iterator[tuple[np.ndarray, tf.Variable, bool]]:
    """All trained weights: value before, variable after, whether it is an embedding of a list."""
    old_tables, new_tables = embedding_tables(before.model), embedding_tables(after.model)
    seen = set()
    # Single values first: a history may share the table of the item ids (model.tie_history).
    for name in sorted(new_tables, key=lambda name: new_tables[name].schema.first.is_list):
        table = new_tables[name]
        if id(table.table) not in seen:
            old = old_tables[name].table.embeddings
            yield old.numpy(), table.table.embeddings, table.schema.first.is_list
        seen.add(id(table.table))
    # Other variables have no unique names; the architecture determines their order. Augmented
    # vectors are among them: tables by id, which grow as the embeddings of the id do.
    old_others = _other_weights(before.model, old_tables)
    new_others = _other_weights(after.model, new_tables)
    for old, new in zip(old_others, new_others, strict=True):
        yield old.numpy(), new, False


def _other_weights(
    model: mm.RetrievalModelV2, tables: dict[str, MultiHotEmbedding]
) -> list[tf.Variable]:
    embeddings = {id(table.table.embeddings) for table in tables.values()}
    return [each for each in model.trainable_variables if id(each) not in embeddings]


def _with_new_rows(table: np.ndarray, added: int, is_list: bool) -> np.ndarray:
    """The table with `added` rows, which start as `grow` describes."""
    if not added:
        return table
    known = table[OUT_OF_VOCABULARY + 1 :]
    start = known.mean(axis=0) if is_list and len(known) else table[OUT_OF_VOCABULARY]
    return np.concatenate([table, np.tile(start, (added, 1))])
