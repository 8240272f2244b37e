"""A fault: an invalid request of a client, and the answer that is documented for it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from tests.serving.faults.clients import Answer, Target, Tensor, grpc_infer, http_infer

MAX_MESSAGE = 2_000
INTERNALS = re.compile(
    r"Traceback|\.py\b|shm_region|\n\s*At:|(?<![\w.%])/\w[\w.-]*/"  # the last: absolute paths
)
ANSWERED = (200, "OK")
REFUSED = (400, "INVALID_ARGUMENT")
FRONT_END = (500, "INVALID_ARGUMENT")
"""Triton's HTTP front end answers 500 to what it cannot parse."""

Send = Callable[[Target], Answer]
MakeTensors = Callable[[Target], list[Tensor]]


@dataclass(frozen=True)
class Fault:
    """A kind of fault over one protocol.

    Attributes
    ----------
    kind : str
    protocol : str
        "http" or "grpc".
    send : callable
        Sends the request to a target and returns the answer.
    status : int or str
        Documented HTTP status, name of a gRPC status code, or `NO_ANSWER`.
    message : str
        Text that the answer must contain. `{user_id}`, `{max_k}` and the like are replaced by the
        target's attributes.
    same_as : callable, optional
        Sends a request that has the same answer.
    reloads : bool
        Whether the model's process is replaced.
    """

    kind: str
    protocol: str
    send: Send
    status: int | str
    message: str = ""
    same_as: Send | None = None
    reloads: bool = False

    def __str__(self) -> str:
        return f"{self.protocol}: {self.kind}"

    def problems(self, target: Target) -> list[str]:
        """Send the request; list what is not as documented, in the answer and in the server."""
        return [*self._answer_problems(target), *target.problems()]

    def _answer_problems(self, target: Target) -> list[str]:
        answer, message = self.send(target), self.message.format_map(vars(target))
        found = []
        if answer.status != self.status:
            found.append(f"status {answer.status}, not {self.status}")
        if message not in answer.text:
            found.append(f"does not say {message}")
        if self.same_as and not _same(answer, self.same_as(target)):
            found.append("another answer")
        if answer.status not in ANSWERED:
            if len(answer.text) > MAX_MESSAGE:
                found.append(f"a message of {len(answer.text)} characters")
            if internal := INTERNALS.search(answer.text):
                found.append(f"shows {internal.group()!r}")
        return [f"{problem}: {answer.text[:300]}" for problem in found]


def _same(answer: Answer, other: Answer) -> bool:
    try:
        parts = [json.loads(each.text)["outputs"] for each in (answer, other)]
    except (ValueError, LookupError):
        parts = [answer.text, other.text]
    return answer.status == other.status and parts[0] == parts[1]


def over_both(
    kind: str,
    tensors: MakeTensors,
    message: str | tuple[str, str] = "",
    statuses: tuple[int | str, int | str] = REFUSED,
    same_as: MakeTensors | None = None,
    **parts: Any,
) -> list[Fault]:
    """Make the same inference request over HTTP and over gRPC.

    `message` may be a pair, and `statuses` is one, for HTTP and gRPC.
    """
    http_message, grpc_message = (message, message) if isinstance(message, str) else message
    return [
        Fault(
            kind=kind,
            protocol=protocol,
            send=inference(infer, tensors, **parts),
            status=status,
            message=text,
            same_as=inference(infer, same_as) if same_as else None,
        )
        for protocol, infer, status, text in (
            ("http", http_infer, statuses[0], http_message),
            ("grpc", grpc_infer, statuses[1], grpc_message),
        )
    ]


def inference(infer: Callable[..., Answer], tensors: MakeTensors, **parts: Any) -> Send:
    """Return a function that sends an inference request; a part may be a function of the target."""

    def send(t: Target) -> Answer:
        values = {name: part(t) if callable(part) else part for name, part in parts.items()}
        return infer(t, tensors(t), **values)

    return send


def over_http(table: Iterable[tuple]) -> list[Fault]:
    """Make faults over HTTP from (kind, send, status[, message[, same_as]])."""
    return [Fault(kind, "http", *rest) for kind, *rest in table]


def over_grpc(table: Iterable[tuple]) -> list[Fault]:
    """Make faults over gRPC from (kind, send, status[, message])."""
    return [Fault(kind, "grpc", *rest) for kind, *rest in table]


def one_user(t: Target) -> list[Tensor]:
    """The tensors of a valid request."""
    return [t.ids(5)]


def ask_known_user(t: Target) -> Answer:
    """Send a valid request for the known user."""
    return http_infer(t, [t.ids(t.user)])
