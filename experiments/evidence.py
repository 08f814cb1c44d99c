"""The tables of the comparison, from results/compare/; experiments/tables.py writes them.

result   what compare.py has kept of a run       M   exits
metric   accuracy, or Matthews correlation for cola, on dev, in percent: mean +- std over seeds
"""

import json
from functools import partial
from pathlib import Path

import numpy as np
from compare_runs import at_speedup, judge
from methods import CHOICES, METHODS, REAL

ROOT = Path(__file__).resolve().parent.parent
COMPARED = ROOT / "results" / "compare"  # what compare.py leaves
TASKS = ("toy", "rte", "sst2", "cola")
RULES = ("patience", "entropy", "confidence")
SPEEDUPS = (1.5, 2, 3)  # in layers
AREA = np.linspace(1, 3, 41)  # speed-ups over which the area is taken
CUT = "cut"  # not one model: the k-th exit is the run cut<k>, the last exit the run `last`

# --------------------------------------------------------------------------------------------------
# 1. Results and the numbers made of them


def read(path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not a result of compare.py ({error})") from None


def load(task, name, folder=COMPARED):
    """-> the results of a method, by seed. For `cut`, one a seed, which stands for M models."""
    paths = sorted((Path(folder) / task).glob(f"{name}-s[0-9]*.json"))
    if name != CUT:
        runs = [read(path) for path in paths]
        return sorted(runs, key=lambda run: run["seed"])
    *parts, whole = [load(task, part, folder) for part in parts_of_cut(task, folder)]
    whole = {run["seed"]: run for run in whole}
    parts = [{run["seed"]: run for run in runs} for runs in parts]
    return [
        together([*(part[seed] for part in parts), run])
        for seed, run in whole.items()
        if all(seed in part for part in parts)
    ]


def parts_of_cut(task, folder=COMPARED):
    """-> cut1, cut2, .., last, each with the learning rate that suits it, where that was run."""
    names = [name for name in METHODS if name.startswith(CUT) and name[-1].isdigit()] + ["last"]
    slow = [list((Path(folder) / task).glob(f"{name}-slow-s[0-9]*.json")) for name in names]
    return [f"{name}-slow" if found else name for name, found in zip(names, slow, strict=True)]


def together(runs):
    """Results of models of 1, 2, .. M layers -> one: its exits are their last exits.

    Whoever has one model for each depth gets the speed of any of them, without a rule.
    """
    metric = runs[0]["metric"]
    exits = [{**run["exits"][-1], "exit": k} for k, run in enumerate(runs, 1)]
    rows = [{"mean_exit": float(row["exit"]), metric: row[metric]} for row in exits]
    sweep = [{**row, "rule": rule} for rule in RULES for row in rows]
    return {**runs[-1], "exits": exits, "sweep": sweep}


def exits_of(run):
    return np.array([row[run["metric"]] for row in run["exits"]])  # (M,)


def at(run, rule, speedup):
    """The metric of a rule at a speed-up in layers; defined from 1 to M.

    compare_runs.at_speedup, and beside it one threshold that every rule has and no sweep lists:
    leave at the first exit, always.
    """
    first = {"rule": rule, "mean_exit": 1.0, run["metric"]: run["exits"][0][run["metric"]]}
    return at_speedup({**run, "sweep": [*run["sweep"], first]}, rule, speedup)


def area(run, rule):
    """Area under the metric against the speed-up, from 1 to 3, divided by 2: so a mean metric."""
    values = [at(run, rule, s) for s in AREA]
    return float(np.trapezoid(values, AREA) / (AREA[-1] - AREA[0]))


def clocks(task, folder=COMPARED):
    """-> {(name, seed): line of clocks.jsonl}, the latest line of each."""
    path = Path(folder) / task / "clocks.jsonl"
    if not path.exists():
        return {}
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {(line["name"], line["seed"]): line for line in lines}


def spread(values):
    """In percent: 93.1 +- 0.4; 93.1 alone if there is one run."""
    std = f" +- {100 * np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return f"{100 * np.mean(values):.1f}{std}"


# --------------------------------------------------------------------------------------------------
# 2. Tables


def command(task):
    more = " --workers 2" if task == "toy" else " -- --data-dir GLUE"
    seeds = 5 if task == "toy" else 3
    return f"`python experiments/compare.py --task {task} --seeds {seeds}{more}`"


def absent(task):
    return f"Not run yet: {command(task)}"


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def listed(task, folder=COMPARED):
    """-> [(name, words, runs)] of the methods that have runs, in the order of methods.py."""
    names = ["last", CUT, *(n for n in METHODS if not n.startswith(CUT) and n != "last")]
    words = {CUT: "one model for each depth, fine-tuned for itself"}
    words |= {name: METHODS[name].words for name in METHODS}
    found = [(name, words[name], load(task, name, folder)) for name in names]
    return [row for row in found if row[2]]


def exits_table(task, folder=COMPARED):
    """Metric of every exit, and their mean; seconds of training."""
    found = listed(task, folder)
    if not found:
        return absent(task)
    M, metric, clock = len(found[0][2][0]["exits"]), found[0][2][0]["metric"], clocks(task, folder)
    rows = []
    for name, words, runs in found:
        exits = np.array([exits_of(run) for run in runs])  # (runs, M)
        cells = [spread(exits[:, m]) for m in range(M)] + [spread(exits.mean(axis=1))]
        if name.startswith("last"):  # its other exits were never trained
            cells = ["-"] * (M - 1) + [cells[M - 1], "-"]
        parts = parts_of_cut(task, folder) if name == CUT else [name]
        times = [[clock[p, run["seed"]]["seconds"] for p in parts if (p, run["seed"]) in clock]
                 for run in runs]  # fmt: skip
        seconds = f"{np.mean([sum(t) for t in times]):.0f}"
        rows.append([words, len(runs), *cells, seconds])
    head = [f"{metric}, exit", "n", *range(1, M + 1), "mean", "seconds"]
    return table(head, rows) + f"\n\n{command(task)}"


README_METHODS = """last-slow none-uniform deebert-slow pabee berxit fastbert later-uniform
                    all-uniform all-single all-bilevel all-cross all-uniform-long""".split()


def compared_table(folder=COMPARED):
    """For the README: toy, the methods as they are known; all else is in docs/evidence.md."""
    rows = []
    for name in README_METHODS:
        if runs := load("toy", name, folder):
            exits = np.array([exits_of(run) for run in runs])  # (runs, M)
            values = [exits[:, 0], exits[:, -1], [at(run, "patience", 2) for run in runs]]
            cells = [spread(x) for x in values]
            rows.append([METHODS[name].words, *(["-", cells[1], "-"] if "last" in name else cells)])
    head = ["accuracy on dev", "first exit", "last exit", "patience, at 2x in layers"]
    return table(head, rows) if rows else absent("toy")


def real_table(folder=COMPARED):
    """For the README: pretrained weights, full depth and twice as fast, a row a method of REAL."""
    found = {task: load(task, "all-cross", folder) for task in TASKS[1:]}
    tasks = {task: runs[0]["metric"] for task, runs in found.items() if runs}
    rows = []
    for name in REAL:
        cells = []
        for task in tasks:
            runs = load(task, name, folder)
            cells.append(spread([exits_of(run)[-1] for run in runs]) if runs else "-")
            fast = [at(run, "patience", 2) for run in runs] if name != "last" else []
            cells.append(spread(fast) if fast else "-")
        rows.append([METHODS[name].words, *cells])
    head = [x for task, metric in tasks.items() for x in (f"{task} {metric}, last exit", "at 2x")]
    return table(["on dev, in percent", *head], rows) if tasks else absent("sst2")


def speeds_table(task, folder=COMPARED):
    """Metric at given speed-ups for the paper's rule, and the area for every rule."""
    found = [row for row in listed(task, folder) if not row[0].startswith("last")]
    if not found:
        return absent(task)
    rows = []
    for _, words, runs in found:
        cells = [spread([at(run, "patience", s) for run in runs]) for s in SPEEDUPS]
        cells += [spread([area(run, rule) for run in runs]) for rule in RULES]
        rows.append([words, len(runs), *cells])
    head = [f"{found[0][2][0]['metric']}", "n", *(f"patience, {s:g}x" for s in SPEEDUPS),
            *(f"area, {rule}" for rule in RULES)]  # fmt: skip
    return table(head, rows) + f"\n\n{command(task)}"


def choices_table(folder=COMPARED):
    """Toy: what each choice does, one at a time, against all-cross."""
    base = load("toy", "all-cross", folder)
    found = [("lambda 0 (bilevel)", load("toy", "all-bilevel", folder))]
    found += [(CHOICES[name].words, load("toy", name, folder)) for name in CHOICES]
    if not base or not any(runs for _, runs in found):
        return absent("toy")
    rows = [["as it is (all-cross)", len(base), *effect(base, base, "acc")]]
    for words, runs in found:
        if runs:
            rows.append([words, len(runs), *effect(base, runs, "acc")])
    head = ["changed, one at a time", "n", "exit 1", "last exit", "mean over exits",
            "area, patience", "mean: difference, same seeds", "more than noise?"]  # fmt: skip
    return table(head, rows) + f"\n\n{command('toy')}"


def effect(base, runs, metric):
    cells = [spread([exits_of(run)[m] for run in runs]) for m in (0, -1)]
    seeds = {run["seed"] for run in runs}
    same = [run for run in base if run["seed"] in seeds]
    means = [[exits_of(run).mean() for run in side] for side in (same, runs)]
    cells += [spread(means[1]), spread([area(run, "patience") for run in runs])]
    return cells + (["", ""] if base is runs else against(*means, metric))


def against(a, b, metric):
    """Cells for b - a: the difference, and whether it is more than noise."""
    difference = f"{100 * (np.mean(b) - np.mean(a)):+.1f}"
    return [difference, " ".join(judge(a, b, metric, None).split())]


QUESTIONS = (
    ("Does distillation among exits help?", "none-uniform", "all-uniform"),
    ("All teachers (LAE) rather than later ones (LLE)?", "later-uniform", "all-uniform"),
    ("What does it cost to give d2 away? (uniform weights)", "all-uniform", "all-uniform-d1"),
    ("What do learned weights gain, on the same d1?", "all-uniform-d1", "all-cross"),
    ("... and against uniform weights on all of train?", "all-uniform", "all-cross"),
    ("... in the same time?", "all-uniform-long", "all-cross"),
    ("... at the least, against single?", "all-single", "all-cross"),
    ("Cross rather than bilevel?", "all-bilevel", "all-cross"),
    ("Is it the final weights? Trained again with them frozen", "all-uniform-d1", "all-frozen-d1"),
    ("... or the path to them? From frozen to cross", "all-frozen-d1", "all-cross"),
)


def questions_table(folder=COMPARED):
    """One row a question and task: B - A at three places, and whether it is more than noise."""
    rows = []
    for words, a, b in QUESTIONS:
        for task in TASKS:
            sides = [load(task, name, folder) for name in (a, b)]
            if not all(sides):
                continue
            metric = sides[0][0]["metric"]
            cells = []
            for number in (
                lambda run: exits_of(run).mean(),
                lambda run: exits_of(run)[-1],
                lambda run: area(run, "patience"),
            ):
                cells.append(": ".join(against(*([number(r) for r in s] for s in sides), metric)))
            rows.append([words, f"{a}, {b}", f"{task} ({len(sides[0])}, {len(sides[1])})", *cells])
    head = ["question", "A, B", "task (n)", "B - A: mean over exits", "last exit", "area, patience"]
    return table(head, rows) if rows else absent("toy")


def weight_vector(run):
    """All weights of a run, each 1 at the uniform sum -> (K,); pairs that do not teach left out."""
    ce, kd = np.array(run["weights"]["ce"]), np.array(run["weights"]["kd"])
    teachers = (kd > 0).sum(axis=1, keepdims=True)
    return np.concatenate([ce, (kd * teachers)[kd > 0]])


def agreement(a, b=None):
    """Mean correlation of the weights of two runs: pairs within a, or one of a with one of b."""
    pairs = [(x, y) for i, x in enumerate(a) for y in (a[:i] if b is None else b)]
    return float(np.mean([np.corrcoef(x, y)[0, 1] for x, y in pairs])) if pairs else float("nan")


def weights_table(folder=COMPARED):
    """What all-cross has learned: weights of each exit, as student, as teacher, and alignment."""
    rows, vectors, directions = [], {}, []
    for task in TASKS:
        runs = load(task, "all-cross", folder)
        if not runs:
            continue
        M = len(runs[0]["exits"])
        off = ~np.eye(M, dtype=bool)
        ce = np.array([run["weights"]["ce"] for run in runs])  # (runs, M)
        kd = np.array([run["weights"]["kd"] for run in runs]) * (M - 1)  # 1: the uniform sum
        vectors[task] = [weight_vector(run) for run in runs]
        later, earlier = (kd[:, side].mean(axis=1) for side in (np.triu(off), np.tril(off)))
        directions.append(f"{task} {plain(later)} and {plain(earlier)}")
        probes = [probe for run in runs for probe in run["alignment"]]
        cos_ce = np.mean([probe["ce"] for probe in probes], axis=0)
        cos_kd = np.mean([probe["kd"] for probe in probes], axis=0)
        for words, values in (
            ("weight of the cross-entropy", ce),
            ("weight of distillation, as student", kd.sum(axis=2) / (M - 1)),
            ("weight of distillation, as teacher", kd.sum(axis=1) / (M - 1)),
        ):
            cells = [plain(values[:, m]) for m in range(M)]
            rows.append([f"{task}: {words}", len(runs), *cells])
        for words, values in (
            ("cos with v, cross-entropy", cos_ce),
            ("cos with v, as student", np.where(off, cos_kd, 0).sum(axis=1) / (M - 1)),
            ("cos with v, as teacher", np.where(off, cos_kd, 0).sum(axis=0) / (M - 1)),
        ):
            rows.append([f"{task}: {words}", len(runs), *(f"{x:+.2f}" for x in values)])
    if not rows:
        return absent("toy")
    M = len(rows[0]) - 2
    lines = [table(["all-cross, exit", "n", *range(1, M + 1)], rows), ""]
    chance = 1 / np.sqrt(len(vectors[next(iter(vectors))][0]) - 1)
    lines.append(
        "Correlation of all learned weights of two runs, mean over pairs of runs (unrelated "
        f"weights: 0, with a standard error of {chance:.2f} for one pair):"
    )
    names = list(vectors)
    cells = []
    for i, task in enumerate(names):
        if len(vectors[task]) > 1:
            ce, kd = ([v[kind] for v in vectors[task]] for kind in (slice(M), slice(M, None)))
            cells.append(
                f"{task}, two seeds {agreement(vectors[task]):.2f} (cross-entropies alone "
                f"{agreement(ce):.2f}, distillations {agreement(kd):.2f})"
            )
        cells += [f"{task} with {other} {agreement(vectors[task], vectors[other]):.2f}"
                  for other in names[:i]]  # fmt: skip
    lines += ["; ".join(cells) + "." if cells else "one run only.", ""]
    words = "Mean weight of the distillations in which a later exit teaches, and an earlier one: "
    return "\n".join([*lines, words + "; ".join(directions) + "."])


def plain(values):
    std = f" +- {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
    return f"{np.mean(values):.2f}{std}"


def published_table():
    """What papers report for BERT-base: another model, and GLUE's test set."""
    published = json.loads((ROOT / "results" / "published.json").read_text(encoding="utf-8"))
    tasks = published["tasks"]
    rows = [[name, *("-" if x is None else f"{x:.1f}" for x in row)]
            for name, row in published["rows"].items()]  # fmt: skip
    return table(["published, BERT-base, test", *tasks], rows)


PICTURES = {
    "exits": "the metric of every exit, mean and band over seeds, for each method",
    "speed": "the metric against the speed-up, in layers and in wall-clock time, for each method",
    "levels": "how deep examples of each level of difficulty go",
    "weights": "the learned weights, their course, and what they follow",
}


def pictures(task, *kinds, folder=ROOT / "docs"):
    """Those of a task that docs/evidence.md shows, or how to draw them."""
    there = [kind for kind in kinds if (folder / f"{task}-{kind}.png").exists()]
    shown = [f"![{task}: {PICTURES[kind]}]({task}-{kind}.png)" for kind in there]
    return "\n\n".join(shown) or f"Not drawn yet: `python experiments/plot.py --task {task}`"


TABLES = {
    **{f"exits-{task}": partial(exits_table, task) for task in TASKS},
    **{f"speeds-{task}": partial(speeds_table, task) for task in TASKS},
    "choices": choices_table,
    "questions": questions_table,
    "weights": weights_table,
    "published": published_table,
    **{f"pictures-{task}": partial(pictures, task, "exits", "speed", "levels") for task in TASKS},
    **{f"pictures-weights-{task}": partial(pictures, task, "weights") for task in TASKS},
}  # fmt: skip
