"""Searches with fake trainings: when they end, what they stop early, how they continue."""

from __future__ import annotations

import shlex
import time
from pathlib import Path

import optuna
import pytest
import yaml

from tests.pipelines.conftest import prepared
from tests.pipelines.test_lock import in_a_thread
from twotower.pipelines.config import CONFIGS, load_config
from twotower.pipelines.errors import ChildError, ConfigError, RunError
from twotower.pipelines.experiments.tune import JOURNAL, tune
from twotower.pipelines.lock import writing

SMOKE = CONFIGS / "tune" / "smoke.yaml"
SPACE = {
    "model.temperature": {"low": 0.1, "high": 0.5},
    "model.hidden": {"choices": [[], [64]]},
}


def written(folder: Path, **changes) -> Path:
    """Write the smoke file with other values into `folder`."""
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(SMOKE.read_text()), **changes}))
    return path


class Trainings:
    """Fake trainings, best at temperature 0.3 without hidden layers, with the third epoch best.

    `settings` and `epochs` record each training; `stop` maps the number of a training, from 1, to
    the error that it raises.
    """

    def __init__(self):
        self.settings, self.epochs, self.stop = [], [], {}

    def __call__(self, trial, state, log, on_metrics):
        model = trial.config.model
        self.settings.append((round(model.temperature, 6), model.hidden))
        self.epochs.append(0)
        value = 0.5 - abs(model.temperature - 0.3) - 0.1 * len(model.hidden)
        for epoch in range(3):
            self.epochs[-1] += 1
            on_metrics({"ndcg@10": value * (epoch + 1) / 3})
            if error := self.stop.get(len(self.settings)):
                raise error
        return {"valid": {"ndcg@10": value}, "seconds": 1.0, "epochs": 3, "best_epoch": 3}


@pytest.fixture
def trainings(tmp_path, monkeypatch) -> Trainings:
    monkeypatch.chdir(tmp_path)
    made_up = Trainings()
    monkeypatch.setattr("twotower.pipelines.experiments.tune.measure_in_subprocess", made_up)
    monkeypatch.setattr("twotower.pipelines.experiments.tune.prepare", prepared)
    return made_up


def test_it_begins_with_the_current_settings_and_finds_better_ones(trainings, tmp_path, capsys):
    best = tune(written(tmp_path, trials=25, space=SPACE, prune_after=None))
    assert trainings.settings[0] == (0.2, [])
    assert best.model.hidden == [] and abs(best.model.temperature - 0.3) < 0.02
    printed = capsys.readouterr().out
    assert printed.count("/25") == 25 and "  1/25* ndcg@10 0.4000  best 0.4000" in printed
    # The printed and the written settings are the same.
    (line,) = (line for line in printed.splitlines() if line.startswith("--set "))
    overrides = tuple(word for word in shlex.split(line) if word != "--set")
    again = load_config(CONFIGS / "synthetic.yaml", overrides)
    kept = load_config(Path("tune/smoke/best.yaml"))
    assert kept.name == "smoke" and again.copy(update={"name": "smoke"}) == kept == best


def test_a_second_search_at_the_same_time_is_refused(trainings, tmp_path):
    (tmp_path / "tune" / "smoke").mkdir(parents=True)
    with writing(tmp_path / "tune" / "smoke", "tune"):
        message = in_a_thread(lambda: tune(written(tmp_path, trials=1, space=SPACE)))
    assert message.startswith("tune/smoke: `tune` (process ")
    assert not trainings.settings


def test_an_interrupted_search_continues_with_the_same_trials(trainings, tmp_path):
    file = written(tmp_path, trials=15, space=SPACE)
    undisturbed = tune(file)
    expected, trainings.settings = trainings.settings, []
    (tmp_path / "tune" / "smoke" / JOURNAL).unlink()
    for training in (1, 8, 14):  # the first; before and after the sampler has seen enough
        trainings.stop = {training: KeyboardInterrupt()}
        with pytest.raises(KeyboardInterrupt):
            tune(file)
        trainings.settings.pop()
        trainings.stop = {}
    assert tune(file) == undisturbed
    assert trainings.settings == expected
    assert tune(file) == undisturbed, "nothing is left to do"
    assert trainings.settings == expected
    tune(written(tmp_path, trials=16, space=SPACE))
    assert trainings.settings[:-1] == expected, "only one more is run"


