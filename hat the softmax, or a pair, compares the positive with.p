# Two-tower variants, compared

What practitioners vary in a two-tower model, one thing at a time: what it is, when to use it, and
what it did in this project. Every figure below is from two runs of `twotower compare` with three
seeds each: 50 variants on MovieLens-100K ([table and plots](ml-100k/table.md)) and ten on
MovieLens-1M ([table and plots](ml-1m/table.md)).

**How to read the figures.**

- The split is 8:1:1 per user at random, of ratings of 3 and more (10-core).
- All items are ranked, except those that the user has in the training part. The epoch was chosen on
  valid by NDCG@10.
- The figures are test NDCG@10: the mean of three seeds ± their standard deviation and, in brackets,
  the difference to the reference in percent. Baselines and closed-form solutions use no seed.
- Head, middle and tail are three groups of items by popularity, each with a third of the training
  interactions.
- On ML-100K, differences below about 1.7 % are within the variation between seeds.

**How not to read them.** Only the named setting was changed, unless the text says otherwise.
Learning rate, temperature and number of epochs are the reference's, which suits some variants
better than others. A variant that loses here needs more tuning than one line of configuration, on a
small and dense data set of ratings. On a large, sparse data set of clicks the order may differ. You
can measure that:

```sh
make compare CONFIG=configs/compare/ml-100k.yaml DATA=<ml-100k> DOCS=docs
make compare CONFIG=configs/compare/ml-1m.yaml DATA=<ml-1m> DOCS=docs SET='split.method=file split.path=<parquet> split.k_core=0'
```

The `SET` of the second command is for a split from a file, here the frozen one of the README.
Without it, the code makes its own split by the same protocol. Seconds are of 2 cores with other,
light work on them. Each variant's settings are in the YAML file of the grid.

**Six rows are older than the code.** mixed-negatives, corrected-logq, streaming-logq, cross-batch,
inverse-propensity and gbce were measured when their corrections still counted some probabilities
per item id instead of per item row. The two differ where several items share the out-of-vocabulary
id. These rows have not been measured again.

## Conclusions

1. **The correction for popularity matters more than any architecture.** Without logQ the towers end
   below popularity (−75.0 % on ML-100K, −66.4 % on ML-1M). With half the correction, a quarter is
   lost (−24.5 % on ML-100K).
2. **The temperature comes next.** A temperature of 0.05 instead of 0.2 costs −18.6 % on ML-100K and
   −13.7 % on ML-1M; 0.5 costs −19.6 % on ML-100K. Learning it does not find the best value (−11.6 %
   on ML-100K): in a run of one seed it fell with the training loss in every epoch, from .199 to .098,
   and valid was best at .139.
3. **A sum of embeddings beats every deeper tower here**: a hidden layer −5.8 % on ML-100K, −13.6 %
   on ML-1M; residual −6.6 % on ML-100K; shared layers −7.4 % on ML-100K; dual augmented −4.5 % on
   ML-100K; cross layers come closest, −2.9 % on ML-100K. In exchange, the deeper towers recommend
   more of the tail on ML-100K.
4. **The more negatives a loss sees, the better**: first the softmax, then binary cross-entropy
   (−5.2 % on ML-100K, −10.1 % on ML-1M), then pairwise losses (−21.4 % on ML-100K, −21.7 % on ML-1M).
   In-batch negatives with logQ are as good as the softmax over all items (−1.1 % on ML-100K, −0.7 %
   on ML-1M) and take less time.
5. **A pairwise loss needs hard negatives**: on ML-100K, BPR with one random negative is at −21.4 %,
   with the hardest of eight at −17.3 %, with half of them mined at −5.2 %.
6. **What helped**: twice the dimensions (+1.8 % on ML-100K), excluding every known positive from the
   negatives (+1.9 % on ML-100K), and towers in closed form (+2.1 % on ML-100K, +6.4 % on ML-1M). The
   closed form is the most accurate and recommends the most popular items: on ML-100K its tail recall
   is .0084 (reference .0313) and its coverage .2904 (reference .4843).
