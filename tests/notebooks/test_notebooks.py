"""The notebooks run to their end and what they claim comes out; they are committed bare."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import nbformat
import pytest
from jupyter_client import KernelManager
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
FIRST, SECOND = "01-two-tower-from-zero.ipynb", "02-two-stages.ipynb"


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(notebook: nbformat.NotebookNode, cell_id: str) -> str:
    """Everything the cell put on the page: text, and HTML where there is some."""
    (cell,) = (cell for cell in notebook.cells if cell.id == cell_id)
    return "".join(out.get("text") or "".join(out["data"].values()) for out in cell.outputs)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the notebook runs and leaves its runs/."""
    return tmp_path_factory.mktemp("notebook")


@pytest.fixture(scope="module")
def executed(folder) -> nbformat.NotebookNode:
    """The first notebook after a real run at toy size on synthetic data; a failing cell raises."""
    return execute(NOTEBOOKS[0], folder)


def execute(path: Path, folder: Path) -> nbformat.NotebookNode:
    notebook = read(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TWOTOWER_NOTEBOOK_SMALL", "1")
        patch.delenv("TWOTOWER_DATA", raising=False)
        NotebookClient(
            notebook,
            timeout=300,
            kernel_name="python3",
            resources={"metadata": {"path": str(folder)}},
        ).execute()
    return notebook


def test_the_first_notebook_is_there():
    assert NOTEBOOKS and NOTEBOOKS[0].name == FIRST


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_without_outputs(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    for cell in code_cells(notebook):
        assert not cell.outputs and cell.execution_count is None, f"clear the output of {cell.id}"


def test_kernel_is_this_interpreter():
    command = KernelManager(kernel_name="python3").format_kernel_cmd()
    assert command[0] == sys.executable


def test_runs_to_the_end(executed):
    counts = [cell.execution_count for cell in code_cells(executed)]
    assert counts == list(range(1, len(counts) + 1))


def test_metrics_are_those_of_the_run_and_labelled_synthetic(executed, folder):
    metrics = json.loads((folder / "runs" / "notebook" / "reports" / "metrics.json").read_text())
    ndcg = {name: values["ndcg@10"] for name, values in metrics["metrics"].items()}
    assert ndcg["two-tower"] > 1.5 * ndcg["popularity"] > 3 * ndcg["random"]
    shown = " > ".join(f"{name} {ndcg[name]:.4f}" for name in ("two-tower", "popularity", "random"))
    assert f"SYNTHETIC DATA, test ndcg@10: {shown}" in printed(executed, "facts")
    for cell_id in ("validate", "history", "evaluate", "genres", "facts"):
        assert "SYNTHETIC DATA" in printed(executed, cell_id), cell_id


def test_reloaded_model_predicts_the_same(executed):
    assert float(printed(executed, "reload").split()[-1]) < 1e-6


def test_everything_lands_where_the_notebook_runs(executed, folder):
    """A run that the command line can go on with, and nothing beside it."""
    manifest = json.loads((folder / "runs" / "notebook" / "manifest.json").read_text())
    assert list(manifest["steps"]) == ["ingest", "preprocess", "train", "evaluate"]
    assert {path.name for path in folder.iterdir()} == {"runs"}
    assert {path.name for path in (folder / "runs").iterdir()} == {"notebook", "last"}


@pytest.mark.slow
def test_the_second_notebook_shows_both_stages(tmp_path):
    notebook = execute(NOTEBOOKS[1], tmp_path)
    assert NOTEBOOKS[1].name == SECOND
    metrics = json.loads(
        (tmp_path / "runs" / "two-stages" / "reports" / "metrics.json").read_text()
    )
    gain = metrics["second_stage"]
    assert f"SYNTHETIC DATA, test: ndcg@10 changes by {gain['difference']:+.4f}" in printed(
        notebook, "gain"
    )
    pictures = [
        cell.id
        for cell in code_cells(notebook)
        if any("image/png" in out.get("data", {}) for out in cell.outputs)
    ]
    assert pictures == ["candidates", "importance", "calibration", "lists", "diversity"]
    first, last = printed(notebook, "diversity").split("distance ")[-1].split(" -> ")
    assert float(last) > float(first)  # lists become more diverse
