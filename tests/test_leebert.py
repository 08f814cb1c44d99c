"""leebert.py: every formula against an independent one, in float64.

The hypergradient is proved, not trusted: a wrong sign, factor or detached argument in it does not
show in training curves. Expectations are derived in the docstrings.
"""

import copy
import math

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from conftest import random_batch, tiny_model
from torch.distributions import Categorical, kl_divergence

import leebert
from data import Batch
from leebert import (
    RULES,
    LossWeights,
    cross_level,
    early_exit,
    exits_from_logits,
    hypergradient,
    loss_terms,
    objective,
    set_depth_weights,
    teaches,
    training_step,
)

EXACT = ("reuse", "forward", "unrolled")
METHODS = (*EXACT, "difference")


def random_logits(M=4, B=5, C=3, scale=2.0):
    torch.manual_seed(0)
    return scale * torch.randn(M, B, C, dtype=torch.float64), torch.randint(0, C, (B,))


def random_weights(M, teachers="all"):
    torch.manual_seed(7)
    weights = LossWeights(M, teachers).double()
    with torch.no_grad():
        weights.ce.normal_()
        weights.kd.normal_()
    return weights


# --------------------------------------------------------------------------------------------------
# The loss terms


def test_cross_entropy_of_every_exit():
    logits, labels = random_logits()
    ce, _ = loss_terms(logits, labels)
    for m in range(4):
        torch.testing.assert_close(ce[m], F.cross_entropy(logits[m], labels))


@pytest.mark.parametrize("tau", [1.0, 2.5])
def test_distillation_is_the_kl_divergence_of_each_pair(tau):
    """Against torch.distributions, one pair at a time."""
    logits, labels = random_logits()
    _, kd = loss_terms(logits, labels, "all", tau)
    for m in range(4):
        for t in range(4):
            teacher, student = (Categorical(logits=logits[k] / tau) for k in (t, m))
            expected = tau**2 * kl_divergence(teacher, student).mean()
            torch.testing.assert_close(kd[m, t], expected)
    assert (kd.diagonal() == 0).all()


@pytest.mark.parametrize("tau", [1.0, 2.5])
def test_distillation_moves_the_student_and_not_the_teacher(tau):
    """p = softmax(z / tau): dKD_{m<-t}/dz_m = tau^2 (1/tau) (p_m - p_t) / B, and dKD/dz_t = 0."""
    logits, labels = random_logits()
    logits.requires_grad_()
    _, kd = loss_terms(logits, labels, "all", tau)
    (gradient,) = torch.autograd.grad(kd[1, 2], logits)
    p = (logits.detach() / tau).softmax(-1)
    torch.testing.assert_close(gradient[1], tau * (p[1] - p[2]) / 5)
    assert (gradient[[0, 2, 3]] == 0).all()


def test_who_teaches_whom():
    """Rows are students, columns are teachers."""
    expected = {
        "none": [[0, 0, 0], [0, 0, 0], [0, 0, 0]],
        "last": [[0, 0, 1], [0, 0, 1], [0, 0, 0]],
        "later": [[0, 1, 1], [0, 0, 1], [0, 0, 0]],
        "all": [[0, 1, 1], [1, 0, 1], [1, 1, 0]],
    }
    logits, labels = random_logits(M=3)
    for teachers, rows in expected.items():
        assert teaches(3, teachers).tolist() == [[bool(x) for x in row] for row in rows]
        assert ((loss_terms(logits, labels, teachers)[1] > 0).int() == torch.tensor(rows)).all()
    with pytest.raises(ValueError, match="none, last, later, all, not 'best'"):
        teaches(3, "best")


def test_weights_start_at_the_uniform_sum():
    """Omega = 0: one unit of cross-entropy each; one unit of distillation for each exit in all."""
    for teachers, sums in {"none": [0, 0, 0, 0], "last": [1, 1, 1, 0], "later": [1, 1, 1, 0],
                           "all": [1, 1, 1, 1]}.items():  # fmt: skip
        w_ce, w_kd = LossWeights(4, teachers)()
        assert w_ce.tolist() == [1, 1, 1, 1]
        torch.testing.assert_close(w_kd.sum(1), torch.tensor(sums, dtype=torch.float32))
        assert ((w_kd > 0) == teaches(4, teachers)).all()


