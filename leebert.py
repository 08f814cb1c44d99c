"""LeeBERT: exits after every layer, exits that teach each other, and loss weights that are learned.

Wei Zhu, "LeeBERT: Learned Early Exit for BERT with cross-level optimization", ACL 2021. No code of
the paper was published, and parts of the method are known only from others who read it. So each
decision below carries its source: [paper] its abstract says so, [reported] others report it from
the paper, [ours] nobody knows, we chose. The README has the same list as a table.

    symbol     meaning                                        in the code         shape
    M, B, C    exits (= layers), examples, classes; C = 1: a number is learned, not a class
    Theta      parameters of encoder and exits                theta               dict of tensors
    Omega      parameters of the loss weights                 loss_weights        (M,) and (M, M)
    z_m        logits of exit m                               logits[m]           (M, B, C)
    CE_m       cross-entropy of exit m                        ce[m]               (M,)
    KD_{m<-t}  distillation: exit t teaches exit m            kd[m, t]            (M, M), diagonal 0
    w          weight of each loss term, made from Omega      w_ce, w_kd          (M,) and (M, M)
    L(D)       sum_m w_m CE_m + sum_{m != t} w_{m,t} KD_{m<-t}   what Theta descends, on D1
    F(D)       mean_m CE_m                                       what Omega is judged by
    xi         step of the look-ahead                         step_size           scalar
    lambda     weight of F(D1) in the judgement               lam                 scalar

The file goes from simple to full. Sections 1 to 4 build L; 5 is the heart, the gradient of F with
respect to Omega; 6 is one complete training step; 7 is inference that leaves early.

    python leebert.py RUN_DIR "although the plot is bland , the acting is superb"
"""

import math
import warnings
from contextlib import nullcontext

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.autograd import forward_ad
from torch.func import functional_call, jvp
from torch.overrides import TorchFunctionMode

from bert import dropout, init_weights

# torch.func.jvp makes torch warn, once, of a function that torch itself calls.
warnings.filterwarnings("ignore", "`torch.jit.script", DeprecationWarning)

# --------------------------------------------------------------------------------------------------
# 1. An exit after every layer [paper]


class MultiExitBert(nn.Module):
    """A BERT with M classifiers, one on the [CLS] state after each layer.

    Each exit has its own weights [reported], and is one matrix, without a pooler [ours]: BERT's
    pretrained pooler belongs to the last layer and to another task, and a fresh one for every exit
    would cost M * H^2 parameters.
    """

    def __init__(self, bert, num_classes):
        super().__init__()
        self.bert = bert
        config = bert.config
        self.exits = nn.ModuleList(
            nn.Linear(config.hidden_size, num_classes) for _ in range(config.num_hidden_layers)
        )
        self.exits.apply(lambda module: init_weights(module, config.initializer_range))

    def forward(self, input_ids, token_type_ids=None, attention_mask=None):
        """ids and masks (B, T) -> logits of all exits (M, B, C)."""
        p = self.bert.config.hidden_dropout_prob
        states = self.bert(input_ids, token_type_ids, attention_mask)  # M times (B, T, H)
        return torch.stack(
            [
                exit(dropout(hidden[:, 0], p, self.training))  # [CLS] (B, H) -> (B, C)
                for exit, hidden in zip(self.exits, states, strict=True)
            ]
        )  # (M, B, C)


# --------------------------------------------------------------------------------------------------
# 2. Cross-entropy of every exit


def cross_entropies(logits, labels):
    """CE_m = mean_B( -log softmax(z_m)[y] ).   logits (M, B, C), labels (B,) -> (M,)

    C = 1 is regression, since a choice among one class says nothing: z_m is the answer itself, and
    the term is mean_B( (z_m - y)^2 ), which is -log p of a Gaussian around z_m, up to constants.
    """
    M, B, C = logits.shape
    if C == 1:
        return (logits[..., 0] - labels).square().mean(dim=1)  # (M,)
    log_p = F.log_softmax(logits, dim=-1)  # (M, B, C)
    return -log_p[:, torch.arange(B, device=logits.device), labels].mean(dim=1)  # (M,)


