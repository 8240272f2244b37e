"""The smallest graph there is, and graphs that do not fit together."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tests.serving.conftest import answer, request_table
from twotower.serving.runtime.errors import ServingError

TOWERS = "b2" * 32
TABLE = np.array([[0, 0], [0, 0], [1, 1], [3, 0], [0, 3], [2, 1]], np.float32)  # by encoded id


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Three users known by their id alone, a lookup for a tower, and three items."""
    import nvtabular as nvt
    import tensorflow as tf
    from merlin.schema import Tags
    from nvtabular import ops

    from twotower.serving.runtime.index import build_index
    from twotower.serving.seen import SeenItems

    folder = tmp_path_factory.mktemp("parts")
    users = pd.DataFrame({"member": [70, 5, 900]})
    graph = ["member"] >> ops.Categorify(out_path=str(folder))
    workflow = nvt.Workflow(graph >> ops.AddMetadata(tags=[Tags.USER_ID, Tags.USER]))
    workflow.fit(nvt.Dataset(pd.DataFrame({"member": [70, 70, 70, 5, 5, 900]})))

    tower = tf.Module()
    tower.table = tf.Variable(TABLE)
    ids = tf.TensorSpec([None], tf.int32, name="member")  # as some SavedModels have it

    @tf.function(input_signature=[ids])
    def serve(member):
        return {"output_1": tf.gather(tower.table, member)}

    tf.saved_model.save(tower, str(folder / "tower"), signatures={"serving_default": serve})
    build_index(np.array([11, 22, 33]), np.eye(3, 2, dtype=np.float32), folder / "index", TOWERS)
    build_index(np.array([11]), np.ones((1, 3), np.float32), folder / "wide", TOWERS)
    return {
        "users": users,
        "workflow": workflow,
        "saved_model": folder / "tower",
        "index_dir": folder / "index",
        "seen": SeenItems.from_pairs([70, 5], [11, 22]),
        "item_id": "film",
        "towers_sha256": TOWERS,
    }


def test_users_known_by_their_id_alone(parts, tmp_path):
    from twotower.serving.ensemble import build_ensemble, compile_ensemble
    from twotower.serving.runtime.compiled_engine import CompiledEngine

    ensemble = build_ensemble(**parts)
    compile_ensemble(ensemble, tmp_path)
    table = request_table(ensemble, [70, 5, 900, 1], k=2)
    for result in (CompiledEngine(tmp_path).run(table), answer(ensemble, table)):
        # Equal scores by id; users 70 and 5 have seen films 11 and 22; user 1 is unknown.
        assert result["film"].tolist() == [[22, 33], [11, 33], [11, 22], [11, 22]]
        assert result["score"].tolist() == [[0, 0], [0, 0], [2, 1], [1, 1]]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"towers_sha256": "c3"}, rf"built from towers {TOWERS}, but the towers here are c3"),
        ({"index_dir": "wide"}, "has 2 dimensions, but the index .*wide has 3"),
        ({"users": pd.DataFrame({"id": [1]})}, "the user table has no column 'member'"),
    ],
)
def test_parts_that_do_not_fit_are_refused(change, message, parts):
    from twotower.serving.ensemble import build_ensemble

    if "index_dir" in change:
        change = {"index_dir": parts["index_dir"].with_name(change["index_dir"])}
    with pytest.raises(ServingError, match=message):
        build_ensemble(**{**parts, **change})


def test_a_workflow_must_say_which_column_is_the_user(parts, tmp_path, world):
    import nvtabular as nvt
    from nvtabular import ops

    from twotower.serving.ensemble import build_ensemble

    untagged = nvt.Workflow(["member"] >> ops.Categorify(out_path=str(tmp_path)))
    untagged.fit(nvt.Dataset(parts["users"]))
    with pytest.raises(ServingError, match="must tag exactly one column USER_ID"):
        build_ensemble(**{**parts, "workflow": untagged})
    with pytest.raises(ServingError, match="reads 'member', which the workflow does not produce"):
        build_ensemble(**{**parts, "workflow": world.workflow})


def test_a_user_whose_number_no_tower_can_read_is_refused():
    from twotower.serving.ensemble import _check_numbers

    users = pd.DataFrame({"member": [1, 2, 3], "spend": [np.nan, 5.0, np.inf]})
    with pytest.raises(ServingError, match="'spend' holds inf; expected -9 to 9, or null"):
        _check_numbers(users, {"spend": (-9.0, 9.0)})
    _check_numbers(users[:2], {"spend": (-9.0, 9.0)})


def test_a_feature_named_like_a_parameter_is_refused():
    from twotower.serving.ensemble import _request_schema
    from twotower.serving.operators.user_features import UserFeatures

    users = UserFeatures(pd.DataFrame({"member": [1], "k": [2]}), "member", ["k"])
    with pytest.raises(ServingError, match="'k' has the name of a request parameter"):
        _request_schema(users)
