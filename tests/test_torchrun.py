"""Two processes that share every batch end where one process ends."""

import json
import os
import random
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from test_data import write
from test_train import ROOT, WORDS, options, workplace  # noqa: F401

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
train.draw = lambda folder: folder
train.main()
"""


@pytest.fixture
def even(workplace, tmp_path):  # noqa: F811
    """The tiny checkpoint without dropout, since two processes cannot draw the masks of one, and
    data of which all batches can be halved: 64 examples, 32 of each class."""
    folder = tmp_path / "even"
    shutil.copytree(workplace, folder)
    config = json.loads((folder / "bert" / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "bert" / "config.json").write_text(json.dumps(config))
    rng = random.Random(0)
    rows = [f"{' '.join(rng.choices(WORDS, k=3 + i % 5))} \t{i % 2}" for i in range(64)]
    write(folder / "SST-2" / "train.tsv", "sentence\tlabel\n" + "\n".join(rows) + "\n")
    return folder


def launch(tmp_path, number, argv, more=""):
    script = tmp_path / "main.py"
    script.write_text(MAIN.format(root=str(ROOT), more=more))
    how = ["--standalone", "--local-addr=127.0.0.1", f"--nproc-per-node={number}", str(script)]
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *how, *argv],
        capture_output=True, text=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("method", [
    "--optimize=cross --lam=3",  # unrolled, the default
    "--optimize=cross --hypergradient=forward",
    "--optimize=bilevel --hypergradient=difference --omega-every=2",
    "--optimize=single",
])  # fmt: skip
def test_two_processes_end_with_the_weights_of_one(even, tmp_path, method):
    found = []
    for number in (1, 2):
        out = tmp_path / f"by-{number}"
        argv = [*options(even, out=out), *method.split()]
        done = launch(tmp_path, number, argv)
        assert done.returncode == 0, done.stderr
        log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
        result = json.loads((out / "result.json").read_text())
        found.append((load_file(out / "model.safetensors"), log, result))
        assert done.stdout.count("trained in") == 1  # rank 0 speaks, and nobody else
    (one, one_log, one_result), (two, two_log, two_result) = found
    assert len(one_log) == len(two_log) == 16  # two epochs of 64 / 8 batches
    for a, b in zip(one_log, two_log, strict=True):
        for name in ("ce", "kd", "w_ce", "w_kd"):
            torch.testing.assert_close(torch.tensor(a[name]), torch.tensor(b[name]),
                                       rtol=0, atol=1e-9)  # fmt: skip
    start = load_bert(even / "bert").state_dict()
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=0, atol=1e-9)
    moved = [(one[f"bert.{n}"] - x).abs().max() for n, x in start.items() if x.dim() == 2]
    assert min(moved) > 1e-3
    assert one_result["exits"] == two_result["exits"]
    for a, b in zip(one_result["sweep"], two_result["sweep"], strict=True):
        assert a["mean_exit"] == b["mean_exit"] and a["acc"] == b["acc"]


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
def test_a_process_that_dies_ends_the_job(even, tmp_path):
    die = """
step, count = train.training_step, iter(range(100))
def dies(*args, **options):
    if next(count) == 3 and os.environ["RANK"] == "1":
        os._exit(7)
    return step(*args, **options)
train.training_step = dies
"""
    done = launch(tmp_path, 2, options(even, out=tmp_path / "run"), die)
    assert done.returncode == 1 and "exitcode  : 7" in done.stderr
    assert not (tmp_path / "run" / "result.json").exists()


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
    done = launch(tmp_path, 2, options(even, out=whole))
    assert done.returncode == 0, done.stderr
    done = launch(tmp_path, 2, options(even, out=folder), stop.format(flag=str(tmp_path / "flag")))
    hint = f"to continue: torchrun --nproc-per-node=2 train.py --resume {folder}\n"
    assert done.returncode == 1 and done.stderr.count(hint) == 1
    with pytest.raises(ValueError, match="processes has changed since this run started"):
        train.run(train.parse([f"--resume={folder}"]))
    for words in ("\nstep    10/16", "is finished; nothing to do"):
        done = launch(tmp_path, 2, [f"--resume={folder}"])
        assert done.returncode == 0 and done.stdout.count(words) == 1, done.stderr
        assert "step     9/16" not in done.stdout
    for name in ("model.safetensors", "tokenizer.json"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()
    logs = [(path / "log.jsonl").read_text().splitlines() for path in (folder, whole)]
    for a, b in zip(*(map(json.loads, lines) for lines in logs), strict=True):
        assert all(a[name] == b[name] for name in ("step", "ce", "kd", "w_ce", "w_kd"))