7. **Tail and overall accuracy pull in opposite directions.** Apart from no correction at all, the
   best variants in the tail are inverse propensity and half the correction. Both lose more than a
   fifth overall.
8. **Many variants made no difference, or one that three seeds can hardly show**: history pooling
   beside an id that carries the same information, title words, ages, L2, label smoothing, warm-up,
   the self-supervised task (`sqrtn` pooling and random masking lost 3 %). Each was made for other
   data: new users, new items, long tails. On this split, every user and item has at least ten
   positives.

### ML-100K

Ordered by valid, as in the reports.

| variant | family | test NDCG@10 | to reference | Recall@10 | tail recall | coverage | seconds |
|---|---|---|---|---|---|---|---|
| dim-128 | towers | .2895 ± .0013 | +1.8 % | .2817 | .0289 | .4629 | 6.1 |
| closed-form | features | .2904 ± .0000 | +2.1 % | .2799 | .0084 | .2904 | 0.8 |
| known-masked | negatives | .2900 ± .0017 | +1.9 % | .2820 | .0226 | .4173 | 9.5 |
| history-self-attention | features | .2826 ± .0037 | −0.7 % | .2786 | .0252 | .4678 | 29.2 |
| history-attention | features | .2804 ± .0038 | −1.4 % | .2767 | .0273 | .4797 | 23.7 |
| ease | baseline | .2813 | −1.1 % | .2682 | .0052 | .2500 | 0.2 |
| no-decay | optimisation | .2826 ± .0048 | −0.7 % | .2778 | .0318 | .4780 | 6.2 |
| age-buckets | features | .2832 ± .0027 | −0.5 % | .2801 | .0290 | .4833 | 6.4 |
| warm-up | optimisation | .2825 ± .0038 | −0.7 % | .2802 | .0304 | .4774 | 5.6 |
| history-mean | features | .2794 ± .0051 | −1.8 % | .2755 | .0308 | .4823 | 15.5 |
| history-dropout | features | .2811 ± .0057 | −1.2 % | .2758 | .0300 | .4774 | 16.2 |
| embedding-l2 | optimisation | .2844 ± .0014 | −0.0 % | .2796 | .0314 | .4829 | 7.3 |
| reference | reference | .2845 ± .0013 | +0.0 % | .2799 | .0313 | .4843 | 6.2 |
| self-supervised-correlated | self-supervised | .2827 ± .0021 | −0.6 % | .2787 | .0315 | .4859 | 13.7 |
| label-smoothing | optimisation | .2827 ± .0007 | −0.6 % | .2779 | .0299 | .4751 | 10.4 |
| age-number | features | .2833 ± .0014 | −0.4 % | .2783 | .0293 | .4816 | 6.1 |
| corrected-logq | corrections | .2837 ± .0008 | −0.3 % | .2788 | .0323 | .4879 | 10.1 |
| full-softmax | losses | .2814 ± .0033 | −1.1 % | .2788 | .0329 | .4833 | 9.6 |
| streaming-logq | corrections | .2829 ± .0014 | −0.5 % | .2762 | .0294 | .4839 | 4.6 |
| cross-batch | negatives | .2839 ± .0013 | −0.2 % | .2786 | .0307 | .4833 | 16.0 |
| self-supervised-random | self-supervised | .2758 ± .0078 | −3.0 % | .2718 | .0248 | .4596 | 8.8 |
| title-words | features | .2818 ± .0063 | −0.9 % | .2742 | .0270 | .4813 | 5.9 |
| ids-only | features | .2781 ± .0012 | −2.2 % | .2762 | .0309 | .4767 | 5.5 |
| popularity-negatives | negatives | .2797 ± .0015 | −1.7 % | .2766 | .0340 | .5003 | 8.1 |
| history-sqrtn | features | .2752 ± .0067 | −3.3 % | .2727 | .0349 | .4938 | 9.9 |
| cross | towers | .2762 ± .0036 | −2.9 % | .2770 | .0387 | .5207 | 7.7 |
| bce | losses | .2696 ± .0009 | −5.2 % | .2653 | .0122 | .3832 | 9.0 |
| mixed-negatives | negatives | .2724 ± .0017 | −4.2 % | .2724 | .0434 | .5453 | 6.7 |
| augmented | towers | .2718 ± .0039 | −4.5 % | .2745 | .0407 | .5384 | 9.0 |
| inner-product | towers | .2657 ± .0044 | −6.6 % | .2668 | .0485 | .5725 | 4.2 |
| uniform-negatives | negatives | .2682 ± .0023 | −5.7 % | .2646 | .0285 | .4698 | 5.1 |
| hidden | towers | .2681 ± .0033 | −5.8 % | .2669 | .0443 | .5463 | 7.7 |
| mined-bpr | negatives | .2696 ± .0020 | −5.2 % | .2616 | .0169 | .4656 | 9.8 |
| residual | towers | .2656 ± .0042 | −6.6 % | .2663 | .0428 | .5381 | 7.5 |
| shared | towers | .2635 ± .0010 | −7.4 % | .2655 | .0400 | .5374 | 6.5 |
| dim-16 | towers | .2616 ± .0025 | −8.0 % | .2618 | .0410 | .5568 | 4.4 |
| squared | losses | .2582 ± .0023 | −9.2 % | .2597 | .0281 | .4849 | 3.4 |
| cosine-regression-2 | losses | .2536 ± .0040 | −10.9 % | .2410 | .0012 | .2310 | 6.1 |
| learnt-temperature | optimisation | .2514 ± .0049 | −11.6 % | .2521 | .0416 | .5787 | 3.0 |
| itemknn | baseline | .2610 | −8.3 % | .2456 | .0142 | .3189 | 0.2 |
| cosine-regression-3 | losses | .2492 ± .0014 | −12.4 % | .2354 | .0005 | .2024 | 6.6 |
| hidden-dropout | towers | .2488 ± .0043 | −12.5 % | .2442 | .0237 | .4652 | 8.4 |
| hinge | losses | .2513 ± .0020 | −11.7 % | .2496 | .0210 | .4229 | 7.9 |
| hard-bpr | negatives | .2352 ± .0050 | −17.3 % | .2447 | .0331 | .6161 | 7.0 |
| temperature-0.05 | optimisation | .2317 ± .0033 | −18.6 % | .2380 | .0473 | .6345 | 2.8 |
| simplex | losses | .2201 ± .0022 | −22.6 % | .2282 | .0179 | .5249 | 8.5 |
| temperature-0.5 | optimisation | .2288 ± .0012 | −19.6 % | .2226 | .0092 | .3182 | 4.6 |
| inverse-propensity | corrections | .2219 ± .0025 | −22.0 % | .2326 | .1004 | .8386 | 5.8 |
| bpr | losses | .2235 ± .0194 | −21.4 % | .2280 | .0307 | .5072 | 5.9 |
| half-logq | corrections | .2147 ± .0018 | −24.5 % | .2288 | .0991 | .8711 | 5.2 |
| gbce | losses | .1998 ± .0082 | −29.8 % | .1929 | .0001 | .1512 | 24.9 |
| popularity | baseline | .1227 | −56.9 % | .1238 | .0000 | .0630 | 0.0 |
| no-logq | corrections | .0712 ± .0035 | −75.0 % | .0861 | .1165 | .9836 | 3.9 |

