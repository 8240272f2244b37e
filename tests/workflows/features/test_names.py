"""workflows.names: which names stay, and that different names stay different."""

from __future__ import annotations

import re

import pytest

from twotower.workflows.features.names import internal_name


@pytest.mark.parametrize(
    "name", ["age", "zip_code", "user_id", "item_id", "history", "index", "v0"]
)
def test_a_plain_name_stays(name):
    assert internal_name(name) == name


SEPARATORS = ["zip-code", "zip.code", "zip/code", "zip code", "zip_code ", "ZIP_code", "ZIP_CODE"]
WORDS = ["", " ", "..", "2nd", "_private", "class", "None", "self", "x" * 240, "x" * 241]
CHARACTERS = ["país/región", "カテゴリ", "x\ny", "$(touch x)", "%d", "a'\"b"]
RESERVED = ["labels", "order", "k", "score", "filter_seen", "query_vector", "city__state"]
ODD = SEPARATORS + WORDS + CHARACTERS + RESERVED + ["tags__count"]


def test_another_name_becomes_plain_and_different_ones_stay_different():
    internal = [internal_name(name) for name in ODD]
    assert [name for name in internal if not re.fullmatch("column_[a-z0-9_]{,37}", name)] == []
    again = [internal_name(name) for name in internal]  # a file may have such a name, too
    assert len({*ODD, *internal, *again, "zip_code"}) == 3 * len(ODD) + 1
