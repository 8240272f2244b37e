"""The second stage of a whole run: trained, measured, served, and compared with brute force."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from scipy.sparse import csr_matrix

from tests.pipelines.conftest import small_config
from twotower.models.evaluation.ranking import rank_in_batches
from twotower.pipelines.answers.recommend import recommend
from twotower.pipelines.cli import main
from twotower.pipelines.errors import ConfigError, RunError
from twotower.pipelines.evaluation.evaluator import Evaluator
from twotower.pipelines.job import main_job
from twotower.pipelines.ranking.candidates import history_before, history_of, served_history
from twotower.pipelines.ranking.rank import embedded_columns, rank
from twotower.pipelines.run import Run
from twotower.pipelines.steps.evaluate import evaluate
from twotower.pipelines.steps.export import export
from twotower.pipelines.steps.publish import publish
from twotower.pipelines.steps.verify import verify
from twotower.serving.runtime.errors import ServingError

RANKING = (
    "ranking.model=mlp",
    "ranking.candidates=30",
    "ranking.epochs=3",
    "ranking.profile=[genres, year]",
    "ranking.embedded=[gender, item_id, genres]",
)


@pytest.fixture(scope="session")
def two_stage_run(small_run, tmp_path_factory) -> Run:
    """A copy of the small run with a ranking model, evaluated and published."""
    folder = tmp_path_factory.mktemp("two-stage") / "run"
    shutil.copytree(small_run.path, folder)
    run = Run(folder)
    run.override(RANKING)
    rank(run)
    evaluate(run)
    export(run)
    publish(run, anyway=True)
    return run


def test_the_notes_say_how_good_it_is(two_stage_run):
    notes = two_stage_run.notes("rank")
    metrics = json.loads((two_stage_run.path / "ranking" / "metrics.json").read_text())
    assert metrics == dict(notes)
    assert notes["users"] + notes["held_out"] == 400 and notes["held_out"] == 80
    assert 0 < notes["ndcg@10 before"] < 1 and 0 < notes["ndcg@10 after"] < 1
    assert 0.5 < notes["metrics"]["auc"] < 1
    assert (two_stage_run.path / "ranking" / "reliability.png").stat().st_size > 1000


def test_both_stages_are_evaluated_side_by_side(two_stage_run, small_run):
    notes = two_stage_run.notes("evaluate")
    metrics, before = notes["metrics"], small_run.notes("evaluate")["metrics"]
    assert list(metrics)[:2] == ["two-tower", "two-stage"]
    assert metrics["two-tower"] == before["two-tower"]
    gain = notes["second_stage"]
    difference = metrics["two-stage"]["ndcg@10"] - metrics["two-tower"]["ndcg@10"]
    assert gain["difference"] == pytest.approx(difference)
    assert gain["low"] <= gain["difference"] <= gain["high"]
    # The ranking model orders 30 candidates: what is found among them does not change.
    assert metrics["two-stage"]["recall@50"] == metrics["two-tower"]["recall@50"]
    assert metrics["two-stage"]["recall@10"] != metrics["two-tower"]["recall@10"]
    assert "two-stage" not in [each["name"] for each in notes["verdict"]["rivals"]]


def test_the_server_answers_as_brute_force(two_stage_run):
    found = verify(two_stage_run, count=100, k=20)
    assert found.holds and found.wrong_ranked == 0
    assert 0 < found.largest_probability_difference < 1e-5


def test_two_labels_are_learned_and_measured(small_run, tmp_path):
    run = Run(shutil.copytree(small_run.path, tmp_path / "run"))
    run.override((*RANKING, "ranking.model=esmm"))
    notes = rank(run)
    labels = notes["labels"]
    assert labels["both"]["auc"] == notes["metrics"]["auc"]
    assert labels["both"]["positives"] == labels["second given first"]["positives"]
    assert labels["first"]["positives"] == labels["second given first"]["rows"]
    assert 0.5 < labels["first"]["auc"] < 1 and 0 < labels["second given first"]["auc"] < 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["esmm", "mmoe", "ple", "inttower"])
def test_the_server_answers_as_brute_force_with_every_network(name, small_run, tmp_path):
    run = Run(shutil.copytree(small_run.path, tmp_path / "run"))
    run.override((*RANKING, f"ranking.model={name}"))
    rank(run)
    export(run)
    publish(run, anyway=True)
    found = verify(run, count=50, k=10)
    assert found.holds and found.wrong_ranked == 0


def test_a_file_of_ranked_answers_and_the_command_line(two_stage_run, tmp_path, monkeypatch):
    out = tmp_path / "ranked.parquet"
    recommend(two_stage_run, "all", out, k=5, rank=True)
    recommend(two_stage_run, "all", tmp_path / "plain.parquet", k=5)
    ranked, plain = (pd.read_parquet(file) for file in (out, tmp_path / "plain.parquet"))
    assert len(ranked) == len(plain) == 400 * 5
    assert ranked["score"].between(0, 1).all() and not ranked.equals(plain)
    monkeypatch.chdir(tmp_path)
    for options, message in (
        (["--run", str(two_stage_run.path), "-k", "31"], "the ranking model orders 30 items"),
        (["--run", str(two_stage_run.path), "-k", "5"], ""),
    ):
        command = ["recommend", "--users", "all", "--rank", "--out", "again.csv", *options]
        result = CliRunner().invoke(main, command)
        assert message in result.output
    assert len(pd.read_csv(tmp_path / "again.csv")) == 400 * 5


def test_a_run_without_a_ranking_model_says_so(small_run, tmp_path):
    with pytest.raises(ConfigError, match="--rank: the published version has no ranking model"):
        recommend(small_run, "all", tmp_path / "out.csv", k=5, rank=True)
    with pytest.raises(ConfigError, match=r"ranking\.model is not set"):
        rank(Run(small_run.path))


def test_what_is_stale_is_not_used(two_stage_run, tmp_path):
    shutil.copytree(two_stage_run.path, tmp_path / "run")
    run = Run(tmp_path / "run")
    run.override(("ranking.epochs=4",), keep=False)
    for step in (evaluate, export):
        with pytest.raises(RunError, match=r"was made with another ranking\.epochs"):
            step(run)


def test_the_histories_are_those_of_the_towers(two_stage_run):
    evaluator = Evaluator(two_stage_run, "test")
    before, shape = history_before(evaluator), evaluator.train.shape
    assert (before != evaluator.train).nnz == 0
    served = served_history(two_stage_run, shape)
    assert (served != evaluator.train).nnz == 0
    history = history_of(served, np.array([3, 0]))
    assert history.counts.tolist() == [served[3].nnz, served[0].nnz]
    assert history.positions.tolist() == [*served[3].indices, *served[0].indices]


def test_which_columns_are_embedded():
    everything = ["gender", "age", "occupation"], ["year", "genres"]
    assert embedded_columns(small_config("ranking.model=dcn")) == everything
    users, items = embedded_columns(small_config(*RANKING))
    assert (users, items) == (["gender"], ["item_id", "genres"])
    with pytest.raises(ConfigError, match=r"ranking\.embedded: colour is no feature or id"):
        embedded_columns(small_config("ranking.model=mlp", "ranking.embedded=[colour]"))


def test_what_cannot_be_trained_is_refused_at_once(small_run, tmp_path):
    run = Run(shutil.copytree(small_run.path, tmp_path / "run"))
    run.override(("ranking.model=mlp", "ranking.profile=[colour]"), keep=False)
    with pytest.raises(
        ServingError, match=r"ranking\.profile: the item table has no column colour"
    ):
        rank(run)
    alone = small_config("ranking.model=dlrm", "features.user=[]", "ranking.embedded=[]")
    with pytest.raises(ConfigError, match=r"ranking\.model dlrm multiplies embeddings, but there"):
        main_job(alone, tmp_path / "dlrm")
    items_only = small_config("ranking.model=inttower", "ranking.embedded=[genres]")
    with pytest.raises(ConfigError, match=r"ranking\.model inttower .* no embedding of users"):
        main_job(items_only, tmp_path / "dlrm")
    assert not (tmp_path / "dlrm" / "data").exists()


@pytest.mark.parametrize(
    "overrides, message",
    [
        (("split.train_on_valid=true",), "ranking.model learns from the positives in valid"),
        (("features.context=[rating]",), "cannot be used with features of the context"),
        (("ranking.max_rows=9",), "9 is less than the candidates of one user, 100"),
        (("ranking.model=tree",), "unexpected value; permitted: 'mlp', 'dcn'"),
        (
            ("ranking.model=esmm", "ranking.loss=pairwise"),
            "loss: pairwise has one label, but esmm learns two",
        ),
        (
            ("ranking.model=ple", "positives={}"),
            "ple learns which interactions are positives, but without positives.column all of them",
        ),
        (("ranking.conversion={column: rating}",), "set ranking.rows to interactions, or remove"),
        (("ranking.position=rank",), "position: candidates have not been shown at a position"),
        (
            ("ranking.model=mmoe", "ranking.rows=interactions"),
            "conversion: mmoe learns two labels of each interaction, positive and conversion",
        ),
        (
            ("ranking.rows=interactions", "positives={}"),
            "ranking.rows: interactions needs some that are no positives",
        ),
        (
            ("ranking.rows=interactions", "split={method: leave_last_out, repeats: keep}"),
            "but split.repeats is keep",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(overrides, message):
    with pytest.raises(ConfigError, match=message):
        small_config("ranking.model=mlp", *overrides)


def test_a_refit_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"--refit: ranking\.model learns from valid"):
        main_job(small_config("ranking.model=mlp"), tmp_path / "run", refit=True)


def test_a_ranker_of_both_stages_leaves_out_what_it_must(two_stage_run):
    from twotower.models.training.saving import load
    from twotower.pipelines.ranking.reranked import TwoStage
    from twotower.pipelines.steps.preprocess import load_tables

    evaluator = Evaluator(two_stage_run, "test")
    towers = evaluator.tower_scorer(
        load(two_stage_run.path / "model").model, *load_tables(two_stage_run)
    )
    ranker, users = TwoStage(two_stage_run, evaluator, towers), np.arange(20)
    allowed = np.ones(evaluator.train.shape[1], bool)
    allowed[::2] = False
    for seen in (evaluator.seen, csr_matrix(evaluator.seen.shape, dtype=bool)):
        ((_, ranked),) = rank_in_batches(ranker, users, seen, 40, allowed, 100)
        ((_, plain),) = rank_in_batches(towers, users, seen, 40, allowed, 100)
        assert np.array_equal(np.sort(ranked[:, :30]), np.sort(plain[:, :30]))
        assert np.array_equal(ranked[:, 30:], plain[:, 30:])
        assert not np.array_equal(ranked, plain)
