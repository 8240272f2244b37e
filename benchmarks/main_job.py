"""The main job measured as a newcomer meets it: fresh clones, the README's commands.

    make bench-main DATA=<folder with ml-1m/ and ml-100k/> [PARTS='run quality ...']

Every part works in a temporary folder and merges its figures into results/main_job.json. Parts
that install packages use an empty cache, so set-up is what it is on a fresh machine with this
network.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import click
import psutil

from benchmarks.report import Check, measure_parts

ROOT = Path(__file__).resolve().parents[1]
RESULT = "main_job"


@contextmanager
def clone():
    """A fresh clone of the committed project, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="two-tower-") as folder:
        project = Path(folder) / "project"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(project)], check=True)
        yield project


def call(project: Path, *command: str, log: str, **variables: str) -> tuple[float, str]:
    """Run a command in `project` with an empty package cache; (seconds, output)."""
    # What this make was called with must not reach the makes that it measures.
    ours = ("VIRTUAL_ENV", "MAKE", "MFLAGS", "DATA", "PARTS", "CONFIG", "SET", "PYTHON", "TF_CPP")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    environment |= {"UV_CACHE_DIR": str(project.parent / "cache"), "COLUMNS": "100", **variables}
    path = ROOT / "runs" / "benchmarks" / f"{log}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    with path.open("w") as output:
        done = subprocess.run(
            command,
            cwd=project,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    seconds = time.perf_counter() - started
    if done.returncode:
        raise click.ClickException(f"{' '.join(command)} ended with {done.returncode}: see {path}")
    return seconds, path.read_text()


def processes_of(project: Path) -> int:
    """Processes running out of `project` that do not end within seconds by themselves."""
    running = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        words = [*(process.info["cmdline"] or []), process.info["cwd"] or ""]
        if any(str(project) in word for word in words):
            running.append(process)
            click.echo(f"  still there: {' '.join(words)}")
    # A helper of multiprocessing ends when it notices that its parent has.
    return len(psutil.wait_procs(running, timeout=10)[1])


def answered(output: str) -> int:
    """1 when the run printed that HTTP and gRPC answered equally."""
    return int(bool(re.search(r"answered over HTTP .* and gRPC .*equal", output)))


def run(data: Path) -> tuple[dict, list[Check]]:
    """Fresh clone, `make run` on ML-1M, then again: time, equal answers, equal metrics, verify."""
    with clone() as project:
        ml_1m = f"DATA={data / 'ml-1m'}"
        first, output = call(project, "make", "run", ml_1m, log="run-1")
        folder = project / "runs" / "ml-1m"
        metrics = (folder / "reports" / "metrics.json").read_text()
        manifest = json.loads((folder / "manifest.json").read_text())
        served = call(project, ".venv/bin/twotower", "verify", log="verify-ml-1m")[1]
        second, again = call(project, "make", "run", ml_1m, log="run-2")
        same = metrics == (folder / "reports" / "metrics.json").read_text()
        call(project, "make", "run", f"DATA={data / 'ml-100k'}", log="run-ml-100k")
        served_100k = call(project, ".venv/bin/twotower", "verify", log="verify-ml-100k")[1]
        left = processes_of(project)
    rows = {
        "make run on ML-1M": {
            "seconds with set-up": round(first, 1),
            "seconds with the environment present": round(second, 1),
            "seconds per step": {n: s["seconds"] for n, s in manifest["steps"].items()},
            "metrics": json.loads(metrics),
        },
        "verify": {"ml-1m": served.strip(), "ml-100k": served_100k.strip()},
    }
    return rows, [
        Check("make run on ML-1M with set-up, seconds", round(first, 1), "<=", 600),
        Check("ML-1M: HTTP and gRPC answered, equal", answered(output), "==", 1),
        Check("ML-1M: second run answered too", answered(again), "==", 1),
        Check("ML-1M: two runs, same metrics", int(same), "==", 1),
        Check("ML-1M: 500 users, k 100, equal to brute force", _verified(served), "==", 1),
        Check("ML-100K: 500 users, k 100, equal to brute force", _verified(served_100k), "==", 1),
        Check("make run leaves processes", left, "==", 0),
    ]


def _verified(output: str) -> int:
    return int("500 users, k = 100: every id as brute force has it" in output)


def synthetic(data: Path) -> tuple[dict, list[Check]]:
    """Fresh clone, `make run` without data or network (once installed): synthetic data it is."""
    nowhere = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    with clone() as project:
        setup, _ = call(project, "make", "env", log="env-synthetic")
        seconds, output = call(project, "make", "run", log="run-synthetic", **nowhere)
        seconds += setup
        noticed = int("SYNTHETIC DATA" in output and (project / "runs" / "synthetic").is_dir())
    return {"make run without data": {"seconds with set-up": round(seconds, 1)}}, [
        Check("make run on synthetic data with set-up, seconds", round(seconds, 1), "<=", 360),
        Check("synthetic: the notice is there", noticed, "==", 1),
        Check("synthetic: HTTP and gRPC answered, equal", answered(output), "==", 1),
    ]


def tests(data: Path) -> tuple[dict, list[Check]]:
    """`make test` with data, as CI runs it."""
    return _tests("make test DATA", f"DATA={data}")


def tests_without_data(data: Path) -> tuple[dict, list[Check]]:
    """`make test` as a newcomer runs it."""
    return _tests("make test")


def tests_container_pins(data: Path) -> tuple[dict, list[Check]]:
    """The tests on the versions of NVIDIA's container."""
    return _tests("make test DATA PYTHON=python3.10", f"DATA={data}", "PYTHON=python3.10")


def _tests(name: str, *arguments: str) -> tuple[dict, list[Check]]:
    """Fresh clone, `make test`: time with set-up, result, processes left."""
    with clone() as project:
        log = name.replace(" ", "-").replace("=", "-")
        seconds, output = call(project, "make", "test", *arguments, log=log)
        left = processes_of(project)
    summary = re.findall(r"\d+ passed.*", output)[-1].strip("= ")
    return {name: {"seconds with set-up": round(seconds, 1), "result": summary}}, [
        Check(f"{name} with set-up, seconds", round(seconds, 1), "<=", 720),
        Check(f"{name} leaves processes", left, "==", 0),
    ]


def quality(data: Path) -> tuple[dict, list[Check]]:
    """The frozen split of ML-1M: the evaluator on EASE and popularity, and our model."""
    with tempfile.TemporaryDirectory(prefix="two-tower-") as folder:
        split = data / "ml-1m" / "recbole_split.parquet"
        overrides = (
            *("split.method=file", f"split.path={split}", "split.k_core=0"),
            "evaluation.baselines=[popularity,random,itemknn,ease]",
        )
        command = [str(ROOT / "configs/ml-1m.yaml"), "--data", str(data / "ml-1m")]
        flags = [word for override in overrides for word in ("--set", override)]
        twotower = str(ROOT / ".venv/bin/twotower")
        call(Path(folder), twotower, "run", "--config", *command, *flags, log="frozen-split")
        run_folder = Path(folder) / "runs" / "ml-1m"
        report = json.loads((run_folder / "reports" / "metrics.json").read_text())
        notes = json.loads((run_folder / "manifest.json").read_text())["steps"]["train"]["notes"]
    values = report["metrics"]
    report["protocol"]["split"] = "frozen split of ML-1M, read from file"
    checks = [
        Check(f"frozen split: {name} {metric}", round(values[name][metric], 4), "==", limit)
        for name, metric, limit in (
            ("ease", "recall@10", 0.2100),
            ("ease", "ndcg@10", 0.2870),
            ("popularity", "recall@10", 0.0771),
            ("popularity", "ndcg@10", 0.1181),
        )
    ]
    ours = round(values["two-tower"]["ndcg@10"], 4)
    checks.append(Check("frozen split: two-tower test ndcg@10", ours, ">=", 0.2407))
    return {"frozen split": {**report, "training": notes}}, checks


def bad_input(data: Path) -> tuple[dict, list[Check]]:
    """The tables of bad files and bad requests: how many kinds, all answered as documented."""
    seconds, output = call(
        ROOT,
        *(str(ROOT / ".venv/bin/python"), "-m", "pytest", "-q", "-p", "no:cacheprovider"),
        *("tests/workflows/test_bad_files.py", "tests/serving/test_retrieval.py", "-k", "bad"),
        log="bad-input",
    )
    kinds = int(re.search(r"(\d+) passed", output).group(1))
    return {"bad input": {"kinds": kinds, "seconds": round(seconds, 1)}}, [
        Check("kinds of bad input refused with a clear error", kinds, ">=", 20)
    ]


def image(data: Path) -> tuple[dict, list[Check]]:
    """The CPU image built with buildah on the base image $BASE; the main job inside it.

    Needs root, buildah and a base without a compiler (`make docker-base`); BASE, BUILD_FLAGS and
    buildah's own variables are taken from the environment.
    """
    with clone() as project:
        buildah = ("ENGINE=buildah", "CPU=1", "IMAGE=two-tower:benchmark")
        built, _ = call(project, "make", "docker-build", *buildah, log="image-build")
        synthetic = "CONFIG=configs/synthetic.yaml"
        ran, output = call(project, "make", "docker-run", *buildah, synthetic, log="image-run")
        compiler = "CMD=sh -c 'command -v gcc cc clang || echo none'"
        found = call(project, "make", "docker-run", *buildah, compiler, log="image-compiler")[1]
    listed = subprocess.run(
        ["buildah", "images", "--json"], capture_output=True, text=True, check=True
    )
    sizes = {name: i["size"] for i in json.loads(listed.stdout) for name in i.get("names") or []}
    size = next(size for name, size in sizes.items() if name.endswith("two-tower:benchmark"))
    rows = {
        "size": size,
        "build, seconds": round(built, 1),
        "synthetic main job inside, seconds": round(ran, 1),
    }
    return {"CPU image on a bare Debian base": rows}, [
        Check("CPU image: synthetic main job answered over HTTP", answered(output), "==", 1),
        Check("CPU image: compilers in it", int("none" not in found.split()), "==", 0),
    ]


PARTS = {
    "run": run,
    "synthetic": synthetic,
    "tests": tests,
    "tests_without_data": tests_without_data,
    "tests_container_pins": tests_container_pins,
    "quality": quality,
    "bad_input": bad_input,
    "image": image,
}


@click.command()
@click.option("--data", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--part", "parts", multiple=True, type=click.Choice(list(PARTS)))
def main(data: Path, parts: tuple[str, ...]) -> None:
    """Measure the parts (default: all but the image) one after another, on an idle machine."""
    names = parts or [part for part in PARTS if part != "image"]
    measure_parts(RESULT, {name: partial(PARTS[name], data.resolve()) for name in names})


if __name__ == "__main__":
    main()
