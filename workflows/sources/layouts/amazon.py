"""Amazon reviews of 2014, 2018 and 2023: JSON lines or CSV, and optionally the products.

The formats: https://jmcauley.ucsd.edu/data/amazon/, https://nijianmo.github.io/amazon/ and
https://amazon-reviews-2023.github.io/
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from twotower.workflows.errors import DataError
from twotower.workflows.sources.files.config import FilesConfig
from twotower.workflows.sources.findings import Findings
from twotower.workflows.sources.layouts.base import Published, Side
from twotower.workflows.sources.layouts.place import Place

Columns = dict[str, str]
"""Our names of columns -> those in the files."""
_JSON = (
    {
        "user_id": "reviewerID",
        "item_id": "asin",
        "rating": "overall",
        "timestamp": "unixReviewTime",
    },
    {"user_id": "user_id", "item_id": "parent_asin", "rating": "rating", "timestamp": "timestamp"},
)
_HEADER = ["user_id", "parent_asin", "rating", "timestamp"]
_PRODUCT = re.compile(r"[0-9A-Z]{10}")
_RATING, _SECONDS = re.compile(r"[1-5]\.0"), re.compile(r"[0-9]{9,10}")
_ENDING = re.compile(r"\.(json|jsonl|csv)(\.gz)?$")
_SAMPLE_LINES = 20
_PRODUCT_SCHEMA = pa.schema(
    {
        "item_id": pa.string(),
        "title": pa.string(),
        "brand": pa.string(),
        "categories": pa.list_(pa.string()),
    }
)


class Amazon(Published):
    """The reviews of one category. Items are products; in 2023 all variants of one are one item.

    With a file meta_*, items have title, brand (in 2023 the store) and categories.
    """

    name = "amazon"
    contents = (
        "Amazon reviews of one category (JSON lines or ratings as CSV, of 2014, 2018 or 2023)"
    )
    download = "https://amazon-reviews-2023.github.io/"

    @classmethod
    def is_at(cls, place: Place) -> bool:
        """Whether a file begins with a review, or a file meta_* with a product."""
        return bool(_reviews(place) or _products(place))

    @classmethod
    def shipped_config(cls, path: Path) -> str:
        """The configuration without or with features of products."""
        place = cls.find(path)
        return "amazon-products" if place is not None and _products(place) else "amazon"

    def interactions(self, place: Place) -> FilesConfig | None:
        """The only file with reviews."""
        reviews = _reviews(place)
        if len(reviews) > 1:
            raise DataError(
                f"{place.root}: {len(reviews)} files with reviews: {', '.join(list(reviews)[:3])}; "
                "name one of them, or give each category a folder of its own"
            )
        for name, columns in reviews.items():
            return FilesConfig(
                interactions=Path(name),
                columns=columns,
                keep=["rating", "timestamp"],
                text_columns=["user_id", "item_id"],  # all products of a file may look like numbers
            )
        return None

    def side_files(self, place: Place) -> Mapping[Side, str]:
        """The only file with products, if there is one."""
        names = _products(place)
        if len(names) > 1:
            raise DataError(
                f"{place.root}: {len(names)} files with products: {', '.join(names[:3])}; leave one"
            )
        return {"items": names[0]} if names else {}

    def read_side(
        self, place: Place, side: Side, ids: pa.ChunkedArray | None, findings: Findings
    ) -> pa.Table:
        """The products that have a review; without reviews, all."""
        name = self.side_files(place)[side]
        reviewed = None if ids is None else set(ids.to_pylist())
        kept, total = [], 0
        for row in _read_products(place, name):
            total += 1
            if reviewed is None or row["item_id"] in reviewed:
                kept.append(row)
        if left_out := total - len(kept):
            findings.note(
                "products_without_review",
                left_out,
                f"{left_out:,} of {total:,} products of {name} have no review and are left out",
            )
        return pa.Table.from_pylist(kept, schema=_PRODUCT_SCHEMA)


def _reviews(place: Place) -> dict[str, Columns]:
    """The files with reviews, and their columns."""
    found = {name: _columns(place.head(name)) for name in sorted(place.names) if _is_text(name)}
    return {name: columns for name, columns in found.items() if columns}


def _products(place: Place) -> list[str]:
    """The files meta_* that begin with a product."""
    return [
        name
        for name in sorted(place.names)
        if name.startswith("meta_") and _is_text(name) and _first_product(place, name)
    ]


def _is_text(name: str) -> bool:
    return bool(_ENDING.search(name))


def _columns(lines: list[str]) -> Columns | None:
    """The columns of a file of reviews, by its first lines; None if it is none."""
    if not lines:
        return None
    if lines[0].startswith("{"):
        row = _parsed(lines[0]) or {}
        return next((each for each in _JSON if set(each.values()) <= set(row)), None)
    if lines[0].split(",")[: len(_HEADER)] == _HEADER:
        return _JSON[1]
    rows = [line.split(",") for line in lines[:_SAMPLE_LINES]]
    if any(
        len(row) != 4 or not _RATING.fullmatch(row[2]) or not _SECONDS.fullmatch(row[3])
        for row in rows
    ):
        return None
    # In 2014 the user is first, in 2018 the product. Only products always have ten characters.
    is_product = [all(_PRODUCT.fullmatch(row[place]) for row in rows) for place in (0, 1)]
    if is_product[0] == is_product[1]:
        return None
    user, item = ("column_2", "column_1") if is_product[0] else ("column_1", "column_2")
    return {"user_id": user, "item_id": item, "rating": "column_3", "timestamp": "column_4"}


def _parsed(line: str) -> dict[str, Any] | None:
    """Parse a JSON object or, as in the products of 2014, a Python dictionary."""
    parsers: tuple[Callable[[str], Any], ...] = (json.loads, ast.literal_eval)
    for parse in parsers:
        try:
            row = parse(line)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        return row if isinstance(row, dict) else None
    return None


def _first_product(place: Place, name: str) -> bool:
    row = _parsed((place.head(name) or [""])[0])
    return row is not None and _product_id(row) is not None


def _product_id(row: dict[str, Any]) -> str | None:
    found = row.get("parent_asin", row.get("asin"))
    return found if isinstance(found, str) else None


def _read_products(place: Place, name: str) -> Iterable[dict[str, Any]]:
    for number, line in place.lines(name):
        row = _parsed(line.decode("utf-8", "replace"))
        item = _product_id(row) if row is not None else None
        if row is None or item is None:
            raise DataError(
                f"{place.path(name)}, line {number}: {line[:60]!r}; expected a product with "
                "asin or parent_asin; download the file again"
            )
        brand = row.get("brand") or row.get("store")
        categories = row.get("category") or row.get("categories") or []
        if categories and isinstance(categories[0], list):  # in 2014 a list of paths
            categories = [each for path in categories for each in path]
        yield {
            "item_id": item,
            "title": row.get("title") or None,
            "brand": brand or None,
            "categories": list(dict.fromkeys(categories)),
        }
