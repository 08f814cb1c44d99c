"""leebert.py: every formula against an independent one, in float64.

The value of the hypergradient has its specification in test_hypergradient.py; here is the rest of
it, dropout and side effects.
"""

import functools
import math

import pytest
import torch
import torch.nn.functional as F
from conftest import random_batch, tiny_model
from test_hypergradient import assert_equal, every_form, ours, problem
from torch.distributions import Categorical, kl_divergence
from torch.utils._python_dispatch import TorchDispatchMode

import leebert
from data import Batch
from leebert import RULES, Batches, Hyper, LossWeights, early_exit, loss_terms, objective


def random_logits(M=4, B=5, C=3, scale=2.0):
    torch.manual_seed(0)
    return scale * torch.randn(M, B, C, dtype=torch.float64), torch.randint(0, C, (B,))


# --------------------------------------------------------------------------------------------------
# What an exit looks at


def test_pool_takes_the_first_token_or_the_mean_of_those_that_are_not_padding():
    hidden, mask = torch.randn(5, 7, 10).double(), random_batch(B=5, T=7).attention_mask
    assert torch.equal(leebert.exit_state(hidden, mask, "cls"), hidden[:, 0])
    mean = leebert.exit_state(hidden, mask, "mean")
    for i, n in enumerate(mask.sum(dim=1)):
        torch.testing.assert_close(mean[i], hidden[i, :n].mean(dim=0))


# --------------------------------------------------------------------------------------------------
# The loss terms


@pytest.mark.parametrize("tau", [1.0, 2.5])
def test_each_exit_has_its_cross_entropy_and_each_pair_its_kl_divergence(tau):
    """Against torch's own; and distillation moves the student, not the teacher.

    With p = softmax(z / tau), dKD_{m<-t}/dz_m = tau^2 (1/tau) (p_m - p_t) / B, and dKD/dz_t = 0.
    """
    logits, labels = random_logits()
    ce, kd = loss_terms(logits.requires_grad_(), labels, "all", tau)
    for m in range(4):
        torch.testing.assert_close(ce[m], F.cross_entropy(logits[m], labels))
        for t in range(4):
            teacher, student = (Categorical(logits=logits[k] / tau) for k in (t, m))
            expected = tau**2 * kl_divergence(teacher, student).mean()
            torch.testing.assert_close(kd[m, t], expected)
    (gradient,) = torch.autograd.grad(kd[1, 2], logits)
    p = (logits / tau).softmax(-1)
    torch.testing.assert_close(gradient[1], tau * (p[1] - p[2]) / 5)
    assert (gradient[[0, 2, 3]] == 0).all()


TEACHES = {  # rows are students, columns are teachers
    "none": [[0, 0, 0], [0, 0, 0], [0, 0, 0]],
    "last": [[0, 0, 1], [0, 0, 1], [0, 0, 0]],
    "later": [[0, 1, 1], [0, 0, 1], [0, 0, 0]],
    "all": [[0, 1, 1], [1, 0, 1], [1, 1, 0]],
}


@pytest.mark.parametrize("teachers", TEACHES)
def test_who_teaches_whom_and_with_what_weight(teachers):
    """w_m = 2 sigmoid(Omega_m), w_{m,t} = 2 sigmoid(Omega_{m,t}) / (number of m's teachers).

    Omega = 0 at the start, so one unit of cross-entropy, and of distillation if there is a teacher.
    """
    rows = torch.tensor(TEACHES[teachers])
    assert torch.equal(leebert.teaches(3, teachers).int(), rows.int())
    _, kd = loss_terms(*random_logits(M=3), teachers)
    assert torch.equal(kd > 0, rows == 1)
    assert all((p == 0).all() for p in LossWeights(3, teachers).parameters())
    weights = problem(teachers)[1]
    number_of_teachers = rows.sum(dim=1, keepdim=True).clamp(min=1)
    w_ce, w_kd = weights()
    torch.testing.assert_close(w_ce, 2 / (1 + torch.exp(-weights.ce)))
    expected = rows / number_of_teachers * 2 / (1 + torch.exp(-weights.kd))
    torch.testing.assert_close(w_kd, expected)


def test_the_objective_is_the_double_sum():
    ce, kd = loss_terms(*random_logits(M=3))
    w_ce, w_kd = problem()[1]()
    expected = sum(w_ce[m] * ce[m] for m in range(3))
    expected += sum(w_kd[m, t] * kd[m, t] for m in range(3) for t in range(3) if m != t)
    torch.testing.assert_close(objective(ce, kd, w_ce, w_kd), expected)


