"""Interrupted at any moment and resumed, a run ends as if nothing had happened, bit by bit."""

import contextlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from test_train import call, options, options_of, without_clocks, workplace  # noqa: F401

import data
import train
from data import Encoded
from support.runs import CHECKPOINT
from train import parse

SIGNALS = [getattr(signal, f"SIG{name}") for name in ("KILL", "INT", "TERM") if os.name != "nt"]


def leave(folder):
    """All that a finished run leaves and that no clock has touched."""
    result = without_clocks(json.loads((folder / "result.json").read_text()))
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    for row in log:
        assert row.pop("seconds") >= 0 and row.pop("tokens_per_second") > 0
    weights = (folder / "model.safetensors").read_bytes()
    names = {path.name for path in folder.iterdir()} - {"report.png"}
    return result, log, weights, names, (folder / "tokenizer.json").read_bytes()


def life(argv):
    """What a process does that was forked from one which has loaded torch already."""
    sys.stdout = open(os.devnull, "w")
    torch.set_num_threads(1)
    sys.argv, train.draw = ["train.py", *argv], lambda folder: folder
    train.CHECKPOINT_INTERVAL = 0.1  # the first one after so many seconds, then nearly every step
    train.main()


def wait_for_lines(process, folder, count):
    """Until the process has written so many lines into the log, or has ended."""
    log = folder / "log.jsonl"
    size = log.stat().st_size if log.exists() else 0
    while count and process.is_alive():
        time.sleep(0.001)
        before, size = size, log.stat().st_size if log.exists() else 0
        count -= size > before  # smaller: it has been cut back to the checkpoint


