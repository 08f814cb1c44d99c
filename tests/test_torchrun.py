"""Two processes that share every batch end where one process ends."""

import json
import os
import shutil
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from conftest import ROOT, options, read_log, without_clocks
from safetensors.torch import load_file

import train
from bert import load_bert
from data import Batch
from support import processes

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="no torch.distributed")

# float64, so that what differs differs by the formula and not by the order of a sum.
MAIN = """
import os, sys, time
sys.path.insert(0, {root!r})
import torch
import train

torch.set_default_dtype(torch.float64)
{more}
train.picture.draw = str
train.main()
"""


@pytest.fixture
def even(workplace, tmp_path):
    """Options with a checkpoint without dropout: two processes cannot draw the masks of one.

    60 examples in batches of 8 are even batches, so no row is used twice.
    """
    folder = tmp_path / "bert"
    shutil.copytree(workplace / "bert", folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    return partial(options, workplace, model=folder)


def launch(tmp_path, number, argv, more=""):
    script = tmp_path / "main.py"
    script.write_text(MAIN.format(root=str(ROOT), more=more))
    how = ["--standalone", "--local-addr=127.0.0.1", f"--nproc-per-node={number}", str(script)]
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *how, *argv],
        capture_output=True, text=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def assert_same_log(one, two, atol=0.0):
    logs = read_log(one), read_log(two)
    assert len(logs[0]) == 16  # two epochs of ceil(60 / 8) batches
    for a, b in zip(*logs, strict=True):
        for name in ("step", "ce", "kd", "w_ce", "w_kd"):
            assert np.allclose(a[name], b[name], rtol=0, atol=atol)


@pytest.mark.slow
@pytest.mark.parametrize("method", [
    "--optimize=cross --lam=3",  # unrolled, the default
    "--optimize=cross --hypergradient=jvp",
    "--optimize=bilevel --hypergradient=difference --omega-every=2",
    "--optimize=single",
])  # fmt: skip
def test_two_processes_end_with_the_weights_of_one(even, tmp_path, method):
    alone = """
leave = train.processes.leave
def leaves():  # and no thread of theirs stays, which could abort a Python that is ending
    leave()
    names = [open(f"/proc/self/task/{t}/comm").read() for t in os.listdir("/proc/self/task")]
    assert not any("gloo" in name for name in names), names
train.processes.leave = leaves
"""
    folders = tmp_path / "by-1", tmp_path / "by-2"
    for number, out in enumerate(folders, start=1):
        argv = [*even(out=out), *method.split()]
        done = launch(tmp_path, number, argv, alone if os.path.exists("/proc/self/task") else "")
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("trained in") == 1  # rank 0 speaks, and nobody else
    assert_same_log(*folders, atol=1e-9)
    one, two = (load_file(folder / "model.safetensors") for folder in folders)
    torch.testing.assert_close(two, one, rtol=0, atol=1e-9)
    start = load_bert(tmp_path / "bert").state_dict()
    moved = [(one[f"bert.{n}"] - x).abs().max() for n, x in start.items() if x.dim() == 2]
    assert min(moved) > 1e-3
    results = [without_clocks(folder) for folder in folders]
    losses = [[row.pop("loss") for row in result["exits"]] for result in results]
    assert losses[0] == pytest.approx(losses[1], abs=1e-9)
    for name in ("exits", "sweep", "operating_point"):
        assert results[0][name] == results[1][name]


def test_every_row_of_a_batch_has_its_process_and_all_have_as_many(monkeypatch):
    monkeypatch.setattr(processes, "WORLD", 4)
    for size in (1, 3, 4, 8, 10):
        rows = []
        for rank in range(4):
            monkeypatch.setattr(processes, "RANK", rank)
            part = processes.share(Batch(*(torch.arange(size) for _ in Batch._fields)))
            assert len(part.labels) == -(-size // 4)
            rows += part.labels.tolist()
        assert sorted(set(rows)) == list(range(size)) and len(rows) - size < 4


@pytest.mark.slow
def test_two_processes_that_are_interrupted_go_on(even, tmp_path):
    """With as many processes as before, and no other number."""
    stop = """
step, count = train.training_step, iter(range(100))
def stops(*args, **options):
    if next(count) == 9 and not os.path.exists({flag!r}):
        torch.distributed.barrier()
        if train.RANK == 0:
            open({flag!r}, "w").close()
        else:  # who ends first ends the others, and rank 0 has something to say
            time.sleep(3)
        raise KeyboardInterrupt(2)
    return step(*args, **options)
train.training_step, train.CHECKPOINT_INTERVAL = stops, 0
"""
    whole, folder = tmp_path / "whole", tmp_path / "run"
    done = launch(tmp_path, 2, even(out=whole))
    assert done.returncode == 0, done.stderr
    done = launch(tmp_path, 2, even(out=folder), stop.format(flag=str(tmp_path / "flag")))
    hint = f"to continue: torchrun --nproc-per-node=2 train.py --resume {folder}\n"
    assert done.returncode == 1 and done.stderr.count(hint) == 1
    with pytest.raises(ValueError, match="processes has changed since this run started"):
        train.run(train.parse([f"--resume={folder}"]))
    for words in ("\nstep    10/16", "is finished; nothing to train"):
        done = launch(tmp_path, 2, [f"--resume={folder}"])
        assert done.returncode == 0 and done.stdout.count(words) == 1, done.stderr
        assert "step     9/16" not in done.stdout
    for name in ("model.safetensors", "tokenizer.json"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()
    assert_same_log(folder, whole)
