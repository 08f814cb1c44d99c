"""LeeBERT: exits after every layer, exits that teach each other, and loss weights that are learned.

Wei Zhu, "LeeBERT: Learned Early Exit for BERT with cross-level optimization", ACL 2021. No code of
the paper was published, and parts of the method are known only from others who read it. So each
decision below carries its source: [paper] its abstract says so, [reported] others report it from
the paper, [ours] unknown to us, so we chose. docs/paper.md has the list as a table.

    symbol     meaning                                        in the code         shape
    M, B, C    exits (= layers), examples, classes; C = 1: a number is learned, not a class
    Theta      parameters of encoder and exits                theta               dict of tensors
    Omega      parameters of the loss weights                 loss_weights        (M,) and (M, M)
    z_m        logits of exit m                               logits              (M, B, C)
    CE_m       cross-entropy of exit m                    (1) ce                  (M,)
    KD_{m<-t}  distillation: exit t teaches exit m        (2) kd                  (M, M), diagonal 0
    w          weight of each loss term, made from Omega  (3) w_ce, w_kd          (M,) and (M, M)
    L(D)       the weighted sum of all terms, on D1       (4) L                   scalar
    g          its gradient, along which Theta moves      (5) g                   dict of tensors
    Theta'     Theta after one plain step: the look-ahead (6) ahead               dict of tensors
    F(D)       mean_m CE_m: no weights in it              (7) F                   scalar
    J          F on D2 and D1, after that step            (8) J                   scalar
    xi         step of the look-ahead                         hyper.xi
    lambda     weight of F(D1) in J                           hyper.lam
    tau        temperature of the distillation                hyper.tau
    l_k, K     the k-th of all loss terms, and their number
    v          the gradient of J at the look-ahead            v                   dict of tensors

From simple to full: sections 1 to 4 build L; 5 is the heart, the gradient of J with respect to
Omega, first its definition and then a formula; 6 is one training step; 7 leaves early.

    python -m tools.ask RUN_DIR "bob calls it witty . gus disagrees . dora agrees ."
"""

import math
from functools import partial
from typing import NamedTuple

import torch
import torch.nn as nn
from torch.func import functional_call, jvp

from bert import dropout, init_weights
from support.errors import UserError, not_finite
from support.processes import average

# --------------------------------------------------------------------------------------------------
# 1. An exit after every layer [paper]


def exit_state(hidden, mask, pool):
    """What an exit reads: hidden (B, T, H), mask (B, T), 1 for a token -> (B, H).

    cls     the state of [CLS], the first token, as is usual for BERT
    mean    the mean over the tokens that are not padding [ours]: for a checkpoint that was trained
            for such means, whose [CLS] holds little
    """
    if pool == "cls":
        return hidden[:, 0]
    mask = mask[:, :, None].to(hidden.dtype)  # (B, T, 1)
    return (hidden * mask).sum(dim=1) / mask.sum(dim=1)


