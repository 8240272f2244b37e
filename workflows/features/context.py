"""The context of interactions: what the query tower reads of a row, and not of its user."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa

from twotower.workflows.encoding.encoder import UNKNOWN
from twotower.workflows.features.config import FeaturesConfig
from twotower.workflows.features.encode import encode
from twotower.workflows.order import keys

if TYPE_CHECKING:
    import nvtabular as nvt


def add_context(
    pairs: pd.DataFrame, positives: pd.DataFrame, config: FeaturesConfig
) -> pd.DataFrame:
    """Add to pairs the context of each, as the interactions have it.

    Parameters
    ----------
    pairs : DataFrame
        The columns `keys`, each combination once.
    positives : DataFrame
        The positive rows, among them all of `pairs`.
    config : FeaturesConfig

    Returns
    -------
    DataFrame
        The columns `keys`, the stored columns of the context and, for `features.time`, the
        timestamp, with the index of `pairs`. A repeated pair has the context of its last row.
    """
    by, columns = keys(pairs), config.stored_context
    if config.time:
        columns.append(config.time_column)
    if not columns:
        return pairs[by]
    last = positives[[*by, *columns]].drop_duplicates(by, keep="last")
    return pairs[by].merge(last, on=by, how="left").set_index(pairs.index)


def distinct_contexts(
    rows: pd.DataFrame, config: FeaturesConfig
) -> tuple[np.ndarray, pd.DataFrame]:
    """Number the different contexts of `rows`.

    Returns
    -------
    numbers : ndarray of int32, shape (len(rows),)
    contexts : DataFrame
        The contexts by number. Nulls are equal to each other.
    """
    context = rows[config.context_columns]
    numbers = np.zeros(len(context), np.int64)
    for column in context:
        codes = pd.factorize(context[column])[0] + 1
        numbers = np.unique(numbers * (codes.max(initial=0) + 1) + codes, return_inverse=True)[1]
    first = np.unique(numbers, return_index=True)[1]
    return numbers.astype(np.int32), context.iloc[first].reset_index(drop=True)


def encode_context(
    workflow: nvt.Workflow, contexts: pd.DataFrame, config: FeaturesConfig
) -> pd.DataFrame:
    """Encode contexts with the Subgraph "user" of a fitted feature graph; see `encode`."""
    return encode(workflow, "user", contexts, without=config.sides[0].columns)


def add_unknown_context(encoded: pa.Table, config: FeaturesConfig) -> pa.Table:
    """Add to encoded users the columns of a context that is not given.

    A category is out of vocabulary, as an unknown value is; a number is the mean.
    """
    side, size = config.of_interaction.internal, len(encoded)
    for name in side.categorical:
        encoded = encoded.append_column(name, pa.array(np.full(size, UNKNOWN, np.int32)))
    for name in side.numeric:
        encoded = encoded.append_column(name, pa.array(np.zeros(size, np.float32)))
    return encoded
