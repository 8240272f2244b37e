"""The names of the networks and losses of the ranking model, with a summary of each."""

from __future__ import annotations

NETWORKS = {
    "mlp": "ReLU layers over the concatenated features",
    "dcn": "cross layers (DCN-v2), then ReLU layers",
    "dlrm": "dot products of all embeddings, then ReLU layers",
    "deepfm": "a factorization machine plus ReLU layers",
    "esmm": "two labels: ReLU layers per label over shared embeddings (ESMM)",
    "mmoe": "two labels: shared experts, mixed by a gate per label (MMoE)",
    "ple": "two labels: shared experts and experts of each label, in layers (PLE)",
    "inttower": "layers of a user tower meet the heads of an item tower, plus ReLU layers over the "
    "features of the candidate (IntTower)",
}
NEED_EMBEDDINGS = ("dlrm", "deepfm")
"""Networks that multiply embeddings with each other."""
NEED_BOTH_SIDES = ("inttower",)
"""Networks that multiply something made from the user with something made from the item."""
TWO_LABELS = ("esmm", "mmoe", "ple")
"""Networks that learn whether the user interacts, and if so, whether that is a positive."""
LOSSES = {
    "binary": "cross-entropy of each candidate",
    "pairwise": "logistic loss of the differences between positives and other candidates of a user",
    "listwise": "cross-entropy of the softmax over the candidates of a user",
}


def lacks_embeddings(model: str, users: int, items: int) -> str | None:
    """Say which embeddings a network needs that there are not.

    Parameters
    ----------
    model : str
        One of `NETWORKS`.
    users, items : int
        Number of embedded columns of users and of items.

    Returns
    -------
    str or None
        The message; None if nothing is missing.
    """
    if model in NEED_EMBEDDINGS and not users + items:
        return (
            f"ranking.model {model} multiplies embeddings, but there are none: name features or "
            "ids in ranking.embedded, or choose mlp or dcn"
        )
    if model in NEED_BOTH_SIDES and not (users and items):
        missing = "items" if users else "users"
        return (
            f"ranking.model {model} has a tower of users and one of items, but no embedding of "
            f"{missing}: name one of their features, or their ids, in ranking.embedded, or choose "
            "mlp"
        )
    return None
