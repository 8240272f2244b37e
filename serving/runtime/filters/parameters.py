"""The parameters of a request: their names, types and defaults, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any

from ..errors import RequestError
from .caps import MAX_PER, parse_caps
from .predicate import WHERE, parse

K, FILTER_SEEN = "k", "filter_seen"
CANDIDATES = "candidates"
"""How many items per user the ranking model orders."""
DIVERSITY, DIVERSITY_BY = "diversity", "diversity_by"
OF_ITEMS = (WHERE, MAX_PER, DIVERSITY, DIVERSITY_BY)
"""The parameters that are about the items of an answer."""
PARAMETER_TYPES = {
    K: "int64",
    FILTER_SEEN: "bool",
    WHERE: "object",
    MAX_PER: "object",
    DIVERSITY: "float64",
    DIVERSITY_BY: "object",
    CANDIDATES: "int64",
}
KEY_HEADER = "twotower-key"
"""The HTTP header, or the entry of gRPC's metadata, with the key of the server. Triton adds it to
the parameters of a request."""
PREDICATES = 1024
"""Number of predicates that are known to be right; their texts take 16 MB at most."""


class ParameterReader:
    """Reads and checks parameters.

    Parameters
    ----------
    default_k, max_k : int
        Default and largest value of `k`.
    candidates : int
        Default and largest value of `candidates`.
    columns : mapping of str to str
        The columns that parameters may name, with their kinds (see `predicate`).
    """

    def __init__(
        self, default_k: int, max_k: int, candidates: int, columns: Mapping[str, str]
    ) -> None:
        self.default_k, self.max_k, self.candidates = default_k, max_k, candidates
        self.columns = columns

    def read(self, parameters: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
        """Return the parameters that a request has, with those that have a default.

        Raises
        ------
        RequestError
            If one is not among `names`, or its value is wrong.
        """
        if not parameters:
            return {K: self.default_k, FILTER_SEEN: True}
        unknown = sorted(set(parameters).difference(names))
        if unknown:
            raise RequestError(
                f"parameter '{unknown[0]}' is unknown; this model takes {', '.join(names)}"
            )
        chosen = {K: self.default_k, FILTER_SEEN: True, **parameters}
        k, filter_seen = chosen[K], chosen[FILTER_SEEN]
        if type(k) is not int or not 1 <= k <= self.max_k:
            raise RequestError(
                f"parameter '{K}' is {k!r}; expected an integer from 1 to {self.max_k}"
            )
        if type(filter_seen) is not bool:
            raise RequestError(f"parameter '{FILTER_SEEN}' is {filter_seen!r}; expected a boolean")
        for name in (WHERE, MAX_PER):
            if name in chosen:
                if type(chosen[name]) is not str:
                    raise RequestError(
                        f"parameter '{name}' is {chosen[name]!r}; expected text that holds JSON"
                    )
                self._check_json(name, chosen[name])
        self._check_diversity(chosen)
        return chosen

    def read_ranked(
        self, parameters: Mapping[str, Any], names: Sequence[str]
    ) -> tuple[dict[str, Any], int]:
        """Return the same of a request to the model `recommend`, and the number of candidates."""
        count = parameters.get(CANDIDATES, self.candidates)
        if type(count) is not int or not 1 <= count <= self.candidates:
            raise RequestError(
                f"parameter '{CANDIDATES}' is {count!r}; expected an integer from 1 to "
                f"{self.candidates}"
            )
        others = {name: value for name, value in parameters.items() if name != CANDIDATES}
        if K not in others:
            others[K] = min(self.default_k, count)
        chosen = self.read(others, names)
        if chosen[K] > count:
            raise RequestError(
                f"parameter '{K}' is {chosen[K]}, but the ranking model orders {count} candidates; "
                "ask for at most as many, or ask the model retrieval"
            )
        return chosen, count

    def _check_diversity(self, chosen: dict[str, Any]) -> None:
        """Check what is said about diversity, and drop it if it has no effect."""
        diversity = chosen.get(DIVERSITY, 0)
        if type(diversity) not in (int, float) or not 0 <= diversity <= 1:
            raise RequestError(
                f"parameter '{DIVERSITY}' is {diversity!r}; expected a number from 0 to 1"
            )
        by = chosen.get(DIVERSITY_BY)
        if DIVERSITY_BY in chosen and (type(by) is not str or by not in self.columns):
            known = ", ".join(self.columns) or "no columns"
            raise RequestError(
                f"parameter '{DIVERSITY_BY}' is {by!r}; expected a column: this model has {known}"
            )
        if diversity == 0:
            chosen.pop(DIVERSITY, None)
            chosen.pop(DIVERSITY_BY, None)

    @cached_property
    def _check_json(self) -> Callable[[str, str], None]:
        """Check the text of a parameter; those that were right are remembered."""

        @lru_cache(maxsize=PREDICATES)
        def check(name: str, text: str) -> None:
            (parse if name == WHERE else parse_caps)(text, self.columns)

        return check
