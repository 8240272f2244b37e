"""Lines of Ali-CCP's files by hand, a slow parser for them, and a short way to convert them."""

from __future__ import annotations

from pathlib import Path

from twotower.workflows.sources.ali_ccp.config import AliCCPConfig
from twotower.workflows.sources.ali_ccp.fields import COMMON, ITEM
from twotower.workflows.sources.ali_ccp.source import AliCCPRaw
from twotower.workflows.sources.wanted import Wanted
from twotower.workflows.stored import StoredTables

ALL = Wanted(
    users=tuple(field.name for field in COMMON[1:]), items=tuple(field.name for field in ITEM[1:])
)


def features(*tokens: str) -> bytes:
    """Write features that are given as "field feature value"."""
    parts = ["{}\x02{}\x03{}".format(*token.split()) for token in tokens]
    return f"{len(parts)},".encode() + "\x01".join(parts).encode()


USER_1 = features("101 1 1.0", "121 50 1.0", "109_14 7 .5", "109_14 9 2.5", "110_14 4 1.0")
USER_1_LATER = features("101 1 1.0", "121 50 1.0", "109_14 8 0.25")
USER_2 = features("101 2 1.0", "129 3 1.0", "150_14 11 1e-1")
USER_3 = features("101 3 1.0", "121 51 1.0")
ITEM_5 = features("205 5 1.0", "206 60 1.0", "207 70 1.0", "210 90 1.0", "210 91 1.0", "301 2 1.0")
ITEM_5_OTHER = features("205 5 1.0", "206 61 1.0", "216 80 1.0", "508 60 2.3979")
ITEM_6 = features("205 6 1.0", "853 90 -0.5", "301 3 1.0")
ITEM_7 = features("205 7 1.0", "206 60 1.0")

HAND_MADE = {
    "common_features_train.csv": [
        b"00aa," + USER_1,
        b"00bb," + USER_2,
        b"00cc," + USER_1_LATER,
    ],
    "common_features_test.csv": [b"00aa," + USER_3, b"00dd," + USER_2],
    "sample_skeleton_train.csv": [
        b"1,1,0,00aa," + ITEM_5,
        b"2,0,0,00aa," + ITEM_6,
        b"3,1,1,00bb," + ITEM_5_OTHER,
        b"4,0,0,00cc," + ITEM_6,
    ],
    "sample_skeleton_test.csv": [b"1,0,0,00aa," + ITEM_7, b"2,1,0,00dd," + ITEM_5],
}


def convert(folder: Path, work: Path, **settings: object) -> tuple[StoredTables, list[str]]:
    """Convert the files of a folder with all columns; also return the messages."""
    source = AliCCPRaw(folder, AliCCPConfig(**settings), ALL)
    source.work = work
    messages: list[str] = []
    return source.read(on_message=messages.append), messages


def parse_slowly(path: Path) -> list[tuple[list[str], list[tuple[str, int, float]]]]:
    """Parse a file with nothing but split: what is before the features, and these, by line."""
    lines = []
    for line in path.read_text(encoding="ascii").splitlines():
        *head, tokens = line.split(",")
        triples = []
        for token in tokens.split("\x01"):
            code, rest = token.split("\x02")
            feature, value = rest.split("\x03")
            triples.append((code, int(feature), float(value)))
        assert len(triples) == int(head[-1])
        lines.append((head, triples))
    return lines
