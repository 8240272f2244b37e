"""The served graph: request -> user features -> indices -> query vector -> top k items.

It is a merlin-systems Ensemble. merlin-systems' own executor can run it, and `compile_ensemble`
converts it to a plan for `serving.runtime`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from merlin.dag import ColumnSelector, Node, postorder_iter_nodes
from merlin.schema import ColumnSchema, Schema, Tags
from merlin.systems.dag import Ensemble

from twotower.serving.operators.base import ServedOperator
from twotower.serving.operators.encode_features import EncodeFeatures
from twotower.serving.operators.query_tower import QueryTower
from twotower.serving.operators.rank_candidates import RankCandidates, RankingModel
from twotower.serving.operators.top_k import NO_COLUMNS, PARAMETERS, FaissTopK
from twotower.serving.operators.user_features import NO_VECTORS, UserFeatures
from twotower.serving.operators.user_rows import UserRows
from twotower.serving.raw_ids import INTEGERS, VersionIds
from twotower.serving.runtime.compiled_engine import PLAN_FILE
from twotower.serving.runtime.contract import (
    SIMILAR_TO,
    Contract,
    count_of,
    row_of,
    state_of,
)
from twotower.serving.runtime.errors import ServingError
from twotower.serving.runtime.filters.columns import ItemColumns
from twotower.serving.runtime.live.rules import EventRules
from twotower.serving.runtime.tensors import NUMPY_DTYPES
from twotower.serving.seen import SeenItems
from twotower.serving.vocabularies import NO_NAMES, list_lengths, moments

MAX_DEVIATIONS = 1e15
"""Largest distance of a number from its mean, in standard deviations.

Far beyond it, the square of the tower's vector overflows float32, and all scores become 0 or NaN.
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
    context: pd.DataFrame | None = None,
    vectors: Mapping[str, np.ndarray] = NO_VECTORS,
    filters: ItemColumns = NO_COLUMNS,
    ranking: RankingModel | None = None,
) -> Ensemble:
    """Chain the operators of `serving.operators` into the served graph.

    Parameters
    ----------
    users : pandas.DataFrame
        One row per user: its id and the raw features that the workflow reads.
    workflow : nvtabular.Workflow
        A fitted workflow's `get_subworkflow("user")`.
    saved_model : Path
        The query tower (see `QueryTower`).
    index_dir : Path
        Folder that `serving.runtime.index.build_index` wrote.
    seen : SeenItems
        The items that `filter_seen` removes.
    item_id : str
        Name of the schema's ITEM_ID column; the output with item ids has the same name.
    towers_sha256 : str
        Hash of the towers; an index of other towers is refused.
    names : mapping of str to str, optional
        Feature -> its name in requests, where the two differ.
    context : pandas.DataFrame, optional
        The features that only a request can give, as columns of their types; rows are ignored.
    vectors : mapping of str to ndarray of float32, shape (n_users, length), optional
        The pretrained vectors of the rows of `users`, which the workflow does not have.
    filters : ItemColumns, optional
        The columns by which a request may filter, of the items of the index in its order.
    ranking : RankingModel, optional
        The second stage.

    Returns
    -------
    merlin.systems.dag.Ensemble

    Raises
    ------
    ServingError
        If the parts do not fit together; the message names the part.
    """
    user_id, tower = _user_id(workflow), QueryTower(saved_model)
    _check_inputs(tower, workflow, names, vectors)
    completed = _user_features(users, workflow, names, context, vectors)
    top = FaissTopK(
        index_dir,
        seen.of(completed.user_ids),
        row=row_of(user_id),
        vector=tower.vector,
        history=_history(workflow, completed),
        item_id=item_id,
        towers_sha256=towers_sha256,
        columns=filters,
    )
    _check_dimensions(tower, top)
    encode = EncodeFeatures(workflow, names, vectors=list(vectors))
    return _chain(completed, encode, tower, top, ranking)


