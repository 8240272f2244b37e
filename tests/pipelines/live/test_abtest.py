"""The hit rates of two versions, with known answers."""

from __future__ import annotations

import shutil

import pytest

from twotower.pipelines.errors import ConfigError, RunError
from twotower.pipelines.live.abtest import abtest, compare, judge
from twotower.pipelines.live.store import event_rules, opened_store
from twotower.pipelines.run import Run
from twotower.pipelines.steps.serve import serving
from twotower.serving.client import RetrievalClient
from twotower.serving.runtime.live.rules import EventRules
from twotower.serving.runtime.live.store import ANSWERS

RULES = EventRules(user="user", item="item", time="at", column="stars", at_least=3)


def answer(user: int, version: int, items: list[int], seconds: int = 100) -> dict:
    return {"user": user, "version": version, "items": items, "time": seconds}


def event(user: int, item: int, seconds: int, stars: float = 5) -> dict:
    return {"user": user, "item": item, "at": seconds, "stars": stars}


ANSWERED = [
    answer(1, 3, [10, 20]),
    answer(1, 3, [30], seconds=300),
    answer(2, 3, [10]),
    answer(3, 3, [10]),
    answer(4, 3, [10]),
    answer(5, 4, [10]),
]
DONE = [
    event(1, 30, 350),
    event(1, 10, 351),  # the same user hits once
    event(2, 10, 99),  # before the answer
    event(3, 20, 200),  # was not answered
    event(4, 10, 200, stars=1),  # no positive
    event(5, 10, 100),  # at once
    event(6, 10, 100),  # nobody was answered
]


def test_a_hit_is_a_positive_on_an_answered_item_after_the_answer():
    control = judge(3, ANSWERED, DONE, RULES)
    assert (control.users, control.answers, control.hits, control.rate) == (4, 5, 1, 0.25)
    treatment = judge(4, ANSWERED, DONE, RULES)
    assert (treatment.users, treatment.hits, treatment.rate) == (1, 1, 1.0)
    assert judge(3, ANSWERED, DONE, RULES, limit=49).hits == 0
    assert judge(3, ANSWERED, DONE, RULES, limit=50).hits == 1
    nobody = judge(7, ANSWERED, DONE, RULES)
    assert (nobody.users, nobody.rate, nobody.low, nobody.high) == (0, 0.0, 0.0, 1.0)


def test_intervals_are_those_of_newcombe():
    """Example (a) of Newcombe, 1998: 56 of 70 against 48 of 80, by the score method."""

    def arm(hits, users):
        answers = [answer(user, 1, [10]) for user in range(users)]
        return judge(1, answers, [event(user, 10, 200) for user in range(hits)], RULES)

    found = compare(arm(48, 80), arm(56, 70), share=0.5)
    assert found.difference == pytest.approx(0.2)
    assert (found.low, found.high) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert found.imbalance == pytest.approx(0.4624, abs=1e-3)
    assert compare(arm(1, 900), arm(1, 100), share=0.5).imbalance < 1e-9


@pytest.fixture
def run(small_run, tmp_path) -> Run:
    return Run(shutil.copytree(small_run.path, tmp_path / "run"))


def test_an_experiment_is_judged_from_what_was_answered(run, capsys):
    run.override(("serving.events.store=sqlite",), keep=False)
    rules = event_rules(run)
    with pytest.raises(RunError, match="no two versions have answered beside each other yet"):
        abtest(run)
    with opened_store(run, ANSWERS) as store:
        store.append([answer(user, 1 + user % 2, [10]) for user in range(2000)])
    with opened_store(run) as store:
        done = [
            {"user_id": user, "item_id": 10, "timestamp": 200, "rating": 5}
            for user in range(2000)
            if user % (5 if user % 2 else 10) < 2
        ]
        store.append([rules.check(each, "") for each in done])
    result = abtest(run)
    assert (result.control.hits, result.treatment.hits) == (200, 400) or result.difference > 0
    assert result.low > 0 and result.imbalance is None
    out = capsys.readouterr().out
    assert "the treatment is better" in out and "warning" not in out
    run.override(("serving.experiment.control=1 serving.experiment.treatment=2",), keep=False)
    run.override(("serving.experiment.share=0.1",), keep=False)
    assert abtest(run).imbalance < 1e-9
    assert "something removes" in capsys.readouterr().out.replace("\n", " ")


def test_an_experiment_needs_its_versions_and_a_store(run):
    both = "serving.experiment.control=1 serving.experiment.treatment=2"
    with pytest.raises(ConfigError, match="its result is counted from events"):
        run.override((both,), keep=False)
    with pytest.raises(ConfigError, match="control and treatment are both version 1"):
        same = "serving.experiment.control=1 serving.experiment.treatment=1"
        run.override((f"serving.events.store=sqlite {same}",), keep=False)
    run.override((f"serving.events.store=sqlite {both}",), keep=False)
    with (
        pytest.raises(ConfigError, match=r"treatment is 2, but there are only versions 1"),
        serving(run, events=True),
    ):
        pass
    with serving(run) as addresses, RetrievalClient(addresses.http) as client:
        assert client.recommend([1]).arms is None  # without events and experiment
    other = "serving.experiment.control=2 serving.experiment.treatment=1"
    run.override((other,), keep=False)
    with (
        pytest.raises(ConfigError, match=r"control is 2, but version 1 is published"),
        serving(run, events=True),
    ):
        pass
