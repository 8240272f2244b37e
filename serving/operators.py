"""The operators of the served graph, as merlin-systems' executor runs them.

They are the reference: plain, on pandas, NVTabular and TensorFlow. `compile` writes what the step
of the same name in `serving.runtime.steps` needs to answer alike without them.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from copy import deepcopy
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import merlin.dtypes as md
import numpy as np
import pandas as pd
from merlin.core.dispatch import make_df
from merlin.dag import BaseOperator, ColumnSelector, DataFormats
from merlin.schema import ColumnSchema, Schema, Tags
from merlin.table import TensorTable

from twotower.serving.runtime.arrays import first_values, save_column
from twotower.serving.runtime.contract import (
    ABSENT,
    FILLER,
    FILTER_SEEN,
    NO_VALUE,
    NULL,
    NUMPY_DTYPES,
    SCORE,
    VALUE,
    K,
    count_of,
    row_of,
    state_of,
)
from twotower.serving.runtime.errors import ServingError
from twotower.serving.runtime.index import INDEX_FILE, METADATA_FILE, ItemIndex, load_index
from twotower.serving.runtime.seen import SeenItems
from twotower.serving.runtime.steps import padded_blocks
from twotower.serving.runtime.top_k import HIDDEN_SCORES, ITEMS, POSITIONS, SCORES, SIZE, VECTORS
from twotower.serving.vocabularies import (
    NO_NAMES,
    check_compilable,
    list_lengths,
    moments,
    read_vocabulary,
    vocabulary_files,
)

ONNX_OPSET, ONNX_IR = 17, 8
TOLERANCE = 1e-5
ANY_LENGTH = 9  # of lists that may have any, where towers are compared


class ServedOperator(BaseOperator):
    """An operator over tables of NumPy columns that can be compiled."""

    @property
    def supported_formats(self) -> DataFormats:
        return DataFormats.NUMPY_TENSOR_TABLE

    def compile(self, out: Path, schema: Schema) -> dict[str, Any]:
        """Write the step's arrays into the empty folder `out`; return its entry in the plan.

        `schema` is the operator's input schema within the graph.
        """
        raise NotImplementedError

    def load_artifacts(self, artifact_path: Any = None) -> None:
        """Read what `save_artifacts` wrote; without a path, as merlin's Graph calls it, nothing."""
        if artifact_path:
            self._load(Path(artifact_path))

    def _load(self, folder: Path) -> None:
        pass


class UserRows(ServedOperator):
    """Looks users up in the table of known users: once, for all that is stored by its rows.

    Answers the row of each user, or the number of rows for a user whom the table lacks.

    Parameters
    ----------
    user_ids : int64 [u], ascending
    user_id : name of the column of user ids
    """

    def __init__(self, user_ids: np.ndarray, user_id: str) -> None:
        super().__init__()
        self.user_ids, self.user_id = pd.Index(user_ids), user_id

    def compute_output_schema(
        self, input_schema: Schema, col_selector: ColumnSelector, prev_output_schema: Any = None
    ) -> Schema:
        return Schema([ColumnSchema(row_of(self.user_id), dtype=np.int64)])

    def transform(self, col_selector: ColumnSelector, transformable: TensorTable) -> TensorTable:
        rows = self.user_ids.get_indexer(transformable[self.user_id].values)
        rows = np.where(rows < 0, len(self.user_ids), rows).astype(np.int64)
        return TensorTable({row_of(self.user_id): rows})

    def compile(self, out: Path, schema: Schema) -> dict[str, Any]:
        np.save(out / "user_ids.npy", self.user_ids.to_numpy())
        return {"user_id": self.user_id}


