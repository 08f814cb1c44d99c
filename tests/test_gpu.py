"""What only a CUDA GPU can show: `pytest -m gpu` runs these there, and nothing else does."""

import copy

import pytest
import torch
from conftest import random_batch, tiny_model

import train
from leebert import FORMS, Batches, Hyper, LossWeights, early_exit, hypergradient

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]


def on(device, dropout):
    """-> model, loss weights and Batches, the same numbers on every device."""
    model = tiny_model(dropout=dropout).train().to(device)
    weights = LossWeights(3).double().to(device)
    batches = (random_batch(B, 7, seed=B) for B in (5, 4, 3))
    return model, weights, Batches(*(type(d)(*(x.to(device) for x in d)) for d in batches))


def gradient(device, form, dropout):
    case = on(device, dropout)
    torch.manual_seed(3)
    return [x.cpu() for x in hypergradient(*case, Hyper(0.1, 0.7, form=form))]


@pytest.mark.parametrize("dropout, devices", [(0.0, ("cuda", "cpu")), (0.3, ("cuda", "cuda"))])
@pytest.mark.parametrize("form", FORMS)
def test_all_forms_agree(form, dropout, devices):
    """In float64, with the CPU; with dropout, whose masks each device draws by itself, on the GPU.

    The same seed must then give the same masks in every form.
    """
    found, expected = (
        gradient(devices[0], form, dropout),
        gradient(devices[1], "unrolled", dropout),
    )
    torch.testing.assert_close(found, expected, atol=1e-8, rtol=0)


def test_a_seed_repeats_the_masks():
    model, _, (d1, *_) = on("cuda", dropout=0.3)
    logits = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        logits.append(model(*d1[:3]))
    assert torch.equal(logits[0], logits[1]) and not torch.equal(logits[0], logits[2])


@pytest.mark.parametrize(
    "rule, threshold", [("entropy", 0.8), ("confidence", 0.5), ("patience", 1), ("always", 2)]
)
def test_leaving_early_does_not_depend_on_the_batch(rule, threshold):
    model = tiny_model(layers=4).eval()
    batch = random_batch(64, 9)
    expected = early_exit(model, batch, rule, threshold)
    model = copy.deepcopy(model).cuda()
    for size in (1, 7, 64):
        parts = [type(batch)(*(x[i : i + size].cuda() for x in batch)) for i in range(0, 64, size)]
        found = zip(*(early_exit(model, part, rule, threshold) for part in parts), strict=True)
        for ours, theirs in zip(found, expected, strict=True):
            assert torch.equal(torch.cat(ours).cpu(), theirs)


def test_a_run_is_interrupted_and_resumed(tmp_path, monkeypatch):
    """Thirty steps; Ctrl-C in the middle of the twentieth, after a checkpoint."""
    monkeypatch.setattr(train, "CHECKPOINT_INTERVAL", 1e-3)
    argv = ["--device=cuda", "--train-examples=1920", f"--out={tmp_path}"]
    original, steps = train.training_step, iter(range(1, 100))

    def interrupted(*args, **options):
        if next(steps) == 20:
            raise KeyboardInterrupt
        return original(*args, **options)

    monkeypatch.setattr(train, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train.run(train.parse(argv))
    folder = train.run(train.parse([f"--resume={tmp_path}"]))
    log = (folder / "log.jsonl").read_text().splitlines()
    assert len(log) == 3 and (folder / "result.json").exists()
