"""The container files: what can be checked about them without a container engine."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from twotower.serving.triton.health import FIRST_FIXED

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILES = ("Dockerfile", "Dockerfile.cpu", "Dockerfile.serve")
TRITON, LAB = ("8000", "8001", "8002"), ("8888",)


def pins(file: str) -> dict[str, str]:
    """name -> version of a requirements file of nothing but pins."""
    lines = (line.partition("#")[0].strip() for line in (ROOT / file).read_text().splitlines())
    return dict(line.split("==") for line in lines if line)


def instructions(dockerfile: str) -> list[tuple[str, str]]:
    """(instruction, arguments) in order, continuation lines joined, comments left out."""
    text = (ROOT / "docker" / dockerfile).read_text()
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


def compose(file: str) -> dict:
    """The services of a Compose file by name."""
    return yaml.safe_load((ROOT / "docker" / file).read_text())["services"]


def dry_run(target: str, *variables: str) -> str:
    """What `make target` would run, words separated by single spaces."""
    if shutil.which("make") is None:
        pytest.skip("needs make")
    command = ["make", "--no-print-directory", "-n", target, *variables]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return " ".join(done.stdout.replace("\\\n", " ").split())


def published(command: str) -> list[str]:
    """The ports the engine is told to publish; what follows the image's name is not for it."""
    return re.findall(r" (?:-p|--publish)[ =](\S+)", command.partition(" two-tower:cpu ")[0])


def loopback(*ports: str) -> list[str]:
    return [f"127.0.0.1:{port}:{port}" for port in ports]


def test_container_gets_only_versions_the_tests_run_with():
    extra, lock = pins("requirements/container-extra.txt"), pins("requirements/container-py310.txt")
    assert extra.items() <= lock.items()
    # What the image's own TensorFlow, cuDF and Triton are built with stays as it is.
    assert not extra.keys() & {"numpy", "pandas", "dask", "distributed", "protobuf", "grpcio"}
    assert not {name for name in extra if name.startswith(("tensorflow", "faiss", "nvidia"))}


def test_merlin_dockerfile_installs_nothing_with_dependencies():
    installs = [part for _, text in instructions("Dockerfile") for part in text.split("&&")]
    installs = [part for part in installs if "pip install" in part]
    assert len(installs) == 2
    assert all("--no-deps" in part for part in installs)


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_image_runs_as_an_ordinary_user(dockerfile):
    found = instructions(dockerfile)
    last_user = [text for name, text in found if name == "USER"][-1]
    assert last_user.split(":")[0] not in ("root", "0")
    # Nothing is run as root after it, and what it has to write is declared.
    assert [name for name, _ in found][-2:] == ["USER", "CMD"]
    written = ["/twotower/runs"] + (["/twotower/data"] if dockerfile != "Dockerfile.serve" else [])
    assert ("VOLUME", json.dumps(written)) in found


def test_the_image_for_serving_others_has_a_triton_without_known_vulnerabilities():
    found = dict(reversed(instructions("Dockerfile.serve")))  # the first of each
    year, month = map(int, found["ARG"].removeprefix("TAG=").split("."))
    assert found["FROM"] == "nvcr.io/nvidia/tritonserver:${TAG}-py3"
    # Triton 2.N of month M of the year 2000 + Y: N counts months, and 26.05 is 2.69.
    assert (2, 69 + 12 * (year - 26) + month - 5) >= FIRST_FIXED


def test_the_image_for_serving_others_has_the_versions_that_are_tested():
    serve, lock = pins("requirements/serve.txt"), pins("requirements/cpu-py311.txt")
    for name in ("click", "faiss-cpu", "onnxruntime", "psutil", "pydantic", "redis", "rich"):
        assert serve[name] == lock[name]
    assert not serve.keys() & {"tensorflow-cpu", "merlin-core", "nvtabular", "nvidia-pytriton"}


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_no_server_listens_on_all_addresses_by_default(dockerfile):
    assert "0.0.0.0" not in (ROOT / "docker" / dockerfile).read_text()


def test_cpu_environment_is_installed_before_the_code_for_all_packages(tmp_path):
    """An editable install fails on a package whose folder is not there yet."""
    declared = re.search(
        r"^packages = \[(.*?)\]", (ROOT / "pyproject.toml").read_text(), re.S | re.M
    )
    packages = re.findall(r'"([^"]+)"', declared.group(1))
    folders = {name.removeprefix("twotower.").replace(".", "/") for name in packages}
    found = instructions("Dockerfile.cpu")
    (install,) = [i for i, (_, text) in enumerate(found) if "make_env.sh" in text]
    assert install < found.index(("COPY", "--chown=1000:1000 . ."))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    make_folders = found[install][1].partition("&&")[0]
    subprocess.run(["sh", "-c", make_folders], cwd=tmp_path, check=True)
    made = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_dir()}
    assert folders == made


def test_nothing_git_ignores_reaches_an_image():
    ignored = (ROOT / ".gitignore").read_text().split()
    kept_out = (ROOT / ".dockerignore").read_text().splitlines()
    kept_out = {line.removeprefix("**/") for line in kept_out if not line.startswith("#")}
    assert {line.strip("/") for line in ignored} <= kept_out
    assert ".git" in kept_out


