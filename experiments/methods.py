"""What is compared: the methods, and the choices that the paper leaves open.

A method is settings of train.py and, where no setting does it, the few lines that stand in for a
function of train.py or leebert.py while it runs. So all methods share one training loop, one
evaluation, and one number of updates.
"""

import itertools
import math
import sys
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import data  # noqa: E402
import leebert  # noqa: E402
import train  # noqa: E402


class Method(NamedTuple):
    words: str
    settings: dict = {}  # fields of train.Config
    patches: dict[str, Callable] = {}  # "module.function": what stands in for it


@contextmanager
def patched(patches):
    """Within `with`, they stand in."""
    with ExitStack() as stack:
        for target, value in patches.items():
            stack.enter_context(mock.patch(target, value))
        yield


# --------------------------------------------------------------------------------------------------
# 1. Methods whose steps are not all alike
#
# For step number `step` of `total` and M exits, each says whether the encoder moves, and gives the
# weights w_ce (M,) and w_kd (M, M) of the terms of L. An exit that has no term does not move.


def one_exit(step, total, M):
    """Fine-tuning without early exits: the cross-entropy of the last exit."""
    return True, torch.eye(M)[-1], torch.zeros(M, M)


def deebert(step, total, M):
    """DeeBERT (Xin et al., ACL 2020): encoder and last exit; then these stay, the others learn."""
    if step < total // 2:
        return one_exit(step, total, M)
    return False, 1 - torch.eye(M)[-1], torch.zeros(M, M)


def fastbert(step, total, M):
    """FastBERT (Liu et al., ACL 2020): the same, but the others see no label, only the answers of
    the last exit. Its code has the direction of KL that equation (2) has.
    """
    if step < total // 2:
        return one_exit(step, total, M)
    last = torch.eye(M)[-1]
    return False, torch.zeros(M), torch.outer(1 - last, last)


def berxit(step, total, M):
    """BERxiT (Xin et al., EACL 2021): in turn the last exit's cross-entropy, and the sum of all."""
    if step % 2 == 0:
        return one_exit(step, total, M)
    return True, torch.ones(M), torch.zeros(M, M)


TRAIN, LEARNING_RATE = train.train, train.learning_rate


def in_parts(part_of):
    """part_of: one of the functions above -> what stands in for train.train."""

    def train_in_parts(config, model, loss_weights, encoded, *args):
        total = train.total_steps(config, len(encoded.labels))
        numbers = itertools.count()

        def step(model, loss_weights, optimizers, batches, hyper, optimize):
            with batches.d1.input_ids.device:
                encoder_moves, w_ce, w_kd = part_of(next(numbers), total, len(model.exits))
            model.bert.requires_grad_(encoder_moves)
            for classifier, has_term in zip(model.exits, w_ce + w_kd.sum(dim=1) > 0, strict=True):
                classifier.requires_grad_(bool(has_term))
            loss_weights.forward = lambda: (w_ce, w_kd)
            return leebert.training_step(model, loss_weights, optimizers, batches, hyper, "fixed")

        with patched({"train.training_step": step}):
            return TRAIN(config, model, loss_weights, encoded, *args)

    return train_in_parts


def rate_of_each_half(step, total, config):
    """The learning rate rises and falls twice, as in the two stages of DeeBERT and FastBERT."""
    half = total // 2
    if step < half:
        return LEARNING_RATE(step, half, config)
    return LEARNING_RATE(step - half, total - half, config)


def omega_stays(model, loss_weights, optimizers, batches, hyper, optimize):
    """A step of cross without the hypergradient: same d1, same batches, but Omega stays."""
    return leebert.training_step(model, loss_weights, optimizers, batches, hyper, "fixed")


# --------------------------------------------------------------------------------------------------
# 2. Another distillation: logits of students and of teachers (M, B, C) -> (M, M)


def jensen_shannon(logits, teacher_logits, temperature=1.0):
    """KD_{m<-t} = tau^2 mean( KL(p_t || r) / 2 + KL(p_m || r) / 2 ),  r = (p_t + p_m) / 2."""
    m = F.log_softmax(logits / temperature, dim=-1)[:, None]  # (M, 1, B, C)
    t = F.log_softmax(teacher_logits.detach() / temperature, dim=-1)[None]  # (1, M, B, C)
    r = torch.logaddexp(m, t) - math.log(2)  # (M, M, B, C)
    divergence = (t.exp() * (t - r) + m.exp() * (m - r)).sum(dim=-1) / 2  # (M, M, B)
    return temperature**2 * divergence.mean(dim=-1)  # (M, M)


