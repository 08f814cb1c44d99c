"""Checks 01-hypergradient.md: both functions against the definition, `unrolled`, in float64."""

import copy
from unittest.mock import patch

import torch

import exercises.reference as ref
import leebert
from exercises.common import Wrong, compare, require
from exercises.my_hypergradient import by_direction, by_loop

XI, LAM = 0.3, 0.7


def usual_mistakes(right, model, weights, batches):
    """Pairs (sentence, hypergradient with this mistake)."""
    d1 = batches.d1
    ahead, moving_ahead = (ref.look_ahead(model, weights, d1, XI, x) for x in (True, False))
    g, moving = (ref.term_gradients(model, weights, d1, detach) for detach in (True, False))
    v = ref.judge_gradient(ahead, batches, LAM)

    def dw(g, v):
        return [-XI * (x @ v) for x in g]

    def hyper(g, v):
        return ref.through_weights(weights, dw(g, v))

    teachers = "the teachers move: each must be held fixed at its logits at Theta"
    gates = [torch.sigmoid(x) for x in weights.parameters()]
    number = "the slope of w_{m,t} lacks the number of m's teachers, or has it in a wrong place"
    slope = "this is dJ/dw; Omega stands inside a sigmoid, and the slope of the gate is missing"
    return [
        ("the sign is wrong: Theta' goes against the gradient of a term", [-x for x in right]),
        ("the factor xi is missing", [x / XI for x in right]),
        (slope, dw(g, v)),
        (slope, [x * s for x, s in zip(dw(g, v), (1, weights.share), strict=True)]),
        (number, [x * 2 * s * (1 - s) for x, s in zip(dw(g, v), gates, strict=True)]),
        (number, [x * w * (2 - w) / 2 for x, w in zip(dw(g, v), weights(), strict=True)]),
        ("the judge's gradient v belongs to Theta', after the look-ahead; yours is taken at Theta",
         hyper(g, ref.judge_gradient(model, batches, LAM))),
        ("the gradients of the terms belong to Theta, where the step starts; yours are taken at "
         "Theta'", hyper(ref.term_gradients(ahead, weights, d1), v)),
        (teachers, hyper(moving, v)),
        (teachers, hyper(moving, ref.judge_gradient(moving_ahead, batches, LAM))),
        ("lambda F(D1) is missing in J", hyper(g, ref.judge_gradient(ahead, batches, 0.0))),
        ("the judge's examples of D1 are d1_judge; yours are those of the step",
         hyper(g, ref.judge_gradient(ahead, batches._replace(d1_judge=d1), LAM))),
    ]  # fmt: skip


def check():
    problem = model, weights, _ = ref.small_problem()
    right = leebert.hypergradient(*problem, leebert.Hyper(XI, LAM))
    mistakes, before = usual_mistakes(right, *problem), copy.deepcopy(model.state_dict())
    for function, tolerance in ((by_loop, 1e-9), (by_direction, 1e-6)):
        name = function.__name__
        with patch("torch.autograd.grad", wraps=torch.autograd.grad) as backward:
            try:
                result = function(*problem, leebert.Hyper(XI, LAM))
            except NotImplementedError:
                done = "by_loop is right; " if function is by_direction else ""
                raise Wrong(f"{done}not started: {name} in my_hypergradient.py") from None
        second = any(c.kwargs.get("create_graph") or c.args[4:] for c in backward.call_args_list)
        require(not second, f"{name} differentiates a gradient; do without create_graph=True")
        same = all(torch.equal(p, before[key]) for key, p in model.state_dict().items())
        require(same, f"{name} changes the model's parameters")
        clean = all(p.grad is None for p in model.parameters())
        require(clean, f"{name} leaves something in .grad; torch.autograd.grad does not")
        found = [(f"{name}: {sentence}", mistake) for sentence, mistake in mistakes]
        compare(name, result, right, found, tolerance)
    K, passes = len(right[0]) ** 2, backward.call_count
    sentence = f"by_direction is right, but makes {passes} backward passes for {K} terms"
    require(passes < K, f"{sentence}: one derivative of the vector of terms along v is enough")
