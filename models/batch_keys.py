"""Keys of a training batch, and the reserved codes in its columns.

A batch starts as two row numbers per interaction. `FeatureLookup` replaces them by the columns of
the batch's distinct users and items, under the columns' names, and adds the keys below.
"""

# What a batch is read as: int32 [n], rows of the user table and of the item table.
USER_ROW, ITEM_ROW = "user_row", "item_row"

# Read with them if there are features of the context: int32 [n], rows of the contexts.
CONTEXT_ROW = "context_row"
# Read with them if positives have weights: float32 [n], with a mean of 1 over all positives.
WEIGHT = "_weight"

# int32 [n]: which of the batch's q distinct queries and c distinct items each interaction has. A
# query is a user, together with the context if there are features of it.
QUERY_OF, POSITIVE_OF = "_query_of", "_positive_of"
# float32 or int32 [c]: how many negatives each candidate stands for.
COUNT = "_count"
# int32 [c]: the row of the item table of each candidate.
ROW = "_row"
# int32 [2]: seed for random draws in the loss.
SEED = "_seed"
# bool [q, c]: whether a candidate is a known positive of a user.
KNOWN = "_known"
# float32 [q]: the fraction of a user's positives that is in the batch.
SHARE = "_share"
# int32 [n, m]: the candidates that are negatives of one interaction only.
NEGATIVE_OF = "_negative_of"

# Self-supervised task: int32 [s], rows of the sampled items; and, under this prefix and a column's
# name, the first views of all sampled items followed by their second views.
VIEWED, VIEW = "_viewed", "_view:"

# Codes that NVTabular's Categorify reserves. Code 1 is null.
PADDING, OUT_OF_VOCABULARY = 0, 2
