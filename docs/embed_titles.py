"""Embed the titles of items, for `ingest.vectors`: a table in, title.npy and title.ids.txt out.

Runs in an environment of its own (requirements/embed.txt), without this project:

    python docs/embed_titles.py items.parquet --id item_id --text title --out data/title.npy
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pyarrow.csv
import pyarrow.parquet as pq
import wordllama
from safetensors.numpy import load_file
from tokenizers import Tokenizer

FILES = Path(wordllama.__file__).parent
TOKENS = FILES / "tokenizers" / "l2_supercat_tokenizer_config.json"
VECTORS = FILES / "weights" / "l2_supercat_256.safetensors"


def embed(texts: list[str]) -> np.ndarray:
    """Return the mean of the vectors of each text's tokens, float32 [n, 256]; zeros without any."""
    tokenizer = Tokenizer.from_file(str(TOKENS))
    table = load_file(VECTORS)["embedding.weight"].astype(np.float32)
    vectors = np.zeros((len(texts), table.shape[1]), np.float32)
    for row, text in enumerate(texts):
        if tokens := tokenizer.encode(text, add_special_tokens=False).ids:
            vectors[row] = table[tokens].mean(axis=0)
    return vectors


def main() -> None:
    """Read a parquet or CSV file, and write the vectors and the ids of their rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path, help="parquet or CSV file with one row per item")
    parser.add_argument("--id", default="item_id", help="column with the ids")
    parser.add_argument("--text", nargs="+", default=["title"], help="columns with the text")
    parser.add_argument("--out", type=Path, default=Path("title.npy"))
    given = parser.parse_args()
    read = pyarrow.csv.read_csv if given.table.suffix == ".csv" else pq.read_table
    columns = read(given.table).select([given.id, *given.text]).to_pydict()
    rows = zip(*(columns[name] for name in given.text), strict=True)
    vectors = embed([" ".join(str(part) for part in row if part is not None) for row in rows])
    np.save(given.out, vectors)
    ids = "".join(f"{each}\n" for each in columns[given.id])
    given.out.with_suffix(".ids.txt").write_text(ids, encoding="utf-8")
    print(f"{given.out}: {vectors.shape[0]:,} vectors of {vectors.shape[1]} numbers")


if __name__ == "__main__":
    main()
