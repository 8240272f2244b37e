"""The users and candidates of validation and test, and the progress that is shown."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from twotower.models.evaluation.metrics import evaluate as measure
from twotower.pipelines.errors import ConfigError
from twotower.pipelines.evaluation.evaluator import Evaluator
from twotower.pipelines.run import Run
from twotower.pipelines.steps import evaluate as step
from twotower.pipelines.steps import train
from twotower.pipelines.steps.evaluate import evaluate
from twotower.pipelines.steps.preprocess import load_split, load_training_data


def copy_of(run: Run, to: Path, *overrides: str) -> Run:
    copy = Run(Path(shutil.copytree(run.path, to)))
    copy.override(overrides)
    return copy


@pytest.fixture(scope="module")
def scorer(small_run):
    from twotower.models.training.saving import load
    from twotower.models.two_tower import TowerScorer

    data = load_training_data(small_run)
    return TowerScorer.of(load(small_run.path / "model").model, data.users, data.items)


def test_a_sampled_validation_is_the_mean_of_the_sampled_users(small_run, scorer, tmp_path):
    from twotower.models.training.saving import load

    run = copy_of(small_run, tmp_path / "run", "evaluation.valid_users=37")
    model, calls = load(run.path / "model").model, []
    validate = train.validation(run, load_training_data(run))
    metrics = validate(model, lambda *call: calls.append(call))
    assert metrics["users"] == 37 and calls == [(37, 37)]
    # The same users, as rows of the whole table.
    whole, sampled = Evaluator(run, "valid"), Evaluator(run, "valid")
    sampled.sample(37)
    alone = np.zeros(whole.relevant.shape[0], bool)
    alone[sampled.users] = True
    relevant = whole.relevant.multiply(alone[:, None]).tocsr()
    expected = measure(scorer, relevant, whole.seen, [10, 20, 50, 100], whole.candidates)
    for name, value in expected.values.items():
        assert metrics[name] == pytest.approx(value, abs=1e-12), name
    # Every training validates on the same users.
    run.override(("training.seed=7",))
    assert train.validation(run, load_training_data(run))(model) == metrics


def test_by_default_a_small_catalogue_is_validated_on_all_users(small_run):
    from twotower.models.training.saving import load

    history = json.loads((small_run.path / "model" / "history.json").read_text())
    evaluator = Evaluator(small_run, "valid")
    n_users = int(np.count_nonzero(np.diff(evaluator.relevant.indptr)))
    assert set(history["val_users"]) == {n_users}
    assert small_run.notes("train")["valid_users"] == n_users
    model = load(small_run.path / "model").model
    metrics = train.validation(small_run, load_training_data(small_run))(model)
    assert metrics["ndcg@10"] == max(history["val_ndcg@10"])
    report = json.loads((small_run.path / "reports" / "metrics.json").read_text())
    assert report["protocol"]["chosen_on"] == f"valid ndcg@10 of {n_users:,} users"


def test_the_saved_state_depends_on_the_validation_users(small_run, tmp_path):
    run = copy_of(small_run, tmp_path / "run")
    before = train.state_folder(run, resume=False)
    run.override(("evaluation.valid_users=37",))
    assert train.state_folder(run, resume=False) != before


def test_candidates_are_the_items_of_any_part(small_run, tmp_path):
    evaluator = Evaluator(small_run, "test")
    everything = evaluator.train + evaluator.seen + evaluator.relevant
    np.testing.assert_array_equal(evaluator.candidates, np.asarray(everything.sum(axis=0))[0] > 0)
    run = copy_of(small_run, tmp_path / "run", "evaluation.catalogue=items")
    assert Evaluator(run, "test").candidates is None


def test_the_users_metrics_average_to_the_table(small_run, tmp_path):
    run = copy_of(small_run, tmp_path / "run", "evaluation.ks=[10, 20]")
    values = evaluate(run, tmp_path / "users.parquet")
    rows = pd.read_parquet(tmp_path / "users.parquet")
    parts = load_split(run.path / "processed")
    relevant = parts["test"].groupby("user_id").size()
    for model, metrics in values.items():
        mine = rows[rows["model"] == model].set_index("user_id")
        pd.testing.assert_series_equal(mine["relevant"], relevant, check_names=False)
        means = mine.drop(columns=["model", "relevant"]).mean()
        assert len(means) == 12
        for name, mean in means.items():
            assert mean == pytest.approx(metrics[name], abs=1e-12), (model, name)
    assert list(values) == ["two-tower", "popularity", "random", "itemknn"]
    assert not list(tmp_path.glob(".users*"))


def test_a_users_file_that_cannot_be_written_is_refused_before_the_work(small_run, tmp_path):
    for name, message in (("users.csv", r"users.csv: a parquet file is"), ("no/u.parquet", "no/u")):
        with pytest.raises(ConfigError, match=message):
            evaluate(small_run, tmp_path / name)


def test_the_report_has_the_verdict(small_run):
    report = json.loads((small_run.path / "reports" / "metrics.json").read_text())
    verdict, metrics = report["verdict"], report["metrics"]
    assert verdict["metric"] == "ndcg@10"
    assert verdict["model"] == pytest.approx(metrics["two-tower"]["ndcg@10"])
    for rival in verdict["rivals"]:
        assert rival["value"] == pytest.approx(metrics[rival["name"]]["ndcg@10"])
    assert verdict["facts"]["users"] == metrics["two-tower"]["users"]
    assert (verdict["outcome"], verdict["use"]) == ("better", "two-tower")
    assert verdict["text"].startswith("The model is better than the strongest baseline, itemknn")
    assert verdict["objection"] is None


def test_progress_names_the_model_and_the_phase(small_run, tmp_path, monkeypatch):
    run = copy_of(small_run, tmp_path / "run", "evaluation.baselines=[popularity,itemknn]")
    reported = []
    plain = step.stage

    def stage(name):
        entered = plain(name)

        class Listening:
            def __enter__(self):
                report, result = entered.__enter__()

                def listen(done=None, total=None, phase="", detail=""):
                    reported.append((phase, detail))
                    report(done, total, phase, detail)

                return listen, result

            def __exit__(self, *error):
                return entered.__exit__(*error)

        return Listening()

    monkeypatch.setattr(step, "stage", stage)
    users = evaluate(run)["popularity"]["users"]
    done = f"{users:,} of {users:,} users"
    assert reported[2:] == [
        ("two-tower: vectors", ""),
        ("two-tower: rank", done),
        ("popularity: fit", ""),
        ("popularity: rank", done),
        ("itemknn: fit", ""),
        ("itemknn: rank", done),
        ("verdict", ""),
    ]
