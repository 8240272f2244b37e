"""Turn a guess into the settings of a run, with the recipe for data of this size."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twotower.pipelines.init.features import Feature
from twotower.pipelines.init.guess import Guess

STEPS = 64
"""Training steps per epoch that the batch size aims at."""
MIN_BATCH, MAX_BATCH = 16, 4096
HISTORY = 50
BUCKETS = 10
EPOCHS = 30
MAX_SHOWN = 3
KS = (10, 20, 50, 100)


def settings(guess: Guess, files: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Make the settings of a run, as `parse_config` takes them.

    Parameters
    ----------
    guess : Guess
    files : mapping of str to Any
        The paths by table (interactions, users, items), and how to read them.
    name : str
        Of the run.

    Returns
    -------
    dict
        By section, in the order in which people read them.
    """
    vectors = {column: str(path) for column, path in guess.features.files.items()}
    tree = {
        "name": name,
        "ingest": {
            "source": "files",
            "files": _files(guess, files),
            **({"vectors": vectors} if vectors else {}),
        },
        "positives": _positives(guess),
        "split": {"method": guess.split.method},
        "features": _features(guess),
        "model": {"buckets": BUCKETS} if _has_numbers(guess) else {},
        "training": {"batch_size": batch_size(guess.positives), "epochs": EPOCHS},
        "evaluation": _evaluation(guess),
        "serving": _serving(guess),
        "show": _show(guess),
    }
    return {section: value for section, value in tree.items() if value}


def run_name(path: str | Path) -> str:
    """Make the name of the run from that of the file.

    Examples
    --------
    >>> run_name("exports/Bestellungen 2024.csv.gz"), run_name("数据.csv")
    ('Bestellungen-2024', 'data')
    """
    stem = Path(path).name.split(".")[0]
    name = re.sub(r"[^A-Za-z0-9_]+", "-", stem).strip("-_")[:60] or "data"
    return "last-data" if name == "last" else name  # runs/last names the run used last


def batch_size(positives: int) -> int:
    """Choose a power of two that gives about `STEPS` steps per epoch.

    Examples
    --------
    >>> batch_size(300), batch_size(14_000), batch_size(1_000_000)
    (16, 256, 4096)
    """
    size = MIN_BATCH
    while size < MAX_BATCH and 1.5 * size < positives / STEPS:
        size *= 2
    return size


def seen(guess: Guess) -> str:
    """Say which interactions hide an item: a seen event does not, a rated or bought one does."""
    kind = guess.value.kind if guess.value else None
    return "positives" if kind in ("event", "binary") else "interactions"


def duplicates(guess: Guess) -> str:
    """Say which rows of a repeated pair are kept."""
    kind = guess.value.kind if guess.value else None
    # A later view must not replace a purchase, and counts are added up.
    return "keep_all" if kind in ("event", "binary", "count") else "keep_last"


def _files(guess: Guess, files: Mapping[str, Any]) -> dict[str, Any]:
    section: dict[str, Any] = dict(files)
    named = {"user_id": guess.ids["user"], "item_id": guess.ids["item"]}
    if guess.time:
        named["timestamp"] = guess.time.column
    columns = {ours: theirs for ours, theirs in named.items() if ours != theirs}
    if columns:
        section["columns"] = columns
    keys = {
        f"{role}s": side.key
        for role, side in guess.sides.items()
        if side.key not in (guess.ids[role], f"{role}_id")
    }
    if keys:
        section["id_columns"] = keys
    if guess.time and "timestamp" not in columns:
        section["keep"] = ["timestamp"]
    if guess.order:
        section["order"] = guess.order
    if guess.time and guess.time.format:
        section["time_format"] = guess.time.format
    if guess.profile.repeats:
        section["duplicates"] = duplicates(guess)
    if any(feature.differing for feature in (*guess.features.user, *guess.features.item)):
        section["differing"] = "keep_last"
    return section


def _positives(guess: Guess) -> dict[str, Any]:
    value = guess.value
    if value is None or value.kind == "unclear":
        return {}
    if value.values:
        return {"column": value.column, "values": value.values}
    if value.at_least is not None:
        whole = float(value.at_least).is_integer()
        return {
            "column": value.column,
            "at_least": int(value.at_least) if whole else value.at_least,
        }
    return {}


def _features(guess: Guess) -> dict[str, Any]:
    section: dict[str, Any] = {}
    for role in ("user", "item"):
        features = guess.features.of(role)
        lists = {
            role: _names(features, "categorical"),
            f"{role}_multi_hot": _lengths(features, "multi_hot"),
            f"{role}_text": _lengths(features, "text"),
            f"{role}_numeric": _names(features, "numeric"),
            f"{role}_vectors": _lengths(features, "vector"),
        }
        section.update({key: value for key, value in lists.items() if value})
    return {**section, "history": HISTORY}


def _serving(guess: Guess) -> dict[str, Any]:
    """Let requests filter by the features of the items that are neither text nor vectors."""
    kinds = ("categorical", "multi_hot", "numeric")
    filters = [each.name for each in guess.features.item if each.kind in kinds]
    return {"seen": seen(guess), **({"filters": filters} if filters else {})}


def _show(guess: Guess) -> list[str]:
    """Return the titles of the items or, if there are none, the first features."""
    return guess.features.show or [each.name for each in guess.features.item[:MAX_SHOWN]]


def _names(features: list[Feature], kind: str) -> list[str]:
    return [each.name for each in features if each.kind == kind]


def _lengths(features: list[Feature], kind: str) -> dict[str, int]:
    return {each.name: each.length for each in features if each.kind == kind}


def _has_numbers(guess: Guess) -> bool:
    return any(each.kind == "numeric" for each in (*guess.features.user, *guess.features.item))


def _evaluation(guess: Guess) -> dict[str, Any]:
    """Leave out cutoffs that a small catalogue does not reach."""
    ks = [k for k in KS if k <= max(guess.profile.items // 2, KS[0])]
    return {} if len(ks) == len(KS) else {"ks": ks}
