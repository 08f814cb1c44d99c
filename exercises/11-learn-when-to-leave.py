"""Checks 11-learn-when-to-leave.md: sureness and its loss, the place of the loss, and the rule."""

import torch
import torch.nn.functional as F

import exercises.reference as ref
import leebert
from exercises.common import compare, misshapen, random, require


def check_functions(logits, labels):
    s, p = logits.mean(-1).sigmoid(), logits.softmax(-1)
    right = (logits.argmax(-1) == labels).double()  # (M, B)
    mistakes = [
        ("a sureness lies in 0..1: take the sigmoid of the mean", logits.mean(-1)),
        ("you added the logits: take their mean", logits.sum(-1).sigmoid()),
        ("softmax does not see the mean of the logits; take that, not a probability", p.amax(-1)),
    ]
    compare("sureness(logits)", leebert.sureness(logits), s, mistakes)
    S, of_label = (s - right).square(), p[:, torch.arange(len(labels)), labels]  # (M, B)
    mistakes = [
        ("the target is turned round: 1 where the exit is right", (s + right - 1).square().mean(1)),
        ("the target is 0 or 1; yours is a probability", (s - of_label).square().mean(1)),
        ("you added the losses of the examples: take their mean", S.sum(1)),
    ]
    result = leebert.sureness_losses(logits, labels)
    compare("sureness_losses(logits, labels)", result, S.mean(1), mistakes)
    return S.mean(1)


def check_terms(logits, labels, S):
    ce, kd = leebert.loss_terms(logits, labels)
    plain = torch.stack([F.cross_entropy(z, labels) for z in logits])
    mistakes = [
        ("sureness_losses is right, but loss_terms does not use it yet", plain),
        ("loss_terms must add the loss of exit m to CE_m; yours is in its place", S),
    ]
    compare("ce of loss_terms", ce, plain + S, mistakes)
    compare("kd of loss_terms, which must stay as it is,", kd, ref.kl_pairs(logits, logits))


def check_rule(history):
    require("sure" in leebert.RULES, "the losses are right; not started: RULES has no 'sure'")
    rule, s = leebert.RULES["sure"], history.mean(-1).sigmoid()  # (M, B)
    misshapen("sure_rule(history, threshold)", rule(history, 0.5), s[-1] > 0.5)

    def everywhere(leaves):  # after every number of exits, with several thresholds
        return torch.cat([leaves(m, t) for m in range(1, 5) for t in (0.2, 0.5, 0.7)])

    mistakes = [
        ("you let those leave that are not sure", everywhere(lambda m, t: s[m - 1] < t)),
        ("the last exit passed decides; yours is the first", everywhere(lambda m, t: s[0] > t)),
    ]
    result, expected = (lambda m, t: rule(history[:m], t)), (lambda m, t: s[m - 1] > t)
    other = "sure_rule lets other examples leave than the definition does"
    compare("sure_rule", everywhere(result), everywhere(expected), mistakes, otherwise=other)


def check():
    there = hasattr(leebert, "sureness")
    require(there, "not started: leebert.py is still the original, it has no function sureness")
    logits, labels = random(4, 30, 3), torch.arange(30) % 3
    check_terms(logits, labels, check_functions(logits, labels))
    ref.check_judge("add the loss")
    check_rule(logits)
