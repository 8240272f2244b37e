"""The Helm chart: rendered by helm, valid for Kubernetes, and started with options that exist."""

from __future__ import annotations

import copy
import functools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from twotower.pipelines.cli import main
from twotower.pipelines.config import CONFIGS, load_config

CHART = Path(__file__).resolve().parents[2] / "docker" / "helm" / "two-tower"
HELM = shutil.which("helm") or shutil.which("helm", path=f"{sys.prefix}-tools/bin")
needs_helm = pytest.mark.skipif(HELM is None, reason="needs helm: make helm")
# The oldest is that of Chart.yaml.
OLDEST, NEWEST = "1.25", kubernetes_validate.latest_version()
MINIMAL = {"image": {"tag": "1.4.0"}, "volume": {"claim": "runs"}, "run": "ml-1m"}
EVENTS = {"redis": "redis://redis:6380/0", "existingSecret": "keys"}
VARIANTS: dict[str, dict[str, Any]] = {
    "minimal": {},
    "pinned": {"modelVersion": 7, "image": {"digest": f"sha256:{'0' * 64}"}},
    "no autoscaler": {"autoscaling": {"enabled": False}, "replicas": 3},
    "CPU only": {"autoscaling": {"queueTime": {"enabled": False}}},
    "events": {"events": EVENTS},
    "no network policy": {"networkPolicy": {"enabled": False}},
    "gateway": {
        "networkPolicy": {"gateway": {"podSelector": {"matchLabels": {"app": "ingress"}}}},
    },
    "nodes": {
        "nodeSelector": {"pool": "serving"},
        "tolerations": [{"key": "serving", "operator": "Exists", "effect": "NoSchedule"}],
        "imagePullSecrets": [{"name": "registry"}],
        "resources": {"limits": {"cpu": "4", "memory": "6Gi"}},
    },
}
METRIC = "triton_queue_microseconds_per_request"


def merged(base: dict, changes: dict) -> dict:
    """What helm makes of values and changes of them."""
    result = copy.deepcopy(base)
    for key, value in changes.items():
        inside = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if inside else value
    return result


def helm(*arguments: str, values: dict) -> subprocess.CompletedProcess[str]:
    assert HELM
    command = [HELM, *arguments, str(CHART), "--values", "-"]
    return subprocess.run(command, input=json.dumps(values), capture_output=True, text=True)


@functools.cache
def rendered(values: str) -> str:
    done = helm("template", "shop", values=json.loads(values))
    assert done.returncode == 0, done.stderr
    return done.stdout


def render(changes: dict | None = None) -> dict[tuple[str, str], dict]:
    """The manifests by kind and name."""
    text = rendered(json.dumps(merged(MINIMAL, changes or {})))
    manifests = [each for each in yaml.safe_load_all(text) if each]
    found = {(each["kind"], each["metadata"]["name"]): each for each in manifests}
    assert len(found) == len(manifests), "two manifests have the same name"
    return found


def only(manifests: dict[tuple[str, str], dict], kind: str) -> dict:
    (found,) = [each for (name, _), each in manifests.items() if name == kind]
    return found


def pod(changes: dict | None = None) -> dict:
    return only(render(changes), "Deployment")["spec"]["template"]["spec"]


def container(changes: dict | None = None) -> dict:
    (found,) = pod(changes)["containers"]
    return found