# --------------------------------------------------------------------------------------------------
# 3. Distillation among the exits
#
# Every exit learns from the other exits, not only from the last one [paper]. Two variants of who
# teaches whom are reported: from later exits (LLE) and from all exits (LAE).


def teaches(num_exits, teachers):
    """Who teaches whom -> bool (M, M); entry [m, t] says that exit t teaches exit m.

    none    nobody                          last    t = M, to all others (FastBERT's idea)
    later   t > m, the paper's LLE          all     t != m, the paper's LAE
    """
    m, t = torch.meshgrid(torch.arange(num_exits), torch.arange(num_exits), indexing="ij")
    table = {"none": m < 0, "last": (t == num_exits - 1) & (t != m), "later": t > m, "all": t != m}
    if teachers not in table:
        raise ValueError(f"teachers must be one of {', '.join(table)}, not {teachers!r}")
    return table[teachers]


def distillation(logits, teacher_logits, temperature=1.0):
    """KD_{m<-t} = tau^2 mean_B( KL( softmax(z_t / tau) || softmax(z_m / tau) ) ) for every pair.

    logits of the students (M, B, C) and of the teachers (M, B, C) -> (M, M), [student, teacher].

    The form is ours: KL is what most of the field uses. tau^2 keeps the size of the gradient when
    tau changes (Hinton et al. 2015). The teacher is detached [ours]: an exit shall not get worse in
    order to be easier to imitate. KL in nats, summed over classes, averaged over examples.
    Regression (C = 1): mean_B( (z_m - z_t)^2 ); tau cancels.
    """
    if logits.shape[-1] == 1:
        student, teacher = logits[:, None, :, 0], teacher_logits.detach()[None, :, :, 0]
        return (student - teacher).square().mean(dim=-1)  # (M, M)
    student = F.log_softmax(logits / temperature, dim=-1)[:, None]  # (M, 1, B, C)
    teacher = F.log_softmax(teacher_logits.detach() / temperature, dim=-1)[None]  # (1, M, B, C)
    kl = (teacher.exp() * (teacher - student)).sum(dim=-1)  # (M, M, B)
    return temperature**2 * kl.mean(dim=-1)  # (M, M)


def loss_terms(logits, labels, teachers="all", temperature=1.0, teacher_logits=None):
    """All K terms of L on one batch: ce (M,) and kd (M, M), 0 where t does not teach m.

    teacher_logits: what the teachers say, by default the same logits. Whoever varies the logits
    while the teachers stand still (a finite difference, section 5) must give them: `detach` stops a
    derivative, it does not stop a difference.
    """
    teacher_logits = logits if teacher_logits is None else teacher_logits
    mask = teaches(len(logits), teachers).to(logits.device)
    kd = distillation(logits, teacher_logits, temperature) * mask
    return cross_entropies(logits, labels), kd


# --------------------------------------------------------------------------------------------------
# 4. Learnable loss weights, and the loss they make
#
# One weight for each exit's cross-entropy and one for each ordered (student, teacher) pair, learned
# with the network [paper, reported].


