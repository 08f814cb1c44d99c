"""The methods that experiments/compare.py sets side by side, and the choices that it varies.

A method is what train.py has to be told: settings, which are fields of its Config; and, where no
setting says it, changes: (module, name, replacement) for a function of train.py or leebert.py, in
force for one run. So all methods share one training loop, one evaluation, and one budget.
"""

import itertools
import json
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch
import torch.nn as nn
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import leebert  # noqa: E402
import train  # noqa: E402
from bert import dropout, init_weights  # noqa: E402


class Method(NamedTuple):
    words: str
    settings: dict = {}
    changes: tuple[Callable, ...] = ()  # each: job -> list of (module, name, replacement)
    needs: str = ""  # the method whose result, of the same seed, must be there before
    times: int = 1  # factor on the epochs of the task


class Job(NamedTuple):
    """What a change may want to know of the run that it is part of."""

    config: train.Config
    results: object  # folder with the results of this task
    record: dict  # what it leaves here goes into the result


@contextmanager
def changed(changes, job):
    """Within `with`, all changes are in force."""
    with ExitStack() as stack:
        for change in changes:
            for module, name, value in change(job):
                stack.enter_context(mock.patch.object(module, name, value))
        yield


# --------------------------------------------------------------------------------------------------
# 1. Fixed weights: a place in Omega. 2 sigmoid(-inf) = 0 takes a term out.


@torch.no_grad()
def only_last_exit(weights):
    """L = CE_M."""
    weights.ce.fill_(-torch.inf)
    weights.ce[-1] = 0


@torch.no_grad()
def all_exits(weights):
    """L = sum_m CE_m + ..., where Omega starts anyway."""
    weights.ce.zero_()


@torch.no_grad()
def all_but_last(weights):
    """L = sum_{m < M} CE_m."""
    weights.ce.zero_()
    weights.ce[-1] = -torch.inf


def omega_at(place):
    """Omega starts elsewhere. With --weights uniform it stays there."""

    def change(job):
        def loss_weights(M, teachers):
            weights = leebert.LossWeights(M, teachers)
            place(weights)
            return weights

        return [(train, "LossWeights", loss_weights)]

    return change


def omega_at_the_end_of_all_cross(job):
    """Omega starts where a run of all-cross with this seed has ended."""
    path = job.results / f"all-cross-s{job.config.seed}.json"
    w = json.loads(path.read_text(encoding="utf-8"))["weights"]

    @torch.no_grad()
    def place(weights):
        weights.ce.copy_(torch.logit(torch.tensor(w["ce"]) / 2))
        kd = torch.tensor(w["kd"]) / weights.share / 2  # 0 / 0 where t does not teach m
        weights.kd.copy_(torch.logit(kd).nan_to_num())

    return omega_at(place)(job)


# --------------------------------------------------------------------------------------------------
# 2. What happens in a step


def omega_stays(job):
    """Everything as in cross, the cut into d1 and d2 and the batches too, but Omega stays."""
    step = train.training_step

    def training_step(*args, **options):
        return step(*args, **options | {"optimize": "fixed"})

    return [(train, "training_step", training_step)]


def alternating(job):
    """BERxiT: a step on the last exit's loss, a step on the sum of all exits' losses, and so on."""
    step, places = train.training_step, itertools.cycle([only_last_exit, all_exits])

    def training_step(model, weights, *args, **options):
        next(places)(weights)
        return step(model, weights, *args, **options)

    return [(train, "training_step", training_step)]