def test_compose_publishes_to_loopback_only():
    ports = {name: service.get("ports", []) for name, service in compose("compose.yaml").items()}
    assert ports == {
        "train": [],
        "triton": loopback(*TRITON),
        "replica-1": [],
        "replica-2": [],
        "gateway": loopback("8080", "8081"),
        "lab": loopback(*LAB),
    }


def test_compose_replicas_are_those_of_nginx_and_cannot_write_the_runs():
    services = compose("compose.yaml")
    config = (ROOT / "docker" / "nginx.conf").read_text()
    named = re.findall(r"server ([\w-]+):(\d+) ", config)
    replicas = ("replica-1", "replica-2")
    assert named == [(name, port) for port in ("8000", "8001") for name in replicas]
    for name in replicas:
        assert services[name]["volumes"] == ["runs:/twotower/runs:ro"]
        command = services[name]["command"]
        assert "twotower serve --replica" in command
        assert "http_port=8000" in command and "grpc_port=8001" in command


def test_compose_refuses_a_lab_without_token():
    token = compose("compose.yaml")["lab"]["environment"]["JUPYTER_TOKEN"]
    # `:?` also refuses an empty one; Compose prints what follows it.
    assert re.fullmatch(r"\$\{JUPYTER_TOKEN:\?.+\}", token)


def test_compose_starts_without_a_gpu_and_gives_all_with_the_override():
    plain, gpu = compose("compose.yaml"), compose("compose.gpu.yaml")
    assert gpu.keys() == {"train", "triton", "lab"} < plain.keys()
    assert not any("deploy" in service for service in plain.values())
    for service in gpu.values():
        (device,) = service["deploy"]["resources"]["reservations"]["devices"]
        assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
        assert service["ipc"] == "host"


@pytest.mark.parametrize(
    ("file", "dockerfile"),
    [("compose.yaml", "Dockerfile.cpu"), ("compose.gpu.yaml", "Dockerfile")],
)
def test_compose_builds_the_same_images_as_make(file, dockerfile):
    built = [each for name, each in compose(file).items() if name != "gateway"]
    for service in built:
        assert service["build"]["dockerfile"] == f"docker/{dockerfile}"
        assert (ROOT / "docker" / service["build"]["context"]).resolve() == ROOT


@pytest.mark.parametrize("engine", ["docker", "podman"])
@pytest.mark.parametrize(
    ("target", "ports"),
    [
        ("docker-run", TRITON + LAB),
        ("docker-serve", TRITON),
        ("docker-lab", LAB),
        ("docker-test", ()),
    ],
)
def test_make_publishes_to_loopback_only(engine, target, ports):
    command = dry_run(target, f"ENGINE={engine}", "CPU=1")
    assert f"{engine} run --rm" in command
    assert published(command) == loopback(*ports)
    assert "--net" not in command


def test_make_picks_image_and_gpu():
    cpu = dry_run("docker-run", "ENGINE=docker", "CPU=1")
    gpu = dry_run("docker-run", "ENGINE=docker", "CPU=", "TAG=23.12")
    assert " two-tower:cpu twotower run" in cpu and "--gpus" not in cpu
    assert " --gpus all --ipc=host " in gpu and " two-tower:23.12 twotower run" in gpu
    build = dry_run("docker-build", "ENGINE=docker", "CPU=", "TAG=23.12")
    assert "--file docker/Dockerfile --build-arg TAG=23.12 ." in build
    build = dry_run("docker-build", "ENGINE=buildah", "CPU=1", "BASE=localhost/base:bookworm")
    assert "--file docker/Dockerfile.cpu --build-arg BASE=localhost/base:bookworm ." in build


def test_servers_listen_on_all_addresses_only_behind_published_ports():
    for target, option in (("docker-serve", "serving.host="), ("docker-lab", "--ip=")):
        assert f"{option}0.0.0.0 " in dry_run(target, "ENGINE=docker", "CPU=1")
        # buildah shares the machine's network.
        assert f"{option}127.0.0.1 " in dry_run(target, "ENGINE=buildah", "CPU=1")


def test_data_is_mounted_read_only(tmp_path):
    command = dry_run("docker-run", "ENGINE=docker", "CPU=1", f"DATA={tmp_path}")
    assert '-v "$(realpath "$DATA"):/input:ro"' in command
    assert command.endswith("twotower run --data /input")


def test_lab_token_is_random_and_not_on_the_command_line():
    command = dry_run("docker-lab", "ENGINE=docker", "CPU=1")
    assert "-e JUPYTER_TOKEN two-tower:cpu" in command
    generate = re.search(r'JUPYTER_TOKEN="(\$\{JUPYTER_TOKEN:-\$\(.*?\)\})"', command).group(1)
    shell = ["sh", "-c", f'unset JUPYTER_TOKEN; echo "{generate}"']
    first, second = (subprocess.check_output(shell, text=True).strip() for _ in range(2))
    assert re.fullmatch(r"[0-9a-f]{32}", first) and first != second


def test_missing_engine_says_what_to_install():
    if shutil.which("make") is None:
        pytest.skip("needs make")
    command = ["make", "docker-run", "ENGINE=no-such-engine", "CPU=1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    assert "no-such-engine is not installed" in done.stderr and "apt-get install" in done.stderr