def test_another_space_is_another_search(trainings, tmp_path):
    tune(written(tmp_path, trials=2, space=SPACE))
    tune(written(tmp_path, trials=2, space={"model.temperature": {"low": 0.1, "high": 0.4}}))
    assert len(trainings.settings) == 4


def test_a_training_below_the_median_is_stopped_early(trainings, tmp_path, capsys):
    tune(written(tmp_path, trials=12, space=SPACE, prune_after=2, prune_from=2))
    stopped = [epochs for epochs in trainings.epochs if epochs < 3]
    assert stopped and set(stopped) == {2}
    assert capsys.readouterr().out.count("stopped early after epoch 2") == len(stopped)
    assert trainings.epochs[:2] == [3, 3]


def test_a_training_that_fails_is_reported_and_the_search_continues(trainings, tmp_path, capsys):
    trainings.stop = {2: ChildError("no memory", tmp_path / "log")}
    tune(written(tmp_path, trials=3, space=SPACE))
    assert len(trainings.settings) == 3 and len(set(map(str, trainings.settings))) == 3
    assert "2/3  ndcg@10 failed: no memory" in capsys.readouterr().out


def test_when_all_fail_the_reason_is_the_error(trainings, tmp_path):
    trainings.stop = {n: ChildError("no memory", tmp_path / "log") for n in (1, 2)}
    with pytest.raises(
        RunError, match="no training was completed; the reason of the last one: no memory"
    ):
        tune(written(tmp_path, trials=2, space=SPACE))


def test_the_time_of_all_calls_together_is_the_budget(trainings, tmp_path, monkeypatch):
    def slow(*arguments):
        time.sleep(0.2)
        return trainings(*arguments)

    monkeypatch.setattr("twotower.pipelines.experiments.tune.measure_in_subprocess", slow)
    file = written(tmp_path, trials=None, minutes=0.5 / 60, space=SPACE)
    tune(file)
    done = len(trainings.settings)
    assert 1 <= done <= 3  # three of 0.2 s are more than 0.5 s
    tune(file)
    assert len(trainings.settings) == done


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"trials": None}, "set how long to search: trials, minutes, or both"),
        ({"space": {}}, "space: empty; add at least one setting"),
        (
            {"space": {"model.dim": {"hihg": 3}}},
            "space.model.dim.hihg: no such key; did you mean space.model.dim.high? known here: ch",
        ),
        (
            {"space": {"model.dmi": {"low": 1, "high": 2}}},
            "space: wrong configuration\n  model.d",
        ),
        (
            {"space": {"model.dim": {"low": 0, "high": 2}}},
            "model.dim: ensure this value is",
        ),
        (
            {"space": {"training.optimizer": {"choices": ["adam", "sgd"]}}},
            "optimizer: unexpected",
        ),
        (
            {"space": {"split.k_core": {"low": 1, "high": 9}}},
            "split.k_core must be the same for all",
        ),
        ({"minits": 3}, "minits: no such key; did you mean minutes? known here: about, base, min"),
    ],
)
def test_mistakes_are_reported_before_any_training(trainings, tmp_path, changes, message):
    with pytest.raises(ConfigError) as error:
        tune(written(tmp_path, **changes))
    assert message in str(error.value) and str(tmp_path / "plan.yaml") in str(error.value)
    assert not trainings.settings


def test_the_journal_is_one_that_optuna_reads(trainings, tmp_path):
    tune(written(tmp_path, trials=2, space=SPACE))
    backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / "tune/smoke" / JOURNAL))
    (study,) = optuna.get_all_study_summaries(optuna.storages.JournalStorage(backend))
    assert study.n_trials == 2 and study.study_name.startswith("smoke-")
