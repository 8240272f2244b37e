"""The file of denied items: read now and after each change."""

from __future__ import annotations

import json
import os
import time

import pytest

from twotower.serving.runtime.errors import ServingError
from twotower.serving.runtime.filters.denied import DeniedItems, read_denied


def write(path, ids) -> None:
    path.with_suffix(".new").write_text(json.dumps({"items": ids}))
    os.replace(path.with_suffix(".new"), path)


def wait_until(condition, seconds=2.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def test_no_file_denies_nothing(tmp_path):
    assert read_denied(tmp_path / "denied.json") == []


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"items": 3}', '{"items": [1.5]}', '{"items": [true]}', "\0", "{"]
)
def test_a_damaged_file_is_refused(content, tmp_path):
    path = tmp_path / "denied.json"
    path.write_text(content)
    with pytest.raises(
        ServingError, match=r"denied\.json: cannot be read .* restore it, or remove"
    ):
        read_denied(path)
    with pytest.raises(ServingError):
        DeniedItems(path, lambda ids: None, lambda *_, **__: None)


def test_changes_are_applied_and_a_damaged_file_keeps_what_was_read_last(tmp_path):
    path, applied, logged = tmp_path / "denied.json", [], []
    write(path, [3, "a"])
    watched = DeniedItems(path, applied.append, lambda event, *_, **__: logged.append(event))
    try:
        assert applied == [[3, "a"]]
        write(path, [3])
        assert wait_until(lambda: applied == [[3, "a"], [3]])
        write(path, None)
        assert wait_until(lambda: logged == ["denied items read", "denied items not read"])
        path.unlink()
        assert wait_until(lambda: applied == [[3, "a"], [3], []])
    finally:
        watched.stop()
    write(path, [4])
    time.sleep(0.6)
    assert len(applied) == 3
