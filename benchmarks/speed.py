"""Which cells are measured of which subject, and what is made of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import product
from statistics import median

from rich.console import Console
from rich.table import Table

from benchmarks.load import WIRES, Measured, Wire
from benchmarks.report import Check
from benchmarks.subjects import GIVEN, IDENTITY, MERLIN, OURS, STOCK, SUBJECTS

BATCHES, CLIENTS = (1, 8, 64, 256), (1, 4, 16, 64)
LARGEST = BATCHES[-1]


@dataclass(frozen=True)
class Cell:
    """`clients` who each ask for `batch` users at a time."""

    wire: Wire
    batch: int
    clients: int

    def __str__(self) -> str:
        return f"{self.wire}, batch {self.batch}, {self.clients} clients"


def cells() -> Iterator[tuple[Cell, list[str]]]:
    """Every cell, and the subjects that are measured in it."""
    for cell in (Cell(*each) for each in product(WIRES, BATCHES, CLIENTS)):
        if subjects := [name for name in SUBJECTS if _measured(name, cell)]:
            yield cell, subjects


def _measured(subject: str, cell: Cell) -> bool:
    """The whole cross product for ours; where it tells most for the others and for binary HTTP."""
    one, single = cell.clients == 1, cell.batch == 1
    if cell.wire == "http binary":
        large = subject == OURS and cell.batch > 8 and cell.clients == 16
        return large or (one and subject != GIVEN and (single or subject != STOCK))
    return {
        OURS: True,
        GIVEN: one and cell.batch in (1, LARGEST),
        IDENTITY: one or single,
        MERLIN: (single and cell.clients <= 16) or (one and cell.wire == "grpc"),
        STOCK: single and cell.clients <= 16,
    }[subject]


class Results:
    """What was measured so far: (subject, cell) -> one `Measured` a round."""

    def __init__(self) -> None:
        self.rounds: dict[tuple[str, Cell], list[Measured]] = defaultdict(list)

    def add(self, subject: str, cell: Cell, measured: Measured) -> None:
        self.rounds[subject, cell].append(measured)

    def median(self, field: str, subject: str, cell: Cell) -> float:
        """Over the rounds."""
        return median(getattr(each, field) for each in self.rounds[subject, cell])

    def p50(self, subject: str, wire: Wire, batch: int = 1) -> float:
        """Milliseconds, one client."""
        return self.median("p50_ms", subject, Cell(wire, batch, 1))

    @property
    def errors(self) -> int:
        return sum(each.errors for rounds in self.rounds.values() for each in rounds)

    def records(self) -> list[dict]:
        """For the result file: medians over the rounds, one record a subject and cell."""
        return [
            {
                "subject": subject,
                **asdict(cell),
                "p50_ms": round(self.median("p50_ms", subject, cell), 3),
                "p99_ms": round(self.median("p99_ms", subject, cell), 3),
                "requests_per_s": round(self.median("requests_per_s", subject, cell), 1),
                "errors": sum(each.errors for each in rounds),
            }
            for (subject, cell), rounds in self.rounds.items()
        ]


def ratios(results: Results) -> dict[str, float]:
    """Ratios of medians, the same wire format on both sides of each."""
    found = {}
    for name, wire in (("http", "http json"), ("grpc", "grpc")):
        ours, many = results.p50(OURS, wire), Cell(wire, 1, 16)
        found |= {
            f"{name}: p50 at batch 1, one client, times identity": ours
            / results.p50(IDENTITY, wire),
            f"{name}: stock ensemble's p50 over ours": results.p50(STOCK, wire) / ours,
            f"{name}: stock ensemble's p50 over ours, features given": results.p50(STOCK, wire)
            / results.p50(GIVEN, wire),
            f"{name}: runtime merlin's p50 over ours": results.p50(MERLIN, wire) / ours,
            f"{name}: p50 of {LARGEST} users in one request, features given, times batch 1": (
                results.p50(GIVEN, wire, LARGEST) / results.p50(GIVEN, wire)
            ),
            f"{name}: 16 clients, throughput over identity's": results.median(
                "requests_per_s", OURS, many
            )
            / results.median("requests_per_s", IDENTITY, many),
            f"{name}: 16 clients, p99 over p50": results.median("p99_ms", OURS, many)
            / results.median("p50_ms", OURS, many),
        }
    for name, wire in (("http", "http binary"), ("http json", "http json"), ("grpc", "grpc")):
        found[f"{name}: p50 of {LARGEST} users in one request, times ours at batch 1"] = (
            results.p50(OURS, wire, LARGEST) / results.p50(OURS, wire)
        )
    return {name: round(value, 3) for name, value in found.items()}


def checks(results: Results, found: dict[str, float]) -> list[Check]:
    """The ratios that have a limit, and no error anywhere."""
    limits = {}
    for name, latency, throughput in (("http", 1.75, 0.6), ("grpc", 1.3, 0.7)):
        limits |= {
            f"{name}: p50 at batch 1, one client, times identity": ("<=", latency),
            f"{name}: p50 of {LARGEST} users in one request, times ours at batch 1": ("<=", 5.0),
            f"{name}: 16 clients, throughput over identity's": (">=", throughput),
            f"{name}: 16 clients, p99 over p50": ("<=", 5.0),
        }
    return [
        *(Check(name, found[name], *limit) for name, limit in limits.items()),
        Check("errors", results.errors, "==", 0),
    ]


def print_table(records: list[dict]) -> None:
    """A row a cell, a column a subject."""
    table = Table("wire", "batch", "clients", *SUBJECTS, title_justify="left")
    table.title = "p50 / p99 in ms, requests/s"
    shown = defaultdict(dict)
    for each in records:
        shown[each["wire"], each["batch"], each["clients"]][each["subject"]] = (
            f"{each['p50_ms']:.2f} / {each['p99_ms']:.2f}, {each['requests_per_s']:,.0f}"
        )
    for cell, subjects in shown.items():
        table.add_row(*map(str, cell), *(subjects.get(name, "") for name in SUBJECTS))
    Console(width=150, highlight=False).print(table)
