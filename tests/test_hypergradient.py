"""The specification of leebert.py's hypergradient: how J depends on the loss weights.

    Theta' = Theta - xi grad_Theta L(D1; Theta, Omega)     J = F(D2; Theta') + lambda F(D1; Theta')

A wrong sign, a wrong factor or a wrong detach does not show in training curves. So every form is
compared, in float64, with something that shares no line with it: arithmetic by hand, a finite
difference of J itself, and one backward pass for each loss term. The terms of L, which appear here
as given, have tests of their own in test_leebert.py.
"""

import copy
import math

import pytest
import torch
import torch.nn as nn
from conftest import random_batch, tiny_model
from torch.nn.functional import cross_entropy, mse_loss

from data import Batch
from leebert import FORMS, Batches, Hyper, LossWeights, hypergradient, loss_terms, objective

every_form = pytest.mark.parametrize("form", FORMS)


def problem(teachers="all", num_classes=3, dropout=0.0):
    """-> a model of three exits, loss weights far from 0, and Batches of three sizes."""
    model = tiny_model(dropout=dropout, num_classes=num_classes).train()
    weights = LossWeights(3, teachers).double()
    torch.manual_seed(7)
    for p in weights.parameters():
        nn.init.normal_(p)
    batches = [random_batch(B, T, seed=seed) for B, T, seed in ((5, 7, 1), (4, 6, 2), (3, 7, 3))]
    if num_classes == 1:
        batches = [d._replace(labels=0.7 * d.labels.double()) for d in batches]
    return model, weights, Batches(*batches)


def ours(case, form, xi=0.1, lam=0.7, tau=1.0):
    return hypergradient(*case, Hyper(xi, lam, tau, form))


def assert_equal(result, expected, form="unrolled"):
    """To rounding; the difference of two passes to 1e-8."""
    atol = 1e-8 if form == "difference" else 1e-12
    torch.testing.assert_close(list(result), list(expected), atol=atol, rtol=0)


# --------------------------------------------------------------------------------------------------
# By hand


class TwoNumbers(nn.Module):
    """Two exits that look at nothing: z_m = (0, theta_m), so P(class 1) = sigmoid(theta_m)."""

    def __init__(self):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor([0.0, math.log(3)], dtype=torch.float64))

    def forward(self, input_ids, token_type_ids=None, attention_mask=None):
        logits = torch.stack([torch.zeros_like(self.theta), self.theta], dim=-1)  # (M, C)
        return logits[:, None].expand(-1, len(input_ids), -1)  # (M, B, C)


def one_example(label):
    zeros = torch.zeros(1, 1, dtype=torch.long)
    return Batch(zeros, zeros, zeros + 1, torch.tensor([label]))


@every_form
@pytest.mark.parametrize("truth", [0, 1])
def test_by_hand(truth, form):
    """s = sigmoid(theta) = (1/2, 3/4). D1 has one example of class 1, D2 one of class `truth`.

    Gradients of the terms, each in one coordinate only:
        CE_1: s_1 - 1 = -1/2           CE_2: s_2 - 1 = -1/4
        KD_{1<-2}: s_1 - s_2 = -1/4    KD_{2<-1}: s_2 - s_1 = +1/4
    All w are 1 at Omega = 0 (each student has one teacher), so
        Theta' = (0 + xi 3/4, log 3 + xi 0)
    F = (CE_1 + CE_2) / 2, so v_m = (sigmoid(Theta'_m) - truth) / 2, and dw/dOmega = 1/2:
        dJ/dOmega_k = -xi v_m grad l_k / 2.
    If truth = 1, v < 0: both CE and KD_{1<-2} gain weight (negative), KD_{2<-1} loses weight.
    If truth = 0, all four signs turn.
    """
    xi = 0.4
    v = [(1 / (1 + math.exp(-x)) - truth) / 2 for x in (xi * 3 / 4, math.log(3))]
    ce = [-xi * v[0] * (-1 / 2) / 2, -xi * v[1] * (-1 / 4) / 2]
    kd = [[0, -xi * v[0] * (-1 / 4) / 2], [-xi * v[1] * (1 / 4) / 2, 0]]
    case = TwoNumbers(), LossWeights(2).double(), Batches(one_example(1), one_example(truth))
    expected = [torch.tensor(x, dtype=torch.float64) for x in (ce, kd)]
    assert_equal(ours(case, form, xi, lam=0.0), expected, form)


