"""A small random problem in float64, and the project's formulas a second time, in the plainest way.

The problem is made of your leebert.py and bert.py; the formulas use only their models.
"""

import copy

import torch
import torch.nn.functional as F

import bert
import leebert
from data import Batch
from exercises.common import close, compare, flat, random, require

# --------------------------------------------------------------------------------------------------
# 1. The problem


def random_batch(B, T=7, seed=0):
    """A batch of random ids for 3 classes, the first example full, the others padded."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, T + 1, (B,), generator=generator)
    lengths[0] = T
    mask = (torch.arange(T) < lengths[:, None]).long()
    ids = torch.randint(1, 37, (B, T), generator=generator) * mask
    labels = torch.randint(0, 3, (B,), generator=generator)
    return Batch(ids, torch.zeros_like(ids), mask, labels)


def small_bert(M=3, std=0.3, **more):
    """Odd sizes, no dropout, and weights so large that the exits disagree."""
    torch.manual_seed(0)
    config = bert.BertConfig(
        vocab_size=37, hidden_size=10, num_hidden_layers=M, num_attention_heads=2,
        intermediate_size=13, max_position_embeddings=11, initializer_range=std,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **more,
    )  # fmt: skip
    return bert.Bert(config).double()


def small_model(**config):
    return leebert.MultiExitBert(small_bert(**config), 3).double()


def random_weights(M, teachers="all"):
    weights = leebert.LossWeights(M, teachers).double()
    with torch.no_grad():
        weights.ce.copy_(random(M, seed=1, scale=1.0))
        weights.kd.copy_(random(M, M, seed=2, scale=1.0))
    return weights


def small_problem(teachers="all", **config):
    """model, loss_weights, batches: what a hypergradient needs."""
    batches = [random_batch(5, seed=1), random_batch(4, T=6, seed=2), random_batch(3, seed=3)]
    return small_model(**config), random_weights(3, teachers), leebert.Batches(*batches)


# --------------------------------------------------------------------------------------------------
# 2. The formulas


def each_pair(term, M):
    """term(m, t) for all students m and teachers t -> (M, M)"""
    return torch.stack([torch.stack([term(m, t) for t in range(M)]) for m in range(M)])


def kl_pairs(student, teacher, tau=1.0):
    """tau^2 mean( KL( softmax(z_t / tau) || softmax(z_m / tau) ) )   -> (M, M)"""
    q, p = ((z / tau).log_softmax(-1) for z in (student, teacher))

    def term(m, t):
        return tau**2 * F.kl_div(q[m], p[t], reduction="batchmean", log_target=True)

    return each_pair(term, len(student))


def all_terms(model, weights, batch, detach=True):
    """CE_m (M,) and KD_{m<-t} (M, M) at temperature 1, with the model's own parameters."""
    logits = model(*batch[:3])
    ce = torch.stack([F.cross_entropy(z, batch.labels) for z in logits])
    return ce, kl_pairs(logits, logits.detach() if detach else logits) * (weights.share > 0)


def look_ahead(model, weights, d1, xi, detach=True):
    """A copy of the model at Theta' = Theta - xi grad L(D1)."""
    ahead = copy.deepcopy(model)
    ce, kd = all_terms(ahead, weights, d1, detach)
    w_ce, w_kd = (w.detach() for w in weights())
    ((w_ce * ce).sum() + (w_kd * kd).sum()).backward()
    torch.optim.SGD(ahead.parameters(), lr=xi).step()
    ahead.zero_grad()
    return ahead


def whole_gradient(scalar, model):
    """Gradient with respect to all parameters -> one vector (P,)"""
    parameters = list(model.parameters())
    return flat(torch.autograd.grad(scalar, parameters, retain_graph=True, materialize_grads=True))


def judge_loss(model, batches, lam):
    """F(D2) + lam F(D1) at the model's own parameters"""
    on_d2, on_d1 = (
        torch.stack([F.cross_entropy(z, batch.labels) for z in model(*batch[:3])]).mean()
        for batch in batches[1:]
    )
    return on_d2 + lam * on_d1


def judge_gradient(model, batches, lam):
    """v, the gradient of judge_loss -> (P,)"""
    return whole_gradient(judge_loss(model, batches, lam), model)


def term_gradients(model, weights, d1, detach=True):
    """grad l_k for all K terms, one backward pass each -> (M, P) and (M, M, P)"""
    ce, kd = all_terms(model, weights, d1, detach)
    rows = [whole_gradient(x, model) for x in [*ce, *kd.flatten()]]
    M = len(ce)
    return torch.stack(rows[:M]), torch.stack(rows[M:]).view(M, M, -1)


def through_weights(weights, dw):
    """dJ/dw -> dJ/dOmega, as a list"""
    return torch.autograd.grad(weights(), list(weights.parameters()), grad_outputs=dw)


# --------------------------------------------------------------------------------------------------
# 3. What several exercises must leave as it is


def check_judge(do):
    """J is what it was: F of d2 and of d1_judge, with honest labels."""
    model, _, batches = small_problem()
    theta, expected = dict(model.named_parameters()), judge_loss(model, batches, 0.7)
    same = close(leebert.judge_loss(model, theta, batches, leebert.Hyper(0.1, 0.7)), expected)
    sentence = f"J has changed: {do} in loss_terms, and not in cross_entropies"
    require(same, f"{sentence}, which the judge calls")


def check_forms(sentence, **config):
    """`jvp` agrees with `unrolled`."""
    problem, forms = small_problem(**config), ("jvp", "unrolled")
    result = (leebert.hypergradient(*problem, leebert.Hyper(0.1, form=form)) for form in forms)
    other = f"the hypergradients `jvp` and `unrolled` differ: {sentence}"
    compare("the hypergradient", *result, otherwise=other)
