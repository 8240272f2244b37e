"""Checks the health of a running server from outside."""

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
from twotower.serving.runtime.tensors import NO_VALUE
from twotower.serving.triton.control import MODEL_NAME
from twotower.serving.triton.server import DIRECT, resolve_host

PROCESSES = {"Triton": "tritonserver", "model": "triton_python_b"}
"""Names of the processes, which the kernel cuts to 15 characters."""
FIRST_FIXED = (2, 69)
"""Version of Triton 26.05, the first without the known vulnerabilities; see docs/security.md."""


def check_server(http: str, metrics: str, pid: int) -> list[Check]:
    """Check a running server.

    Parameters
    ----------
    http, metrics : str
        "host:port" of its services.
    pid : int
        Id of its process, or of one that started it.

    Returns
    -------
    list of Check
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
    """Check that an unknown user gets an answer, by which version, and how fast."""
    try:
        with RetrievalClient(http) as client:
            nobody = NO_VALUE[client.user_id_type()]  # which is no user's id
            seconds = []
            for _ in range(times):
                started = time.perf_counter()
                answer = client.recommend([nobody])
                seconds.append(time.perf_counter() - started)
    except ServingError as error:
        return Check("answers", False, str(error), "see the server's log")
    median = statistics.median(seconds) * 1e3
    return Check("answers", True, f"version {answer.version}, {median:.1f} ms by this client")


def _loopback(http: str) -> Check:
    host = http.rpartition(":")[0]
    if ipaddress.ip_address(resolve_host(host)).is_loopback:
        return Check("reached from", True, f"this machine only ({host})")
    return Check("reached from", False, host, "Triton does not authenticate clients: use 127.0.0.1")


def _model_control(http: str) -> Check:
    """Check that loading a model needs the key, by loading one that cannot exist."""
    status, text = _fetch(f"http://{http}/v2/repository/models/-/load", b"{}")
    if status == 403:
        return Check("model control", True, "only with the server's key")
    if "not allowed" in text:
        return Check("model control", True, "off")
    return Check("model control", False, "open to everyone", "start it with `twotower serve`")


def _version(http: str) -> Check:
    version = json.loads(_fetch(f"http://{http}/v2")[1])["version"]
    advice = ""
    if tuple(map(int, version.split(".")[:2])) < FIRST_FIXED:
        advice = "older than 26.05, with known vulnerabilities (CVE-2025-23310): use loopback only"
    return Check("Triton", True, version, advice)


def _counted(metrics: str) -> list[Check]:
    """Check the model's own metrics."""
    counts: dict[tuple[str, str], float] = {}
    _, text = _fetch(f"http://{metrics}/metrics")
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = [v for k, v in sample.labels.items() if k != "version"]
            key = (sample.name, "".join(labels))
            counts[key] = counts.get(key, 0) + sample.value

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
        Check("users", True, f"{asked:,.0f}, {unknown:,.0f} of them unknown"),
        Check("ms per batch", True, stages or "none"),
    ]


def _memory(pid: int) -> Check:
    resident: Counter[str] = Counter()
    with suppress(psutil.NoSuchProcess):  # it runs in another container
        whole = psutil.Process(pid)
        for process in (whole, *whole.children(recursive=True)):
            resident[process.name()[:15]] += process.memory_info().rss
    if not resident[PROCESSES["Triton"]]:
        return Check("memory", True, "unknown: the server is not a process of this container")
    shown = [f"{name} {resident[process] / 1e6:.0f} MB" for name, process in PROCESSES.items()]
    return Check("memory", True, ", ".join(shown))


def _fetch(url: str, body: bytes | None = None) -> tuple[int, str]:
    """Return status and text of an answer, or 0 and the reason if there is none."""
    try:
        with DIRECT.open(urllib.request.Request(url, body), timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")
    except OSError as error:
        return 0, str(error)
