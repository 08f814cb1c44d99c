"""Checks 10-plant-a-fault.md: one fault, in one kind of term, the same in every pass; the judge is
honest, and nothing else has changed.
"""

import torch
import torch.nn.functional as F

import exercises.reference as ref
import leebert
from exercises.common import close, compare, random, require

XI, LAM = 0.1, 0.7


def terms():
    """Logits of 4 exits for 6 examples, their labels, and what loss_terms makes of them."""
    logits, labels = random(4, 6, 3), torch.tensor([0, 1, 2, 2, 0, 1])
    return logits, labels, *leebert.loss_terms(logits, labels)


def check_terms(exits, liars):
    """Exactly one cross-entropy, or all pairs of exactly one teacher, look at a neighbour."""
    logits, labels, ce, kd = terms()
    same = torch.equal(ce, terms()[2]) and torch.equal(kd, terms()[3])
    require(
        same,
        "the fault differs from call to call: `jvp` and `difference` pass over d1 more than once "
        "and must meet the same terms; roll, in place of a random order",
    )
    require(
        len(exits) + len(liars) == 1,
        f"one fault is asked for; {len(exits)} cross-entropies and {len(liars)} teachers changed",
    )
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


def check_judge(model, weights, batches):
    """J is what it was: F of d2 and of d1_judge, with honest labels."""
    theta = dict(model.named_parameters())
    found = leebert.judge_loss(model, theta, batches, leebert.Hyper(XI, LAM))
    on_d2, on_d1 = (
        torch.stack([F.cross_entropy(z, batch.labels) for z in model(*batch[:3])]).mean()
        for batch in batches[1:]
    )
    require(
        close(found, on_d2 + LAM * on_d1),
        "the judge sees the fault too: J has changed; plant it in loss_terms, which the judge does "
        "not call, and not in cross_entropies",
    )


def check():
    logits, labels, ce, kd = terms()
    exits = [m for m in range(4) if not close(ce[m], F.cross_entropy(logits[m], labels))]
    changed = (kd - ref.kl_pairs(logits, logits)).abs() > 1e-9  # (M, M)
    liars = changed.any(dim=0).nonzero().flatten().tolist()
    require(exits or liars, "not started: loss_terms is still the original")
    problem = ref.small_problem()
    check_judge(*problem)
    check_terms(exits, liars)
    hypers = (leebert.Hyper(XI, LAM, form=form) for form in ("jvp", "unrolled"))
    compare(
        "the hypergradient",
        *(leebert.hypergradient(*problem, hyper) for hyper in hypers),
        otherwise="the hypergradients `jvp` and `unrolled` differ: the teachers' logits that "
        "by_formula gives to loss_terms must pass through the fault too",
    )
