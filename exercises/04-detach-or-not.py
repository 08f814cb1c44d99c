"""Checks 04-detach-or-not.md: the value of KD stays, both sides get a gradient, and the three
hypergradients are those of the new L: -xi < v, grad l_k > with one backward pass for each term.
"""

import torch

import exercises.reference as ref
import leebert
from exercises.common import TAU, compare, gradient, random, require


def check():
    student, teacher = (random(3, 5, 3, seed=s).requires_grad_() for s in (0, 1))
    result = leebert.distillation(student, teacher, TAU)
    expected = ref.kl_pairs(student, teacher, TAU)
    compare("only the gradient should change, not the value: distillation", result, expected)
    direction = random(3, 3, seed=2) * (1 - torch.eye(3, dtype=torch.float64))
    loss, reference = (result * direction).sum(), (expected * direction).sum()
    learns, moves = ((gradient(loss, z) != 0).any() for z in (student, teacher))
    require(learns, "now the student is detached: it gets no gradient")
    require(moves, "not started: distillation is still the original, teachers get no gradient")
    for who, z in (("student", student), ("teacher", teacher)):
        compare(f"the {who}'s gradient", gradient(loss, z), gradient(reference, z))

    model, weights, batches = ref.small_problem()
    xi, lam, d1 = 0.1, 0.7, batches.d1
    v = ref.judge_gradient(ref.look_ahead(model, weights, d1, xi, detach=False), batches, lam)

    def hyper(detach):
        g = ref.term_gradients(model, weights, d1, detach)
        return ref.through_weights(weights, [-xi * (x @ v) for x in g])

    for form, tolerance in (("unrolled", 1e-9), ("jvp", 1e-9), ("difference", 1e-5)):
        what = f"the hypergradient of form {form!r}"
        sentence = f"distillation is right, but in {what} the teachers still stand still: follow "
        sentence += "`teacher_logits` on its way to distillation"
        result = leebert.hypergradient(model, weights, batches, leebert.Hyper(xi, lam, form=form))
        compare(what, result, hyper(detach=False), [(sentence, hyper(detach=True))], tolerance)
