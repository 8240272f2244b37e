"""Which index is chosen, and what is refused."""

from __future__ import annotations

import faiss
import numpy as np
import pytest

from tests.serving.clusters import clustered
from twotower.serving.index import choice as module
from twotower.serving.index.choice import Wanted, choose_index, write_choice
from twotower.serving.index.recall import exact_answers, recall
from twotower.serving.runtime.errors import ServingError
from twotower.serving.runtime.index import build_index, load_index
from twotower.serving.runtime.index import kinds as kinds_of_index


def silent(*_, **__):
    pass


@pytest.fixture(scope="module")
def world():
    return clustered(2_000, 16, 200)


def choose(world, *wanted):
    return choose_index(*world, Wanted(*wanted), silent)


@pytest.mark.parametrize("kind", ["auto", "flat"])
def test_a_small_catalogue_is_searched_exactly_without_queries(kind, world, tmp_path):
    vectors, queries = world
    choice = choose_index(vectors, queries[:0], Wanted(kind), silent)
    assert [each.kind for each in choice.trials] == ["flat"] == [choice.chosen.kind]
    write_choice(choice, np.arange(2_000), vectors, tmp_path / "chosen", "ab")
    build_index(np.arange(2_000), vectors, tmp_path / "exact", "ab")
    for name in ("index.faiss", "index.json"):
        both = [(tmp_path / each / name).read_bytes() for each in ("chosen", "exact")]
        assert both[0] == both[1]
    assert load_index(tmp_path / "chosen").is_exact


def test_auto_takes_the_fastest_that_is_as_wanted(world, monkeypatch):
    monkeypatch.setattr(module, "MAX_EXACT", 0)
    choice = choose(world, "auto", 0.9)
    assert [each.kind for each in choice.trials] == ["flat", "ivf_sq8", "ivf_flat", "hnsw"]
    usable = [each for each in choice.trials if not each.refused]
    assert choice.chosen is min(usable, key=lambda each: each.ms)
    assert all(each.recall >= 0.9 for each in usable)
    kept = [each for each in choice.trials if each.index is not None]
    assert kept == [choice.chosen] or (choice.chosen.kind == "flat" and not kept)


def test_auto_keeps_to_the_memory(world, monkeypatch):
    monkeypatch.setattr(module, "MAX_EXACT", 0)
    choice = choose(world, "auto", 0.5, 100_000)  # the vectors alone take 128 kB
    too_large = [each.kind for each in choice.trials if each.refused.startswith("takes")]
    assert too_large == ["flat", "ivf_flat", "hnsw"]
    assert choice.chosen.kind == "ivf_sq8" and choice.chosen.bytes <= 100_000
    scarce = choose(world, "auto", 0.5, 80_000)
    assert scarce.trials[-1].kind == "ivf_pq", "tried where ivf_sq8 does not fit"
    assert {each.kind for each in scarce.trials if each.refused} >= {"ivf_sq8", "flat", "hnsw"}


def test_bytes_are_those_of_the_written_index(world, tmp_path):
    vectors, _ = world
    for kind in ("hnsw", "ivf_flat", "ivf_sq8"):
        choice = choose(world, kind, 0.3)
        metadata = write_choice(choice, np.arange(2_000), vectors, tmp_path / kind, "ab")
        # A small part is the quantiser's; HNSW's links depend on levels that are drawn.
        assert choice.chosen.bytes == pytest.approx(metadata["bytes"], rel=0.05, abs=20_000), kind


def test_a_recall_that_is_not_reached_is_refused(world, tmp_path):
    choice = choose(world, "ivf_sq8", 1.0)  # rounded vectors never have all the exact answers
    assert choice.chosen is None
    (measured,) = [each.recall for each in choice.trials if each.kind == "ivf_sq8"]
    assert 0.9 < measured < 1
    message = rf"serving\.index\.recall = 1 at 100 items \(.*ivf_sq8: recall {measured:.4f}\)"
    with pytest.raises(ServingError, match=message):
        write_choice(choice, np.arange(2_000), world[0], tmp_path / "index", "ab")
    assert not (tmp_path / "index").exists()


def test_an_exact_index_over_the_memory_is_refused(world):
    with pytest.raises(ServingError, match=r"flat: takes 0 MB.*raise the memory"):
        choose(world, "flat", 0.95, 1_000).require()


def test_too_few_items_or_users_are_refused(world):
    vectors, queries = world
    with pytest.raises(ServingError, match=r"999 items are too few.*serving\.index\.kind to flat"):
        choose_index(vectors[:999], queries, Wanted("hnsw"), silent)
    with pytest.raises(ServingError, match="19 users are too few"):
        choose_index(vectors, queries[:19], Wanted("hnsw"), silent)


def test_one_half_chooses_and_the_other_measures(world, monkeypatch):
    """With a first half that is easier, the recall of the second half is below the aim."""
    vectors, _ = world
    draw = np.random.default_rng(1)
    easy = np.repeat(vectors[:1], 100, axis=0)
    hard = draw.normal(size=(100, 16)).astype(np.float32)
    choice = choose_index(vectors, np.concatenate([easy, hard]), Wanted("ivf_flat", 0.9), silent)
    trial = choice.trials[-1]
    assert trial.refused == f"recall {trial.recall:.4f}" and trial.recall < 0.9


def test_exact_answers_are_those_of_a_full_sort(world, monkeypatch):
    from twotower.serving.index import recall as measuring

    vectors, queries = world
    monkeypatch.setattr(measuring, "BLOCK", 700)  # several, the last one smaller
    found = exact_answers(vectors, queries, 30, silent)
    expected = np.argsort(-(queries @ vectors.T), axis=1)[:, :30]
    assert recall(found, expected) == 1
    assert (found == expected).mean() > 0.999  # but for the last bit of a score


def test_recall_counts_what_was_found():
    assert recall(np.array([[1, 2], [9, 3]]), np.array([[2, 5], [3, 9]])) == 0.75


@pytest.mark.skipif(
    not hasattr(faiss, "StandardGpuResources") or not faiss.get_num_gpus(),
    reason="needs a GPU, and a FAISS that is built for it",
)
def test_lists_clustered_on_a_gpu_are_as_good(monkeypatch):
    vectors, queries = clustered(50_000, 32, 500)
    trials = {}
    for device in ("gpu", "cpu"):
        if device == "cpu":
            monkeypatch.setattr(kinds_of_index, "_on_gpu", lambda index: index)
        choice = choose_index(vectors, queries, Wanted("ivf_sq8"), silent)
        assert choice.chosen is not None
        trials[device] = choice.trials[-1]
    assert trials["gpu"].lists == trials["cpu"].lists
    assert trials["gpu"].recall == pytest.approx(trials["cpu"].recall, abs=0.02)
    assert trials["gpu"].effort <= 2 * trials["cpu"].effort