def test_weights_are_twice_a_sigmoid():
    weights = random_weights(3)
    w_ce, w_kd = weights()
    for m in range(3):
        assert w_ce[m].item() == pytest.approx(2 / (1 + math.exp(-weights.ce[m].item())))
        for t in range(3):
            expected = 0 if m == t else 2 / (1 + math.exp(-weights.kd[m, t].item())) / 2
            assert w_kd[m, t].item() == pytest.approx(expected)


def test_depth_weights_are_proportional_to_depth_with_mean_one():
    weights = LossWeights(5)
    set_depth_weights(weights)
    torch.testing.assert_close(weights()[0], torch.tensor([1.0, 2, 3, 4, 5]) / 3)


def test_the_objective_is_the_double_sum():
    logits, labels = random_logits()
    ce, kd = loss_terms(logits, labels)
    w_ce, w_kd = random_weights(4)()
    expected = sum(w_ce[m] * ce[m] for m in range(4))
    expected += sum(w_kd[m, t] * kd[m, t] for m in range(4) for t in range(4) if m != t)
    torch.testing.assert_close(objective(ce, kd, w_ce, w_kd), expected)


@pytest.mark.parametrize("tau", [1.0, 2.5])
def test_with_one_output_every_term_is_a_mean_squared_error(tau):
    """d mean_B((z_m - z_t)^2) / dz_m = 2 (z_m - z_t) / B, and nothing for z_t."""
    logits, _ = random_logits(C=1)
    labels = torch.tensor([0.0, 5.0, 2.5, 1.0, 3.2])
    logits.requires_grad_()
    ce, kd = loss_terms(logits, labels, "later", tau)
    for m in range(4):
        torch.testing.assert_close(ce[m], F.mse_loss(logits[m, :, 0], labels.double()))
        for t in range(4):
            expected = F.mse_loss(logits[m, :, 0], logits[t, :, 0]) if t > m else 0 * ce[m]
            torch.testing.assert_close(kd[m, t], expected)
    (gradient,) = torch.autograd.grad(kd[1, 2], logits)
    torch.testing.assert_close(gradient[1], 2 * (logits[1] - logits[2]).detach() / 5)
    assert (gradient[[0, 2, 3]] == 0).all()


# --------------------------------------------------------------------------------------------------
# The hypergradient


def problem(teachers="all", dropout=0.0, M=3, num_classes=3):
    model = tiny_model(layers=M, dropout=dropout, num_classes=num_classes).train()
    d1, d2 = random_batch(B=5, seed=1), random_batch(B=4, T=6, seed=2)
    if num_classes == 1:
        d1, d2 = (d._replace(labels=d.labels.float() * 0.7) for d in (d1, d2))
    return model, random_weights(M, teachers), d1, d2


def mean_cross_entropy(logits, labels):
    if logits.shape[-1] == 1:
        return torch.stack([F.mse_loss(z[:, 0], labels.double()) for z in logits]).mean()
    return torch.stack([F.cross_entropy(z, labels) for z in logits]).mean()


def inputs(batch):
    return batch.input_ids, batch.token_type_ids, batch.attention_mask


def look_ahead(model, weights, d1, step_size):
    """A copy of the model at Theta' = Theta - xi grad L(D1), by backward and in-place steps."""
    ahead = copy.deepcopy(model)
    ce, kd = loss_terms(ahead(*inputs(d1)), d1.labels, weights.teachers)
    objective(ce, kd, *[w.detach() for w in weights()]).backward()
    with torch.no_grad():
        for p in ahead.parameters():
            p -= step_size * p.grad
    ahead.zero_grad()
    return ahead


