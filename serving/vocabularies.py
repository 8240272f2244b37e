"""What the user workflow learned: the vocabularies and the moments, as files and as arrays."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from merlin.dag import postorder_iter_nodes

from twotower.serving.runtime.contract import MAX_WIDTH
from twotower.serving.runtime.errors import ServingError

NO_NAMES: Mapping[str, str] = MappingProxyType({})
NEUTRAL = {"SelectionOp", "ConcatColumns", "SubsetColumns", "AddMetadata", "AddTags", "Subgraph"}
"""Operators of a workflow that leave the values as they are."""
COMPILED = (["Categorify"], ["Categorify", "ListSlice"], ["Normalize", "FillMissing"])
"""What the compiled runtime knows of the operators that change a column, in order."""


def chains(workflow: Any) -> dict[str, list[Any]]:
    """Output column -> the operators that change its values, in the order they run."""
    passed: dict[str, list[Any]] = {}
    for node in postorder_iter_nodes(workflow.graph.output_node, flatten_subgraphs=True):
        operator = type(node.op).__name__
        if operator not in NEUTRAL and not operator.startswith("TagAs"):
            for name in node.output_schema.column_names:
                passed.setdefault(name, []).append(node.op)
    return {name: passed.get(name, []) for name in workflow.output_schema.column_names}


def check_compilable(workflow: Any, names: Mapping[str, str] = NO_NAMES) -> None:
    """Raise ServingError naming the operator or the option that the compiled runtime lacks.

    Here and below, `names` maps columns to what messages call them, where that is another name.
    """
    for column, operators in chains(workflow).items():
        name = names.get(column, column)
        kinds = [type(operator).__name__ for operator in operators]
        if kinds not in COMPILED:
            known = ", ".join(" >> ".join(chain) for chain in COMPILED)
            raise ServingError(
                f"the user workflow passes '{name}' through {' >> '.join(kinds) or 'nothing'}, "
                f"the compiled runtime knows {known}; set serving.runtime to merlin"
            )
        if kinds[0] == "Categorify":
            _check_categorify(operators[0])
        elif operators[1].fill_val != 0 or operators[1].add_binary_cols:
            raise ServingError(f"FillMissing of '{name}' can only be compiled as FillMissing(0)")


def vocabulary_files(workflow: Any) -> dict[str, Path]:
    """Column -> fitted vocabulary, of the columns that Categorify encodes."""
    return {
        name: Path(operators[0].categories[name])
        for name, operators in chains(workflow).items()
        if operators and type(operators[0]).__name__ == "Categorify"
    }


def moments(workflow: Any) -> dict[str, tuple[float, float]]:
    """Column -> mean and standard deviation, of the columns that Normalize scales."""
    return {
        name: (operators[0].means[name], operators[0].stds[name] or 1.0)
        for name, operators in chains(workflow).items()
        if operators and type(operators[0]).__name__ == "Normalize"
    }


def list_lengths(workflow: Any, names: Mapping[str, str] = NO_NAMES) -> dict[str, int]:
    """Column -> how many values of a row are read, of the columns that are lists.

    Raises
    ------
    ServingError
        naming a list of which others than the first values are read, or too many
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
    """Keys, numbers ascending, and their codes int64, from `unique.<name>.parquet`.

    The file's index is the code.
    """
    keys = pd.read_parquet(path, columns=[name])[name].dropna()
    codes = keys.index.to_numpy(np.int64)
    # A column that is null throughout the training data leaves an empty one of any type.
    dtype = str(keys.dtype).lower() if len(keys) else "object" if is_text else "int64"
    if dtype not in (("object", "string") if is_text else ("int64", "float64", "float32")):
        raise ServingError(
            f"{path}: the vocabulary of '{names.get(name, name)}' is {dtype}, in the user table it "
            f"is {'text' if is_text else 'a number'}; give it one type, text, int64 or a float, "
            "where the data is read, and fit the workflow again"
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
