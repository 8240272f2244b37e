"""The file that names the part of each pair, for the split method `file`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from twotower.workflows.errors import DataError
from twotower.workflows.ids import Ids, RunIds
from twotower.workflows.tables import UNREADABLE, pair_codes

PARTS = ("train", "valid", "test")
"""The parts of a split."""


def parts_from_file(rows: pd.DataFrame, path: Path | None, ids: RunIds) -> np.ndarray:
    """Read the parts of pairs from the file of `split.path`.

    Parameters
    ----------
    rows : DataFrame
        The columns user_id and item_id, as codes.
    path : Path or None
    ids : RunIds
        The ids of the run: the file has ids as given.

    Returns
    -------
    ndarray of int8, shape (len(rows),)
        The place in `PARTS`; -1 for a pair that the file does not name.

    Raises
    ------
    DataError
        If there is no such file, or it has wrong rows.
    """
    if path is None:
        raise DataError("split.method file needs split.path: parquet with user_id, item_id, part")
    listed = _read_split_file(path)
    pairs = [
        np.concatenate([rows[name], _codes(listed[name], each, path)])
        for name, each in (("user_id", ids.users), ("item_id", ids.items))
    ]
    codes = pair_codes(*pairs)
    known, wanted = codes[: len(rows)], codes[len(rows) :]
    _check_pairs(listed, known, wanted, path)
    order = np.argsort(wanted)
    place = np.minimum(np.searchsorted(wanted[order], known), len(wanted) - 1)
    found = wanted[order][place] == known
    parts = pd.Categorical(listed["part"], categories=PARTS).codes[order][place]
    return np.where(found, parts, -1)


def _read_split_file(path: Path) -> pd.DataFrame:
    try:
        listed = pd.read_parquet(path)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such split file") from error
    except UNREADABLE as error:
        raise DataError(f"{path}: not a readable parquet file ({error})") from error
    missing = [name for name in ("user_id", "item_id", "part") if name not in listed]
    if missing:
        raise DataError(
            f"{path}: no column {', '.join(missing)}; there are {', '.join(listed.columns)}"
        )
    if listed.empty:
        raise DataError(f"{path}: no rows")
    if not (listed["part"] == "train").any():
        found = ", ".join(map(repr, listed["part"].unique()[:3]))
        raise DataError(
            f"{path}: no row has the part 'train', which the model is fitted on; there are {found}"
        )
    return listed[["user_id", "item_id", "part"]]


def _codes(column: pd.Series, ids: Ids, path: Path) -> np.ndarray:
    """Return the codes of ids of the split file."""
    try:
        return ids.codes(column.to_numpy())
    except DataError as error:
        raise DataError(
            f"{path}, column {column.name}: {error}; the split file needs the ids of the data"
        ) from error


def _check_pairs(listed: pd.DataFrame, known: np.ndarray, wanted: np.ndarray, path: Path) -> None:
    def refuse(bad: np.ndarray, problem: str) -> None:
        if bad.any():
            row = int(bad.argmax())
            user, item, part = listed.iloc[row]
            raise DataError(
                f"{path}, row {row + 1} (user_id {user!r}, item_id {item!r}, part {part!r}): "
                f"{problem}; {int(bad.sum())} such row(s)"
            )

    refuse(~listed["part"].isin(PARTS).to_numpy(), f"the part must be one of {', '.join(PARTS)}")
    # Before repeats, because all unknown texts have one code.
    refuse(~np.isin(wanted, known), "the pair is not among the positives (after k_core, if set)")
    refuse(pd.Series(wanted).duplicated().to_numpy(), "the pair occurs earlier in this file")
