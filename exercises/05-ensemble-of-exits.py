"""Checks 05-ensemble-of-exits.md: the function ensemble, then its use in both early exits."""

import torch

import leebert
from exercises.common import compare, random, require
from exercises.reference import random_batch, small_model

SETTINGS = [("confidence", 0.8), ("confidence", 2.0), ("entropy", 0.4), ("patience", 1)]


def running_mean(logits):
    """log( (1/m) sum_{k <= m} softmax(z_k) ) for every m: (M, B, C) -> (M, B, C)"""
    p = logits.softmax(-1)
    return torch.stack([p[: m + 1].mean(0).log() for m in range(len(p))])


def walk(seen, answers):
    """Early exit for all SETTINGS -> predictions and exit layers, in one row.

    The rule judges `seen`, the prediction comes from `answers`, both (M, B, C).
    """
    M, B, _ = seen.shape
    rows = []
    for rule, threshold in SETTINGS:
        layers = torch.full((B,), M)
        for m in range(M - 1, 0, -1):  # the earliest comes last, and stays
            layers[leebert.RULES[rule](seen[:m], threshold)] = m
        rows += [answers[layers - 1, torch.arange(B)].argmax(-1), layers]
    return torch.cat(rows)


def check_ensemble():
    history = random(4, 7, 3)
    p, log_p = history.softmax(-1), history.log_softmax(-1)
    count = torch.arange(1, 5, dtype=torch.float64)[:, None, None]
    mistakes = [
        ("you averaged the logits: the mean is over probabilities", history.cumsum(0) / count),
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
    sentence = "ensemble is right, but -inf when the exits are very confident, where a probability "
    sentence += "rounds to 0, and then the entropy rule sees NaN; use logsumexp of log_softmax"
    require(leebert.ensemble(sure).isfinite().all(), sentence)


def check():
    model, batch = small_model(M=5, std=0.5).eval(), random_batch(60, T=9, seed=3)
    with torch.no_grad():
        logits = model(*batch[:3])

    def theirs(function, *where):
        return torch.cat([x for setting in SETTINGS for x in function(*where, *setting)])

    there = hasattr(leebert, "ensemble")
    require(there, "not started: early_exit is still the original, there is no function ensemble")
    check_ensemble()
    mean = running_mean(logits)
    right, but_last = walk(mean, mean), torch.cat([mean[:-1], logits[-1:]])
    for name, *where in (("early_exit", model, batch), ("exits_from_logits", logits)):
        mistakes = [
            (f"ensemble is right, but {name} does not use it yet", walk(logits, logits)),
            (f"the prediction of {name} is the ensemble's, but the rule still judges the single "
             "exit", walk(logits, mean)),
            (f"the rule judges the ensemble, but {name} still predicts as the single exit does",
             walk(mean, logits)),
            (f"at the last exit the ensemble answers too; {name} takes the last exit alone",
             walk(mean, but_last)),
        ]  # fmt: skip
        other = f"{name} gives other predictions or exit layers than the definition"
        result = theirs(getattr(leebert, name), *where)
        compare(name, result, right, mistakes, otherwise=other)
