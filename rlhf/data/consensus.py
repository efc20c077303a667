"""What everybody else would say about two answers, from their words, their lengths, and others' judgements of them.

Annotators are dealt into folds, and a ridge regression on all folds but an annotator's own says which answer is better:

    margin_i = x_i w,   w = (X'X + RIDGE)^-1 X'y   over the pairs of the other folds

x_i holds the words of one answer less those of the other, the log-ratio of their lengths, and the mean judgement of
other annotators on the same two; y_i is 1 or -1. So nobody's judgements, flipped or not, help to predict themselves.
Squares in place of a likelihood make leaving a fold out a subtraction. Where few pairs are judged twice, a plain
majority vote would hardly ever have a second vote to count.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Floats = NDArray[np.float64]

FOLDS = 20
RIDGE = 60.0  # pairs that say nothing
WORDS = 300  # at most, those that tell most pairs apart


def margins(words: sparse.csr_array, further: Floats, better: Floats, people: NDArray[np.int64]) -> Floats:
    """(N,) how much better the other people find the first answer of each pair: about -1 to 1.

    words: (N, F), 1 or -1 where the first or the second answer alone holds a word; further: (N, D) other differences of
    the two; better: (N,) 1 where the first was found better, else -1; people: (N,) who judged, as numbers from 0.
    """
    telling = np.argsort(-abs(words).sum(axis=0), kind="stable")[:WORDS]
    features = sparse.csr_array(sparse.hstack([words[:, telling], sparse.csr_array(further)]))
    folds = [people % FOLDS == fold for fold in range(min(FOLDS, people.max(initial=0) + 1))]
    parts = [(features[own], better[own]) for own in folds]
    squares = [(x.T @ x).toarray() for x, _ in parts]
    products = [x.T @ y for x, y in parts]
    of_all = sum(squares) + RIDGE * np.eye(features.shape[1]), sum(products)
    found = np.zeros(len(better))
    for own, (x, _), square, product in zip(folds, parts, squares, products, strict=True):
        found[own] = x @ np.linalg.solve(of_all[0] - square, of_all[1] - product)
    return found


def others_mean(better: Floats, pairs: NDArray[np.int64], people: NDArray[np.int64]) -> Floats:
    """(N,) mean of what other people said of the same pair, 0 where nobody else judged it.

    pairs: (N,) which two answers, as numbers from 0. Somebody who judged a pair twice is no other."""
    own = np.unique(pairs * (people.max(initial=0) + 1) + people, return_inverse=True)[1]
    said, mine = np.bincount(pairs, better)[pairs], np.bincount(own, better)[own]
    times = np.bincount(pairs)[pairs] - np.bincount(own)[own]
    return (said - mine) / np.maximum(times, 1)
