"""experiments/liar.py: only one teacher lies, only as a teacher, and its weight is read rightly."""

import sys

import numpy as np
import pytest
import torch
from conftest import ROOT
from torch.nn.functional import kl_div

import leebert
from data import Batch

sys.path.insert(0, str(ROOT / "experiments"))

import liar  # noqa: E402
import methods  # noqa: E402


def test_only_the_liar_as_a_teacher_is_inverted(monkeypatch):
    """Of two classes each gets the other's probability; cross-entropies know nothing of it."""
    torch.manual_seed(0)
    z, labels = torch.randn(3, 5, 2), torch.tensor([0, 1, 1, 0, 1])
    ce, honest = leebert.loss_terms(z, labels)
    monkeypatch.setattr(leebert, "distillation", liar.lying(2))
    lied_ce, kd = leebert.loss_terms(z, labels)
    assert torch.equal(lied_ce, ce) and torch.equal(kd[:, [0, 2]], honest[:, [0, 2]])
    inverted = z[1].softmax(dim=-1)[:, [1, 0]]
    for m in (0, 2):
        expected = kl_div(z[m].log_softmax(dim=-1), inverted, reduction="batchmean")
        torch.testing.assert_close(kd[m, 1], expected)
    d2 = Batch(*torch.zeros(3, 5, 1, dtype=torch.long), labels)
    model = torch.nn.Linear(1, 1)
    monkeypatch.setattr(leebert, "functional_call", lambda *_: z)
    J = leebert.judge_loss(model, {}, leebert.Batches(None, d2), leebert.Hyper(0.1, lam=0.0))
    torch.testing.assert_close(J, ce.mean())  # the judge is honest


def test_the_weight_of_the_lie_is_the_mean_over_its_students():
    """1 at the uniform sum, whether one exit teaches or all do."""
    for teachers in ("last", "all"):
        w_kd = leebert.LossWeights(6, teachers)()[1].tolist()
        assert liar.of_the_lie(w_kd, 6) == pytest.approx(1)
    w_kd = np.zeros((3, 3))
    w_kd[:2, 2] = 0.2, 0.4
    assert liar.of_the_lie(w_kd, 3) == pytest.approx(0.3)


def test_the_table_and_the_picture(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    exits = [{"acc": 0.5 + m / 20, "loss": 0.6 - m / 10} for m in range(6)]
    w_ce, w_kd = leebert.LossWeights(6, "last")()
    weights = {"ce": w_ce.tolist(), "kd": w_kd.tolist()}
    log = [{"step": step, "w_ce": weights["ce"], "w_kd": weights["kd"]} for step in (8, 16)]
    runs = dict.fromkeys(liar.METHODS, ({"exits": exits, "weights": weights}, log))
    liar.table(runs, 6)
    rows = capsys.readouterr().out.splitlines()
    assert rows[-1].split() == "cross 0.50 0.55 0.60 0.65 0.70 0.75 0.625 0.350 1.00 1.00".split()
    liar.draw(runs, 6, tmp_path / "liar.png")
    assert (tmp_path / "liar.png").read_bytes().startswith(b"\x89PNG")


def test_with_one_teacher_only_the_last_exit_can_lie(call):
    done = call(lambda: liar.command(liar.main), "--which=3")
    assert done.returncode == 2 and "--which 3: only exit 6 teaches" in done.stderr


def test_a_fifth_of_the_labels_is_wrong():
    task, honest = methods.with_wrong_labels("toy"), {}
    for example in methods.LOAD_TASK("toy").train:
        honest[example.text_a] = example.label
    wrong = [e.label != honest[e.text_a] for e in task.train]
    assert len(wrong) == 3000 and sum(wrong) == 600