@pytest.mark.slow
@pytest.mark.skipif(not SIGNALS, reason="no signals on this system")
@pytest.mark.parametrize("seed, more", [
    (0, dict(epochs=9)),
    (1, dict(epochs=9, redraw=None, omega_every=3, hypergradient="difference")),
    (2, dict(epochs=12, optimize="single", log_every=7)),
])  # fmt: skip
def test_killed_and_resumed_a_run_ends_as_if_it_had_not_been(
    workplace, tmp_path, seed, more  # noqa: F811
):  # fmt: skip
    """Seven interruptions of one run, by SIGKILL, SIGINT and SIGTERM, at random moments.

    Checkpoints take much of the time, so that many are hit while they are being written.
    """
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["train", "test_resume"])
    argv = [*options(workplace), *(o.removesuffix("=None") for o in options_of(more))]
    rng, ends, moments, folder = random.Random(seed), [], set(), tmp_path / "killed"

    def start(out):
        how = f"--resume={out}" if (out / "config.json").exists() else f"--out={out}"
        process = processes.Process(target=life, args=([*argv, how],))
        process.start()
        return process

    for name in ("warm", "whole"):  # the first one waits for the server of processes
        begun, process = time.perf_counter(), start(tmp_path / name)
        wait_for_lines(process, tmp_path / name, 1)
        loading = time.perf_counter() - begun
        process.join()
        assert process.exitcode == 0
    lines = len((tmp_path / "whole" / "log.jsonl").read_text().splitlines())
    seconds = json.loads((tmp_path / "whole" / "result.json").read_text())["seconds"]
    while len(ends) < 7:
        process = start(folder)
        if rng.random() < 0.25:
            time.sleep(loading * rng.random())
        else:  # an eighth of the run at most, and a part of a step
            wait_for_lines(process, folder, rng.randint(1, lines // 8))
            time.sleep(seconds / lines * rng.random())
        number = rng.choice(SIGNALS)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)
        process.join()
        if process.exitcode == 0:  # this test was slept over; once more from the start
            shutil.rmtree(folder)
            ends, moments = [], set()
            continue
        ends.append(process.exitcode)
        # Before main() has begun, Python answers a signal in its own way.
        before = 1 if number == signal.SIGINT else -number
        assert process.exitcode in (128 + number, before, -number)
        if (folder / CHECKPOINT).exists():
            moments.add(torch.load(folder / CHECKPOINT, weights_only=True)["counts"][0])
    assert len(moments) > 2
    process = start(folder)
    process.join()
    assert process.exitcode == 0
    expected = leave(tmp_path / "whole")
    for one, other in zip(leave(folder), expected, strict=True):
        assert one == other


def run_until(step, argv, monkeypatch):
    """Interrupted in that step, counted from where this life began."""
    original, steps = train.training_step, iter(range(1, 100))

    def killed(*args, **kwargs):
        if next(steps) == step:
            raise KeyboardInterrupt(signal.SIGINT)
        return original(*args, **kwargs)

    monkeypatch.setattr(train, "training_step", killed)
    with pytest.raises(KeyboardInterrupt):
        train.run(parse(argv))
    monkeypatch.setattr(train, "training_step", original)


@pytest.fixture
def halfway(workplace, tmp_path, monkeypatch):  # noqa: F811
    """Two folders: a finished run, and the same one killed in step 13 of 16, after a checkpoint."""
    monkeypatch.setattr(train, "CHECKPOINT_INTERVAL", 0)  # a checkpoint at every step
    monkeypatch.setattr(train, "draw", lambda folder: folder)
    train.run(parse(options(workplace, out=tmp_path / "whole")))
    run_until(13, options(workplace, out=tmp_path / "run"), monkeypatch)
    return tmp_path / "whole", tmp_path / "run"


def test_the_log_goes_on_where_the_checkpoint_was(workplace, tmp_path, monkeypatch):  # noqa: F811
    """A checkpoint in every step, a line in every seventh, three lives, and what a kill left."""
    monkeypatch.setattr(train, "CHECKPOINT_INTERVAL", 0)
    monkeypatch.setattr(train, "draw", lambda folder: folder)
    whole, folder = tmp_path / "whole", tmp_path / "run"
    train.run(parse(options(workplace, out=whole, log_every=7)))
    run_until(10, options(workplace, out=folder, log_every=7), monkeypatch)
    (folder / "partial").write_bytes(b"half a checkpoint")
    with open(folder / "log.jsonl", "a") as log:
        log.write('{"step": 14, "ce"')
    run_until(2, [f"--resume={folder}"], monkeypatch)
    train.run(parse([f"--resume={folder}"]))
    assert leave(folder) == leave(whole)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("damage", ["cut", "bit", "garbage", "empty"])
def test_a_damaged_checkpoint_is_one_line_and_nothing_is_touched(halfway, call, damage):  # noqa: F811
    """It says what to do; whoever does it gets the whole run."""
    whole, folder = halfway
    data = bytearray((folder / CHECKPOINT).read_bytes())
    weights = torch.load(folder / CHECKPOINT, weights_only=True)["model"]["exits.0.weight"]
    data[data.index(weights.numpy().tobytes())] ^= 1  # what lies between the records is padding
    broken = {"cut": data[:-1], "bit": data, "garbage": os.urandom(999), "empty": b""}[damage]
    (folder / CHECKPOINT).write_bytes(broken)
    before = contents(folder)
    done = call(train.main, f"--resume={folder}")
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert last.startswith(f"error: {folder / CHECKPOINT}: damaged (")
    assert last.endswith("; delete it to start again") and contents(folder) == before
    (folder / CHECKPOINT).unlink()
    train.run(parse([f"--resume={folder}"]))
    assert leave(folder) == leave(whole)


def test_a_log_that_was_there_before_counts_for_nothing(workplace, tmp_path, monkeypatch):  # noqa: F811
    """Of a run whose config.json is gone. A checkpoint before the first line, lines, a kill."""
    monkeypatch.setattr(train, "CHECKPOINT_INTERVAL", 10**9)
    monkeypatch.setattr(train, "draw", lambda folder: folder)
    whole, folder = tmp_path / "whole", tmp_path / "run"
    train.run(parse(options(workplace, out=whole, log_every=2)))
    folder.mkdir()
    (folder / "log.jsonl").write_text("{}\n" * 1000)
    run_until(5, options(workplace, out=folder, log_every=2), monkeypatch)
    train.run(parse([f"--resume={folder}"]))
    assert leave(folder) == leave(whole)


def test_a_finished_run_is_not_touched(halfway, call):  # noqa: F811
    whole, _ = halfway
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in whole.iterdir()}
    done = call(train.main, f"--resume={whole}")
    assert (done.returncode, done.stdout) == (0, f"{whole} is finished; nothing to do\n")
    after = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in whole.iterdir()}
    assert before == after