class UserFeatures(ServedOperator):
    """Completes the features a request leaves out from the table of known users.

    Parameters
    ----------
    users : one row a user; other columns than the id and the features are ignored
    user_id : its id column, int64
    features : its raw feature columns: integers, floats or strings, nulls allowed, or lists of them
    lists : the features that are lists -> how many values of a row are kept; a null is an empty one
    names : feature -> what requests call it, where that is another name
    """

    def __init__(
        self,
        users: pd.DataFrame,
        user_id: str,
        features: list[str],
        lists: Mapping[str, int] | None = None,
        names: Mapping[str, str] = NO_NAMES,
    ) -> None:
        super().__init__()
        self.names = {name: names.get(name, name) for name in features}
        _check_users(users, user_id, self.names)
        users = users.sort_values(user_id)
        self.user_id = user_id
        self.user_ids = users[user_id].to_numpy(np.int64)
        self.lists = dict(lists or {})
        self.features, self.stored = {}, {}
        for name in features:
            if name in self.lists:
                stored = _lists(users[name], self.lists[name], self.names[name])
            else:
                stored = _column(users[name], self.names[name])
            self.features[name], self.stored[name] = stored

    def compute_output_schema(
        self, input_schema: Schema, col_selector: ColumnSelector, prev_output_schema: Any = None
    ) -> Schema:
        names = [name for stored in self.stored.values() for name in stored]
        return input_schema.select_by_name([self.user_id, *names])

    def transform(self, col_selector: ColumnSelector, transformable: TensorTable) -> TensorTable:
        columns = {name: column.values for name, column in transformable.items()}
        row = columns[row_of(self.user_id)]
        completed = {self.user_id: columns[self.user_id]}
        for name, stored in self.stored.items():
            take = (row < len(self.user_ids)) & (columns[state_of(name)] == ABSENT)
            if name in self.lists:
                known = _rows(stored[name], stored[count_of(name)])
                given = _rows(columns[name], columns[count_of(name)])
                lists = [known[row[i]] if take[i] else given[i] for i in range(len(row))]
                completed[name] = np.concatenate(lists)
                completed[count_of(name)] = np.array([len(each) for each in lists])
            for column in stored.keys() - completed:
                completed[column] = columns[column].copy()
                completed[column][take] = stored[column][row[take]]
        return TensorTable(completed)

    def compile(self, out: Path, schema: Schema) -> dict[str, Any]:
        stems = {name: f"feature_{position}" for position, name in enumerate(self.stored)}
        for name, stored in self.stored.items():
            save_column(out / stems[name], stored[name])
            np.save(out / f"{stems[name]}.state.npy", stored[state_of(name)])
            if name in self.lists:
                np.save(out / f"{stems[name]}.count.npy", stored[count_of(name)])
        return {
            "user_id": self.user_id,
            "features": stems,
            "dtypes": self.features,
            "lists": list(self.lists),
        }