def test_with_one_output_every_term_is_a_mean_squared_error():
    """Without tau; d mean_B((z_m - z_t)^2) / dz_m = 2 (z_m - z_t) / B, and nothing for z_t."""
    logits, _ = random_logits(C=1)
    labels = torch.tensor([0.0, 5.0, 2.5, 1.0, 3.2]).double()
    z = logits[..., 0]
    ce, kd = loss_terms(logits.requires_grad_(), labels, "later", 2.5)
    for m in range(4):
        torch.testing.assert_close(ce[m], F.mse_loss(z[m], labels))
        for t in range(4):
            torch.testing.assert_close(kd[m, t], F.mse_loss(z[m], z[t]) * (t > m))
    (gradient,) = torch.autograd.grad(kd[1, 2], logits)
    torch.testing.assert_close(gradient[1, :, 0], 2 * (z[1] - z[2]) / 5)
    assert (gradient[[0, 2, 3]] == 0).all()


# --------------------------------------------------------------------------------------------------
# The hypergradient: which dropout, which examples, and what it leaves alone


def test_all_forms_have_the_same_dropout():
    """`unrolled` passes over D1 once and cannot mix up masks; the others see the masks it sees.

    The next call has other masks: one number is drawn for each call, the seed of its masks. The
    judge draws none.
    """
    case, results = problem(dropout=0.3), {}
    torch.manual_seed(5)
    torch.randint(2**62, ())
    after_one_number = torch.get_rng_state()
    for form in leebert.FORMS:
        torch.manual_seed(5)
        results[form] = ours(case, form)
        assert_equal(results[form], results["unrolled"], form)
        assert torch.equal(torch.get_rng_state(), after_one_number)
        following = ours(case, form)
        assert (following[0] - results[form][0]).abs().max() > 1e-3


@every_form
def test_a_judge_that_is_content_changes_no_weight(form):
    """All numbers are 0 and so are all labels: v = 0, and the difference has no direction."""
    model, weights, batches = problem(num_classes=1)
    for classifier in model.exits:
        classifier.weight.data.zero_()
    batches = Batches(*(batch._replace(labels=0 * batch.labels) for batch in batches))
    assert all((x == 0).all() for x in ours((model, weights, batches), form))


@every_form
def test_the_judge_needs_examples_of_its_own(form):
    model, weights, batches = problem()
    with pytest.raises(ValueError, match="Batches needs d1_judge"):
        ours((model, weights, batches._replace(d1_judge=None)), form)


@every_form
def test_nothing_of_the_model_changes(form):
    """Parameters and .grad are not written to, nor changed and put back; each module has its mode.

    Also after an exception inside the judge: d2 has a label that no class has.
    """
    model, weights, batches = case = problem(dropout=0.2)
    model.exits.eval()
    parameters = [*model.parameters(), *weights.parameters()]
    sum(p.square().sum() for p in parameters).backward()

    def state():
        tensors = [*parameters, *(p.grad for p in parameters)]
        modes = [module.training for module in model.modules()]
        return [(x._version, x.tolist()) for x in tensors], modes

    before = state()
    ours(case, form)
    assert state() == before
    batches.d2.labels[0] = 99
    with pytest.raises(IndexError):
        ours(case, form)
    assert state() == before


# --------------------------------------------------------------------------------------------------
# One training step


def step(model, weights, batches, optimize="cross", **change):
    """One step in which both optimizers are SGD: Theta with 0.01, Omega with 10."""
    optimizers = [torch.optim.SGD(x.parameters(), lr) for x, lr in ((model, 0.01), (weights, 10.0))]
    hyper = Hyper(xi=0.1, lam=0.7, max_norm=1e9)._replace(**change)
    return leebert.training_step(model, weights, optimizers, batches, hyper, optimize)


def copies(*modules):
    return [p.detach().clone() for module in modules for p in module.parameters()]


every_method = pytest.mark.parametrize("optimize", ["fixed", "single", "bilevel", "cross"])


