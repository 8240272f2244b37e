"""A loaded version, which answers tables of requests."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path

import numpy as np

from ..contract import RECOMMEND_FOR, SIMILAR_TO, Contract, Table
from ..engine import Engine
from ..filters.parameters import CANDIDATES, K
from ..live.state import learned_position
from ..live.store import EventStore
from ..live.users import LiveUsers, ids_of
from ..manifest import MANIFEST_FILE, MODEL_FILE
from ..operators.ids import ServedIds
from ..tensors import TYPES

ENGINES = {"compiled": "compiled_engine", "merlin": "merlin_engine"}
RUNTIME = __package__.rpartition(".")[0]
WARM_UP_ROWS = (1, 64)


def kind_of(table: Table) -> str:
    """Return the column that only tables of the model have to which the request was sent."""
    return next((name for name in (SIMILAR_TO, CANDIDATES) if name in table), "")


class Arm:
    """A version with its ids and its engine.

    Parameters
    ----------
    version : Path
        Its folder, which has been checked against its manifest.

    Attributes
    ----------
    number : int
        The version's number.
    runtime, towers : str
    contract : Contract
    engine : Engine
    live : LiveUsers or None
        The users with events, once there is a store of events.
    """

    def __init__(self, version: Path) -> None:
        model = json.loads((version / MODEL_FILE).read_text())
        self.number, self.runtime = int(version.name), model["runtime"]
        self.towers = json.loads((version / MANIFEST_FILE).read_text())["towers_sha256"]
        self.contract = Contract(**model["contract"])
        engine = import_module(f"{RUNTIME}.{ENGINES[self.runtime]}")
        self.engine: Engine = engine.load(version, model["threads"])
        self.ids = ServedIds(self.contract, version)
        self.learned = model.get("learned")
        self.live: LiveUsers | None = None
        self._warm_up()

    def follow(self, store: EventStore) -> LiveUsers | None:
        """Take the users' events into account from now on.

        Returns
        -------
        LiveUsers or None
            To which the events of the store must be given; None if the version knows no events.
        """
        rules = self.contract.event_rules
        if rules is None:
            return None
        learned = learned_position(store, self.learned)
        self.live = LiveUsers(rules, self.ids, self.engine.item_codes, learned, self.engine.changed)
        self.engine.follow(self.live)
        return self.live

    def deny(self, ids: Sequence[int | str]) -> None:
        """Leave items, by their ids, out of all answers from now on."""
        self.engine.deny(self.ids.codes(ids))

    def run(self, joined: Table) -> Table:
        """Answer the joined tables of requests, with ids as the clients give them."""
        table = self.ids.encode(joined)
        if self.live and self.contract.user_id in joined:
            table = self.live.mark(joined[self.contract.user_id], table)
        engine = self.engine
        answers = {"": engine.run, SIMILAR_TO: engine.similar, CANDIDATES: engine.recommend}
        return self.ids.decode(answers[kind_of(table)](table))

    def prepare(self, user_ids: Iterable[int | str]) -> None:
        """Compute and cache the vectors of users, whose next requests then need not wait."""
        contract = self.contract
        ids = ids_of(contract.user_id_type, list(user_ids))
        self.run(contract.read({contract.user_id: ids[:, None]}, {K: 1}))

    def _warm_up(self) -> None:
        """Load what is loaded lazily and find errors, because requests must work from now on."""
        contract = self.contract
        for rows in WARM_UP_ROWS:
            text = contract.user_id_type == "BYTES"
            ids = np.full((rows, 1), b"" if text else 0, TYPES[contract.user_id_type])
            self.run(contract.read({contract.user_id: ids}, {}))
            if contract.candidates and rows * contract.candidates <= contract.max_rows:
                self.run(contract.read({RECOMMEND_FOR: ids}, {}))
