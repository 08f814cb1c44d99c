"""docs/hypergradient.md says what the code computes: in its examples, by hand, in its formulas."""

import math
import re
import sys
from pathlib import Path

import pytest
import torch

from leebert import LossWeights, hypergradient, loss_terms, objective

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "docs"))

import two_exits  # noqa: E402
from two_exits import (  # noqa: E402
    TERMS,
    F,
    TwoExits,
    adam_ahead,
    flat,
    grad_F,
    gradients,
    knob,
    labelled,
    terms,
)

PAGE = (ROOT / "docs" / "hypergradient.md").read_text(encoding="utf-8")
# The indented lines, cut at each "=": formulas, and what is computed by hand.
LINES = [
    [side.strip() for side in re.split(r" >?= ", re.sub(r" +\(\d\)$", "", line))]
    for line in PAGE.splitlines()
    if line.startswith("    ")
]
XI = 4 / 3 * math.log(2)
D1, D2 = labelled(1, 1, 1, 0), labelled(1, 1, 1, 1, 0)


def own():
    return TwoExits(-math.log(3), 0.0)


def shared():
    return TwoExits(-math.log(3), math.log(3), shared=True)


def split(w):
    """Weights in the order of TERMS (K,) -> w_ce (M,), w_kd (M, M)."""
    nothing = torch.zeros_like(w[0])
    return w[:2], torch.stack([nothing, w[2], w[3], nothing]).view(2, 2)


def sgd_step(model, w, xi):
    """Theta' by backward through leebert.objective and torch.optim.SGD."""
    ahead = TwoExits(*model.theta.tolist(), model.shared)
    objective(*loss_terms(ahead(*D1[:3]), D1.labels), *split(w)).backward()
    torch.optim.SGD(ahead.parameters(), lr=xi).step()
    return ahead


def test_the_examples(capsys):
    wrong, report = two_exits.check(), capsys.readouterr().out
    assert wrong == 0, report
    assert int(re.search(r"(\d+) examples", report)[1]) >= 30


# --------------------------------------------------------------------------------------------------
# By hand


def arithmetic(text):
    """The numbers that a piece of arithmetic makes; None if it is not arithmetic."""
    names = {"__builtins__": {}, "xi": XI, "log": math.log, "exp": math.exp, "sqrt": math.sqrt}
    try:
        return torch.tensor(eval(text, names), dtype=torch.float64).flatten()
    except (SyntaxError, NameError, TypeError):
        return None


def rounding(text):
    """Half of the last digit of a number with a decimal point; else what float64 may lose."""
    decimals = re.fullmatch(r"-?\d+\.(\d+)", text)
    return 0.5 * 10.0 ** -len(decimals[1]) if decimals else 1e-12


def test_what_is_computed_by_hand_is_computed_right():
    count = 0
    for line in LINES:
        sides = [text for text in line if arithmetic(text) is not None]
        for first, second in zip(sides[:-1], sides[1:], strict=True):
            difference = (arithmetic(first) - arithmetic(second)).abs().max()
            assert difference <= rounding(second), " = ".join(line)
            count += 1
    assert count >= 30


def computed(model):
    """Left sides of the page -> what the code computes for them."""
    g, after = gradients(model, D1), sgd_step(model, knob(0), XI)
    v, omega = grad_F(after, D2), LossWeights(2).double()
    slope = flat(hypergradient(model, omega, D1, D2, XI, 0.0))[0]
    start = model.theta.tolist()
    ahead, back = (TwoExits(start[0] + s * float(v[0]), start[1]) for s in (0.04, -0.04))
    result = {f"grad {name}": gradient for name, gradient in zip(TERMS, g, strict=True)}
    result |= {f"< v, grad {name} >": x @ v for name, x in zip(TERMS, g, strict=True)}
    result |= {"g": g.sum(dim=0), "Theta'": after.theta, "P'": after.P(), "v": v}
    result |= {"dJ/dw for CE_1": 2 * slope, "dJ/dOmega for CE_1": slope, "||v||": v.norm()}
    if not model.shared:
        result["error"] = (terms(ahead, D1) - terms(back, D1))[0] / 0.08 - g[0] @ v
    return result | {"v(D1)": grad_F(after, D1), "v(D2)": grad_F(after, labelled(1, 0, 0))}


def test_what_is_computed_by_hand_is_what_the_code_computes():
    """A name that stands there a second time is about exits that share a layer."""
    results, seen = (computed(own()), computed(shared())), []
    for line in LINES:
        if line[0] in results[0] and arithmetic(line[-1]) is not None:
            again = line[0] in seen
            result = results[again][line[0]].detach().flatten()
            difference = (arithmetic(line[-1]) - result).abs().max()
            assert difference <= rounding(line[-1]), " = ".join(line)
            seen.append(line[0])
    assert set(seen) == set(results[0])
    assert len(seen) == len(results[0]) + 7  # v, two gradients and four inner products