### ML-1M, the frozen split

| variant | family | test NDCG@10 | to reference | Recall@10 | tail recall | coverage | seconds |
|---|---|---|---|---|---|---|---|
| closed-form | features | .2935 ± .0000 | +6.4 % | .2178 | .0104 | .2757 | 7.0 |
| ease | baseline | .2870 | +4.0 % | .2100 | .0088 | .2677 | 2.3 |
| mixed-negatives | negatives | .2760 ± .0007 | +0.0 % | .2056 | .0246 | .4236 | 53.8 |
| reference | reference | .2760 ± .0009 | +0.0 % | .2045 | .0223 | .4015 | 43.1 |
| ids-only | features | .2756 ± .0007 | −0.1 % | .2046 | .0232 | .4038 | 43.8 |
| full-softmax | losses | .2740 ± .0034 | −0.7 % | .2037 | .0230 | .4109 | 78.3 |
| bce | losses | .2481 ± .0005 | −10.1 % | .1792 | .0047 | .2819 | 26.9 |
| temperature-0.05 | optimisation | .2382 ± .0016 | −13.7 % | .1845 | .0373 | .5927 | 20.5 |
| itemknn | baseline | .2409 | −12.7 % | .1729 | .0131 | .3199 | 0.9 |
| hidden | towers | .2384 ± .0017 | −13.6 % | .1762 | .0176 | .4011 | 42.7 |
| bpr | losses | .2162 ± .0025 | −21.7 % | .1578 | .0208 | .4452 | 21.7 |
| popularity | baseline | .1181 | −57.2 % | .0771 | .0000 | .0320 | 0.0 |
| no-logq | corrections | .0928 ± .0014 | −66.4 % | .0935 | .0995 | .9958 | 44.3 |