@pytest.fixture(scope="module")
def check_values():
    """A function that raises if values do not satisfy values.schema.json."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())

    def check(changes: dict) -> None:
        values = merged(merged(defaults, MINIMAL), changes)
        jsonschema.Draft202012Validator(schema).validate(values)

    return check


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_schema_accepts_values_that_are_used(check_values, variant):
    check_values(VARIANTS[variant])


@pytest.mark.parametrize(
    "changes",
    [
        {"image": {"tag": ""}},
        {"image": {"tag": "latest"}},
        {"image": {"digest": "sha256:12"}},
        {"volume": {"claim": ""}},
        {"run": "../other"},
        {"modelVersion": 0},
        {"modelVersion": "7"},
        {"events": {"redis": "redis://:password@redis:6379/0", "existingSecret": "keys"}},
        {"events": {"redis": "redis://redis:6379/0", "existingSecret": ""}},
        {"networkPolicy": {"gateway": {"podSelector": {}}}},
        {"networkPolicy": {"gateway": {"namespaceSelector": {}}}},
        {"modelversion": 7},
        {"autoscaling": {"minReplicas": 0}},
    ],
    ids=str,
)
def test_the_schema_refuses_what_would_not_work_or_is_unsafe(check_values, changes):
    with pytest.raises(jsonschema.ValidationError):
        check_values(changes)


def test_the_metric_is_the_rate_of_queue_time_per_request():
    (rule,) = yaml.safe_load((CHART / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
    assert rule["name"]["as"] == METRIC
    assert METRIC in (CHART / "templates" / "autoscaler.yaml").read_text()
    query = re.sub(r"\s+", "", rule["metricsQuery"])
    labels = '{<<.LabelMatchers>>,model="retrieval"}[2m]'
    assert query == (
        f"sum(rate(nv_inference_queue_duration_us{labels}))by(<<.GroupBy>>)/clamp_min("
        f"sum(rate(nv_inference_request_success{labels}))by(<<.GroupBy>>),0.001)"
    )


@needs_helm
@pytest.mark.parametrize("version", [OLDEST, "1.31"])
def test_each_manifest_is_valid_for_older_clusters(version):
    for manifest in render(VARIANTS["events"]).values():
        assert kubernetes_validate.validate(manifest, version, strict=True) == version


@needs_helm
@pytest.mark.parametrize("variant", VARIANTS)
def test_each_manifest_is_valid(variant):
    manifests = render(VARIANTS[variant])
    for manifest in manifests.values():
        kubernetes_validate.validate(manifest, NEWEST, strict=True)
    kinds = {"Deployment", "Service", "PodDisruptionBudget"}
    kinds |= {"HorizontalPodAutoscaler"} if variant != "no autoscaler" else set()
    kinds |= {"NetworkPolicy"} if variant != "no network policy" else set()
    assert {kind for kind, _ in manifests} == kinds


@needs_helm
def test_the_check_finds_wrong_manifests():
    manifests = render()
    scaler = only(manifests, "HorizontalPodAutoscaler")
    with pytest.raises(kubernetes_validate.SchemaNotFoundError):
        kubernetes_validate.validate({**scaler, "apiVersion": "autoscaling/v2beta2"}, "1.31")
    deployment = only(manifests, "Deployment")
    deployment["spec"]["template"]["spec"]["containers"][0]["readinessprobe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, "1.31", strict=True)


@needs_helm
def test_helm_finds_nothing_to_complain_about():
    done = helm("lint", "--strict", values=MINIMAL)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_helm
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_command_has_options_and_settings_that_exist(variant):
    program, verb, *arguments = container(VARIANTS[variant])["command"]
    assert (program, verb) == ("twotower", "serve")
    given = main.commands[verb].make_context(verb, list(arguments)).params
    assert given["replica"] and str(given["folder"]) == "/twotower/runs/ml-1m"
    assert given["version"] == VARIANTS[variant].get("modelVersion")
    serving = load_config(CONFIGS / "synthetic.yaml", given["overrides"]).serving
    ports = {each["name"]: each["containerPort"] for each in container()["ports"]}
    assert ports == {
        "http": serving.http_port,
        "grpc": serving.grpc_port,
        "metrics": serving.metrics_port,
    }
    assert serving.host == "0.0.0.0"
    assert serving.events.store == ("redis" if variant == "events" else "none")


@needs_helm
def test_pods_may_do_and_write_as_little_as_possible():
    spec, runs = pod(), container()
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert runs["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    volumes = {each["name"]: each for each in spec["volumes"]}
    assert volumes["runs"]["persistentVolumeClaim"] == {"claimName": "runs", "readOnly": True}
    mounts = {each["mountPath"]: each for each in runs["volumeMounts"]}
    assert mounts["/twotower/runs"]["readOnly"] is True
    writable = {path for path, mount in mounts.items() if not mount.get("readOnly")}
    assert writable == {"/tmp", "/dev/shm"}
    assert all("emptyDir" in volumes[mounts[path]["name"]] for path in writable)


@needs_helm
def test_probes_ask_what_the_server_answers():
    runs = container({"startupSeconds": 301})
    ready = {"path": "/v2/models/retrieval/ready", "port": "http"}
    assert runs["readinessProbe"]["httpGet"] == runs["startupProbe"]["httpGet"] == ready
    assert runs["livenessProbe"]["httpGet"] == {"path": "/v2/health/live", "port": "http"}
    startup = runs["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] == 305


@needs_helm
def test_keys_come_from_a_secret_that_exists_and_only_for_events():
    assert {each["name"] for each in container()["env"]} == {
        "HOME",
        "TMPDIR",
        "PYTHONDONTWRITEBYTECODE",
    }
    env = {each["name"]: each for each in container({"events": EVENTS})["env"]}
    for name, key in (
        ("TWOTOWER_EVENTS_KEY", "events-key"),
        ("TWOTOWER_REDIS_PASSWORD", "redis-password"),
    ):
        assert "value" not in env[name]
        secret = env[name]["valueFrom"]["secretKeyRef"]
        assert (secret["name"], secret["key"]) == ("keys", key)


@needs_helm
def test_images_and_versions_are_pinned():
    assert container()["image"] == "two-tower:1.4.0"
    pinned = container(VARIANTS["pinned"])
    assert pinned["image"] == f"two-tower@sha256:{'0' * 64}"
    assert "--version=7" in pinned["command"]
    assert not any(each.startswith("--version") for each in container()["command"])


@needs_helm
def test_memory_is_computed_from_the_items():
    resources = container({"items": 1_000_000, "bytesPerItem": 600, "baseMebibytes": 400})
    # Two versions of a million items are 1,200,000,000 bytes: 1144.4 MiB.
    assert resources["resources"]["requests"]["memory"] == f"{400 + 256 + 1145}Mi"
    assert resources["resources"]["limits"]["memory"] == f"{400 + 256 + 1145}Mi"
    given = container({"resources": {"requests": {"memory": "3Gi"}}})["resources"]
    assert given["requests"]["memory"] == given["limits"]["memory"] == "3Gi"


@needs_helm
def test_the_autoscaler_decides_by_queue_time_and_cpu():
    def metrics(changes: dict) -> list[tuple]:
        spec = only(render(changes), "HorizontalPodAutoscaler")["spec"]
        assert (spec["minReplicas"], spec["maxReplicas"]) == (2, 10)
        found = []
        for each in spec["metrics"]:
            if each["type"] == "Pods":
                target = each["pods"]["target"]
                found.append((each["pods"]["metric"]["name"], target["averageValue"]))
            else:
                target = each["resource"]["target"]
                found.append((each["resource"]["name"], target["averageUtilization"]))
        return found

    assert metrics({}) == [(METRIC, "5000"), ("cpu", 70)]
    slow = {"autoscaling": {"queueTime": {"targetMicroseconds": 2000000}}}
    assert metrics(slow)[0] == (METRIC, "2000000")
    assert metrics(VARIANTS["CPU only"]) == [("cpu", 70)]
    # A number of replicas beside an autoscaler would undo what it decided at every update.
    assert "replicas" not in only(render(), "Deployment")["spec"]
    assert only(render(VARIANTS["no autoscaler"]), "Deployment")["spec"]["replicas"] == 3
    wrong = helm(
        "template",
        "shop",
        values=merged(MINIMAL, {"autoscaling": {"minReplicas": 3, "maxReplicas": 2}}),
    )
    assert wrong.returncode and "autoscaling.maxReplicas is 2, below" in wrong.stderr


@needs_helm
def test_only_the_gateway_and_prometheus_reach_the_pods():
    spec = only(render(), "NetworkPolicy")["spec"]
    requests, metrics = spec["ingress"]
    assert [each["port"] for each in requests["ports"]] == ["http", "grpc"]
    assert requests["from"][0]["podSelector"] == {"matchLabels": {"two-tower/gateway": "true"}}
    assert [each["port"] for each in metrics["ports"]] == ["metrics"]
    narrow = only(render(VARIANTS["gateway"]), "NetworkPolicy")["spec"]["ingress"]
    assert narrow[0]["from"] == [{"podSelector": {"matchLabels": {"app": "ingress"}}}]
    assert narrow[1] == metrics
    assert spec["egress"] == [] and "Egress" in spec["policyTypes"]
    (out,) = only(render({"events": EVENTS}), "NetworkPolicy")["spec"]["egress"]
    assert {(each["protocol"], each["port"]) for each in out["ports"]} == {
        ("UDP", 53),
        ("TCP", 53),
        ("TCP", 6380),
    }
    everywhere = {kind: each for (kind, _), each in render().items() if kind != "Service"}
    labels = everywhere["Deployment"]["spec"]["template"]["metadata"]["labels"]
    for selector in (
        spec["podSelector"]["matchLabels"],
        everywhere["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        everywhere["Deployment"]["spec"]["selector"]["matchLabels"],
    ):
        assert selector and selector.items() <= labels.items()
