"""SIGKILL at random moments of export and publish: the next start serves a whole version."""

from __future__ import annotations

import multiprocessing
import random
import shutil
import time
from collections import Counter

import numpy as np
import pytest

from twotower.pipelines.console import console
from twotower.pipelines.run import STAGING, TRITON, Run
from twotower.pipelines.steps.export import export
from twotower.pipelines.steps.publish import publish
from twotower.pipelines.steps.query import ask, example_users
from twotower.pipelines.steps.serve import serving
from twotower.pipelines.steps.verify import brute_force
from twotower.serving.repository import ModelRepository

SLOW = [pytest.mark.slow, pytest.mark.timeout(3600)]  # twenty minutes, more beside other work
PRELOADED = [
    "twotower.pipelines.steps.export",
    "twotower.pipelines.steps.publish",
    "twotower.workflows.features.graph",
    "twotower.serving.ensemble",
]


def export_and_publish(path):
    console.quiet = True
    run = Run(path)
    export(run)
    publish(run)


def publish_another(path):
    """Publish the two newest versions in turn until the process is killed."""
    console.quiet = True
    run = Run(path)
    while True:
        one, other = (each.number for each in ModelRepository(path / TRITON).versions()[-2:])
        publish(run, one if ModelRepository(path / TRITON).published == other else other)


def killed_after(seconds, target, path, until=None):
    """Run `target(path)` in another process, and kill it after `seconds` unless it has ended.

    With `until` it is killed as soon as that is true, and not before.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)  # or each child would import TensorFlow again
    process = context.Process(target=target, args=(path,))
    process.start()
    while until and process.is_alive() and not until():
        time.sleep(0.001)
    process.join(seconds)
    process.kill()
    process.join()


def assert_next_start_is_whole(run, allowed, users, expected):
    """Start as `twotower serve` does, and check that an `allowed` version answers correctly."""
    published = ModelRepository(run.path / TRITON).published
    with serving(run) as addresses:
        answer = ask(addresses, users, 10, ["http"])["http"]
    assert answer.version == published
    assert published in allowed
    np.testing.assert_array_equal(answer.item_ids, expected)
    return published


@pytest.mark.parametrize("kills", [pytest.param(2, marks=SLOW), pytest.param(200, marks=SLOW)])
def test_a_kill_at_a_random_moment_leaves_the_old_version_or_the_new(
    kills, small_run, tmp_path, monkeypatch
):
    monkeypatch.setattr(console, "quiet", True)  # undone at the end, for the other tests
    run = Run(shutil.copytree(small_run.path, tmp_path / "run"))
    repository, draw, outcomes = ModelRepository(run.path / TRITON), random.Random(0), Counter()
    users = example_users(run)
    truth = users, brute_force(run, np.array(users), 10)[0]
    export_and_publish(run.path)
    started = time.perf_counter()
    killed_after(600, export_and_publish, run.path)
    whole = time.perf_counter() - started
    for kill in range(kills):
        numbers = [version.number for version in repository.versions()]
        before = repository.published
        allowed = {before, max(numbers) + 1}
        if kill == 0:  # too early for anything
            killed_after(0, export_and_publish, run.path)
        elif kill == 1:  # as late as can be
            published = lambda old=before: repository.published != old  # noqa: E731
            killed_after(0, export_and_publish, run.path, until=published)
        elif kill % 2:  # the whole of it, most of which is TensorFlow's, in half of the kills
            killed_after(draw.uniform(0, whole), export_and_publish, run.path)
        else:
            killed_after(draw.uniform(0.05, 1.0), publish_another, run.path)
            allowed = set(numbers[-2:])
        after = assert_next_start_is_whole(run, allowed, *truth)
        outcomes["old" if after == before else "new"] += 1
    export_and_publish(run.path)  # and whatever the kills have left, it is in nobody's way
    newest = max(version.number for version in repository.versions())
    assert_next_start_is_whole(run, {newest}, *truth)
    assert not (run.path / STAGING).exists()
    assert outcomes["old"] and outcomes["new"], outcomes
    print(f"{kills} kills: {outcomes['old']} served the old version, {outcomes['new']} the new")