def separate_backward_passes(model, weights, d1, d2, step_size, lam):
    """The formula with nothing shared: v by backward at Theta', then one backward pass a term.

    dG/dw_k = -xi < v, grad l_k >, and dw/dOmega = 2 s (1 - s) (divided by the number of teachers),
    the derivative of 2 sigmoid.
    """
    ahead = look_ahead(model, weights, d1, step_size)
    judgement = mean_cross_entropy(ahead(*inputs(d2)), d2.labels)
    judgement = judgement + lam * mean_cross_entropy(ahead(*inputs(d1)), d1.labels)
    v = torch.autograd.grad(judgement, list(ahead.parameters()))

    def inner(term):
        g = torch.autograd.grad(
            term, list(model.parameters()), retain_graph=True, allow_unused=True
        )
        return sum((a * b).sum() for a, b in zip(g, v, strict=True) if a is not None)

    M = len(weights.ce)
    ce, kd = loss_terms(model(*inputs(d1)), d1.labels, weights.teachers)
    mask = teaches(M, weights.teachers)
    s_ce, s_kd = weights.ce.sigmoid(), weights.kd.sigmoid()
    hyper_ce = [-step_size * inner(ce[m]) * 2 * s_ce[m] * (1 - s_ce[m]) for m in range(M)]
    hyper_kd = torch.zeros(M, M, dtype=torch.float64)
    for m, t in mask.nonzero().tolist():
        slope = 2 * s_kd[m, t] * (1 - s_kd[m, t]) / mask[m].sum()
        hyper_kd[m, t] = -step_size * inner(kd[m, t]) * slope
    return torch.stack(hyper_ce).detach(), hyper_kd.detach()


@pytest.mark.parametrize("teachers, num_classes", [
    ("none", 3), ("last", 3), ("later", 3), ("all", 3), ("all", 1),
])  # fmt: skip
@pytest.mark.parametrize("method", METHODS)
def test_hypergradient_equals_separate_backward_passes(teachers, num_classes, method):
    model, weights, d1, d2 = problem(teachers, num_classes=num_classes)
    expected = separate_backward_passes(model, weights, d1, d2, 0.1, 0.7)
    result = hypergradient(model, weights, d1, d2, 0.1, 0.7, method)
    # The difference of two passes is right to 1e-3 of the largest entry, the others to rounding.
    tolerance = (
        1e-3 * max(x.abs().max().item() for x in expected) if method == "difference" else 1e-12
    )
    for ours, theirs in zip(result, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=0)


@pytest.mark.parametrize("method", EXACT)
def test_gradcheck_of_the_whole_map(method):
    """Numerically: Omega -> G = F(D2; Theta') + lambda F(D1; Theta'), Theta' by backward."""
    model, weights, d1, d2 = problem()
    step_size, lam = 0.3, 0.7

    class Judgement(torch.autograd.Function):
        @staticmethod
        def forward(ctx, ce, kd):
            with torch.no_grad():
                weights.ce.copy_(ce)
                weights.kd.copy_(kd)
            with torch.enable_grad():
                ctx.hyper = hypergradient(model, weights, d1, d2, step_size, lam, method)
                ahead = look_ahead(model, weights, d1, step_size)
            return (
                mean_cross_entropy(ahead(*inputs(d2)), d2.labels)
                + lam * mean_cross_entropy(ahead(*inputs(d1)), d1.labels)
            ).detach()

        @staticmethod
        def backward(ctx, upstream):
            return tuple(upstream * g for g in ctx.hyper)

    omega = [p.detach().clone().requires_grad_() for p in weights.parameters()]
    assert torch.autograd.gradcheck(Judgement.apply, omega, eps=1e-5, atol=1e-8, rtol=1e-5)


def test_temperature_reaches_the_hypergradient():
    """All forms at tau = 2, and different from tau = 1."""
    model, weights, d1, d2 = problem()
    one = hypergradient(model, weights, d1, d2, 0.1)[1]
    two = [hypergradient(model, weights, d1, d2, 0.1, 1.0, m, temperature=2.0)[1] for m in METHODS]
    torch.testing.assert_close(two[0], two[1], atol=1e-12, rtol=0)
    torch.testing.assert_close(two[0], two[2], atol=1e-12, rtol=0)
    torch.testing.assert_close(two[0], two[3], atol=1e-4, rtol=0)
    assert (one - two[0]).abs().max() > 1e-3