class LossWeights(nn.Module):
    """Omega -> w.

    w_m     = 2 sigmoid(Omega_m)
    w_{m,t} = 2 sigmoid(Omega_{m,t}) / (number of m's teachers)                               [ours]

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
        return 2 * torch.sigmoid(self.ce), 2 * torch.sigmoid(self.kd) * self.share


@torch.no_grad()
def set_depth_weights(loss_weights):
    """PABEE's fixed weights, w_m proportional to m, as a place in Omega: w_m = 2 m / (M + 1).

    Their mean is 1, so that the balance with distillation is that of the uniform sum.
    """
    M = len(loss_weights.ce)
    loss_weights.ce.copy_(torch.logit(torch.arange(1, M + 1) / (M + 1)))


def objective(ce, kd, w_ce, w_kd):
    """L = sum_m w_m CE_m + sum_{m != t} w_{m,t} KD_{m<-t}.   -> scalar"""
    return (w_ce * ce).sum() + (w_kd * kd).sum()


# --------------------------------------------------------------------------------------------------
# 5. The hypergradient: how does the held-out loss depend on the loss weights?
#
# The weights cannot be judged by L itself. L is linear in w and every term is non-negative, so
# dL/dw_k = l_k >= 0, and descending L lowers every weight, whatever its term is good for. They are
# judged by a loss that does not contain them, after the step that they caused:
#
#     Theta'(Omega) = Theta - xi * grad_Theta L(D1; Theta, Omega)                 the look-ahead
#     G(Omega)      = F(D2; Theta'(Omega)) + lambda * F(D1; Theta'(Omega))        the judgement
#
# lambda = 0 is plain bi-level optimization as in DARTS; HDKD (AAAI 2021) learns weights of exits
# that teach in that way. lambda > 0 is our reading of the paper's cross-level optimization, whose
# update of the weights draws gradient information from both splits [reported]; the paper's exact
# update and its coefficient are unknown [ours]. To mix two splits by a lambda is MiLeNAS's idea
# (CVPR 2020; without a look-ahead, and lambda stands at the held-out part).
#
# Why grad_Omega G is cheap. L is linear in w, so with v = grad G(Theta') the chain rule gives
#
#     dG/dw_k = < v, dTheta'/dw_k > = -xi < v, grad l_k(Theta) >
#
# In words: a loss term gains weight exactly when its gradient agrees with v, so that a small step
# that lowers the term lowers the judgement too. All K inner products are the derivative of ONE
# vector function, the terms l(Theta) = (l_1 .. l_K), in ONE direction, v. No loop over terms, no
# second-order graph.
#
# Two questions that every reader asks. Is there a first-order shortcut, as in DARTS? No: F does not
# contain Omega, so without the look-ahead its gradient is exactly zero. Why not look ahead through
# AdamW, which takes the real step? A fresh Adam's step does not depend on the size of the gradient,
# so the derivative nearly vanishes. Later it would not, and then plain SGD, as in DARTS, is a
# simplification [ours]: Theta' is not where the network goes, by AdamW and clipped.


def logits_at(model, theta, batch):
    """The model's logits with parameters theta in place of its own, which stay as they are."""
    inputs = (batch.input_ids, batch.token_type_ids, batch.attention_mask)
    return functional_call(model, theta, inputs)  # (M, B, C)


def lower_logits(model, theta, d1, seed):
    """Logits on D1 with the dropout masks that belong to seed.

    The terms l(Theta) are needed more than once, and must be the same function each time. (The
    CPU's generator is put back: it draws the next seed. A GPU's draws nothing but dropout.)
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return logits_at(model, theta, d1)


def lower_level(model, loss_weights, d1, temperature):
    """One pass over D1 -> (ce, kd), L, logits (M, B, C), and the seed that repeats the pass."""
    seed = int(torch.randint(2**62, ()))
    logits = lower_logits(model, dict(model.named_parameters()), d1, seed)
    ce, kd = loss_terms(logits, d1.labels, loss_weights.teachers, temperature)
    return (ce, kd), objective(ce, kd, *loss_weights()), logits, seed


def upper_loss(model, theta, d1, d2, lam):
    """G = F(D2; theta) + lam * F(D1; theta) with F(D) = mean_m CE_m(D).   -> scalar

    Without dropout [ours]: dropout is a means of training; the judgement is about the network that
    will be used, and a judge should not throw dice.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    loss = cross_entropies(logits_at(model, theta, d2), d2.labels).mean()
    if lam:
        loss = loss + lam * cross_entropies(logits_at(model, theta, d1), d1.labels).mean()
    for module, training in modes:
        module.training = training
    return loss


def derivative_forward(terms, theta, v):
    """d/ds terms(theta + s v) at s = 0, exactly: one pass that carries the derivative along."""
    return jvp(terms, (theta,), (v,))[1]


@torch.no_grad()
def derivative_difference(terms, theta, v):
    """( terms(theta + eps v) - terms(theta - eps v) ) / (2 eps): two ordinary passes.

    An approximation. Its error is eps^2 / 6 times a third derivative plus rounding divided by eps;
    with DARTS's eps = 0.01 / ||v|| about 1e-3 of the result in float32. The parameters themselves
    are never touched: adding and subtracting eps v in place would not restore them to the bit.
    """
    norm = torch.stack([(x * x).sum() for x in v.values()]).sum().sqrt().item()
    eps = 0.01 / (norm or 1.0)  # v = 0: the judgement is flat here, and so is the difference
    plus = terms({name: theta[name] + eps * v[name] for name in theta})
    minus = terms({name: theta[name] - eps * v[name] for name in theta})
    return [(a - b) / (2 * eps) for a, b in zip(plus, minus, strict=True)]


