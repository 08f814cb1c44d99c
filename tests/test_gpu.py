"""What only a CUDA GPU can show: `pytest -m gpu` runs these there, and nothing else does."""

import copy

import pytest
import torch
from conftest import fail_in, random_batch, read_log, tiny_model
from test_hypergradient import every_form, ours, problem

import train
from data import Batch
from leebert import Batches, early_exit

without_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
pytestmark = [pytest.mark.gpu, without_gpu]


def on(device, dropout):
    """-> model, loss weights and Batches, the same numbers on every device."""
    model, weights, batches = problem(dropout=dropout)
    batches = Batches(*(Batch(*(x.to(device) for x in batch)) for batch in batches))
    return model.to(device), weights.to(device), batches


@pytest.mark.parametrize("dropout, devices", [(0.0, ("cuda", "cpu")), (0.3, ("cuda", "cuda"))])
@every_form
def test_all_forms_agree(form, dropout, devices):
    """In float64, with the CPU; with dropout, whose masks each device draws by itself, on the GPU.

    The same seed must then give the same masks in every form.
    """
    results = []
    for device, one in zip(devices, (form, "unrolled"), strict=True):
        case = on(device, dropout)
        torch.manual_seed(3)
        results.append([x.cpu() for x in ours(case, one)])
    torch.testing.assert_close(*results, atol=1e-8, rtol=0)


@pytest.mark.parametrize("rule, threshold", [("entropy", 0.8), ("patience", 1), ("always", 2)])
def test_leaving_early_does_not_depend_on_the_batch(rule, threshold):
    model = tiny_model(layers=4).eval()
    batch = random_batch(64, 9)
    expected = early_exit(model, batch, rule, threshold)
    model = copy.deepcopy(model).cuda()
    for size in (1, 7, 64):
        parts = [Batch(*(x[i : i + size].cuda() for x in batch)) for i in range(0, 64, size)]
        found = zip(*(early_exit(model, part, rule, threshold) for part in parts), strict=True)
        for parts, whole in zip(found, expected, strict=True):
            assert torch.equal(torch.cat(parts).cpu(), whole)


def test_a_run_is_interrupted_and_resumed(tmp_path, monkeypatch):
    """Thirty steps; Ctrl-C in the middle of the twentieth, after a checkpoint."""
    monkeypatch.setattr(train, "CHECKPOINT_INTERVAL", 1e-3)
    fail_in(monkeypatch, 20, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        train.run(train.parse(["--device=cuda", "--train-examples=1920", f"--out={tmp_path}"]))
    folder = train.run(train.parse([f"--resume={tmp_path}"]))
    assert len(read_log(folder)) == 3 and (folder / "result.json").exists()
