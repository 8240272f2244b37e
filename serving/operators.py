"""The operators of the served graph, as merlin-systems' executor runs them.

They are the reference: plain, on pandas, NVTabular and TensorFlow. `compile` writes what the step
of the same name in `serving.runtime.steps` needs to answer alike without them.
"""

from __future__ import annotations

import shutil
from copy import deepcopy
from functools import cached_property
from pathlib import Path
from typing import Any

import merlin.dtypes as md
import numpy as np
import pandas as pd
from merlin.core.dispatch import make_df
from merlin.dag import BaseOperator, ColumnSelector, DataFormats
from merlin.schema import ColumnSchema, Schema
from merlin.table import TensorTable

from .errors import ServingError
from .index import INDEX_FILE, METADATA_FILE, ItemIndex, load_index
from .runtime.arrays import save_column
from .runtime.contract import (
    ABSENT,
    FILTER_SEEN,
    NULL,
    NUMPY_DTYPES,
    SCORE,
    VALUE,
    K,
    filler,
    state_of,
)
from .runtime.seen import SeenItems
from .vocabularies import read_vocabulary, vocabulary_files

ONNX_OPSET = 17
TOLERANCE = 1e-5


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


class UserFeatures(ServedOperator):
    """Completes the features a request leaves out from the table of known users.

    Parameters
    ----------
    users : one row a user; other columns than the id and the features are ignored
    user_id : its id column, int64
    features : its raw feature columns: integers, floats or strings, nulls allowed
    """

    def __init__(self, users: pd.DataFrame, user_id: str, features: list[str]) -> None:
        super().__init__()
        _check_users(users, user_id, features)
        users = users.sort_values(user_id)
        self.user_id = user_id
        self.user_ids = pd.Index(users[user_id].to_numpy(np.int64))
        self.features = {name: raw_dtype(users[name]) for name in features}
        self.stored = {name: _column(users[name], self.features[name]) for name in features}

    def compute_output_schema(
        self, input_schema: Schema, col_selector: ColumnSelector, prev_output_schema: Any = None
    ) -> Schema:
        names = [self.user_id, *self.features, *map(state_of, self.features)]
        return input_schema.select_by_name(names)

    def transform(self, col_selector: ColumnSelector, transformable: TensorTable) -> TensorTable:
        ids = transformable[self.user_id].values
        position = self.user_ids.get_indexer(ids)
        known = position >= 0
        completed = {self.user_id: ids}
        for name, (values, states) in self.stored.items():
            state = transformable[state_of(name)].values
            missing = state == ABSENT
            # For an unknown user any value will do: its state says that there is none.
            completed[name] = np.where(missing, values[position], transformable[name].values)
            from_table = np.where(known, states[position], np.int8(ABSENT))
            completed[state_of(name)] = np.where(missing, from_table, state)
        return TensorTable(completed)

    def compile(self, out: Path, schema: Schema) -> dict[str, Any]:
        np.save(out / "user_ids.npy", self.user_ids.to_numpy())
        stems = {}
        for position, (name, (values, states)) in enumerate(self.stored.items()):
            stems[name] = f"feature_{position}"
            save_column(out / stems[name], values)
            np.save(out / f"{stems[name]}.state.npy", states)
        return {"user_id": self.user_id, "features": stems}


class EncodeFeatures(ServedOperator):
    """The user half of the NVTabular workflow: raw values to embedding indices.

    Parameters
    ----------
    workflow : `nvtabular.Workflow.get_subworkflow("user")`, fitted
    """

    def __init__(self, workflow: Any) -> None:
        super().__init__()
        self.workflow = workflow

    def compute_output_schema(
        self, input_schema: Schema, col_selector: ColumnSelector, prev_output_schema: Any = None
    ) -> Schema:
        return self.workflow.output_schema

    def transform(self, col_selector: ColumnSelector, transformable: TensorTable) -> TensorTable:
        names = self.workflow.input_schema.column_names
        # Rows without a value hold a filler: Categorify fails on columns that are null throughout.
        raw = make_df({name: transformable[name].values for name in names})
        codes = self.workflow.transform(raw)
        encoded = {}
        for name in self.workflow.output_schema.column_names:
            encoded[name] = codes[name].to_numpy()
            if state_of(name) in transformable:
                state = transformable[state_of(name)].values
                encoded[name] = np.where(state == VALUE, encoded[name], state)
        return TensorTable(encoded)

    def compile(self, out: Path, schema: Schema) -> dict[str, Any]:
        stems = {}
        for position, (name, path) in enumerate(vocabulary_files(self.workflow).items()):
            stems[name] = f"vocabulary_{position}"
            is_text = schema[name].dtype.without_shape == md.string
            keys, codes = read_vocabulary(name, path, is_text)
            save_column(out / stems[name], keys)
            np.save(out / f"{stems[name]}.codes.npy", codes)
        return {"columns": stems}

    def save_artifacts(self, artifact_path: Any = None) -> None:
        # Saving moves a workflow's vocabularies to the new place: not those of the caller's.
        deepcopy(self.workflow).save(str(Path(artifact_path) / "workflow"))

    def _load(self, folder: Path) -> None:
        from nvtabular import Workflow

        self.workflow = Workflow.load(str(folder / "workflow"))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "workflow": None}  # its vocabularies are files beside the pickle


