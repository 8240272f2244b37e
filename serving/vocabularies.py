"""What Categorify learned: the vocabulary of each column, as files of NVTabular and as arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from merlin.dag import postorder_iter_nodes

from .errors import ServingError

NEUTRAL = {"SelectionOp", "ConcatColumns", "SubsetColumns", "AddMetadata", "AddTags", "Subgraph"}
"""Operators of a workflow that leave the values as they are."""


def vocabulary_files(workflow: Any) -> dict[str, Path]:
    """Column -> fitted vocabulary of a workflow of Categorify and metadata alone.

    Raises
    ------
    ServingError
        naming the operator or the option that the compiled runtime does not know
    """
    files: dict[str, Path] = {}
    for node in postorder_iter_nodes(workflow.graph.output_node, flatten_subgraphs=True):
        operator = type(node.op).__name__
        if operator == "Categorify":
            _check_categorify(node.op)
            files.update({name: Path(path) for name, path in node.op.categories.items()})
        elif operator not in NEUTRAL and not operator.startswith("TagAs"):
            raise ServingError(
                f"the user workflow holds {operator}, which the compiled runtime does not know; "
                "use `runtime: merlin`"
            )
    names = workflow.output_schema.column_names
    for name in names:
        if name not in files:
            raise ServingError(f"the user workflow passes '{name}' on without Categorify")
        if workflow.output_schema[name].is_list:
            raise ServingError(f"'{name}' is a list column; the compiled runtime takes scalars")
    return {name: files[name] for name in names}


def read_vocabulary(name: str, path: Path, is_text: bool) -> tuple[np.ndarray, np.ndarray]:
    """Keys, numbers ascending, and their codes int64, from `unique.<name>.parquet`.

    The file's index is the code.
    """
    keys = pd.read_parquet(path, columns=[name])[name].dropna()
    codes = keys.index.to_numpy(np.int64)
    # A column that is null throughout the training data leaves an empty one of any type.
    dtype = str(keys.dtype).lower() if len(keys) else "object" if is_text else "int64"
    if dtype not in (("object", "string") if is_text else ("int64", "float64", "float32")):
        raise ServingError(
            f"{path}: the vocabulary of '{name}' is {dtype}, in the user table it is "
            f"{'text' if is_text else 'a number'}; give it one type, text, int64 or a float, where "
            "the data is read, and fit the workflow again"
        )
    if is_text:
        return keys.to_numpy(object), codes
    keys = keys.to_numpy(dtype)
    order = np.argsort(keys)
    return keys[order], codes[order]


def _check_categorify(op: Any) -> None:
    buckets = op.num_buckets.values() if isinstance(op.num_buckets, dict) else [op.num_buckets]
    refused = {
        "a vocabulary shared by several columns": bool(op.storage_name),
        "num_buckets": any(number and number > 1 for number in buckets),
        "single_table": op.single_table,
    }
    for option, used in refused.items():
        if used:
            raise ServingError(f"Categorify with {option} cannot be compiled; leave it out")