@every_method
@every_form
def test_a_step_is_descent_in_theta_and_in_omega(optimize, form):
    """Theta - 0.01 grad L and Omega - 10 grad_Omega of what the method descends, from one point.

    Terms and grad L are those of d1 alone. Only grad L is clipped, to the norm 0.1. Each method
    gets only the batches that it reads: bilevel ignores lambda, and needs no d1_judge.
    """
    model, weights, batches = case = problem("later")
    d1 = batches.d1
    read = Batches(*batches[: {"bilevel": 2, "cross": 3}.get(optimize, 1)])
    theta, omega = copies(model), copies(weights)
    terms = loss_terms(model(*d1[:3]), d1.labels, "later", 2.0)
    L = objective(*terms, *weights())
    g = torch.autograd.grad(L, list(model.parameters()), retain_graph=True)
    clip = 0.1 / (sum(x.square().sum() for x in g).sqrt() + 1e-6)  # torch adds 1e-6
    hyper = {
        "fixed": [torch.zeros_like(p) for p in omega],
        "single": torch.autograd.grad(L, list(weights.parameters())),
        "bilevel": ours(case, form, lam=0.0, tau=2.0),
        "cross": ours(case, form, lam=0.7, tau=2.0),
    }[optimize]
    returned = step(model, weights, read, optimize, form=form, tau=2.0, max_norm=0.1)
    torch.testing.assert_close(returned, tuple(x.detach() for x in terms))
    assert_equal(copies(model), [p - 0.01 * clip * x for p, x in zip(theta, g, strict=True)])
    assert_equal(copies(weights), [p - 10 * x for p, x in zip(omega, hyper, strict=True)])


@every_method
@every_form
def test_what_is_frozen_stays_and_the_rest_moves_as_before(form, optimize):
    """Encoder and one exit frozen, and the weights of distillation; one tensor is in no term of L.

    With the encoder frozen the others' gradients are what they were, and so is their step.
    """
    whole, frozen = problem(), problem()
    frozen[0].unused = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    parts = [*frozen[0].bert.parameters(), *frozen[0].exits[1].parameters(), frozen[1].kd]
    for p in parts:
        p.requires_grad_(False)
    before = [p.clone() for p in parts]
    for case in (whole, frozen):
        step(*case, optimize, form=form)
    assert all(map(torch.equal, parts, before)) and all(p.grad is None for p in parts)
    assert frozen[0].unused.tolist() == [1, 1]
    moved = [whole[0].exits[0].weight, frozen[0].exits[0].weight]
    assert_equal(moved[:1], moved[1:], form)
    assert not torch.equal(moved[1], problem()[0].exits[0].weight)
    assert (optimize != "fixed") == bool((frozen[1].ce != problem()[1].ce).any())


@pytest.mark.parametrize("what", [r"not finite .CE \[[.\d]+, nan", r"not finite .CE \[[.\d, ]+\]"])
def test_what_is_not_finite_stops_before_anything_changes(what):
    model, weights, batches = problem(num_classes=1)
    if "nan" in what:
        model.exits[1].weight.data[0, 0] = math.nan
    else:
        batches.d2.labels[0] = math.inf
    before = copies(model, weights)
    with pytest.raises(FloatingPointError, match=what):
        step(model, weights, batches)
    after = copies(model, weights)
    torch.testing.assert_close(after, before, atol=0, rtol=0, equal_nan=True)


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
            "always": m == threshold,
        }[rule]
        if stop or m == len(logits):
            return answer, m


@functools.cache
def one_at_a_time(pool, num_classes):
    """-> model, batch, and its logits (M, 23, C): each example alone, without padding."""
    model, batch = tiny_model(5, num_classes=num_classes, std=0.5).eval(), random_batch(23, 9)
    model.requires_grad_(False).pool = pool
    if num_classes == 1:  # numbers, so that some neighbours agree and some do not
        for m, classifier in enumerate(model.exits):
            classifier.weight *= 0.1
            classifier.bias += 0.1 * m
    lengths = batch.attention_mask.sum(dim=1).tolist()
    alone = [[x[i : i + 1, :n] for x in batch[:2]] for i, n in enumerate(lengths)]
    return model, batch, torch.cat([model(*example) for example in alone], dim=1)


@pytest.mark.parametrize("pool", ["cls", "mean"])
@pytest.mark.parametrize("rule, num_classes, thresholds", [
    ("patience", 3, range(7)),
    ("entropy", 3, (0.0, 0.3, 0.6, 0.9, 1.1)),
    ("confidence", 3, (0.0, 0.5, 0.7, 0.9, 1.0)),
    ("patience", 1, range(5)),  # a number
    ("always", 3, range(1, 6)),
])  # fmt: skip
def test_early_exit_equals_a_plain_loop_at_every_batch_size(rule, num_classes, thresholds, pool):
    """The reference goes one example at a time, unpadded, through the whole model."""
    model, batch, logits = one_at_a_time(pool, num_classes)
    torch.testing.assert_close(model(*batch[:3]), logits)  # padding changes nothing
    layers_seen = set()
    for threshold in thresholds:
        examples = (plain_loop(z, rule, threshold) for z in logits.unbind(dim=1))
        expected = [torch.tensor(x) for x in zip(*examples, strict=True)]
        layers_seen |= set(expected[1].tolist())
        found = [leebert.exits_from_logits(logits, rule, threshold)]
        for size in (1, 2, 5, 23):
            parts = [Batch(*(x[i : i + size] for x in batch)) for i in range(0, 23, size)]
            exits = [early_exit(model, part, rule, threshold) for part in parts]
            found.append([torch.cat(x) for x in zip(*exits, strict=True)])
        for result in found:
            torch.testing.assert_close(list(result), expected, check_dtype=False)
    assert len(layers_seen) >= 4  # otherwise the comparison would prove little


