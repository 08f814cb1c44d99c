"""leebert.py, all but the hypergradient: every formula against an independent one, in float64.

test_hypergradient.py is about the hypergradient. Expectations are derived in the docstrings.
"""

import functools
import math

import pytest
import torch
import torch.nn.functional as F
from conftest import random_batch, tiny_model
from test_hypergradient import ours, problem
from torch.distributions import Categorical, kl_divergence

import leebert
from data import Batch
from leebert import (
    RULES,
    LossWeights,
    MultiExitBert,
    bilevel_gradients,
    early_exit,
    exits_from_logits,
    loss_terms,
    objective,
    set_depth_weights,
    teaches,
    training_step,
)


def random_logits(M=4, B=5, C=3, scale=2.0):
    torch.manual_seed(0)
    return scale * torch.randn(M, B, C, dtype=torch.float64), torch.randint(0, C, (B,))


# --------------------------------------------------------------------------------------------------
# What an exit looks at


def test_pool_takes_the_first_token_or_the_mean_of_those_that_are_not_padding():
    hidden, mask = torch.randn(5, 7, 10).double(), random_batch(B=5, T=7).attention_mask
    assert torch.equal(leebert.pool(hidden, mask, "cls"), hidden[:, 0])
    mean = leebert.pool(hidden, mask, "mean")
    for i, n in enumerate(mask.sum(dim=1)):
        torch.testing.assert_close(mean[i], hidden[i, :n].mean(dim=0))


def test_the_way_to_pool_is_chosen_when_the_model_is_made():
    bert = tiny_model().bert
    assert [MultiExitBert(bert, 3).pool, MultiExitBert(bert, 3, "mean").pool] == ["cls", "mean"]
    with pytest.raises(ValueError, match="pool must be cls or mean, not 'max'"):
        MultiExitBert(bert, 3, "max")


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
    weights = problem("all")[1]
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
    ce, kd = loss_terms(*random_logits(M=3))
    w_ce, w_kd = problem()[1]()
    expected = sum(w_ce[m] * ce[m] for m in range(3))
    expected += sum(w_kd[m, t] * kd[m, t] for m in range(3) for t in range(3) if m != t)
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
# One training step


def step(model, weights, d1, d2=None, again=None, **options):
    """One step in which both optimizers are SGD: Theta with 0.01, Omega with 10."""
    theta_optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    omega_optimizer = torch.optim.SGD(weights.parameters(), lr=10.0)
    options = {"optimize": "cross", "step_size": 0.1, "lam": 0.7, "max_norm": 1e9} | options
    return training_step(model, weights, theta_optimizer, omega_optimizer, d1, d2, again, **options)


def copies(*modules):
    return [p.detach().clone() for module in modules for p in module.parameters()]


@pytest.mark.parametrize("method", leebert.FORMS)
def test_the_terms_and_the_gradient_of_L_are_those_of_d1(method):
    """Neither d2 nor again, the judge's own examples of D1, may enter them."""
    model, weights, d1, d2, again = problem("later")
    terms, g, _ = bilevel_gradients(model, weights, d1, d2, again, 0.1, 0.7, method, 2.0)
    expected = loss_terms(model(*d1[:3]), d1.labels, "later", 2.0)
    torch.testing.assert_close(terms, tuple(x.detach() for x in expected))
    expected = torch.autograd.grad(objective(*expected, *weights()), list(model.parameters()))
    torch.testing.assert_close(g, list(expected))