# --------------------------------------------------------------------------------------------------
# The formulas, read from the page and evaluated


def formula(left, **values):
    """The last right side of `left`, with g the gradients (K, 2) or one number."""
    (right,) = [line[-1] for line in LINES if line[0] == left and arithmetic(line[-1]) is None]
    for old, new in (
        (r"< v, grad l_k >", "(g @ v)"),
        (r"sum_k w_k grad l_k", "(w @ g)"),
        (r"grad l_k", "g"),
        (r"\|g\|", "abs(g)"),
        (r"\^", "**"),
        (r"lambda", "lam"),
        (r"(?<=[\w)]) (?=[\w(])", " * "),  # what stands side by side is multiplied
    ):
        right = re.sub(old, new, right)
    return eval(right, values)


def close(a, b, tolerance=1e-12):
    a, b = (torch.as_tensor(x, dtype=torch.float64).detach() for x in (a, b))
    torch.testing.assert_close(a, b, atol=tolerance, rtol=0)


def test_the_formulas_of_the_gradients():
    model, (p_1, p_2) = own(), own().P()
    g = gradients(model, D1)
    close(formula("d CE_m / d theta_m", P_m=p_1, q=3 / 4), g[0, 0])
    close(formula("d CE_m / d theta_m", P_m=p_2, q=3 / 4), g[1, 1])
    close(formula("d KD_{m<-t} / d theta_m", P_m=p_1, P_t=p_2), g[2, 0])
    close(formula("d KD_{m<-t} / d theta_m", P_m=p_2, P_t=p_1), g[3, 1])


def test_the_formulas_of_the_trap_and_of_the_judge():
    assert ["dL/dw_k", "l_k", "0"] in LINES
    model, w = own(), knob(0).requires_grad_()
    slopes = torch.autograd.grad(objective(*loss_terms(model(*D1[:3]), D1.labels), *split(w)), w)[0]
    close(slopes, terms(model, D1))
    assert (slopes >= 0).all()
    ce, _ = loss_terms(model(*D2[:3]), D2.labels)
    close(formula("F(D)", CE_1=ce[0], CE_2=ce[1]), F(model, D2))


@pytest.mark.parametrize("make", [own, shared])
def test_the_formulas_of_the_hypergradient(make):
    """Against torch.optim.SGD, turned knobs, and leebert.hypergradient by the definition."""
    model, w = make(), torch.tensor([1.3, 0.4, 0.7, 1.1], dtype=torch.float64)
    g = gradients(model, D1)
    theta = formula("Theta'(w)", Theta=model.theta, xi=0.3, w=w, g=g)
    close(theta, sgd_step(model, w, 0.3).theta)

    thetas = [[sgd_step(model, knob(k, h), XI).theta for h in (0.5, -0.5)] for k in range(4)]
    close(formula("dTheta'/dw_k", xi=XI, g=g), torch.stack([a - b for a, b in thetas]))

    after, omega = sgd_step(model, knob(0), XI), LossWeights(2).double()
    hyper = hypergradient(model, omega, D1, D2, XI, 0.0, "unrolled")
    close(formula("dJ/dw_k", xi=XI, g=g, v=grad_F(after, D2)) / 2, flat(hyper))

    values = dict(lam=0.7, D1=D1, D2=D2)
    v = formula("v", v=lambda data: grad_F(after, data), **values)
    J = formula("J", F=lambda data: F(after, data), **values)
    close(v, torch.autograd.grad(J, after.theta)[0])
    hyper = hypergradient(model, omega, D1, D2, XI, 0.7, "unrolled")
    close(-XI / 2 * (g @ v), flat(hyper))


def test_the_formulas_of_adam():
    """Against torch.optim.Adam at g = -3/4, and the slope against two of its steps."""
    model, values = own(), dict(alpha=0.9, eps=0.3)

    def step(w):
        return adam_ahead(model, D1, w, **values).theta[0] - model.theta[0]

    close(formula("step", g=-0.75, **values), step(knob(0)))
    h = 1e-5  # of the weight of CE_1, whose gradient is -1/2
    slope = (step(knob(0, h)) - step(knob(0, -h))) / (2 * h * -0.5)
    close(formula("slope", g=-0.75, **values), slope, 1e-8)


# --------------------------------------------------------------------------------------------------
# The pictures


def test_the_pictures_are_those_that_the_script_draws(tmp_path):
    image = pytest.importorskip("matplotlib.image")
    two_exits.draw(tmp_path)
    shown = re.findall(r"\]\((\w+\.png)\)", PAGE)
    assert sorted(shown) == sorted(path.name for path in tmp_path.iterdir())
    for name in shown:
        drawn, kept = (image.imread(folder / name) for folder in (tmp_path, ROOT / "docs"))
        assert drawn.shape == kept.shape
        assert abs(drawn - kept).mean() < 0.005, "run python docs/two_exits.py"