def _chain(
    completed: UserFeatures,
    encode: EncodeFeatures,
    tower: QueryTower,
    top: FaissTopK,
    ranking: RankingModel | None,
) -> Ensemble:
    """Chain the operators of the graph."""
    user_id, request = completed.user_id, _request_schema(completed)
    raw = ColumnSelector([name for name in request.column_names if name not in PARAMETERS])
    rows = ColumnSelector([user_id]) >> UserRows(completed.user_ids, user_id)
    encoded = (rows + raw) >> completed >> encode
    vector = encoded >> tower
    best = (rows + vector + ColumnSelector(top.parameters)) >> top
    if ranking is None:
        return Ensemble(best, request)
    rank = RankCandidates(ranking, top, user_id)
    read = rows + best + ColumnSelector(rank.parameters)
    if columns := ranking.columns(encode.workflow.output_schema):
        read = read + encoded[columns]
    return Ensemble(read >> rank, request)


def operator(ensemble: Ensemble, kind: type[ServedOperator]) -> Any:
    """Return the graph's operator of the class `kind`."""
    return next(node.op for node in _nodes(ensemble) if isinstance(node.op, kind))


def contract(
    ensemble: Ensemble,
    default_k: int,
    max_k: int,
    ids: VersionIds = INTEGERS,
    times: dict[str, Any] | None = None,
    events: EventRules | None = None,
) -> Contract:
    """Return the contract of requests to the ensemble with these ids; `times` as in `Contract`.

    `events` says what events may hold.
    """
    users, top = operator(ensemble, UserFeatures), operator(ensemble, FaissTopK)
    names = users.names
    # The served graph has codes in the history, a request has ids.
    types = {**users.features, **({top.history: ids.items.datatype} if top.history else {})}
    made = times["columns"].values() if times else ()
    features = {names[column]: dtype for column, dtype in types.items() if column not in made}
    if times:
        features[times["input"]] = "INT64"
    return Contract(
        user_id=users.user_id,
        item_id=top.item_id,
        features=features,
        default_k=default_k,
        max_k=max_k,
        lists=[names[column] for column in users.lists],
        ranges=_ranges(operator(ensemble, EncodeFeatures).workflow, names),
        columns={name: column for column, name in names.items() if name != column},
        user_id_type=ids.users.datatype,
        item_id_type=ids.items.datatype,
        history=names[top.history] if top.history else None,
        vectors={names[column]: users.lists[column] for column in users.vectors},
        times=times,
        filters=top.columns.kinds,
        events=None if events is None else asdict(events),
        **_ranking_limits(ensemble),
    )


def _ranking_limits(ensemble: Ensemble) -> dict[str, int]:
    """Return the arguments of `Contract` that are about the ranking model, if there is one."""
    for node in _nodes(ensemble):
        if isinstance(node.op, RankCandidates):
            model = node.op.model
            return {"candidates": model.candidates, "max_rows": model.max_rows}
    return {}


def compile_ensemble(ensemble: Ensemble, out: Path) -> None:
    """Write a folder of artifacts for each operator, and plan.json with an entry for each."""
    plan = {}
    for node in _nodes(ensemble):
        name = type(node.op).__name__
        folder = out / name
        folder.mkdir(parents=True)
        plan[name] = node.op.compile(folder, node.input_schema)
    (out / PLAN_FILE).write_text(json.dumps(plan, indent=2) + "\n")


def _user_features(
    users: pd.DataFrame,
    workflow: Any,
    names: Mapping[str, str],
    context: pd.DataFrame | None,
    vectors: Mapping[str, np.ndarray],
) -> UserFeatures:
    """Return the operator of the features; see `build_ensemble`."""
    user_id = _user_id(workflow)
    users = _with_floats(users, workflow)
    completed = UserFeatures(
        users,
        user_id,
        features=[name for name in workflow.input_schema.column_names if name != user_id],
        lists=list_lengths(workflow, names),
        names=names,
        context=None if context is None else _with_floats(context, workflow),
        vectors=vectors,
    )
    _check_numbers(users.rename(columns=completed.names), _ranges(workflow, completed.names))
    return completed


