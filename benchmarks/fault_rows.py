"""A row of the fault table: what a client does wrong, and the answer that is documented for it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from benchmarks.hostile import Answer, Target, Tensor, grpc_infer, http_infer

LONGEST_MESSAGE = 2_000
INSIDES = re.compile(
    r"Traceback|\.py\b|shm_region|\n\s*At:|(?<![\w.%])/\w[\w.-]*/"  # the last: absolute paths
)
ANSWERED = (200, "OK")
REFUSED = (400, "INVALID_ARGUMENT")
FRONT_END = (500, "INVALID_ARGUMENT")
"""Triton's HTTP front end knows no better status for what it cannot parse itself."""

Ask = Callable[[Target], Answer]
Tensors = Callable[[Target], list[Tensor]]


@dataclass(frozen=True)
class Row:
    """A kind of fault over one protocol.

    Attributes
    ----------
    status : HTTP status, name of a gRPC code, or `NO_ANSWER`
    names : what the message has to hold; {user_id}, {max_k} and the like are the target's
    like : asks what has the very same answer
    needs_number : the model must have a feature that is FP64
    reloads : the model's process is another one afterwards
    """

    kind: str
    protocol: str
    ask: Ask
    status: int | str
    names: str = ""
    like: Ask | None = None
    needs_number: bool = False
    reloads: bool = False

    def __str__(self) -> str:
        return f"{self.protocol}: {self.kind}"

    def suits(self, target: Target) -> bool:
        return target.number is not None or not self.needs_number

    def wrong(self, target: Target) -> list[str]:
        """What is not as documented in the answer, and with the server afterwards."""
        return [*self._problems(target), *target.faults()]

    def _problems(self, target: Target) -> list[str]:
        answer, names = self.ask(target), self.names.format_map(vars(target))
        found = []
        if answer.status != self.status:
            found.append(f"answered {answer.status}, not {self.status}")
        if names not in answer.text:
            found.append(f"does not name {names}")
        if self.like and not _same(answer, self.like(target)):
            found.append("another answer")
        if answer.status not in ANSWERED:
            if len(answer.text) > LONGEST_MESSAGE:
                found.append(f"a message of {len(answer.text)} characters")
            if inside := INSIDES.search(answer.text):
                found.append(f"shows {inside.group()!r}")
        return [f"{problem}: {answer.text[:300]}" for problem in found]


def _same(answer: Answer, other: Answer) -> bool:
    try:
        parts = [json.loads(each.text)["outputs"] for each in (answer, other)]
    except (ValueError, LookupError):
        parts = [answer.text, other.text]
    return answer.status == other.status and parts[0] == parts[1]


def both(
    kind: str,
    tensors: Tensors,
    names: str | tuple[str, str] = "",
    statuses: tuple[int | str, int | str] = REFUSED,
    like: Tensors | None = None,
    needs_number: bool = False,
    **parts: Any,
) -> list[Row]:
    """The same inference request over HTTP and over gRPC."""
    if isinstance(names, str):
        names = (names, names)
    asks = (("http", http_infer), ("grpc", grpc_infer))
    return [
        Row(
            *(kind, protocol, asking(infer, tensors, **parts), status, named),
            *(asking(infer, like) if like else None, needs_number),
        )
        for (protocol, infer), status, named in zip(asks, statuses, names, strict=True)
    ]


def asking(infer: Callable[..., Answer], tensors: Tensors, **parts: Any) -> Ask:
    """An inference request; a part may be a function of the target."""

    def ask(t: Target) -> Answer:
        made = {name: part(t) if callable(part) else part for name, part in parts.items()}
        return infer(t, tensors(t), **made)

    return ask


def over(protocol: str, table: Iterable[tuple]) -> list[Row]:
    """Rows of one protocol: kind and what follows the protocol in `Row`."""
    return [Row(kind, protocol, *rest) for kind, *rest in table]


def one(t: Target) -> list[Tensor]:
    return [t.ids(5)]


def known(t: Target) -> Answer:
    """The answer to the plain request for the known user."""
    return http_infer(t, [t.ids(t.user)])
