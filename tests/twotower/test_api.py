"""twotower.fit, load and Recommender, on made-up tastes, with a real Triton."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import twotower
from benchmarks.own_data.orders import make_orders
from twotower.pipelines.errors import ConfigError, RunError

USERS, ITEMS = 60, 40


def made_up_ratings(users: int = USERS) -> pd.DataFrame:
    """Even users like even films, odd users odd ones: each rates 12 of 20."""
    draw = np.random.default_rng(0)
    rows = [
        (user * 11, film * 3, 5.0, 1_600_000_000 + 86_400 * day)
        for user in range(users)
        for day, film in enumerate(draw.choice(ITEMS // 2, 12, replace=False) * 2 + user % 2)
    ]
    return pd.DataFrame(rows, columns=["viewer", "movie_id", "stars", "when"])


@pytest.fixture(scope="module")
def recommender(tmp_path_factory) -> twotower.Recommender:
    movies = pd.DataFrame({"movie_id": np.arange(ITEMS) * 3})
    movies["genre"] = np.where(movies.index % 2, "odd", "even")
    return twotower.fit(
        made_up_ratings(),
        user="viewer",
        item="movie_id",
        time="when",
        rating="stars",
        min_rating=3,
        items=movies,
        item_features=["genre"],
        settings={"training.epochs": 3, "training.batch_size": 64, "model.dim": 16},
        path=tmp_path_factory.mktemp("fit") / "run",
    )


def test_metrics_have_a_row_for_the_model_and_for_each_baseline(recommender):
    assert recommender.metrics.index[0] == "two-tower"
    assert "popularity" in recommender.metrics.index
    assert recommender.metrics["recall@10"].between(0, 1).all()
    assert recommender.metrics.loc["two-tower", "recall@10"] > 0.5  # of 8 films that suit
    strongest = recommender.metrics["ndcg@10"].drop("two-tower").idxmax()
    assert f"strongest baseline, {strongest} (ndcg@10" in recommender.verdict


def test_recommendations_are_ranked_and_unseen(recommender):
    frame = recommender.recommend([22, 33], k=5)
    assert frame.columns.tolist() == ["user", "rank", "item", "score"]
    assert frame["user"].tolist() == [22] * 5 + [33] * 5
    assert frame["rank"].tolist() == [1, 2, 3, 4, 5] * 2
    seen = made_up_ratings().groupby("viewer")["movie_id"].agg(set)
    for user, rows in frame.groupby("user"):
        assert not set(rows["item"]) & seen[user]
        assert (np.diff(rows["score"]) <= 0).all()
    everything = recommender.recommend([22], k=ITEMS, filter_seen=False)
    assert sorted(everything["item"]) == [film * 3 for film in range(ITEMS)]
    assert len(recommender.recommend([22], k=ITEMS)) == ITEMS - 12  # the user has seen 12


def test_similar_items_are_ranked_by_cosine(recommender):
    frame = recommender.similar(6, k=4)
    assert frame["rank"].tolist() == [1, 2, 3, 4]
    assert 6 not in frame["item"].tolist()
    local = recommender._local
    vectors = dict(zip(local.item_ids.tolist(), local.item_vectors, strict=True))
    cosine = {
        item: float(vectors[6] @ v / np.linalg.norm(vectors[6]) / np.linalg.norm(v))
        for item, v in vectors.items()
        if item != 6
    }
    best = sorted(cosine, key=cosine.get, reverse=True)[:4]
    assert frame["item"].tolist() == best
    np.testing.assert_allclose(frame["score"], [cosine[item] for item in best], atol=1e-6)
    with pytest.raises(RunError, match="item 7 is not among the 40 items"):
        recommender.similar(7)


def test_the_server_answers_as_the_process_does(recommender):
    with recommender.serve() as served:
        answer = served.client.recommend([22, 33], k=5)
        expected = recommender.recommend([22, 33], k=5)
        assert answer.item_ids.ravel().tolist() == expected["item"].tolist()
        np.testing.assert_allclose(answer.scores.ravel(), expected["score"], atol=1e-5)
    assert recommender.client is None


def test_a_run_is_opened_again(recommender, tmp_path):
    again = twotower.load(recommender.path)
    pd.testing.assert_frame_equal(again.recommend([22], 3), recommender.recommend([22], 3))
    assert repr(again) == f"<Recommender of {recommender.path}, version 1>"
    with pytest.raises(RunError, match="not a run folder"):
        twotower.load(tmp_path)


def test_wrong_input_is_named_before_anything_is_trained(tmp_path):
    ratings = made_up_ratings()
    with pytest.raises(
        ConfigError, match=r"no column 'person' \(--user\); the columns are viewer, movie_id"
    ):
        twotower.fit(ratings, user="person", item="movie_id", path=tmp_path / "a")
    with pytest.raises(ConfigError, match=r"no column 'genre' \(item_features\)"):
        twotower.fit(
            ratings,
            user="viewer",
            item="movie_id",
            items=ratings[["movie_id"]].drop_duplicates(),
            item_features=["genre"],
            path=tmp_path / "a",
        )
    with pytest.raises(ConfigError, match=r"column 'viewer' cannot have the ids .* such as 1\.5"):
        strange = ratings.assign(viewer=1.5)
        twotower.fit(strange, user="viewer", item="movie_id", path=tmp_path / "a")
    with pytest.raises(ConfigError, match=r"settings: .*name"):
        twotower.fit(
            ratings,
            user="viewer",
            item="movie_id",
            settings={"name.of": "x"},
            path=tmp_path / "b",
        )
    with pytest.raises(ConfigError, match=r"training\.epoch\b"):
        twotower.fit(
            ratings,
            user="viewer",
            item="movie_id",
            settings={"training.epoch": 3},
            path=tmp_path / "b",
        )


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch):
    """Line by line, as in a notebook, with the ids that it asks for."""
    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", readme, re.S)
    monkeypatch.chdir(tmp_path)
    orders = make_orders(rows=3_000, customers=700, products=90)
    assert {"C00680", "C00681"} <= set(orders["customer"])
    orders.to_csv("orders.csv", index=False)
    names: dict = {}
    values = {}
    for line in block.splitlines():
        code = line.partition("#")[0].strip()
        if code.startswith("tt."):
            values[code] = eval(code, names)
        else:
            exec(code, names)
    tt = names["tt"]
    try:
        assert "popularity" in values["tt.metrics"].index
        assert len(values['tt.recommend(["C00680", "C00681"], k=10)']) == 20
        assert len(values['tt.similar("SKU-0016", k=5)']) == 5
        assert values["tt.path"] == tmp_path / "runs" / "python"
        expected = tt.recommend(["C00680"], k=3)["item"].tolist()
        assert set(expected) <= set(orders["product"])
        assert tt.client.recommend(["C00680"], k=3).item_ids[0].tolist() == expected
    finally:
        tt.stop()


def test_importing_the_package_imports_nothing_heavy():
    script = (
        "import sys, twotower; "
        "print(sorted({'tensorflow', 'pandas', 'numpy', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
    assert {"fit", "load", "Recommender"} <= set(dir(twotower))
    with pytest.raises(AttributeError, match="no attribute 'predict'"):
        twotower.predict  # noqa: B018