@pytest.mark.parametrize("history, exits", [
    # Predictions 0 1 1 1 0: exits 3 and 4 repeat their predecessor.
    (F.one_hot(torch.tensor([0, 1, 1, 1, 0]), 2).double(),
     {0: [1, 2, 3, 4, 5], 0.5: [3, 4], 1: [3, 4], 1.5: [4], 2: [4], 3: [], 4: [], 99: []}),
    # Numbers agree if they differ by less than AGREE; a slow drift agrees step by step.
    (leebert.AGREE * torch.tensor([0.0, 5.0, 5.9, 6.8, 5.8, 6.8]).double()[:, None],
     {1: [3, 4], 2: [4], 3: []}),
])  # fmt: skip
def test_patience_at_its_borders(history, exits):
    """history (M, C) of one example; exits: a threshold -> where the rule lets it leave."""
    for threshold, expected in exits.items():
        passed = [history[:m, None] for m in range(1, len(history) + 1)]
        leaves = [m for m, z in enumerate(passed, 1) if RULES["patience"](z, threshold).item()]
        assert leaves == expected


@pytest.mark.parametrize("rule, threshold, leaves", [
    ("entropy", 0.0, [False, False]),
    ("entropy", 1.0, [True, False]),
    ("entropy", 1.01, [True, True]),
    ("confidence", 0.5, [True, False]),
    ("confidence", 1.0, [False, False]),
])  # fmt: skip
def test_a_threshold_must_be_passed_not_only_reached(rule, threshold, leaves):
    """One exit is sure: entropy 0, though p log p is 0 * -inf there, and probability 1.

    One cannot decide: entropy log 2 / log 2 = 1, and probability 1/2.
    """
    history = torch.tensor([[[1e4, -1e4], [0.0, 0.0]]])
    assert RULES[rule](history, threshold).tolist() == leaves


def test_who_has_left_is_not_computed():
    """Rows that layer m sees = examples that leave at exit m or later."""
    model, batch = tiny_model(layers=5, std=0.5).eval(), random_batch(B=23, T=9, seed=3)
    seen = []
    for layer in model.bert.layers:
        layer.register_forward_hook(lambda module, args, out: seen.append(len(out)))
    _, layers = early_exit(model, batch, "entropy", 0.6)
    assert seen == [int((layers >= m).sum()) for m in range(1, len(seen) + 1)]
    assert 0 < seen[-1] < 23


class Waits(TorchDispatchMode):
    """The names of the operations that make the host wait for a GPU: a number is read back, or the
    places in a mask."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        places = args[1] if name in ("index", "index_put_") else []
        masks = any(x is not None and x.dtype == torch.bool for x in places)
        if masks or name in ("_local_scalar_dense", "nonzero"):
            self.names.append(name)
        return function(*args, **kwargs or {})


def test_the_host_waits_once_a_step_and_once_an_exit():
    """Is the gradient finite? (SGD: Adam counts its steps on the CPU.) Does anybody leave?"""
    with Waits() as waits:
        step(*problem())
    assert waits.names.count("_local_scalar_dense") == len(waits.names) <= 2, waits.names
    with Waits() as waits:
        _, exit_layer = early_exit(tiny_model(5).eval(), random_batch(), "confidence", 2.0)
    assert exit_layer.tolist() == [5] * 5 and waits.names == ["nonzero"] * 4


@pytest.mark.parametrize("answer", [
    lambda leave: leave.long(),  # as indices, these would be examples number 0 and 1
    lambda leave: True,
])  # fmt: skip
def test_a_rule_must_return_one_bool_an_example(monkeypatch, answer):
    monkeypatch.setitem(RULES, "mine", lambda history, t: answer(RULES["confidence"](history, t)))
    with pytest.raises(TypeError, match=r"rule mine must return a bool tensor of shape \(B,\)"):
        early_exit(tiny_model().eval(), random_batch(), "mine", 0.5)
