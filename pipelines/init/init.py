"""Make the first configuration for files that nobody has described."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import yaml

from twotower.pipelines.config import DEFAULT_CONFIG, parse_config
from twotower.pipelines.console import ShowProgress, say, stage
from twotower.pipelines.errors import ConfigError
from twotower.pipelines.init.facts import Facts, facts_of, facts_of_frame
from twotower.pipelines.init.features import Feature
from twotower.pipelines.init.guess import NOTHING_NAMED, Guess, Named, guess
from twotower.pipelines.init.report import print_guess
from twotower.pipelines.init.settings import run_name
from twotower.pipelines.init.write import as_yaml
from twotower.pipelines.run import write_atomically
from twotower.workflows.errors import DataError
from twotower.workflows.ingest import detect_source
from twotower.workflows.sources.findings import Findings
from twotower.workflows.sources.formats.options import ReadOptions
from twotower.workflows.sources.formats.table import open_table
from twotower.workflows.sources.remote import local_copies
from twotower.workflows.sources.vector_files import file_facts

AS_FOUND = ReadOptions()
MIN_OVERLAP = 0.5
"""Share of the users, or of the items, that must have a vector in a .npy file."""
ROLE_OF = {"users": "user", "items": "item"}
KEPT = ".old"
"""Ending of a configuration that `force` has replaced."""
NOTHING_SAID: Mapping[str, Any] = {}


class Initialised(NamedTuple):
    """What was guessed, and the file with it."""

    guess: Guess
    path: Path


def init(
    files: Mapping[str, Path],
    named: Named = NOTHING_NAMED,
    reading: Mapping[str, Any] = NOTHING_SAID,
    out: Path = DEFAULT_CONFIG,
    force: bool = False,
) -> Initialised:
    """Guess what the columns of files mean, and write a configuration.

    Parameters
    ----------
    files : mapping of str to Path
        The files by table: interactions and, if there are such, users and items. Any format that
        the source `files` reads.
    named : Named
        The columns that are known.
    reading : mapping of str to Any
        How to read CSV files, where they do not show it: separator, header, encoding.
    out : Path
        The configuration to write.
    force : bool
        Replace `out` if it exists; the old one is kept beside it.

    Returns
    -------
    Initialised

    Raises
    ------
    ConfigError
        If `out` exists, a file is missing, or a column cannot be told.
    DataError
        If a file cannot be read.
    """
    if out.exists() and not force:
        raise ConfigError(
            f"{out} exists, and you may have edited it: --force replaces it (the old one is kept "
            f"as {out.name}{KEPT}), --out FILE writes another"
        )
    found = guess_tables(files, named, ReadOptions(**reading))
    print_guess(found)
    described = {**{name: str(path) for name, path in files.items()}, **reading}
    text = as_yaml(found, described, run_name(files["interactions"]))
    parse_config(yaml.safe_load(text), str(out))
    if out.exists():
        out.replace(_unused(out.with_name(out.name + KEPT)))
    write_atomically(out, text)
    count = sum(map(len, found.questions.values()))
    check = f"answer its {count} question{'s' * (count > 1)}" if count else "check it"
    option = "" if out == DEFAULT_CONFIG else f" --config {out}"
    say(f"wrote {out}: {check}, then `twotower run{option}`")
    return Initialised(guess=found, path=out)


def _unused(path: Path) -> Path:
    """Return `path`, or it with the first number at the end that no file has."""
    numbered = (path.with_name(f"{path.name}{number}") for number in itertools.count(2))
    return next(each for each in itertools.chain([path], numbered) if not each.exists())


def guess_tables(
    tables: Mapping[str, Path | pa.Table], named: Named, options: ReadOptions = AS_FOUND
) -> Guess:
    """Read all columns of files, or of tables in memory, and guess what they mean; see `init`."""
    first = tables["interactions"]
    where = str(first) if isinstance(first, Path) else "interactions"
    with stage("read") as (report, result):
        facts: dict[str, dict[str, Facts]] = {}
        for name, table in tables.items():
            if isinstance(table, Path):
                facts[name] = _facts_of_files(table, options, report)
            else:
                facts[name] = facts_of_frame(table)
        sides = {ROLE_OF[name]: columns for name, columns in facts.items() if name in ROLE_OF}
        report(phase="guess")
        found = guess(facts["interactions"], sides, named, where)
        if isinstance(first, Path):
            _add_vector_files(found, first, facts["interactions"])
        result(f"{found.profile.rows:,} rows, {len(facts['interactions'])} columns")
    return found


def _add_vector_files(found: Guess, beside: Path, facts: Mapping[str, Facts]) -> None:
    """Add the .npy files in a folder whose rows have the ids of the users or the items."""
    for path in sorted(beside.parent.glob("*.npy")):
        name = path.stem
        if name.endswith(".ids") or found.features.knows(name):
            continue
        try:
            ids, length = file_facts(path)
        except DataError as error:
            say(f"{error}. The file is not used")
            continue
        shares = {}
        for role, column in found.ids.items():
            known = set(map(str, pc.drop_null(facts[column].values).unique().to_pylist()))
            shares[role] = len(known & ids) / max(len(known), 1)
        role = max(shares, key=lambda each: shares[each])
        if shares[role] < MIN_OVERLAP:
            say(f"{path}: not used: its ids are not those of the users or items")
            continue
        found.features.of(role).append(Feature(name, "vector", length))
        found.features.files[name] = path


def _facts_of_files(path: Path, options: ReadOptions, progress: ShowProgress) -> dict[str, Facts]:
    known = detect_source(path) if path.exists() else None
    if known is not None:
        raise ConfigError(f"{path} is {known[0]}, which needs no init: twotower run --data {path}")
    with local_copies({"table": path}, Findings(say), progress) as (places, findings):
        table = open_table(places["table"], options, on_message=findings)
        for name, reason in table.unusable.items():
            say(f"{path}: column {name!r} is not used: {reason}")
        return facts_of(table, progress)