def judged_by_its_own_batch(job):
    """The judge's examples of D1 are evenly spaced rows of the step's own batch."""
    step = train.training_step

    def training_step(model, weights, theta, omega, d1, d2, again, **options):
        B, n = len(d1.labels), len(again.labels)
        again = type(d1)(*(x[torch.arange(n) * B // n] for x in d1))
        return step(model, weights, theta, omega, d1, d2, again, **options)

    return [(train, "training_step", training_step)]


# --------------------------------------------------------------------------------------------------
# 3. What is trained


def cut_after(k):
    """A model of its own: the first k layers and the exit after them."""
    original = train.prepare

    def prepare(config):
        task, tokenizer, model = original(config)
        model.bert.layers, model.exits = model.bert.layers[:k], model.exits[:k]
        model.bert.config = replace(model.bert.config, num_hidden_layers=k)
        return task, tokenizer, model

    return lambda job: [(train, "prepare", prepare)]


class OtherExits(nn.Module):
    """All exits but the last as the only parameters, over an encoder that stands still."""

    def __init__(self, model):
        super().__init__()
        self.exits = model.exits[:-1]
        self.whole = [model]  # in a list, so that its parameters are not ours

    def forward(self, input_ids, token_type_ids=None, attention_mask=None):
        """-> logits (M, B, C), as MultiExitBert."""
        (whole,) = self.whole
        bert, last = whole.bert, whole.exits[-1]
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        with torch.no_grad():
            states = bert(input_ids, token_type_ids, mask)
            states = [leebert.pool(h, mask, whole.pool) for h in states]  # M x (B, H)
            answer = last(states[-1])  # (B, C)
        p = bert.config.hidden_dropout_prob
        pairs = zip(self.exits, states, strict=False)
        return torch.stack([*(e(dropout(x, p, self.training)) for e, x in pairs), answer])


# DeeBERT's other exits are linear, over an encoder that stands still: no depth at which to fail. So
# they keep the built-in task's learning rate where the encoder has another.
HEADS_LR = train.MODEL_DEFAULTS["lr"][0]


def two_stages(job):
    """DeeBERT: the encoder and the last exit, then the other exits, with the encoder frozen.

    Each stage has the whole budget. So the encoder gets as many updates as in any other method,
    and the second stage comes on top; it needs one pass forward and none back.
    """
    original = train.train

    def both(config, model, loss_weights, encoded, *where):
        first = original(config, model, loss_weights, encoded, *where)
        others = leebert.LossWeights(len(model.exits), "none").to(loss_weights.ce.device)
        all_but_last(others)
        config = replace(config, lr=HEADS_LR)
        second = original(config, OtherExits(model), others, encoded, *where)
        return first + second

    return [(train, "train", both)]


# --------------------------------------------------------------------------------------------------
# 4. Choices that leebert.py does not offer, since one of them had to be made


def distillation_with(function):
    return lambda job: [(leebert, "distillation", function)]


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


@torch.no_grad()
def undivided(weights):
    """Every pair starts at weight 1, whatever the number of teachers."""
    weights.share.copy_(weights.share > 0)


def softmax_weights(self):
    """LossWeights.forward with one softmax over all K terms; S = sum of s_k.

    w_k = S s_k exp(Omega_k) / sum_j s_j exp(Omega_j);  s_k = 1, or 1 / (number of m's teachers)
    """
    s = torch.cat([torch.ones_like(self.ce), self.share.flatten()])  # (M + M^2,)
    omega = torch.cat([self.ce, self.kd.flatten()])
    w = s.sum() * torch.softmax(omega + s.log(), dim=0)  # log 0 takes out who does not teach
    return w[: len(self.ce)], w[len(self.ce) :].view_as(self.kd)


def judged_with_dropout(*args, original=leebert.judge_loss):
    """leebert.judge_loss with the network as training sees it."""
    with mock.patch.object(args[0], "eval"):  # the model's switch does nothing
        return original(*args)


class PooledExit(nn.Module):
    """BERT's pooler, a dense layer and tanh, before the classifier; one for every exit."""

    def __init__(self, hidden_size, num_classes, std):
        super().__init__()
        self.pooler = nn.Linear(hidden_size, hidden_size)
        self.classifier = nn.Linear(hidden_size, num_classes)
        self.out_features = num_classes
        self.apply(lambda module: init_weights(module, std))

    def forward(self, cls):
        return self.classifier(torch.tanh(self.pooler(cls)))  # (B, H) -> (B, C)


def with_poolers(job):
    original = train.prepare

    def prepare(config):
        task, tokenizer, model = original(config)
        c = model.bert.config
        model.exits = nn.ModuleList(
            PooledExit(c.hidden_size, task.num_classes, c.initializer_range) for _ in model.exits
        )
        return task, tokenizer, model

    return [(train, "prepare", prepare)]


# --------------------------------------------------------------------------------------------------
# 5. A look at the gradients while it trains


def alignment(model, loss_weights, d1, d2, again, step_size, lam, temperature=1.0):
    """cos_k = < v, grad l_k(Theta) > / ( ||v|| ||grad l_k(Theta)|| ) -> ce (M,), kd (M, M).

    v = grad J at Theta', all of Theta as one vector; 0 where grad l_k is. Positive: a small step on
    l_k alone lowers J. One backward pass a term: slow.
    """
    theta = dict(model.named_parameters())
    options = dict(retain_graph=True, materialize_grads=True)
    with torch.random.fork_rng(devices=[]):
        logits = leebert.frozen_dropout(model, d1)(theta)
        ce, kd = leebert.loss_terms(logits, d1.labels, loss_weights.teachers, temperature)
        terms = [leebert.objective(ce, kd, *loss_weights()), *ce, *kd.flatten()]
        g, *rows = (torch.autograd.grad(x, list(theta.values()), **options) for x in terms)
        pairs = zip(theta.items(), g, strict=True)
        ahead = {name: (p - step_size * x).detach().requires_grad_() for (name, p), x in pairs}
        J = leebert.judge_loss(model, ahead, d2, again, lam)
        v = flat(torch.autograd.grad(J, list(ahead.values())))
    cosines = torch.stack([F.cosine_similarity(flat(row), v, dim=0) for row in rows])
    return cosines[: len(ce)], cosines[len(ce) :].view_as(kd)


def flat(tensors):
    return torch.cat([x.flatten() for x in tensors])


PROBES = 5


def probing(job):
    """Alignment at PROBES steps, evenly spaced from the first; it changes nothing of the run."""
    step, original = train.training_step, train.train
    found, lam = job.record.setdefault("alignment", []), job.config.lam
    lam = lam if train.optimize_of(job.config) == "cross" else 0.0

    def train_and_probe(config, model, loss_weights, encoded, *where):
        total = config.epochs * -(-len(encoded.labels) // config.batch_size)
        count = itertools.count()

        def training_step(model, weights, theta, omega, d1, d2, again, **options):
            now = next(count)
            if d2 is not None and now >= len(found) * total / PROBES:
                start = time.perf_counter()
                xi, tau = options["step_size"], options["temperature"]
                ce, kd = alignment(model, weights, d1, d2, again, xi, lam, tau)
                found.append({"step": now, "ce": digits(ce), "kd": digits(kd)})
                seconds = job.record.get("probe_seconds", 0) + time.perf_counter() - start
                job.record["probe_seconds"] = seconds
            return step(model, weights, theta, omega, d1, d2, again, **options)

        with mock.patch.object(train, "training_step", training_step):
            return original(config, model, loss_weights, encoded, *where)

    return [(train, "train", train_and_probe)]


def digits(x, places=4):
    """A tensor or nested lists -> nested lists, rounded: result files stay small."""
    if torch.is_tensor(x):
        x = x.tolist()
    return [digits(row, places) if isinstance(row, list) else round(row, places) for row in x]


# --------------------------------------------------------------------------------------------------
# 6. The list

UNIFORM = {"weights": "uniform"}
last_only = omega_at(only_last_exit)
NONE = {"teachers": "none", **UNIFORM}

METHODS = {
    "last": Method("last exit only: no early exit, the reference", NONE, (last_only,)),
    **{
        f"cut{k}": Method(
            f"a model of its own, cut after layer {k}", NONE, (cut_after(k), last_only)
        )
        for k in range(1, 6)
    },
    "none-uniform": Method("cross-entropies, plain sum", NONE),
    "deebert": Method("DeeBERT: two stages", NONE, (last_only, two_stages)),
    "pabee": Method("PABEE: weights by depth", {"teachers": "none", "weights": "depth"}),
    "berxit": Method("BERxiT: alternation", NONE, (alternating,)),
    "fastbert": Method("the last exit teaches (FastBERT's idea)", {"teachers": "last", **UNIFORM}),
    "later-uniform": Method("later exits teach (LLE), uniform", {"teachers": "later", **UNIFORM}),
    "all-uniform": Method("all exits teach (LAE), uniform", {"teachers": "all", **UNIFORM}),
    "all-single": Method("all teach, weights learned: single", {"optimize": "single"}),
    "all-bilevel": Method(
        "all teach, weights learned: bilevel", {"optimize": "bilevel"}, (probing,)
    ),
    "all-cross": Method("all teach, weights learned: cross", {"optimize": "cross"}, (probing,)),
    "cross-own": Method(
        "all teach, cross, judged by the step's own batch", {}, (judged_by_its_own_batch,)
    ),
    "later-cross": Method("later teach, weights learned: cross", {"teachers": "later"}),
    "all-uniform-d1": Method("all teach, uniform, without d2", {}, (omega_stays,)),
    "all-frozen-d1": Method(
        "all teach, at the final weights of cross, without d2",
        {},
        (omega_stays, omega_at_the_end_of_all_cross),
        needs="all-cross",
    ),
}  # fmt: skip
REAL = ("last", "pabee", "fastbert", "all-uniform", "all-single", "all-bilevel", "all-cross")
# And some that say why.
MORE = {
    "sst2": (
        "none-uniform", "cross-own", "all-uniform-d1", "all-frozen-d1", "all-uniform-long",
        "all-cross-long",
    ),
    "cola": (
        "none-uniform", "none-uniform-long", "pabee-long", "all-uniform-long",
        "all-uniform-d1-long", "all-bilevel-long", "all-cross-long",
    ),
}  # fmt: skip

# The other budget: as much time as all-cross takes. A plain step costs 3 passes through the
# network (forward 1, backward 2), a step of cross 8: in its time uniform weights make 8 / 3 as many
# updates, rounded up in their favour. By count and not by clock, so that a run can be repeated.
# The bi-level methods get as many too, and so do the same runs without learned weights: one epoch
# does not teach these networks all that they could learn.
TIMES = 3
for name in ("none-uniform", "pabee", "all-uniform", "all-uniform-d1", "all-bilevel", "all-cross"):
    METHODS[f"{name}-long"] = METHODS[name]._replace(
        words=f"{METHODS[name].words}, {TIMES} x the updates", times=TIMES
    )

# Toy's learning rate was chosen for all-cross. One loss alone, five or six layers deep, mostly
# fails to train with it; 5e-4 was the better of 5e-4 and 1e-3 on seeds 10 to 12 of `last`.
for name, stage in (("last", ""), ("cut5", ""), ("deebert", " of the first")):
    METHODS[f"{name}-slow"] = METHODS[name]._replace(
        words=f"{METHODS[name].words}, learning rate{stage} 5e-4",
        settings=METHODS[name].settings | {"lr": 5e-4},
    )

# One at a time, against all-cross on the toy task. (lambda = 0 is all-bilevel.)
CHOICES = {
    "lam-0.3": Method("lambda 0.3", {"lam": 0.3}),
    "lam-3": Method("lambda 3", {"lam": 3.0}),
    "redraw": Method("d1 and d2 cut again every epoch (two epochs)", {"redraw": True, "epochs": 2}),
    "no-redraw": Method("cut once (two epochs)", {"epochs": 2}),
    "d2-fraction-0.2": Method("a fifth of train is d2, not a half", {"d2_fraction": 0.2}),
    **{
        f"omega-every-{n}": Method(
            f"the weights learn in one of {n} steps only", {"omega_every": n}
        )
        for n in (2, 4, 8)
    },
    "omega-lr-0.005": Method("learning rate of the weights 0.005", {"omega_lr": 0.005}),
    "omega-lr-0.1": Method("learning rate of the weights 0.1", {"omega_lr": 0.1}),
    "temperature-2": Method("temperature 2", {"temperature": 2.0}),
    "temperature-4": Method("temperature 4", {"temperature": 4.0}),
    "jsd": Method("Jensen-Shannon in place of KL", {}, (distillation_with(jensen_shannon),)),
    "mse": Method(
        "squared error of logits in place of KL", {}, (distillation_with(squared_error),)
    ),
    "attached": Method("teachers not detached", {}, (distillation_with(attached),)),
    "undivided": Method("pairs not divided by the number of teachers", {}, (omega_at(undivided),)),
    "softmax": Method(
        "softmax over all terms in place of sigmoids",
        {},
        (lambda job: [(leebert.LossWeights, "forward", softmax_weights)],),
    ),
    "upper-dropout": Method(
        "dropout when the weights are judged",
        {},
        (lambda job: [(leebert, "judge_loss", judged_with_dropout)],),
    ),
    "pooler": Method("a pooler before every exit", {}, (with_poolers,)),
}  # fmt: skip
