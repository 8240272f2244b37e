"""Markdown tables of the figures in benchmarks/results/*.json."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.quality.ranking import LARGE, LAST_FM
from benchmarks.report import RESULTS
from benchmarks.serving.subjects import IDENTITY, MERLIN, OURS, STOCK
from benchmarks.serving.subjects import SUBJECTS as SERVED
from benchmarks.training.process import STOCK as STOCK_TRAINING
from benchmarks.training.process import SUBJECTS as TRAINED
from benchmarks.training.process import TFRS
from benchmarks.training.summary import TARGET, seconds_to_target

PUBLISHED = Path(__file__).parent / "quality" / "published.json"
# The cells of the speed measurement that the table shows: wire format, users, clients.
SPEED_CELLS = (
    ("http json", 1, 1),
    ("http json", 1, 16),
    ("http json", 1, 64),
    ("http json", 8, 16),
    ("http binary", 64, 1),
    ("http binary", 256, 1),
    ("http json", 256, 1),
    ("grpc", 1, 1),
    ("grpc", 1, 16),
    ("grpc", 64, 1),
    ("grpc", 256, 1),
)
QUALITY_METRICS = {"recall@10": "Recall", "ndcg@10": "NDCG", "mrr@10": "MRR", "hit@10": "Hit"}
NAMES = {"ease": "EASE", "itemknn": "ItemKNN", "popularity": "popularity", "random": "random"}


def speed() -> str:
    """Latency and throughput of the served model and its peers, ratios, start and memory."""
    rows = results("serving")["rows"]
    cells = {
        (each["wire"], each["batch"], each["clients"], each["subject"]): (
            f"{each['p50_ms']:.2f} / {each['p99_ms']:.1f}, {each['requests_per_s']:,.0f}"
        )
        for each in rows["speed"]["cells"]
    }
    latency = table(
        ["p50 / p99 in ms, requests/s", *SERVED],
        (
            [
                f"{wire}, {count(users, 'user')}, {count(clients, 'client')}",
                *(cells.get((wire, users, clients, subject), "") for subject in SERVED),
            ]
            for wire, users, clients in SPEED_CELLS
        ),
    )
    ratios = table(
        ["ratio", "HTTP", "gRPC"],
        (
            [text, *(f"{rows['ratios'][f'{wire}: {name}']:.2f}" for wire in ("http", "grpc"))]
            for text, name in (
                (
                    f"p50 of 1 user, 1 client: ours over {IDENTITY}",
                    "p50 at batch 1, one client, times identity",
                ),
                (
                    f"throughput, 16 clients: ours over {IDENTITY}",
                    "16 clients, throughput over identity's",
                ),
                ("p99 over p50, 16 clients: ours", "16 clients, p99 over p50"),
                (
                    "p50: 256 users in one request over 1 user: ours (HTTP: binary tensors)",
                    "p50 of 256 users in one request, times ours at batch 1",
                ),
                (f"p50 of 1 user: {STOCK} over ours", "stock ensemble's p50 over ours"),
                (f"p50 of 1 user: {MERLIN} over ours", "runtime merlin's p50 over ours"),
            )
        ),
    )
    servers = table(
        ["server", "ready after, s", "model process, MB", "with Triton, MB"],
        (
            [name, *(f"{server[key]:g}" for key in ("ready_s", "model_mb", "whole_mb"))]
            for name, server in rows["servers"].items()
            if name != "commit"
        ),
    )
    return "\n\n".join((latency, ratios, servers))


def training() -> str:
    """Training speed and memory by batch size, time to a target, and vocabulary size."""
    rows = results("training")["rows"]
    cells = {
        (each["batch_size"], each["subject"]): each.get("failed")
        or f"{each['rows_per_s']:,}; {each['peak_gb']:.1f} GB"
        for each in rows["speed"]["cells"]
    }
    sizes = sorted({size for size, _ in cells})
    speeds = table(
        ["rows/s; peak memory, by batch size", *TRAINED],
        ([f"{size:,}", *(cells.get((size, each), "") for each in TRAINED)] for size in sizes),
    )
    curves = sorted(rows["quality"]["curves"], key=seconds_to_target)
    subjects = dict.fromkeys(curve["subject"] for curve in curves)
    best = [next(each for each in curves if each["subject"] == subject) for subject in subjects]
    times = table(
        [f"training seconds to NDCG@10 {TARGET}", "seconds", "epochs"],
        (
            [curve["subject"], f"{reached:.1f}", str(1 + curve["seconds"].index(reached))]
            for curve in best
            if (reached := seconds_to_target(curve)) < float("inf")
        ),
    )
    small, large = (f"{users:,} users" for users, _ in rows["vocabulary"]["users and items"])
    vocabulary = table(
        ["ms per step; optimizer, batch size", small, large, "ratio", "peak GB of the larger"],
        (
            [
                name,
                *(f"{each:g}" for each in row["ms per step"]),
                f"{row['ratio']:g}",
                f"{row['peak GB of the larger']:g}",
            ]
            for name, row in rows["vocabulary"].items()
            if isinstance(row, dict)
        ),
    )
    return "\n\n".join((speeds, times, vocabulary))


def quality() -> str:
    """Test metrics on the frozen split of ML-1M, top-100 accuracy, and leave-last-out."""
    rows = results("quality")["rows"]
    frozen = results("main_job")["rows"]["frozen split"]["metrics"]
    published = json.loads(PUBLISHED.read_text())
    models = {
        "**two-tower, `configs/ml-1m-history.yaml`, answered by the server**": rows["frozen"][
            "mean"
        ],
        "two-tower, `configs/ml-1m.yaml` (softmax over ids and features)": frozen["two-tower"],
        **{f"{NAMES[name]}, same split": frozen[name] for name in NAMES},
        **{
            f"published, other splits of the protocol: {name}": metrics
            for name, metrics in published["full catalogue, 8:1:1 at random"].items()
        },
    }
    metrics = table(
        ["test, k = 10", *QUALITY_METRICS.values()],
        (
            [name, *(share(values[metric]) for metric in QUALITY_METRICS)]
            for name, values in models.items()
        ),
    )
    accuracies = rows["tutorial"]["top-100 accuracy"]
    accuracy = table(
        [
            "ML-100K, protocol of TFRS's tutorial: top-100 accuracy",
            *next(iter(accuracies.values())),
        ],
        ([_named(name), *map(share, values.values())] for name, values in accuracies.items()),
    )
    last_out = rows["last out"]
    last = table(
        ["ML-1M, leave last out, k = 10", "Recall", "NDCG"],
        (
            [name, share(values["recall@10"]), share(values["ndcg@10"])]
            for name, values in (
                *((_named(name), values) for name, values in last_out["metrics"].items()),
                *((f"published: {n}", values) for n, values in last_out["published"].items()),
            )
        ),
    )
    return "\n\n".join((metrics, accuracy, last))


def main_job() -> str:
    """Seconds of the main job, of its steps and of the tests."""
    rows = results("main_job")["rows"]
    ml_1m, image = rows["make run on ML-1M"], rows["CPU image on a bare Debian base"]
    seconds = {
        "`make run` on ML-1M, with set-up": ml_1m["seconds with set-up"],
        **{f"its step `{step}`": value for step, value in ml_1m["seconds per step"].items()},
        "`make run` on ML-1M, environment present": ml_1m["seconds with the environment present"],
        "`make run` on synthetic data, with set-up": rows["make run without data"][
            "seconds with set-up"
        ],
        "build the CPU image": image["build, seconds"],
        "`make run` on synthetic data in the CPU image": image[
            "synthetic main job inside, seconds"
        ],
    }
    lines = [[name, f"{value:g}", ""] for name, value in seconds.items()]
    lines += [
        [f"`{name}`, with set-up", f"{row['seconds with set-up']:g}", _outcome(row["result"])]
        for name, row in rows.items()
        if name.startswith("make test")
    ]
    return table(["main job", "seconds", ""], lines)


def faults() -> str:
    """What kills left behind, how pairs of commands ended, memory, and the ranking's speed."""
    rows = results("faults")["rows"]
    commands = [each for each in rows["kills"]["commands"] if not each["reported done"]]
    left = Counter((each["verb"], each["outcome"]) for each in commands)
    outcomes = ("old", "resumed", "new")
    kills = table(
        ["killed command", "kills", "old state", "old state, resumable", "new state", "other"],
        (
            [
                f"`{verb}`",
                str(sum(each["verb"] == verb for each in commands)),
                *(str(left[verb, outcome]) for outcome in outcomes),
                str(sum(n for (v, o), n in left.items() if v == verb and o not in outcomes)),
            ]
            for verb in sorted({each["verb"] for each in commands})
        ),
    )
    ends = Counter(tuple(sorted(each["ended"])) for each in rows["pairs"]["commands"])
    pairs = table(
        ["two commands at the same time ended", "pairs"],
        ([" and ".join(ended), str(number)] for ended, number in ends.most_common()),
    )
    name = "model process, MB: "
    memory = table(
        [f"memory of the model process, {rows['memory']['users']:,} users", "MB"],
        (
            [key.removeprefix(name), f"{value:g}"]
            for key, value in rows["memory"].items()
            if key.startswith(name) and not isinstance(value, list)
        ),
    )
    ranking = table(
        ["evaluation of towers", "users ranked", "seconds", "times `faiss.knn`"],
        (
            [
                f"{data.users:,} users x {data.items:,} items",
                f"{towers['users ranked']:,}",
                f"{towers['seconds']:g}",
                f"{towers['times faiss.knn']:g}",
            ]
            for data, towers in (
                (LAST_FM, rows["evaluation"]["Last.fm"]["towers"]),
                (LARGE, rows["evaluation"]["large"]["towers"]),
            )
        ),
    )
    return "\n\n".join((kills, pairs, memory, ranking))


