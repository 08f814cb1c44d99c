"""Is my solution of exercise N right, and if not, what is wrong with it?

    python exercises/check.py          # the list of exercises
    python exercises/check.py 3        # "exercise 3: right", or a sentence that says what is wrong

Imports leebert.py and bert.py as you have changed them. Each check_N computes the formula of page N
a second time, in the plainest way, on small random inputs in float64. Where the results differ it
computes what the usual mistakes would give, and names the one that fits.

Exit status: 0 right, 1 wrong or not started, 2 no such exercise.
"""

import copy
import inspect
import math
import sys
from dataclasses import fields
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.func import functional_call

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))

from data import Batch  # noqa: E402

TAU = 1.7  # not 1, so that a forgotten temperature shows; its square is not another usual factor

# --------------------------------------------------------------------------------------------------
# 1. Comparing


class Wrong(Exception):
    """A sentence that says what is wrong."""


def close(result, expected, tolerance=1e-9):
    """Equal up to tolerance times the largest entry that is expected."""
    return bool((result - expected).abs().max() <= tolerance * expected.abs().max())


def misshapen(what, result, expected):
    """Wrong unless result is a tensor of the shape of expected, and bool like it."""
    if not isinstance(result, torch.Tensor):
        raise Wrong(f"{what} should be a tensor and is of type {type(result).__name__}")
    if result.shape != expected.shape:
        raise Wrong(f"{what} has shape {tuple(result.shape)}; expected {tuple(expected.shape)}")
    if expected.dtype == torch.bool and result.dtype != torch.bool:
        raise Wrong(f"{what} is of type {result.dtype}; expected torch.bool")


def compare(what, result, expected, mistakes=(), tolerance=1e-9, otherwise=None):
    """Wrong unless result is expected.

    mistakes: pairs (sentence, what the result would be); the first one that fits is said. If none
    fits: otherwise, or the entry that is off most.
    """
    misshapen(what, result, expected)
    result, expected = result.detach().double(), expected.detach().double()
    if close(result, expected, tolerance):
        return
    for sentence, mistake in mistakes:
        if close(result, mistake.detach().double(), tolerance):
            raise Wrong(sentence)
    if not result.isfinite().all():
        raise Wrong(f"{what} contains NaN or infinity")
    worst = (result - expected).abs().argmax()
    at = [int(i) for i in torch.unravel_index(worst, expected.shape)]
    ours, formula = (float(x.flatten()[worst]) for x in (result, expected))
    raise Wrong(otherwise or f"{what} is {ours:.6g} at {at}, but the formula gives {formula:.6g}")


def compare_pair(what, result, expected, mistakes=(), tolerance=1e-9, otherwise=None):
    """The same for one number for each exit (M,) and one for each pair of exits (M, M)."""
    if not isinstance(result, (tuple, list)) or len(result) != 2:
        raise Wrong(f"{what} should be two tensors, (M,) and (M, M), not {type(result).__name__}")
    for part, a, b in zip(("(M,)", "(M, M)"), result, expected, strict=True):
        misshapen(f"{what}, part {part},", a, b)
    mistakes = [(sentence, flat(mistake)) for sentence, mistake in mistakes]
    what = f"{what}, with both parts in one row,"
    compare(what, flat(result), flat(expected), mistakes, tolerance, otherwise)


def flat(tensors):
    return torch.cat([x.detach().double().flatten() for x in tensors])


def gradient(scalar, tensor):
    """d scalar / d tensor, zero if it does not depend on it."""
    if not scalar.requires_grad:
        return torch.zeros_like(tensor)
    return torch.autograd.grad(scalar, tensor, retain_graph=True, materialize_grads=True)[0]


# --------------------------------------------------------------------------------------------------
# 2. Small random inputs


