"""Tables of the documentation, generated from benchmarks/results/*.json.

python -m benchmarks.figures        fills the tables in README.md and docs/*.md

A page names the tables that it wants; the text between two markers is replaced:

    <!-- figures: speed -->
    <!-- /figures -->
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from benchmarks.child import ROOT
from benchmarks.tables import TABLES

BLOCK = re.compile(
    r"^<!-- figures: (?P<name>[^\n]*?) -->\n.*?^<!-- (?P<end>/figures|figures: [^\n]*) -->$",
    re.MULTILINE | re.DOTALL,
)
OPENING = re.compile(r"^<!-- figures: ", re.MULTILINE)


class FiguresError(Exception):
    """A page has a wrong marker."""


def fill(text: str, page: str = "page") -> str:
    """Replace the tables between the markers of a page.

    Parameters
    ----------
    text : str
        Content of the page.
    page : str
        Its name, for error messages.

    Raises
    ------
    FiguresError
        If a marker names no table or is not closed.
    """

    def block(match: re.Match[str]) -> str:
        name = match["name"]
        if match["end"] != "/figures":
            raise FiguresError(f"{page}: <!-- figures: {name} --> needs <!-- /figures --> after it")
        if name not in TABLES:
            raise FiguresError(f"{page}: no figures {name!r}; there are {', '.join(TABLES)}")
        return f"<!-- figures: {name} -->\n{TABLES[name]()}\n<!-- /figures -->"

    filled, blocks = BLOCK.subn(block, text)
    if blocks != len(OPENING.findall(text)):
        raise FiguresError(f"{page}: a <!-- figures: ... --> has no <!-- /figures --> after it")
    return filled


def pages() -> list[Path]:
    """List the pages that may have figures."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def main() -> None:
    """Fill the tables of all pages; print the pages that changed."""
    for path in pages():
        text = path.read_text()
        try:
            filled = fill(text, page=path.name)
        except FiguresError as error:
            sys.exit(str(error))
        if filled != text:
            path.write_text(filled)
            print(f"updated {path}")


if __name__ == "__main__":
    main()