class EncodeFeatures(ServedOperator):
    """The user half of the NVTabular workflow: raw values to embedding indices and numbers.

    Parameters
    ----------
    workflow : `nvtabular.Workflow.get_subworkflow("user")`, fitted
    names : column -> what messages call it, where that is another name
    """

    def __init__(self, workflow: Any, names: Mapping[str, str] = NO_NAMES) -> None:
        super().__init__()
        self.workflow, self.names = workflow, dict(names)

    def compute_output_schema(
        self, input_schema: Schema, col_selector: ColumnSelector, prev_output_schema: Any = None
    ) -> Schema:
        schema = self.workflow.output_schema
        counts = [count_of(column.name) for column in schema if column.is_list]
        return schema + Schema([ColumnSchema(name, dtype=np.int64) for name in counts])

    def transform(self, col_selector: ColumnSelector, transformable: TensorTable) -> TensorTable:
        columns = {name: column.values for name, column in transformable.items()}
        schema = self.workflow.output_schema
        numbers = schema.select_by_tag(Tags.CONTINUOUS).column_names
        raw = {name: columns[name] for name in self.workflow.input_schema.column_names}
        for name in raw:
            if count_of(name) in columns:
                raw[name] = [row.tolist() for row in _rows(columns[name], columns[count_of(name)])]
            elif name in numbers:
                raw[name] = np.where(columns[state_of(name)] == VALUE, columns[name], np.nan)
        # Other rows without a value hold a filler: Categorify fails on columns of nulls alone.
        encoded = self.workflow.transform(make_df(raw))
        answer = {}
        for name in schema.column_names:
            answer[name] = encoded[name].to_numpy()
            if count_of(name) in columns:
                codes = encoded[name].tolist()
                answer[name] = np.fromiter(chain.from_iterable(codes), np.int64)
                answer[count_of(name)] = np.array([len(row) for row in codes])
            elif name not in numbers and state_of(name) in columns:
                state = columns[state_of(name)]
                answer[name] = np.where(state == VALUE, answer[name], state)
        return TensorTable(answer)

    def compile(self, out: Path, schema: Schema) -> dict[str, Any]:
        check_compilable(self.workflow, self.names)
        stems = {}
        for position, (name, path) in enumerate(vocabulary_files(self.workflow).items()):
            stems[name] = f"vocabulary_{position}"
            is_text = schema[name].dtype.without_shape == md.string
            keys, codes = read_vocabulary(name, path, is_text, self.names)
            save_column(out / stems[name], keys)
            np.save(out / f"{stems[name]}.codes.npy", codes)
        lists = list_lengths(self.workflow)
        return {"vocabularies": stems, "moments": moments(self.workflow), "lists": lists}

    def save_artifacts(self, artifact_path: Any = None) -> None:
        # Saving moves a workflow's vocabularies to the new place: not those of the caller's.
        deepcopy(self.workflow).save(str(Path(artifact_path) / "workflow"))

    def _load(self, folder: Path) -> None:
        from nvtabular import Workflow

        self.workflow = Workflow.load(str(folder / "workflow"))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "workflow": None}  # its vocabularies are files beside the pickle


