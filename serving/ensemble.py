"""The served graph: request -> user features -> indices -> query vector -> top k items.

A merlin-systems Ensemble, which the stock executor can run as it is, and which `compile_ensemble`
turns into a plan for `serving.runtime`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from merlin.dag import ColumnSelector, Node, postorder_iter_nodes
from merlin.schema import ColumnSchema, Schema, Tags
from merlin.systems.dag import Ensemble

from twotower.serving.operators import (
    EncodeFeatures,
    FaissTopK,
    QueryTower,
    ServedOperator,
    UserFeatures,
    UserRows,
)
from twotower.serving.runtime.compiled_engine import PLAN_FILE
from twotower.serving.runtime.contract import (
    FILTER_SEEN,
    NUMPY_DTYPES,
    Contract,
    K,
    count_of,
    row_of,
    state_of,
)
from twotower.serving.runtime.errors import ServingError
from twotower.serving.runtime.seen import SeenItems
from twotower.serving.vocabularies import NO_NAMES, list_lengths, moments

MAX_DEVIATIONS = 1e15
"""How many standard deviations from the mean a number may lie.

Far beyond, the square of the tower's vector overflows float32 and all its scores become 0 or NaN.
"""


def build_ensemble(
    users: pd.DataFrame,
    workflow: Any,
    saved_model: Path,
    index_dir: Path,
    seen: SeenItems,
    *,
    item_id: str,
    towers_sha256: str,
    names: Mapping[str, str] = NO_NAMES,
) -> Ensemble:
    """Chain the operators of `serving.operators` into the served graph.

    Parameters
    ----------
    users : one row a user: its id and the raw features the workflow reads
    workflow : `nvtabular.Workflow.get_subworkflow("user")`
    saved_model : of the query tower, see `QueryTower`
    index_dir : what `serving.runtime.index.build_index` wrote
    seen : the items that `filter_seen` removes
    item_id : name of the schema's ITEM_ID column, which names the answered ids
    towers_sha256 : hash of the towers; an index of other towers is refused
    names : user feature -> what requests call it; one that is not there keeps its name
    """
    user_id = _user_id(workflow)
    features = [name for name in workflow.input_schema.column_names if name != user_id]
    tower = QueryTower(saved_model)
    unknown = sorted(set(tower.inputs) - set(workflow.output_schema.column_names))
    if unknown:
        name = names.get(unknown[0], unknown[0])
        raise ServingError(f"{saved_model}: the tower reads '{name}', the workflow lacks it")
    numbers = [name for name in moments(workflow) if name in users]
    users = users.astype(dict.fromkeys(numbers, np.float64))
    completed = UserFeatures(users, user_id, features, list_lengths(workflow, names), names)
    _check_numbers(users.rename(columns=completed.names), _ranges(workflow, completed.names))
    history = _history(workflow, completed)
    top = FaissTopK(
        index_dir,
        seen.of(completed.user_ids),
        row=row_of(user_id),
        vector=tower.vector,
        history=history,
        item_id=item_id,
        towers_sha256=towers_sha256,
    )
    if tower.dim != top.index.metadata["dim"]:
        raise ServingError(
            f"{saved_model} answers {tower.dim} dimensions, "
            f"the index {index_dir} holds {top.index.metadata['dim']}"
        )
    request = _request_schema(completed)
    raw = [name for name in request.column_names if name not in (K, FILTER_SEEN)]
    rows = ColumnSelector([user_id]) >> UserRows(completed.user_ids, user_id)
    vector = (rows + ColumnSelector(raw)) >> completed >> EncodeFeatures(workflow, names) >> tower
    told = [] if history is None else [history, count_of(history)]
    asked = ColumnSelector([K, FILTER_SEEN, *told])
    return Ensemble((rows + vector + asked) >> top, request)


def operator(ensemble: Ensemble, kind: type[ServedOperator]) -> Any:
    """The graph's operator of a kind."""
    return next(node.op for node in _nodes(ensemble) if isinstance(node.op, kind))


def contract(ensemble: Ensemble, default_k: int, max_k: int) -> Contract:
    """What requests to the ensemble may hold."""
    users, top = operator(ensemble, UserFeatures), operator(ensemble, FaissTopK)
    names = users.names
    return Contract(
        users.user_id,
        top.item_id,
        {names[column]: dtype for column, dtype in users.features.items()},
        default_k,
        max_k,
        [names[column] for column in users.lists],
        _ranges(operator(ensemble, EncodeFeatures).workflow, names),
        {name: column for column, name in names.items() if name != column},
    )


def compile_ensemble(ensemble: Ensemble, out: Path) -> None:
    """Write for each operator a folder of artifacts and an entry in plan.json."""
    plan = {}
    for node in _nodes(ensemble):
        name = type(node.op).__name__
        folder = out / name
        folder.mkdir(parents=True)
        plan[name] = node.op.compile(folder, node.input_schema)
    (out / PLAN_FILE).write_text(json.dumps(plan, indent=2) + "\n")


def _user_id(workflow: Any) -> str:
    tagged = workflow.output_schema.select_by_tag(Tags.USER_ID).column_names
    if len(tagged) != 1:
        raise ServingError(f"the user workflow must tag one column USER_ID, it tags {tagged}")
    return tagged[0]


def _history(workflow: Any, users: UserFeatures) -> str | None:
    """The feature that lists the items of a user, by Merlin's tag for it; None if there is none."""
    tagged = workflow.output_schema.select_by_tag(Tags.SEQUENCE).column_names
    for name in tagged:
        if users.features.get(name) != "INT64":
            raise ServingError(
                f"the user workflow tags '{users.names[name]}' SEQUENCE, a list of items, but it "
                "holds no item ids (INT64); leave out the tag"
            )
    return tagged[0] if tagged else None


def _ranges(workflow: Any, names: Mapping[str, str]) -> dict[str, tuple[float, float]]:
    """Numeric feature, as requests call it -> the smallest and the largest number it takes."""
    return {
        names[name]: (mean - std * MAX_DEVIATIONS, mean + std * MAX_DEVIATIONS)
        for name, (mean, std) in moments(workflow).items()
    }


def _check_numbers(users: pd.DataFrame, ranges: dict[str, tuple[float, float]]) -> None:
    for name, (low, high) in ranges.items():
        outside = users[name][(users[name] < low) | (users[name] > high)]
        if len(outside):
            raise ServingError(
                f"user feature '{name}' holds {outside.iloc[0]:g}; expected {low:g} to {high:g}, "
                "or null"
            )


def _request_schema(users: UserFeatures) -> Schema:
    """The columns of a request, the states of the features and the parameters included."""
    dtypes = {users.user_id: np.int64}
    for name, dtype in users.features.items():
        dtypes[name] = str if dtype == "BYTES" else NUMPY_DTYPES[dtype]
        dtypes[state_of(name)] = np.int8
        if name in users.lists:
            dtypes[count_of(name)] = np.int64
    for name, dtype in ((K, np.int64), (FILTER_SEEN, np.bool_)):
        if name in dtypes:
            raise ServingError(f"the user column '{name}' is named like a request parameter")
        dtypes[name] = dtype
    return Schema([ColumnSchema(name, dtype=dtype) for name, dtype in dtypes.items()])


def _nodes(ensemble: Ensemble) -> list[Node]:
    """The nodes that compute, in the order they run; selections and joins only route columns."""
    nodes = postorder_iter_nodes(ensemble.graph.output_node)
    return [node for node in nodes if isinstance(node.op, ServedOperator)]
