"""The exported version folder: self-contained, vouched for, and able to batch requests."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial

import pytest

from twotower.serving.client import RetrievalClient
from twotower.serving.config import ServingConfig
from twotower.serving.runtime.errors import ServingError
from twotower.serving.runtime.manifest import sha256, verify_manifest
from twotower.serving.triton.control import MODEL_NAME
from twotower.serving.triton.server import TritonServer
from twotower.serving.version import write_version


def test_the_manifest_lists_every_file(repositories, world):
    for repository in repositories.values():
        version = repository / "retrieval" / "1"
        manifest = json.loads((version / "manifest.json").read_text())
        files = {path.relative_to(version) for path in version.rglob("*") if path.is_file()}
        # Triton's Python caches model.py itself, before model.py can say that it should not.
        present = {path.as_posix() for path in files if path.parts[0] != "__pycache__"}
        assert set(manifest["files"]) == present - {"manifest.json"}
        assert manifest["towers_sha256"] == world.towers
        assert manifest["runtime"] == repository.name
        assert datetime.fromisoformat(manifest["created"]).utcoffset().total_seconds() == 0
        verify_manifest(version)


def test_a_version_runs_without_this_project_and_its_libraries(copy, world, assert_same, tmp_path):
    """Its own code, in a fresh interpreter, elsewhere, where nothing heavy can be imported."""
    version = copy / "retrieval" / "1"
    script = f"""
import json, sys
sys.modules.update(dict.fromkeys(["tensorflow", "merlin", "nvtabular", "pandas"]))
sys.path.insert(0, {str(version)!r})
from pathlib import Path
from twotower.serving.runtime.contract import Contract
from twotower.serving.runtime.compiled_engine import load
import numpy as np
from twotower import serving
assert serving.__file__.startswith({str(version)!r}), serving.__file__
model = json.loads(Path({str(version / "model.json")!r}).read_text())
table = Contract(**model["contract"]).read({{"user_id": np.array([[31], [404]])}}, {{"k": 5}})
answer = load(Path({str(version)!r}), 1).run(table)
print(json.dumps([answer["item_id"].tolist(), answer["score"].tolist()]))
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    items, scores = json.loads(done.stdout)
    assert items[0][3:] == [-1, -1]
    assert_same((items, scores), world.brute_force([31, 404], 5))


def test_export_does_not_move_the_workflow(world, repositories):
    from twotower.serving.vocabularies import vocabulary_files

    for path in vocabulary_files(world.workflow).values():
        assert path.exists()
        assert not path.is_relative_to(repositories["merlin"])


def test_export_refuses_to_write_over_a_version(world, repositories):
    version = repositories["compiled"] / "retrieval" / "1"
    with pytest.raises(ServingError, match="1 is not empty; export into a new folder"):
        write_version(world.ensemble, version, ServingConfig())


def test_the_config_says_how_long_to_wait_for_which_batches(world, export, tmp_path):
    settings = {"preferred_batch_sizes": [8, 64], "queue_delay_us": 50}
    repository = export(world, tmp_path / "triton", **settings)
    config = (repository.root / "retrieval" / "1" / "config.pbtxt").read_text()
    sizes = "preferred_batch_size: 8\n  preferred_batch_size: 64"
    assert f"{sizes}\n  max_queue_delay_microseconds: 50\n" in config
    assert "version_policy" not in config


@pytest.mark.parametrize(
    "name", ["FaissTopK/index.faiss", "QueryTower/query_tower.onnx", "plan.json"]
)
def test_a_file_that_changed_is_refused_by_name(name, copy):
    path = copy / "retrieval" / "1" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ServingError, match=f"{name}: differs from the file in the manifest"):
        verify_manifest(path.parents[len(path.relative_to(copy).parts) - 3])


def test_a_corrupted_version_is_not_served(copy, tmp_path):
    ensemble = copy / "retrieval" / "1" / "EncodeFeatures" / "vocabulary_0.npy"
    ensemble.write_bytes(ensemble.read_bytes()[:-1])
    with pytest.raises(ServingError, match=r"vocabulary_0\.npy: differs from the file"):
        TritonServer(copy, log=tmp_path / "log").start()


