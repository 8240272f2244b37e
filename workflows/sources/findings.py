"""What was found in imperfect data, and what was done about it: one entry per rule."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from twotower.workflows.errors import DataError

REPORT = "report.json"
"""The data report in the folder of the tidy tables."""


@dataclass(frozen=True)
class Finding:
    """One rule that was applied to the data.

    Attributes
    ----------
    rule : str
        Its name, such as "repeated_pairs"; "remark" for a line on how the data was read.
    count : int or None
        The number of rows, values or ids that it changed or concerns.
    text : str
        The line that people read.
    """

    rule: str
    count: int | None
    text: str


class Findings:
    """Collects what was found in the data, and reports each as a line.

    Calling it reports a remark, so that it can be used as `OnMessage`.

    Parameters
    ----------
    on_message : callable
        Called with each line.
    strict : bool
        Whether a finding that changes data raises DataError instead.
    """

    def __init__(self, on_message: Callable[[str], None], strict: bool = False):
        self._on_message, self._strict = on_message, strict
        self.entries: list[Finding] = []

    @classmethod
    def of(cls, on_message: Callable[[str], None]) -> Findings:
        """Return `on_message` itself, or wrap it if it is another callback."""
        return on_message if isinstance(on_message, cls) else cls(on_message)

    def __call__(self, text: str) -> None:
        """Report how the data is read."""
        self._report("remark", None, text)

    def note(self, rule: str, count: int, text: str) -> None:
        """Report a finding that a setting of its own allows, so `strict` does not refuse it."""
        self._report(rule, count, text)

    def changed(self, rule: str, count: int, text: str, done: str) -> None:
        """Report that data was changed; nothing if `count` is 0.

        Parameters
        ----------
        rule : str
        count : int
        text : str
            What was found.
        done : str
            What was done about it.

        Raises
        ------
        DataError
            If `strict`.
        """
        if not count:
            return
        if self._strict:
            raise DataError(f"{text}. Correct the data, or set ingest.strict to false: then {done}")
        self._report(rule, count, f"{text}; {done}")

    def renamed(self, names: Callable[[str], str]) -> Findings:
        """Return findings that are reported here; `names` corrects the names in their lines."""
        return _Renamed(self, names)

    def _report(self, rule: str, count: int | None, text: str) -> None:
        entry = Finding(rule, count, text)
        if entry not in self.entries:
            self.entries.append(entry)
            self._on_message(text)


class _Renamed(Findings):
    def __init__(self, findings: Findings, names: Callable[[str], str]):
        super().__init__(findings, findings._strict)
        self._findings, self._names = findings, names

    def _report(self, rule: str, count: int | None, text: str) -> None:
        self._findings._report(rule, count, self._names(text))


def write_report(folder: Path, findings: Sequence[Finding], profile: Mapping[str, Any]) -> None:
    """Write the data report: one entry for each finding, and the profile of the interactions."""
    _write(folder, {"findings": _plain(findings), "profile": dict(profile)})


def add_update(before: Path, folder: Path, name: str, findings: Sequence[Finding]) -> None:
    """Write the data report of the folder `before`, with the findings of an update, to `folder`.

    A run made before there was a data report has none.
    """
    old = before / REPORT
    report = json.loads(old.read_text(encoding="utf-8")) if old.exists() else {"findings": []}
    entry = {"name": name, "findings": _plain(findings)}
    _write(folder, {**report, "updates": [*report.get("updates", []), entry]})


def _plain(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    return [asdict(finding) for finding in findings]


def _write(folder: Path, report: Mapping[str, Any]) -> None:
    text = json.dumps(report, indent=2, ensure_ascii=False)
    (folder / REPORT).write_text(f"{text}\n", encoding="utf-8")
