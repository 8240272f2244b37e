"""An approximate index of each kind over the same items."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from tests.serving.clusters import clustered
from twotower.serving.index.choice import Choice, Wanted, choose_index, write_choice
from twotower.serving.runtime.index import ApproximateIndex, load_index
from twotower.serving.runtime.index.kinds import KINDS

ITEMS, DIM = 3_000, 16


class Indexed(NamedTuple):
    """An index, and what it was made of."""

    folder: Path
    index: ApproximateIndex
    choice: Choice
    item_ids: np.ndarray
    vectors: np.ndarray
    queries: np.ndarray


@pytest.fixture(scope="session", params=KINDS)
def indexed(request, tmp_path_factory) -> Indexed:
    folder = tmp_path_factory.mktemp(request.param)
    vectors, queries = clustered(ITEMS, DIM, 200)
    item_ids = np.arange(ITEMS) * 3 + 7
    recall = 0.4 if request.param == "ivf_pq" else 0.85
    choice = choose_index(vectors, queries, Wanted(request.param, recall), lambda *_, **__: None)
    write_choice(choice, item_ids, vectors, folder, "ab")
    return Indexed(folder, load_index(folder, "ab"), choice, item_ids, vectors, queries)
