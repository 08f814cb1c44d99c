"""How a result is compared with the formula, so that the usual mistakes are named."""

from collections.abc import Sequence

import torch

TAU = 1.7  # not 1, so that a forgotten temperature shows; its square is not another usual factor


class Wrong(Exception):
    """A sentence that says what is wrong."""


def require(condition, sentence):
    if not condition:
        raise Wrong(sentence)


def compare(what, result, expected, mistakes=(), tolerance=1e-9, otherwise=None):
    """Wrong unless result is expected, up to tolerance times its largest entry.

    result, expected: a tensor, or two, as (M,) and (M, M). mistakes: pairs (sentence, what the
    result would be); the first one that fits is said. If none fits: otherwise, or the entry with
    the largest error.
    """
    results, tensors = parts(result), parts(expected)
    if len(results) != len(tensors):
        raise Wrong(f"{what} should be {len(tensors)} tensors, not {type(result).__name__}")
    for a, b in zip(results, tensors, strict=True):
        misshapen(what, a, b)
    for sentence, mistake in [(None, expected), *mistakes]:
        if close(flat(result), flat(mistake), tolerance):
            if sentence:
                raise Wrong(sentence)
            return
    if not flat(result).isfinite().all():
        raise Wrong(f"{what} contains NaN or infinity")
    pairs = [
        (a.detach().double(), b.detach().double()) for a, b in zip(results, tensors, strict=True)
    ]
    a, b = max(pairs, key=lambda pair: (pair[0] - pair[1]).abs().max())
    at = torch.unravel_index((a - b).abs().argmax(), b.shape)
    place = [int(i) for i in at]
    number = f"{what} is {float(a[at]):.6g} at {place}, but the formula gives {float(b[at]):.6g}"
    raise Wrong(otherwise or number)


def parts(result):
    return list(result) if isinstance(result, Sequence) else [result]


def flat(tensors):
    return torch.cat([x.detach().double().flatten() for x in parts(tensors)])


def misshapen(what, result, expected):
    """Wrong unless result is a tensor of the shape of expected, and bool like it."""
    if not isinstance(result, torch.Tensor):
        raise Wrong(f"{what} should be a tensor, not {type(result).__name__}")
    if result.shape != expected.shape:
        raise Wrong(f"{what} has shape {tuple(result.shape)}; expected {tuple(expected.shape)}")
    if expected.dtype == torch.bool and result.dtype != torch.bool:
        raise Wrong(f"{what} is of type {result.dtype}; expected torch.bool")


def close(result, expected, tolerance=1e-9):
    """Equal up to tolerance times the largest entry that is expected."""
    return bool((result - expected).abs().max() <= tolerance * expected.abs().max())


def gradient(scalar, tensor):
    """d scalar / d tensor, zero if it does not depend on it."""
    if not scalar.requires_grad:
        return torch.zeros_like(tensor)
    return torch.autograd.grad(scalar, tensor, retain_graph=True, materialize_grads=True)[0]


def random(*shape, seed=0, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)