@pytest.mark.parametrize("method", METHODS)
def test_without_a_look_ahead_there_is_no_gradient(method):
    """F does not contain Omega: the hypergradient is exactly zero at xi = 0, and not at xi > 0."""
    model, weights, d1, d2 = problem()
    assert all((g == 0).all() for g in hypergradient(model, weights, d1, d2, 0.0, 1.0, method))
    assert all((g != 0).any() for g in hypergradient(model, weights, d1, d2, 0.1, 1.0, method))


@pytest.mark.parametrize("method", METHODS)
def test_linear_in_a_small_step_size(method):
    """dG/dw_k = -xi < v(Theta'), grad l_k >, and v(Theta') -> v(Theta) as xi -> 0."""
    model, weights, d1, d2 = problem()
    small, double = (hypergradient(model, weights, d1, d2, xi, 1.0, method) for xi in (1e-7, 2e-7))
    for a, b in zip(small, double, strict=True):
        torch.testing.assert_close(2 * a, b, rtol=0, atol=1e-5 * b.abs().max().item())


def test_v_is_taken_at_the_look_ahead():
    """At a large xi, v(Theta') is not v(Theta): the result is not twice that of half the step."""
    model, weights, d1, d2 = problem()
    half, whole = (hypergradient(model, weights, d1, d2, xi)[0] for xi in (0.25, 0.5))
    assert (whole - 2 * half).abs().max() > 0.05 * whole.abs().max()


@pytest.mark.parametrize("method", METHODS)
def test_cross_is_bilevel_on_d2_plus_lambda_times_bilevel_on_d1(method):
    model, weights, d1, d2 = problem()
    cross = hypergradient(model, weights, d1, d2, 0.1, 0.7, method)
    on_d2 = hypergradient(model, weights, d1, d2, 0.1, 0.0, method)
    on_d1 = hypergradient(model, weights, d1, d1, 0.1, 0.0, method)
    tolerance = 1e-4 if method == "difference" else 1e-12
    for c, a, b in zip(cross, on_d2, on_d1, strict=True):
        torch.testing.assert_close(c, a + 0.7 * b, atol=tolerance, rtol=0)


def test_the_second_pass_sees_the_same_dropout():
    """With dropout the forms agree for one seed; another seed gives something else.

    `unrolled` has only one pass over D1, so it cannot mix up masks, and is the reference.
    """
    model, weights, d1, d2 = problem(dropout=0.3)
    result = {}
    for method in METHODS:
        torch.manual_seed(5)
        result[method] = hypergradient(model, weights, d1, d2, 0.1, 0.7, method)
    torch.manual_seed(6)
    other = hypergradient(model, weights, d1, d2, 0.1, 0.7, "unrolled")
    for k in range(2):
        for method in METHODS:
            tolerance = 1e-12 if method in EXACT else 1e-4
            torch.testing.assert_close(
                result[method][k], result["unrolled"][k], atol=tolerance, rtol=0
            )
        assert (other[k] - result["unrolled"][k]).abs().max() > 1e-3


def test_the_judgement_has_no_dropout_and_the_lower_level_has():
    model, weights, d1, d2 = problem(dropout=0.3)
    theta = dict(model.named_parameters())
    upper = [leebert.upper_loss(model, theta, d1, d2, 0.7) for _ in range(2)]
    model.eval()
    expected = mean_cross_entropy(model(*inputs(d2)), d2.labels)
    expected = expected + 0.7 * mean_cross_entropy(model(*inputs(d1)), d1.labels)
    assert upper[0] == upper[1]
    torch.testing.assert_close(upper[0], expected)
    model.train()
    first, second = (leebert.lower_level(model, weights, d1, 1.0)[1] for _ in range(2))
    assert first != second


