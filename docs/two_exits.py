"""Two exits with one number each: the code behind hypergradient.md, beside this file.

    python docs/two_exits.py        # checks the page's numbers, then draws its two pictures

The four terms are always in the order of TERMS. The terms, F and the training step are those of
leebert.py. The look-ahead is written out a second time, so that the page compares two things.
"""

import doctest
import sys
from fractions import Fraction
from math import log
from pathlib import Path

import torch
import torch.nn as nn

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))

from data import Batch  # noqa: E402
from leebert import (  # noqa: E402
    Batches,
    Hyper,
    LossWeights,
    cross_entropies,
    hypergradient,
    loss_terms,
    training_step,
)

TERMS = ("CE_1", "CE_2", "KD_{1<-2}", "KD_{2<-1}")


class TwoExits(nn.Module):
    """Exits that look at nothing: exit m gives class 1 the log-odds u_m, whatever the input.

    u_1 = theta_1. u_2 = theta_2; if the exits share a layer, u_2 = theta_1 + theta_2.
    """

    def __init__(self, theta_1, theta_2, shared=False):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor([theta_1, theta_2], dtype=torch.float64))
        self.shared = shared

    def log_odds(self):
        first, second = self.theta
        return torch.stack([first, first + second if self.shared else second])  # (M,)

    def forward(self, input_ids, token_type_ids=None, attention_mask=None):
        u = self.log_odds()
        logits = torch.stack([torch.zeros_like(u), u], dim=-1)  # (M, C)
        return logits[:, None].expand(-1, len(input_ids), -1)  # (M, B, C)

    def P(self):
        """Probability that each exit gives to class 1: sigmoid(u_m).   -> (M,)"""
        return self.log_odds().detach().sigmoid()


def labelled(*labels):
    """A batch of which only the labels matter."""
    zeros = torch.zeros(len(labels), 1, dtype=torch.long)
    return Batch(zeros, zeros, zeros + 1, torch.tensor(labels))


def terms(model, data):
    """The loss terms l_k, in the order of TERMS.   -> (K,)"""
    return flat(*loss_terms(model(*data[:3]), data.labels))


def gradients(model, data):
    """grad l_k, one backward pass a term.   -> (K, 2)"""
    grads = [torch.autograd.grad(l, model.theta, retain_graph=True)[0] for l in terms(model, data)]
    return torch.stack(grads)  # (K, 2)


def F(model, data):
    """mean_m CE_m"""
    return cross_entropies(model(*data[:3]), data.labels).mean()


def grad_F(model, data):
    """-> (2,)"""
    return torch.autograd.grad(F(model, data), model.theta)[0]


def look_ahead(model, d1, w, xi):
    """The model at Theta' = Theta - xi sum_k w_k grad l_k."""
    theta = model.theta.detach() - xi * (w @ gradients(model, d1))  # (2,)
    return TwoExits(*theta.tolist(), model.shared)


def knob(k, change=0.0):
    """All weights 1, that of term k turned by `change`.   -> (K,)"""
    w = torch.ones(len(TERMS), dtype=torch.float64)
    w[k] += change
    return w


def knob_slope(ahead, k, d2, h=1e-3):
    """dF(D2)/dw_k by turning the knob: ( F at w_k = 1 + h  -  F at w_k = 1 - h ) / (2 h).

    ahead: a function from the weights (K,) to the model after the step.
    """
    more, less = (F(ahead(knob(k, change)), d2).item() for change in (h, -h))
    return (more - less) / (2 * h)


def show(numbers):
    """Print one number for each term."""
    for name, x in zip(TERMS, numbers, strict=True):
        print(f"{name:9}  {x:7.4f}")


def fractions(numbers):
    """Print each number as the fraction that it is; ValueError if it is not one, up to 1/1000."""
    result = []
    for x in numbers.detach().flatten().tolist():
        fraction = Fraction(x).limit_denominator(1000)
        if abs(fraction - x) > 1e-9:
            raise ValueError(f"{x} is not a fraction with a small denominator")
        result.append(str(fraction))
    print("  ".join(result))


def flat(ce, kd):
    """(M,) and (M, M) -> in the order of TERMS (K,)"""
    return torch.stack([ce[0], ce[1], kd[0, 1], kd[1, 0]])  # (K,)


def slopes(model, d1, d2, xi, lam=0.0, form="unrolled"):
    """leebert's hypergradient, dJ/dOmega at Omega = 0. D1 is all there is, so it judges too."""
    omega = LossWeights(2).double()
    return flat(*hypergradient(model, omega, Batches(d1, d2, d1), Hyper(xi, lam, form=form)))


def run(optimize, d1, d2, xi, steps=100):
    """Train Theta and Omega by SGD, with learning rates 0.1 and 3 and lambda = 0.

    -> before each step and after the last: four weights, L, F(D2), P_1, P_2.   (steps + 1, 8)
    """
    model, loss_weights, history = TwoExits(-log(3), 0.0), LossWeights(2).double(), []
    optimizers = [
        torch.optim.SGD(model.parameters(), lr=0.1),
        torch.optim.SGD(loss_weights.parameters(), lr=3.0),
    ]
    for _ in range(steps + 1):
        with torch.no_grad():
            w = flat(*loss_weights())
            L = w @ terms(model, d1)
            history.append(torch.cat([w, L[None], F(model, d2)[None], model.P()]))
        hyper = Hyper(xi, lam=0.0, max_norm=1e9)
        training_step(model, loss_weights, optimizers, Batches(d1, d2), hyper, optimize)
    return torch.stack(history)  # (steps + 1, 8)


