"""Sorted vocabularies encode as NVTabular's own transform does."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tests.workflows.encoding.conftest import EVERY_KIND, items_of, side_rows, users_of
from twotower.workflows.encoding.encoder import NULL, UNKNOWN, Vocabulary
from twotower.workflows.features.encode import encode


def transformed(workflow, side, table) -> pd.DataFrame:
    """NVTabular's codes of the columns of `side`: the reference."""
    import nvtabular as nvt

    graph = workflow.get_subworkflow(side.name)
    graph.remove_inputs([name for name in graph.input_schema.column_names if name in CONTEXT])
    return graph.transform(nvt.Dataset(side_rows(table, side))).compute().reset_index(drop=True)


CONTEXT = EVERY_KIND.of_interaction.internal.columns[1:]


@pytest.mark.parametrize("kind", ["user", "item"])
@pytest.mark.parametrize("known", [True, False])
def test_every_kind_of_column_is_encoded_as_by_nvtabular(every_kind, tmp_path, kind, known):
    import cloudpickle

    side = EVERY_KIND.sides[kind == "item"]
    table = every_kind[f"{kind}s"]
    if not known:  # other rows, among them ids and values that the training part does not have
        table = users_of(900, seed=50) if kind == "user" else items_of(900, seed=60)
        if kind == "user":
            history = [[2, 7, 10**12], [], None] * 300
            table = table.assign(history=history, city=table["city"].replace("Rome", "Bergen"))
    workflow = cloudpickle.loads(cloudpickle.dumps(every_kind["workflow"]))
    expected = transformed(workflow, side, table)
    ours = encode(every_kind["workflow"], kind, table, without=CONTEXT if kind == "user" else ())
    assert list(ours) == list(expected)
    for name in ours:
        if isinstance(expected[name].iloc[0], np.ndarray | list):
            assert [list(row) for row in ours[name]] == [list(row) for row in expected[name]], name
            assert ours[name].iloc[0].dtype == np.int32
        else:
            np.testing.assert_array_equal(ours[name], expected[name], err_msg=name)
            assert ours[name].dtype == expected[name].dtype
    if not known:
        assert {NULL, UNKNOWN} <= set(ours["city" if kind == "user" else "item_id"]) | {NULL}


@pytest.mark.parametrize(
    ("values", "asked", "codes"),
    [
        ([30, -5, 2**62 + 1], [2**62 + 1, 2**62, None, -5], [5, 2, 1, 4]),
        ([0.5, -0.0], [0.0, 0.5, 0.25], [4, 3, 2]),
        (["b", "A", ""], ["a", "A", None, ""], [2, 4, 1, 5]),
        ([], [1, None], [2, 1]),
        ([None], ["x", None], [2, 1]),
    ],
)
def test_codes_of_known_unknown_and_null_values(values, asked, codes):
    import pyarrow as pa

    vocabulary = Vocabulary(
        pd.Series(values, range(3, 3 + len(values)), object if not values else None)
    )
    found = vocabulary.encode(pa.array(asked), NULL)
    assert found.tolist() == codes and found.dtype == np.int32
