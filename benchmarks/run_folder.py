"""A run folder under kills and under two commands at once: nothing is lost, nothing is mixed."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from benchmarks.namespaces import DONE, FAILED, KILLED, REFUSED, Command, Ending, run_command
from benchmarks.report import Check
from twotower.pipelines.lock import LOCK
from twotower.pipelines.run import MANIFEST, STAGING, TRITON, Run
from twotower.serving.repository import ModelRepository
from twotower.serving.runtime.manifest import sha256, verify_manifest

if TYPE_CHECKING:
    from twotower.pipelines.config import Config

SMALL = (
    *("ingest.synthetic.users=150", "ingest.synthetic.items=120"),
    *("ingest.synthetic.interactions=4500", "features.history=10", "training.epochs=2"),
    *("training.batch_size=256", "training.checkpoint_seconds=0.2", "update.epochs=1"),
    *("evaluation.baselines=[]", "serving.keep_versions=100000"),
)
Measured = tuple[list[dict[str, Any]], list[Check]]  # rows and checks
DAY_ROWS = 40
KILLED_VERBS = ("export", "publish", "train", "update")
PAIRED_VERBS = (
    *("ingest", "preprocess", "train", "evaluate", "export", "publish", "rollback", "update"),
    "versions",
)
# When a command is killed: at any time, in its last tenth, or as soon as it has committed a step.
MOMENTS = ("any", "late", "commit")
CONTINUED = 3  # after every third kill, from the second on, the same command runs to its end
LOCKED = "has been writing here since"


@dataclass(frozen=True)
class World:
    """A published run whose data comes from parquet files, and days to update it with."""

    run: Path
    days: list[Path]
    seconds: dict[str, float]  # that each verb takes


@dataclass(frozen=True)
class State:
    """What a run folder holds; two states of equal content are equal."""

    manifest: str  # hash of manifest.json
    days: tuple[str, ...]
    trained: str  # hash of the entry of `train`
    versions: dict[int, str]  # number -> hash of its manifest
    history: tuple[int, ...]


def identity_of(step: dict[str, Any]) -> str:
    """The hash by which the manifest names what a step wrote."""
    return hashlib.sha256(json.dumps(step["files"], sort_keys=True).encode()).hexdigest()


def state_of(path: Path) -> State:
    """The state of the run folder `path`, read by its files alone."""
    manifest, repository = json.loads((path / MANIFEST).read_text()), _repository(path)
    steps = manifest["steps"]
    updates = steps["ingest"]["notes"].get("updates", [])
    numbers = [version.number for version in repository.versions()]
    return State(
        manifest=sha256(path / MANIFEST),
        days=tuple(update["path"] for update in updates),
        trained=json.dumps(steps["train"], sort_keys=True),
        versions={n: sha256(repository.model / str(n) / "manifest.json") for n in numbers},
        history=tuple(repository._history()),
    )


def _repository(path: Path) -> ModelRepository:
    return ModelRepository(path / TRITON)


def _damage(path: Path) -> list[str]:
    """What is not as the manifests of the run and its versions say, and what was left behind."""
    wrong = []
    for step in json.loads((path / MANIFEST).read_text())["steps"].values():
        for file, digest in step["files"].items():
            if not (path / file).is_file() or sha256(path / file) != digest:
                wrong.append(file)
    repository = _repository(path)
    for version in repository.versions():
        verify_manifest(repository.model / str(version.number))
    hidden = {each.name for each in path.iterdir() if each.name.startswith(".")}
    return wrong + sorted(hidden - {LOCK, ".twotower-serve.lock"})


# Commands. They run in processes of their own.


def perform(verb: str, path: Path, day: Path | None = None) -> dict[str, Any]:
    """Do `verb` on the run `path`.

    Returns the version's number if it returned one, whether what it read was whole, and for each
    commit that it made the hashes of the manifest that was replaced and of the new one, and whether
    the steps were made from the files that the run had then.
    """
    from twotower.pipelines.console import console
    from twotower.pipelines.steps.evaluate import evaluate
    from twotower.pipelines.steps.export import export
    from twotower.pipelines.steps.ingest import ingest
    from twotower.pipelines.steps.preprocess import preprocess
    from twotower.pipelines.steps.publish import publish, rollback, versions
    from twotower.pipelines.steps.train import train
    from twotower.pipelines.steps.update import update

    console.quiet = True
    commits = []
    sys.addaudithook(partial(_note_commit, commits))
    verbs: dict[str, Callable[[Run], Any]] = {
        "ingest": partial(ingest, remember=False),
        "preprocess": preprocess,
        "train": train,
        "evaluate": evaluate,
        "export": lambda run: export(run)["version"],
        "publish": publish,
        "rollback": rollback,
        "update": partial(update, folder=day),
        "versions": lambda run: [version.created != "damaged" for version in versions(run)],
    }
    returned = verbs[verb](Run(path))
    number = returned if verb in ("export", "publish", "rollback", "update") else None
    whole = all(returned) if verb == "versions" else True
    return {"number": number, "whole": whole, "commits": commits}


def _note_commit(commits: list[dict[str, Any]], event: str, arguments: tuple) -> None:
    if event == "os.rename" and str(arguments[0]).endswith(f"/{STAGING}/{MANIFEST}"):
        staged, old = Path(arguments[0]), Path(arguments[1])
        new_steps = json.loads(staged.read_text())["steps"]
        old_steps = json.loads(old.read_text())["steps"] if old.is_file() else {}
        commits.append(
            {
                "replaced": sha256(old) if old.is_file() else None,
                "new": sha256(staged),
                "current": all(
                    identity_of(new_steps[upstream]) == identity
                    for name, step in new_steps.items()
                    if step != old_steps.get(name)
                    for upstream, identity in step["made_from"].items()
                ),
            }
        )


def recover(path: Path) -> list[str]:
    """What the next command finds: opens the run, then takes its lock; the damage that is left."""
    run = Run(path)
    with run.writing("next"):
        return _damage(path)


def publish_other(path: Path) -> dict[str, Any]:
    """Publish the one of the last two versions that is not published."""
    from twotower.pipelines.console import console
    from twotower.pipelines.steps.publish import publish

    console.quiet = True
    repository = _repository(path)
    *_, one, other = (version.number for version in repository.versions())
    return {"number": publish(Run(path), one if repository.published == other else other)}


def make_world(folder: Path, data: Path | None, seed: int, days: int) -> World:
    """Make the run in `folder`, of the MovieLens data in `data` or of made-up data."""
    log = folder / "commands.log"
    folder.mkdir(parents=True, exist_ok=True)
    path, day_folders = run_command(partial(_make, folder, data, seed, days), log)
    seconds = {}
    for verb in ("preprocess", "train", "evaluate", *("export", "publish") * 2):
        ending = Command(partial(perform, verb, path), log).end()
        if ending.kind != DONE:
            raise click.ClickException(f"{verb}: {ending.told}")
        seconds[verb] = ending.seconds
    steps = ("preprocess", "train", "evaluate", "export")
    seconds |= {"ingest": seconds["publish"], "update": sum(seconds[step] for step in steps)}
    seconds |= {"rollback": seconds["publish"], "versions": seconds["publish"]}
    click.echo("  seconds: " + ", ".join(f"{verb} {s:.1f}" for verb, s in seconds.items()))
    return World(path, day_folders, seconds)


def _make(folder: Path, data: Path | None, seed: int, days: int) -> tuple[Path, list[Path]]:
    """Make the base and the days, and ingest the base: (run folder, folders of the days)."""
    from twotower.pipelines.config import parse_config
    from twotower.pipelines.console import console
    from twotower.pipelines.steps.ingest import ingest as read
    from twotower.workflows.ingest import ingest
    from twotower.workflows.tables import Tables

    console.quiet = True
    config = _config(data)
    ingest(config.ingest, folder / "all")
    tables = Tables.read(folder / "all")
    base, *day_folders = _dealt(tables, folder, seed, days)
    names = {name: f"{name}.parquet" for name in Tables._fields}
    features = {
        "keep": tables.interactions.column_names[2:],
        "user_features": tables.users.column_names[1:],
        "item_features": tables.items.column_names[1:],
    }
    tree = json.loads(config.json())
    tree["ingest"] = {"source": "parquet", "path": str(base), "parquet": {**names, **features}}
    run = Run.create(parse_config(tree, "made-up run"), folder / "run")
    read(run, remember=False)
    return run.path, day_folders


def _config(data: Path | None) -> Config:
    from twotower.models.training.config import UpdateConfig
    from twotower.pipelines.config import CONFIGS, load_config
    from twotower.pipelines.job import choose

    overrides = SMALL
    if "max_loss" in UpdateConfig.__fields__:  # what so small a model loses by chance is no matter
        overrides = (*SMALL, "update.max_loss=1")
    if data:
        return choose(None, data, overrides)[0]
    return load_config(CONFIGS / "synthetic.yaml", overrides)


def _dealt(tables: Any, folder: Path, seed: int, days: int) -> Iterator[Path]:
    """The folders of the base and of the days, each with a part of the interactions."""
    from twotower.workflows.tables import Tables

    rows = np.random.default_rng(seed).permutation(tables.interactions.num_rows)
    held = days * DAY_ROWS
    parts = [rows[held:], *rows[:held].reshape(days, DAY_ROWS)]
    for number, part in enumerate(parts):
        path = folder / ("base" if number == 0 else f"day{number}")
        interactions = tables.interactions.take(np.sort(part))
        Tables(interactions, tables.users, tables.items).write(path)
        yield path


# Kills.


def measure_kills(kills: int, seed: int, folder: Path, data: Path | None = None) -> Measured:
    """SIGKILL train, update, export and publish `kills` times; see what the next command finds.

    A command that has reported that it is done before it was to be killed does not count.

    Every command is the first process of a pid namespace of its own. After each kill a command
    opens the run and takes its lock; after every third the killed command runs to its end.

    Parameters
    ----------
    folder
        An empty folder for the run and its data.
    data
        MovieLens data; made-up data when None.

    Returns
    -------
    rows : one per kill: verb, moment, seconds until the kill, outcome
        outcome: "old" when nothing happened, "new" when all did, "resumed" when a part did that
        the same command goes on from
    checks
    """
    world = make_world(folder, data, seed, days=kills // 2)
    return kill_in(world, kills, seed)


def kill_in(world: World, kills: int, seed: int) -> Measured:
    """`measure_kills` in a world that is there already."""
    draw, rows, faults = random.Random(seed), [], Counter()
    for number in itertools.count():
        if sum(not row["reported done"] for row in rows) == kills:
            break
        verb = KILLED_VERBS[number % len(KILLED_VERBS)]
        moment = MOMENTS[(number + number // len(KILLED_VERBS)) % len(MOMENTS)]
        before = state_of(world.run)
        day = world.days[len(before.days)]
        ending = _killed(_work(verb, world.run, day), world, verb, moment, draw)
        found = _next_command(partial(recover, world.run), world, faults)
        faults["damaged"] += len(found or [])
        after = state_of(world.run)
        outcome = _outcome(verb, world.run, before, after)
        faults["neither old nor new"] += outcome is None
        faults["lost"] += _lost(before, after) + (ending.kind == DONE and outcome != "new")
        faults["failed by itself"] += ending.kind in (REFUSED, FAILED)
        row = {"verb": verb, "moment": moment, "seconds": round(ending.seconds, 2)}
        rows.append({**row, "outcome": outcome, "reported done": ending.kind == DONE})
        if number % CONTINUED == 1:
            _next_command(_work(verb, world.run, day), world, faults)
            faults["lost"] += _lost(after, state_of(world.run))
        click.echo(f"  kill {number + 1}: {rows[-1]}, faults: {dict(+faults)}")
    outcomes = Counter(row["outcome"] for row in rows)
    return rows, _kill_checks(kills, rows, outcomes, faults)


def _kill_checks(kills: int, rows: list, outcomes: Counter, faults: Counter) -> list[Check]:
    killed = sum(not row["reported done"] for row in rows)
    return [
        Check("kills: SIGKILLs in train, update, export, publish", killed, ">=", kills),
        Check("kills: that left the old state", outcomes["old"] + outcomes["resumed"], ">=", 1),
        Check("kills: that left the new state", outcomes["new"], ">=", 1),
        Check("kills: that left a state in between", faults["neither old nor new"], "==", 0),
        Check("kills: damaged files and leftovers afterwards", faults["damaged"], "==", 0),
        Check("kills: next commands that failed", faults["next failed"], "==", 0),
        Check("kills: lost of what had been reported done", faults["lost"], "==", 0),
        Check("kills: commands that failed by themselves", faults["failed by itself"], "==", 0),
    ]


def _work(verb: str, path: Path, day: Path) -> Callable[[], Any]:
    return partial(publish_other, path) if verb == "publish" else partial(perform, verb, path, day)


def _killed(
    work: Callable[[], Any], world: World, verb: str, moment: str, draw: random.Random
) -> Ending:
    """Begin `work` and kill it at the moment, unless it ends before."""
    log = world.run.parent / "commands.log"
    whole = world.seconds[verb]
    command = Command(work, log)
    if moment == "commit" and verb != "publish":
        before = sha256(world.run / MANIFEST)
        staged = world.run / STAGING / MANIFEST
        while not command.ends_within(0):
            if staged.exists() or sha256(world.run / MANIFEST) != before:
                break
            time.sleep(0.0005)
    else:
        share = draw.uniform(0.9, 1.05) if moment == "late" else draw.uniform(0, 1)
        command.ends_within(share * whole)
    return command.kill()


def _next_command(work: Callable[[], Any], world: World, faults: Counter) -> Any:
    ending = Command(work, world.run.parent / "commands.log").end()
    if ending.kind != DONE:
        faults["next failed"] += 1
        click.echo(f"  the next command: {ending.kind}: {ending.told}")
        return None
    return ending.told


def _outcome(verb: str, path: Path, before: State, after: State) -> str | None:
    """What the kill left; None when it is neither the old state nor one that goes on."""
    if verb == "publish":
        same = after.manifest == before.manifest and after.versions == before.versions
        if not same:
            return None
        return "old" if after.history == before.history else "new"
    if verb == "train":
        if after.manifest != before.manifest:
            return "new" if (after.versions, after.days) == (before.versions, before.days) else None
        state = any((path / "training").glob("*/state/checkpoint"))
        finished = any((path / "training").glob("*/finished"))
        return "resumed" if state and not finished else "old"
    added = len(after.versions) - len(before.versions)
    if verb == "export":
        if (after.manifest != before.manifest) != (added == 1):
            return None
        return "new" if added else "old"
    if after.days == before.days:
        return "old" if after == before else None
    return "new" if added and after.history != before.history else "resumed"


def _lost(before: State, after: State) -> int:
    """How much of what had been reported done is there no more."""
    versions = sum(after.versions.get(n) != digest for n, digest in before.versions.items())
    return versions + (after.days[: len(before.days)] != before.days)


# Pairs.


def measure_pairs(pairs: int, seed: int, folder: Path) -> Measured:
    """Two random commands at once on one run folder, `pairs` times, each on a fresh copy of it.

    A command succeeds wholly or is refused by name. The final state equals that of some serial
    order of the commands that succeeded. It is not replayed but checked: the commits of each
    command follow each other without another's in between and lead from the manifest of before to
    that of now; every commit was made from the files of the manifest that it replaces; every file
    has the digest that the manifest says; and numbers and history of the versions are those of the
    same order.

    Returns
    -------
    rows : one per pair: the verbs, the seconds between their starts, how each ended
    checks
    """
    return pair_in(make_world(folder, None, seed, days=2), pairs, seed)


def pair_in(world: World, pairs: int, seed: int) -> Measured:
    """`measure_pairs` in a world that is there already."""
    folder = world.run.parent
    draw, rows, faults = random.Random(seed), [], Counter()
    for number in range(pairs):
        verbs = draw.choice(PAIRED_VERBS), draw.choice(PAIRED_VERBS)
        wait = draw.uniform(0, world.seconds[verbs[0]])
        path = Path(shutil.copytree(world.run, folder / "pair"))
        before = state_of(path)
        works = [
            partial(perform, verb, path, day)
            for verb, day in zip(verbs, world.days[-2:], strict=True)
        ]
        endings = _at_once(works, wait, folder / "commands.log")
        ended = list(zip(verbs, endings, strict=True))
        kinds = [_kind(ending) for ending in endings]
        faults["failed"] += kinds.count(FAILED) + kinds.count(KILLED)
        for verb, ending in ended:
            blocked = verb == "versions" and (ending.kind != DONE or not ending.told["whole"])
            faults["readers blocked"] += blocked
            if ending.kind in (REFUSED, FAILED):
                click.echo(f"    {verb} {ending.kind}: {ending.told}")
        damaged = _damage(path)
        faults["damaged"] += len(damaged)
        done = [(verb, ending.told) for verb, ending in ended if ending.kind == DONE]
        serial = _serial_order(before, state_of(path), done)
        faults["no serial order"] += not serial
        rows.append({"verbs": verbs, "wait": round(wait, 2), "ended": kinds, "serial": serial})
        click.echo(f"  pair {number + 1}: {rows[-1]}, faults: {dict(+faults)}")
        shutil.rmtree(path)
    ends = Counter(kind for row in rows for kind in row["ended"])
    both = sum(row["ended"] == [DONE, DONE] for row in rows)
    return rows, _pair_checks(pairs, rows, ends, both, faults)


def _pair_checks(pairs: int, rows: list, ends: Counter, both: int, faults: Counter) -> list[Check]:
    return [
        Check("pairs: of concurrent commands on one run folder", len(rows), ">=", pairs),
        Check("pairs: in which both commands succeeded", both, ">=", 1),
        Check("pairs: commands refused, since another was writing", ends["locked"], ">=", 1),
        Check("pairs: commands that failed without a reason", faults["failed"], "==", 0),
        Check("pairs: readers that were refused", faults["readers blocked"], "==", 0),
        Check("pairs: damaged files and leftovers", faults["damaged"], "==", 0),
        Check("pairs: final states of no serial order", faults["no serial order"], "==", 0),
    ]


def _at_once(works: Sequence[Callable[[], Any]], wait: float, log: Path) -> list[Ending]:
    first = Command(works[0], log)
    first.ends_within(wait)
    second = Command(works[1], log)
    return [first.end(), second.end()]


def _kind(ending: Ending) -> str:
    return "locked" if ending.kind == REFUSED and LOCKED in ending.told else ending.kind


def _serial_order(before: State, after: State, done: list) -> list[str] | None:
    """The verbs in an order that leads from one state to the other; None when there is none."""
    for order in itertools.permutations(done):
        try:
            manifest, versions, history = _replayed(before, order)
        except LookupError:
            continue
        if (manifest, versions, history) == (after.manifest, set(after.versions), after.history):
            return [verb for verb, _ in order]
    return None


def _replayed(before: State, order: Sequence[tuple[str, dict]]) -> tuple[str, set, tuple]:
    """(manifest, versions, history) after the commands; LookupError when one was not possible."""
    manifest, versions, history = before.manifest, set(before.versions), before.history
    for verb, told in order:
        for commit in told["commits"]:
            if commit["replaced"] != manifest or not commit["current"]:
                raise LookupError(verb)
            manifest = commit["new"]
        number = told["number"]
        if verb in ("export", "update"):
            if number != max(versions) + 1:
                raise LookupError(verb)
            versions.add(number)
        if verb == "rollback":
            history = history[:-1]
            if history[-1:] != (number,):
                raise LookupError(verb)
        if verb == "publish" and number != max(versions):
            raise LookupError(verb)
        if verb in ("publish", "update") and history[-1:] != (number,):
            history = (*history, number)
    return manifest, versions, history