def random(*shape, seed=0, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


def random_batch(B, T=7, seed=0):
    """A batch of random ids for 3 classes, the first example full, the others padded."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, T + 1, (B,), generator=generator)
    lengths[0] = T
    mask = (torch.arange(T) < lengths[:, None]).long()
    ids = torch.randint(1, 37, (B, T), generator=generator) * mask
    labels = torch.randint(0, 3, (B,), generator=generator)
    return Batch(ids, torch.zeros_like(ids), mask, labels)


def tiny_config(bert, M=3, dropout=0.0, std=0.3, **more):
    return bert.BertConfig(
        vocab_size=37, hidden_size=10, num_hidden_layers=M, num_attention_heads=2,
        intermediate_size=13, max_position_embeddings=11, initializer_range=std,
        hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout, **more,
    )  # fmt: skip


def tiny_model(leebert, bert, **config):
    """A multi-exit BERT with odd sizes; weights so large that the exits disagree."""
    torch.manual_seed(0)
    return leebert.MultiExitBert(bert.Bert(tiny_config(bert, **config)), 3).double().train()


def random_weights(leebert, M, teachers="all"):
    weights = leebert.LossWeights(M, teachers).double()
    with torch.no_grad():
        weights.ce.copy_(random(M, seed=1, scale=1.0))
        weights.kd.copy_(random(M, M, seed=2, scale=1.0))
    return weights


def tiny_problem(leebert, bert, teachers="all", **config):
    """model, loss_weights, d1, d2: what a hypergradient needs."""
    model = tiny_model(leebert, bert, **config)
    weights = random_weights(leebert, len(model.exits), teachers)
    return model, weights, random_batch(5, seed=1), random_batch(4, T=6, seed=2)


# --------------------------------------------------------------------------------------------------
# 3. The formulas of the project, a second time


def each_pair(term, M):
    """term(m, t) for all students m and teachers t -> (M, M)"""
    return torch.stack([torch.stack([term(m, t) for t in range(M)]) for m in range(M)])


def kl_pairs(student, teacher, tau=1.0):
    """tau^2 mean( KL( softmax(z_t / tau) || softmax(z_m / tau) ) )"""
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
    terms = all_terms(ahead, weights, d1, detach)
    loss = sum((w.detach() * x).sum() for w, x in zip(weights(), terms, strict=True))
    loss.backward()
    with torch.no_grad():
        for p in ahead.parameters():
            p -= xi * p.grad
            p.grad = None
    return ahead


def whole_gradient(scalar, model):
    """Gradient with respect to all parameters -> one vector (P,)"""
    parameters = list(model.parameters())
    return flat(torch.autograd.grad(scalar, parameters, retain_graph=True, materialize_grads=True))


def judge_gradient(model, d1, d2, lam):
    """grad [ F(D2) + lam F(D1) ] at the model's own parameters -> (P,)"""
    on_d2, on_d1 = (
        torch.stack([F.cross_entropy(z, batch.labels) for z in model(*batch[:3])]).mean()
        for batch in (d2, d1)
    )
    return whole_gradient(on_d2 + lam * on_d1, model)


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
# 4. The exercises


def check_1(leebert, bert):
    """Leave at exit m when max softmax(z_k) > 0.9 for each k of m - threshold + 1 .. m."""
    if "pcee" not in leebert.RULES:
        raise Wrong('not started: RULES is still the original, it has no "pcee"')
    rule, history = leebert.RULES["pcee"], random(6, 300, 3, scale=3.0)
    sure, answers = history.softmax(-1).amax(-1) > 0.9, history.argmax(-1)  # each (M, B)
    nobody = torch.zeros(300, dtype=torch.bool)

    def last(x, m, k):  # the last k of m exits, or all of them if m < k
        return x[max(0, m - k) : m]

    def right(m, k):
        return last(sure, m, k).all(0) if m >= k else nobody

    misshapen("pcee_rule(history, threshold)", rule(history[:2], 2), nobody)
    mistakes = [
        ("the exits must be confident and need not agree; yours must agree as well",
         lambda m, k: right(m, k) & (last(answers, m, k) == answers[m - 1]).all(0)),
        ("before `threshold` exits have been passed nobody may leave: a slice of a history that is "
         "too short is no error, only shorter", lambda m, k: last(sure, m, k).all(0)),
        ("you ask for threshold + 1 confident exits: `patience` counts repetitions, `pcee` counts "
         "exits", lambda m, k: right(m, k + 1)),
        ("you count confident exits anywhere; they must be consecutive and end at this exit",
         lambda m, k: sure[:m].sum(0) >= k),
        ("you look at the first `threshold` exits; the last ones count",
         lambda m, k: sure[:k].all(0) if m >= k else nobody),
        ("you compare logits with 0.9 and not probabilities: softmax first",
         lambda m, k: (last(history, m, k).amax(-1) > 0.9).all(0) if m >= k else nobody),
        ("you look at this exit only, and not at the ones before it", lambda m, k: sure[m - 1]),
        ("one confident exit among the last is not enough: all of them must be",
         lambda m, k: last(sure, m, k).any(0) if m >= k else nobody),
    ]  # fmt: skip

    def everywhere(leaves):  # after every number of exits, with every threshold
        return torch.cat([leaves(m, k) for m in range(1, 7) for k in range(1, 7)])

    compare(
        "pcee_rule", everywhere(lambda m, k: rule(history[:m], k)), everywhere(right),
        [(sentence, everywhere(leaves)) for sentence, leaves in mistakes],
        otherwise="pcee_rule lets other examples leave than the definition does",
    )  # fmt: skip
    if not rule(history[:2], 0).all():
        raise Wrong(
            "with threshold 0 nothing is asked, so everybody leaves at the first exit; "
            "history[-0:] is the whole history"
        )


def halves_of_js(student, teacher, tau):
    """tau^2 mean( KL(p_t || r) ) / 2 and tau^2 mean( KL(p_m || r) ) / 2, r = (p_t + p_m) / 2"""
    q, p = ((z / tau).softmax(-1) for z in (student, teacher))

    def half(a, b):
        return tau**2 * (a * (2 * a / (a + b)).log()).sum(-1).mean() / 2

    M = len(student)
    return each_pair(lambda m, t: half(p[t], q[m]), M), each_pair(lambda m, t: half(q[m], p[t]), M)


def check_2(leebert, bert):
    """KD_{m<-t} = tau^2 mean( JS(p_t, p_m) ): its value, its gradient, and very confident exits."""
    student, teacher = (random(3, 5, 3, seed=s).requires_grad_() for s in (0, 1))
    result = leebert.distillation(student, teacher, TAU)
    from_teacher, from_student = halves_of_js(student, teacher, TAU)
    expected = from_teacher + from_student
    kl, reverse = kl_pairs(student, teacher, TAU), kl_pairs(teacher, student, TAU).T
    cold = sum(halves_of_js(student, teacher, 1.0))

    def with_mean_of_logits(m, t):
        r = ((student[m] + teacher[t]) / 2)[None]
        return (kl_pairs(r, teacher[t][None], TAU) + kl_pairs(r, student[m][None], TAU)).sum() / 2

    halves = "only one half of the formula: the mean of KL(p_t || r) and KL(p_m || r) is asked for"
    symmetric = "this is the symmetric KL: compare each side with the mean r, not with the other"
    mistakes = [
        ("not started: distillation is still the original", kl),
        ("the factor 1/2 before the two divergences is missing: twice too large", 2 * expected),
        ("you averaged over classes too: the result is C times too small", expected / 3),
        ("you added over the examples in place of the mean: B times too large", expected * 5),
        ("the factor tau^2 is missing", expected / TAU**2),
        ("the logits are not divided by tau before the softmax", TAU**2 * cold),
        ("the temperature is not used at all", cold),
        ("the result is in bits; take the natural logarithm", expected / math.log(2)),
        ("the sign is wrong: a divergence is not negative", -expected),
        ("this is the Jensen-Shannon distance; the divergence is its square", expected.sqrt()),
        ("rows are students and columns teachers: teacher and student are swapped", expected.T),
        *((halves, x) for x in (from_teacher, from_student, 2 * from_teacher, 2 * from_student)),
        ("this is KL the other way round: KL(p_m || p_t)", reverse),
        (symmetric, (kl + reverse) / 2),
        (symmetric, kl + reverse),
        ("r is the mean of the probabilities; you took the mean of the logits",
         each_pair(with_mean_of_logits, 3)),
    ]  # fmt: skip
    compare("distillation", result, expected, mistakes)

    direction = random(3, 3, seed=2)
    loss, reference = (result * direction).sum(), (expected * direction).sum()
    to_student, to_teacher = gradient(loss, student), gradient(loss, teacher)
    if (to_teacher != 0).any() and (to_student == 0).all():
        raise Wrong("the value is right, but teacher and student are swapped in the detach")
    if (to_teacher != 0).any():
        raise Wrong("the value is right, but the teacher is not detached: it gets a gradient")
    compare("the student's gradient", to_student, gradient(reference, student))

    sure = torch.tensor([[[2e3, 0.0]], [[0.0, 2e3]]], dtype=torch.float64, requires_grad=True)
    result = leebert.distillation(sure, sure, 1.0)
    if not result.isfinite().all() or not gradient(result.sum(), sure).isfinite().all():
        raise Wrong(
            "NaN or infinity when an exit is very confident: a probability rounds to 0 and its log "
            "is -inf; stay with logs, torch.logaddexp(a, b) is log(exp(a) + exp(b))"
        )
    expected = math.log(2) * (1 - torch.eye(2, dtype=torch.float64))
    compare("distillation of two very confident exits", result, expected)


def check_3(leebert, bert):
    """The value of KD stays; dKD_{m<-t}/dz_t = tau p_t (log p_t - log p_m - KL) / B is new.

    Then the three hypergradients against -xi < v, grad l_k >, with one backward pass for each term,
    through student and teacher.
    """
    student, teacher = (random(3, 5, 3, seed=s).requires_grad_() for s in (0, 1))
    result, expected = leebert.distillation(student, teacher, TAU), kl_pairs(student, teacher, TAU)
    compare("only the gradient should change, not the value: distillation", result, expected)
    direction = random(3, 3, seed=2) * (1 - torch.eye(3, dtype=torch.float64))
    loss, reference = (result * direction).sum(), (expected * direction).sum()
    if (gradient(loss, student) == 0).all():
        raise Wrong("now the student is detached: it gets no gradient")
    if (gradient(loss, teacher) == 0).all():
        raise Wrong("not started: distillation is still the original, the teacher gets no gradient")
    for who, z in (("student", student), ("teacher", teacher)):
        compare(f"the {who}'s gradient", gradient(loss, z), gradient(reference, z))

    logits, labels = random(3, 5, 3, seed=3).requires_grad_(), torch.tensor([0, 1, 2, 0, 1])
    result, attached, detached = (
        gradient((kd * direction).sum(), logits)
        for kd in (
            leebert.loss_terms(logits, labels, "all", TAU)[1],
            kl_pairs(logits, logits, TAU),
            kl_pairs(logits, logits.detach(), TAU),
        )
    )
    sentence = "loss_terms hands on detached teachers: through it they still get no gradient"
    compare("the gradient of loss_terms", result, attached, [(sentence, detached)])

    model, weights, d1, d2 = tiny_problem(leebert, bert)
    xi, lam = 0.1, 0.7
    v = judge_gradient(look_ahead(model, weights, d1, xi, detach=False), d1, d2, lam)
    expected, incomplete = (
        through_weights(weights, [-xi * g @ v for g in term_gradients(model, weights, d1, detach)])
        for detach in (False, True)
    )
    for method in ("unrolled", "forward", "difference"):
        what = f"the hypergradient of form {method!r}"
        sentence = (
            f"distillation is right, but {what} is incomplete: by_formula gives its terms the "
            "teacher logits of the first pass as constants, so the derivative through the teachers "
            "is missing, and `forward` differs from `unrolled`"
        )
        tolerance = 1e-5 if method == "difference" else 1e-9
        result = leebert.hypergradient(model, weights, d1, d2, xi, lam, method)
        compare_pair(what, result, expected, [(sentence, incomplete)], tolerance)


def running_mean(history):
    """log( (1/m) sum_{k <= m} softmax(z_k) ) for every m: (m, B, C) -> (m, B, C)"""
    p = history.softmax(-1)
    return torch.stack([p[: m + 1].mean(0).log() for m in range(len(history))])


def walk(logits, see, answer, rule, last=None):
    """Early exit on logits (M, B, C) that are all there -> predictions (B,), exit layers (B,).

    The rule judges see(history), the prediction comes from answer(history), at exit M from last.
    """
    M, B, _ = logits.shape
    predictions, layers = torch.zeros(B, dtype=torch.long), torch.zeros(B, dtype=torch.long)
    for m in range(1, M + 1):
        history = logits[:m]
        leave = (layers == 0) & (rule(see(history)) if m < M else torch.ones(B).bool())
        choice = (last if m == M and last else answer)(history)[-1].argmax(-1)
        predictions[leave], layers[leave] = choice[leave], m
    return torch.cat([predictions, layers])


def check_4(leebert, bert):
    """e_m = log( (1/m) sum_{k <= m} softmax(z_k) ); early_exit judges and answers by e, not z."""

    def raw(history):
        return history

    def again(history):  # the average of averages
        result = history[:0]
        for z in history:
            result = running_mean(torch.cat([result, z[None]]))
        return result

    model = tiny_model(leebert, bert, M=5, std=0.5).eval()
    batch = random_batch(60, T=9, seed=3)
    with torch.no_grad():
        logits = model(*batch[:3])
    settings = [("confidence", 0.8), ("confidence", 2.0), ("entropy", 0.4), ("patience", 1)]

    def everywhere(see, answer, last=None):
        return torch.cat(
            [walk(logits, see, answer, lambda h, r=r, x=x: leebert.RULES[r](h, x), last)
             for r, x in settings]
        )  # fmt: skip

    def their_answers(function, *where):
        return torch.cat([x for r, k in settings for x in function(*where, r, k)])

    if not hasattr(leebert, "ensemble"):
        unchanged = close(their_answers(leebert.early_exit, model, batch), everywhere(raw, raw))
        start = "not started: early_exit is still the original, " if unchanged else ""
        raise Wrong(f"{start}leebert.py has no function ensemble")

    history = random(4, 7, 3)
    p, log_p = history.softmax(-1), history.log_softmax(-1)
    count = torch.arange(1, 5, dtype=torch.float64)[:, None, None]
    logits_sentence = "you averaged the logits: the mean is over probabilities"
    mistakes = [
        (logits_sentence, history.cumsum(0) / count),
        (logits_sentence, (history.cumsum(0) / count).log_softmax(-1)),
        ("you averaged the log-probabilities: the mean is over probabilities",
         log_p.cumsum(0) / count),
        ("these are probabilities; return their log, which is what a rule takes for logits",
         p.cumsum(0) / count),
        ("you added the probabilities and did not divide by m", p.cumsum(0).log()),
        ("entry m must average the exits 1..m; yours divides every sum by the number of all exits",
         (p.cumsum(0) / 4).log()),
    ]  # fmt: skip
    compare("ensemble(history)", leebert.ensemble(history), running_mean(history), mistakes)
    sure = torch.tensor([[[2e3, 0.0]], [[2e3, 0.0]]], dtype=torch.float64)
    if not leebert.ensemble(sure).isfinite().all():
        raise Wrong(
            "ensemble is right, but -inf when the exits are very confident, and then the entropy "
            "rule sees NaN: a probability rounds to 0; use logsumexp of log_softmax"
        )
    right = everywhere(running_mean, running_mean)
    for name, *where in (("early_exit", model, batch), ("exits_from_logits", logits)):
        mistakes = [
            (f"ensemble is right, but {name} does not use it yet", everywhere(raw, raw)),
            (f"the prediction of {name} is the ensemble's, but the rule still judges the single "
             "exit", everywhere(raw, running_mean)),
            (f"the rule judges the ensemble, but {name} still predicts as the single exit does",
             everywhere(running_mean, raw)),
            (f"at the last exit the ensemble answers too; {name} takes the last exit alone",
             everywhere(running_mean, running_mean, raw)),
            ("history must stay the exits' own logits: you average what was averaged before",
             everywhere(again, again)),
        ]  # fmt: skip
        compare(
            name, their_answers(getattr(leebert, name), *where), right, mistakes,
            otherwise=f"{name} gives other predictions or exit layers than the definition",
        )  # fmt: skip


def check_5(leebert, bert):
    """w_k = S s_k exp(Omega_k) / sum_j s_j exp(Omega_j).

    s is 1 for a cross-entropy and 1 / (number of m's teachers) for a pair; S is the sum of s.
    """
    for teachers in ("all", "later", "last", "none"):
        weights = random_weights(leebert, 4, teachers)
        share = torch.cat([torch.ones(4), weights.share.flatten()]).double()
        omega = flat([weights.ce, weights.kd]).requires_grad_()
        S, K = share.sum(), int((share > 0).sum())
        e, there, is_ce = omega.exp(), (share > 0).double(), torch.arange(20) < 4
        right = S * share * e / (share * e).sum()
        outside = S * e / e.sum() * share
        parts = torch.where(is_ce, e / e[:4].sum() * 4, 0)
        if teachers != "none":
            parts[4:] = (share * e)[4:] / (share * e)[4:].sum() * share[4:].sum()
        mistakes = [
            ("not started: LossWeights.forward is still the original", 2 * omega.sigmoid() * share),
            ("the weights sum to 1; multiply by the sum they have at Omega = 0", right / S),
            ("the weights sum to the number of terms K; the sum at Omega = 0 is asked for, "
             "which is less", right / S * K),
            ("two softmaxes: CE and KD must compete for one sum", parts),
            ("the softmax runs over pairs that do not teach too: mask them before it, not after",
             outside),
            ("the sum is right, but at Omega = 0 the single weights are not those of the "
             "original: `share` belongs inside the softmax", S * there * e / (there * e).sum()),
            ("`share` belongs inside the softmax: multiplied afterwards, it makes the sum depend "
             "on Omega", S * there * e / (there * e).sum() * share),
        ]  # fmt: skip
        expected = right[:4], right[4:].view(4, 4)
        mistakes = [(sentence, (x[:4], x[4:])) for sentence, x in mistakes]
        compare_pair(f"LossWeights(4, {teachers!r})()", weights(), expected, mistakes, 1e-6)
        direction = random(20, seed=3)
        loss = (torch.cat([x.flatten() for x in weights()]) * direction).sum()
        result = [gradient(loss, x) for x in (weights.ce, weights.kd)]
        reference = gradient((right * direction).sum(), omega)
        expected = reference[:4], reference[4:].view(4, 4)
        compare_pair("the gradient of Omega", result, expected, tolerance=1e-6)
    with torch.no_grad():
        weights = random_weights(leebert, 3)
        weights.ce[0] = 1000.0
        if not flat(weights()).isfinite().all():
            raise Wrong(
                "a large Omega gives NaN: exp overflows; torch.softmax subtracts the maximum"
            )


def terms_and_direction(leebert, bert, dtype):
    """The function theta -> (ce, kd) with teachers that stand still, a theta, and a direction."""
    model, weights, d1, _ = tiny_problem(leebert, bert)
    model = model.to(dtype)
    theta = {name: p.detach() for name, p in model.named_parameters()}
    teacher = model(*d1[:3]).detach()

    def terms(theta):
        logits = functional_call(model, theta, tuple(d1[:3]))
        ce = torch.stack([F.cross_entropy(z, d1.labels) for z in logits])
        return ce, kl_pairs(logits, teacher) * (weights.share > 0)

    v = {  # far from length 1, so that a step without ||v|| is seen
        name: random(*p.shape, seed=k, scale=100.0).to(dtype)
        for k, (name, p) in enumerate(theta.items())
    }
    return terms, theta, v


def check_6(leebert, bert):
    """( l(theta + eps v) - l(theta) ) / eps: one pass, error proportional to eps, best default eps.

    The order is measured against derivative_forward: log2( error(eps) / error(eps / 2) ) is 1 for
    one side and 2 for the central difference. The default eps may be at most 20 times worse than
    the best of a grid, in float32 and in float64.
    """
    names = list(inspect.signature(leebert.derivative_difference).parameters)
    if names == ["terms", "theta", "v"]:
        raise Wrong("not started: derivative_difference is still the original")
    if names != ["terms", "theta", "v", "here", "eps"]:
        raise Wrong(f"derivative_difference takes (terms, theta, v, here, eps=None), not {names}")

    terms, theta, v = terms_and_direction(leebert, bert, torch.float64)
    here, exact = terms(theta), leebert.derivative_forward(terms, theta, v)
    length = math.sqrt(sum(float((x * x).sum()) for x in v.values()))
    before, calls = {name: p.clone() for name, p in theta.items()}, []

    def counted(theta):
        calls.append(1)
        return terms(theta)

    small = 1e-7 / length
    result = leebert.derivative_difference(counted, theta, v, here, small)
    if not all(torch.equal(theta[name], before[name]) for name in theta):
        raise Wrong(
            "theta has changed: adding and subtracting eps v in place does not restore the bits"
        )
    pairs = [("divided by 2 eps, as two sides are: half the derivative", [x / 2 for x in exact]),
             ("the sign is wrong: l(theta + eps v) comes first", [-x for x in exact]),
             ("the difference is not divided by eps", [x * small for x in exact])]  # fmt: skip
    compare_pair("the derivative", result, exact, pairs, tolerance=1e-5)

    def error(eps, terms, theta, v, here, exact):
        result = leebert.derivative_difference(terms, theta, v, here, eps)
        worst = (flat(result) - flat(exact)).abs().max() / flat(exact).abs().max()
        return max(1e-300, float(worst))  # never 0: it will be divided by

    setting = (terms, theta, v, here, exact)
    order = math.log2(error(1e-3 / length, *setting) / error(5e-4 / length, *setting))
    if 1.8 < order < 2.2:
        raise Wrong(
            "half the eps gives a quarter of the error: this is still the central difference"
        )
    if not 0.9 < order < 1.1:
        raise Wrong(f"half the eps should give half the error; yours gives 2^-{order:.2f} of it")
    if len(calls) != 1:
        raise Wrong(
            f"terms was called {len(calls)} times: one pass is enough, `here` is terms(theta), "
            "which by_formula has already"
        )

    for dtype in (torch.float32, torch.float64):
        terms, theta, v = terms_and_direction(leebert, bert, dtype)
        exact = leebert.derivative_forward(terms, theta, v)
        setting = (terms, theta, v, terms(theta), exact)
        grid = [10 ** (-k / 2) for k in range(2, 21)]
        best, step = min((error(x / length, *setting), x) for x in grid)
        chosen = error(None, *setting)
        if not chosen <= 20 * best:
            name = str(dtype).removeprefix("torch.")
            raise Wrong(
                f"the formula is right, but not the default step: in {name} its error is "
                f"{chosen:.0e}, and with eps = {step:.0e} / ||v|| it is {best:.0e}; u is "
                f"{torch.finfo(dtype).eps:.0e} there"
            )

    model, weights, d1, d2 = tiny_problem(leebert, bert, dropout=0.3)
    result = {}
    for method in ("unrolled", "difference"):
        torch.manual_seed(5)
        result[method] = leebert.hypergradient(model, weights, d1, d2, 0.1, 0.7, method)
    compare_pair(
        "difference", *(result[k] for k in ("difference", "unrolled")), tolerance=1e-5,
        otherwise="derivative_difference is right, but the hypergradient of form 'difference' is "
        "not that of 'unrolled': `here` must be the terms of the same pass, with its dropout masks",
    )  # fmt: skip


def check_7(leebert, bert):
    """cos_k = < v, grad l_k(Theta) > / ( ||v|| ||grad l_k(Theta)|| ), one backward pass a term.

    v = grad J(Theta'); 0 where t does not teach m. Then the form "align": the gradient that Omega
    descends is - cos_k dw_k/dOmega.
    """
    if not hasattr(leebert, "alignment"):
        raise Wrong("not started: leebert.py is still the original, it has no function alignment")
    xi, lam = 0.3, 0.7
    for teachers in ("all", "later"):
        model, weights, d1, d2 = tiny_problem(leebert, bert, teachers)
        again = random_batch(3, seed=3)
        before = [p.detach().clone() for p in model.parameters()]
        result = leebert.alignment(model, weights, d1, d2, again, xi, lam)
        if not all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)):
            raise Wrong("alignment changes the model's parameters")
        if any(p.grad is not None for p in [*model.parameters(), *weights.parameters()]):
            raise Wrong("alignment leaves something in .grad; torch.autograd.grad does not")
        if not all(module.training for module in model.modules()):
            raise Wrong("alignment leaves the model in eval mode")

        ahead = look_ahead(model, weights, d1, xi)
        v = judge_gradient(ahead, again, d2, lam)
        g = term_gradients(model, weights, d1)

        def cosines(g, v):
            return [F.normalize(x, dim=-1) @ F.normalize(v, dim=0) for x in g]

        expected = cosines(g, v)
        mistakes = [
            ("these are inner products, divided by neither length", [x @ v for x in g]),
            ("not divided by ||v||", [F.normalize(x, dim=-1) @ v for x in g]),
            ("not divided by the length of grad l_k", [x @ F.normalize(v, dim=0) for x in g]),
            ("the sign is wrong: a cosine is positive where the two point the same way",
             [-x for x in expected]),
            ("v belongs to Theta', after the look-ahead; yours is taken at Theta",
             cosines(g, judge_gradient(model, again, d2, lam))),
            ("grad l_k belongs to Theta; yours is taken at Theta'",
             cosines(term_gradients(ahead, weights, d1), v)),
            ("v is the gradient of F(D2) alone: lambda F(D1) is missing",
             cosines(g, judge_gradient(ahead, again, d2, 0.0))),
            ("the judge's examples of D1 are `again`; yours are those of the step",
             cosines(g, judge_gradient(ahead, d1, d2, lam))),
            ("teacher and student are swapped: rows are students", [expected[0], expected[1].T]),
        ]  # fmt: skip
        if isinstance(result, tuple) and any(x.isnan().any() for x in result):
            raise Wrong("alignment contains NaN; where grad l_k is 0, the cosine is 0")
        compare_pair("alignment", result, expected, mistakes)
    if "align" not in leebert.FORMS:
        raise Wrong("alignment is right; now enter a form 'align' in FORMS that uses it")
    result = leebert.hypergradient(model, weights, d1, d2, xi, lam, "align", again=again)
    right = through_weights(weights, [-x for x in expected])
    mistakes = [
        ("the sign is wrong: Omega descends, so a term gains where its gradient is negative",
         [-x for x in right]),
        ("a cosine has no step size: leave out the factor xi", [xi * x for x in right]),
        ("the chain rule through w(Omega) is missing", [-x for x in expected]),
        ("this is still the inner product: alignment is not used",
         through_weights(weights, [-xi * (x @ v) for x in g])),
    ]  # fmt: skip
    what = "alignment is right, but not the form 'align': its hypergradient"
    compare_pair(what, result, right, mistakes, tolerance=1e-6)