@pytest.mark.parametrize("optimize", ["fixed", "single", "bilevel", "cross"])
def test_a_step_is_descent_in_theta_and_in_omega(optimize):
    """Theta - 0.01 grad L and Omega - 10 grad_Omega of what the method descends, from one point.

    Each method gets only the batches that it reads: bilevel ignores lambda, and needs no `again`.
    """
    model, weights, d1, d2, again = case = problem("later")
    read = {"bilevel": (d1, d2), "cross": (d1, d2, again)}.get(optimize, (d1,))
    theta, omega = copies(model), copies(weights)
    terms = loss_terms(model(*d1[:3]), d1.labels, "later", 2.0)
    L = objective(*terms, *weights())
    g = torch.autograd.grad(L, list(model.parameters()), retain_graph=True)
    hyper = {
        "fixed": [torch.zeros_like(p) for p in omega],
        "single": torch.autograd.grad(L, list(weights.parameters())),
        "bilevel": ours(case, "unrolled", lam=0.0, tau=2.0),
        "cross": ours(case, "unrolled", lam=0.7, tau=2.0),
    }[optimize]
    returned = step(model, weights, *read, optimize=optimize, temperature=2.0)
    torch.testing.assert_close(returned, tuple(x.detach() for x in terms))
    expected = [p - 0.01 * x for p, x in zip(theta, g, strict=True)]
    torch.testing.assert_close(copies(model), expected, atol=1e-12, rtol=0)
    expected = [p - 10 * x for p, x in zip(omega, hyper, strict=True)]
    torch.testing.assert_close(copies(weights), expected, atol=1e-12, rtol=0)


def test_single_level_lets_every_weight_fall():
    """dL/dw_k = l_k >= 0: the trap."""
    model, weights, d1, _, _ = problem()
    before = copies(weights)
    step(model, weights, d1, optimize="single")
    ce, kd = (after < start for after, start in zip(copies(weights), before, strict=True))
    assert ce.all() and torch.equal(kd, teaches(3, "all"))


def test_only_the_gradient_of_L_is_clipped_to_a_norm():
    """Theta moves by 0.01 * 0.1; the look-ahead and the hypergradient know nothing of it."""
    model, weights, *_ = case = problem()
    theta, omega, hyper = copies(model), copies(weights), ours(case, "unrolled")
    step(*case, max_norm=0.1)
    moved = sum((p - q).square().sum() for p, q in zip(copies(model), theta, strict=True))
    assert moved.sqrt().item() == pytest.approx(0.01 * 0.1, rel=1e-4)
    expected = [p - 10 * x for p, x in zip(omega, hyper, strict=True)]
    torch.testing.assert_close(copies(weights), expected)


@pytest.mark.parametrize("what", ["CE_2 is nan", "the hypergradient is not finite"])
def test_what_is_not_finite_stops_before_anything_changes(what):
    model, weights, d1, d2, again = problem(num_classes=1)
    if what == "CE_2 is nan":
        model.exits[1].weight.data[0, 0] = math.nan
    else:
        d2.labels[0] = math.inf
    before = copies(model, weights)
    with pytest.raises(FloatingPointError, match=f"^{what}"):
        step(model, weights, d1, d2, again)
    after = copies(model, weights)
    torch.testing.assert_close(after, before, atol=0, rtol=0, equal_nan=True)


def test_what_is_not_finite_is_named():
    ce, kd = torch.zeros(2), torch.zeros(2, 2)
    assert leebert.not_finite(ce, kd, math.nan).startswith("the gradient of L is not")
    kd[1, 0] = math.inf
    assert leebert.not_finite(ce, kd, math.nan) == "KD_2<-1 is inf"


def test_an_unknown_way_to_learn_omega_is_an_error():
    with pytest.raises(ValueError, match="single, bilevel, cross or fixed, not 'guess'"):
        step(*problem(), optimize="guess")
    with pytest.raises(ValueError, match="unrolled, forward, difference, not 'magic'"):
        step(*problem(), method="magic")


# --------------------------------------------------------------------------------------------------
# Early exit


def plain_loop(logits, rule, threshold):
    """One example, logits (M, C) -> answer, exit layer. From the definitions, in plain math."""
    previous, repeats = math.inf, 0
    for m, z in enumerate(logits.tolist(), start=1):
        p = [math.exp(x - max(z)) / sum(math.exp(y - max(z)) for y in z) for x in z]
        answer = p.index(max(p)) if len(z) > 1 else z[0]
        agrees = abs(answer - previous) < leebert.AGREE  # two classes: they are the same
        repeats, previous = repeats + 1 if agrees else 0, answer
        entropy = -sum(x * math.log(x) for x in p if x > 0)
        stop = {
            "entropy": entropy < threshold * math.log(len(z)),
            "confidence": max(p) > threshold,
            "patience": repeats >= threshold,
        }[rule]
        if stop or m == len(logits):
            return answer, m