class QueryTower(ServedOperator):
    """The query tower: embedding indices and numbers to a float32 vector of D dimensions.

    Parameters
    ----------
    saved_model : TensorFlow SavedModel of a tower, its signature from encoded columns to vectors
    vector : name of the column it answers
    """

    def __init__(self, saved_model: Path, vector: str = "query_vector") -> None:
        super().__init__()
        self.saved_model = Path(saved_model)
        self.vector = vector

    def compute_output_schema(
        self, input_schema: Schema, col_selector: ColumnSelector, prev_output_schema: Any = None
    ) -> Schema:
        return Schema([ColumnSchema(self.vector, dtype=np.float32, dims=(None, None))])

    def transform(self, col_selector: ColumnSelector, transformable: TensorTable) -> TensorTable:
        columns = {name: column.values for name, column in transformable.items()}
        return TensorTable({self.vector: self._answer(columns)})

    def compile(self, out: Path, schema: Schema) -> dict[str, Any]:
        import tensorflow as tf
        import tf2onnx

        names = self.inputs
        signature = [
            tf.TensorSpec(self._shape(n), tf.int64 if self._is_integer(n) else tf.float32, name=n)
            for n in names
        ]

        @tf.function(input_signature=signature)
        def tower(*columns: Any) -> Any:
            return self._vectors({name: columns[i] for i, name in enumerate(names)})

        model = out / "query_tower.onnx"
        tf2onnx.convert.from_function(
            tower,
            input_signature=tower.input_signature,
            opset=ONNX_OPSET,
            output_path=str(model),
        )
        entry = {"model": model.name, "vector": self.vector}
        self._verify(out, entry, schema)
        return entry

    @property
    def inputs(self) -> list[str]:
        """Names of the columns the tower reads."""
        return sorted(self._signature.structured_input_signature[1])

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return next(iter(self._signature.structured_outputs.values())).shape[-1]

    def save_artifacts(self, artifact_path: Any = None) -> None:
        shutil.copytree(self.saved_model, Path(artifact_path) / "query_tower")

    def _load(self, folder: Path) -> None:
        self.saved_model = folder / "query_tower"

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_model", "_signature")}

    @cached_property
    def _model(self) -> Any:
        import tensorflow as tf

        return tf.saved_model.load(str(self.saved_model))

    @cached_property
    def _signature(self) -> Any:
        # Kept beside the model: a signature alone does not keep the variables alive.
        return self._model.signatures["serving_default"]

    @property
    def _specs(self) -> dict[str, Any]:
        return self._signature.structured_input_signature[1]

    def _shape(self, name: str) -> list[int | None]:
        """The shape of an input column: [n], of a list [n, L], L None where it may be any."""
        wide = list(self._specs[name].shape[1:])
        return [None] if wide in ([], [1]) else [None, *wide]

    def _answer(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """Vectors [n, D] of columns [n], lists as their values and their counts."""
        widths = {name: (*self._shape(name), 1)[1] for name in self.inputs}
        blocks = padded_blocks(columns, widths)
        return np.concatenate([self._vectors(block).numpy() for block in blocks])

    def _is_integer(self, name: str) -> bool:
        return self._specs[name].dtype.is_integer

    def _vectors(self, columns: dict[str, Any]) -> Any:
        """The tower over columns [n] or [n, L]; a signature may want [n, 1] for [n]."""
        import tensorflow as tf

        feed = {}
        for name, column in columns.items():
            spec = self._specs[name]
            wide = [-1 if length is None else length for length in spec.shape[1:]]
            rows = tf.shape(column)[0]
            feed[name] = tf.cast(tf.reshape(column, [rows, *wide]), spec.dtype)
        return next(iter(self._signature(**feed).values()))

    def _verify(self, out: Path, entry: dict[str, Any], schema: Schema) -> None:
        from twotower.serving.runtime import steps

        draw = np.random.default_rng(0)
        for rows in (1, 257):
            columns = {}
            for name in self.inputs:
                counts = np.ones(rows, np.int64)
                for length in self._shape(name)[1:]:
                    counts = draw.integers(0, (length or ANY_LENGTH) + 1, rows)
                    columns[count_of(name)] = counts
                size = counts.sum()
                if self._is_integer(name):
                    columns[name] = draw.integers(0, schema[name].int_domain.max + 1, size)
                else:
                    columns[name] = draw.normal(size=size).astype(np.float32)
            answer = steps.QueryTower(out, entry, threads=1).run(columns)[self.vector]
            error = float(np.abs(answer - self._answer(columns)).max())
            if not error <= TOLERANCE:
                raise ServingError(
                    f"{self.saved_model}: the ONNX tower differs from TensorFlow by {error:.2g}, "
                    f"more than {TOLERANCE:g}; set serving.runtime to merlin and export again"
                )


class FaissTopK(ServedOperator):
    """The k items of the highest inner product that the user has not seen.

    Answers raw item ids int64 [n, max k] and scores float32 of that shape, descending, equal
    scores by item id; a row that asks for fewer, or has no item left, ends in -1 and -inf.

    Parameters
    ----------
    index_dir : what `serving.runtime.index.build_index` wrote
    seen : the items that `filter_seen` removes, a row for each of the user table
    row, vector : names of the columns that hold the user's row and the query vector
    history : name of the feature that lists items; those that a request gives are seen, too
    item_id : name of the column of answered ids
    towers_sha256 : hash of the towers; the index of others is refused
    """

    def __init__(
        self,
        index_dir: Path,
        seen: SeenItems,
        *,
        row: str,
        vector: str,
        history: str | None,
        item_id: str,
        towers_sha256: str,
    ) -> None:
        super().__init__()
        self.index_dir, self.seen = Path(index_dir), seen
        self.row, self.vector, self.history, self.item_id = row, vector, history, item_id
        self.towers_sha256 = towers_sha256

    def compute_output_schema(
        self, input_schema: Schema, col_selector: ColumnSelector, prev_output_schema: Any = None
    ) -> Schema:
        return Schema(
            [
                ColumnSchema(self.item_id, dtype=np.int64, dims=(None, None)),
                ColumnSchema(SCORE, dtype=np.float32, dims=(None, None)),
            ]
        )

    def transform(self, col_selector: ColumnSelector, transformable: TensorTable) -> TensorTable:
        columns = {name: column.values for name, column in transformable.items()}
        index = self.index
        scores, positions = index.search(columns[self.vector], len(index.item_ids))
        shape = (len(scores), columns[K].max())
        items, top = np.full(shape, -1, np.int64), np.full(shape, -np.inf, np.float32)
        seen, told = self.seen.rows(columns[self.row]), [()] * len(scores)
        if self.history is not None:
            told = _rows(columns[self.history], columns[count_of(self.history)])
        for row in range(len(scores)):
            ids, score = index.item_ids[positions[row]], scores[row]
            if columns[FILTER_SEEN][row]:
                unseen = ~(np.isin(ids, seen[row]) | np.isin(ids, told[row]))
                ids, score = ids[unseen], score[unseen]
            count = min(columns[K][row], len(ids))
            items[row, :count], top[row, :count] = ids[:count], score[:count]
        return TensorTable({self.item_id: items, SCORE: top})

    def compile(self, out: Path, schema: Schema) -> dict[str, Any]:
        self._copy_index(out)
        positions, starts = self.seen.positions(self.index.item_ids)
        np.save(out / "seen.npy", positions)
        np.save(out / "starts.npy", starts)
        model = out / "scoring.onnx"
        _save_scoring(model, *self.index.vectors.shape)
        names = ("row", "vector", "history", "item_id", "towers_sha256")
        return {**{name: getattr(self, name) for name in names}, "scoring": model.name}

    def save_artifacts(self, artifact_path: Any = None) -> None:
        folder = Path(artifact_path) / "index"
        folder.mkdir()
        self._copy_index(folder)

    def _load(self, folder: Path) -> None:
        self.index_dir = folder / "index"

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "index"}

    @cached_property
    def index(self) -> ItemIndex:
        """The index, read when it is first needed."""
        return load_index(self.index_dir, self.towers_sha256)

    def _copy_index(self, folder: Path) -> None:
        for name in (INDEX_FILE, METADATA_FILE):
            shutil.copy(self.index_dir / name, folder / name)