def test_a_planted_pickle_is_not_loaded(repositories, tmp_path):
    repository = shutil.copytree(repositories["merlin"], tmp_path / "repository")
    planted = tmp_path / "planted"
    pickle = repository / "retrieval" / "1" / "ensemble" / "ensemble.pkl"
    pickle.write_bytes(b"cos\nsystem\n(S'touch " + str(planted).encode() + b"'\ntR.")
    with pytest.raises(ServingError, match=r"ensemble\.pkl: differs from the file in the manifest"):
        TritonServer(repository, log=tmp_path / "log").start()
    assert not planted.exists()


def ask(server, arguments):
    with RetrievalClient(server.grpc, "grpc") as client:
        try:
            return client.recommend(**arguments)
        except ServingError as error:
            return error


def statistics(server):
    """(calls of the model, requests that were answered or failed)."""
    with RetrievalClient(server.http) as client:
        models = client._service.client.get_inference_statistics(MODEL_NAME)
    (model,) = models["model_stats"]
    stats = model["inference_stats"]
    return model["execution_count"], stats["success"]["count"] + stats["fail"]["count"]


def test_requests_at_the_same_time_are_answered_together_each_by_itself(
    repositories, world, assert_same, tmp_path
):
    """As exported: different k, filters and features together, and one bad request."""
    users = world.users["user_id"].tolist()
    asked = [
        {"user_ids": users * 2, "k": 400},  # keeps the model busy while the others arrive
        {"user_ids": users[:3], "k": 5},
        {"user_ids": users[:1], "k": 400},
        {"user_ids": users[1:3], "k": 0},
        {"user_ids": users[:1], "k": 3, "filter_seen": False},
        {"user_ids": users[:3], "k": 7, "features": {"city": ["東京", "Oslo", ""]}},
    ]
    expected = [world.brute_force(**each) if each["k"] else None for each in asked]
    with TritonServer(repositories["compiled"], log=tmp_path / "log") as server:
        calls = requests = 0
        for _ in range(50):
            with ThreadPoolExecutor(len(asked)) as pool:
                answers = list(pool.map(partial(ask, server), asked))
            for answer, wanted in zip(answers, expected, strict=True):
                if wanted is None:
                    assert "'k' is 0;" in str(answer)
                else:
                    assert_same((answer.item_ids, answer.scores), wanted)
            calls, requests = statistics(server)
            if requests - calls >= 5:
                break
    assert requests - calls >= 5, "Triton did not batch: nothing was tested"


def test_a_request_that_breaks_the_reader_fails_alone(copy, world, assert_same, vouch, tmp_path):
    version = copy / "retrieval" / "1"
    with (version / "twotower" / "serving" / "runtime" / "contract.py").open("a") as code:
        code.write(
            "\n\ndef read(self, inputs, parameters, read=Contract.read):\n"
            "    table = read(self, inputs, parameters)\n"
            "    return table if (table['user_id'] != 13).all() else {}['a bug']\n"
            "\n\nContract.read = read\n"
        )
    vouch(version)
    config = copy / "retrieval" / "config.pbtxt"
    wait = "max_queue_delay_microseconds: 500000"  # so that both lie in one call
    config.write_text(
        config.read_text().replace("dynamic_batching {", "dynamic_batching { " + wait)
    )
    with TritonServer(copy, log=tmp_path / "log") as server, ThreadPoolExecutor(2) as pool:
        broken, sound = pool.map(partial(ask, server), [{"user_ids": [13]}, {"user_ids": [404]}])
        assert statistics(server) == (1, 2)
    assert "internal error (request id" in str(broken)
    assert "a bug" not in str(broken)
    assert_same((sound.item_ids, sound.scores), world.brute_force([404], 10))
    assert "KeyError: 'a bug'" in (tmp_path / "log").read_text()


def test_sha256_is_that_of_the_bytes(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    assert sha256(tmp_path / "file").startswith("ba7816bf8f01cfea414140de5dae2223")