@pytest.mark.parametrize("method", METHODS)
def test_nothing_of_the_model_changes(method):
    """Parameters, .grad, optimizer state and training mode: the same to the bit."""
    model, weights, d1, d2 = problem(dropout=0.2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    sum(p.square().sum() for p in model.parameters()).backward()
    optimizer.step()

    def state():
        moments = [x for s in optimizer.state.values() for x in s.values()]
        tensors = [*model.parameters(), *(p.grad for p in model.parameters()), *moments]
        return [x.clone() for x in [*tensors, *weights.parameters()]]

    before = state()
    model.bert.training = False  # somebody has set a part of the model to its own mode
    hypergradient(model, weights, d1, d2, 0.1, 1.0, method)
    assert all(torch.equal(a, b) for a, b in zip(before, state(), strict=True))
    assert all(module.training != (module is model.bert) for module in model.modules())
    assert all(p.grad is None for p in weights.parameters())


@pytest.mark.parametrize("method", METHODS)
def test_the_gradient_of_the_real_step_is_that_of_L(method):
    model, weights, d1, d2 = problem()
    (ce, kd), gradient, _ = cross_level(model, weights, d1, d2, 0.1, 1.0, method)
    expected = loss_terms(model(*inputs(d1)), d1.labels)
    objective(*expected, *weights()).backward()
    torch.testing.assert_close((ce, kd), tuple(x.detach() for x in expected))
    for ours, p in zip(gradient, model.parameters(), strict=True):
        torch.testing.assert_close(ours, p.grad, atol=1e-12, rtol=0)


def test_an_unknown_method_is_an_error():
    with pytest.raises(ValueError, match="reuse, forward, unrolled, difference, not 'magic'"):
        hypergradient(*problem(), 0.1, 1.0, "magic")


# --------------------------------------------------------------------------------------------------
# A case worked out by hand


class TwoNumbers(nn.Module):
    """Two exits that look at nothing: z_m = (0, theta_m), so P(class 1) = sigmoid(theta_m)."""

    def __init__(self):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor([0.0, math.log(3)], dtype=torch.float64))

    def forward(self, input_ids, token_type_ids=None, attention_mask=None):
        logits = torch.stack([torch.zeros_like(self.theta), self.theta], dim=-1)  # (M, C)
        return logits[:, None].expand(-1, len(input_ids), -1)


def one_example(label):
    zeros = torch.zeros(1, 1, dtype=torch.long)
    return Batch(zeros, zeros, zeros + 1, torch.tensor([label]))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("truth", [0, 1])
def test_a_helpful_term_gains_and_a_harmful_one_loses(method, truth):
    """s = sigmoid(theta) = (1/2, 3/4). D1 has one example of class 1, D2 one of class `truth`.

    Gradients of the terms, each in one coordinate only:
        CE_1: s_1 - 1 = -1/2    CE_2: s_2 - 1 = -1/4
        KD_{1<-2}: s_1 - s_2 = -1/4    KD_{2<-1}: s_2 - s_1 = +1/4
    All w are 1 at Omega = 0 (each student has one teacher), so
        theta' = (0 + xi 3/4, log 3 + xi 0)
    F = (CE_1 + CE_2) / 2, so v_m = (sigmoid(theta'_m) - truth) / 2, and dw/dOmega = 1/2:
        dG/dOmega_k = -xi v_m grad l_k / 2.
    With truth = 1 (v < 0): both CE gain (negative), KD_{1<-2} gains, KD_{2<-1} loses weight.
    With truth = 0 all four signs turn.
    """
    xi, model, weights = 0.4, TwoNumbers(), LossWeights(2).double()
    v = [(1 / (1 + math.exp(-x)) - truth) / 2 for x in (0.75 * xi, math.log(3))]
    expected_ce = [-xi * v[0] * -0.5 / 2, -xi * v[1] * -0.25 / 2]
    expected_kd = [[0, -xi * v[0] * -0.25 / 2], [-xi * v[1] * 0.25 / 2, 0]]
    d1, d2 = one_example(1), one_example(truth)
    ce, kd = hypergradient(model, weights, d1, d2, xi, 0.0, method)
    tolerance = 1e-6 if method == "difference" else 1e-14
    torch.testing.assert_close(ce, torch.tensor(expected_ce).double(), atol=tolerance, rtol=1e-6)
    torch.testing.assert_close(kd, torch.tensor(expected_kd).double(), atol=tolerance, rtol=1e-6)

    # And one step of the whole algorithm moves the weights that way.
    step(model, weights, d1, d2, "bilevel", xi=xi, method=method)
    (w_ce, w_kd), helps = weights(), truth == 1
    assert ((w_ce > 1) == helps).all()
    assert (w_kd[0, 1] > 1) == helps and (w_kd[1, 0] > 1) != helps