![test NDCG@10 against seconds of fitting, by family](ml-100k/quality.png)

![test recall@10 in head, middle and tail](ml-100k/thirds.png)

## The reference

A tower is the **sum of the embeddings** of its id, categories and genres: 64 dimensions,
L2-normalised. The loss is the **in-batch softmax** over cosines divided by a temperature of 0.2,
with the **logQ correction**. The optimizer is LazyAdam, for at most 25 epochs in batches of 1,024.
→ ML-100K **.2845** ± .0013, ML-1M **.2760** ± .0009.

On ML-1M: 12 epochs in batches of 4,096 and a learning rate of 0.01 (`configs/ml-1m.yaml`).

The baselines on the same splits → `ease` ML-100K **.2813** (−1.1 %), ML-1M **.2870** (+4.0 %);
`itemknn` ML-100K **.2610** (−8.3 %), ML-1M **.2409** (−12.7 %); `popularity` ML-100K **.1227**
(−56.9 %), ML-1M **.1181** (−57.2 %).

## Features

What a tower knows. `features.*` names the columns; the tag USER or ITEM decides which tower reads
them.

**Ids only** (`ids-only`). No categories and no genres: matrix factorisation with a softmax. Side
features matter for items and users with few interactions, and cost little. On dense data, ids carry
almost all of the information. → ML-100K **.2781** ± .0012 (−2.2 %), ML-1M **.2756** ± .0007 (−0.1
%).

**Title words** (`title-words`). The words of an item's title as a list of tokens, with their
embeddings averaged. This is a cheap way to use text. It helps when there are many new,
well-described items whose words repeat (a sequel, a brand). → ML-100K **.2818** ± .0063 (−0.9 %).

**Numbers** (`age-number`, `age-buckets`). A normalised number is multiplied by a vector, so it can
only express "more" or "less". In equal-probability buckets, each with an embedding, it can also
express that the middle (age 25 to 34) is good and both ends are bad. → `age-number` ML-100K
**.2833** ± .0014 (−0.4 %); `age-buckets` ML-100K **.2832** ± .0027 (−0.5 %).

**The user's history** (`history-mean`, `history-sqrtn`). The query tower pools embeddings of the
items that the user has liked, beside the user's id. In training, the positives of the batch are
removed from the history to avoid target leakage. It is the one feature that answers new users
without training: the list comes with the request. `sqrtn` divides by the square root of the length,
so a long history has a longer vector and counts more beside the other features. → `history-mean`
ML-100K **.2794** ± .0051 (−1.8 %); `history-sqrtn` ML-100K **.2752** ± .0067 (−3.3 %).

