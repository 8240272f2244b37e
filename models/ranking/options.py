"""The names of the networks and losses of the ranking model, with a summary of each."""

from __future__ import annotations

NETWORKS = {
    "mlp": "ReLU layers over the concatenated features",
    "dcn": "cross layers (DCN-v2), then ReLU layers",
    "dlrm": "dot products of all embeddings, then ReLU layers",
    "deepfm": "a factorization machine plus ReLU layers",
}
NEED_EMBEDDINGS = ("dlrm", "deepfm")
"""Networks that multiply embeddings with each other."""
LOSSES = {
    "binary": "cross-entropy of each candidate",
    "pairwise": "logistic loss of the differences between positives and other candidates of a user",
    "listwise": "cross-entropy of the softmax over the candidates of a user",
}
