"""What is compared: the methods, and the choices that the paper leaves open.

A method is settings of train.py and, where no setting does it, the few lines that stand in for a
function of train.py or leebert.py while it runs. So all methods share one training loop, one
evaluation, and one budget.
"""

import sys
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import leebert  # noqa: E402
import train  # noqa: E402


class Method(NamedTuple):
    words: str
    settings: dict = {}  # fields of train.Config
    patches: dict[str, Callable] = {}  # "module.function": what stands in for it
    start: str = ""  # the method whose final loss weights, for the same seed, are the first here
    times: float = 1  # factor on the epochs of the task


@contextmanager
def patched(patches):
    """Within `with`, they stand in."""
    with ExitStack() as stack:
        for target, value in patches.items():
            stack.enter_context(mock.patch(target, value))
        yield


# --------------------------------------------------------------------------------------------------
# 1. Another step


def omega_stays(model, weights, optimizers, batches, hyper, optimize):
    """A step of cross without the hypergradient: same d1, same batches, but Omega stays."""
    return leebert.training_step(model, weights, optimizers, batches, hyper, "fixed")


def own_batch_judges(model, weights, optimizers, batches, hyper, optimize):
    """The judge's examples of D1 are rows of the step's own batch, evenly spaced."""
    d1, d2, d1_judge = batches
    if d1_judge is not None:
        B, n = len(d1.labels), len(d1_judge.labels)
        own = type(d1)(*(x[torch.arange(n) * B // n] for x in d1))
        batches = leebert.Batches(d1, d2, own)
    return leebert.training_step(model, weights, optimizers, batches, hyper, optimize)


# --------------------------------------------------------------------------------------------------
# 2. Another distillation: logits of students and of teachers (M, B, C) -> (M, M)


def jensen_shannon(logits, teacher_logits, temperature=1.0):
    """KD_{m<-t} = tau^2 mean( KL(p_t || r) / 2 + KL(p_m || r) / 2 ),  r = (p_t + p_m) / 2."""
    m = F.log_softmax(logits / temperature, dim=-1)[:, None]  # (M, 1, B, C)
    t = F.log_softmax(teacher_logits.detach() / temperature, dim=-1)[None]  # (1, M, B, C)
    r = torch.logaddexp(m, t) - torch.log(torch.tensor(2.0))  # (M, M, B, C)
    divergence = (t.exp() * (t - r) + m.exp() * (m - r)).sum(dim=-1) / 2  # (M, M, B)
    return temperature**2 * divergence.mean(dim=-1)  # (M, M)


def squared_error(logits, teacher_logits, temperature=1.0):
    """KD_{m<-t} = mean( (z_m - z_t)^2 ) over examples and classes."""
    difference = logits[:, None] - teacher_logits.detach()[None]  # (M, M, B, C)
    return (difference**2).mean(dim=(-1, -2))  # (M, M)


def attached(logits, teacher_logits, temperature=1.0):
    """leebert.distillation, but the gradient reaches the teacher too."""
    student = F.log_softmax(logits / temperature, dim=-1)[:, None]  # (M, 1, B, C)
    teacher = F.log_softmax(teacher_logits / temperature, dim=-1)[None]  # (1, M, B, C)
    kl = (teacher.exp() * (teacher - student)).sum(dim=-1)  # (M, M, B)
    return temperature**2 * kl.mean(dim=-1)  # (M, M)


# --------------------------------------------------------------------------------------------------
# 3. Other loss weights


def softmax_weights(self):
    """LossWeights.forward with one softmax over all K terms; S = sum of s_k.

    w_k = S s_k exp(Omega_k) / sum_j s_j exp(Omega_j);  s_k = 1, or 1 / (number of m's teachers)
    """
    s = torch.cat([torch.ones_like(self.ce), self.share.flatten()])  # (M + M^2,)
    omega = torch.cat([self.ce, self.kd.flatten()])
    w = s.sum() * torch.softmax(omega + s.log(), dim=0)  # log 0 removes pairs that do not teach
    return w[: len(self.ce)], w[len(self.ce) :].view_as(self.kd)


def starting_at(ce, kd):
    """-> what stands in for LossWeights, so that Omega gives these weights at first."""

    @torch.no_grad()
    def loss_weights(M, teachers):
        weights = leebert.LossWeights(M, teachers)
        weights.ce.copy_(torch.logit(torch.tensor(ce) / 2))
        gate = torch.tensor(kd) / weights.share / 2  # 0 / 0 where t does not teach m
        weights.kd.copy_(torch.logit(gate).nan_to_num())
        return weights

    return loss_weights


# --------------------------------------------------------------------------------------------------
# 4. The lists

UNIFORM = {"weights": "uniform"}
PLAIN = {"teachers": "none", **UNIFORM}
STAYS = {"train.training_step": omega_stays}

# Two budgets: as many updates as cross makes, or as much time as it takes. A plain step is 3 passes
# through the network, one that also updates the loss weights 8, and that is one step in EVERY.
# Time is counted and not measured, so that a run can be repeated.
EVERY = train.Config().omega_every
LONG = (8 + 3 * (EVERY - 1)) / (3 * EVERY)

# Lengths of the look-ahead; cross itself has the learning rate, 2e-3 on the built-in task.
STEP_SIZES = ("2e-5", "2e-4", "2e-2")

METHODS = {
    "plain": Method("no teachers, uniform", PLAIN),
    "pabee": Method("no teachers, weights by depth (PABEE)", {**PLAIN, "weights": "depth"}),
    "last": Method("the last exit teaches, uniform", {"teachers": "last", **UNIFORM}),
    "all-uniform": Method("all exits teach, uniform", UNIFORM),
    "single": Method("all teach, weights learned: single", {"optimize": "single"}),
    "bilevel": Method("all teach, weights learned: bilevel", {"optimize": "bilevel"}),
    "cross": Method("all teach, weights learned: cross"),
    "plain-long": Method("no teachers, uniform, in the time of cross", PLAIN, times=LONG),
    "all-uniform-long": Method(
        "all exits teach, uniform, in the time of cross", UNIFORM, times=LONG
    ),
    "all-uniform-d1": Method("all exits teach, uniform, without d2", {}, STAYS),
    "frozen-d1": Method(
        "all teach, final weights of cross from the start, without d2", {}, STAYS, start="cross"
    ),
}

SEEDS_OF_CHOICES = 5

# Against cross, one change at a time. (lambda = 0 is bilevel.)
CHOICES = {
    "lam-0.3": Method("lambda 0.3", {"lam": 0.3}),
    "lam-3": Method("lambda 3", {"lam": 3.0}),
    "own-batch": Method(
        "judge's d1 examples from the step's own batch",
        {},
        {"train.training_step": own_batch_judges},
    ),
    "d2-fraction-0.5": Method("d2 is half of train, not a fifth", {"d2_fraction": 0.5}),
    "no-redraw": Method("twice the epochs", times=2),
    "redraw": Method("... with d1 and d2 cut again in each of them", {"redraw": True}, times=2),
    "later": Method("only later exits teach", {"teachers": "later"}),
    "attached": Method("teachers not detached", {}, {"leebert.distillation": attached}),
    "temperature-2": Method("temperature 2", {"temperature": 2.0}),
    "temperature-4": Method("temperature 4", {"temperature": 4.0}),
    "jsd": Method("Jensen-Shannon, not KL", {}, {"leebert.distillation": jensen_shannon}),
    "mse": Method("squared error of logits, not KL", {}, {"leebert.distillation": squared_error}),
    "softmax": Method(
        "softmax over all terms, not sigmoids", {}, {"leebert.LossWeights.forward": softmax_weights}
    ),
    "omega-lr-0.005": Method("learning rate of the weights 0.005", {"omega_lr": 0.005}),
    "omega-lr-0.1": Method("learning rate of the weights 0.1", {"omega_lr": 0.1}),
    **{
        f"step-size-{xi}": Method(f"look-ahead of length {xi}", {"step_size": float(xi)})
        for xi in STEP_SIZES
    },
    **{
        f"omega-every-{n}": Method(f"weights updated every {n} steps", {"omega_every": n})
        for n in (1, 2, 4, 8)
        if n != EVERY
    },
}