def check_8(leebert, bert):
    """One Layer used M times: count, states, gradient (a sum over the uses), hypergradient, file.

    Against M layers of their own that hold the same numbers.
    """
    if "share_layers" not in {field.name for field in fields(bert.BertConfig)}:
        raise Wrong("not started: BertConfig is still the original, it has no field share_layers")
    if bert.BertConfig().share_layers is not False:
        raise Wrong("share_layers must be False by default: checkpoints of BERT have M layers")
    M = 4

    def make(share):
        torch.manual_seed(0)
        return bert.Bert(tiny_config(bert, M=M, share_layers=share)).double()

    def count(module):
        return sum(p.numel() for p in module.parameters())

    own, shared = make(False), make(True)
    one = count(bert.Layer(own.config))
    embeddings = count(own) - M * one
    if f"layers.{M - 1}.ffn_in.weight" not in own.state_dict():
        raise Wrong(
            "without share_layers nothing may change: M layers, called layers.0, layers.1, ..."
        )
    if count(shared) == count(own):
        raise Wrong(
            "the number of parameters has not fallen: with share_layers there are still M layers "
            "of their own; equal numbers at the start are not one layer"
        )
    if count(shared) != embeddings + one:
        raise Wrong(
            f"{count(shared)} parameters, where embeddings and one layer are {embeddings + one}"
        )
    layers = list(shared.layers)
    if len(layers) != M:
        raise Wrong(
            f"bert.layers has {len(layers)} entries for M = {M} exits: early_exit goes through it "
            "layer by layer, so it must list the one layer M times"
        )

    values = {name: p for name, p in shared.state_dict().items() if name in own.state_dict()}
    for i in range(M):
        values |= {f"layers.{i}.{name}": p for name, p in layers[0].state_dict().items()}
    own.load_state_dict(values)
    ids, _, mask, _ = random_batch(5, seed=1)
    hidden, theirs = own.embed(ids), []
    for layer in own.layers:
        hidden = layer(hidden, own.attention_bias(mask))
        theirs.append(hidden)
    ours, theirs = torch.stack(shared(ids, None, mask)), torch.stack(theirs)
    once = "the layer is applied only once; each use must start from the state of the one before"
    mistakes = [(once, theirs[:1].expand(M, -1, -1, -1))]
    compare("the states of a shared layer", ours, theirs, mistakes)

    def layer_gradient(states, layer):  # of a function of the last state
        loss = (states[-1] * random(*states[-1].shape, seed=4)).sum()
        return torch.cat([gradient(loss, p).flatten() for p in layer.parameters()])

    uses = [layer_gradient(theirs, layer) for layer in own.layers]
    sentence = (
        "the states are right, but the gradient is that of the last use alone, not the sum over "
        "the M uses: a state is detached on the way"
    )
    compare(
        "the gradient of the shared layer", layer_gradient(ours, layers[0]), sum(uses),
        [(sentence, uses[-1])],
    )  # fmt: skip
    names = [len(list(shared.named_parameters(remove_duplicate=x))) for x in (True, False)]
    if names[0] != names[1]:
        raise Wrong(
            "all numbers are right, but the one layer is registered under several names: "
            "safetensors refuses tensors that share memory, so train.py stops when it saves, and "
            "functional_call does not put the model's parameters back; register it once"
        )
    model, weights, d1, d2 = tiny_problem(leebert, bert, share_layers=True)
    forms = "forward", "unrolled"
    result = [leebert.hypergradient(model, weights, d1, d2, 0.1, 0.7, form) for form in forms]
    compare_pair("the hypergradient `forward`, against `unrolled`,", *result)
    answers, _ = leebert.early_exit(model, d1, "confidence", 2.0)
    compare("early_exit at full depth", answers, model(*d1[:3])[-1].argmax(-1))


