"""Checks 02-patient-and-confident.md: max softmax(z_k) > 0.9 for k = m - threshold + 1 .. m."""

import torch

import leebert
from exercises.common import compare, misshapen, random, require


def check():
    there = "pcee" in leebert.RULES
    require(there, "not started: RULES is still the original, it has no 'pcee'")
    rule, history = leebert.RULES["pcee"], random(6, 300, 3, scale=3.0)
    sure, answers = history.softmax(-1).amax(-1) > 0.9, history.argmax(-1)  # each (M, B)
    nobody = torch.zeros(300, dtype=torch.bool)
    misshapen("pcee_rule(history, threshold)", rule(history[:2], 2), nobody)

    def last(x, m, k):  # the last k of m exits, or all of them if m < k
        return x[max(0, m - k) : m]

    def right(m, k):
        return last(sure, m, k).all(0) if m >= k else nobody

    def everywhere(leaves):  # after every number of exits, with every threshold
        return torch.cat([leaves(m, k) for m in range(1, 7) for k in range(1, 7)])

    mistakes = [
        ("the exits must be confident and need not agree; yours must agree as well",
         lambda m, k: right(m, k) & (last(answers, m, k) == answers[m - 1]).all(0)),
        ("before `threshold` exits have been passed nobody may leave: a slice of a history that is "
         "too short is no error, only shorter", lambda m, k: last(sure, m, k).all(0)),
        ("you ask for threshold + 1 confident exits: `patience` counts repetitions, `pcee` counts "
         "exits", lambda m, k: right(m, k + 1)),
        ("you count confident exits anywhere; they must be consecutive and end at this exit",
         lambda m, k: sure[:m].sum(0) >= k),
        ("you compare logits with 0.9 and not probabilities: softmax first",
         lambda m, k: (last(history, m, k).amax(-1) > 0.9).all(0) if m >= k else nobody),
    ]  # fmt: skip
    compare(
        "pcee_rule", everywhere(lambda m, k: rule(history[:m], k)), everywhere(right),
        [(sentence, everywhere(leaves)) for sentence, leaves in mistakes],
        otherwise="pcee_rule lets other examples leave than the definition does",
    )  # fmt: skip
    sentence = "with threshold 0 everybody leaves at the first exit; history[-0:] is all of history"
    require(rule(history[:2], 0).all(), sentence)
