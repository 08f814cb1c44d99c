"""Exercise 1: write the hypergradient yourself. What is asked for stands in 01-hypergradient.md.

    python exercises/check.py 1

Both functions return grad_Omega J as two tensors, (M,) and (M, M), in the order of
loss_weights.parameters(). They get

    model, loss_weights     a MultiExitBert without dropout, and Omega
    batches                 a leebert.Batches: d1, of the step; d2 and d1_judge, of the judge
    hyper                   a leebert.Hyper: xi, step of the look-ahead; lam, weight of F(D1)
"""

import torch  # noqa: F401
from torch.func import functional_call, jvp  # noqa: F401

from leebert import judge_loss, loss_terms, objective  # noqa: F401


def by_loop(model, loss_weights, batches, hyper):
    """With one backward pass for each loss term."""
    raise NotImplementedError


def by_direction(model, loss_weights, batches, hyper):
    """With one directional derivative of all loss terms at once."""
    raise NotImplementedError
