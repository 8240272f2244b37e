"""Approximate indexes against FAISS called directly, and their vectors."""

from __future__ import annotations

import json
import shutil

import faiss
import numpy as np
import pytest

from tests.serving.clusters import clustered
from twotower.serving.index.choice import Wanted, choose_index, write_choice
from twotower.serving.runtime.errors import ServingError
from twotower.serving.runtime.index import load_index
from twotower.serving.runtime.index.kinds import one_thread


def answers_of_faiss(indexed, queries, k):
    """The ids and scores of FAISS's own index in the file, with the effort in the metadata."""
    index = faiss.read_index(str(indexed.folder / "index.faiss"))
    inner, metadata = faiss.downcast_index(index.index), indexed.index.metadata
    effort = int(np.ceil(metadata["effort"] * max(k, 100) / 100))
    if metadata["kind"] == "hnsw":
        inner.hnsw.efSearch = max(effort, k)
    else:
        inner.nprobe = effort
    with one_thread():
        found = [index.search(query[None], k) for query in queries]
    return np.concatenate([ids for _, ids in found]), np.concatenate([each for each, _ in found])


@pytest.mark.parametrize("k", [10, 250])
def test_a_search_equals_faiss_itself(k, indexed):
    scores, positions = indexed.index.search(indexed.queries, k)
    ids, expected = answers_of_faiss(indexed, indexed.queries, k)
    expected[ids < 0] = -np.inf  # FAISS has its lowest number there
    np.testing.assert_array_equal(scores, expected)
    mine = np.where(positions < 0, -1, indexed.index.item_ids[positions])
    differing = mine != ids
    # Codes of a byte or less can be equal: then the order is that of the ids, and not FAISS's.
    tied = scores[differing]
    rows = np.nonzero(differing)[0]
    assert all((scores[row] == score).sum() > 1 for row, score in zip(rows, tied, strict=True))


def test_a_batch_answers_like_its_rows(indexed):
    together = indexed.index.search(indexed.queries, 20)
    alone = [indexed.index.search(query[None], 20) for query in indexed.queries]
    for part in (0, 1):
        np.testing.assert_array_equal(
            together[part], np.concatenate([each[part] for each in alone])
        )


def test_vectors_are_those_that_are_scored(indexed):
    index, queries = indexed.index, indexed.queries
    scores, positions = index.search(queries, 5)
    decoded = index.vectors.take(positions)
    np.testing.assert_allclose(np.einsum("nd,nkd->nk", queries, decoded), scores, atol=1e-5)
    own = index.vectors[: len(indexed.vectors)]
    error = np.abs(own - indexed.vectors).max()
    most = {"hnsw": 0, "ivf_flat": 0, "ivf_sq8": 0.01, "ivf_pq": 0.6}
    assert error <= most[index.metadata["kind"]]
    mask = np.zeros(len(own), bool)
    mask[[5, 17]] = True
    np.testing.assert_array_equal(index.vectors[mask], own[[5, 17]])
    np.testing.assert_array_equal(np.asarray(index.vectors), own)


def test_the_metadata_has_the_recall_of_other_queries(indexed):
    """Measured again here, on queries that neither chose the effort nor measured the recall."""
    _, queries = clustered(3_000, 16, 600)
    queries, metadata = queries[200:], indexed.index.metadata
    exact = np.argsort(-(queries @ indexed.vectors.T), axis=1)[:, :100]
    ids, _ = answers_of_faiss(indexed, queries, 100)
    found = np.mean(
        [np.isin(indexed.item_ids[own], row).mean() for own, row in zip(exact, ids, strict=True)]
    )
    assert metadata["recall"]["k"] == 100 and metadata["recall"]["queries"] == 100
    assert metadata["recall"]["value"] == pytest.approx(found, abs=0.03)
    assert metadata["recall"]["value"] >= metadata["recall"]["wanted"]


def test_lengths_are_known(tmp_path):
    vectors, queries = clustered(2_000, 8, 100)
    vectors *= np.linspace(1, 3, 2_000, dtype=np.float32)[:, None]
    choice = choose_index(vectors, queries, Wanted("ivf_flat", 0.5), lambda *_, **__: None)
    write_choice(choice, np.arange(2_000), vectors, tmp_path, "ab")
    stored = load_index(tmp_path).vectors
    assert not stored.have_equal_lengths
    lengths = np.linalg.norm(vectors, axis=1)
    np.testing.assert_allclose(stored.inverse_lengths(), 1 / lengths, rtol=1e-6)


def test_equal_lengths_take_no_memory(indexed):
    inverse = indexed.index.vectors.inverse_lengths()
    assert inverse.strides == (0,)
    np.testing.assert_allclose(inverse, 1, rtol=1e-6)


@pytest.fixture
def copied(indexed, tmp_path):
    for name in ("index.faiss", "index.json"):
        shutil.copy(indexed.folder / name, tmp_path / name)
    return tmp_path


def test_a_truncated_file_is_refused(copied):
    path = copied / "index.faiss"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ServingError, match=r"index\.faiss: has \d+ bytes, index\.json says \d+"):
        load_index(copied)
    path.unlink()
    with pytest.raises(ServingError, match=r"index\.faiss: has 0 bytes"):
        load_index(copied)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("kind", "ivf_4", "kind ivf_4 is unknown"),
        ("kind", None, r"holds a Index\w+ of \S+ lists, index\.json says"),
        ("lists", 77, r"holds a Index\w+ of \S+ lists, index\.json says \w+ of 77"),
        ("effort", ..., "has no effort"),
        ("count", 5, r"holds 3000 x 16, index\.json says 5 x 16"),
        ("towers_sha256", "cd", "built from towers cd, but the towers here are ab"),
    ],
)
def test_metadata_of_another_index_is_refused(key, value, message, copied):
    path = copied / "index.json"
    metadata = json.loads(path.read_text())
    if value is None:
        value = "hnsw" if metadata["kind"] != "hnsw" else "ivf_flat"
    metadata[key] = value
    if value is ...:
        del metadata[key]
    path.write_text(json.dumps(metadata))
    with pytest.raises(ServingError, match=message):
        load_index(copied, "ab")
