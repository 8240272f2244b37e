"""Hooks of MkDocs: a page per module from its docstrings, and pictures from outside this folder."""

from __future__ import annotations

from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("workflows", "models", "serving", "pipelines")
RESULTS = ROOT / "benchmarks" / "results"


def on_files(files, config):
    """Add a reference page per module, and the plots of the benchmarks."""
    files.append(_page(config, "reference/twotower.md", "# `twotower`\n\n::: twotower\n"))
    reference = [{"twotower": "reference/twotower.md"}]
    for room in ROOMS:
        names = sorted(_module(path) for path in (ROOT / room).rglob("*.py") if path.stat().st_size)
        for name in names:
            files.append(_page(config, f"reference/{name}.md", f"# `{name}`\n\n::: {name}\n"))
        reference.append({room: [{name: f"reference/{name}.md"} for name in names]})
    config.nav.append({"Reference": reference})
    for plot in RESULTS.glob("*.png"):
        files.append(
            File.generated(config, f"results/{plot.name}", abs_src_path=str(plot.absolute()))
        )
    return files


def on_page_markdown(markdown, page, config, files):
    """Point to the plots at their place in the site."""
    return markdown.replace("../benchmarks/results/", "results/")


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(("twotower", *(part for part in parts if part != "__init__")))


def _page(config, path: str, content: str) -> File:
    return File.generated(config, path, content=content)
