"""Exercise 1: write the hypergradient yourself. What is asked for stands in 01-hypergradient.md.

    python exercises/check.py 1

Both functions return grad_Omega J as two tensors, (M,) and (M, M), in the order of
loss_weights.parameters(). They get

    model, loss_weights     a MultiExitBert without dropout, and Omega
    d1                      the batch of the step
    d2, again               the judge's batches, of D2 and of D1
    xi, lam                 step of the look-ahead; weight of F(D1) in J
"""

import torch  # noqa: F401
from torch.func import functional_call, jvp  # noqa: F401

from leebert import judge_loss, loss_terms, objective  # noqa: F401


def by_loop(model, loss_weights, d1, d2, again, xi, lam):
    """With one backward pass for each loss term."""
    raise NotImplementedError


def by_direction(model, loss_weights, d1, d2, again, xi, lam):
    """With one directional derivative of all loss terms at once."""
    raise NotImplementedError
