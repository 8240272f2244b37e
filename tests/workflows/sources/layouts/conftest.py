"""Tiny made-up data sets in the layouts in which they are published."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

CSV = {
    "ratings.csv": [
        "userId,movieId,rating,timestamp",
        "1,296,5.0,1147880044",
        "1,31,0.5,1147868817",
        "2,296,3.5,1141415820",
    ],
    "movies.csv": [
        "movieId,title,genres",
        '31,"Été, The (1931)",Drama|Romance',
        '296,"He said ""no"" (2001) (1994)",(no genres listed)',
        "400,Nameless,Comedy",
    ],
    "tags.csv": ["userId,movieId,tag,timestamp", '1,296,"funny, dark",1147880050'],
    "links.csv": ["movieId,imdbId,tmdbId", "31,0112792,9909"],
}
ML_10M = {
    "ratings.dat": ["1::31::5::838985046", "1::296::4.5::838985047", "2::31::3::838985048"],
    "movies.dat": ["31::Été, The (1931)::Drama|Romance", "296::Late (1994)::(no genres listed)"],
    "tags.dat": ["1::31::funny::838985050"],
}
ITEMS = {
    "item_id": [31, 296, 400],
    "title": ["Été, The (1931)", 'He said "no" (2001) (1994)', "Nameless"],
    "year": [1931, 1994, 0],
    "genres": [["Drama", "Romance"], [], ["Comedy"]],
}

REVIEWS_2018 = [
    {
        "overall": 5.0,
        "reviewerID": "A1D87F6ZCVE5NK",
        "asin": "B00NH13Q8W",
        "unixReviewTime": 1440547200,
    },
    {
        "overall": 3.0,
        "reviewerID": "A2F6N60Z96CAJI",
        "asin": "0700099867",
        "unixReviewTime": 1440633600,
    },
    {
        "overall": 4.0,
        "reviewerID": "A1D87F6ZCVE5NK",
        "asin": "0700099867",
        "unixReviewTime": 1440720000,
    },
]
REVIEWS_2023 = [
    {
        "rating": row["overall"],
        "title": "Fine",
        "text": "Good, really.",
        "images": [],
        "asin": "B00VARIANT",
        "parent_asin": row["asin"],
        "user_id": row["reviewerID"],
        "timestamp": row["unixReviewTime"] * 1000 + 123,
    }
    for row in REVIEWS_2018
]
RATINGS_2014 = [
    f"{row['reviewerID']},{row['asin']},{row['overall']},{row['unixReviewTime']}"
    for row in REVIEWS_2018
]
RATINGS_2018 = [
    f"{row['asin']},{row['reviewerID']},{row['overall']},{row['unixReviewTime']}"
    for row in REVIEWS_2018
]
INTERACTIONS = {
    "user_id": [row["reviewerID"] for row in REVIEWS_2018],
    "item_id": [row["asin"] for row in REVIEWS_2018],
    "rating": [5.0, 3.0, 4.0],
    "timestamp": [1440547200, 1440633600, 1440720000],
}

ATOMIC = {
    "toy.inter": [
        "user_id:token\titem_id:token\trating:float\ttimestamp:float",
        "7\ta1\t4\t978300760.0",
        "7\ta2\t1.5\t9.783020e8",
        "8\ta1\t5\t978300762",
    ],
    "toy.user": ["user_id:token\tage:token\tgender:token", "7\t25\tF", "8\t\tM"],
    "toy.item": [
        "item_id:token\tgenre:token_seq\tprice:float\tvector:float_seq",
        "a1\tAction Comedy\t1.5\t0.25 1",
        "a2\t\t\t",
    ],
}


def write_lines(folder: Path, files: dict[str, list]) -> Path:
    """Write files of lines in UTF-8; dictionaries as JSON; with gzip if the name says so."""
    folder.mkdir(parents=True)
    for name, lines in files.items():
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        data = "".join(f"{text}\n" for text in texts).encode()
        (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return folder


def plain(table) -> dict[str, list]:
    """A table as lists, with ids that may be in a dictionary."""
    return {
        name: column.to_pylist() for name, column in zip(table.column_names, table, strict=True)
    }
