"""The main job, measured as a new user meets it: fresh clones and the commands of the README.

    make bench-main DATA=<folder with ml-1m/ and ml-100k/> [PARTS='run quality ...']

Each part works in a temporary folder and writes its figures to results/main_job.json. Parts that
install packages start with an empty package cache, as on a new machine.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import click
import psutil

from benchmarks.child import ROOT, call, clone
from benchmarks.report import Check, Rows, measure_parts

RESULT = "main_job"
TWOTOWER = str(Path(sys.executable).with_name("twotower"))


def count_processes(project: Path) -> int:
    """Count the processes that run from `project` and do not end within ten seconds."""
    running = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        words = [*(process.info["cmdline"] or []), process.info["cwd"] or ""]
        if any(str(project) in word for word in words):
            running.append(process)
            click.echo(f"  still running: {' '.join(words)}")
    # A helper process of multiprocessing ends when it notices that its parent has ended.
    return len(psutil.wait_procs(running, timeout=10)[1])


def answered(output: str) -> int:
    """Return 1 if the run printed that it was answered over HTTP and gRPC, else 0.

    The run fails if the two answers differ.
    """
    return int(bool(re.search(r"answered over HTTP .* gRPC", output)))


def run(data: Path) -> tuple[Rows, list[Check]]:
    """Measure `make run` on ML-1M in a fresh clone, twice, and verify the served answers."""
    with clone() as project:
        ml_1m = ["make", "run", f"DATA={data / 'ml-1m'}"]
        ml_100k = ["make", "run", f"DATA={data / 'ml-100k'}"]
        verify = [".venv/bin/twotower", "verify"]
        first_seconds, first_output = call(project, ml_1m, log="run-1")
        folder = project / "runs" / "ml-1m"
        metrics = (folder / "reports" / "metrics.json").read_text()
        manifest = json.loads((folder / "manifest.json").read_text())
        _, verified_1m = call(project, verify, log="verify-ml-1m")
        second_seconds, second_output = call(project, ml_1m, log="run-2")
        same = metrics == (folder / "reports" / "metrics.json").read_text()
        call(project, ml_100k, log="run-ml-100k")
        _, verified_100k = call(project, verify, log="verify-ml-100k")
        left = count_processes(project)
    rows = {
        "make run on ML-1M": {
            "seconds with set-up": round(first_seconds, 1),
            "seconds with the environment present": round(second_seconds, 1),
            "seconds per step": {n: s["seconds"] for n, s in manifest["steps"].items()},
            "metrics": json.loads(metrics),
        },
        "verify": {"ml-1m": verified_1m.strip(), "ml-100k": verified_100k.strip()},
    }
    seconds = round(first_seconds, 1)
    brute_force = "500 users, k = 100, equal to brute force"
    return rows, [
        Check("make run on ML-1M with set-up, seconds", seconds, "<=", 600),
        Check("ML-1M: HTTP and gRPC answered equally", answered(first_output), "==", 1),
        Check("ML-1M: second run answered too", answered(second_output), "==", 1),
        Check("ML-1M: two runs, same metrics", int(same), "==", 1),
        Check(f"ML-1M: {brute_force}", _verified(verified_1m), "==", 1),
        Check(f"ML-100K: {brute_force}", _verified(verified_100k), "==", 1),
        Check("make run: processes left running", left, "==", 0),
    ]


def _verified(output: str) -> int:
    """Return 1 if `twotower verify`, which fails at a wrong answer, compared 500 users."""
    return int("500 users, k = 100" in output)


def synthetic(data: Path) -> tuple[Rows, list[Check]]:
    """Measure `make run` in a fresh clone without data and, once installed, without a network."""
    no_network = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    with clone() as project:
        setup_seconds, _ = call(project, ["make", "env"], log="env-synthetic")
        run_seconds, output = call(
            project, ["make", "run"], log="run-synthetic", variables=no_network
        )
        noticed = int("SYNTHETIC DATA" in output and (project / "runs" / "synthetic").is_dir())
    seconds = round(setup_seconds + run_seconds, 1)
    return {"make run without data": {"seconds with set-up": seconds}}, [
        Check("make run on synthetic data with set-up, seconds", seconds, "<=", 360),
        Check("synthetic: the run says that its data is synthetic", noticed, "==", 1),
        Check("synthetic: HTTP and gRPC answered equally", answered(output), "==", 1),
    ]


def tests(data: Path) -> tuple[Rows, list[Check]]:
    """Measure `make test` with data, as CI runs it."""
    return _tests("make test DATA", [f"DATA={data}"])


def tests_without_data(data: Path) -> tuple[Rows, list[Check]]:
    """Measure `make test` as a new user runs it."""
    return _tests("make test", [])


def tests_container_pins(data: Path) -> tuple[Rows, list[Check]]:
    """Measure the tests with the package versions of NVIDIA's container."""
    return _tests("make test DATA PYTHON=python3.10", [f"DATA={data}", "PYTHON=python3.10"])