SWEEP = [("patience", k, 3) for k in range(7)]
SWEEP += [("entropy", x, 3) for x in (0.0, 0.3, 0.6, 0.9, 1.1)]
SWEEP += [("confidence", x, 3) for x in (0.0, 0.5, 0.7, 0.9, 1.0)]
SWEEP += [("patience", k, 1) for k in range(5)]  # a number


@functools.cache
def one_at_a_time(pool, num_classes):
    """-> model, batch, and its logits (M, 23, C): each example alone, without padding."""
    model, batch = tiny_model(5, num_classes=num_classes, std=0.5).eval(), random_batch(23, 9)
    model.requires_grad_(False).pool = pool
    if num_classes == 1:  # numbers, so that some neighbours agree and some do not
        for m, exit in enumerate(model.exits):
            exit.weight *= 0.1
            exit.bias += 0.1 * m
    lengths = batch.attention_mask.sum(dim=1).tolist()
    alone = [[x[i : i + 1, :n] for x in batch[:2]] for i, n in enumerate(lengths)]
    return model, batch, torch.cat([model(*example) for example in alone], dim=1)


@pytest.mark.parametrize("pool", ["cls", "mean"])
@pytest.mark.parametrize("num_classes", [3, 1])
def test_padding_changes_nothing(pool, num_classes):
    model, batch, alone = one_at_a_time(pool, num_classes)
    torch.testing.assert_close(model(*batch[:3]), alone)


@pytest.mark.parametrize("pool", ["cls", "mean"])
@pytest.mark.parametrize("rule, threshold, num_classes", SWEEP)
def test_early_exit_equals_a_plain_loop_at_every_batch_size(rule, threshold, num_classes, pool):
    """The reference goes one example at a time, unpadded, through the whole model."""
    model, batch, logits = one_at_a_time(pool, num_classes)
    examples = (plain_loop(z, rule, threshold) for z in logits.unbind(dim=1))
    expected = [torch.tensor(x) for x in zip(*examples, strict=True)]

    def check(parts):
        found = [torch.cat(x) for x in zip(*parts, strict=True)]
        torch.testing.assert_close(found, expected, check_dtype=False)

    for size in (1, 2, 5, 23):
        parts = [Batch(*(x[i : i + size] for x in batch)) for i in range(0, 23, size)]
        check([early_exit(model, part, rule, threshold) for part in parts])
    check([exits_from_logits(logits, rule, threshold)])


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_the_sweep_above_covers_the_exits(pool):
    """Else the comparison would prove little."""
    layers = {}
    for rule, threshold, num_classes in SWEEP:
        model, batch, _ = one_at_a_time(pool, num_classes)
        found = layers.setdefault((rule, num_classes), set())
        found |= set(early_exit(model, batch, rule, threshold)[1].tolist())
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


def test_a_regression_has_no_probabilities():
    for rule in ("entropy", "confidence"):
        with pytest.raises(ValueError, match=f"rule {rule} needs the probabilities of classes"):
            early_exit(tiny_model(num_classes=1), random_batch(), rule, 0.5)


def test_entropy_of_a_confident_exit_is_a_number():
    """p * log p is 0 * -inf for the class that gets nothing; the rule must see entropy 0."""
    history = torch.tensor([[[1e4, -1e4], [0.0, 0.0]]])
    assert RULES["entropy"](history, 0.01).tolist() == [True, False]
    assert RULES["entropy"](history, 1.01).tolist() == [True, True]  # log 2 / log 2 = 1


def test_a_threshold_must_be_passed_not_only_reached():
    """Entropy 0 and probability 1 of a sure exit; probability 1/2 of one that cannot decide."""
    history = torch.tensor([[[1e4, -1e4], [0.0, 0.0]]])
    assert RULES["entropy"](history, 0.0).tolist() == [False, False]
    assert RULES["confidence"](history, 0.5).tolist() == [True, False]
    assert RULES["confidence"](history, 1.0).tolist() == [False, False]


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