def _with_floats(table: pd.DataFrame, workflow: Any) -> pd.DataFrame:
    """The table with its numeric features as float64."""
    numbers = [name for name in moments(workflow) if name in table]
    return table.astype(dict.fromkeys(numbers, np.float64))


def _user_id(workflow: Any) -> str:
    tagged = workflow.output_schema.select_by_tag(Tags.USER_ID).column_names
    if len(tagged) != 1:
        raise ServingError(
            f"the user workflow must tag exactly one column USER_ID, but it tags {tagged}"
        )
    return tagged[0]


def _check_inputs(
    tower: QueryTower, workflow: Any, names: Mapping[str, str], vectors: Collection[str]
) -> None:
    """Check that the workflow and the vectors are the columns that the tower reads."""
    missing = sorted(set(tower.inputs) - {*workflow.output_schema.column_names, *vectors})
    if missing:
        name = names.get(missing[0], missing[0])
        raise ServingError(
            f"{tower.saved_model}: the tower reads '{name}', which the workflow does not produce; "
            "export both from the same run"
        )


def _check_dimensions(tower: QueryTower, top: FaissTopK) -> None:
    dim = top.index.metadata["dim"]
    if tower.dim != dim:
        raise ServingError(
            f"{tower.saved_model} has {tower.dim} dimensions, "
            f"but the index {top.index_dir} has {dim}; build the index again"
        )


def _history(workflow: Any, users: UserFeatures) -> str | None:
    """Return the feature tagged SEQUENCE, which lists a user's items; None if there is none."""
    tagged = workflow.output_schema.select_by_tag(Tags.SEQUENCE).column_names
    for name in tagged:
        if users.features.get(name) != "INT64":
            raise ServingError(
                f"the user workflow tags '{users.names[name]}' SEQUENCE, a list of items, but it "
                "does not hold item ids (INT64); remove the tag"
            )
    return tagged[0] if tagged else None


def _ranges(workflow: Any, names: Mapping[str, str]) -> dict[str, tuple[float, float]]:
    """Return, by the name in requests, the smallest and largest value of numeric features."""
    return {
        names[name]: (mean - std * MAX_DEVIATIONS, mean + std * MAX_DEVIATIONS)
        for name, (mean, std) in moments(workflow).items()
    }


def _check_numbers(users: pd.DataFrame, ranges: dict[str, tuple[float, float]]) -> None:
    for name, (low, high) in ranges.items():
        if name not in users:  # of the context
            continue
        outside = users[name][(users[name] < low) | (users[name] > high)]
        if len(outside):
            raise ServingError(
                f"user feature '{name}' holds {outside.iloc[0]:g}; expected {low:g} to {high:g}, "
                "or null"
            )


def _request_schema(users: UserFeatures) -> Schema:
    """Return the columns of a request, including the features' states and the parameters."""
    dtypes: dict[str, Any] = {users.user_id: np.int64}
    for name, dtype in users.features.items():
        dtypes[name] = str if dtype == "BYTES" else NUMPY_DTYPES[dtype].type
        dtypes[state_of(name)] = np.int8
        if name in users.lists:
            dtypes[count_of(name)] = np.int64
    for name in (*PARAMETERS, SIMILAR_TO):
        if name in dtypes:
            raise ServingError(
                f"the user column '{name}' has the name of a request parameter; rename it"
            )
    dtypes |= PARAMETERS
    return Schema([ColumnSchema(name, dtype=dtype) for name, dtype in dtypes.items()])


def _nodes(ensemble: Ensemble) -> list[Node]:
    """Return the nodes that compute, in execution order, without selections and joins."""
    nodes = postorder_iter_nodes(ensemble.graph.output_node)
    return [node for node in nodes if isinstance(node.op, ServedOperator)]
