"""Two processes that share every batch end where one process ends."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, options, read_log
from safetensors.torch import load_file

import train
from data import Batch
from support import processes

# float64, so that what differs differs by the formula and not by the order of a sum. No dropout:
# two processes cannot draw the masks of one. 60 examples in batches of 8 are even batches, so no
# row is used twice.
MAIN = """
import glob, os, sys, time
sys.path.insert(0, {root!r})
import torch
import bert, leebert, train

torch.set_default_dtype(torch.float64)
bert.dropout = leebert.dropout = lambda x, p, training: x
{more}
train.picture.draw = str
train.main()
# No thread of theirs stays, which could abort a Python that is ending.
names = [open(path).read() for path in glob.glob("/proc/self/task/*/comm")]
assert not any("gloo" in name for name in names), names
"""


def launch(tmp_path, number, argv, more=""):
    script = tmp_path / "main.py"
    script.write_text(MAIN.format(root=str(ROOT), more=more))
    how = ["--standalone", "--local-addr=127.0.0.1", f"--nproc-per-node={number}", str(script)]
    argv = [sys.executable, "-m", "torch.distributed.run", *how, *argv]
    return subprocess.run(argv, capture_output=True, text=True, timeout=120)


def assert_same_log(one, two, atol=0.0):
    for a, b in zip(read_log(one), read_log(two), strict=True):
        for name in ("step", "ce", "kd", "w_ce", "w_kd"):
            assert np.allclose(a[name], b[name], rtol=0, atol=atol)


@pytest.mark.slow
@pytest.mark.parametrize("method", [
    "--optimize=cross --lam=3",  # unrolled, the default
    "--optimize=cross --hypergradient=jvp",
    "--optimize=bilevel --hypergradient=difference --omega-every=2",
    "--optimize=single",
])  # fmt: skip
def test_two_processes_end_with_the_weights_of_one(workplace, tmp_path, method):
    folders = tmp_path / "by-1", tmp_path / "by-2"
    for number, out in enumerate(folders, start=1):
        done = launch(tmp_path, number, [*options(workplace, out=out), *method.split()])
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("trained in") == 1  # rank 0 speaks, and nobody else
    assert_same_log(*folders, atol=1e-9)
    one, two = (load_file(folder / "model.safetensors") for folder in folders)
    torch.testing.assert_close(two, one, rtol=0, atol=1e-9)


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
def test_two_processes_that_are_interrupted_go_on(workplace, tmp_path):
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
    done = launch(tmp_path, 2, options(workplace, out=whole))
    assert done.returncode == 0, done.stderr
    stop = stop.format(flag=str(tmp_path / "flag"))
    done = launch(tmp_path, 2, options(workplace, out=folder), stop)
    hint = f"to continue: torchrun --nproc-per-node=2 train.py --resume {folder}\n"
    assert done.returncode == 1 and done.stderr.count(hint) == 1
    with pytest.raises(ValueError, match="processes has changed since this run started"):
        train.run(train.parse([f"--resume={folder}"]))
    for words in ("\nstep    10/16", "is finished; nothing to train"):
        done = launch(tmp_path, 2, [f"--resume={folder}"])
        assert done.returncode == 0 and done.stdout.count(words) == 1, done.stderr
        assert "step     9/16" not in done.stdout
    weights = [(run / "model.safetensors").read_bytes() for run in (folder, whole)]
    assert weights[0] == weights[1]
    assert_same_log(folder, whole)