def step(model, weights, d1, d2, optimize, xi=0.1, lam=0.7, method="forward", max_norm=1e9):
    """One training step in which both optimizers are SGD: Theta with 0.01, Omega with 10."""
    theta_optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    omega_optimizer = torch.optim.SGD(weights.parameters(), lr=10.0)
    return training_step(
        model, weights, theta_optimizer, omega_optimizer, d1, d2, optimize, max_norm,
        step_size=xi, lam=lam, method=method, temperature=1.0,
    )  # fmt: skip


def test_single_level_lets_every_weight_fall():
    """dL/dw_k = l_k >= 0: the trap."""
    model, weights, d1, d2 = problem()
    before = [w.detach() for w in weights()]
    step(model, weights, d1, None, "single")
    after = [w.detach() for w in weights()]
    assert (after[0] < before[0]).all()
    mask = teaches(3, "all")
    assert (after[1][mask] < before[1][mask]).all()


@pytest.mark.parametrize("optimize", ["fixed", "single", "bilevel", "cross"])
def test_a_step_is_descent_in_theta_and_in_omega(optimize):
    """Theta - 0.01 grad L and Omega - 10 grad_Omega of what the method descends, from one point."""
    model, weights, d1, d2 = problem()
    twin, _, _, _ = problem()
    objective(
        *loss_terms(twin(*inputs(d1)), d1.labels), *(w.detach() for w in weights())
    ).backward()
    omega = [p.detach().clone() for p in weights.parameters()]
    if optimize in ("bilevel", "cross"):
        lam = 0.7 if optimize == "cross" else 0.0
        hyper = hypergradient(model, weights, d1, d2, 0.1, lam)
    elif optimize == "single":
        loss = objective(*loss_terms(model(*inputs(d1)), d1.labels), *weights())
        hyper = torch.autograd.grad(loss, list(weights.parameters()))
    else:
        hyper = [torch.zeros_like(p) for p in omega]
    step(model, weights, d1, d2, optimize)
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q - 0.01 * q.grad, atol=1e-12, rtol=0)
    for p, start, g in zip(weights.parameters(), omega, hyper, strict=True):
        torch.testing.assert_close(p.detach(), start - 10 * g, atol=1e-12, rtol=0)


@pytest.mark.parametrize("optimize", ["fixed", "single", "bilevel", "cross"])
def test_options_left_out_are_those_of_cross_level(optimize):
    model, weights, d1, d2 = problem()
    short = leebert.gradients(model, weights, d1, d2, optimize, step_size=0.1)
    full = leebert.gradients(
        model, weights, d1, d2, optimize, step_size=0.1, lam=1.0, temperature=1.0
    )
    flat = [[x for part in result if part is not None for x in part] for result in (short, full)]
    assert all(torch.equal(a, b) for a, b in zip(*flat, strict=True))


def test_the_gradient_is_clipped_to_a_norm():
    model, weights, d1, d2 = problem()
    before = [p.detach().clone() for p in model.parameters()]
    step(model, weights, d1, d2, "fixed", max_norm=0.1)
    moved = sum(
        (p.detach() - q).square().sum() for p, q in zip(model.parameters(), before, strict=True)
    )
    assert moved.sqrt().item() == pytest.approx(0.01 * 0.1, rel=1e-4)


def test_a_gradient_that_is_not_finite_stops_before_anything_changes():
    model, weights, d1, d2 = problem()
    with torch.no_grad():
        model.exits[1].weight[0, 0] = math.nan
    before = [p.detach().clone() for p in [*model.parameters(), *weights.parameters()]]
    with pytest.raises(FloatingPointError, match="^CE_2 is nan$"):
        step(model, weights, d1, d2, "cross")
    after = [*model.parameters(), *weights.parameters()]
    assert all(
        torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(before, after, strict=True)
    )


