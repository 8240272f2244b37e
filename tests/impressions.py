"""A made-up log of impressions with clicks and conversions, in the manner of Ali-CCP.

Clicks depend on one column of the items, conversions of clicks on another one, and those that are
clicked often convert rarely: who only sees the clicks learns the wrong order.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

AGES = 4
CLICK = np.array([-2.0, -0.5, 0.5, 2.0])
"""Logit of a click, by the column `item_category` of the item."""
CONVERSION = np.array([-1.5, 0.0, 1.5])
"""Logit of the conversion of a click, by the column `item_brand`."""
TRADE_OFF = 0.5
"""By how much the logit of a conversion falls if that of the click rises by one."""
SLOTS = 5


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def catalogue(items: int, seed: int = 0) -> pd.DataFrame:
    """Return the items: item_id, item_category and item_brand."""
    draw = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "item_id": np.arange(items),
            "item_category": draw.permutation(items) % len(CLICK),
            "item_brand": draw.permutation(items) % len(CONVERSION),
        }
    )


def click_logits(items: pd.DataFrame) -> np.ndarray:
    """Return the logit of a click for each item, without the position."""
    return CLICK[items["item_category"]]


def conversion_logits(items: pd.DataFrame) -> np.ndarray:
    """Return the logit of the conversion of a click for each item."""
    return CONVERSION[items["item_brand"]] - TRADE_OFF * click_logits(items)


def impressions(
    users: int, items: int, per_user: int, seed: int = 0, bias: float = 0.0
) -> pd.DataFrame:
    """Return a log: one row per impression, with all columns on every row.

    The items that are clicked least are shown at the top, and the logit of a click falls by `bias`
    per position: if it is large, the clicks say the opposite of what users want.
    """
    draw, table = np.random.default_rng(seed), catalogue(items, seed)
    shown = np.concatenate([draw.choice(items, per_user, replace=False) for _ in range(users)])
    rows = table.iloc[shown].reset_index(drop=True)
    rows.insert(0, "user_id", np.repeat(np.arange(users), per_user))
    rows["user_age"] = rows["user_id"] % AGES
    rows["position"] = np.clip(rows["item_category"] + draw.integers(-1, 2, len(rows)), 0, SLOTS)
    seen = click_logits(rows) - bias * (rows["position"] - 1)
    rows["click"] = (draw.random(len(rows)) < sigmoid(seen)).astype(np.int64)
    converts = draw.random(len(rows)) < sigmoid(conversion_logits(rows))
    rows["conversion"] = rows["click"] * converts
    return rows
