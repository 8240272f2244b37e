"""The NVTabular graphs: positives filtered first, then ids and features turned into integers.

Two graphs, because only one of them is served. `positives_workflow` filters on the rating and
needs the rating column; a Filter in the served graph would ask every request for a rating.
`feature_workflow` has one Subgraph per side, "user" and "item"; the user side is what the server
evaluates for a request, the item side encodes the catalogue.

Integers follow NVTabular's Categorify: 0 padding, 1 null, 2 out of vocabulary, then the
vocabulary by descending frequency in the training part.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd
from pydantic import BaseModel, Extra, Field

from workflows.errors import DataError

if TYPE_CHECKING:
    import nvtabular as nvt

OUT_OF_VOCABULARY = 2


class PositivesConfig(BaseModel, extra=Extra.forbid):
    """Which interactions count as positives."""

    column: str | None = Field(None, description="column to compare; none: every row is positive")
    at_least: float = Field(1.0, description="a row is positive when column >= this")


class FeaturesConfig(BaseModel, extra=Extra.forbid):
    """Which columns the towers see."""

    # What the tidy tables call the ids; other names are mapped when the data is read.
    user_id: ClassVar[str] = "user_id"
    item_id: ClassVar[str] = "item_id"

    user: list[str] = Field([], description="categorical user columns")
    item: list[str] = Field([], description="categorical item columns")
    item_multi_hot: dict[str, int] = Field(
        {}, description="list columns of the item table -> how many values of a row are kept"
    )
    min_frequency: int = Field(
        0, ge=0, description="a value rarer than this in the training part is out of vocabulary"
    )


class AtLeast:
    """`column >= threshold` as an object, so that a saved workflow loads in any process."""

    def __init__(self, column: str, threshold: float):
        self.column, self.threshold = column, threshold

    def __call__(self, df):
        return df[self.column] >= self.threshold


def positives_workflow(config: PositivesConfig, columns: list[str]) -> nvt.Workflow:
    """The graph that keeps the positive rows of `columns`."""
    import nvtabular as nvt
    from nvtabular import ops

    nodes = nvt.ColumnSelector(columns)
    if config.column is not None:
        nodes = nodes >> ops.Filter(f=AtLeast(config.column, config.at_least))
    return nvt.Workflow(nodes)


def filter_positives(interactions: pd.DataFrame, config: PositivesConfig) -> pd.DataFrame:
    """The positive rows of `interactions`, in their order, by NVTabular's Filter.

    Raises DataError when the column is missing or no row is positive.
    """
    if config.column is None:
        return interactions
    if config.column not in interactions:
        raise DataError(
            f"positives.column: the interactions have no column {config.column!r}; "
            f"they have {', '.join(interactions.columns)}"
        )
    import nvtabular as nvt

    workflow = positives_workflow(config, list(interactions.columns))
    kept = workflow.transform(nvt.Dataset(interactions)).compute().reset_index(drop=True)
    kept = kept.to_pandas() if hasattr(kept, "to_pandas") else kept
    if kept.empty:
        raise DataError(
            f"positives: no row has {config.column} >= {config.at_least:g} "
            f"(its largest value is {interactions[config.column].max():g}); "
            "lower positives.at_least"
        )
    return kept


def feature_workflow(config: FeaturesConfig, categories: Path) -> nvt.Workflow:
    """The unfitted feature graph with Subgraphs "user" and "item".

    Column tags: USER_ID, ITEM_ID, USER, ITEM; Categorify adds CATEGORICAL. `categories` is where
    NVTabular keeps the vocabularies until the workflow is saved.
    """
    import nvtabular as nvt
    from merlin.dag.ops.subgraph import Subgraph
    from merlin.schema import Tags
    from nvtabular import ops

    def categorify(columns: list[str], *tags, min_frequency: int = config.min_frequency):
        encoded = columns >> ops.Categorify(
            out_path=str(categories), freq_threshold=min_frequency, dtype="int32"
        )
        return encoded >> ops.AddMetadata(tags=list(tags))

    user = categorify([config.user_id], Tags.USER_ID, Tags.USER)
    if config.user:
        user += categorify(config.user, Tags.USER)
    item = categorify([config.item_id], Tags.ITEM_ID, Tags.ITEM)
    if config.item:
        item += categorify(config.item, Tags.ITEM)
    for column, length in config.item_multi_hot.items():
        kept = categorify([column], Tags.ITEM) >> ops.ListSlice(0, length)
        item += kept
    return nvt.Workflow(Subgraph("user", user) + Subgraph("item", item))


def fit_features(
    train: pd.DataFrame,
    users: pd.DataFrame,
    items: pd.DataFrame,
    config: FeaturesConfig,
    out: Path,
) -> nvt.Workflow:
    """Fit the feature graph on the training part and save it to `out`.

    `train` has the two id columns; features are joined from `users` and `items`, so a value is
    counted as often as it is trained on.
    """
    import nvtabular as nvt

    for table, name, columns in (
        (users, "users", [config.user_id, *config.user]),
        (items, "items", [config.item_id, *config.item, *config.item_multi_hot]),
    ):
        missing = [column for column in columns if column not in table]
        if missing:
            raise DataError(
                f"features: the {name} table has no column {', '.join(missing)}; "
                f"it has {', '.join(table.columns)}"
            )
    wide = (
        train[[config.user_id, config.item_id]]
        .merge(users[[config.user_id, *config.user]], on=config.user_id)
        .merge(items[[config.item_id, *config.item, *config.item_multi_hot]], on=config.item_id)
    )
    # Not a substring of any file name: NVTabular rewrites this path inside the saved graph.
    fitted = out / "fit.tmp"
    workflow = feature_workflow(config, fitted)
    workflow.fit(nvt.Dataset(wide))
    workflow.save(str(out))
    shutil.rmtree(fitted, ignore_errors=True)
    return load_workflow(out)


def load_workflow(path: Path) -> nvt.Workflow:
    """A saved workflow. Loading unpickles: only call it on files the run's manifest vouches for."""
    import nvtabular as nvt

    return nvt.Workflow.load(str(path))


