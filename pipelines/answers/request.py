"""What a person asks a model on the command line: ids, features, and what answers may hold."""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import numpy as np

from twotower.pipelines.errors import ConfigError, RunError
from twotower.pipelines.run import TRITON, Run
from twotower.pipelines.steps.preprocess import read_ids
from twotower.serving.client.values import Filters
from twotower.serving.repository import ModelRepository
from twotower.serving.runtime.errors import RequestError
from twotower.serving.runtime.filters.caps import parse_caps
from twotower.serving.runtime.filters.predicate import parse
from twotower.serving.runtime.manifest import MODEL_FILE
from twotower.serving.runtime.tensors import NUMPY_DTYPES

if TYPE_CHECKING:
    from twotower.workflows.ids import Ids

Id: TypeAlias = int | str


class FiltersForAll(NamedTuple):
    """What the answers may hold, the same for all users.

    Attributes
    ----------
    where : str, mapping or None
        A predicate, or its JSON, see docs/serving.md.
    allow : sequence of int or str, or None
        The only items that may be in an answer, ids as given.
    exclude : sequence of int or str
        Items that may not.
    max_per : mapping of str to int, or None
        How many items of an answer may share a value of a column.
    diversity : float or None
    diversity_by : str or None
        See `RetrievalClient.recommend`.
    """

    where: Mapping[str, Any] | str | None = None
    allow: Sequence[Id] | None = None
    exclude: Sequence[Id] = ()
    max_per: Mapping[str, int] | None = None
    diversity: float | None = None
    diversity_by: str | None = None

    def of(self, users: int) -> Filters:
        """Return the filters of a request for some users."""
        return Filters(
            where=self.where,
            allow_item_ids=None if self.allow is None else [self.allow] * users,
            exclude_item_ids=[self.exclude] * users if self.exclude else None,
            max_per=self.max_per,
            diversity=self.diversity,
            diversity_by=self.diversity_by,
        )


ALL = FiltersForAll()


def published_contract(run: Run) -> dict[str, Any] | None:
    """The contract of the published version; None if no version is published, or it is damaged."""
    repository = ModelRepository(run.path / TRITON)
    try:
        model = repository.model / str(repository.published) / MODEL_FILE
        return json.loads(model.read_bytes())["contract"]
    except (OSError, ValueError, LookupError, TypeError):
        return None  # the server will report it


def parse_ids(run: Run, side: Literal["users", "items"], texts: Sequence[str]) -> list[Id]:
    """Return the ids that a person wrote as text, in the kind of the run's ids.

    Raises
    ------
    DataError
        If the run's ids are numbers, and a text is none.
    RunError
        If the run has no data yet.
    """
    run.notes("ingest")  # fails if the run has no data yet
    ids: Ids = getattr(read_ids(run), side)
    return [ids.parse(text) for text in texts]


def parse_features(run: Run, texts: Sequence[str]) -> dict[str, Any]:
    """Return the features that a person wrote as NAME=VALUE, typed as the published version says.

    A text stays as it is, and the values of a list are separated by commas. A time is a number of
    seconds since 1970, or in ISO 8601, and in UTC if it names no zone. An empty value is null.

    Parameters
    ----------
    run : Run
    texts : sequence of str
        For example `["month=Jan", "genres=Drama,War"]`.

    Returns
    -------
    dict of str to Any
        Name -> int, float, str or None, or a list of these for a list feature.

    Raises
    ------
    ConfigError
        If a text has no `=`, names no feature of the version or one twice, or its value is no
        number where the feature is one.
    RunError
        If no version is published.
    """
    if not texts:
        return {}
    contract = published_contract(run)
    if contract is None:
        raise RunError("no version is published; run `twotower export` and `twotower publish`")
    types, times = contract["features"], contract.get("times") or {}
    given: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--feature {text}: write NAME=VALUE")
        if name not in types:
            known = f"it has {', '.join(types)}" if types else "it has none"
            raise ConfigError(f"--feature {text}: the model has no feature {name!r}; {known}")
        if name in given:
            raise ConfigError(
                f"--feature {text}: {name} is given twice; separate the values of a list by commas"
            )
        if value and name == times.get("input"):
            given[name] = _seconds(text, value)
        elif name in contract["lists"]:
            values = value.split(",") if value else []
            given[name] = [_typed(text, each, types[name]) for each in values]
        else:
            given[name] = _typed(text, value, types[name]) if value else None
    return given


