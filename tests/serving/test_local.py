"""A version that answers in this process."""

from __future__ import annotations

import shutil
import sys

import faiss
import numpy as np
import pytest

from twotower.serving.local import LocalVersion
from twotower.serving.runtime.errors import ServingError
from twotower.serving.runtime.manifest import verify_manifest


@pytest.mark.parametrize("runtime", ["compiled", "merlin"])
def test_it_answers_as_the_towers_do(world, repositories, runtime, assert_same):
    folder = repositories[runtime] / "retrieval" / "1"
    modules = set(sys.modules)
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(2)
    version = LocalVersion(folder)
    assert faiss.omp_get_max_threads() == 2, "a setting of the whole process"
    faiss.omp_set_num_threads(threads)
    users = np.append(world.users["user_id"].to_numpy()[:40], world.unknown_user)
    assert_same(version.answer(users, 300), world.brute_force(users.tolist(), 300, False))
    assert version.knows(users).tolist() == [True] * 40 + [False]
    np.testing.assert_array_equal(version.item_ids, np.sort(world.item_ids))
    verify_manifest(folder)  # no bytecode lies beside the code
    assert not [name for name in set(sys.modules) - modules if name.startswith("_serving")]


def test_a_version_that_cannot_run_is_named(copy, vouch):
    folder = copy / "retrieval" / "1"
    (folder / "twotower" / "serving" / "runtime" / "compiled_engine.py").write_text(
        "import nowhere\n"
    )
    with pytest.raises(ServingError, match=r"engine\.py: differs from the file in the manifest"):
        LocalVersion(folder)
    vouch(folder)
    with pytest.raises(ServingError, match=f"{folder}: cannot run in this process: No module"):
        LocalVersion(folder)


def test_a_version_of_another_release_is_to_be_exported_again(repositories, tmp_path, vouch):
    folder = shutil.copytree(repositories["merlin"] / "retrieval" / "1", tmp_path / "1")
    pickle = next(folder.rglob("ensemble.pkl"))
    pickle.write_bytes(b"cserving.operators\nRenamedSince\n.")  # as an older package named it
    vouch(folder)
    message = "RenamedSince.*; if another release .* exported it, export and publish it again"
    with pytest.raises(ServingError, match=message):
        LocalVersion(folder)