def encode(workflow: nvt.Workflow, side: str, table: pd.DataFrame) -> pd.DataFrame:
    """`table` through the Subgraph `side` ("user" or "item"); rows keep their order."""
    import nvtabular as nvt

    graph = workflow.get_subworkflow(side)
    rows = table[graph.input_schema.column_names].reset_index(drop=True)
    encoded = graph.transform(nvt.Dataset(rows)).compute()
    encoded = encoded.to_pandas() if hasattr(encoded, "to_pandas") else encoded
    return encoded.reset_index(drop=True)


def as_arrays(encoded: pd.DataFrame, lengths: dict[str, int]) -> dict[str, np.ndarray]:
    """Columns of an encoded table as int32 arrays: [n, 1], or [n, length] for multi-hot columns.

    Multi-hot rows are padded with 0 to the fixed length, so that a batch never holds a ragged
    list: Merlin's loader is 60 times slower with one, and the mean over a padded row is a dense
    operation.
    """
    arrays = {}
    for column in encoded:
        if column in lengths:
            arrays[column] = _pad(encoded[column].tolist(), lengths[column])
        else:
            arrays[column] = encoded[column].to_numpy(dtype=np.int32)[:, None]
    return arrays


def _pad(rows: list, length: int) -> np.ndarray:
    counts = np.fromiter((len(row) for row in rows), dtype=np.int64, count=len(rows))
    padded = np.zeros((len(rows), length), dtype=np.int32)
    padded[np.arange(length) < np.minimum(counts, length)[:, None]] = np.concatenate(
        [np.asarray(row[:length], dtype=np.int32) for row in rows] or [np.zeros(0, np.int32)]
    )
    return padded
