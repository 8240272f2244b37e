"""Record the events of a file or a stream, and list what was recorded."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from twotower.pipelines.console import console, say
from twotower.pipelines.errors import ConfigError
from twotower.pipelines.live.store import event_rules, opened_store
from twotower.pipelines.run import Run
from twotower.serving.runtime.errors import RequestError
from twotower.serving.runtime.live.rules import Event, EventRules
from twotower.serving.runtime.live.state import learned_position

READ_BYTES = 1 << 16
"""Largest size of what is read of a stream, and recorded, at a time."""
MAX_LINE = 1 << 20
MAX_SHOWN = 10


@dataclass(frozen=True)
class Recorded:
    """What was recorded.

    Attributes
    ----------
    recorded : int
        Number of events.
    """

    recorded: int


@dataclass(frozen=True)
class EventList:
    """What the store of a run has.

    Attributes
    ----------
    events, users : int
        Numbers of events, and of different users.
    not_learned : int
        Events that the run has not learned from.
    latest : list of dict
        Those recorded last, the latest first.
    """

    events: int
    users: int
    not_learned: int
    latest: list[Event]


def record_file(run: Run, file: Path) -> Recorded:
    """Record all events of a file of JSON lines, or none.

    Raises
    ------
    ConfigError
        If there is no such file, or the run keeps no events.
    RequestError
        If a line is no event; the message names it.
    ServingError
        If the store cannot be written.
    """
    if not file.is_file():
        raise ConfigError(f"{file}: no such file; give a file with one event per line of JSON")
    rules = event_rules(run)
    with opened_store(run) as store, file.open("rb") as lines:
        events = [
            event
            for number, line in enumerate(lines, 1)
            if (event := read_line(rules, line, f"{file}, line {number}"))
        ]
        if events:
            store.append(events)
    console.print(escape(f"{file}: {len(events):,} events recorded"))
    return Recorded(len(events))


def record_stream(run: Run, source: int) -> Recorded:
    """Record the lines of JSON of a stream as they come.

    After each time that some were written, a line with the number of all events recorded so far is
    printed: those are kept, whatever happens to this process. Ctrl-C ends the stream.

    Parameters
    ----------
    run : Run
    source : int
        File descriptor of the stream.

    Raises
    ------
    ConfigError, RequestError, ServingError
        As `record_file`. The events of the lines before a wrong one are recorded.
    """
    rules, lines, recorded = event_rules(run), 0, 0
    with opened_store(run) as store, suppress(KeyboardInterrupt):  # so do people end a stream
        for block in _blocks_of_lines(source):
            events, wrong = [], None
            for line in block:
                lines += 1
                try:
                    event = read_line(rules, line, f"line {lines}")
                except RequestError as error:
                    wrong = error
                    break
                events += [event] if event else []
            if events:
                store.append(events)
                recorded += len(events)
                console.print(f"{recorded} recorded")
            if wrong:
                raise RequestError(f"{wrong}; the {recorded:,} events before it are recorded")
    return Recorded(recorded)


def _blocks_of_lines(source: int) -> Iterator[list[bytes]]:
    """Yield the lines of a stream as soon as they are there, those that came together at once."""
    rest = b""
    while read := os.read(source, READ_BYTES):
        *lines, rest = (rest + read).split(b"\n")
        if len(rest) > MAX_LINE:
            raise RequestError(f"a line is longer than {MAX_LINE:,} bytes; one event is one line")
        yield lines
    yield [rest]


def read_line(rules: EventRules, line: bytes, where: str) -> Event | None:
    """Return the event of a line of JSON; None if the line is empty.

    Raises
    ------
    RequestError
        If it is none; the message begins with `where`.
    """
    if not line.strip():
        return None
    try:
        given = json.loads(line, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{where}: no JSON ({error})") from error
    if not isinstance(given, dict):
        raise RequestError(f"{where}: no JSON object; expected {_example(rules)}")
    return rules.check(given, where)


def list_events(run: Run) -> EventList:
    """Print how many events the run's store has, and the latest ones.

    Raises
    ------
    ConfigError
        If the run keeps no events.
    ServingError
        If the store cannot be read.
    """
    rules = event_rules(run)
    with opened_store(run) as store:
        stored = store.read_new()
        learned = learned_position(store, run.notes("ingest").get("events"))
    events = [each.event for each in stored]
    users = Counter(event.get(rules.user) for event in events)
    fresh = sum(each.position > learned for each in stored)
    latest = events[: -MAX_SHOWN - 1 : -1]
    if not events:
        say(f"no event was recorded yet; one is a line such as {_example(rules)}")
    else:
        title = f"{len(events):,} events of {len(users):,} users; {fresh:,} are not learned from"
        table = Table(title=Text(title), title_justify="left", box=None)
        names = list(rules.types)
        for name in names:
            table.add_column(Text(name))
        for event in latest:
            table.add_row(*(Text(_cell(event.get(name), name == rules.time)) for name in names))
        console.print(table)
        if fresh:
            console.print(escape(f"twotower update --events --run {run.path} learns from them"))
    return EventList(len(events), len(users), fresh, latest)


def _cell(value: Any, is_time: bool) -> str:
    if is_time and isinstance(value, int):
        return f"{datetime.fromtimestamp(value, timezone.utc):%Y-%m-%d %H:%M:%S}"
    return "" if value is None else str(value)


def _example(rules: EventRules) -> str:
    values = {"BYTES": "abc", "FP64": 5.0}
    names = [rules.user, rules.item, *rules.required]
    return json.dumps({name: values.get(rules.types[name], 42) for name in names})


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number")