**History dropout** (`history-dropout`). Items of the history are randomly left out in training, so
that the tower does not depend on a few of them. → ML-100K **.2811** ± .0057 (−1.2 %).

**Attention pooling** (`history-attention`). A learned query vector gives each item of the history
an attention weight (Yang et al., NAACL 2016), instead of equal weights: a blockbuster says less
about a user's taste. → ML-100K **.2804** ± .0038 (−1.4 %).

**Self-attention** (`history-self-attention`). The items of a short history attend to each other
before they are averaged, with learned positions (newest first), as in SASRec without its causal
mask. It is made for order, which does not matter on a random split. → ML-100K **.2826** ± .0037
(−0.7 %).

**Closed form** (`closed-form`, `configs/ml-100k-history.yaml` and `configs/ml-1m-history.yaml`).
Both towers come from one matrix: EASE, with users weighted and denoised, reduced to the best
product of 128 dimensions (`models/training/closed_form.py`). It has no seed and no epochs, and
takes seconds. It is the most accurate servable model here. It uses no features, so new items need
an update. Its standard deviation is 0 because nothing in it is random. → ML-100K **.2904** ± .0000
(+2.1 %), ML-1M **.2935** ± .0000 (+6.4 %).

## Towers

What lies between the embeddings and the output.

**A hidden layer** (`hidden`, `hidden-dropout`). The textbook architecture: concatenated embeddings,
a ReLU layer, a projection. It can learn interactions of features. For ids, it must first learn what
a sum has from the start. Dropout made it worse. → `hidden` ML-100K **.2681** ± .0033 (−5.8 %),
ML-1M **.2384** ± .0017 (−13.6 %); `hidden-dropout` ML-100K **.2488** ± .0043 (−12.5 %).

**Residual layers** (`residual`). Each layer adds to its input, so a deeper tower does not have to
relearn it (He et al., CVPR 2016). → ML-100K **.2656** ± .0042 (−6.6 %).

**Cross layers** (`cross`). DCN-v2 (Wang et al., WWW 2021): the input is multiplied by functions of
itself, which gives explicit feature crosses. → ML-100K **.2762** ± .0036 (−2.9 %).

**Shared layers** (`shared`). The last layers of both towers have the same weights. This halves
their number of parameters and maps both sides into one space. → ML-100K **.2635** ± .0010 (−7.4 %).

**Dual augmented** (`augmented`). DAT (Yu et al., DLP-KDD 2021): each id has a second vector at the
input of its tower, which learns to imitate the other tower's output for its positives. Each tower
thus sees something of the other one before the dot product. → ML-100K **.2718** ± .0039 (−4.5 %).

**Size** (`dim-16`, `dim-128`). Memory and search time of the index grow with the number of
dimensions, and accuracy grows more and more slowly. → `dim-16` ML-100K **.2616** ± .0025 (−8.0 %);
`dim-128` ML-100K **.2895** ± .0013 (+1.8 %).

**No norm** (`inner-product`). Inner products instead of cosines: popular items get long vectors.
The temperature is 1, because inner products can be large by themselves. → ML-100K **.2657** ± .0044
(−6.6 %).

## Losses

All use the reference's towers. Losses that sample use uniform negatives.

**Binary cross-entropy** (`bce`). Pointwise: is this item a positive? Four negatives per positive,
as in neural collaborative filtering. Scores are calibrated to the sampling rate, not to the
catalogue. → ML-100K **.2696** ± .0009 (−5.2 %), ML-1M **.2481** ± .0005 (−10.1 %).

