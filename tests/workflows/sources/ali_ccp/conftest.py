"""Small sets in Ali-CCP's format: one by hand, and one that is generated."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.workflows.sources.ali_ccp.texts import HAND_MADE
from twotower.workflows.sources.ali_ccp.generate import Generator, generate

ROWS, TEST_ROWS, TOKENS, SEED = 14_000, 5_000, 60, 3


@pytest.fixture
def hand_made(tmp_path) -> Path:
    """A folder with the hand-made files."""
    folder = tmp_path / "hand-made"
    folder.mkdir()
    for name, lines in HAND_MADE.items():
        (folder / name).write_bytes(b"".join(line + b"\n" for line in lines))
    return folder


@pytest.fixture(scope="session")
def generated(tmp_path_factory) -> Path:
    """A folder with generated files; the impressions of train are two blocks of a megabyte."""
    folder = tmp_path_factory.mktemp("ali-ccp") / "made"
    generate(folder, ROWS, TEST_ROWS, TOKENS, SEED)
    return folder


@pytest.fixture(scope="session")
def drawn() -> Generator:
    """What is in the generated files."""
    return Generator.of(ROWS, TEST_ROWS, TOKENS, SEED)
