"""Ids to codes and back, in the served model: exact for every text, and quick for many."""

from __future__ import annotations

import numpy as np
import pytest
from tritonclient.utils import serialize_byte_tensor

from twotower.serving.raw_ids import RawIds, VersionIds
from twotower.serving.runtime.contract import Contract
from twotower.serving.runtime.operators.ids import (
    MAX_KEY,
    UNKNOWN,
    ServedIds,
    TextIds,
    save_texts,
    serialize_texts,
)

TEXTS = ["b", "007", "7", "é", "e\u0301", "数", "\U0001f600", " ", "a" * MAX_KEY, "ж" * 512]
"""Texts in no order; the last one is longer than a key."""


def as_bytes(texts: list[str]) -> np.ndarray:
    return np.array([text.encode() for text in texts], object)


@pytest.mark.parametrize("texts", [TEXTS, TEXTS[:3], TEXTS[-1:], TEXTS[:-1]])
def test_every_text_has_its_code(texts, tmp_path):
    save_texts(tmp_path, "users", texts)
    ids = TextIds(tmp_path, "users", decodes=True)
    codes = ids.encode(as_bytes(texts))
    assert (codes.dtype, codes.tolist()) == (np.int64, list(range(len(texts))))
    assert ids.decode(codes).tolist() == as_bytes(texts).tolist()
    for position, text in enumerate(texts):
        assert ids.encode(as_bytes([text])).tolist() == [position]


@pytest.mark.parametrize("texts", [TEXTS, TEXTS[:3], TEXTS[:-1]])
def test_no_other_text_has_a_code(texts, tmp_path):
    save_texts(tmp_path, "users", texts)
    ids = TextIds(tmp_path, "users", decodes=False)
    others = [text + end for text in texts for end in ("\0", " ", "a", "\0\0")]
    others += [text[:-1] for text in texts] + ["", "\0", "a" * 65, "ж" * 511, "ж" * 513, "ж" * 9999]
    others = sorted(set(others) - set(texts))
    assert ids.encode(as_bytes(others)).tolist() == [UNKNOWN] * len(others)
    keys = ids.keys.tolist()  # what is stored in place of a long text is no id
    assert ids.encode(np.array(keys, object)).tolist() == [
        texts.index(key.decode()) if key[-1:] != b"\xff" else UNKNOWN for key in keys
    ]
    assert ids.encode(np.array([b"\xff", b"\xff\xfe", b"\xc3"], object)).tolist() == [UNKNOWN] * 3


def test_a_place_without_an_item_is_the_empty_text(tmp_path):
    save_texts(tmp_path, "items", ["x", "y"])
    ids = TextIds(tmp_path, "items", decodes=True)
    assert ids.decode(np.array([[1, 0, -1]])).tolist() == [[b"y", b"x", b""]]


def test_empty_columns_are_encoded(tmp_path):
    save_texts(tmp_path, "items", ["x"])
    ids = TextIds(tmp_path, "items", decodes=False)
    for empty in (np.empty(0, object), np.empty(0, np.int64)):
        assert (ids.encode(empty).dtype, ids.encode(empty).tolist()) == (np.int64, [])


def test_many_texts_are_found_like_few(tmp_path):
    draw = np.random.default_rng(0)
    texts = [f"{number:x}" for number in draw.permutation(50_000)]
    save_texts(tmp_path, "users", texts)
    asked = draw.integers(0, 50_000, 3000)
    codes = TextIds(tmp_path, "users", decodes=False).encode(as_bytes([texts[n] for n in asked]))
    np.testing.assert_array_equal(codes, asked)


def test_tables_are_converted_by_the_types_of_the_contract(tmp_path):
    VersionIds(RawIds("BYTES", ["u", "v"]), RawIds("UINT64")).write(tmp_path)
    contract = Contract(
        user_id="who",
        item_id="what",
        features={"seen": "UINT64"},
        default_k=2,
        max_k=2,
        lists=["seen"],
        columns={"seen": "column_0"},
        user_id_type="BYTES",
        item_id_type="UINT64",
        history="seen",
    )
    inputs = {
        "who": as_bytes(["v", "nobody"])[:, None],
        "seen": np.array([[2**64 - 2, 3], [2**64 - 1] * 2], np.uint64),
    }
    ids = ServedIds(contract, tmp_path)
    table = ids.encode(contract.join([contract.read(inputs, {})]))
    assert table["who"].tolist() == [1, UNKNOWN]
    assert table["column_0"].tolist() == [-2, 3]
    answer = ids.decode({"what": np.array([[-2, -1]]), "score": np.array([[1.0, -np.inf]])})
    assert answer["what"].tolist() == [[2**64 - 2, 2**64 - 1]]
    assert answer["what"].dtype == np.uint64


def test_texts_are_laid_out_as_triton_does_it():
    texts = as_bytes([*TEXTS, ""]).reshape(1, -1)
    assert serialize_texts(texts) == serialize_byte_tensor(texts).item()
    assert serialize_texts(texts[:, ::-1]) == serialize_byte_tensor(texts[:, ::-1]).item()
