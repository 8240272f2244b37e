"""From an unknown file to a served recommendation: `twotower init`, `twotower run`, nothing edited.

The orders are made up (`benchmarks.own_data.orders`). With a data folder, MovieLens-100K written
as a plain CSV file is measured, too.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.child import call
from benchmarks.main_job import answered
from benchmarks.own_data.orders import make_orders
from benchmarks.report import Check, Rows

TWOTOWER = str(Path(sys.executable).with_name("twotower"))
USER = "C00680"
MAX_SECONDS = 180.0
SCRIPT = """
import json, sys
import pandas as pd
import twotower

orders = pd.read_csv("orders.csv")
with twotower.fit(orders, path="python-run").serve() as recommender:
    answer = recommender.client.recommend([sys.argv[1]], k=10)
    metrics = recommender.metrics.to_dict("index")
    print(json.dumps({"items": list(map(str, answer.item_ids[0])), "metrics": metrics}))
"""


def five_minutes(data: Path | None) -> tuple[Rows, list[Check]]:
    """Measure the path of a new user, on the command line and in Python."""
    with tempfile.TemporaryDirectory(prefix="two-tower-") as name:
        folder = Path(name)
        orders = make_orders()
        orders.to_csv(folder / "orders.csv", index=False)
        shop = _command_line(folder, "orders.csv", "orders")
        _, answer = call(
            folder, [TWOTOWER, "query", "--user", USER, "--json"], log="five-minutes-query"
        )
        items = _items(answer)
        seconds, output = call(
            folder, [sys.executable, "-c", SCRIPT, USER], log="five-minutes-python"
        )
        python = json.loads(output.splitlines()[-1])
        rows: Rows = {
            "five_minutes_orders": {"rows": len(orders), **shop},
            "five_minutes_python": {"seconds": round(seconds, 1), **_quality(python["metrics"])},
        }
        checks = [
            Check("seconds from a CSV to an answer", shop["seconds"], "<=", MAX_SECONDS),
            Check("answered over HTTP and gRPC", shop["answered"], "==", 1),
            Check("new items for a text id", _new_items(items, orders), "==", 10),
            Check("NDCG@10 by popularity's", shop["by_popularity"], ">=", 1.0),
            Check("seconds from pandas to an answer", seconds, "<=", MAX_SECONDS),
            Check("new items from Python", _new_items(python["items"], orders), "==", 10),
        ]
        if data is not None:
            films = _command_line(folder, _ratings(data, folder), "opinions", "--force")
            rows["five_minutes_ml_100k"] = films
            name = "ML-100K as CSV: NDCG@10 by popularity's"
            checks.append(Check(name, films["by_popularity"], ">=", 1.0))
    return rows, checks


def _command_line(folder: Path, file: str, run: str, *options: str) -> dict[str, Any]:
    """Run the two commands in `folder`; return their seconds and the quality of the run."""
    first, _ = call(folder, [TWOTOWER, "init", file, *options], log=f"five-minutes-init-{run}")
    second, output = call(folder, [TWOTOWER, "run"], log=f"five-minutes-run-{run}")
    report = json.loads((folder / "runs" / run / "reports" / "metrics.json").read_text())
    return {
        "init_seconds": round(first, 1),
        "run_seconds": round(second, 1),
        "seconds": round(first + second, 1),
        "answered": answered(output),
        **_quality(report["metrics"]),
    }


def _quality(metrics: dict[str, dict[str, float]]) -> dict[str, float]:
    """Return NDCG@10 of the model, and of the model over popularity."""
    model, popularity = metrics["two-tower"]["ndcg@10"], metrics["popularity"]["ndcg@10"]
    return {"ndcg@10": round(model, 4), "by_popularity": round(model / popularity, 2)}


def _items(output: str) -> list[str]:
    """Read the items of the first user from the output of `query --json`."""
    answer = json.loads(output[output.index("{\n") : output.rindex("}") + 1])
    return [each["item"] for each in answer["users"][0]["items"]]


def _new_items(items: list[str], orders: pd.DataFrame) -> int:
    """Count the different items of the file that the user has not ordered."""
    ordered = set(orders.loc[orders["customer"] == USER, "product"])
    return len((set(items) & set(orders["product"])) - ordered)


def _ratings(data: Path, folder: Path) -> str:
    names = ["person", "film", "stars", "seen_at"]
    ratings = pd.read_csv(data / "ml-100k" / "u.data", sep="\t", names=names)
    ratings.to_csv(folder / "opinions.csv", index=False)
    return "opinions.csv"