def table(history):
    print("step  " + "  ".join(f"{name:>9}" for name in (*TERMS, "L", "F(D2)", "P_1", "P_2")))
    for step in (0, len(history) - 1):
        print(f"{step:>4}  " + "  ".join(f"{x:9.3f}" for x in history[step].tolist()))


def check():
    """Run the page's examples; print those whose result differs.   -> how many are wrong"""
    wrong, examples = doctest.testfile(str(FOLDER / "hypergradient.md"), module_relative=False)
    print(f"hypergradient.md: {examples} examples, {wrong} wrong")
    return wrong


# --------------------------------------------------------------------------------------------------
# The pictures


def draw_plane(axes, model, d1, d2, xi):
    """The plane of the two parameters: F(D2), the step, v, and where each term pulls."""
    ahead = look_ahead(model, d1, knob(0), xi)
    start, there = model.theta.detach(), ahead.theta.detach()
    v, pulls = grad_F(ahead, d2), -gradients(model, d1)  # (2,), (K, 2)

    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    x, y = (torch.linspace(*ends, 61, dtype=torch.float64) for ends in ((left, right), (low, high)))
    height = [[F(TwoExits(a, b, model.shared), d2).item() for a in x.tolist()] for b in y.tolist()]
    lines = axes.contour(x, y, height, levels=10, colors="0.7", linewidths=0.8)
    axes.clabel(lines, lines.levels[::2], fontsize=7, fmt="%.1f")
    uphill = (x - start[0])[None] * v[0] + (y - start[1])[:, None] * v[1]  # < v, . - Theta >
    axes.contourf(x, y, uphill, levels=[0, 99], colors=["0.5"], alpha=0.22)

    def arrow(origin, vector, name, shift, **style):
        end = origin + vector
        style |= dict(arrowstyle="-|>", shrinkA=0, shrinkB=0)
        axes.annotate("", end.tolist(), origin.tolist(), arrowprops=style)
        axes.text(*(end + torch.tensor(shift)).tolist(), name, ha="center")

    def point(at, marker, name, shift):
        axes.plot(*at, marker, color="black", markersize=8)
        axes.text(at[0] + shift[0], at[1] + shift[1], name, ha="center", fontsize=11)

    offsets = ((0, 0.08), (0, 0), (0, -0.08), (0, 0))  # two of the four lie on one line
    names = ((-0.25, 0.06), (0.1, 0.06), (0.12, -0.26), (-0.1, -0.22))
    for name, pull, offset, shift in zip(TERMS, pulls, offsets, names, strict=True):
        gains = pull @ -v > 0
        color, line = ("tab:blue", "-") if gains else ("tab:red", "--")
        origin = start + torch.tensor(offset)
        arrow(origin, 1.6 * pull, name, shift, color=color, linestyle=line, linewidth=2)
    arrow(there, -3 * v, "-v", (0.12, 0.05), color="black", linewidth=3)
    axes.plot(*zip(start, there, strict=True), ":", color="black", linewidth=1.5)
    point(start, "o", "Theta", (-0.3, 0.1))
    point(there, "s", "Theta'", (0.3, -0.12))
    share = d2.labels.double().mean().logit()
    point((share, 0 * share if model.shared else share), "*", "least F(D2)", (0, -0.25))


def draw(folder=FOLDER):
    """Write hypergradient.png and weights.png. ImportError without matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    d1, d2, xi = labelled(1, 1, 1, 0), labelled(1, 1, 1, 1, 0), 4 / 3 * log(2)
    figure, both = plt.subplots(1, 2, figsize=(10, 3.9), layout="constrained")
    for axes, shared, second, low in zip(
        both, (False, True), (0.0, log(3)), (-1, -0.6), strict=True
    ):
        axes.set(xlim=(-2.0, 1.8), ylim=(low, low + 2.7), aspect="equal")
        draw_plane(axes, TwoExits(-log(3), second, shared), d1, d2, xi)
        axes.text(-1.9, low + 0.1, "here: loses", bbox=dict(color="0.88", pad=2))
    figure.suptitle("contours: held-out loss F(D2); arrows from Theta: where each term pulls")
    both[0].set(xlabel="theta_1: exit 1", ylabel="theta_2: exit 2")
    both[1].set(xlabel="theta_1: both exits", ylabel="theta_2: exit 2 only")
    figure.savefig(folder / "hypergradient.png", dpi=80)

    figure, both = plt.subplots(1, 2, figsize=(10, 3.4), sharey=True, layout="constrained")
    for axes, optimize, rule in zip(
        both, ("single", "bilevel"), ("L(D1)", "F(D2) after the step"), strict=True
    ):
        history = run(optimize, d1, d2, xi)  # (steps + 1, 8)
        for k, style in enumerate(("-", "--", "-.", ":")):
            axes.plot(history[:, k], style, linewidth=2, label=TERMS[k])
        axes.set_title(f"{optimize}: the weights descend {rule}", fontsize=10)
        axes.set_xlabel("training step")
    both[0].set(ylabel="weight of the loss term", ylim=(0, 2))
    both[0].legend()
    figure.savefig(folder / "weights.png", dpi=80)
    plt.close("all")


def main():
    wrong = check()
    try:
        draw()
    except ImportError:
        print("no pictures: pip install -r requirements-dev.txt", file=sys.stderr)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