def checks() -> str:
    """Every check of every benchmark."""
    return table(
        ["benchmark", "check", "measured", "limit"],
        (
            [
                path.stem,
                check["name"],
                f"{check['value']:g}",
                check["limit"] + (" **does not hold**" if not check["holds"] else ""),
            ]
            for path in sorted(RESULTS.glob("*.json"))
            for check in json.loads(path.read_text())["checks"]
        ),
    )


def headline() -> str:
    """The most important figures."""
    serving, trained = results("serving")["rows"], results("training")["rows"]
    served = {
        (each["wire"], each["clients"], each["subject"]): each
        for each in serving["speed"]["cells"]
        if each["batch"] == 1
    }
    rows_per_s = {
        each["subject"]: each["rows_per_s"]
        for each in trained["speed"]["cells"]
        if each["batch_size"] == 4_096 and "failed" not in each
    }
    mean = results("quality")["rows"]["frozen"]["mean"]
    ease = results("main_job")["rows"]["frozen split"]["metrics"]["ease"]
    run = results("main_job")["rows"]["make run on ML-1M"]["seconds with set-up"]
    first_answer = median(serving["start-up"]["first answer after, s"])
    held = [check["holds"] for path in RESULTS.glob("*.json") for check in _checks_of(path)]
    http, grpc = "http json", "grpc"
    return table(
        ["", "this project", "beside it"],
        [
            [
                "ML-1M, frozen split: Recall@10, NDCG@10 of the served model",
                f"{share(mean['recall@10'])}, {share(mean['ndcg@10'])}",
                f"EASE: {share(ease['recall@10'])}, {share(ease['ndcg@10'])}",
            ],
            [
                "p50 of 1 user, HTTP, gRPC",
                f"{served[http, 1, OURS]['p50_ms']:.2f}, {served[grpc, 1, OURS]['p50_ms']:.2f} ms",
                f"{STOCK}: {served[http, 1, STOCK]['p50_ms']:.2f}, "
                f"{served[grpc, 1, STOCK]['p50_ms']:.2f} ms",
            ],
            [
                "requests/s of 16 clients, HTTP",
                f"{served[http, 16, OURS]['requests_per_s']:,.0f}",
                f"{STOCK}: {served[http, 16, STOCK]['requests_per_s']:,.0f}",
            ],
            [
                "training rows/s at batch size 4,096",
                f"{rows_per_s['ours']:,}",
                f"{STOCK_TRAINING}: {rows_per_s[STOCK_TRAINING]:,}; {TFRS}: {rows_per_s[TFRS]:,}",
            ],
            ["`make run` on ML-1M with set-up, seconds", f"{run:g}", ""],
            ["first answer after starting the server, seconds", f"{first_answer:g}", ""],
            ["checks that hold", f"{sum(held)} of {len(held)}", ""],
        ],
    )


TABLES: dict[str, Callable[[], str]] = {
    "headline": headline,
    "quality": quality,
    "training": training,
    "speed": speed,
    "main-job": main_job,
    "faults": faults,
    "checks": checks,
}


def results(name: str) -> dict[str, Any]:
    """Read benchmarks/results/<name>.json."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def _checks_of(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text())["checks"]


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format a Markdown table."""
    lines = [[f" {cell} " if cell else " " for cell in line] for line in (header, *rows)]
    lines.insert(1, ["---"] * len(header))
    return "\n".join(f"|{'|'.join(line)}|" for line in lines)


def count(number: int, noun: str) -> str:
    """Format a number with its noun: "1 user", "8 users"."""
    return f"{number} {noun}" + "s" * (number != 1)


def share(value: float) -> str:
    """Format a share with four decimals and without its leading zero."""
    return f"{value:.4f}".removeprefix("0")


def _named(model: str) -> str:
    return NAMES.get(model, model)


def _outcome(result: str) -> str:
    """Shorten pytest's last line to the numbers of tests."""
    return result.partition(" in ")[0]
