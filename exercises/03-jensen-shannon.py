"""Checks 03-jensen-shannon.md: the value of KD, its gradient, and exits that are very confident."""

import math

import torch

import leebert
from exercises.common import TAU, compare, gradient, random, require
from exercises.reference import each_pair, kl_pairs


def halves(student, teacher, tau):
    """tau^2 mean( KL(p_t || r) ) / 2 and tau^2 mean( KL(p_m || r) ) / 2, r = (p_t + p_m) / 2"""
    q, p = ((z / tau).softmax(-1) for z in (student, teacher))

    def half(a, b):
        return tau**2 * (a * (2 * a / (a + b)).log()).sum(-1).mean() / 2

    M = len(student)
    return each_pair(lambda m, t: half(p[t], q[m]), M), each_pair(lambda m, t: half(q[m], p[t]), M)


def check():
    student, teacher = (random(3, 5, 3, seed=s).requires_grad_() for s in (0, 1))
    result = leebert.distillation(student, teacher, TAU)
    from_teacher, from_student = halves(student, teacher, TAU)
    expected = from_teacher + from_student
    kl, reverse = kl_pairs(student, teacher, TAU), kl_pairs(teacher, student, TAU).T

    def with_mean_of_logits(m, t):
        r = ((student[m] + teacher[t]) / 2)[None]
        return (kl_pairs(r, teacher[t][None], TAU) + kl_pairs(r, student[m][None], TAU)).sum() / 2

    half = "only one half of the formula: the mean of KL(p_t || r) and KL(p_m || r) is asked for"
    symmetric = "this is the symmetric KL: compare each side with the mean r, not with the other"
    mistakes = [
        ("not started: distillation is still the original", kl),
        ("the factor 1/2 before the two divergences is missing: twice too large", 2 * expected),
        ("the factor tau^2 is missing", expected / TAU**2),
        ("rows are students and columns teachers: teacher and student are swapped", expected.T),
        *((half, x) for x in (from_teacher, from_student, 2 * from_teacher, 2 * from_student)),
        (symmetric, (kl + reverse) / 2),
        (symmetric, kl + reverse),
        ("r is the mean of the probabilities; you took the mean of the logits",
         each_pair(with_mean_of_logits, 3)),
    ]  # fmt: skip
    compare("distillation", result, expected, mistakes)

    direction = random(3, 3, seed=2)
    loss, reference = (result * direction).sum(), (expected * direction).sum()
    detached = (gradient(loss, teacher) == 0).all()
    require(detached, "the value is right, but the teacher is not detached: it gets a gradient")
    compare("the student's gradient", gradient(loss, student), gradient(reference, student))

    sure = torch.tensor([[[2e3, 0.0]], [[0.0, 2e3]]], dtype=torch.float64, requires_grad=True)
    result = leebert.distillation(sure, sure, 1.0)
    finite = torch.stack([result.sum(), *gradient(result.sum(), sure).flatten()]).isfinite().all()
    sentence = "NaN or infinity when an exit is very confident: a probability is 0 and its log -inf"
    require(finite, f"{sentence}; stay with logs: logaddexp(a, b) is log(exp(a) + exp(b))")
    expected = math.log(2) * (1 - torch.eye(2, dtype=torch.float64))
    compare("distillation of two very confident exits", result, expected)
