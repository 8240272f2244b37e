"""The NVTabular graphs: positives filtered first, then ids and features turned into integers.

Two graphs, because only one of them is served. `positives_workflow` filters on the rating and
needs the rating column; a Filter in the served graph would ask every request for a rating.
`feature_workflow` has one Subgraph per side, "user" and "item"; the user side is what the server
evaluates for a request, the item side encodes the catalogue.

Integers follow NVTabular's Categorify: 0 padding, 1 null, 2 out of vocabulary, then the
vocabulary by descending frequency in the training part. Within a list a null is out of
vocabulary; a list that is null is an empty one. A text is the list of its words. Numbers become
float32 of mean 0 and variance 1 over the training part; a null becomes the mean, 0.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from pydantic import BaseModel, Extra, Field, conint, root_validator

from twotower.workflows.errors import DataError
from twotower.workflows.names import internal_name
from twotower.workflows.sides import Side, check_table, check_training, side_rows, typed
from twotower.workflows.tables import read_frame

if TYPE_CHECKING:
    import dask.dataframe
    import nvtabular as nvt

OUT_OF_VOCABULARY = 2
Length = conint(gt=0, le=4096)  # of a list; a request can give no more


class PositivesConfig(BaseModel, extra=Extra.forbid):
    """Which interactions count as positives."""

    column: str | None = Field(
        None,
        description="Column of the interactions that is compared with `at_least`. Without it, every "
        "interaction is a positive.",
    )
    at_least: float = Field(
        1.0,
        ge=-1e300,
        le=1e300,
        description="Threshold: an interaction is a positive if its value in `column` is greater "
        "than or equal to it.",
    )


class FeaturesConfig(BaseModel, extra=Extra.forbid):
    """Which columns are inputs of the two towers, and how each is encoded."""

    # What the tidy tables call the ids; other names are mapped when the data is read.
    user_id: ClassVar[str] = "user_id"
    item_id: ClassVar[str] = "item_id"
    history_column: ClassVar[str] = "history"

    user: list[str] = Field([], description="Categorical columns of the user table.")
    item: list[str] = Field([], description="Categorical columns of the item table.")
    user_multi_hot: dict[str, Length] = Field(
        {},
        description="Columns of the user table that contain lists, as {column: maximum number of "
        "values per row}. The first values are kept.",
    )
    item_multi_hot: dict[str, Length] = Field(
        {},
        description="Columns of the item table that contain lists, as {column: maximum number of "
        "values per row}. The first values are kept.",
    )
    item_text: dict[str, Length] = Field(
        {},
        description="Columns of the item table that contain text, as {column: maximum number of "
        "words per row}. The first words are kept; words are split as in workflows/text.py.",
    )
    user_numeric: list[str] = Field([], description="Numeric columns of the user table.")
    item_numeric: list[str] = Field([], description="Numeric columns of the item table.")
    history: Length | None = Field(
        None,
        description="Maximum length of the list of a user's latest positives in the training part, "
        "which is an input of the query tower named history. Without it, there is no such input.",
    )
    min_frequency: int = Field(
        0,
        ge=0,
        le=2**31 - 1,
        description="Minimum number of occurrences in the training part for a value to be in the "
        "vocabulary. 0 keeps all values; rarer values are encoded as out of vocabulary.",
    )

    @property
    def sides(self) -> tuple[Side, Side]:
        """The user's columns and the item's."""
        history = self.history_column if self.history else None
        user_lists = {**self.user_multi_hot, **({history: self.history} if history else {})}
        item_lists, text = {**self.item_multi_hot, **self.item_text}, list(self.item_text)
        return (
            Side("user", self.user_id, self.user, user_lists, self.user_numeric, history),
            Side("item", self.item_id, self.item, item_lists, self.item_numeric, text=text),
        )

    @root_validator(skip_on_failure=True)
    def _one_use_a_column(cls, values: dict) -> dict:
        sides = cls.construct(**values).sides
        if values["history"] and cls.history_column in values["user_multi_hot"]:
            raise ValueError(
                f"features.history makes the column {cls.history_column!r}, which "
                "features.user_multi_hot names too; rename that one"
            )
        columns = [column for side in sides for column in side.columns]
        columns += values["item_text"].keys() & values["item_multi_hot"]  # there they are one
        repeated = sorted({column for column in columns if columns.count(column) > 1})
        if repeated:
            raise ValueError(
                f"{', '.join(repeated)}: named twice; a column is used once, on one side and as "
                "one kind. Copy it under another name to use it again"
            )
        return values


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


def check_data(data: Path, positives: PositivesConfig, features: FeaturesConfig) -> None:
    """Check that the tidy tables in the folder `data` have what the settings name.

    Needs no TensorFlow, so that a wrong name is told before it is imported. Raises DataError naming
    the setting and the column.
    """
    interactions = pq.read_schema(data / "interactions.parquet").empty_table().to_pandas()
    _check_positives(interactions, positives)
    users, items = (read_frame(data / f"{side.name}s.parquet") for side in features.sides)
    check_sides(users, items, features)


def check_sides(users: pd.DataFrame, items: pd.DataFrame, features: FeaturesConfig) -> None:
    """Check that the tidy tables have what `features` names, but for the history, made later."""
    for side, table in zip(features.sides, (users, items), strict=True):
        given = {name: length for name, length in side.multi_hot.items() if name != side.history}
        check_table(table, side._replace(multi_hot=given))


def _check_positives(interactions: pd.DataFrame, config: PositivesConfig) -> None:
    if config.column is None:
        return
    if config.column not in interactions:
        raise DataError(
            f"positives.column: the interactions have no column {config.column!r}; "
            f"they have {', '.join(interactions.columns)}"
        )
    if not pd.api.types.is_numeric_dtype(interactions[config.column]):
        raise DataError(
            f"positives.column: column {config.column!r} has no numbers, which "
            "positives.at_least needs; store a column with 1 for the rows that count and 0 for "
            "the others, keep it (ingest.parquet.keep) and name it"
        )


def check_any_positive(interactions: pd.DataFrame, config: PositivesConfig) -> None:
    """Raise DataError if no row is positive."""
    if config.column is None:
        return
    if not (interactions[config.column] >= config.at_least).any():
        raise DataError(
            f"positives: no row has {config.column} >= {config.at_least:g} "
            f"(its largest value is {interactions[config.column].max():g}); "
            "lower positives.at_least"
        )


def filter_positives(interactions: pd.DataFrame, config: PositivesConfig) -> pd.DataFrame:
    """The positive rows of `interactions`, in their order, by NVTabular's Filter.

    Raises DataError when the column is missing or has no numbers, or no row is positive.
    """
    if config.column is None:
        return interactions
    _check_positives(interactions, config)
    check_any_positive(interactions, config)
    import nvtabular as nvt

    workflow = positives_workflow(config, list(interactions.columns))
    kept = workflow.transform(nvt.Dataset(interactions)).compute().reset_index(drop=True)
    return kept.to_pandas() if hasattr(kept, "to_pandas") else kept


def add_history(
    users: pd.DataFrame, train: pd.DataFrame, positives: pd.DataFrame, config: FeaturesConfig
) -> pd.DataFrame:
    """`users` with the column of each one's latest positives in `train`, the latest first.

    Lists of raw item ids, at most `config.history` long, empty for a user without positives; the
    table as it is when there is no history. Times come from `positives`, if it has any; a repeated
    pair has the time of its last row, as in the split. Pairs with equal times are in the reverse
    order of `train`.
    """
    if not config.history:
        return users
    keys = [config.user_id, config.item_id]
    rows = train[keys]
    if "timestamp" in positives:
        times = positives[[*keys, "timestamp"]].drop_duplicates(keys, keep="last")
        rows = rows.merge(times, on=keys, how="left").sort_values("timestamp", kind="stable")
    latest = rows.iloc[::-1].groupby(config.user_id, sort=False)[config.item_id]
    lists = latest.agg(lambda items: items.to_numpy()[: config.history].tolist())
    column = users[config.user_id].map(lists)
    column = column.where(column.notna(), pd.Series([[]] * len(users), users.index))
    return users.assign(**{config.history_column: column})


def feature_workflow(config: FeaturesConfig, categories: Path) -> nvt.Workflow:
    """The unfitted feature graph with Subgraphs "user" and "item".

    Column tags: USER_ID, ITEM_ID, USER, ITEM; Categorify adds CATEGORICAL, Normalize CONTINUOUS.
    `categories` is where NVTabular keeps the vocabularies until the workflow is saved.
    """
    import nvtabular as nvt
    from merlin.dag.ops.subgraph import Subgraph
    from merlin.schema import Tags
    from nvtabular import ops

    def categorify(columns: list[str], *tags):
        encoded = columns >> ops.Categorify(
            out_path=str(categories), freq_threshold=config.min_frequency, dtype="int32"
        )
        return encoded >> ops.AddMetadata(tags=list(tags))

    def subgraph(side: Side, id_tag, tag):
        nodes = categorify([side.id], id_tag, tag)
        if side.categorical:
            nodes += categorify(side.categorical, tag)
        for column, length in side.multi_hot.items():
            # Merlin's tag for a list of items in order; by it the towers know the history.
            tags = (tag, Tags.SEQUENCE) if column == side.history else (tag,)
            nodes += categorify([column], *tags) >> ops.ListSlice(0, length)
        if side.numeric:
            # Normalize leaves nulls out of the moments and as they are: filled before it, they
            # would shift the mean.
            scaled = side.numeric >> ops.Normalize(out_dtype="float32") >> ops.FillMissing(0)
            nodes += scaled >> ops.AddMetadata(tags=[tag])
        return Subgraph(side.name, nodes)

    user, item = (side.internal for side in config.sides)
    return nvt.Workflow(
        subgraph(user, Tags.USER_ID, Tags.USER) + subgraph(item, Tags.ITEM_ID, Tags.ITEM)
    )


def fit_features(
    train: pd.DataFrame,
    users: pd.DataFrame,
    items: pd.DataFrame,
    config: FeaturesConfig,
    out: Path,
) -> nvt.Workflow:
    """Fit the feature graph on the training part and save it to `out`.

    `train` has the two id columns; features are joined from `users` and `items`, so a value is
    counted as often as it is trained on. Items of a history count as what they are in `train`,
    so that they have the codes that item ids have. Raises DataError naming a column that is
    missing, has another kind of values than it is configured for, or says nothing in the training
    part.
    """
    import nvtabular as nvt

    wide = train[[config.user_id, config.item_id]]
    for side, table in zip(config.sides, (users, items), strict=True):
        rows = side_rows(table, side).drop(columns=side.history or [])
        wide = wide.merge(rows, on=side.id)
    if config.history:
        wide[config.history_column] = wide[[config.item_id]].to_numpy().tolist()
    for side in config.sides:
        check_training(wide, side)
    lists = [column for side in config.sides for column in side.internal.multi_hot]
    # Not a substring of any file name: NVTabular rewrites this path inside the saved graph.
    fitted = out / "fit.tmp"
    workflow = feature_workflow(config, fitted)
    workflow.fit(nvt.Dataset(_with_small_start(wide, lists)))
    _set_moments(workflow, wide)
    workflow.save(str(out))
    shutil.rmtree(fitted, ignore_errors=True)
    return load_workflow(out)


def _set_moments(workflow: nvt.Workflow, wide: pd.DataFrame) -> None:
    """Replace the moments that Normalize has found in `wide` by exact ones.

    NVTabular takes the variance as the difference of two sums of squares, which have no digit left
    where the deviation is below 1e-8 of the mean. Here the mean is subtracted first.
    """
    from merlin.dag import iter_nodes
    from nvtabular import ops

    for node in iter_nodes([workflow.output_node], flatten_subgraphs=True):
        if isinstance(node.op, ops.Normalize):
            for column in node.op.means:
                values = wide[column].dropna().to_numpy(np.float64)
                mean = values.mean()
                mean += (values - mean).mean()  # what rounding left
                node.op.means[column] = float(mean)
                node.op.stds[column] = float((values - mean).std(ddof=1))


def grow_features(
    fitted: Path,
    train: pd.DataFrame,
    users: pd.DataFrame,
    items: pd.DataFrame,
    config: FeaturesConfig,
    out: Path,
) -> nvt.Workflow:
    """The feature graph saved in `fitted` with more values in its vocabularies, saved to `out`.

    Every value keeps its code. Those that the training part has by now, and often enough, follow
    by descending frequency, equal ones by value. Numbers keep their mean and deviation: with
    others the vectors that were learnt for them would mean something else. For the parameters and
    errors see `fit_features`.
    """
    import nvtabular as nvt
    from merlin.dag import Graph
    from merlin.dag.ops.subgraph import Subgraph
    from merlin.schema import Schema

    shutil.copytree(fitted, out, dirs_exist_ok=True)
    schema = Schema()
    for side, table in zip(config.sides, (users, items), strict=True):
        rows, side = side_rows(table, side), side.internal
        occurrences = rows[side.id].map(train[side.id].value_counts()).fillna(0).astype(np.int64)
        for column in [side.id, *side.categorical, *side.multi_hot]:
            path = out / "categories" / f"unique.{column}.parquet"
            if column == side.history:
                counts = train[config.item_id].value_counts().rename_axis("value")
            else:
                counts = _count(rows[column], occurrences)
            _grow_vocabulary(pd.read_parquet(path), counts, config.min_frequency).to_parquet(path)
        schema += nvt.Dataset(rows).schema
    workflow = load_workflow(out)
    for node in Graph.get_nodes_by_op_type([workflow.output_node], Subgraph):
        node.op.graph.construct_schema(schema)  # else the outer graph repeats what it knew
    workflow.fit_schema(schema).save(str(out))
    return workflow


def _count(values: pd.Series, occurrences: pd.Series) -> pd.Series:
    """How often each value, or value in a list, occurs when a row does `occurrences` times."""
    counted = pd.DataFrame({"value": values, "count": occurrences})
    counted = counted[counted["count"] > 0].explode("value").dropna().infer_objects()
    return counted.groupby("value")["count"].sum()


def _grow_vocabulary(old: pd.DataFrame, counts: pd.Series, min_frequency: int) -> pd.DataFrame:
    """A file of Categorify's, values by code and their counts, with those of `counts` appended."""
    column, size = old.columns
    frequent = counts[counts >= min_frequency].drop(old[column], errors="ignore")
    # Sorted by value first: that is how equal counts stay ordered.
    new = frequent.sort_index().sort_values(ascending=False, kind="stable")
    # Not concatenated: an empty part may be of any type. Inferred, whole numbers among others are
    # float64, as in the table.
    values = [*old[column], *new.index]
    values = pd.Series(values, dtype=None if values else old[column].dtype)
    if counts.index.dtype.kind == "f":
        values = values.astype(np.float64)  # lists with nulls
    elif values.dtype == np.int64:
        values = values.astype("Int64")  # to encode a column that has nulls by now
    sizes = counts.reindex(values).fillna(0).astype(np.int64).to_numpy()
    first = old.index.start
    return pd.DataFrame({column: values, size: sizes}).set_index(
        pd.RangeIndex(first, first + len(values))
    )


