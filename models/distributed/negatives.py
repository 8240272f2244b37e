"""The candidates of all workers as one batch: each is a negative for the users of all."""

from __future__ import annotations

import tensorflow as tf
from merlin.models.tf.outputs.sampling.base import Candidate

from twotower.models.batch_keys import COUNT, POSITIVE_OF, ROW
from twotower.models.distributed.workers import Workers


def gathered_candidates(candidate: Candidate, workers: Workers) -> Candidate:
    """Join the distinct items of all workers' batches.

    Parameters
    ----------
    candidate : Candidate
        The distinct items of this worker's batch: ids, vectors float32 [c, dim], and the batch as
        metadata.
    workers : Workers

    Returns
    -------
    Candidate
        The distinct items of all batches. An item that several workers have counts as often as it
        does in all of them, and has the vector of the first of them, so that it is not a false
        negative of its own. The gradient of a vector goes to the worker that computed it.
    """
    batch = candidate.metadata
    rows = workers.gather(batch[ROW], "rows")
    sizes = workers.gather(tf.shape(batch[ROW])[:1], "sizes")
    counts = workers.gather(tf.cast(batch[COUNT], tf.float32), "counts")
    ids = workers.gather(tf.reshape(candidate.id, [-1]), "ids")
    vectors = workers.gather_vectors(candidate.embedding, "vectors")
    distinct, place = tf.unique(rows)
    n = tf.size(distinct)
    first = tf.math.unsorted_segment_min(tf.range(tf.size(rows)), place, n)
    begin = tf.reduce_sum(sizes[: workers.rank])
    metadata = {
        **batch,
        ROW: distinct,
        COUNT: tf.math.unsorted_segment_sum(counts, place, n),
        POSITIVE_OF: tf.gather(place, begin + batch[POSITIVE_OF]),
    }
    joined = Candidate(id=tf.gather(ids, first), metadata=metadata)
    return joined.with_embedding(tf.gather(vectors, first))
