"""How a running server is: asked from outside, as an operator would."""

from __future__ import annotations

import ipaddress
import json
import statistics
import time
import urllib.error
import urllib.request
from collections import Counter
from contextlib import suppress

import psutil
from prometheus_client.parser import text_string_to_metric_families

from twotower.serving.client import RetrievalClient
from twotower.serving.doctor import Check
from twotower.serving.runtime.errors import ServingError
from twotower.serving.triton.control import MODEL_NAME
from twotower.serving.triton.server import DIRECT, resolve_host

PROCESSES = {"Triton": "tritonserver", "model": "triton_python_b"}
"""What the kernel calls them, in 15 characters."""
MENDED = (2, 60)
"""Triton 25.08, the first number that is surely without CVE-2025-23310, -23311 and -23319."""


def check_server(http: str, metrics: str, pid: int) -> list[Check]:
    """Ask a running server how it is.

    Parameters
    ----------
    http, metrics : "host:port" of its services
    pid : its process, or one that started it
    """
    checks = [
        _reached("live", f"http://{http}/v2/health/live"),
        _reached("ready", f"http://{http}/v2/models/{MODEL_NAME}/ready"),
    ]
    if not all(check.ok for check in checks):
        return checks
    return [
        *checks,
        _answers(http),
        _loopback(http),
        _model_control(http),
        _version(http),
        *_counted(metrics),
        _memory(pid),
    ]


def _reached(name: str, url: str) -> Check:
    status, text = _fetch(url)
    if status == 200:
        return Check(name, True, "yes")
    return Check(name, False, text or f"status {status}", "see the server's log")


def _answers(http: str, times: int = 20) -> Check:
    """Whether a stranger is answered, by which version, and how fast."""
    try:
        with RetrievalClient(http) as client:
            seconds = []
            for _ in range(times):
                started = time.perf_counter()
                answer = client.recommend([-1])
                seconds.append(time.perf_counter() - started)
    except ServingError as error:
        return Check("answers", False, str(error), "see the server's log")
    median = statistics.median(seconds) * 1e3
    return Check("answers", True, f"version {answer.version}, {median:.1f} ms by this client")


def _loopback(http: str) -> Check:
    host = http.rpartition(":")[0]
    if ipaddress.ip_address(resolve_host(host)).is_loopback:
        return Check("reached from", True, f"this machine alone ({host})")
    return Check("reached from", False, host, "Triton asks nobody who they are: use 127.0.0.1")


def _model_control(http: str) -> Check:
    """Whether somebody without the key could load a model. Asks for one that cannot exist."""
    status, text = _fetch(f"http://{http}/v2/repository/models/-/load", b"{}")
    if status == 403:
        return Check("model control", True, "with the server's key alone")
    if "not allowed" in text:
        return Check("model control", True, "off")
    return Check("model control", False, "open to everybody", "start it with `twotower serve`")


def _version(http: str) -> Check:
    version = json.loads(_fetch(f"http://{http}/v2")[1])["version"]
    advice = ""
    if tuple(map(int, version.split(".")[:2])) < MENDED:
        advice = "older than 25.07, with known holes (CVE-2025-23310): for loopback alone"
    return Check("Triton", True, version, advice)


def _counted(metrics: str) -> list[Check]:
    """What the model's own metrics say."""
    counts: Counter[tuple[str, str]] = Counter()
    _, text = _fetch(f"http://{metrics}/metrics")
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = [v for k, v in sample.labels.items() if k != "version"]
            counts[sample.name, "".join(labels)] += sample.value

    def of(name: str) -> dict[str, float]:
        return {label: value for (metric, label), value in counts.items() if metric == name}

    requests, users = of("twotower_requests_total"), of("twotower_users_total")
    failed = requests.get("failed", 0)
    outcomes = ", ".join(f"{count:,.0f} {outcome}" for outcome, count in sorted(requests.items()))
    unknown, asked = users.get("false", 0), sum(users.values())
    batches = max(of("twotower_batches_total").get("", 0), 1)
    stages = ", ".join(
        f"{stage} {seconds / batches * 1e3:.2f}"
        for stage, seconds in of("twotower_stage_seconds_total").items()
    )
    return [
        Check("requests", not failed, outcomes or "none", "see the server's log" if failed else ""),
        Check("users", True, f"{asked:,.0f}, of them {unknown:,.0f} unknown"),
        Check("ms a batch", True, stages or "none"),
    ]


def _memory(pid: int) -> Check:
    resident: Counter[str] = Counter()
    with suppress(psutil.NoSuchProcess):  # seen from another container
        whole = psutil.Process(pid)
        for process in (whole, *whole.children(recursive=True)):
            resident[process.name()[:15]] += process.memory_info().rss
    if not resident[PROCESSES["Triton"]]:
        return Check("memory", True, "not known: the server is no process of this container")
    shown = [f"{name} {resident[process] / 1e6:.0f} MB" for name, process in PROCESSES.items()]
    return Check("memory", True, ", ".join(shown))


def _fetch(url: str, body: bytes | None = None) -> tuple[int, str]:
    """Status and text of an answer; status 0 and the reason when there is none."""
    try:
        with DIRECT.open(urllib.request.Request(url, body), timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")
    except OSError as error:
        return 0, str(error)
