"""Interrupted at any moment and resumed, a run ends as if nothing had happened, bit by bit."""

import contextlib
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from conftest import fail_in, options, read_log, without_clocks

import data
import train
from support import runs
from support.errors import UserError

SIGNALS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)


def draw(folder):
    """In place of the picture, which takes a second."""
    (folder / "weights.png").write_bytes(b"")
    return "drawn"


@pytest.fixture(autouse=True)
def no_picture(monkeypatch):
    monkeypatch.setattr(train.picture, "draw", draw)


def leave(folder):
    """All that a finished run leaves and that no clock has touched."""
    log = read_log(folder)
    for row in log:
        assert row.pop("seconds") >= 0 and row.pop("tokens_per_second") > 0
    contents = [(folder / name).read_bytes() for name in ("model.safetensors", "tokenizer.json")]
    return without_clocks(folder), log, contents, {path.name for path in folder.iterdir()}


def life(argv):
    """What a process does that was forked from one which has loaded torch already."""
    sys.stdout = open(os.devnull, "w")
    torch.set_num_threads(1)
    sys.argv, train.picture.draw = ["train.py", *argv], draw
    train.CHECKPOINT_INTERVAL = 0.01  # the first one after so many seconds, then nearly every step
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
@pytest.mark.parametrize("seed, more", [
    (0, ["--epochs=9"]),
    (1, ["--epochs=9", "--omega-every=3", "--hypergradient=difference"]),
    (2, ["--epochs=12", "--optimize=single", "--log-every=3"]),
])  # fmt: skip
def test_killed_and_resumed_a_run_ends_as_if_it_had_not_been(workplace, tmp_path, seed, more):
    """Seven interruptions of one run, by SIGKILL, SIGINT and SIGTERM, at random moments.

    Checkpoints take much of the time, so that many are hit while they are being written.
    """
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["train", "test_resume"])
    rng, moments, folder = random.Random(seed), set(), tmp_path / "killed"

    def start(out):
        how = f"--resume={out}"
        if not (out / "config.json").exists():  # killed before there was a run
            shutil.rmtree(out, ignore_errors=True)
            how = f"--out={out}"
        process = processes.Process(target=life, args=([*options(workplace), *more, how],))
        process.start()
        return process

    start(tmp_path / "whole").join()
    lines = len(read_log(tmp_path / "whole"))
    for _ in range(7):
        process, number = start(folder), signal.SIGKILL
        if rng.random() < 0.25:  # while it is loading, when SIGINT would be ignored
            time.sleep(rng.random())
        else:  # an eighth of the run at most, and a part of a step
            number = rng.choice(SIGNALS)
            wait_for_lines(process, folder, rng.randint(1, lines // 8))
            time.sleep(0.02 * rng.random())
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)
        process.join()
        assert process.exitcode in (128 + number, -number, 0)  # 0: it had just ended
        if (folder / runs.CHECKPOINT).exists():
            moments.add(torch.load(folder / runs.CHECKPOINT, weights_only=True)["counts"][0])
    assert len(moments) > 2
    start(folder).join()
    assert leave(folder) == leave(tmp_path / "whole")


def run_until(step, argv, monkeypatch):
    """Interrupted in that step, counted from where this life began."""
    fail_in(monkeypatch, step, KeyboardInterrupt(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        train.run(train.parse(argv))


def resumed(folder):
    return leave(train.run(train.parse([f"--resume={folder}"])))


@pytest.fixture(scope="module")
def two_runs(workplace, tmp_path_factory):
    """A finished run, and the same one killed in step 13 of 16, after a checkpoint."""
    folder = tmp_path_factory.mktemp("halfway")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(train, "CHECKPOINT_INTERVAL", 0)  # a checkpoint at every step
        monkeypatch.setattr(train.picture, "draw", draw)
        train.run(train.parse(options(workplace, out=folder / "whole")))
        run_until(13, options(workplace, out=folder / "run"), monkeypatch)
    return folder


@pytest.fixture
def halfway(two_runs, tmp_path, monkeypatch):
    """-> folder of the finished run, folder of a copy of the other."""
    monkeypatch.setattr(train, "CHECKPOINT_INTERVAL", 0)
    return two_runs / "whole", Path(shutil.copytree(two_runs / "run", tmp_path / "run"))


def test_the_log_continues_where_the_checkpoint_was(workplace, tmp_path, monkeypatch):
    """A checkpoint in every step, a line in every seventh, three lives, and what a kill left."""
    monkeypatch.setattr(train, "CHECKPOINT_INTERVAL", 0)
    whole, folder = tmp_path / "whole", tmp_path / "run"
    train.run(train.parse(options(workplace, out=whole, log_every=7, omega_every=2)))
    run_until(10, options(workplace, out=folder, log_every=7, omega_every=2), monkeypatch)
    (folder / "partial").write_bytes(b"half a checkpoint")
    with open(folder / "log.jsonl", "a") as log:
        log.write('{"step": 14, "ce"')
    run_until(3, [f"--resume={folder}"], monkeypatch)
    assert resumed(folder) == leave(whole)


def contents(folder):
    return {path: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("damage", ["bit", "cut", "garbage", "empty"])
def test_a_damaged_checkpoint_is_one_line_and_nothing_is_touched(halfway, call, damage):
    """It says what to do: without a checkpoint, the run starts again and ends as it would have."""
    whole, folder = halfway
    path = folder / runs.CHECKPOINT
    saved = bytearray(path.read_bytes())
    weights = torch.load(path, weights_only=True)["model"]["exits.0.weight"]
    saved[saved.index(weights.numpy().tobytes())] ^= 1  # elsewhere may be padding
    broken = {"bit": saved, "cut": saved[:-1], "garbage": os.urandom(999), "empty": b""}
    path.write_bytes(broken[damage])
    before = contents(folder)
    done = call(train.main, f"--resume={folder}")
    error = f"error: {path}: damaged (its hash is wrong); delete it to start again"
    assert done.returncode == 2 and done.stderr.splitlines()[-1] == error
    assert contents(folder) == before
    path.unlink()
    assert resumed(folder) == leave(whole)


def test_a_finished_run_is_not_touched_but_one_without_its_network_starts_over(two_runs, call):
    folder = two_runs / "whole"
    before = contents(folder)
    done = call(train.main, f"--resume={folder}")
    assert (done.returncode, done.stdout) == (0, f"{folder} is finished; nothing to train\ndrawn\n")
    assert contents(folder) == before
    left = leave(folder)
    (folder / "model.safetensors").unlink()
    assert "starting after step 0\n" in call(train.main, f"--resume={folder}").stdout
    assert leave(folder) == left


def test_what_is_missing_after_training_is_made_by_resume(halfway, monkeypatch, call):
    """Interrupted while it evaluates, then before the picture."""
    whole, folder = halfway
    with monkeypatch.context() as patch:
        patch.setattr(train, "result_of", Mock(side_effect=KeyboardInterrupt(signal.SIGTERM)))
        done = call(train.main, f"--resume={folder}")
        assert done.returncode == 143 and "starting after step 12" in done.stdout
    monkeypatch.setattr(train, "training_step", None)  # no step is made again
    done = call(train.main, f"--resume={folder}")
    assert done.returncode == 0 and "starting after step 16" in done.stdout, done.stderr
    assert leave(folder) == leave(whole)
    done = call(train.main, f"--resume={folder}")
    assert done.stdout.endswith("nothing to train\ndrawn\n"), done.stderr


def test_other_settings_and_other_data_are_refused_by_name(halfway, workplace, tmp_path):
    folder = halfway[1]
    path, resume = folder / "config.json", f"--resume={folder}"
    stored = path.read_text()
    train.parse([resume, "--lr=1e-3", "--seed=0"])  # the same: no objection
    for argv, message in (
        ([resume, "--lr=2.0"], "^--lr: this run has 0.001; leave it out$"),
        ([f"--resume={tmp_path / 'nowhere'}"], "No such file or directory: .*nowhere/config.json"),
        (options(workplace, out=folder), "is not empty; name another, or --resume"),
    ):
        with pytest.raises((UserError, OSError), match=message):
            train.run(train.parse(argv))
    for config, message in (
        ({"train_data": "0"}, "train_data has changed"),
        # Edited by hand: the rules of the command line.
        ({"lr": None}, "config.json: --lr must be positive and finite, not None$"),
        ({"epochs": "1"}, "config.json: --epochs must be positive and at most 10,000, not '1'$"),
        ({"optimize": "x"}, "json: --optimize must be one of single, bilevel, cross, not 'x'$"),
    ):
        path.write_text(json.dumps(json.loads(stored) | config))
        with pytest.raises(UserError, match=message):
            train.run(train.parse([resume]))


def test_a_full_disk_stops_the_run_and_loses_nothing(halfway, call):
    """Files that may not grow beyond 4 kB: the tiny checkpoint has 100."""
    whole, folder = halfway
    before = (folder / runs.CHECKPOINT).read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        done = call(train.main, f"--resume={folder}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    hint, error = done.stderr.splitlines()
    assert hint == f"to continue: python train.py --resume {folder}"
    assert done.returncode == 2 and error.startswith("error: [Errno 27] File too large")
    assert (folder / runs.CHECKPOINT).read_bytes() == before and not (folder / "partial").exists()
    assert resumed(folder) == leave(whole)


def test_two_runs_never_share_a_folder(tmp_path, monkeypatch):
    """Also if both saw it empty. A folder that is there and empty will do."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Path, "iterdir", lambda folder: iter(()))
    names = [runs.run_folder(train.parse([])).as_posix() for _ in range(3)]
    assert names == [f"runs/toy-all-cross-s0{number}" for number in ("", "-2", "-3")]
    config = train.parse([f"--out={tmp_path}"])
    assert runs.run_folder(config) == tmp_path
    with pytest.raises(UserError, match="is not empty; name another, or --resume the run"):
        runs.run_folder(config)


@pytest.mark.parametrize("number", SIGNALS[1:])
def test_an_interruption_says_how_to_continue(workplace, tmp_path, monkeypatch, call, number):
    out = tmp_path / "my run"
    monkeypatch.setattr(train, "training_step", lambda *a, **k: signal.raise_signal(number))
    done = call(train.main, *options(workplace, out=out))
    assert done.stderr == f"to continue: python train.py --resume '{out}'\ninterrupted\n"
    assert done.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[number]
    # Python's own KeyboardInterrupt, before main() has set its handlers, has no number.
    monkeypatch.setattr(train, "run", Mock(side_effect=KeyboardInterrupt))
    done = call(train.main)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_a_stream_is_a_function_of_its_position():
    """Started in the middle, it gives what it would have given, and every pass holds all."""
    lengths = np.random.default_rng(0).integers(3, 9, 45)  # 7 batches of 7, the last of 3

    def batches(position, count, what="d1"):
        stream = data.stream(lengths, 7, 2, (3, what), position)
        return [batch.tolist() for _, batch in zip(range(count), stream, strict=False)]

    all_of_them = batches(0, 28)
    assert all_of_them[11:] == batches(11, 17)
    assert all_of_them not in (batches(0, 28, "d2"), batches(0, 28, "d1_judge"))
    assert all_of_them[:7] != all_of_them[7:14]
    for i in range(0, 28, 7):
        assert sorted(sum(all_of_them[i : i + 7], [])) == list(range(45))
