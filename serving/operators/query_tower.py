"""The query tower as a TensorFlow SavedModel, and its conversion to ONNX."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from merlin.dag import ColumnSelector
from merlin.schema import ColumnSchema, Schema
from merlin.table import TensorTable

from twotower.serving.operators.base import ONNX_OPSET, ServedOperator
from twotower.serving.runtime.contract import count_of
from twotower.serving.runtime.errors import ServingError
from twotower.serving.runtime.operators import query_tower as runtime
from twotower.serving.runtime.operators.query_tower import in_blocks

TOLERANCE = 1e-5
"""Largest difference between a component of TensorFlow's vector and of ONNX Runtime's, relative to
the largest component if that is above 1."""
MAX_DRAWN_LENGTH = 9
"""Length of the longest random list in that comparison, for lists of any length."""


class QueryTower(ServedOperator):
    """Runs the query tower: embedding indices and numbers to query vectors float32 [n, D].

    Parameters
    ----------
    saved_model : Path
        TensorFlow SavedModel of a tower; its signature maps encoded columns to vectors.
    vector : str
        Name of the output column.
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
        return TensorTable({self.vector: self._all_vectors(columns)})

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
        """Names of the columns that the tower reads."""
        return sorted(self._signature.structured_input_signature[1])

    @property
    def dim(self) -> int:
        """Number of dimensions of a vector."""
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
        # `_model` stays referenced, because a signature alone does not keep the variables alive.
        return self._model.signatures["serving_default"]

    @property
    def _specs(self) -> dict[str, Any]:
        return self._signature.structured_input_signature[1]

    def _shape(self, name: str) -> list[int | None]:
        """Return the shape of an input column: [n], or [n, L] for lists; None means any size."""
        wide = list(self._specs[name].shape[1:])
        return [None] if wide in ([], [1]) else [None, *wide]

    def _all_vectors(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """Compute vectors [n, D] from columns [n], with lists as their values and their counts."""
        widths = {name: (*self._shape(name), 1)[1] for name in self.inputs}
        return in_blocks(columns, widths, lambda block: self._vectors(block).numpy())

    def _is_integer(self, name: str) -> bool:
        return self._specs[name].dtype.is_integer

    def _vectors(self, columns: dict[str, Any]) -> Any:
        """Compute vectors from columns [n] or [n, L]; a signature may expect [n, 1] for [n]."""
        import tensorflow as tf

        feed = {}
        for name, column in columns.items():
            spec = self._specs[name]
            wide = [-1 if length is None else length for length in spec.shape[1:]]
            rows = tf.shape(column)[0]
            feed[name] = tf.cast(tf.reshape(column, [rows, *wide]), spec.dtype)
        return next(iter(self._signature(**feed).values()))

    def _verify(self, out: Path, entry: dict[str, Any], schema: Schema) -> None:
        """Check on random columns that the ONNX tower gives the same vectors as TensorFlow."""
        draw = np.random.default_rng(0)
        for rows in (1, 257):
            columns = {}
            for name in self.inputs:
                counts = np.ones(rows, np.int64)
                for length in self._shape(name)[1:]:
                    counts = draw.integers(0, (length or MAX_DRAWN_LENGTH) + 1, rows)
                    columns[count_of(name)] = counts
                size = counts.sum()
                if self._is_integer(name):
                    columns[name] = draw.integers(0, schema[name].int_domain.max + 1, size)
                else:
                    columns[name] = draw.normal(size=size).astype(np.float32)
            answer = runtime.QueryTower(out, entry, threads=1).run(columns)[self.vector]
            expected = self._all_vectors(columns)
            error = float(np.abs(answer - expected).max() / max(1.0, np.abs(expected).max()))
            if not error <= TOLERANCE:
                raise ServingError(
                    f"{self.saved_model}: the ONNX tower differs from TensorFlow by {error:.2g}, "
                    f"more than {TOLERANCE:g}; set serving.runtime to merlin and export again"
                )
