"""Reads vocabularies and moments from a fitted user workflow."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from merlin.dag import postorder_iter_nodes

from twotower.serving.runtime.errors import ServingError
from twotower.serving.runtime.tensors import MAX_WIDTH

NO_NAMES: Mapping[str, str] = MappingProxyType({})
NEUTRAL = {"SelectionOp", "ConcatColumns", "SubsetColumns", "AddMetadata", "AddTags", "Subgraph"}
"""Operators of a workflow that do not change values."""
COMPILED = (["Categorify"], ["Categorify", "ListSlice"], ["Normalize", "FillMissing"])
"""The sequences of operators that the compiled runtime supports for a column."""


def chains(workflow: Any) -> dict[str, list[Any]]:
    """Return for each output column the operators that change its values, in execution order."""
    passed: dict[str, list[Any]] = {}
    for node in postorder_iter_nodes(workflow.graph.output_node, flatten_subgraphs=True):
        operator = type(node.op).__name__
        if operator not in NEUTRAL and not operator.startswith("TagAs"):
            for name in node.output_schema.column_names:
                passed.setdefault(name, []).append(node.op)
    return {name: passed.get(name, []) for name in workflow.output_schema.column_names}


def check_compilable(workflow: Any, names: Mapping[str, str] = NO_NAMES) -> None:
    """Check that the compiled runtime supports a workflow.

    Parameters
    ----------
    workflow : nvtabular.Workflow
        The fitted user workflow.
    names : mapping of str to str, optional
        Column -> its name in error messages, where the two differ. The same holds below.

    Raises
    ------
    ServingError
        The message names the operator or option that the compiled runtime does not support.
    """
    for column, operators in chains(workflow).items():
        name = names.get(column, column)
        kinds = [type(operator).__name__ for operator in operators]
        if kinds not in COMPILED:
            known = ", ".join(" >> ".join(chain) for chain in COMPILED)
            raise ServingError(
                f"the user workflow passes '{name}' through {' >> '.join(kinds) or 'nothing'}, "
                f"the compiled runtime supports {known}; set serving.runtime to merlin"
            )
        if kinds[0] == "Categorify":
            _check_categorify(operators[0])
        elif operators[1].fill_val != 0 or operators[1].add_binary_cols:
            raise ServingError(
                f"FillMissing of '{name}' can only be compiled as FillMissing(0); use that, or set "
                "serving.runtime to merlin"
            )


def vocabulary_files(workflow: Any) -> dict[str, Path]:
    """Return the file of the fitted vocabulary of each column that Categorify encodes."""
    return {
        name: Path(operators[0].categories[name])
        for name, operators in chains(workflow).items()
        if operators and type(operators[0]).__name__ == "Categorify"
    }


def moments(workflow: Any) -> dict[str, tuple[float, float]]:
    """Return mean and standard deviation of each column that Normalize scales."""
    return {
        name: (operators[0].means[name], operators[0].stds[name] or 1.0)
        for name, operators in chains(workflow).items()
        if operators and type(operators[0]).__name__ == "Normalize"
    }


def list_lengths(workflow: Any, names: Mapping[str, str] = NO_NAMES) -> dict[str, int]:
    """Return for each list column the number of values per row that the tower reads.

    Raises
    ------
    ServingError
        If a list is not cut to its first values, or to too many; the message names it.
    """
    lengths = {}
    for name, operators in chains(workflow).items():
        if not workflow.output_schema[name].is_list:
            continue
        cuts = [op for op in operators if type(op).__name__ == "ListSlice"]
        lengths[name] = cuts[0].end if cuts else 0
        if len(cuts) != 1 or cuts[0].start or cuts[0].pad or not 0 < lengths[name] <= MAX_WIDTH:
            raise ServingError(
                f"the user workflow must cut '{names.get(name, name)}', a list, by one "
                f"ListSlice(0, n), n from 1 to {MAX_WIDTH}"
            )
    return lengths


def read_vocabulary(
    name: str, path: Path, is_text: bool, names: Mapping[str, str] = NO_NAMES
) -> tuple[np.ndarray, np.ndarray]:
    """Read the vocabulary of a column from Categorify's `unique.<name>.parquet`.

    Parameters
    ----------
    name : str
        The column.
    path : Path
        The file; its index is the code.
    is_text : bool
        Whether the column is text in the user table.
    names : mapping of str to str, optional
        Column -> its name in error messages.

    Returns
    -------
    keys : ndarray, shape (v,)
        Text, or numbers in ascending order.
    codes : ndarray of int64, shape (v,)

    Raises
    ------
    ServingError
        If the column has another type in the user table than in the vocabulary.
    """
    keys = pd.read_parquet(path, columns=[name])[name].dropna()
    codes = keys.index.to_numpy(np.int64)
    # If a column is null in all training data, its vocabulary is empty and of any type.
    dtype = str(keys.dtype).lower() if len(keys) else "object" if is_text else "int64"
    if dtype not in (("object", "string") if is_text else ("int64", "float64", "float32")):
        raise ServingError(
            f"{path}: the vocabulary of '{names.get(name, name)}' is {dtype}, but in the user "
            f"table it is {'text' if is_text else 'a number'}; read it with one type in "
            "all data (text, int64 or a float), and fit the workflow again"
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
            raise ServingError(
                f"Categorify with {option} cannot be compiled; remove the option, or set "
                "serving.runtime to merlin"
            )
