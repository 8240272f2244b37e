"""Print a guess: the profile of the data, what was assumed, and what is not clear."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

from rich.markup import escape
from rich.table import Table

from twotower.pipelines.console import console, say
from twotower.pipelines.init.features import Feature
from twotower.pipelines.init.guess import Guess
from twotower.workflows.profile import Profile

LOW_DENSITY_ITEMS = 3
FEW_ROWS = 1_000
MANY_SINGLE, MANY_NEW = 0.5, 0.3


def print_guess(guess: Guess) -> None:
    """Print the profile, the assumptions and the questions."""
    console.print(profile_table(guess))
    for line in remarks(guess.profile):
        say(line)
    say("assumed:")
    for name, text in assumptions(guess).items():
        say(f"  {name:<15}{text}")
    for name, reason in guess.features.left_out.items():
        say(f"  {'not used':<15}{name}: {reason}")
    for questions in guess.questions.values():
        for question in questions:
            console.print(f"  [bold yellow]{'question':<15}[/]{escape(question)}")


def profile_table(guess: Guess) -> Table:
    """Return the profile as a table."""
    found = guess.profile
    table = Table("", "", title="profile", title_justify="left", show_header=False)
    period = ""
    if found.start is not None and found.end is not None and found.days is not None:
        period = f", {_date(found.start)} to {_date(found.end)} ({found.days:,.0f} days)"
    table.add_row("interactions", f"{found.rows:,}{period}")
    table.add_row(
        f"users ({guess.ids['user']})",
        f"{found.users:,}; {found.per_user:g} items per user (median); "
        f"{found.single_users:.1%} have one item only",
    )
    table.add_row(
        f"items ({guess.ids['item']})",
        f"{found.items:,}; {found.per_item:g} users per item (median); "
        f"the most popular tenth has {found.top_items:.0%} of the interactions",
    )
    table.add_row(
        "repeats", f"{found.repeats:,} rows ({found.repeats / found.rows:.1%}) repeat a pair"
    )
    table.add_row("density", f"{found.density:.3%} of all pairs of user and item occur")
    if found.new_users is not None and found.new_items is not None:
        table.add_row(
            "cold",
            f"of the last tenth of the rows, {found.new_users:.1%} are of new users and "
            f"{found.new_items:.1%} of new items",
        )
    return table


def remarks(found: Profile) -> Iterator[str]:
    """Say what in the profile limits what a model can learn."""
    if found.rows < FEW_ROWS:
        yield f"only {found.rows:,} interactions: expect little; {FEW_ROWS:,} or more are better"
    if found.single_users > MANY_SINGLE:
        yield (
            f"{found.single_users:.0%} of the users have one item only, which says little about "
            "their taste. Is a user a visit or an order here?"
        )
    if found.per_item < LOW_DENSITY_ITEMS:
        yield (
            f"half of the items have {found.per_item:g} users or fewer: features of the items "
            "help, see --items"
        )
    if found.new_items is not None and found.new_items > MANY_NEW:
        yield f"{found.new_items:.0%} of the latest rows are of new items: `update` often"


def assumptions(guess: Guess) -> dict[str, str]:
    """Return what was assumed, by its name."""
    found = dict(guess.ids)
    for role, side in guess.sides.items():
        found[f"{role}s file"] = (
            f"joined by {side.key}; {side.overlap:.1%} of the {role}s have a row"
        )
    found["time"] = guess.time.column if guess.time else "none"
    if guess.order:
        found["order"] = guess.order
    found["positives"] = _positives(guess)
    for role in ("user", "item"):
        features = guess.features.of(role)
        found[f"{role} features"] = ", ".join(map(_feature, features)) or "none"
    found["split"] = f"{guess.split.method}: {guess.split.reason}"
    return found


def _feature(feature: Feature) -> str:
    return f"{feature.name} ({feature.kind.replace('_', '-')})"


def _positives(guess: Guess) -> str:
    value = guess.value
    if value is not None and value.values:
        return (
            f"rows whose {value.column} is {', '.join(map(str, value.values))}: {value.share:.1%}"
        )
    if value is not None and value.at_least is not None:
        return f"rows whose {value.column} is {value.at_least:g} or more: {value.share:.1%}"
    return "all rows"


def _date(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, tz=timezone.utc).date().isoformat()


def plain(guess: Guess) -> dict[str, Any]:
    """Return the guess as JSON can represent it."""
    return {
        "profile": guess.profile.dict(),
        "assumed": assumptions(guess),
        "questions": [each for questions in guess.questions.values() for each in questions],
        "left_out": guess.features.left_out,
    }