class MultiExitBert(nn.Module):
    """A BERT with M classifiers, one after each layer.

    Each exit has its own weights [reported], and is one matrix, without a pooler [ours]: BERT's
    pretrained pooler belongs to the last layer and to another task, and a fresh one for every exit
    would cost M * H^2 parameters. ValueError for a way to pool other than cls and mean.
    """

    def __init__(self, bert, num_classes, pool="cls"):
        super().__init__()
        if pool not in ("cls", "mean"):
            raise ValueError(f"pool must be cls or mean, not {pool!r}")
        self.bert, self.pool = bert, pool
        config = bert.config
        self.exits = nn.ModuleList(
            nn.Linear(config.hidden_size, num_classes) for _ in range(config.num_hidden_layers)
        )
        self.exits.apply(lambda module: init_weights(module, config.initializer_range))

    def forward(self, input_ids, token_type_ids=None, attention_mask=None):
        """ids and masks (B, T) -> logits of all exits (M, B, C)."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        p = self.bert.config.hidden_dropout_prob
        logits = []
        states = self.bert(input_ids, token_type_ids, mask)  # M of (B, T, H)
        for hidden, classifier in zip(states, self.exits, strict=True):
            state = exit_state(hidden, mask, self.pool)  # (B, H)
            logits.append(classifier(dropout(state, p, self.training)))  # (B, C)
        return torch.stack(logits)  # (M, B, C)


# --------------------------------------------------------------------------------------------------
# 2. Cross-entropy of every exit


def cross_entropies(logits, labels):
    """CE_m = mean_B( -log softmax(z_m)[y] ), equation (1).   logits (M, B, C), labels (B,) -> (M,)

    C = 1 is regression, since a choice among one class says nothing: z_m is the answer itself, and
    the term is mean_B( (z_m - y)^2 ), which is -log p of a Gaussian around z_m, up to constants.
    """
    M, B, C = logits.shape
    if C == 1:
        return (logits[..., 0] - labels).square().mean(dim=1)  # (M,)
    log_p = logits.log_softmax(dim=-1)  # (M, B, C)
    return -log_p[:, torch.arange(B, device=logits.device), labels].mean(dim=1)  # (M,)  (1)


# --------------------------------------------------------------------------------------------------
# 3. Distillation among the exits
#
# Every exit learns from the other exits, not only from the last one [paper]. Two variants of who
# teaches whom are reported: from later exits (LLE) and from all exits (LAE).


def teaches(num_exits, teachers, device=None):
    """Who teaches whom -> bool (M, M); entry [m, t] says that exit t teaches exit m.

    none    nobody                          last    t = M, to all others (FastBERT's idea)
    later   t > m, the paper's LLE          all     t != m, the paper's LAE
    """
    exits = torch.arange(num_exits, device=device)
    m, t = torch.meshgrid(exits, exits, indexing="ij")
    table = {"none": m < 0, "last": (t == num_exits - 1) & (t != m), "later": t > m, "all": t != m}
    if teachers not in table:
        raise ValueError(f"teachers must be one of {', '.join(table)}, not {teachers!r}")
    return table[teachers]


def distillation(logits, teacher_logits, temperature=1.0):
    """KD_{m<-t} = tau^2 mean_B( KL( softmax(z_t / tau) || softmax(z_m / tau) ) ), equation (2).

    logits of the students (M, B, C) and of the teachers (M, B, C) -> (M, M), [student, teacher].

    The form is ours: KL is what most of the field uses. tau^2 keeps the size of the gradient when
    tau changes (Hinton et al. 2015). The teacher is detached [ours]: an exit must not get worse
    just to be easier to imitate. KL in nats, summed over classes, averaged over examples.
    Regression (C = 1): mean_B( (z_m - z_t)^2 ); tau cancels.
    """
    if logits.shape[-1] == 1:
        student, teacher = logits[:, None, :, 0], teacher_logits.detach()[None, :, :, 0]
        return (student - teacher).square().mean(dim=-1)  # (M, M)
    student = (logits / temperature).log_softmax(dim=-1)[:, None]  # (M, 1, B, C)
    teacher = (teacher_logits.detach() / temperature).log_softmax(dim=-1)[None]  # (1, M, B, C)
    kl = (teacher.exp() * (teacher - student)).sum(dim=-1)  # (M, M, B)
    return temperature**2 * kl.mean(dim=-1)  # (M, M)  (2)


def loss_terms(logits, labels, teachers="all", temperature=1.0, teacher_logits=None):
    """All K terms of L on one batch: ce (M,) and kd (M, M), 0 where t does not teach m.

    teacher_logits: what the teachers say, by default the same logits. A finite difference (section
    5) varies the logits while the teachers stand still, so it must give them: `detach` stops a
    derivative, it does not stop a difference.
    """
    teacher_logits = logits if teacher_logits is None else teacher_logits
    mask = teaches(len(logits), teachers, logits.device)
    kd = distillation(logits, teacher_logits, temperature) * mask
    return cross_entropies(logits, labels), kd


# --------------------------------------------------------------------------------------------------
# 4. Learnable loss weights, and the loss they make
#
# One weight for each exit's cross-entropy and one for each ordered (student, teacher) pair, learned
# with the network [paper, reported].


class LossWeights(nn.Module):
    """Omega -> w, equation (3) [ours]:

    w_m     = 2 sigmoid(Omega_m)
    w_{m,t} = 2 sigmoid(Omega_{m,t}) / (number of m's teachers)

    Omega = 0 at the start: every exit has one unit of cross-entropy and, if it has teachers, one
    unit of distillation in all: the plain uniform sum. w_m lives in (0, 2), w_{m,t} in (0, 2 /
    number of teachers), and no term can buy its weight from another one, as it could under a
    softmax over all terms. (The gate 2 sigmoid is that of ALoRA, 2024, by the same author. That
    LeeBERT has it is a guess.)
    """

    def __init__(self, num_exits, teachers="all"):
        super().__init__()
        self.teachers = teachers
        self.ce = nn.Parameter(torch.zeros(num_exits))
        self.kd = nn.Parameter(torch.zeros(num_exits, num_exits))
        mask = teaches(num_exits, teachers)
        # A row, divided by the number of teachers, sums to 1; to 0 if it has none.
        share = mask / mask.sum(dim=1, keepdim=True).clamp(min=1)  # (M, M)
        self.register_buffer("share", share, persistent=False)

    def forward(self):
        """-> w_ce (M,), w_kd (M, M)"""
        return 2 * torch.sigmoid(self.ce), 2 * torch.sigmoid(self.kd) * self.share  # (3)


@torch.no_grad()
def set_depth_weights(loss_weights):
    """PABEE's fixed weights, w_m = 2 m / (M + 1), written as values of Omega.

    Their mean is 1, so that the balance with distillation is that of the uniform sum.
    """
    M = len(loss_weights.ce)
    loss_weights.ce.copy_(torch.logit(torch.arange(1, M + 1) / (M + 1)))


def objective(ce, kd, w_ce, w_kd):
    """L = sum_m w_m CE_m + sum_{m != t} w_{m,t} KD_{m<-t}, equation (4).   -> scalar"""
    return (w_ce * ce).sum() + (w_kd * kd).sum()  # (4)


# --------------------------------------------------------------------------------------------------
# 5. The hypergradient: how does J depend on the loss weights?
#
# Omega cannot be trained on L: that would shrink every weight. L is linear in w, and every term is
# non-negative, so dL/dw_k = l_k >= 0, whatever the term is good for. The weights need a judge that
# they cannot bribe, a loss J without weights in it, and so there are two levels [paper]:
#
#     Upper level: choose Omega to minimize J(Theta*(Omega)).
#     Lower level: Theta*(Omega) minimizes L(D1; Theta, Omega).
#
# Solving the lower level again for every change of Omega would cost a whole run each. One step of
# gradient descent stands for it, as in DARTS: the look-ahead Theta'.
#
#     g(Omega)      = grad_Theta L(D1; Theta, Omega)                                             (5)
#     Theta'(Omega) = Theta - xi g(Omega)                                                        (6)
#     F(D; Theta)   = mean_m CE_m                                                                (7)
#     J(Omega)      = F(D2; Theta'(Omega)) + lambda F(D1; Theta'(Omega))                         (8)
#
# lambda = 0 is plain bi-level optimization: only held-out data judge. lambda > 0 is our reading of
# the paper's cross-level optimization, whose update of the weights draws gradient information from
# both splits [reported]. The paper's exact update is unknown, so this form is a choice [ours];
# mixing two splits by a lambda is MiLeNAS's idea (CVPR 2020).
#
# Is there a first-order shortcut, as in DARTS? No: F contains no weights, so J depends on Omega
# only through Theta', and without the look-ahead its gradient is exactly zero. Why look ahead by
# plain gradient descent, when AdamW takes the real step? Adam's first step is nearly the sign of
# the gradient, whose derivative is nearly zero. As in DARTS, Theta' is a simplification [ours]. And
# a short-sighted one: a weight whose harm shows only after many steps looks harmless after one (Wu
# et al. 2018).


class Hyper(NamedTuple):
    """What a training step is told beside its examples."""

    xi: float  # step of the look-ahead (6)
    lam: float = 1.0  # lambda, weight of F(D1) in J (8); 0: only D2 judges
    tau: float = 1.0  # temperature of the distillation (2)
    form: str = "unrolled"  # of the hypergradient: unrolled, jvp or difference
    max_norm: float = 1.0  # the gradient of L is clipped to this norm


class Batches(NamedTuple):
    """The examples of a training step; each is a data.Batch."""

    d1: tuple  # of D1: moves Theta
    d2: tuple = None  # of D2, held out: judges Omega
    d1_judge: tuple = None  # of D1, judges Omega too; needed where lambda > 0

    # d1_judge is drawn independently of d1 [ours]: the look-ahead has just fitted d1, so those
    # examples would favour every cross-entropy.


def trainable(module):
    """name -> parameter, of those that may move; requires_grad=False keeps a parameter as it is."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def gradient(scalar, theta, create_graph=False):
    """d scalar / d theta, a dict like theta; 0 for a tensor that the scalar does not reach.

    Where several processes share a batch, the mean over them, with its graph.
    """
    tensors = list(theta.values())
    g = torch.autograd.grad(scalar, tensors, create_graph=create_graph, materialize_grads=True)
    return dict(zip(theta, average(g), strict=True))


def frozen_dropout(model, batch):
    """-> a function theta -> logits (M, B, C) of the batch; each call has the same dropout masks.

    theta (dict name -> tensor) stands in for the model's own parameters, which stay as they are.
    """
    seed = int(torch.randint(2**62, ()))

    def logits_at(theta):
        # The CPU's generator draws the seeds too, so its state is restored. A GPU's generator draws
        # nothing but masks, so it needs no restoring.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return functional_call(model, theta, batch[:3])  # (M, B, C)

    return logits_at


def judge_loss(model, theta, batches, hyper):
    """J at the parameters theta (dict name -> tensor).   -> scalar

    Without dropout [ours]: the judge is asked about the network that will be used. ValueError if
    lambda > 0 and the judge has no examples of D1.
    """
    if hyper.lam and batches.d1_judge is None:
        raise ValueError("lambda > 0, so Batches needs d1_judge, the judge's own examples of D1")

    def F(batch):
        logits = functional_call(model, theta, batch[:3])  # (M, B, C)
        return cross_entropies(logits, batch.labels).mean()  # (7)

    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        on_d2 = F(batches.d2)
        on_d1 = F(batches.d1_judge) if hyper.lam else 0.0
        return on_d2 + hyper.lam * on_d1  # (8)
    finally:  # each module gets its own mode back, whatever happened
        for module, training in modes:
            module.training = training


def unrolled(model, loss_weights, batches, hyper):
    """The definition: Theta' is a function of Omega, and autograd differentiates through the step.

    -> (ce, kd) on d1, grad_Theta L, grad_Omega J. Exact. The graph of g stays in memory.
    """
    d1, theta, omega = batches.d1, trainable(model), trainable(loss_weights)
    logits = frozen_dropout(model, d1)(theta)  # (M, B, C)
    ce, kd = loss_terms(logits, d1.labels, loss_weights.teachers, hyper.tau)
    L = objective(ce, kd, *loss_weights())
    g = gradient(L, theta, create_graph=True)  # (5)
    ahead = {name: p - hyper.xi * g[name] for name, p in theta.items()}  # (6)
    J = judge_loss(model, ahead, batches, hyper)
    return (ce, kd), g, average(torch.autograd.grad(J, list(omega.values())))


# The same without a graph of g. L is linear in w. So, with v the gradient of (8) with respect to
# the parameters, at Theta', the chain rule gives
#
#     dJ/dw_k = < v, dTheta'/dw_k > = -xi < v, grad l_k(Theta) >                                (11)
#
# In words: to first order, raising a term's weight lowers J if and only if the term's gradient has
# a positive inner product with v. And this is cheap: all K inner products are the derivative of ONE
# vector function, the terms l(Theta) = (l_1 .. l_K), in ONE direction, v. No loop over terms, no
# second-order graph.


def derivative_jvp(terms, theta, v):
    """d/ds terms(theta + s v) at s = 0, exactly: one pass that carries the derivative along."""
    return jvp(terms, (theta,), (v,))[1]


@torch.no_grad()
def derivative_difference(terms, theta, v):
    """( terms(theta + eps v) - terms(theta - eps v) ) / (2 eps): two ordinary passes.

    An approximation: its error is eps^2 / 6 times a third derivative, plus rounding divided by eps.
    eps ||v|| is the cube root of the dtype's epsilon, which balances the two. The parameters
    are never touched: adding and subtracting eps v in place would not restore them to the bit.
    """
    norm = torch.stack([x.square().sum() for x in v.values()]).sum().sqrt().item()
    root = torch.finfo(next(iter(v.values())).dtype).eps ** (1 / 3)
    eps = root / (norm or 1.0)  # v = 0: J is flat here, and so is the difference
    plus = terms({name: theta[name] + eps * v[name] for name in theta})
    minus = terms({name: theta[name] - eps * v[name] for name in theta})
    return [(a - b) / (2 * eps) for a, b in zip(plus, minus, strict=True)]


def by_formula(derivative, model, loss_weights, batches, hyper):
    """Equation (11), with either derivative; takes and returns what `unrolled` does."""
    d1, theta, omega = batches.d1, trainable(model), trainable(loss_weights)
    logits_at = frozen_dropout(model, d1)
    logits = logits_at(theta)  # (M, B, C)
    ce, kd = loss_terms(logits, d1.labels, loss_weights.teachers, hyper.tau)
    g = gradient(objective(ce, kd, *loss_weights()), theta)
    start = {name: p.detach() for name, p in theta.items()}
    ahead = {name: (p - hyper.xi * g[name]).requires_grad_() for name, p in start.items()}
    v = gradient(judge_loss(model, ahead, batches, hyper), ahead)
    teacher_logits = logits.detach()

    def terms(place):
        """l at a place in the space of Theta -> ce (M,), kd (M, M); the teachers stand still."""
        students = logits_at(place)  # (M, B, C)
        return loss_terms(students, d1.labels, loss_weights.teachers, hyper.tau, teacher_logits)

    inner = average(derivative(terms, start, v))  # < v, grad l_k >: (M,) and (M, M)
    dJ_dw = [-hyper.xi * x for x in inner]  # (11)
    # The chain rule through w(Omega), equation (3): the gradient of a sum whose slopes are dJ_dw.
    through_w = sum((w * slope).sum() for w, slope in zip(loss_weights(), dJ_dw, strict=True))
    return (ce, kd), g, torch.autograd.grad(through_w, list(omega.values()))


FORMS = {
    "unrolled": unrolled,
    "jvp": partial(by_formula, derivative_jvp),
    "difference": partial(by_formula, derivative_difference),
}


def hypergradient(model, loss_weights, batches, hyper):
    """grad_Omega [ F(d2; Theta') + lambda F(d1_judge; Theta') ] -> tensors as Omega's parameters.

    For tests, lessons and measurements; a training step calls the form itself.

    batches: with input_ids, token_type_ids, attention_mask (B, T) and labels (B,) each. hyper.form:
    `unrolled`, the definition; `jvp`, exact too, with about half the extra memory or less;
    `difference`, approximate. Nothing of the model is changed, neither parameters nor .grad.
    """
    return list(FORMS[hyper.form](model, loss_weights, batches, hyper)[2])


# --------------------------------------------------------------------------------------------------
# 6. One training step
#
# Theta always descends L, by AdamW, and the gradient g that the look-ahead needs serves again:
#
#     Theta <- AdamW(Theta, clip(g))                                                             (9)
#     Omega <- Adam(Omega, grad_Omega J)                                                        (10)
#
# Three ways to choose Omega, so that the paper's claim can be tested and not only repeated, and one
# that leaves it alone:
#
#     single    L(D1; Theta, Omega) instead of J          the trap: every weight falls
#     bilevel   J with lambda = 0                         DARTS
#     cross     J with lambda > 0                         [ours]
#     fixed     Omega stays
#
# (Which optimizers the paper takes is unknown; these are ours.)


def training_step(model, loss_weights, optimizers, batches, hyper, optimize):
    """Update Theta and Omega once, both from the same point [ours] -> ce (M,), kd (M, M) on d1.

    optimizers: that of Theta, that of Omega. FloatingPointError, before any parameter is changed,
    if a gradient is not finite.
    """
    if optimize not in ("single", "bilevel", "cross", "fixed"):
        raise ValueError(f"optimize must be single, bilevel, cross or fixed, not {optimize!r}")
    theta, omega = trainable(model), trainable(loss_weights)
    theta_optimizer, omega_optimizer = optimizers
    if optimize in ("bilevel", "cross"):
        hyper = hyper._replace(lam=hyper.lam if optimize == "cross" else 0.0)
        (ce, kd), g, slopes = FORMS[hyper.form](model, loss_weights, batches, hyper)
    else:
        d1, slopes = batches.d1, []
        ce, kd = loss_terms(model(*d1[:3]), d1.labels, loss_weights.teachers, hyper.tau)
        L = objective(ce, kd, *loss_weights())
        if optimize == "single":
            slopes = average(torch.autograd.grad(L, list(omega.values()), retain_graph=True))
        g = gradient(L, theta)
    for name, p in theta.items():
        p.grad = g[name].detach()
    norm = nn.utils.clip_grad_norm_(theta.values(), hyper.max_norm)
    if not torch.isfinite(norm + sum(x.abs().sum() for x in slopes)):
        raise FloatingPointError(not_finite(*average([ce.detach(), kd.detach()]), norm.item()))
    theta_optimizer.step()  # (9)
    theta_optimizer.zero_grad()  # frees the gradient: the next step makes its own
    if slopes:
        for p, x in zip(omega.values(), slopes, strict=True):
            p.grad = x
        omega_optimizer.step()  # (10)
    return ce.detach(), kd.detach()


# --------------------------------------------------------------------------------------------------
# 7. Early exit
#
# A rule looks at the logits of the exits passed so far and says who may leave. Adding one is an
# exercise: write the function, enter it in RULES. The paper's rule is patience [reported].


def answers(logits):
    """logits (..., C) -> the class (...), or the number itself if C = 1."""
    return logits.argmax(dim=-1) if logits.shape[-1] > 1 else logits[..., 0]


def entropy_rule(history, threshold):
    """Leave when H(softmax(z_m)) / log C < threshold (DeeBERT; divided by log C here, so in 0..1).

    Through log_softmax: p * log(p) of a confident exit is 0 * -inf, which is NaN.
    """
    log_p = history[-1].log_softmax(dim=-1)  # (B, C)
    return -(log_p.exp() * log_p).sum(dim=-1) / math.log(history.shape[-1]) < threshold


def confidence_rule(history, threshold):
    """Leave when the largest probability > threshold."""
    return history[-1].softmax(dim=-1).amax(dim=-1) > threshold


AGREE = 0.25  # a twentieth of the scale of STS-B, GLUE's one regression [ours]


def patience_rule(history, threshold):
    """Leave when each of the last `threshold` predictions repeats the one before it.

    PABEE. The earliest exit is number threshold + 1. Two numbers repeat each other if they differ
    by less than AGREE, as in PABEE; two classes if they are the same.
    """
    if len(history) < threshold + 1:
        return torch.zeros(history.shape[1], dtype=torch.bool, device=history.device)
    predictions = answers(history[-math.ceil(threshold) - 1 :])  # (threshold + 1, B)
    return (predictions.diff(dim=0).abs() < AGREE).all(dim=0)


def always_rule(history, threshold):
    """Leave at exit `threshold`, whatever it says: what every other rule has to beat."""
    return torch.full(history.shape[1:2], len(history) >= threshold, device=history.device)


RULES = dict(
    entropy=entropy_rule, confidence=confidence_rule, patience=patience_rule, always=always_rule
)


def may_leave(rule, history, threshold):
    """Ask a rule, by its name, who may leave: history (m, B, C) -> bool (B,).

    UserError if there is no such rule, or if it needs classes and C = 1. TypeError if it answers
    with anything but bools: as indices, integers 0 and 1 would mean examples number 0 and 1.
    """
    if rule not in RULES:
        raise UserError(f"rule must be one of {', '.join(RULES)}, not {rule!r}")
    if history.shape[-1] == 1 and rule in ("entropy", "confidence"):
        raise UserError(f"rule {rule} needs the probabilities of classes; a regression has none")
    leave = RULES[rule](history, threshold)
    if getattr(leave, "dtype", None) != torch.bool or leave.shape != history.shape[1:2]:
        raise TypeError(f"rule {rule} must return a bool tensor of shape (B,), not {leave!r}")
    return leave


@torch.inference_mode()
def early_exit(model, batch, rule, threshold):
    """Predict each example at the first exit where the rule lets it leave, or at the last exit.

    -> predictions (B,), exit_layer (B,), 1-based. Examples that have left are removed from the
    batch before the next layer, so a batch of any size gets cheaper, and its answers are those of
    one example at a time, up to rounding. Call model.eval() first. Errors: see may_leave.
    """
    bert, mask = model.bert, batch.attention_mask  # (B, T)
    M, B, C = len(model.exits), len(mask), model.exits[0].out_features
    hidden = bert.embed(batch.input_ids, batch.token_type_ids)  # (B, T, H)
    bias = bert.attention_bias(mask)  # (B, 1, 1, T)
    inside = torch.arange(B, device=mask.device)  # (B,), the examples still in the batch
    history = hidden.new_empty(0, B, C)  # (m, B, C), logits of the exits passed
    final, exit_layer = hidden.new_empty(B, C), torch.empty_like(inside)  # (B, C), (B,)
    for m, (layer, classifier) in enumerate(zip(bert.layers, model.exits, strict=True), start=1):
        hidden = layer(hidden, bias)
        logits = classifier(exit_state(hidden, mask, model.pool))  # (B, C)
        history = torch.cat([history, logits[None]])
        # Finding out who stays is the host's only wait; at the last exit nobody stays.
        stay = (~may_leave(rule, history, threshold)).nonzero()[:, 0] if m < M else inside[:0]
        if len(stay) < len(inside):
            final[inside] = logits  # for those who stay, a later exit overwrites it
            exit_layer[inside] = m
            if len(stay) == 0:
                break
            hidden, mask, bias = hidden[stay], mask[stay], bias[stay]
            inside, history = inside[stay], history[:, stay]
    return answers(final), exit_layer


def exits_from_logits(logits, rule, threshold):
    """What early_exit answers, from the logits (M, N, C) of all exits: many thresholds, one pass.

    -> predictions (N,), exit_layer (N,), up to the rounding of another batch. It passes all layers,
    so it says nothing about time. Errors: see may_leave.
    """
    M, N, _ = logits.shape
    examples = torch.arange(N, device=logits.device)
    exit_layer = torch.full_like(examples, M)
    for m in range(M - 1, 0, -1):  # the earliest comes last, and stays
        exit_layer[may_leave(rule, logits[:m], threshold)] = m
    return answers(logits[exit_layer - 1, examples]), exit_layer