# Where does the time go? Into matrix products. Count one pass forward as 1 and one backward as 2,
# since every product Y = X W has two in its derivative: a plain step costs 3, a bi-level step 3 for
# grad L, 3 for v, and then 3 for derivative_forward: for each product Y, dX W and X dW. But Y, at
# the same theta with the same dropout, was in the first pass already. Who remembers it pays 2.
# Tensor operations can be overheard by a TorchFunctionMode, so the model need not know; all that is
# not a product is cheap, and is computed again.

PRODUCTS = (F.linear, torch.Tensor.matmul)  # `x @ y` comes by as Tensor.matmul
SCALINGS = (torch.Tensor.mul, torch.Tensor.div)  # `x * y`, `x / y`


class Remember(TorchFunctionMode):
    """Inside `with Remember(products):` the result of each product is appended to the list."""

    def __init__(self, products):
        super().__init__()
        self.products = products

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function in PRODUCTS:
            self.products.append(result.detach())
        return result


class Recall(Remember):
    """Inside, a product of dual numbers takes its value from the list; its derivative is new.

    Scaling by what has no derivative is done here too, only because torch takes 0.1 ms over it.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function not in PRODUCTS + SCALINGS:
            return function(*args, **(kwargs or {}))
        (x, dx), (w, dw), *bias = (
            forward_ad.unpack_dual(arg) if torch.is_tensor(arg) else (arg, None) for arg in args
        )
        if function in PRODUCTS:
            derivative = function(x, dw, *(db for _, db in bias))  # X dW (+ db)
            if dx is not None:
                derivative = derivative + function(dx, w)  # dX W
            return forward_ad.make_dual(self.products.pop(0), derivative)
        if dx is None or dw is not None:
            return function(*args)
        return forward_ad.make_dual(function(x, w), function(dx, w))


METHODS = ("reuse", "forward", "unrolled", "difference")


def cross_level(
    model, loss_weights, d1, d2, step_size, lam=1.0, method="reuse", temperature=1.0,
    d1_judge=None, average=list,
):  # fmt: skip
    """All that one step needs from one problem -> (ce, kd), grad_Theta L(D1), grad_Omega G.

    The gradients are lists, in the order of model.parameters() and of loss_weights.parameters().
    The gradient of L is computed for the look-ahead and serves for the real step as well. Nothing
    of the model is changed, neither parameters nor .grad. d1_judge: the examples of D1 that F(D1)
    is made of, by default all of d1, the step's own [ours]. They favour the cross-entropies: a step
    that fits an example lowers its loss. average: where several processes share a batch, each with
    the same number of examples, this makes the mean over them of a list of tensors; not for
    `unrolled`.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, not {method!r}")
    d1_judge = d1 if d1_judge is None else d1_judge
    theta, omega = dict(model.named_parameters()), list(loss_weights.parameters())
    unrolled, products = method == "unrolled", []
    with Remember(products) if method == "reuse" else nullcontext():
        (ce, kd), loss, logits, seed = lower_level(model, loss_weights, d1, temperature)
    gradient = average(torch.autograd.grad(loss, list(theta.values()), create_graph=unrolled))
    pairs = zip(theta.items(), gradient, strict=True)
    ahead = {name: p - step_size * g for (name, p), g in pairs}  # Theta'

    if unrolled:
        # The definition: Theta' is a function of Omega, and autograd differentiates through it.
        judgement = upper_loss(model, ahead, d1_judge, d2, lam)
        hyper = torch.autograd.grad(judgement, omega, materialize_grads=True)
    else:
        # The formula: v, then < v, grad l_k > for all k, then the chain rule through w(Omega).
        ahead = {name: p.detach().requires_grad_() for name, p in ahead.items()}
        judgement = upper_loss(model, ahead, d1_judge, d2, lam)
        v = average(torch.autograd.grad(judgement, list(ahead.values())))
        v = dict(zip(ahead, v, strict=True))
        theta = {name: p.detach() for name, p in theta.items()}
        teacher = logits.detach()

        def terms(theta):
            logits = lower_logits(model, theta, d1, seed)
            return loss_terms(logits, d1.labels, loss_weights.teachers, temperature, teacher)

        derivative = derivative_difference if method == "difference" else derivative_forward
        with Recall(products) if method == "reuse" else nullcontext():
            inner = derivative(terms, theta, v)  # (M,) and (M, M)
        w = loss_weights()
        dw = [(-step_size * x).to(w[0].dtype) for x in average(inner)]  # dG/dw_k
        hyper = torch.autograd.grad(w, omega, grad_outputs=dw)
    return (ce.detach(), kd.detach()), [g.detach() for g in gradient], list(hyper)


