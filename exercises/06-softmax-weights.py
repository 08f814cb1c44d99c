"""Checks 06-softmax-weights.md: w_k = S s_k exp(Omega_k) / sum_j s_j exp(Omega_j).

s is 1 for a cross-entropy and 1 / (number of m's teachers) for a pair; S is the sum of s.
"""

import torch

from exercises.common import compare, flat, gradient, random, require
from exercises.reference import random_weights

M = 4


def pair(w):
    """(M + M^2,) -> (M,), (M, M)"""
    return w[:M], w[M:].view(M, M)


def check():
    for teachers in ("all", "later", "last", "none"):
        weights = random_weights(M, teachers)
        share = torch.cat([torch.ones(M), weights.share.flatten()]).double()
        omega = flat([weights.ce, weights.kd]).requires_grad_()
        S, e, there = share.sum(), omega.exp(), (share > 0).double()
        right = S * share * e / (share * e).sum()
        kd = (share * e)[M:]
        separate = torch.cat([M * e[:M] / e[:M].sum(), (S - M) * kd / kd.sum()])
        mistakes = [
            ("not started: LossWeights.forward is still the original", 2 * omega.sigmoid() * share),
            ("the weights sum to 1; multiply by the sum they have at Omega = 0", right / S),
            ("two softmaxes: CE and KD must compete for one sum", separate),
            ("the softmax runs over pairs that do not teach too: mask them before it, not after",
             S * e / e.sum() * share),
            ("the sum is right, but at Omega = 0 the single weights are not those of the "
             "original: `share` belongs inside the softmax", S * there * e / (there * e).sum()),
            ("`share` belongs inside the softmax: multiplied afterwards, it makes the sum depend "
             "on Omega", S * there * e / (there * e).sum() * share),
        ]  # fmt: skip
        mistakes = [(sentence, pair(w)) for sentence, w in mistakes]
        compare(f"LossWeights(4, {teachers!r})()", weights(), pair(right), mistakes, 1e-6)
        direction = random(M + M * M, seed=3)
        loss = (torch.cat([x.flatten() for x in weights()]) * direction).sum()
        result = [gradient(loss, x) for x in (weights.ce, weights.kd)]
        expected = pair(gradient((right * direction).sum(), omega))
        compare("the gradient of Omega", result, expected, tolerance=1e-6)
    weights = random_weights(3)
    with torch.no_grad():
        weights.ce[0] = 1000.0
    finite = flat(weights()).isfinite().all()
    require(finite, "a large Omega gives NaN: exp overflows; torch.softmax subtracts the maximum")
