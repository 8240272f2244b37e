"""The user half of the NVTabular workflow: raw features to what the query tower reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from itertools import chain
from pathlib import Path
from typing import Any

import merlin.dtypes as md
import numpy as np
from merlin.core.dispatch import make_df
from merlin.dag import ColumnSelector
from merlin.schema import ColumnSchema, Schema, Tags
from merlin.table import TensorTable

from twotower.serving.operators.base import ServedOperator, split_rows
from twotower.serving.runtime.arrays import save_column
from twotower.serving.runtime.contract import VALUE, count_of, state_of
from twotower.serving.vocabularies import (
    NO_NAMES,
    check_compilable,
    list_lengths,
    moments,
    read_vocabulary,
    vocabulary_files,
)


class EncodeFeatures(ServedOperator):
    """Runs the user half of the NVTabular workflow: raw values to embedding indices and numbers.

    Parameters
    ----------
    workflow : nvtabular.Workflow
        A fitted workflow's `get_subworkflow("user")`.
    names : mapping of str to str, optional
        Column -> its name in error messages, where the two differ.
    vectors : sequence of str, optional
        Columns of pretrained vectors, which the tower reads as they are.
    """

    def __init__(
        self, workflow: Any, names: Mapping[str, str] = NO_NAMES, vectors: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.workflow, self.names, self.vectors = workflow, dict(names), list(vectors)

    def compute_output_schema(
        self, input_schema: Schema, col_selector: ColumnSelector, prev_output_schema: Any = None
    ) -> Schema:
        schema = self.workflow.output_schema
        counts = [count_of(column.name) for column in schema if column.is_list]
        counts += [count_of(name) for name in self.vectors]
        passed = input_schema.select_by_name(self.vectors)
        return schema + passed + Schema([ColumnSchema(name, dtype=np.int64) for name in counts])

    def transform(self, col_selector: ColumnSelector, transformable: TensorTable) -> TensorTable:
        columns = {name: column.values for name, column in transformable.items()}
        schema = self.workflow.output_schema
        numbers = schema.select_by_tag(Tags.CONTINUOUS).column_names
        raw = {name: columns[name] for name in self.workflow.input_schema.column_names}
        for name in raw:
            if count_of(name) in columns:
                rows = split_rows(columns[name], columns[count_of(name)])
                raw[name] = [row.tolist() for row in rows]
            elif name in numbers:
                raw[name] = np.where(columns[state_of(name)] == VALUE, columns[name], np.nan)
        # Other rows without a value keep `FILLER`, because Categorify fails on a column of nulls.
        encoded = self.workflow.transform(make_df(raw))
        passed = [column for name in self.vectors for column in (name, count_of(name))]
        answer = {name: columns[name] for name in passed}
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
        return {
            "vocabularies": stems,
            "moments": moments(self.workflow),
            "lists": lists,
            "vectors": self.vectors,
        }

    def save_artifacts(self, artifact_path: Any = None) -> None:
        # A copy, because saving makes a workflow use the vocabularies in the new folder.
        deepcopy(self.workflow).save(str(Path(artifact_path) / "workflow"))

    def _load(self, folder: Path) -> None:
        from nvtabular import Workflow

        self.workflow = Workflow.load(str(folder / "workflow"))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "workflow": None}  # saved in its own folder