def _with_small_start(wide: pd.DataFrame, lists: list[str]) -> dask.dataframe.DataFrame:
    """`wide` as two partitions, the first one small.

    To learn the dtypes of its results NVTabular transforms the first partition, a dozen times. It
    cannot do without a value in every list column, so each partition has one, or there is one
    partition.
    """
    import dask.dataframe as dd

    filled = [np.flatnonzero(wide[column].str.len()) for column in lists]
    start = max((rows[0] + 1 for rows in filled), default=1)
    if any(rows[-1] < start for rows in filled) or start == len(wide):
        return dd.from_pandas(wide, npartitions=1)
    parts = (wide.iloc[:start], wide.iloc[start:])
    return dd.concat([dd.from_pandas(part, npartitions=1) for part in parts])


def load_workflow(path: Path) -> nvt.Workflow:
    """A saved workflow. Loading unpickles: only call it on files the run's manifest vouches for."""
    import nvtabular as nvt

    return nvt.Workflow.load(str(path))


def encode(workflow: nvt.Workflow, side: str, table: pd.DataFrame) -> pd.DataFrame:
    """`table` through the Subgraph `side` ("user" or "item"); rows keep their order.

    The columns of `table` have the names of the data, those of the result internal ones.
    """
    import nvtabular as nvt
    from merlin.schema import Tags

    graph = workflow.get_subworkflow(side)
    table = table.rename(columns=internal_name)
    rows = typed(
        table[graph.input_schema.column_names].reset_index(drop=True),
        [column.name for column in graph.output_schema if column.is_list],
        graph.output_schema.select_by_tag(Tags.CONTINUOUS).column_names,
    )
    encoded = graph.transform(nvt.Dataset(rows)).compute()
    encoded = encoded.to_pandas() if hasattr(encoded, "to_pandas") else encoded
    return encoded.reset_index(drop=True)


def as_arrays(encoded: pd.DataFrame, lengths: dict[str, int]) -> dict[str, np.ndarray]:
    """Columns of an encoded table as arrays [n, 1], or [n, length] for multi-hot columns.

    Codes are int32, numbers float32.

    Multi-hot rows are padded with 0 to the fixed length, so that a batch never holds a ragged
    list: Merlin's loader is 60 times slower with one, and the mean over a padded row is a dense
    operation.
    """
    arrays = {}
    for column in encoded:
        if column in lengths:
            arrays[column] = _pad(encoded[column].tolist(), lengths[column])
        else:
            dtype = np.float32 if encoded[column].dtype.kind == "f" else np.int32
            arrays[column] = encoded[column].to_numpy(dtype=dtype)[:, None]
    return arrays


def _pad(rows: list, length: int) -> np.ndarray:
    counts = np.fromiter((len(row) for row in rows), dtype=np.int64, count=len(rows))
    padded = np.zeros((len(rows), length), dtype=np.int32)
    padded[np.arange(length) < np.minimum(counts, length)[:, None]] = np.concatenate(
        [np.asarray(row[:length], dtype=np.int32) for row in rows] or [np.zeros(0, np.int32)]
    )
    return padded
