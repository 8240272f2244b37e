"""Divide the positive pairs into the parts train, valid and test."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, Field, root_validator, validator

from twotower.workflows.errors import DataError
from twotower.workflows.ids import INTEGERS, RunIds
from twotower.workflows.order import in_time, keys, positions
from twotower.workflows.split_file import PARTS, parts_from_file
from twotower.workflows.tables import pairs_among

TRAIN, VALID = 0, 1  # places in PARTS


class SplitConfig(BaseModel, extra="forbid"):
    """How the positives are divided into train, valid and test."""

    method: Literal["random", "leave_last_out", "temporal", "file", "column", "cold_items"] = Field(
        "random",
        description="random: each user's positives are divided at random by `ratios`. "
        "leave_last_out: each user's last positive is test and the one before it is valid. "
        "temporal: two points in time, the same for all users, divide the positives by `ratios`. "
        "file: the parquet file `path` names the part of each pair. column: the column `part` of "
        "the interactions does, as in data sets with an official test part; if it has no valid "
        "rows, each user's train rows are divided at random by the first two `ratios`, and rows "
        "that it names no part for are divided as by random. cold_items: "
        "the items are divided at random by `ratios`, with all their positives, so that valid and "
        "test have items that training has not seen; set evaluation.catalogue to part with it.",
    )
    repeats: Literal["last", "keep"] = Field(
        "last",
        description="What happens to the positives of a pair that occurs more than once. last: "
        "only its last row is a positive, so that no pair is in two parts. keep: each row is one; "
        "for `leave_last_out` only, where the next item may be one that the user has had.",
    )
    ratios: tuple[float, float, float] = Field(
        (0.8, 0.1, 0.1), description="Shares of train, valid and test. They must add up to 1."
    )
    k_core: int = Field(
        0,
        ge=0,
        le=2**31 - 1,
        description="Minimum number of positives per user and per item. Users and items with fewer "
        "are dropped before the split, repeatedly until all have enough. 0 keeps all.",
    )
    path: Path | None = Field(
        None,
        description="For method `file`: a parquet file with the columns user_id, item_id and part "
        "(train, valid or test). If relative, it is resolved against the working directory; the "
        "run folder stores the absolute path.",
    )
    seed: int = Field(
        42,
        ge=0,
        le=2**31 - 1,
        description="Random seed of the methods `random`, `column` and `cold_items`.",
    )
    train_on_valid: bool = Field(
        False,
        description="Train on the pairs of valid, too. No epoch can be chosen then: exactly "
        "`training.epochs` epochs are trained, and the last one is kept. `twotower run --refit` "
        "sets both after it has chosen the number of epochs on valid.",
    )

    @validator("ratios")
    def _add_up(cls, ratios: tuple[float, float, float]) -> tuple[float, float, float]:
        # Written so that NaN fails, too.
        if not (min(ratios) >= 0 and ratios[0] > 0 and abs(sum(ratios) - 1) <= 1e-6):
            raise ValueError("ratios must be 0 or more, above 0 for train, and add up to 1")
        return ratios

    @root_validator(skip_on_failure=True)
    def _repeats_follow_each_other(cls, values: dict[str, Any]) -> dict[str, Any]:
        if values["repeats"] == "keep" and values["method"] != "leave_last_out":
            raise ValueError(
                f"repeats: keep needs method leave_last_out; with {values['method']}, a pair would "
                "be in the training part and in the test part. Remove repeats"
            )
        return values


def split(positives: pd.DataFrame, config: SplitConfig, ids: RunIds = INTEGERS) -> pd.DataFrame:
    """Assign each positive pair to a part.

    Parameters
    ----------
    positives : DataFrame
        The columns `keys` and, if there are any, timestamp and `ORDER`; in file order. If a
        combination of keys occurs more than once, its last row is used, so that no pair is in two
        parts; `number_repeats` makes the rows of a pair different ones.
    config : SplitConfig
    ids : RunIds, optional
        The ids of the run: positives have codes, the split file has ids as given.

    Returns
    -------
    DataFrame
        The columns `keys` and part (categorical train, valid, test), in file order. Its `attrs`
        count the rows that were left out, for `split_report`.

    Raises
    ------
    DataError
        If there is nothing left to split, or the method needs a column or file that is missing.
    """
    is_file = config.method == "file"
    by = keys(positives)
    rows = positives.drop_duplicates(by, keep="last").reset_index(drop=True)
    repeated = len(positives) - len(rows)
    kept = rows[k_core_mask(rows["user_id"], rows["item_id"], config.k_core)]
    kept = kept.reset_index(drop=True)
    if kept.empty:
        raise DataError(
            f"nothing to split: {len(positives)} positives, of which k_core={config.k_core} leaves "
            "none; lower split.k_core or positives.at_least"
        )
    codes = (
        parts_from_file(kept, config.path, ids)
        if is_file
        else _METHODS[config.method](kept, config)
    )
    if config.method == "temporal" and not (codes == 0).any():
        raise DataError(
            "split.method temporal: no positive is before the first point in time, because too "
            "many have the same timestamp; choose another method"
        )
    result = kept.loc[codes >= 0, by].reset_index(drop=True)
    codes = codes[codes >= 0]
    not_listed = len(kept) - len(codes)
    if config.train_on_valid:
        codes = np.where(codes == VALID, TRAIN, codes)
    result["part"] = pd.Categorical.from_codes(codes, categories=PARTS)
    result.attrs = {
        "protocol": describe(config),
        "repeated_pairs": repeated,
        "dropped_by_k_core": len(rows) - len(kept),
        "not_in_split_file": not_listed,
    }
    return result


def extend_split(
    old: pd.DataFrame, positives: pd.DataFrame, fresh: pd.DataFrame, config: SplitConfig
) -> pd.DataFrame:
    """Extend a split by new positives.

    A pair keeps its part as long as it is a positive. The new positives are divided separately by
    the method of the split, without k-core: each user's by `ratios` (random), the last two of a
    user with three or more (leave_last_out), or by two points in time (temporal). If this is not
    possible, because the split file does not name them or all have the same timestamp, they are
    in train.

    Parameters
    ----------
    old : DataFrame
        A result of `split` or of this function.
    positives : DataFrame
        All positives, old and new, as for `split`.
    fresh : DataFrame
        user_id and item_id of the interactions that are new since `old`.
    config : SplitConfig

    Returns
    -------
    DataFrame
        As for `split`: the rows of `old`, then the new ones. The number of new rows is
        `attrs["updated"]`.
    """
    by = keys(positives)
    kept = old.loc[pairs_among(old, positives), [*by, "part"]]
    new = positives[pairs_among(positives, fresh) & ~pairs_among(positives, old)]
    new = new.drop_duplicates(by, keep="last").reset_index(drop=True)
    codes = np.zeros(len(new), dtype=np.int8)
    if config.method == "cold_items":
        codes = _parts_of_items(new, old)
    elif len(new) and config.method != "file":
        codes = _METHODS[config.method](new, config)
    if not (codes == TRAIN).any() and config.method != "cold_items":
        codes = np.zeros_like(codes)
    if config.train_on_valid:
        codes = np.where(codes == VALID, TRAIN, codes)
    parts = pd.Categorical.from_codes(codes, categories=PARTS)
    result = pd.concat([kept, new[by].assign(part=parts)], ignore_index=True)
    protocol = f"{describe(config)}; positives from updates likewise, without k-core"
    result.attrs = {"protocol": protocol, "updated": len(new)}
    return result


def split_report(split: pd.DataFrame) -> dict[str, Any]:
    """Count the users, items and rows of a split, in total and per part.

    Returns
    -------
    dict
        The counts by "all", "train", "valid" and "test", and the `attrs` of the split.
    """

    def count(rows: pd.DataFrame) -> dict[str, int]:
        users, items = rows["user_id"].nunique(), rows["item_id"].nunique()
        return {"users": users, "items": items, "rows": len(rows)}

    parts = {part: count(split[split["part"] == part]) for part in PARTS}
    return {**split.attrs, "all": count(split), **parts}


def describe(config: SplitConfig) -> str:
    """Describe the protocol of the split in words."""
    shares = ":".join(f"{100 * share:g}" for share in config.ratios)
    words = {
        "random": f"random per user {shares}, seed {config.seed}",
        "leave_last_out": "leave last out: per user the last positive is test, the one before "
        "valid; ties in time by file order; users with fewer than 3 positives in train"
        + ("; repeated pairs kept" if config.repeats == "keep" else ""),
        "temporal": f"global cut in time {shares}",
        # Only the file's name, because reports should not contain paths of one machine.
        "file": f"read from {config.path.name if config.path else ''}",
        "column": "the parts that the data set names, or at random per user where it names none "
        f"({shares}); without valid, a share of each user's train, "
        f"seed {config.seed}",
        "cold_items": f"items at random {shares} with all their positives, seed {config.seed}",
    }[config.method]
    if config.train_on_valid:
        words += "; trained on valid, too"
    return f"{config.k_core}-core, {words}" if config.k_core else words


def k_core_mask(user_ids: pd.Series, item_ids: pd.Series, k: int) -> np.ndarray:
    """Find the largest subset in which each user and each item has at least `k` rows.

    Returns
    -------
    ndarray of bool
        Per row, whether it is in the subset.
    """
    users = np.unique(user_ids, return_inverse=True)[1]
    items = np.unique(item_ids, return_inverse=True)[1]
    kept = np.ones(len(users), dtype=bool)
    while kept.any():
        enough = (np.bincount(users[kept], minlength=len(users))[users] >= k) & (
            np.bincount(items[kept], minlength=len(items))[items] >= k
        )
        if enough[kept].all():
            break
        kept &= enough
    return kept


def _random(rows: pd.DataFrame, config: SplitConfig) -> np.ndarray:
    order = np.random.default_rng(config.seed).permutation(len(rows))
    position, size = positions(rows["user_id"].to_numpy(), order)
    train, valid, _ = part_sizes(size, config.ratios)
    return (position >= train).astype(np.int8) + (position >= train + valid)


def part_sizes(
    size: np.ndarray, ratios: tuple[float, float, float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute the number of rows in train, valid and test for users with `size` rows.

    Parameters
    ----------
    size : ndarray of int64
        Rows per user.
    ratios : tuple of float
        Shares of train, valid and test.

    Returns
    -------
    train, valid, test : ndarray of int64

    Notes
    -----
    Valid and test have their share rounded down, or one row if the share is below one. If there
    are too few rows, test has priority over valid, and train always has one row. RecBole's `RS`
    split with group_by=user uses the same rule (recbole/data/dataset/dataset.py,
    _calcu_split_ids).
    """
    # The small number corrects rounding: .29 * 100 is 28.999999999999996.
    shares = [np.floor(ratio * size + 1e-9).astype(np.int64) for ratio in ratios]
    train = size - shares[1] - shares[2]
    for part in (2, 1):
        one = (shares[part] == 0) & (train > 1) & (ratios[part] > 0)
        shares[part] = shares[part] + one
        train = train - one
    return train, shares[1], shares[2]