**gBCE** (`gbce`). Binary cross-entropy with many negatives, and with the positive's term reduced to
undo the overconfidence that sampling causes (Petrov and Macdonald, RecSys 2023). It needs logits
far below 0 for almost all items, so it uses inner products here. On the reference's cosines over
0.2, whose smallest value is −5, three seeds gave .1269 on ML-100K. → ML-100K **.1998** ± .0082
(−29.8 %).

**Cosine regression** (`cosine-regression-2`, `cosine-regression-3`). Least squares of cosines to 1
and -1, with two or three negatives. It is simple, but it wants all negatives at the opposite pole,
where there is no room for them. → `cosine-regression-2` ML-100K **.2536** ± .0040 (−10.9 %);
`cosine-regression-3` ML-100K **.2492** ± .0014 (−12.4 %).

**BPR** (`bpr`). Pairwise: the positive should score above one random negative. A random negative
soon becomes easy, and an easy one has no gradient. → ML-100K **.2235** ± .0194 (−21.4 %), ML-1M
**.2162** ± .0025 (−21.7 %).

**Triplet hinge** (`hinge`). The positive should score above the negative by a margin. → ML-100K
**.2513** ± .0020 (−11.7 %).

**SimpleX** (`simplex`). Cosine contrastive loss: positives are drawn to 1, and many weighted
negatives are pushed below a margin (Mao et al., CIKM 2021). The published model is the best dot
product on ML-1M, with an aggregation of the history and its own settings. This variant is the loss
alone, with the best on valid of six pairs of margin and weight. → ML-100K **.2201** ± .0022
(−22.6 %).

**Full softmax** (`full-softmax`). No sampling: the whole catalogue is scored in every step. It is
the standard that every sampled softmax approximates, and affordable up to some tens of thousands of
items. → ML-100K **.2814** ± .0033 (−1.1 %), ML-1M **.2740** ± .0034 (−0.7 %).

**Whole-data squared loss** (`squared`). iALS and ENMF: every pair of the matrix counts, unobserved
ones less; an algebraic identity avoids computing all of them. → ML-100K **.2582** ± .0023 (−9.2 %).

## Negatives

What the softmax, or a pair, compares the positive with.

**Uniform** (`uniform-negatives`), **by popularity** (`popularity-negatives`), **mixed**
(`mixed-negatives`). In-batch negatives occur as often as they are positives, so items without
interactions are never seen as negatives, and their scores drift. Uniform sampling corrects that.
Sampling by popularity ^ 0.75 gives harder negatives. Mixed negative sampling (Yang et al., WWW
2020) uses the batch and uniform items, with the correction for the mixture. → `uniform-negatives`
ML-100K **.2682** ± .0023 (−5.7 %); `popularity-negatives` ML-100K **.2797** ± .0015 (−1.7 %);
`mixed-negatives` ML-100K **.2724** ± .0017 (−4.2 %), ML-1M **.2760** ± .0007 (+0.0 %).

**Cross-batch** (`cross-batch`). A queue of the items of the last batches, whose embeddings have
hardly changed since (Wang et al., SIGIR 2021). It adds negatives at almost no cost when batches are
small. Items of the queue have no gradient. As published, positives attract an item with their full
weight, while only the batch's share of the negatives repels it: popular and other items became
alike, with a **valid** NDCG@10 of .13 with a queue of 1,024 and .05 with 4,096 (one seed). Here, an
item of the batch is also repelled on behalf of its occurrences in the queue
(`models/objective/outputs.py`). → ML-100K **.2839** ± .0013 (−0.2 %).

**Known positives masked** (`known-masked`). Every training positive of the user is excluded from
the negatives, not only the row's own. This is the cheapest gain on dense data: with seventy
positives per user, a batch is full of false negatives. → ML-100K **.2900** ± .0017 (+1.9 %).

**Hard negatives among random ones** (`hard-bpr`). The one of eight random negatives with the
highest score. → ML-100K **.2352** ± .0050 (−17.3 %).

