"""The README and the pages in docs/ name only what exists: links, commands, options, settings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from pydantic import BaseModel

from twotower.pipelines.cli import main
from twotower.pipelines.config import Config
from twotower.pipelines.reference import is_section

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
MAX_README_LINES = 170
CODE = re.compile(r"^ *```.*?\n(.*?)^ *```|`([^`\n]+)`", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^()\s]+)\)")
FOLDERS = "workflows|models|serving|pipelines|twotower|configs|benchmarks|docs|notebooks|tests"
FOLDERS += "|docker|requirements"
FILE = re.compile(rf"(?:{FOLDERS})/[\w./-]*")
# Options of other programs, which pages name by themselves.
FOREIGN_OPTIONS = {"--no-deps", "--gpus", "--ipc"}
FOREIGN_PROGRAMS = re.compile(
    r"\b(docker|tensorboard|pip|pytest|apt-get|curl|openssl|embed_titles|horovodrun)\b"
)

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def code(page: Path) -> list[str]:
    """Each inline code span, and each line of each block of code."""
    text = page.read_text()
    return [line for found in CODE.finditer(text) for line in found[found.lastindex].split("\n")]


def anchors(page: Path) -> set[str]:
    """What a link to a heading of the page may name, as GitHub and MkDocs derive it."""
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings}


def make_targets() -> set[str]:
    makefiles = [ROOT / "Makefile", ROOT / "docker" / "docker.mk"]
    text = "\n".join(path.read_text() for path in makefiles)
    return set(re.findall(r"^([a-z][a-z-]*):", text, re.MULTILINE))


def options(command: click.Command) -> set[str]:
    names = {name for p in command.params for name in (*p.opts, *p.secondary_opts)}
    return {name for name in names if name.startswith("-")} | {"--help", "-h"}


def settings(model: type[BaseModel]) -> Iterator[str]:
    """ "section.key" of every field, sections included."""
    for name, field in model.__fields__.items():
        yield name
        if is_section(field):
            yield from (f"{name}.{below}" for below in settings(field.type_))


@every_page
def test_relative_links_lead_somewhere(page):
    broken = []
    for link in LINK.findall(page.read_text()):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if re.match(r"[a-z]+:", link):
            continue
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


@every_page
def test_files_that_code_names_exist(page):
    names = [text for text in code(page) if FILE.fullmatch(text)]
    assert [name for name in names if not (ROOT / name).exists()] == []


@every_page
def test_make_targets_exist(page):
    named = {name for text in code(page) for name in re.findall(r"\bmake ([a-z][a-z-]*)", text)}
    assert named - make_targets() == set()


@every_page
def test_commands_and_their_options_exist(page):
    unknown = []
    every_option = set().union(*(options(command) for command in main.commands.values()))
    for text in code(page):
        known = every_option | FOREIGN_OPTIONS
        if found := re.search(r"\btwotower +([a-z]+(?:-[a-z]+)*)(.*)", text):
            verb, text = found.groups()
            if verb not in main.commands:
                unknown.append(verb)
                continue
            known = options(main.commands[verb])
        elif FOREIGN_PROGRAMS.search(text):
            continue
        named = re.findall(r"(?<![\w-])--[a-z][\w-]*", text.partition(" #")[0])
        unknown += [name for name in named if name not in known]
    assert unknown == []


@every_page
def test_settings_exist(page):
    known = set(settings(Config))
    sections = "|".join(Config.__fields__)
    setting = re.compile(rf"((?:{sections})\.[a-z_0-9.]+)(?:[:=].*)?")
    named = {found[1] for text in code(page) if (found := setting.fullmatch(text))}
    assert named - known == set()


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= MAX_README_LINES


def test_every_page_is_in_the_index_and_on_the_site():
    index, site = (ROOT / "docs" / "index.md").read_text(), (ROOT / "mkdocs.yml").read_text()
    pages = [page.name for page in (ROOT / "docs").glob("*.md") if page.name != "index.md"]
    assert [name for name in pages if f"({name})" not in index or f"- {name}" not in site] == []


def test_what_does_not_exist_is_found(tmp_path):
    """Each check above fails on a page that is wrong."""
    page = tmp_path / "page.md"
    page.write_text(
        "[a](nowhere.md) [b](#no-heading) `models/nothing.py` `make nothing` `twotower nothing`\n"
        "```sh\n    twotower train --nothing # --comment\n```\n`--nothing` `model.nothing`\n"
    )
    for check in (
        test_relative_links_lead_somewhere,
        test_files_that_code_names_exist,
        test_make_targets_exist,
        test_commands_and_their_options_exist,
        test_settings_exist,
    ):
        with pytest.raises(AssertionError):
            check(page)