def _seconds(option: str, text: str) -> int:
    """Return a time of the option `--feature` in seconds since 1970."""
    if re.fullmatch("-?[0-9]+", text.strip()):
        return int(_typed(option, text, "INT64"))
    try:
        # Python 3.10 does not know the Z.
        moment = datetime.fromisoformat(text.strip().replace("Z", "+00:00"))
    except ValueError:
        raise ConfigError(
            f"--feature {option}: {text!r} is no time; write seconds since 1970, or a date and a "
            "time such as 2024-05-01T18:30 (UTC) or 2024-05-01T18:30+02:00"
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return math.floor(moment.timestamp())


def _typed(option: str, text: str, datatype: str) -> int | float | str:
    """Return a value of the option `--feature` in a Triton data type."""
    if datatype == "BYTES":
        return text
    if datatype.startswith("FP"):
        with contextlib.suppress(ValueError):
            return float(text)
        raise ConfigError(f"--feature {option}: {text!r} is no number")
    limits, text = np.iinfo(NUMPY_DTYPES[datatype]), text.strip()
    number = int(text) if re.fullmatch("-?[0-9]+", text) else None
    if number is None or not limits.min <= number <= limits.max:
        raise ConfigError(
            f"--feature {option}: {text!r} is no integer from {limits.min} to {limits.max}"
        )
    return number


def parse_filters(
    run: Run,
    where: str | None = None,
    allow: Sequence[str] = (),
    exclude: Sequence[str] = (),
    max_per: Sequence[str] = (),
    diversity: float | None = None,
    diversity_by: str | None = None,
) -> FiltersForAll:
    """Return what a person wrote on the command line about what answers may hold.

    Parameters
    ----------
    run : Run
    where : str or None
        A predicate as JSON.
    allow, exclude : sequence of str
        Item ids. Without any, `allow` allows all items.
    max_per : sequence of str
        COLUMN=NUMBER.
    diversity : float or None
    diversity_by : str or None

    Raises
    ------
    ConfigError
        If `where` is no predicate, or not one over columns of the published version; if `max_per`
        names another column, or no number.
    DataError
        If an item id is of another kind than those of the run.
    """
    caps = dict(_cap(text) for text in max_per)
    # A version that is not published is reported when it is needed.
    columns = (published_contract(run) or {}).get("filters")
    if columns is not None:
        _check("--where", where, lambda text: parse(text, columns))
        _check("--max-per", json.dumps(caps) if caps else None, lambda t: parse_caps(t, columns))
    allowed = parse_ids(run, "items", allow) if allow else None
    excluded = parse_ids(run, "items", exclude) if exclude else ()
    if diversity_by is not None and columns is not None and diversity_by not in columns:
        known = ", ".join(columns) or "no columns"
        raise ConfigError(f"--diversity-by {diversity_by}: no such column; this model has {known}")
    return FiltersForAll(where, allowed, excluded, caps or None, diversity, diversity_by)


def check_ranked(candidates: int, k: int | None) -> None:
    """Raise ConfigError if a version cannot order `k` items by a ranking model.

    Parameters
    ----------
    candidates : int
        How many items it orders; 0 if it has no ranking model.
    k : int or None
    """
    if not candidates:
        raise ConfigError(
            "--rank: the published version has no ranking model; set ranking.model, such as "
            "`twotower rank --set ranking.model=mlp`, then run `twotower evaluate`, `twotower "
            "export` and `twotower publish`"
        )
    if k is not None and k > candidates:
        raise ConfigError(
            f"-k {k}: the ranking model orders {candidates} items per user; ask for at most as "
            "many, or set ranking.candidates and run `twotower rank` again"
        )


def _cap(text: str) -> tuple[str, int]:
    name, _, number = text.rpartition("=")
    if not name or not re.fullmatch("[0-9]{1,9}", number):
        raise ConfigError(f"--max-per {text}: write COLUMN=NUMBER, such as genres=2")
    return name, int(number)


def _check(option: str, text: str | None, read: Callable[[str], Any]) -> None:
    """Check the JSON of a parameter before a server is started to answer it."""
    if text is None:
        return
    try:
        read(text)
    except RequestError as error:
        problem = re.sub("^parameter '[a-z_]+':? ", "", str(error))
        raise ConfigError(f"{option} {text}: {problem}") from None