def test_what_is_not_finite_is_named():
    ce, kd = torch.zeros(2), torch.zeros(2, 2)
    kd[1, 0] = math.inf
    assert leebert.not_finite(ce, kd, math.nan) == "KD_2<-1 is inf"
    assert leebert.not_finite(ce, 0 * ce.outer(ce), math.nan).startswith("the gradient of L is not")
    assert leebert.not_finite(ce, 0 * ce.outer(ce), 1.0).startswith("the hypergradient is not")


def test_an_unknown_way_to_choose_omega_is_an_error():
    with pytest.raises(ValueError, match="single, bilevel, cross or fixed, not 'guess'"):
        step(*problem(), "guess")


# --------------------------------------------------------------------------------------------------
# Early exit


def plain_loop(logits, rule, threshold):
    """One example, logits (M, C) -> prediction, exit layer. From the definitions, in plain math."""
    M, C = logits.shape
    previous, repeats = None, 0
    for m in range(M):
        weights = [math.exp(x - max(logits[m].tolist())) for x in logits[m].tolist()]
        p = [x / sum(weights) for x in weights]
        prediction = p.index(max(p))
        repeats = repeats + 1 if prediction == previous else 0
        previous = prediction
        entropy = -sum(x * math.log(x) for x in p if x > 0) / math.log(C)
        stop = {"entropy": entropy < threshold, "confidence": max(p) > threshold,
                "patience": repeats >= threshold}[rule]  # fmt: skip
        if stop or m == M - 1:
            return prediction, m + 1


SWEEP = [("patience", k) for k in range(7)]
SWEEP += [("entropy", x) for x in (0.0, 0.3, 0.6, 0.9, 1.1)]
SWEEP += [("confidence", x) for x in (0.0, 0.5, 0.7, 0.9, 1.0)]


@pytest.mark.parametrize("rule, threshold", SWEEP)
@pytest.mark.parametrize("batch_size", [1, 2, 5, 23])
def test_early_exit_equals_a_plain_loop_at_every_batch_size(rule, threshold, batch_size):
    """The reference goes one example at a time, unpadded, through the whole model."""
    model = tiny_model(layers=5, std=0.5).eval()
    batch = random_batch(B=23, T=9, seed=3)
    predictions, layers = [], []
    for start in range(0, 23, batch_size):
        part = Batch(*(x[start : start + batch_size] for x in batch))
        a, b = early_exit(model, part, rule, threshold)
        predictions += a.tolist()
        layers += b.tolist()
    for i in range(23):
        n = int(batch.attention_mask[i].sum())
        with torch.no_grad():
            logits = model(batch.input_ids[i : i + 1, :n], batch.token_type_ids[i : i + 1, :n])[
                :, 0
            ]
        assert (predictions[i], layers[i]) == plain_loop(logits, rule, threshold)
    if batch_size == 23:
        with torch.no_grad():
            p, m = exits_from_logits(model(*batch[:3]), rule, threshold)
        assert (predictions, layers) == (p.tolist(), m.tolist())


def test_the_sweep_above_covers_every_exit():
    """Else the comparison would prove little."""
    model, batch = tiny_model(layers=5, std=0.5).eval(), random_batch(B=23, T=9, seed=3)
    layers = {rule: set() for rule, _ in SWEEP}
    for rule, threshold in SWEEP:
        layers[rule] |= set(early_exit(model, batch, rule, threshold)[1].tolist())
    assert all(len(found) >= 4 for found in layers.values()), layers


def test_patience_at_its_borders():
    """Predictions 0 1 1 1 0 over five exits: the run of three ends at exit 4."""
    history = F.one_hot(torch.tensor([0, 1, 1, 1, 0]), 2)[:, None].double()

    def leaves(threshold):
        return [m for m in range(1, 6) if RULES["patience"](history[:m], threshold).item()]

    assert leaves(0) == [1, 2, 3, 4, 5]
    assert leaves(1) == [3, 4]  # one repetition: exits 3 and 4 repeat their predecessor
    assert leaves(2) == [4]
    assert leaves(3) == leaves(4) == leaves(99) == []
    same = torch.ones(5, 1, 2).double()
    assert [RULES["patience"](same[:m], 2).item() for m in range(1, 6)] == [0, 0, 1, 1, 1]


