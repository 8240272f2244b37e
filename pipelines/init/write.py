"""Write a guess as a short configuration with comments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from twotower.pipelines.init.guess import Guess
from twotower.pipelines.init.ids import shortened
from twotower.pipelines.init.settings import duplicates, settings

QUESTION = "QUESTION"
MAX_NAMES = 6
SECONDS_PER_DAY = 86_400


def as_yaml(guess: Guess, files: Mapping[str, Any], name: str) -> str:
    """Write the configuration of a guess.

    Parameters
    ----------
    guess : Guess
    files : mapping of str to Any
        The paths by table (interactions, users, items), and how to read them.
    name : str
        Of the run.

    Returns
    -------
    str
        YAML with a comment at what was assumed, and a line with "QUESTION" above what is not
        clear. It has the values of `settings`.
    """
    tree = settings(guess, files, name)
    profile = guess.profile
    lines = [
        f"# Written by `twotower init` from {profile.rows:,} rows. Check it, then: twotower run",
        "# Paths are relative to the folder in which it runs. All settings: docs/configuration.md.",
    ]
    if guess.questions:
        lines.append(
            f"# {QUESTION} marks what is not clear; below it is the default that was taken."
        )
    for section, value in tree.items():
        for question in guess.questions.get(section, []):
            lines.append(_comment(f"{QUESTION}: {question}"))
        lines += _section(section, value, guess)
        lines += _proposals(section, guess)
        if section == "ingest" and "positives" not in tree:
            for question in guess.questions.get("positives", []):
                lines.append(_comment(f"{QUESTION}: {question}"))
            lines.append(_comment(f"All rows are positives{_no_positives(guess)}"))
            lines += _proposals("positives", guess)
    lines += _left_out(guess)
    return "\n".join(lines) + "\n"


def flow(value: Any) -> str:
    """Return a value in one line of YAML."""
    text = yaml.safe_dump(
        value, default_flow_style=True, allow_unicode=True, width=float("inf"), sort_keys=False
    )
    return text.removesuffix("\n").removesuffix("\n...").strip()


def _section(section: str, value: Any, guess: Guess) -> Iterator[str]:
    comments = _comments(guess)
    if section == "ingest":
        yield "ingest:"
        yield f"  source: {value['source']}"
        yield "  files:"
        for key, each in value["files"].items():
            yield _commented(f"    {flow({key: each})[1:-1]}", comments.get(key))
        if "vectors" in value:
            yield _commented(f"  {flow({'vectors': value['vectors']})[1:-1]}", comments["vectors"])
    elif section in ("features", "serving"):
        yield f"{section}:"
        for key, each in value.items():
            yield _commented(f"  {flow({key: each})[1:-1]}", comments.get(key))
    else:
        yield _commented(flow({section: value})[1:-1], comments.get(section))


def _comment(text: str) -> str:
    """Return a comment of one line, also if a column's name has a line break."""
    return f"# {' '.join(text.split())}"


def _commented(line: str, text: str | None) -> str:
    if text is None:
        return line
    comment = _comment(text)
    if len(line) + len(comment) + 2 <= 100:
        return f"{line}  {comment}"
    indent = line[: len(line) - len(line.lstrip())]
    return f"{indent}{comment}\n{line}"


def _comments(guess: Guess) -> dict[str, str]:
    """Return what was assumed, by the key of the setting."""
    ids, profile, value = guess.ids, guess.profile, guess.value
    found = {
        "split": guess.split.reason,
        "history": "the latest items of a user, an input of the query tower",
        "training": "at most; it stops when valid no longer improves",
        "seen": _seen(guess),
        "filters": "a request may ask for items by these, such as twotower query --where",
        "duplicates": f"{profile.repeats:,} of {profile.rows:,} rows repeat a {ids['user']} and "
        f"{ids['item']}; {_duplicates(guess)}",
        "vectors": "found beside the interactions, with the ids of their rows",
        "show": "printed beside a recommended item",
        "model": "numbers are binned, too",
    }
    for role, side in guess.sides.items():
        found[f"{role}s"] = f"{_share(side.overlap)} of the {role}s have a row there"
    if guess.time and guess.time.format:
        found["time_format"] = "how the times are read"
    differing = [
        each.name for each in (*guess.features.user, *guess.features.item) if each.differing
    ]
    found["differing"] = (
        f"{shortened(differing, MAX_NAMES)}: not the same in all rows of an id; "
        "the last value counts"
    )
    if value is not None and value.kind == "rating":
        found["positives"] = f"liked: {value.share:.0%} of the rows"
    elif value is not None:
        found["positives"] = f"{value.share:.1%} of the rows"
    return found


def _share(share: float) -> str:
    """Write a share so that only all is 100 %."""
    return "all" if share == 1 else f"{min(100 * share, 99.9):.3g} %"


def _seen(guess: Guess) -> str:
    repeated = guess.profile.repeats / guess.profile.rows
    if repeated > 0.1 and (guess.value is None or guess.value.kind != "rating"):
        return "hides what a user has had; if the same is bought again, ask with filter_seen: false"
    return "items that a user has had are not recommended again"


def _duplicates(guess: Guess) -> str:
    return "the last is used" if duplicates(guess) == "keep_last" else "all are kept"


def _no_positives(guess: Guess) -> str:
    if guess.value is None:
        return ": no column says how much a user liked an item."
    if guess.value.kind == "unclear":
        return ", until that is answered."
    return f"; {guess.value.column} says how many, not how much a user liked an item."


def _proposals(section: str, guess: Guess) -> Iterator[str]:
    """Propose settings that are not used, as comments."""
    if section == "positives" and guess.value is not None:
        column = flow(guess.value.column)
        if guess.value.kind == "unclear":
            yield f"# positives: {{column: {column}, at_least: 4}}"
        if guess.value.kind in ("unclear", "count"):
            yield f"# positives: {{weight: {column}, weight_transform: log1p}}"
    elif section == "features":
        if guess.time:
            hours = [] if (guess.time.seconds % SECONDS_PER_DAY == 0).all() else ["hour_of_day"]
            yield f"  # time: {flow([*hours, 'day_of_week'])}"
        kinds = {each.name: each.kind for each in guess.features.context}
        for setting, kind in (("context", "categorical"), ("context_numeric", "numeric")):
            if names := [name for name, each in kinds.items() if each == kind]:
                yield f"  # {setting}: {flow(names)}"


def _left_out(guess: Guess) -> Iterator[str]:
    reasons = guess.features.left_out
    if reasons:
        yield "# Columns that are not used, and why:"
    for name, reason in reasons.items():
        yield f"#   {flow(name)}: {reason}"