def _save_scoring(path: Path, count: int, dim: int) -> None:
    """Write as ONNX: the best of `count` items by inner product for query vectors [n, dim].

    Hidden scores become -inf before the selection; equal scores are ordered by position. The file
    has no item vectors: the served step gives the session those of the index.
    """
    from onnx import TensorProto, helper, save_model

    number, integer = TensorProto.FLOAT, TensorProto.INT64
    items = TensorProto(name=ITEMS, data_type=number, dims=(count, dim))
    items.data_location = TensorProto.EXTERNAL
    items.external_data.add(key="location", value=INDEX_FILE)
    node, value = helper.make_node, helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            node("Gemm", [VECTORS, ITEMS], ["every"], transB=1),
            node("Reshape", ["every", "flat"], ["one row"]),
            node("Shape", [HIDDEN_SCORES], ["how many"]),
            node("Expand", ["lowest", "how many"], ["lowest of each"]),
            node("ScatterElements", ["one row", HIDDEN_SCORES, "lowest of each"], ["kept"]),
            node("Reshape", ["kept", "by item"], ["unseen"]),
            node("TopK", ["unseen", SIZE], [SCORES, POSITIONS]),
        ],
        "top_k",
        [
            value(VECTORS, number, [None, dim]),
            value(HIDDEN_SCORES, TensorProto.INT32, [None]),
            value(SIZE, integer, [1]),
        ],
        [value(SCORES, number, [None, None]), value(POSITIONS, integer, [None, None])],
        [
            items,
            helper.make_tensor("flat", integer, [1], [-1]),
            helper.make_tensor("by item", integer, [2], [-1, count]),
            helper.make_tensor("lowest", number, [1], [-np.inf]),
        ],
    )
    opset = helper.make_opsetid("", ONNX_OPSET)
    save_model(helper.make_model(graph, opset_imports=[opset], ir_version=ONNX_IR), path)


