"""A version that answers in this process."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from serving.errors import ServingError
from serving.local import LocalVersion
from serving.runtime.manifest import verify_manifest


@pytest.mark.parametrize("runtime", ["compiled", "merlin"])
def test_it_answers_as_the_towers_do(world, repositories, runtime, assert_same):
    folder = repositories[runtime] / "retrieval" / "1"
    modules = set(sys.modules)
    version = LocalVersion(folder)
    users = np.append(world.users["user_id"].to_numpy()[:40], world.unknown_user)
    assert_same(version.answer(users, 300), world.brute_force(users.tolist(), 300, False))
    np.testing.assert_array_equal(version.user_ids, np.sort(world.users["user_id"]))
    np.testing.assert_array_equal(version.item_ids, np.sort(world.item_ids))
    verify_manifest(folder)  # no bytecode lies beside the code
    assert not [name for name in set(sys.modules) - modules if name.startswith("_serving")]


def test_a_version_that_cannot_run_is_named(copy, vouch):
    folder = copy / "retrieval" / "1"
    (folder / "serving" / "runtime" / "plan.py").write_text("import nowhere\n")
    with pytest.raises(ServingError, match=r"plan\.py: not the file the manifest vouches for"):
        LocalVersion(folder)
    vouch(folder)
    with pytest.raises(ServingError, match=f"{folder}: cannot run in this process: No module"):
        LocalVersion(folder)