def _leave_last_out(rows: pd.DataFrame, config: SplitConfig) -> np.ndarray:
    position, size = positions(rows["user_id"].to_numpy(), in_time(rows))
    from_end = size - 1 - position
    return np.where(size < 3, 0, np.clip(2 - from_end, 0, 2)).astype(np.int8)


def _temporal(rows: pd.DataFrame, config: SplitConfig) -> np.ndarray:
    """Cut in time. Rows with the same timestamp are in the same part, the later one."""
    if "timestamp" not in rows:
        raise DataError(
            "split.method temporal needs the column timestamp in the interactions; keep it "
            "(ingest.files.keep) or choose another method. An order (ingest.files.order) is no "
            "time: leave_last_out can use it"
        )
    times = rows["timestamp"].to_numpy()
    cuts = (np.cumsum(config.ratios[:2]) * len(times) + 1e-9).astype(np.int64)
    train_end, valid_end = np.append(np.sort(times), times.max() + 1)[cuts]
    return (times >= train_end).astype(np.int8) + (times >= valid_end)


def _from_column(rows: pd.DataFrame, config: SplitConfig) -> np.ndarray:
    """Read the parts from the column `part`; without valid, take it from train.

    Rows without a part are divided at random.
    """
    if "part" not in rows:
        raise DataError(
            "split.method column needs the column part (train, valid or test) in the interactions; "
            "keep it, or choose another method"
        )
    codes = pd.Categorical(rows["part"], categories=PARTS).codes.copy()
    unnamed = rows["part"].isna().to_numpy()
    if (wrong := (codes < 0) & ~unnamed).any():
        found = rows["part"].to_numpy()[wrong][0]
        raise DataError(
            f"interactions, column part: {found!r} in {int(wrong.sum()):,} rows; expected "
            f"{', '.join(PARTS)}"
        )
    if unnamed.any():
        codes[unnamed] = _random(rows[unnamed], config)
    if not (codes == 1).any() and not unnamed.all():
        train, valid, _ = config.ratios
        ratios = (train / (train + valid), valid / (train + valid), 0)
        is_train = codes == 0
        codes[is_train] = _random(rows[is_train], config.copy(update={"ratios": ratios}))
    return codes


def _cold_items(rows: pd.DataFrame, config: SplitConfig) -> np.ndarray:
    """Divide the items, not the pairs: all pairs of an item are in one part."""
    items, place = np.unique(rows["item_id"], return_inverse=True)
    drawn = np.random.default_rng(config.seed).permutation(len(items))
    ends = (np.cumsum(config.ratios[:2]) * len(items) + 1e-9).astype(np.int64)
    return np.searchsorted(ends, drawn, side="right").astype(np.int8)[place]


def _parts_of_items(rows: pd.DataFrame, old: pd.DataFrame) -> np.ndarray:
    """The part that the item of each row has in a split by `cold_items`; train for new items."""
    known = old.drop_duplicates("item_id").set_index("item_id")["part"].cat.codes
    return rows["item_id"].map(known).fillna(0).to_numpy(np.int8)


_METHODS = {
    "random": _random,
    "leave_last_out": _leave_last_out,
    "temporal": _temporal,
    "column": _from_column,
    "cold_items": _cold_items,
}