def _tests(name: str, arguments: list[str]) -> tuple[Rows, list[Check]]:
    """Measure `make test` in a fresh clone: seconds with set-up, result, processes left."""
    with clone() as project:
        log = name.replace(" ", "-").replace("=", "-")
        seconds, output = call(project, ["make", "test", *arguments], log=log)
        left = count_processes(project)
    summary = re.findall(r"\d+ passed.*", output)[-1].strip("= ")
    return {name: {"seconds with set-up": round(seconds, 1), "result": summary}}, [
        Check(f"{name} with set-up, seconds", round(seconds, 1), "<=", 720),
        Check(f"{name}: processes left running", left, "==", 0),
    ]


def quality(data: Path) -> tuple[Rows, list[Check]]:
    """Evaluate EASE, popularity and our model on the frozen split of ML-1M."""
    with tempfile.TemporaryDirectory(prefix="two-tower-") as name:
        folder = Path(name)
        command = [
            TWOTOWER,
            "run",
            "--config",
            str(ROOT / "configs/ml-1m.yaml"),
            "--data",
            str(data / "ml-1m"),
            "--set",
            "split.method=file",
            "--set",
            f"split.path={data / 'ml-1m' / 'recbole_split.parquet'}",
            "--set",
            "split.k_core=0",
            "--set",
            "evaluation.baselines=[popularity,random,itemknn,ease]",
        ]
        call(folder, command, log="frozen-split")
        run_folder = folder / "runs" / "ml-1m"
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


def bad_input(data: Path) -> tuple[Rows, list[Check]]:
    """Count the kinds of bad files and bad requests that the tests refuse with a clear error."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/workflows/test_bad_files.py",
        "tests/serving/test_retrieval.py",
        "-k",
        "bad",
    ]
    seconds, output = call(ROOT, command, log="bad-input")
    kinds = count_passed(output)
    return {"bad input": {"kinds": kinds, "seconds": round(seconds, 1)}}, [
        Check("kinds of bad input refused with a clear error", kinds, ">=", 20)
    ]


def count_passed(output: str) -> int:
    """Read from pytest's output how many tests passed; 0 if it does not say."""
    passed = re.search(r"(\d+) passed", output)
    return int(passed.group(1)) if passed else 0


def image(data: Path) -> tuple[Rows, list[Check]]:
    """Build the CPU image with buildah and run the main job inside it.

    Needs root, buildah and a base image without a compiler (`make docker-base`); BASE, BUILD_FLAGS
    and buildah's own variables are read from the environment.
    """
    buildah = ["ENGINE=buildah", "CPU=1", "IMAGE=two-tower:benchmark"]
    find_compiler = "CMD=sh -c 'command -v gcc cc clang || echo none'"
    with clone() as project:
        build_seconds, _ = call(project, ["make", "docker-build", *buildah], log="image-build")
        run_seconds, output = call(
            project,
            ["make", "docker-run", *buildah, "CONFIG=configs/synthetic.yaml"],
            log="image-run",
        )
        _, compilers = call(
            project, ["make", "docker-run", *buildah, find_compiler], log="image-compiler"
        )
    listed = subprocess.run(
        ["buildah", "images", "--json"], capture_output=True, text=True, check=True
    )
    sizes = {name: i["size"] for i in json.loads(listed.stdout) for name in i.get("names") or []}
    size = next(size for name, size in sizes.items() if name.endswith("two-tower:benchmark"))
    rows = {
        "size": size,
        "build, seconds": round(build_seconds, 1),
        "synthetic main job inside, seconds": round(run_seconds, 1),
    }
    return {"CPU image on a bare Debian base": rows}, [
        Check("CPU image: synthetic main job answered over HTTP", answered(output), "==", 1),
        Check("CPU image: compilers in it", int("none" not in compilers.split()), "==", 0),
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
    """Measure the parts (default: all except image) one after another, on an idle machine."""
    names = parts or [part for part in PARTS if part != "image"]
    measure_parts(RESULT, {name: partial(PARTS[name], data.resolve()) for name in names})


if __name__ == "__main__":
    main()