def test_other_settings_and_other_data_are_refused_by_name(halfway, workplace, tmp_path):  # noqa: F811
    folder = halfway[1]
    train.parse([f"--resume={folder}", "--lr=1e-3", "--seed=0"])  # the same: no objection
    for option, was in (("--lr=2.0", "0.001"), ("--seed=1", "0"), ("--redraw", "False")):
        name = option.partition("=")[0]
        with pytest.raises(ValueError, match=f"^{name} .*: this run started with {was}; cannot"):
            parse([f"--resume={folder}", option])
    with pytest.raises(ValueError, match="no run to resume"):
        parse([f"--resume={tmp_path / 'nowhere'}"])
    with pytest.raises(ValueError, match="holds a run; continue it with --resume"):
        train.run(parse(options(workplace, out=folder)))
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "train_data": "0" * 16}))
    with pytest.raises(ValueError, match="train_data has changed since this run started"):
        train.run(parse([f"--resume={folder}"]))
    path.write_text("{")
    with pytest.raises(ValueError, match="not the settings of a run"):
        parse([f"--resume={folder}"])


@pytest.mark.skipif(os.name == "nt", reason="no limits on this system")
def test_a_full_disk_stops_the_run_and_loses_nothing(halfway, workplace, tmp_path, call):  # noqa: F811
    """Files that may not grow beyond 4 kB: the tiny checkpoint has 100."""
    import resource

    whole, folder = halfway
    before, limits = (folder / CHECKPOINT).read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    for argv in ([f"--resume={folder}"], options(workplace, out=tmp_path / "new")):
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
        try:
            done = call(train.main, *argv)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        hint, error = done.stderr.splitlines()
        assert done.returncode == 2 and hint.startswith("to continue: python train.py --resume ")
        assert error.startswith("error: [Errno 27] File too large")
    assert (folder / CHECKPOINT).read_bytes() == before
    for path in (folder, tmp_path / "new"):
        assert not (path / "partial").exists()
        train.run(parse([f"--resume={path}"]))
        assert leave(path) == leave(whole)


@pytest.mark.skipif(not SIGNALS, reason="no signals on this system")
@pytest.mark.parametrize("number", SIGNALS[1:])
def test_an_interruption_says_how_to_continue(workplace, tmp_path, monkeypatch, call, number):  # noqa: F811
    out = tmp_path / "my run"
    monkeypatch.setattr(train, "training_step", lambda *a, **k: signal.raise_signal(number))
    done = call(train.main, *options(workplace, out=out))
    assert done.stderr == f"to continue: python train.py --resume '{out}'\ninterrupted\n"
    assert done.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[number]


def test_an_interruption_by_pythons_own_handler_has_no_number(monkeypatch, call):  # noqa: F811
    """A Ctrl-C that was on its way before main() had set its handlers."""
    monkeypatch.setattr(train, "run", Mock(side_effect=KeyboardInterrupt))
    done = call(train.main)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_a_stream_is_a_function_of_its_position():
    """Whoever enters in the middle sees what he would have seen, and every pass sees all."""
    lengths = np.random.default_rng(0).integers(3, 9, 50)
    encoded = Encoded([[i] * n for i, n in enumerate(lengths)], [[0] * n for n in lengths],
                      lengths, np.arange(50), 0)  # fmt: skip
    indices = np.arange(5, 50)  # 45 examples are 7 batches of 7, the last of 3

    def labels(position, count, what="d1"):
        batches = data.stream(3, encoded, indices, 7, what, position, "cpu")
        return [batch.labels.tolist() for _, batch in zip(range(count), batches, strict=False)]

    all = labels(0, 28)
    assert all[11:] == labels(11, 17)
    assert all not in (labels(0, 28, "d2"), labels(0, 28, "again"))
    passes = [sum(all[i : i + 7], []) for i in range(0, 28, 7)]
    assert all[:7] != all[7:14]
    for one in passes:
        assert sorted(one) == indices.tolist()