def test_patience_with_numbers():
    """Two answers agree if they differ by less than AGREE; a slow drift agrees step by step."""
    step = leebert.AGREE
    history = step * torch.tensor([0.0, 5.0, 5.9, 6.8, 5.8, 6.8])[:, None, None].double()

    def leaves(threshold):
        return [m for m in range(1, 7) if RULES["patience"](history[:m], threshold).item()]

    assert leaves(1) == [3, 4] and leaves(2) == [4] and leaves(3) == []


@pytest.mark.parametrize("threshold", range(5))
def test_early_exit_with_numbers_one_at_a_time(threshold):
    model, batch = tiny_model(layers=5, std=0.3, num_classes=1).eval(), random_batch(B=23, seed=3)
    model.exits.requires_grad_(False)
    for m, exit in enumerate(model.exits):  # so that some neighbours agree and some do not
        exit.weight *= 0.2
        exit.bias += 0.1 * m
    predictions, layers = early_exit(model, batch, "patience", threshold)
    p, m = exits_from_logits(model(*batch[:3]).detach(), "patience", threshold)
    torch.testing.assert_close(p, predictions)
    assert torch.equal(m, layers)
    with torch.no_grad():
        logits = model(*batch[:3])[..., 0].T.tolist()  # one list of 5 numbers an example
    for z, prediction, layer in zip(logits, predictions.tolist(), layers.tolist(), strict=True):
        repeats = expected = 0
        while repeats < threshold and expected < 4:
            expected += 1
            repeats = repeats + 1 if abs(z[expected] - z[expected - 1]) < leebert.AGREE else 0
        assert layer == expected + 1 and prediction == pytest.approx(z[expected])
    assert threshold in (0, 4) or len(set(layers.tolist())) > 1


def test_a_regression_has_no_probabilities():
    for rule in ("entropy", "confidence"):
        with pytest.raises(ValueError, match=f"rule {rule} needs the probabilities of classes"):
            early_exit(tiny_model(num_classes=1), random_batch(), rule, 0.5)


def test_entropy_of_a_confident_exit_is_a_number():
    """p * log p is 0 * -inf for the class that gets nothing; the rule must see entropy 0."""
    history = torch.tensor([[[1e4, -1e4], [0.0, 0.0]]])
    assert RULES["entropy"](history, 0.01).tolist() == [True, False]
    assert RULES["entropy"](history, 1.01).tolist() == [True, True]  # log 2 / log 2 = 1


def test_who_has_left_is_not_computed():
    """Rows that layer m sees = examples that leave at exit m or later."""
    model, batch = tiny_model(layers=5, std=0.5).eval(), random_batch(B=23, T=9, seed=3)
    seen = []
    for layer in model.bert.layers:
        layer.register_forward_hook(lambda module, args, out: seen.append(len(out)))
    _, layers = early_exit(model, batch, "entropy", 0.6)
    assert seen == [int((layers >= m).sum()) for m in range(1, len(seen) + 1)]
    assert 0 < seen[-1] < 23


def test_an_unknown_rule_is_an_error():
    with pytest.raises(ValueError, match="entropy, confidence, patience.*, not 'mood'"):
        early_exit(tiny_model(), random_batch(), "mood", 1)


@pytest.mark.parametrize("method", METHODS)
def test_the_judgement_may_see_only_some_of_d1(method):
    """v comes from F(D2) and the judge's part of D1; L and its terms from all of D1."""
    model, weights, d1, d2 = problem()
    judge = Batch(*(x[::2] for x in d1))
    _, gradient, hyper = cross_level(
        model, weights, d1, d2, 0.1, 0.7, method, temperature=1.0, d1_judge=judge
    )
    on_d2, on_judge = (cross_level(model, weights, d1, d, 0.1, 0.0, method)[2] for d in (d2, judge))
    tolerance = 1e-4 if method == "difference" else 1e-12
    for h, a, b in zip(hyper, on_d2, on_judge, strict=True):
        torch.testing.assert_close(h, a + 0.7 * b, atol=tolerance, rtol=0)
    whole = cross_level(model, weights, d1, d2, 0.1, 0.7, method)[1]
    assert all(torch.equal(a, b) for a, b in zip(gradient, whole, strict=True))