def hypergradient(model, loss_weights, d1, d2, step_size, lam=1.0, method="reuse", temperature=1.0):
    """grad_Omega [ F(D2; Theta') + lam * F(D1; Theta') ] -> tensors as loss_weights.parameters().

    d1, d2: batches with input_ids, token_type_ids, attention_mask (B, T) and labels (B,). step_size
    is xi. method: `reuse`, exact and fast; `forward`, the same without the trick; `unrolled`, the
    definition, as fast but with the graph of a gradient in memory; `difference`, approximate.
    ValueError for another method.
    """
    return cross_level(model, loss_weights, d1, d2, step_size, lam, method, temperature)[2]


# --------------------------------------------------------------------------------------------------
# 6. One training step
#
# Three ways to choose Omega, so that the paper's claim can be tested and not only repeated, and one
# that leaves it alone:
#
#     single    Omega <- Omega - eta grad_Omega L(D1; Theta, Omega)             every weight falls
#     bilevel   Omega <- Omega - eta grad_Omega F(D2; Theta'(Omega))                         DARTS
#     cross     Omega <- Omega - eta grad_Omega [ F(D2; Theta') + lambda F(D1; Theta') ]      [ours]
#     fixed     Omega stays


def gradients(model, loss_weights, d1, d2, optimize, **options):
    """-> (ce, kd), grad_Theta L(D1), and what Omega descends: a list, or None if it stays.

    d2 is read by bilevel and cross only. options: those of cross_level.
    """
    if optimize in ("bilevel", "cross"):
        if optimize == "bilevel":
            options["lam"] = 0.0
        return cross_level(model, loss_weights, d1, d2, **options)
    if optimize not in ("single", "fixed"):
        raise ValueError(f"optimize must be single, bilevel, cross or fixed, not {optimize!r}")
    (ce, kd), loss, _, _ = lower_level(model, loss_weights, d1, options.get("temperature", 1.0))
    theta, omega = list(model.parameters()), list(loss_weights.parameters())
    both = options.get("average", list)(torch.autograd.grad(loss, theta + omega))
    hyper = both[len(theta) :] if optimize == "single" else None
    return (ce.detach(), kd.detach()), both[: len(theta)], hyper


def not_finite(ce, kd, norm):
    """Name what is wrong: the first term that is not finite, else a gradient."""
    names = [f"CE_{m}" for m in range(1, len(ce) + 1)]
    names += [f"KD_{m}<-{t}" for m in range(1, len(ce) + 1) for t in range(1, len(ce) + 1)]
    for name, x in zip(names, [*ce.tolist(), *kd.flatten().tolist()], strict=True):
        if not math.isfinite(x):
            return f"{name} is {x}"
    which = "hypergradient" if math.isfinite(norm) else "gradient of L"
    return f"the {which} is not finite, though all terms of L are"