def squared_error(logits, teacher_logits, temperature=1.0):
    """KD_{m<-t} = mean( (z_m - z_t)^2 ) over examples and classes."""
    difference = logits[:, None] - teacher_logits.detach()[None]  # (M, M, B, C)
    return (difference**2).mean(dim=(-1, -2))  # (M, M)


def softmax_weights(self):
    """LossWeights.forward with one softmax over all K terms; S = sum of s_k.

    w_k = S s_k exp(Omega_k) / sum_j s_j exp(Omega_j);  s_k = 1, or 1 / (number of m's teachers)
    """
    s = torch.cat([torch.ones_like(self.ce), self.share.flatten()])  # (M + M^2,)
    omega = torch.cat([self.ce, self.kd.flatten()])
    w = s.sum() * torch.softmax(omega + s.log(), dim=0)  # log 0 removes pairs that do not teach
    return w[: len(self.ce)], w[len(self.ce) :].view_as(self.kd)


# --------------------------------------------------------------------------------------------------
# 3. A task whose labels are partly wrong

LOAD_TASK = data.load_task


def with_wrong_labels(*arguments):
    """As data.load_task, but 3,000 examples of train, of which a fifth have the other label."""
    task, rng = LOAD_TASK(*arguments), np.random.default_rng(0)
    wrong = set(rng.permutation(3000)[:600].tolist())
    examples = data.subset(task.train, 3000)
    task.train = [
        e._replace(label=1 - e.label) if i in wrong else e for i, e in enumerate(examples)
    ]
    return task


# --------------------------------------------------------------------------------------------------
# 4. The lists

UNIFORM = {"weights": "uniform"}
PLAIN = {"teachers": "none", **UNIFORM}
LAST = {"teachers": "last", **UNIFORM}
HALVES = {"train.learning_rate": rate_of_each_half}
STAYS = {"train.training_step": omega_stays}
SOFTMAX = {"leebert.LossWeights.forward": softmax_weights}

METHODS = {
    "one-exit": Method("one exit, the last", PLAIN, {"train.train": in_parts(one_exit)}),
    "plain": Method("no teachers, uniform", PLAIN),
    "pabee": Method("no teachers, weights by depth (PABEE)", {**PLAIN, "weights": "depth"}),
    "deebert": Method("DeeBERT", PLAIN, {"train.train": in_parts(deebert), **HALVES}),
    "fastbert": Method("FastBERT", LAST, {"train.train": in_parts(fastbert), **HALVES}),
    "berxit": Method("BERxiT", PLAIN, {"train.train": in_parts(berxit)}),
    "last": Method("the last exit teaches, uniform", LAST),
    "all-uniform": Method("all exits teach, uniform", UNIFORM),
    "all-uniform-d1": Method("all exits teach, uniform, without d2", {}, STAYS),
    "single": Method("all teach, weights learned: single", {"optimize": "single"}),
    "bilevel": Method("all teach, weights learned: bilevel", {"optimize": "bilevel"}),
    "cross": Method("all teach, weights learned: cross"),
    "later": Method("later exits teach, weights learned: cross", {"teachers": "later"}),
}

# Against cross, one change at a time; lambda = 0 is bilevel. Cross itself updates the weights every
# 8 steps, and on toy looks 2e-3 ahead, its learning rate.
SEEDS_OF_CHOICES = 5
CHOICES = {
    "reach-2.5": Method("Omega can move by 2.5, not 5", {"omega_reach": 2.5}),
    "reach-10": Method("Omega can move by 10", {"omega_reach": 10.0}),
    "lam-0.3": Method("lambda 0.3", {"lam": 0.3}),
    "lam-3": Method("lambda 3", {"lam": 3.0}),
    "d2-fraction-0.5": Method("d2 is half of train, not a fifth", {"d2_fraction": 0.5}),
    "temperature-2": Method("temperature 2", {"temperature": 2.0}),
    "temperature-4": Method("temperature 4", {"temperature": 4.0}),
    "jsd": Method("Jensen-Shannon, not KL", {}, {"leebert.distillation": jensen_shannon}),
    "mse": Method("squared error of logits, not KL", {}, {"leebert.distillation": squared_error}),
    "softmax": Method("softmax over all terms, not sigmoids", {}, SOFTMAX),
    "step-size-2e-5": Method("look-ahead of length 2e-5", {"step_size": 2e-5}),
    "step-size-2e-4": Method("look-ahead of length 2e-4", {"step_size": 2e-4}),
    "step-size-2e-2": Method("look-ahead of length 2e-2", {"step_size": 2e-2}),
    "omega-every-1": Method("weights updated every step", {"omega_every": 1}),
    "omega-every-2": Method("weights updated every 2 steps", {"omega_every": 2}),
    "omega-every-4": Method("weights updated every 4 steps", {"omega_every": 4}),
}
EVERYTHING = {**METHODS, **CHOICES}
