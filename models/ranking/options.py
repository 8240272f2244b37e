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
}
NEED_EMBEDDINGS = ("dlrm", "deepfm")
"""Networks that multiply embeddings with each other."""
TWO_LABELS = ("esmm", "mmoe", "ple")
"""Networks that learn whether the user interacts, and if so, whether that is a positive."""
LOSSES = {
    "binary": "cross-entropy of each candidate",
    "pairwise": "logistic loss of the differences between positives and other candidates of a user",
    "listwise": "cross-entropy of the softmax over the candidates of a user",
}
