"""`--recipe auto`: what is tried, in which order, what is chosen, and what the budget does."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from tests.pipelines.conftest import small_config
from twotower.pipelines.errors import ChildError, RunError
from twotower.pipelines.job import fit_and_publish
from twotower.pipelines.run import Run
from twotower.pipelines.verdict import auto
from twotower.pipelines.verdict.auto import Auto, Search, choose_recipe
from twotower.pipelines.verdict.recipes import Variant, recipe_settings, variants
from twotower.pipelines.verdict.suits import When

CLOSED = [f"closed-form, l2 {l2}" for l2 in (30, 300, 3000)]
SLOW = ["as configured", "softmax", "softmax-history", "softmax-wide"]


@pytest.fixture
def run(small_run, tmp_path) -> Run:
    return Run(Path(shutil.copytree(small_run.path, tmp_path / "run")))


@pytest.fixture
def trained(run, monkeypatch):
    """The configurations that were trained; a training is made up by a function of its config.

    Only recipes for all data are tried.
    """
    configs, general = [], [each for each in variants() if each.when.is_general]

    def outcome(config):
        return {"valid": {"ndcg@10": 0.4 if config.training.start else 0.3}}

    def measure(trial, checkpoints, log, on_metrics):
        configs.append(trial.config)
        assert trial.parts == ("valid",), "test must not be looked at"
        on_metrics({})
        return measure.outcome(trial.config)

    measure.outcome, measure.configs = outcome, configs
    monkeypatch.setattr(auto, "variants", lambda: general)
    monkeypatch.setattr(auto, "measure_in_subprocess", measure)
    monkeypatch.setattr(Search, "prepared", lambda self, config: self.run)
    return measure


def test_closed_forms_come_first_and_the_best_on_valid_is_taken(run, trained, capsys):
    def outcome(config):
        start = config.training.start
        value = {30: 0.1, 300: 0.5, 3000: 0.2}[start.l2] if start else 0.3
        return {"valid": {"ndcg@10": value}}

    trained.outcome = outcome
    attempts = choose_recipe(run, Auto())
    assert [each.label for each in attempts] == [*CLOSED, *SLOW]
    assert [each.label for each in attempts if each.chosen] == ["closed-form, l2 300"]
    assert [each.value for each in attempts] == [0.1, 0.5, 0.2, 0.3, 0.3, 0.3, 0.3]
    printed = capsys.readouterr().out
    assert "7 of 7 tried; chosen on valid: closed-form, l2 300, with ndcg@10 0.5000" in printed
    # The settings are kept, and those of the data are as they were.
    again = Run(run.path)
    assert (again.config.training.start.l2, again.config.features.history) == (300, 1024)
    assert again.config.ingest == run.config.ingest
    assert again.notes("preprocess")["recipes"][1]["chosen"] is True
    assert "positives" in again.notes("preprocess")


def test_recipes_are_tried_on_data_that_they_are_for(run, trained, monkeypatch, capsys):
    """The run has 279 items in training, and a split at random."""
    solved = recipe_settings("closed-form")

    def variant(dim, label, **when):
        settings = solved if label.startswith("solved") else recipe_settings("softmax")
        return Variant(label, (*settings, f"model.dim={dim}"), When(**when))

    candidates = [
        variant(8, "solved for all"),
        variant(12, "solved sequences", split="leave_last_out"),
        variant(16, "solved few items", items=[None, 300]),
        variant(20, "trained"),
        variant(24, "trained many items", items=[301, None]),
        variant(28, "trained dense", density=[0.01, 1], split=["random", "temporal"]),
    ]
    monkeypatch.setattr(auto, "variants", lambda: candidates)
    attempts = choose_recipe(run, Auto())
    assert [each.label for each in attempts] == [
        "solved sequences",
        "solved few items",
        "solved for all",
        "as configured",
        "trained many items",
        "trained dense",
        "trained",
    ]
    reasons = {each.label: each.reason for each in attempts if each.reason}
    assert reasons == {
        "solved sequences": "not for these data: split.method is random, and it is for "
        "leave_last_out",
        "trained many items": "not for these data: 279 items, and it is for at least 301",
    }
    assert len(trained.configs) == 5
    assert "5 of 7 tried" in (printed := capsys.readouterr().out)
    assert "not for these data" in printed


def test_what_is_set_holds_for_every_recipe(run, trained):
    fixed = ("training.epochs=3", "model.dim=16")
    run.override(fixed)
    choose_recipe(run, Auto(fixed=fixed))
    assert {(each.training.epochs, each.model.dim) for each in trained.configs} == {(3, 16)}
    # With this dimension softmax-wide is softmax: it is not trained twice.
    assert len(trained.configs) == len([*CLOSED, *SLOW]) - 1


def test_a_recipe_that_only_trains_longer_than_the_present_settings_is_left_out(run, trained):
    run.override((*recipe_settings("softmax"), "training.epochs=7"))
    labels = [each.label for each in choose_recipe(run, Auto())]
    assert "as configured" in labels and "softmax" not in labels


def test_impossible_and_failed_recipes_are_listed_with_the_reason(run, trained, capsys):
    def outcome(config):
        if config.features.history == 50:
            raise ChildError("out of memory\nmore", Path("a.log"))
        return {"valid": {"ndcg@10": 0.3}}

    trained.outcome = outcome
    # This key makes the closed form impossible.
    run.override(("model.shared=[8]", "features.history=null"))
    attempts = choose_recipe(run, Auto(fixed=("model.shared=[8]",)))
    reasons = {each.label: each.reason for each in attempts}
    assert all("training.start solves sums of embeddings only" in reasons[each] for each in CLOSED)
    assert reasons["softmax-history"] == "failed: out of memory"
    assert "failed: out of memory" in capsys.readouterr().out
    assert [each.label for each in attempts if each.chosen] == ["as configured"]


def test_histories_that_do_not_fit_into_memory_are_not_tried(run, trained, monkeypatch):
    class Memory:
        available = 400 * 1024 * 4 * 2 - 1  # half of it is a little less than is needed

    monkeypatch.setattr(auto.psutil, "virtual_memory", Memory)
    attempts = choose_recipe(run, Auto())
    assert "400 histories of 1024 items take 0.0 GB" in attempts[0].reason
    assert not any(config.training.start for config in trained.configs)


def test_the_budget_skips_what_would_take_too_long_and_stops_what_does(run, trained, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def outcome(config):
        now[0] += 1 if config.training.start else 10
        return {"valid": {"ndcg@10": 0.4}}

    trained.outcome = outcome
    attempts = choose_recipe(run, Auto(seconds=25))
    reasons = {each.label: each.reason for each in attempts}
    assert [*reasons.values()][:5] == [""] * 5  # 3 x 1 s, 2 x 10 s, which leaves 2 s
    too_long = "not tried: it would take about 10 s, more than the budget leaves"
    assert [reasons["softmax-history"], reasons["softmax-wide"]] == [too_long] * 2
    # A training during which the budget ends is stopped; the first of its kind begins.
    run.override(("features.history=20", "training.start=null", "model.history_pooling=mean"))
    run.override(("model.normalize=true",))

    def slow(trial, checkpoints, log, on_metrics):
        now[0] += 1 if trial.config.training.start else 50
        on_metrics({})
        return {"valid": {"ndcg@10": 0.4}}

    monkeypatch.setattr(auto, "measure_in_subprocess", slow)
    reasons = {each.label: each.reason for each in choose_recipe(run, Auto(seconds=25))}
    assert reasons["as configured"] == "stopped: the budget ended"
    assert reasons["softmax"].startswith("not tried: ")


def test_no_result_is_an_error_with_all_reasons(run, trained):
    def outcome(config):
        raise ChildError("no disk", Path("a.log"))

    trained.outcome = outcome
    with pytest.raises(RunError, match=r"no recipe has a result .*\n  closed-form, l2 30: failed"):
        choose_recipe(run, Auto())


@pytest.mark.slow
def test_trainings_are_not_repeated(tmp_path, monkeypatch):
    """Real trainings: a killed command resumes, and the main job takes the chosen towers."""
    settings = recipe_settings("closed-form")
    monkeypatch.setattr(auto, "variants", lambda: [Variant("closed-form", settings)])
    prepared, adopt, plain = [], auto._adopt, auto.run_in_subprocess

    def counted(work, log):
        prepared.append(log)
        return plain(work, log)

    def killed(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(auto, "run_in_subprocess", counted)
    monkeypatch.setattr(auto, "_adopt", killed)
    run = Run.create(small_config("training.epochs=2", "features.history=null"), tmp_path / "run")
    with run.writing("run"), pytest.raises(KeyboardInterrupt):
        fit_and_publish(run, Auto())
    before = {folder.name for folder in (run.path / "training").iterdir()}
    assert len(prepared) == len(before) == 2, "with and without the history"
    monkeypatch.setattr(auto, "_adopt", adopt)
    with run.writing("run"):
        fit_and_publish(run, Auto())
    assert len(prepared) == 2
    (left,) = (run.path / "training").iterdir()
    assert left.name in before
    attempts = run.notes("preprocess")["recipes"]
    assert [each["label"] for each in attempts] == ["closed-form", "as configured"]
    (chosen,) = (each for each in attempts if each["chosen"])
    assert chosen["value"] == max(each["value"] for each in attempts)
    assert run.notes("train")["valid_ndcg@10"] == pytest.approx(chosen["value"], abs=1e-9)
    assert not (run.path / "recipes").exists()
    verdict = run.notes("evaluate")["verdict"]
    assert "The recipes have been compared" in verdict["text"]
    run.verified("ingest", "preprocess", "train", "evaluate", "export")
