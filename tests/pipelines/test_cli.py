"""The commands as users type them: in a process of their own, with mistakes and Ctrl-C."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from twotower.pipelines.cli import main
from twotower.pipelines.cli.group import explained
from twotower.pipelines.errors import RunError
from twotower.serving.client import RetrievalClient
from twotower.serving.runtime.errors import RequestError

TWOTOWER = [sys.executable, "-m", "twotower.pipelines.cli"]
ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}


def twotower(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [*TWOTOWER, *arguments],
        cwd=cwd,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def started(verb: str, run) -> subprocess.Popen:
    """Start `twotower <verb>` on a run; its output and errors are piped."""
    return subprocess.Popen(
        [*TWOTOWER, verb, "--run", str(run.path)],
        cwd=run.path.parents[1],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_several_workers_can_train_only(monkeypatch):
    monkeypatch.setenv("HOROVOD_RANK", "0")
    monkeypatch.setenv("HOROVOD_SIZE", "2")
    result = CliRunner().invoke(main, ["evaluate"])
    assert result.exit_code == 1
    assert "several workers can run `twotower train` only; run `twotower evaluate` without" in (
        result.output
    )


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["train"], "no run yet; `make run` makes one"),
        (["train", "--run", "nowhere"], "nowhere: not a run folder"),
        (["update", "--data", "."], "no run yet; `make run` makes one"),
        (["run", "--config", "nothing.yaml"], "nothing.yaml: no such configuration"),
        (["run", "--data", "nowhere"], "--data nowhere: no such file or folder"),
        (["run", "--data", "."], "expected one of MovieLens-1M"),
        (["run", "--config", "ml-2m"], "one in configs/: ml-1m, "),
        (
            ["ingest", "--config", str(ROOT / "configs/synthetic.yaml"), "--set", "training.x=1"],
            "training.x: no such key",
        ),
    ],
)
def test_mistakes_are_one_message_without_a_traceback(tmp_path, arguments, message):
    done = twotower(*arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert message in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("*.parquet"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["verify", "--users", "-1"], "Invalid value for '--users': -1 is not in the range x>=1"),
        (["verify", "--users", "0"], "Invalid value for '--users': 0 is not in the range"),
        (["verify", "-k", "0"], "Invalid value for '-k': 0 is not in the range x>=1"),
        (["query", "--user", "1", "-k", "0"], "Invalid value for '-k': 0 is not in the range"),
        (["publish", "--version", "0"], "Invalid value for '--version': 0 is not in the range"),
    ],
)
def test_an_invalid_option_is_an_error_that_names_it(arguments, message):
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 2 and message in done.output


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RunError("here: say this"), "here: say this"),
        (RequestError("input 'k' is 0"), "input 'k' is 0"),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "the output: No space left on device; free space or change the permissions, then",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "/data/x"),
            "/data/x: Permission denied; free space or change the permissions, then run the same",
        ),
        (
            ModuleNotFoundError("No module named 'faiss'"),
            "No module named 'faiss'; run `make env` to install it",
        ),
        (
            MemoryError("Unable to allocate 9 GiB"),
            "9 GiB; there is not enough memory",
        ),
    ],
)
def test_an_error_of_the_operating_system_is_one_sentence(error, message):
    assert message in explained(error)


@pytest.fixture
def faulty(tmp_path, monkeypatch):
    """Return arguments of `twotower versions` on a run folder, with a bug in what it calls."""
    from twotower.pipelines.steps import publish

    def fault(run):
        raise KeyError("a fault\nof ours")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(publish, "versions", fault)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("{name: faulty, ingest: {source: synthetic}}")
    return ["versions", "--run", str(tmp_path / "run")]


def test_an_unexpected_error_is_one_message_and_its_traceback_is_saved(faulty, tmp_path):
    done = CliRunner().invoke(main, faulty)
    (log,) = tmp_path.glob("twotower-*.log")
    assert done.exit_code == 1 and "Traceback" not in done.output
    assert done.output.startswith("error: KeyError: 'a fault")
    assert f"its traceback is in {log}. Please open an issue" in done.output
    assert "Traceback" in log.read_text() and "in fault" in log.read_text()


def test_a_traceback_is_printed_on_request(faulty, tmp_path, monkeypatch):
    monkeypatch.setenv("TWOTOWER_TRACEBACK", "1")
    assert isinstance(CliRunner().invoke(main, faulty).exception, KeyError)
    assert not list(tmp_path.glob("twotower-*.log"))


def test_an_interrupt_that_a_library_turns_into_an_error_is_an_interrupt(faulty, monkeypatch):
    """An extension module may do so if it is interrupted while it is imported."""
    from twotower.pipelines.steps import publish

    def interrupted(run):
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        except KeyboardInterrupt:
            raise ImportError("initialization failed") from None

    monkeypatch.setattr(publish, "versions", interrupted)
    before = signal.getsignal(signal.SIGINT)
    done = CliRunner().invoke(main, faulty)
    assert done.exit_code == 130 and "interrupted" in done.output
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    ("command", "errors"),
    [
        ("{} doctor | true", ""),
        ("{} --help > /dev/full", "error: the output: No space left on device"),
        ("{} doctor > /dev/full", "error: the output: No space left on device"),
    ],
)
def test_output_that_cannot_be_written_gives_no_traceback(tmp_path, command, errors):
    done = subprocess.run(
        ["bash", "-c", command.format(shlex.join(TWOTOWER))],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (errors in done.stderr) if errors else not done.stderr
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


def help_of(*verb: str) -> str:
    return CliRunner().invoke(main, [*verb, "--help"], env={"COLUMNS": "80"}).output


def test_help_lists_all_verbs_by_section_with_whole_summaries():
    lines = help_of().splitlines()
    sections: dict[str, list[str]] = {}
    for line in lines[lines.index("Start:") :]:
        if line and not line.startswith(" "):
            sections[line] = []
        elif line.strip():
            sections[list(sections)[-1]].append(line.split()[0])
    assert sections["Start:"] == ["run", "init", "generate", "doctor"]
    assert sections["Steps:"][:3] == ["ingest", "preprocess", "train"]
    assert {"serve", "query", "versions", "rollback", "update"} <= {*sections["Serve:"]}
    assert sections["Answers:"] == ["recommend", "vectors", "similar"]
    assert sections["Experiment:"] == ["compare", "tune", "timeline"]
    assert max(map(len, lines)) <= 80 and "..." not in "".join(lines[lines.index("Start:") :])
    for name, command in main.commands.items():
        (line,) = (line for line in lines if line.startswith(f"  {name} "))
        assert line.split(maxsplit=1)[1] == command.get_short_help_str()
    assert 'eval "$(_TWOTOWER_COMPLETE=bash_source twotower)"' in "".join(lines)


@pytest.mark.parametrize("verb", main.commands)
def test_the_help_of_a_verb_shows_examples_that_its_parser_accepts(verb):
    command = main.commands[verb]
    for example in command.example.splitlines():
        assert f"\n  {example}\n" in help_of(verb)
        program, name, *arguments = shlex.split(example)
        assert (program, name) == ("twotower", verb)
        assert command.make_context(verb, arguments).args == []


def test_the_version_is_that_of_the_package():
    from importlib.metadata import version

    done = CliRunner().invoke(main, ["--version"])
    assert done.output == f"twotower, version {version('two-tower-on-merlin')}\n"


def test_json_is_alone_on_stdout(small_run):
    """Tables and messages are on stderr, and the values are those of the run."""

    def parsed(*arguments: str) -> tuple[dict, str]:
        run = ("--run", str(small_run.path))
        done = twotower(*arguments, *run, "--json", cwd=small_run.path.parents[1])
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout), done.stderr

    versions, shown = parsed("versions")
    assert versions[0]["number"] == 1 and versions[0]["published"] is True
    assert versions[0]["answers"] is False and "created (UTC)" in shown
    timeline, shown = parsed("timeline")
    assert [step["name"] for step in timeline["steps"]][:2] == ["ingest", "import"]
    assert "between the steps" in shown
    answer, shown = parsed("query", "--user", "1", "--user", "999999", "-k", "3")
    assert answer["version"] == 1 and [each["user"] for each in answer["users"]] == [1, 999999]
    items = answer["users"][0]["items"]
    assert len(items) == 3 and {*items[0]["show"]} == {"title", "genres"}
    assert all(str(item["item"]) in shown for item in items)
    assert [item["score"] for item in items] == sorted((i["score"] for i in items), reverse=True)


@pytest.mark.slow
def test_generated_files_are_read_with_on_error_as_a_setting(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--rows", "1000", "--test-rows", "0", "--tokens", "40", "--json"]
    done = CliRunner().invoke(main, ["generate", "made", *options])
    made = {path.name: path.stat().st_size for path in (tmp_path / "made").iterdir()}
    assert json.loads(done.stdout) == made
    assert {*made} == {"SYNTHETIC", "common_features_train.csv", "sample_skeleton_train.csv"}
    found = []
    monkeypatch.setattr("twotower.pipelines.steps.ingest.ingest", lambda run: found.append(run))
    command = ["ingest", "--data", "made", "--run", "r"]
    assert CliRunner().invoke(main, [*command, "--on-error", "skip"]).exit_code == 0
    assert found[0].config.ingest.source == "ali-ccp-raw"
    assert found[0].config.ingest.ali_ccp_raw.on_error == "skip"
    for verb in ("ingest", "run"):
        wrong = [verb, "--config", "synthetic", "--data", "made", "--on-error", "skip"]
        done = CliRunner().invoke(main, wrong)
        assert done.exit_code == 2
        assert "--on-error is for source ali-ccp-raw; this is source synthetic" in done.output


def test_json_of_evaluate_is_the_report_of_the_run(small_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    monkeypatch.setattr(
        "twotower.pipelines.steps.evaluate.evaluate", lambda run, per_user: print("table")
    )
    done = CliRunner().invoke(main, ["evaluate", "--run", str(small_run.path), "--json"])
    report = json.loads((small_run.path / "reports" / "metrics.json").read_text())
    assert json.loads(done.stdout) == report and done.stderr == "table\n"


def test_json_of_doctor_has_the_checks_of_its_table(tmp_path):
    done = twotower("doctor", "--json", cwd=tmp_path)
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    assert done.returncode == 0 and all(check["ok"] for check in checks.values())
    assert checks["tensorflow"]["value"] == "installed" and "Triton" in checks
    assert all(name in done.stderr for name in ("tensorflow", "merlin-models", "GPU"))


WITH_RESULT = {*main.commands} - {"serve"}


@pytest.mark.parametrize("verb", sorted(WITH_RESULT))
def test_every_verb_with_a_result_prints_it_as_json(verb):
    assert any("--json" in option.opts for option in main.commands[verb].params)


def json_of(run: Path, *arguments: str) -> dict:
    done = twotower(*arguments, "--run", str(run), "--json", cwd=run.parent)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_json_of_steps_is_what_the_manifest_notes(small_run, tmp_path):
    run = Path(shutil.copytree(small_run.path, tmp_path / "run"))
    assert json_of(run, "publish") == {"version": 1}
    ingested = json_of(run, "ingest")
    assert ingested["users"] == 400 and ingested["synthetic"] is True


@pytest.mark.slow
def test_json_of_steps_that_import_tensorflow(small_run, tmp_path):
    run = Path(shutil.copytree(small_run.path, tmp_path / "run"))
    found = json_of(run, "verify", "--users", "20", "-k", "5")
    assert (found["users"], found["k"], found["wrong_ids"]) == (20, 5, 0)
    exported = json_of(run, "export")
    assert exported["version"] == 2 and exported["items"] == 300
    assert json_of(run, "publish") == {"version": 2}
    assert json_of(run, "rollback") == {"version": 1}
    assert json_of(run, "preprocess")["positives"] == small_run.notes("preprocess")["positives"]


def test_json_has_null_instead_of_nan(capsys):
    from twotower.pipelines.cli.output import output

    result = output(True, lambda: print("a table") or [1.5, float("nan")], lambda found: found)
    printed = capsys.readouterr()
    assert json.loads(printed.out) == [1.5, None] and printed.err == "a table\n"
    assert len(result) == 2


def test_an_unknown_verb_is_refused(tmp_path):
    done = twotower("retrain", cwd=tmp_path)
    assert done.returncode == 2 and "No such command 'retrain'" in done.stderr


def test_doctor_prints_versions_and_finds_everything(tmp_path):
    done = twotower("doctor", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "merlin-models" in done.stdout and "missing" not in done.stdout


@pytest.mark.parametrize("module", ["tf2onnx", "merlin.models", "faiss"])
def test_doctor_names_a_missing_package_and_how_to_get_it(tmp_path, module):
    """None in sys.modules is how Python itself marks what cannot be imported."""
    script = (
        f"import sys; sys.modules[{module!r}] = None\n"
        "from twotower.pipelines.cli import main; main(['doctor'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    (line,) = [
        line for line in done.stdout.splitlines() if f"{module} " in line and "missing" in line
    ]
    assert "make env" in line


def test_doctor_says_of_optional_things_that_they_are_not_there():
    done = twotower("doctor", cwd=ROOT)
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.stdout.splitlines()]
    rows = {row[0]: row[1:] for row in rows if len(row) == 4}
    mark, found, _ = rows["GPU"]
    assert (mark, found) == ("-", "none; CPU") if mark != "ok" else found
    mark, found, _ = rows["faiss on GPU"]
    assert (mark == "-") == (found == "no")


@pytest.fixture
def server(small_run):
    """`twotower serve` of the small run, once it answers."""
    process = started("serve", small_run)
    deadline = time.monotonic() + 60
    while not (small_run.path / "server.json").is_file():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    yield process
    children = (
        psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    )
    process.kill()
    process.wait()
    (small_run.path / "server.json").unlink(missing_ok=True)
    psutil.wait_procs(children, timeout=10)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_answers_queries_and_stops_cleanly(server, small_run, number):
    from twotower.pipelines.steps.query import example_users

    user = example_users(small_run, 1)[0]
    asked = twotower(
        *(
            "query",
            "--run",
            str(small_run.path),
            "--user",
            str(user),
            "--user",
            "999999",
            "-k",
            "3",
        ),
        cwd=small_run.path.parents[1],
    )
    assert asked.returncode == 0, asked.stderr
    assert f"user {user} (synthetic data)" in asked.stdout
    assert "user 999999" in asked.stdout
    assert "starting one" not in asked.stdout, "the running server must be used"
    assert "version 1 answered" in asked.stdout

    triton = psutil.Process(server.pid).children(recursive=True)
    assert any("tritonserver" in p.name() for p in triton)
    server.send_signal(number)
    assert server.wait(timeout=30) == 0
    assert "stopped" in server.stdout.read()
    _, alive = psutil.wait_procs(triton, timeout=10)
    assert not alive
    assert not (small_run.path / "server.json").exists()


def test_a_triton_that_dies_is_started_again_on_its_ports(server, small_run):
    before = json.loads((small_run.path / "server.json").read_text())
    died = psutil.Process(server.pid).children(recursive=True)
    next(p for p in died if "tritonserver" in p.name()).kill()
    deadline = time.monotonic() + 60
    while (after := json.loads((small_run.path / "server.json").read_text())) == before:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert {**after, "key": ""} == {**before, "key": ""}
    with RetrievalClient(after["http"]) as client:
        assert client.recommend([1]).item_ids.shape == (1, 10)
    _, alive = psutil.wait_procs(died, timeout=10)
    assert not alive
    server.send_signal(signal.SIGTERM)
    assert server.wait(timeout=30) == 0
    output = server.stdout.read()
    assert "restarted Triton ended by SIGKILL" in output and "Traceback" not in output
    assert (small_run.path / "logs" / "serve.log.ended").exists()
    assert not (small_run.path / "server.json").exists()


@pytest.fixture
def endless(small_run, tmp_path):
    """What the small run has published, in a run folder, with a model that loads for ever."""
    from twotower.pipelines.run import Run
    from twotower.serving.runtime.manifest import write_manifest

    folder = tmp_path / "project" / "runs" / "endless"
    shutil.copytree(small_run.path / "triton", folder / "triton")
    shutil.copy(small_run.path / "config.yaml", folder)
    shutil.copy(small_run.path / "manifest.json", folder)
    version = folder / "triton" / "retrieval" / "1"
    (version / "model.py").write_text("import ctypes\nctypes.PyDLL(None).sleep(600)\n")
    write_manifest(version, created="", towers_sha256="", runtime="")
    return Run(folder)


def stopped_by(number: int, process: subprocess.Popen, once) -> tuple[int, str]:
    """Exit status and output of a process that gets a signal when `once` is true of its family."""
    try:
        family = psutil.Process(process.pid)
        deadline = time.monotonic() + 60
        while not once(family):
            assert process.poll() is None, process.stdout.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        running = family.children(recursive=True)
        process.send_signal(number)
        output, _ = process.communicate(timeout=10)
        _, alive = psutil.wait_procs(running, timeout=5)
        assert not alive
        return process.returncode, output
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_serve_while_the_model_loads(endless, number, status):
    folders = []

    def loads(family: psutil.Process) -> bool:
        for each in family.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if "retrieval_0_0" in (arguments := each.cmdline()):
                    folders.append(Path(arguments[0]).parents[2])
        return bool(folders)

    code, output = stopped_by(number, started("serve", endless), loads)
    assert code == status, output
    assert "Traceback" not in output
    assert not (endless.path / "server.json").exists()
    assert folders[0].name.startswith("twotower-triton-")
    assert not folders[0].exists()
    assert not list(Path("/dev/shm").glob(f"{folders[0].name}*"))


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_serve_while_somebody_publishes(endless, number, status):
    from twotower.serving.repository import ModelRepository

    lock = endless.path / "triton" / ".lock"

    def waits(family: psutil.Process) -> bool:
        return str(lock) in [file.path for file in family.open_files()]

    with ModelRepository(endless.path / "triton").lock():
        code, output = stopped_by(number, started("serve", endless), waits)
    assert code == status, output
    assert "Traceback" not in output
    assert not (endless.path / "logs" / "serve.log").exists()


def test_ctrl_c_in_a_step_leaves_the_run_as_it_was(small_run):
    before = (small_run.path / "manifest.json").read_text()
    process = started("train", small_run)
    deadline = time.monotonic() + 60
    while not (small_run.path / ".twotower-staging").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "interrupted" in output and "Traceback" not in output
    assert (small_run.path / "manifest.json").read_text() == before
    assert not (small_run.path / ".twotower-staging").exists()
