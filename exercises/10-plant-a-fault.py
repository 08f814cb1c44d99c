"""Checks 10-plant-a-fault.md: one fault, in one kind of term, the same in every pass; the judge is
honest, and nothing else has changed.
"""

import torch
import torch.nn.functional as F

import exercises.reference as ref
import leebert
from exercises.common import close, random, require


def terms():
    """Logits of 4 exits for 6 examples, their labels, and what loss_terms makes of them."""
    logits, labels = random(4, 6, 3), torch.tensor([0, 1, 2, 2, 0, 1])
    return logits, labels, *leebert.loss_terms(logits, labels)


def check_terms(exits, liars):
    """Exactly one cross-entropy, or all pairs of exactly one teacher, look at a neighbour."""
    logits, labels, ce, kd = terms()
    same = torch.equal(ce, terms()[2]) and torch.equal(kd, terms()[3])
    sentence = "the fault differs from call to call, and `jvp` passes over d1 more than once"
    require(same, f"{sentence}: roll, in place of a random order")
    changed = f"{len(exits)} cross-entropies and {len(liars)} teachers changed"
    require(len(exits) + len(liars) == 1, f"{changed}; one fault is asked for")
    for m in exits:
        wrong = [F.cross_entropy(logits[m], labels.roll(k)) for k in (1, -1)]
        sentence = f"CE_{m + 1} has changed, but is not that of the neighbour's labels"
        require(any(close(ce[m], x) for x in wrong), f"{sentence}, labels.roll(1)")
    for t in liars:
        rolled = torch.stack([logits[t].roll(k, dims=0) for k in (1, -1)])  # (2, B, C)
        wrong = ref.kl_pairs(logits, torch.cat([rolled, rolled]))[:, :2]  # (M, 2)
        students = torch.arange(4) != t
        sentence = f"teacher {t + 1} has changed, but does not give the neighbour's answers to all"
        require(any(close(kd[students, t], x) for x in wrong[students].T), sentence)


def check():
    logits, labels, ce, kd = terms()
    exits = [m for m in range(4) if not close(ce[m], F.cross_entropy(logits[m], labels))]
    changed = (kd - ref.kl_pairs(logits, logits)).abs() > 1e-9  # (M, M)
    liars = changed.any(dim=0).nonzero().flatten().tolist()
    require(exits or liars, "not started: loss_terms is still the original")
    ref.check_judge("plant the fault")
    check_terms(exits, liars)
    ref.check_forms("by_formula gives teachers' logits to loss_terms; roll these too")