CHECKS = {n: globals()[f"check_{n}"] for n in range(1, 9)}

# --------------------------------------------------------------------------------------------------
# 5. The command


def pages():
    """Number -> (title, time, path), from the first lines of the pages."""
    result = {}
    for path in sorted(FOLDER.glob("[1-8]-*.md")):
        lines = path.read_text(encoding="utf-8").splitlines()
        number, title = lines[0].removeprefix("# ").split(". ", 1)
        time = next(line for line in lines if line.startswith("Time: "))
        result[int(number)] = title, time.removeprefix("Time: ").rstrip("."), path
    return result


def verdict(n):
    """None if exercise n is right, else a sentence. Whatever the student's code raises is one."""
    try:
        import bert
        import leebert

        CHECKS[n](leebert, bert)
    except Wrong as sentence:
        return str(sentence)
    except Exception as error:  # it is their code that runs here: anything can come
        text = " ".join(str(error).split()) or "no message"
        return f"your code raised {type(error).__name__}: {text[:200]}"


def main():
    if len(sys.argv) == 1:
        for n, (title, time, path) in pages().items():
            print(f"{n}  {time:<14}{title:<44}exercises/{path.name}")
        return
    if len(sys.argv) != 2 or sys.argv[1] not in {str(n) for n in CHECKS}:
        print("usage: python exercises/check.py [N]   with N from 1 to 8", file=sys.stderr)
        sys.exit(2)
    fault = verdict(int(sys.argv[1]))
    print(f"exercise {sys.argv[1]}: {fault or 'right'}")
    sys.exit(1 if fault else 0)


if __name__ == "__main__":
    main()