def _rows(values: np.ndarray, counts: np.ndarray) -> list[np.ndarray]:
    """The values of each row of a list column."""
    return np.split(values, np.cumsum(counts)[:-1])


OBJECTS = {
    "string": "BYTES",
    "empty": "BYTES",
    "integer": "INT64",
    "floating": "FP64",
    "mixed-integer-float": "FP64",
}
"""What pandas infers of a column of objects -> Triton data type."""


def raw_dtype(column: pd.Series, name: str) -> str:
    """The Triton data type of a raw feature column, which messages call `name`."""
    types = pd.api.types
    if types.is_bool_dtype(column) or types.is_categorical_dtype(column):
        kind = str(column.dtype)
    elif types.is_integer_dtype(column):
        return "INT64"
    elif types.is_float_dtype(column):
        return "FP32" if column.dtype == np.float32 else "FP64"
    else:
        kind = types.infer_dtype(column, skipna=True)
        if kind in OBJECTS:
            return OBJECTS[kind]
    raise ServingError(
        f"user feature '{name}' is {kind}; the served model takes integers, floats and "
        "strings: convert it when the users are read"
    )


def _column(column: pd.Series, name: str) -> tuple[str, dict[str, np.ndarray]]:
    """Triton data type of a feature, and its stored columns: values and states int8."""
    dtype, null = raw_dtype(column, name), column.isna()
    values = column.where(~null, FILLER[dtype]).astype(NUMPY_DTYPES[dtype]).to_numpy()
    state = np.where(null, NULL, VALUE).astype(np.int8)
    return dtype, {column.name: values, state_of(column.name): state}


def _lists(column: pd.Series, length: int, name: str) -> tuple[str, dict[str, np.ndarray]]:
    """As `_column`, of lists: the values of all, the counts int64 and states int8."""
    rows = column.where(column.notna(), pd.Series([()] * len(column), column.index))
    for row in rows:
        if not isinstance(row, (list, tuple, np.ndarray)):
            raise ServingError(f"user feature '{name}' holds {row!r}; expected a list")
    # As objects, because pandas would turn integers beside a null into floats.
    every = pd.Series([*chain.from_iterable(rows)], dtype=object)
    dtype = raw_dtype(every, name)
    stand_in = NO_VALUE[dtype]
    if (every == stand_in).any():
        raise ServingError(
            f"user feature '{name}' holds the value {stand_in!r}, which stands for no value in "
            "requests; replace it where the users are read"
        )
    # Within a list a null is out of vocabulary, and so is what stands for no value.
    values = every.where(every.notna(), stand_in).to_numpy(NUMPY_DTYPES[dtype])
    values, counts = first_values(values, np.array([len(row) for row in rows]), length)
    return dtype, {
        column.name: values,
        count_of(column.name): counts,
        state_of(column.name): np.full(len(column), VALUE, np.int8),
    }


def _check_users(users: pd.DataFrame, user_id: str, names: Mapping[str, str]) -> None:
    missing = [names.get(name, name) for name in [user_id, *names] if name not in users]
    if missing:
        raise ServingError(f"the user table lacks the column '{missing[0]}'")
    if not len(users):
        raise ServingError("the user table is empty")
    if not pd.api.types.is_integer_dtype(users[user_id]) or users[user_id].isna().any():
        raise ServingError(f"'{user_id}' of the user table must be int64 without nulls")
    twice = users[user_id][users[user_id].duplicated()]
    if len(twice):
        raise ServingError(f"user {twice.iloc[0]} occurs more than once in the user table")