class QueryTower(ServedOperator):
    """The query tower: embedding indices to a float32 vector of D dimensions.

    Parameters
    ----------
    saved_model : TensorFlow SavedModel of a merlin-models Encoder (`query_encoder.save(path)`)
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
        columns = {name: transformable[name].values for name in self.inputs}
        return TensorTable({self.vector: self._vectors(columns).numpy()})

    def compile(self, out: Path, schema: Schema) -> dict[str, Any]:
        import tensorflow as tf
        import tf2onnx

        names = self.inputs

        @tf.function(input_signature=[tf.TensorSpec([None], tf.int64, name=n) for n in names])
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

    def _vectors(self, columns: dict[str, Any]) -> Any:
        """The tower over columns [n]; a signature wants them as [n] or [n, 1], int32 or int64."""
        import tensorflow as tf

        specs = self._signature.structured_input_signature[1]
        feed = {
            name: tf.cast(tf.reshape(column, [-1] + [1] * (len(specs[name].shape) - 1)), spec.dtype)
            for name, column in columns.items()
            for spec in [specs[name]]
        }
        return next(iter(self._signature(**feed).values()))

    def _verify(self, out: Path, entry: dict[str, Any], schema: Schema) -> None:
        from .runtime import steps

        draw = np.random.default_rng(0)
        for rows in (1, 257):
            columns = {
                name: draw.integers(0, schema[name].int_domain.max + 1, rows)
                for name in self.inputs
            }
            answer = steps.QueryTower(out, entry, threads=1).run(columns)[self.vector]
            error = float(np.abs(answer - self._vectors(columns).numpy()).max())
            if not error <= TOLERANCE:
                raise ServingError(
                    f"{self.saved_model}: the ONNX tower differs from TensorFlow by {error:.2g}, "
                    f"more than {TOLERANCE:g}; export with `runtime: merlin` instead"
                )


class FaissTopK(ServedOperator):
    """The k items of the highest inner product that the user has not seen.

    Answers raw item ids int64 [n, max k] and scores float32 of that shape, descending, equal
    scores by item id; a row that asks for fewer, or has no item left, ends in -1 and -inf.

    Parameters
    ----------
    index_dir : what `serving.index.build_index` wrote
    seen : the items that `filter_seen` removes
    user_id, vector : names of the columns that hold the raw user id and the query vector
    item_id : name of the column of answered ids
    towers_sha256 : hash of the towers; the index of others is refused
    """

    def __init__(
        self,
        index_dir: Path,
        seen: SeenItems,
        *,
        user_id: str,
        vector: str,
        item_id: str,
        towers_sha256: str,
    ) -> None:
        super().__init__()
        self.index_dir, self.seen = Path(index_dir), seen
        self.user_id, self.vector, self.item_id = user_id, vector, item_id
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
        starts, stops = self.seen.rows(columns[self.user_id])
        for row, (start, stop) in enumerate(zip(starts, stops, strict=True)):
            ids, score = index.item_ids[positions[row]], scores[row]
            if columns[FILTER_SEEN][row]:
                unseen = ~np.isin(ids, self.seen.item_ids[start:stop])
                ids, score = ids[unseen], score[unseen]
            count = min(columns[K][row], len(ids))
            items[row, :count], top[row, :count] = ids[:count], score[:count]
        return TensorTable({self.item_id: items, SCORE: top})

    def compile(self, out: Path, schema: Schema) -> dict[str, Any]:
        self._copy_index(out)
        self.seen.save(out)
        names = ("user_id", "vector", "item_id", "towers_sha256")
        return {name: getattr(self, name) for name in names}

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


def raw_dtype(column: pd.Series) -> str:
    """The Triton data type of a raw feature column."""
    types = pd.api.types
    if types.is_bool_dtype(column) or types.is_categorical_dtype(column):
        kind = str(column.dtype)
    elif types.is_integer_dtype(column):
        return "INT64"
    elif types.is_float_dtype(column):
        return "FP32" if column.dtype == np.float32 else "FP64"
    else:
        kind = pd.api.types.infer_dtype(column, skipna=True)
        if kind in ("string", "empty"):
            return "BYTES"
    raise ServingError(
        f"user feature '{column.name}' is {kind}; the served model takes integers, floats and "
        "strings: convert it when the users are read"
    )


def _column(column: pd.Series, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Values and states int8 of a stored feature."""
    null = column.isna()
    values = column.where(~null, filler(dtype)).astype(NUMPY_DTYPES[dtype]).to_numpy()
    return values, np.where(null, NULL, VALUE).astype(np.int8)


def _check_users(users: pd.DataFrame, user_id: str, features: list[str]) -> None:
    missing = [name for name in [user_id, *features] if name not in users]
    if missing:
        raise ServingError(f"the user table lacks the column '{missing[0]}'")
    if not len(users):
        raise ServingError("the user table is empty")
    if not pd.api.types.is_integer_dtype(users[user_id]) or users[user_id].isna().any():
        raise ServingError(f"'{user_id}' of the user table must be int64 without nulls")
    twice = users[user_id][users[user_id].duplicated()]
    if len(twice):
        raise ServingError(f"user {twice.iloc[0]} occurs more than once in the user table")
