"""The cells of the speed measurement (wire format, batch size, clients), ratios and limits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import product
from statistics import median

from benchmarks.report import Check
from benchmarks.serving.load import WIRES, LoadResult, Wire
from benchmarks.serving.subjects import (
    IDENTITY,
    MERLIN,
    OURS,
    OURS_WITH_FEATURES,
    STOCK,
    SUBJECTS,
)

BATCHES, CLIENTS = (1, 8, 64, 256), (1, 4, 16, 64)
LARGEST = BATCHES[-1]


@dataclass(frozen=True)
class Cell:
    """Concurrent clients that each ask for `batch` users per request."""

    wire: Wire
    batch: int
    clients: int

    def __str__(self) -> str:
        return f"{self.wire}, batch {self.batch}, {self.clients} clients"


def cells() -> Iterator[tuple[Cell, list[str]]]:
    """Yield every cell with the subjects that are measured in it."""
    for wire, (batch, clients) in product(WIRES, product(BATCHES, CLIENTS)):
        cell = Cell(wire=wire, batch=batch, clients=clients)
        if subjects := [name for name in SUBJECTS if _is_measured(name, cell)]:
            yield cell, subjects


def _is_measured(subject: str, cell: Cell) -> bool:
    """Whether the subject is measured in the cell: ours in nearly all, the others in some."""
    one_client, one_user = cell.clients == 1, cell.batch == 1
    if cell.wire == "http binary":
        if subject == OURS and cell.batch > 8 and cell.clients == 16:
            return True
        return one_client and subject != OURS_WITH_FEATURES and (one_user or subject != STOCK)
    return {
        OURS: True,
        OURS_WITH_FEATURES: one_client and cell.batch in (1, LARGEST),
        IDENTITY: one_client or one_user,
        MERLIN: (one_user and cell.clients <= 16) or (one_client and cell.wire == "grpc"),
        STOCK: one_user and cell.clients <= 16,
    }[subject]


class SpeedResults:
    """The results so far: one per round, by subject and cell."""

    def __init__(self) -> None:
        self.rounds: dict[tuple[str, Cell], list[LoadResult]] = defaultdict(list)

    def add(self, subject: str, cell: Cell, result: LoadResult) -> None:
        self.rounds[subject, cell].append(result)

    def median(self, field: str, subject: str, cell: Cell) -> float:
        """Median over the rounds of a field of LoadResult."""
        return median(getattr(each, field) for each in self.rounds[subject, cell])

    def p50(self, subject: str, wire: Wire, batch: int = 1) -> float:
        """Median latency in milliseconds with one client."""
        return self.median("p50_ms", subject, Cell(wire=wire, batch=batch, clients=1))

    @property
    def errors(self) -> int:
        return sum(each.errors for rounds in self.rounds.values() for each in rounds)

    def records(self) -> list[dict]:
        """Medians over the rounds for the result file, one record per subject and cell."""
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


def ratios(results: SpeedResults) -> dict[str, float]:
    """Compute ratios of medians; both sides of a ratio have the same wire format."""
    found: dict[str, float] = {}
    wires: tuple[tuple[str, Wire], ...] = (("http", "http json"), ("grpc", "grpc"))
    for name, wire in wires:
        ours, stock = results.p50(OURS, wire), results.p50(STOCK, wire)
        with_features = results.p50(OURS_WITH_FEATURES, wire)
        many = Cell(wire=wire, batch=1, clients=16)
        throughput = {
            subject: results.median("requests_per_s", subject, many) for subject in (OURS, IDENTITY)
        }
        p50, p99 = (results.median(field, OURS, many) for field in ("p50_ms", "p99_ms"))
        found |= {
            f"{name}: p50 at batch 1, one client, times identity": (
                ours / results.p50(IDENTITY, wire)
            ),
            f"{name}: stock ensemble's p50 over ours": stock / ours,
            f"{name}: stock ensemble's p50 over ours, features given": stock / with_features,
            f"{name}: runtime merlin's p50 over ours": results.p50(MERLIN, wire) / ours,
            f"{name}: p50 of {LARGEST} users in one request, features given, times batch 1": (
                results.p50(OURS_WITH_FEATURES, wire, LARGEST) / with_features
            ),
            f"{name}: 16 clients, throughput over identity's": (
                throughput[OURS] / throughput[IDENTITY]
            ),
            f"{name}: 16 clients, p99 over p50": p99 / p50,
        }
    large_wires: tuple[tuple[str, Wire], ...] = (
        ("http", "http binary"),
        ("http json", "http json"),
        ("grpc", "grpc"),
    )
    for name, wire in large_wires:
        found[f"{name}: p50 of {LARGEST} users in one request, times ours at batch 1"] = (
            results.p50(OURS, wire, LARGEST) / results.p50(OURS, wire)
        )
    return {name: round(value, 3) for name, value in found.items()}


def checks(results: SpeedResults, found: dict[str, float]) -> list[Check]:
    """Check the ratios that have a limit, and that no request failed."""
    limits: dict[str, tuple[str, float]] = {}
    for name, latency, throughput in (("http", 1.75, 0.6), ("grpc", 1.3, 0.7)):
        limits |= {
            f"{name}: p50 at batch 1, one client, times identity": ("<=", latency),
            f"{name}: p50 of {LARGEST} users in one request, times ours at batch 1": ("<=", 5.0),
            f"{name}: 16 clients, throughput over identity's": (">=", throughput),
            f"{name}: 16 clients, p99 over p50": ("<=", 5.0),
        }
    return [
        *(Check(name, found[name], relation, limit) for name, (relation, limit) in limits.items()),
        Check("speed: errors", results.errors, "==", 0),
    ]