**Mined negatives** (`mined-bpr`). Between epochs, the towers rank all items for every user, and
half of the negatives come from ranks 20 to 200 (ANCE). The very top is left out, because the user
may like those items next. → ML-100K **.2696** ± .0020 (−5.2 %).

## Corrections and optimisation

**logQ** (`no-logq`, `half-logq`). In-batch negatives occur in proportion to their popularity.
Unless log Q is subtracted from the scores, the model learns to avoid popular items (Yi et al.,
RecSys 2019). It is the one line that must not be left out. → `no-logq` ML-100K **.0712** ± .0035
(−75.0 %), ML-1M **.0928** ± .0014 (−66.4 %); `half-logq` ML-100K **.2147** ± .0018 (−24.5 %).

**Streaming frequencies** (`streaming-logq`). Q is estimated from the batches as they arrive, as in
the paper, for data without an end. → ML-100K **.2829** ± .0014 (−0.5 %).

**logQ as corrected in 2025** (`corrected-logq`). The positive is not sampled, so its log Q should
not be subtracted (Khrylchenko et al., RecSys 2025). → ML-100K **.2837** ± .0008 (−0.3 %).

**Temperature** (`temperature-0.05`, `temperature-0.5`, `learnt-temperature`). Cosines are at most
1, so the softmax needs them divided by a temperature. With a small value only the hardest negatives
count; with a large one, items are hardly distinguished. Notebooks leave it at 1. If it is learned,
its logarithm is one more weight of the model, as in CLIP. → `temperature-0.05` ML-100K **.2317** ±
.0033 (−18.6 %), ML-1M **.2382** ± .0016 (−13.7 %); `temperature-0.5` ML-100K **.2288** ± .0012
(−19.6 %); `learnt-temperature` ML-100K **.2514** ± .0049 (−11.6 %).

**Inverse propensity** (`inverse-propensity`). Positives of popular items weigh less. This trades
overall accuracy for accuracy in the tail. → ML-100K **.2219** ± .0025 (−22.0 %).

**Label smoothing** (`label-smoothing`), **L2 on embeddings** (`embedding-l2`). The first reduces
overconfidence, the second the length of vectors, which has little effect if the output is
L2-normalised. → `label-smoothing` ML-100K **.2827** ± .0007 (−0.6 %); `embedding-l2` ML-100K
**.2844** ± .0014 (−0.0 %).

**Schedules** (`warm-up`, `no-decay`). A learning rate that rises at first, and one that never
falls. → `warm-up` ML-100K **.2825** ± .0038 (−0.7 %); `no-decay` ML-100K **.2826** ± .0048 (−0.7
%).

## A self-supervised task for items

In addition to retrieval, the item tower is trained to recognise an item from a part of its
features: two views of a uniformly sampled item, each with other features hidden, should have the
closest vectors (Yao et al., CIKM 2021, arXiv 2007.12865). This trains the item tower for items with
few or no interactions. Features are hidden at random (`self-supervised-random`), or together with
those that share most information with them (`self-supervised-correlated`). →
`self-supervised-random` ML-100K **.2758** ± .0078 (−3.0 %); `self-supervised-correlated` ML-100K
**.2827** ± .0021 (−0.6 %).

## How to choose

| you have | start with |
|---|---|
| dense data, users with a history, and accuracy as the goal | the closed form, `configs/ml-1m-history.yaml` |
| new users every day | a history in the query tower (`features.history`), beside the id |
| new items every day | item features and `model.cold_count`; text, the self-supervised task |
| a long tail that has to be recommended | the softmax with the whole logQ correction; then inverse propensity, while watching overall accuracy |
| millions of items | in-batch softmax, logQ, large batches; `lazy_adam` or `rowwise_adagrad`; mixed negatives |
| small batches | `cross_batch` (batches here were large) |
| a stream without an end | `logq_estimate: streaming` |
| no idea | the reference, then `twotower tune` over temperature, learning rate and dimension |
