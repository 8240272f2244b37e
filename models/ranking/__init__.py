"""The second stage: a model that ranks what retrieval has found."""