def training_step(
    model, loss_weights, theta_optimizer, omega_optimizer, d1, d2, optimize, max_norm, **options
):
    """Update Theta and Omega once, both from the same point [ours] -> ce (M,), kd (M, M) on D1.

    FloatingPointError, before any parameter is changed, if a gradient is not finite.
    """
    (ce, kd), gradient, hyper = gradients(model, loss_weights, d1, d2, optimize, **options)
    for p, g in zip(model.parameters(), gradient, strict=True):
        p.grad = g
    norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    if not torch.isfinite(norm + sum(g.abs().sum() for g in hyper or [])):
        ce, kd = options.get("average", list)([ce, kd])
        raise FloatingPointError(not_finite(ce, kd, norm.item()))
    theta_optimizer.step()
    theta_optimizer.zero_grad()  # frees the gradient: the next step makes its own
    if hyper is not None:
        for p, g in zip(loss_weights.parameters(), hyper, strict=True):
            p.grad = g
        omega_optimizer.step()
    return ce, kd


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
    log_p = F.log_softmax(history[-1], dim=-1)  # (B, C)
    return -(log_p.exp() * log_p).sum(dim=-1) / math.log(history.shape[-1]) < threshold


def confidence_rule(history, threshold):
    """Leave when the largest probability > threshold."""
    return history[-1].softmax(dim=-1).amax(dim=-1) > threshold


AGREE = 0.25  # a twentieth of the scale of STS-B, GLUE's one regression [ours]


def patience_rule(history, threshold):
    """Leave when the prediction has repeated that of the exit before `threshold` times in a row.

    PABEE. The earliest exit is number threshold + 1. Two numbers repeat each other if they differ
    by less than AGREE, as in PABEE; two classes if they are the same.
    """
    if len(history) < threshold + 1:
        return torch.zeros(history.shape[1], dtype=torch.bool, device=history.device)
    predictions = answers(history[-int(threshold) - 1 :])  # (threshold + 1, B)
    return (predictions.diff(dim=0).abs() < AGREE).all(dim=0)


RULES = {"entropy": entropy_rule, "confidence": confidence_rule, "patience": patience_rule}


@torch.inference_mode()
def early_exit(model, batch, rule, threshold):
    """Predict each example at the first exit where the rule lets it leave, or at the last exit.

    -> predictions (B,), exit_layer (B,), 1-based. Whoever has left is taken out of the batch before
    the next layer, so a batch of any size gets cheaper, and its answers are those of one example at
    a time, up to rounding. Call model.eval() first. ValueError for an unknown rule, and for one
    that needs the probabilities of classes where C = 1.
    """
    if rule not in RULES:
        raise ValueError(f"rule must be one of {', '.join(RULES)}, not {rule!r}")
    bert, M, C = model.bert, len(model.exits), model.exits[0].out_features
    if C == 1 and rule != "patience":
        raise ValueError(f"rule {rule} needs the probabilities of classes; a regression has none")
    hidden = bert.embed(batch.input_ids, batch.token_type_ids)  # (B, T, H)
    bias = bert.attention_bias(batch.attention_mask)  # (B, 1, 1, T)
    inside = torch.arange(len(hidden), device=hidden.device)  # who is still in the batch
    predictions, exit_layer = answers(hidden.new_zeros(len(hidden), C)), torch.full_like(inside, M)
    history = hidden.new_zeros(0, len(hidden), C)  # (m, B, C)
    for m, (layer, exit) in enumerate(zip(bert.layers, model.exits, strict=True), start=1):
        hidden = layer(hidden, bias)
        history = torch.cat([history, exit(hidden[:, 0])[None]])
        leave = RULES[rule](history, threshold) if m < M else torch.ones_like(inside).bool()
        if not leave.any():
            continue
        predictions[inside[leave]] = answers(history[-1, leave])
        exit_layer[inside[leave]] = m
        if leave.all():
            break
        stay = ~leave
        hidden, bias, inside, history = hidden[stay], bias[stay], inside[stay], history[:, stay]
    return predictions, exit_layer


def exits_from_logits(logits, rule, threshold):
    """What early_exit answers, from the logits (M, N, C) of all exits: many thresholds, one pass.

    -> predictions (N,), exit_layer (N,), up to the rounding of another batch. It passes all layers,
    so there is no time to be measured here.
    """
    M, N, _ = logits.shape
    examples = torch.arange(N, device=logits.device)
    exit_layer = torch.full_like(examples, M)
    for m in range(M - 1, 0, -1):  # the earliest comes last, and stays
        exit_layer[RULES[rule](logits[:m], threshold)] = m
    return answers(logits[exit_layer - 1, examples]), exit_layer


if __name__ == "__main__":
    from support.sentence import main

    main(MultiExitBert, exits_from_logits)