@every_form
def test_without_a_look_ahead_there_is_no_gradient(form):
    """F does not contain Omega: exactly zero at xi = 0, and not at xi > 0."""
    case = problem()
    assert all((x == 0).all() for x in ours(case, form, xi=0.0))
    assert all((x != 0).any() for x in ours(case, form, xi=0.1))


# --------------------------------------------------------------------------------------------------
# By ordinary training steps


def look_ahead(case, xi, tau=1.0):
    """-> a copy of the model at Theta', by an ordinary backward pass and SGD."""
    model, weights, (d1, _, _) = case
    ahead = copy.deepcopy(model)
    objective(*loss_terms(ahead(*d1[:3]), d1.labels, weights.teachers, tau), *weights()).backward()
    torch.optim.SGD(ahead.parameters(), lr=xi).step()
    return ahead


def judge(model, d2, d1_judge, lam):
    """-> J: F(d2) + lambda F(d1_judge), F being the mean over the exits, by torch's own losses."""

    def mean_loss(batch):
        exits, y = model(*batch[:3]), batch.labels
        number = exits.shape[-1] == 1
        return sum(mse_loss(z[:, 0], y) if number else cross_entropy(z, y) for z in exits) / 3

    return mean_loss(d2) + lam * mean_loss(d1_judge)


@every_form
def test_gradcheck_of_the_whole_map(form):
    """No formula at all: J at Omega + 1e-5 and at Omega - 1e-5, one entry after the other."""
    _, weights, (_, *judges) = case = problem()

    class Judged(torch.autograd.Function):
        """Omega -> J by an ordinary step; its backward pass says what leebert.py says."""

        @staticmethod
        def forward(ctx, ce, kd):
            weights.load_state_dict({"ce": ce, "kd": kd})
            with torch.enable_grad():
                ctx.result = ours(case, form, xi=0.3)
                return judge(look_ahead(case, xi=0.3), *judges, lam=0.7).detach()

        @staticmethod
        def backward(ctx, upstream):
            return tuple(upstream * x for x in ctx.result)

    omega = [p.detach().clone().requires_grad_() for p in weights.parameters()]
    assert torch.autograd.gradcheck(Judged.apply, omega, eps=1e-5, atol=1e-8, rtol=1e-5)


def separate_backward_passes(case, xi, lam, tau):
    """The formula with nothing shared: one backward pass for v, and one for each of the K terms.

    By the chain rule dJ/dw_k = < v, dTheta'/dw_k >, with v = grad J(Theta'). Since L is linear in
    w, dTheta'/dw_k = -xi grad l_k(Theta). Autograd does the rest, dw/dOmega.
    """
    model, weights, (d1, d2, d1_judge) = case
    ahead = look_ahead(case, xi, tau)
    v = torch.autograd.grad(judge(ahead, d2, d1_judge, lam), list(ahead.parameters()))

    def dw(term):
        theta = list(model.parameters())
        g = torch.autograd.grad(term, theta, retain_graph=True, materialize_grads=True)
        return -xi * sum((a * b).sum() for a, b in zip(v, g, strict=True))

    ce, kd = loss_terms(model(*d1[:3]), d1.labels, weights.teachers, tau)
    dw_ce = torch.stack([dw(term) for term in ce])  # (M,)
    dw_kd = torch.stack([dw(term) for term in kd.flatten()]).view_as(kd)  # (M, M)
    return torch.autograd.grad(weights(), list(weights.parameters()), (dw_ce, dw_kd))


@every_form
@pytest.mark.parametrize("teachers, num_classes, tau", [
    ("none", 3, 1.0), ("last", 3, 1.0), ("all", 3, 2.5), ("later", 1, 1.0),
])  # fmt: skip
def test_equals_separate_backward_passes(teachers, num_classes, tau, form):
    case = problem(teachers, num_classes)
    expected = separate_backward_passes(case, xi=0.1, lam=0.7, tau=tau)
    assert_equal(ours(case, form, tau=tau), expected, form)


@every_form
def test_float32_is_enough_for_two_digits(form):
    """Where float64's eps in `difference` would leave an error of several percent."""
    case = problem()
    exact = torch.cat([x.flatten() for x in ours(case, "unrolled")])
    for module in case[:2]:
        module.float()
    found = torch.cat([x.flatten() for x in ours(case, form)])
    assert (found - exact).norm() < 0.005 * exact.norm()
