"""The tables of the comparison, from results/compare/; experiments/tables.py writes them.

result   what compare.py has kept of a run       M   exits
metric   accuracy, or Matthews correlation for cola, on dev, in percent: mean +- std over seeds
"""

import json
from functools import partial
from pathlib import Path

import numpy as np
from compare_runs import at_speedup, spread
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

    With one model for each depth, any of their speeds can be had, without a rule.
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


# Student's t with 1, 2, .. degrees of freedom, at 97.5 %.
T975 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)


def difference(a, b, number):
    """B - A, runs of one seed in pairs: the mean, and its 95 % interval; bold if 0 is outside.

    A pair shares the initial weights, and in methods of one kind the order of the examples too. a,
    b: runs. number: run -> a metric.
    """
    a, b = ({run["seed"]: 100 * number(run) for run in side} for side in (a, b))
    d = [b[seed] - a[seed] for seed in a.keys() & b.keys()]
    if len(d) < 2:
        return f"{d[0]:+.1f}" if d else ""
    half = T975[min(len(d) - 2, len(T975) - 1)] * np.std(d, ddof=1) / np.sqrt(len(d))
    low, high = np.mean(d) - half, np.mean(d) + half
    words = f"{np.mean(d):+.1f} ({low:+.1f} .. {high:+.1f})"
    return f"**{words}**" if low > 0 or high < 0 else words


def first_exit_metric(run):
    return exits_of(run)[0]


def last_exit_metric(run):
    return exits_of(run)[-1]


def mean_exit_metric(run):
    return exits_of(run).mean()


def area_by_patience(run):
    return area(run, "patience")


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


def reached(runs, rule, speedup):
    """The metric of a rule at a speed-up; `(2 of 3)` if only so many runs get there, `-` if none.

    Not to be compared with that of all seeds, but more than nothing.
    """
    values = np.array([at_speedup(run, rule, speedup) for run in runs])
    there = values[~np.isnan(values)]
    some = f" ({len(there)} of {len(values)})" if len(there) < len(values) else ""
    return spread(there) + some if len(there) else "-"


def listed(task, folder=COMPARED):
    """-> [(name, words, runs)] of the methods that have runs, in the order of methods.py."""
    names = ["last", CUT, *(n for n in METHODS if not n.startswith(CUT) and n != "last")]
    words = {CUT: "one model for each depth, trained for itself"}
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
            first, last = (spread([exits_of(run)[m] for run in runs]) for m in (0, -1))
            fast = [reached(runs, rule, 2) for rule in ("patience", "confidence")]
            cells = ["-", last, "-", "-"] if name.startswith("last") else [first, last, *fast]
            rows.append([METHODS[name].words, *cells])
    head = ["trained as; accuracy on dev", "first exit", "last exit", "2x, patience",
            "2x, confidence"]  # fmt: skip
    return table(head, rows) if rows else absent("toy")


def real_table(folder=COMPARED):
    """For the README: pretrained weights, full depth and half of it, a row a method."""
    longer = [name for name, method in METHODS.items() if method.times > 1]
    found = {name: {task: load(task, name, folder) for task in TASKS[1:]}
             for name in (*REAL, *longer)}  # fmt: skip
    tasks = {task: runs[0] for task, runs in found["all-cross"].items() if runs}
    constant = [f"{100 * run['majority'][run['metric']]:.1f}" for run in tasks.values()]
    rows = [["always the most frequent class", *(cell for cell in constant for _ in range(3))]]
    for name, of in found.items():
        if name in longer and not any(of.values()):
            continue
        cells = []
        for task in tasks:
            cells.append(spread([last_exit_metric(run) for run in of[task]]) if of[task] else "-")
            for rule in ("patience", "confidence"):
                cells.append(reached(of[task], rule, 2) if name != "last" else "-")
        rows.append([METHODS[name].words, *cells])
    head = [
        words
        for task, run in tasks.items()
        for words in (f"{task} {run['metric']}, last exit", "2x, patience", "2x, confidence")
    ]
    return table(["on dev, in percent", *head], rows) if tasks else absent("sst2")


def speeds_table(task, folder=COMPARED):
    """Metric at given speed-ups for the paper's rule, and the area for every rule."""
    found = [row for row in listed(task, folder) if not row[0].startswith("last")]
    if not found:
        return absent(task)
    rows = []
    for _, words, runs in found:
        cells = [reached(runs, "patience", s) for s in SPEEDUPS]
        cells += [spread([area(run, rule) for run in runs]) for rule in RULES]
        rows.append([words, len(runs), *cells])
    head = [f"{found[0][2][0]['metric']}", "n", *(f"patience, {s:g}x" for s in SPEEDUPS),
            *(f"area, {rule}" for rule in RULES)]  # fmt: skip
    return table(head, rows) + f"\n\n{command(task)}"


def choices_table(folder=COMPARED):
    """Toy: what each choice does, one at a time, against all-cross; `redraw`, against no-redraw."""
    base = load("toy", "all-cross", folder)
    found = [("lambda 0 (bilevel)", load("toy", "all-bilevel", folder), base)]
    for name, choice in CHOICES.items():
        against = load("toy", "no-redraw", folder) if name == "redraw" else base
        found.append((choice.words, load("toy", name, folder), against))
    if not base or not any(runs for _, runs, _ in found):
        return absent("toy")
    rows = []
    for words, runs, against in [("as it is (all-cross)", base, []), *found]:
        if runs:
            numbers = (first_exit_metric, last_exit_metric, mean_exit_metric, area_by_patience)
            cells = [spread([number(run) for run in runs]) for number in numbers]
            rows.append([words, len(runs), *cells, difference(against, runs, mean_exit_metric)])
    head = ["changed, one at a time", "n", "exit 1", "last exit", "mean over exits",
            "area, patience", "mean over exits: difference"]  # fmt: skip
    return table(head, rows) + f"\n\n{command('toy')}"


QUESTIONS = (
    ("A loss after every layer, or after the last one only?", "last", "none-uniform"),
    ("... which has a learning rate of its own", "last-slow", "none-uniform"),
    ("Does distillation among exits help?", "none-uniform", "all-uniform"),
    ("... with 3 x the updates?", "none-uniform-long", "all-uniform-long"),
    ("... rather than weights by depth (PABEE)?", "pabee", "all-uniform"),
    ("... with 3 x the updates?", "pabee-long", "all-uniform-long"),
    ("All teachers (LAE) rather than later ones (LLE)?", "later-uniform", "all-uniform"),
    ("... with learned weights?", "later-cross", "all-cross"),
    ("What does it cost to give d2 away? (uniform weights)", "all-uniform", "all-uniform-d1"),
    ("... with 3 x the updates?", "all-uniform-long", "all-uniform-d1-long"),
    ("What do learned weights gain, on the same d1?", "all-uniform-d1", "all-cross"),
    ("... with 3 x the updates?", "all-uniform-d1-long", "all-cross-long"),
    ("... and against uniform weights on all of train?", "all-uniform", "all-cross"),
    ("... with 3 x the updates?", "all-uniform-long", "all-cross-long"),
    ("... in the same time?", "all-uniform-long", "all-cross"),
    ("Do weights that fall (single) do harm?", "all-uniform", "all-single"),
    ("Cross rather than bilevel?", "all-bilevel", "all-cross"),
    ("... with 3 x the updates?", "all-bilevel-long", "all-cross-long"),
    ("... D1 judges by the step's own examples, or by others?", "cross-own", "all-cross"),
    ("Is it the final weights? Trained again with them frozen", "all-uniform-d1", "all-frozen-d1"),
    ("... or the path to them? From frozen to cross", "all-frozen-d1", "all-cross"),
)


def questions_table(folder=COMPARED):
    """One row a question and task: B - A at three places, with its interval."""
    rows = []
    for words, a, b in QUESTIONS:
        for task in TASKS:
            sides = [load(task, name, folder) for name in (a, b)]
            if all(sides):
                numbers = (mean_exit_metric, last_exit_metric, area_by_patience)
                cells = [difference(*sides, number) for number in numbers]
                if a.startswith("last"):  # its other exits were never trained
                    cells = ["", cells[1], ""]
                n = len({run["seed"] for run in sides[0]} & {run["seed"] for run in sides[1]})
                rows.append([words, f"{a}, {b}", task, n, *cells])
    head = ["question", "A, B", "task", "n", "B - A: mean over exits", "last exit",
            "area, patience"]  # fmt: skip
    return table(head, rows) if rows else absent("toy")


LEARNED = {
    "all-single": "single",
    "all-bilevel": "bilevel, judged by d2",
    "all-bilevel-long": "bilevel, 3 x the updates",
    "cross-own": "cross, judged by the step's own examples",
    "all-cross": "cross",
    "all-cross-long": "cross, 3 x the updates",
}


def weights_of(runs):
    """-> ce (runs, M), kd (runs, M, M), 1 at the uniform sum; for runs in which all teach."""
    M = len(runs[0]["exits"])
    ce = np.array([run["weights"]["ce"] for run in runs])
    kd = np.array([run["weights"]["kd"] for run in runs]) * (M - 1)
    return ce, kd


def by_exit(words, prefix, number, ce, kd):
    """ce (runs, M), kd (runs, M, M), 0 on the diagonal -> rows: cross-entropy, student, teacher."""
    others = kd.shape[1] - 1
    values = {
        "cross-entropy": ce,
        "as student": kd.sum(axis=2) / others,
        "as teacher": kd.sum(axis=1) / others,
    }
    return [[words, prefix + what, *map(number, x.T)] for what, x in values.items()]


def weights_table(folder=COMPARED):
    """What was learned: weights of each exit, as student, as teacher; and cos(grad l_k, v)."""
    rows = []
    for task in TASKS:
        for name, words in LEARNED.items():
            runs = load(task, name, folder)
            if not runs:
                continue
            rows += by_exit(f"{task}, {words}", "", plain, *weights_of(runs))
            if probes := [probe for run in runs for probe in run.get("alignment", [])]:
                cos = (np.mean([[probe[k] for probe in probes]], axis=1) for k in ("ce", "kd"))
                rows += by_exit(f"{task}, {words}", "cos with v, ", signed, *cos)
    if not rows:
        return absent("toy")
    return table(["weights of", "", *(f"exit {m}" for m in range(1, len(rows[0]) - 1))], rows)


def centred(x):
    """x (M,), or (M, M) without its diagonal -> mean 0, length 1: so r of two is a sum of products.

    0 on the diagonal.
    """
    kept = ~np.eye(len(x), dtype=bool) if x.ndim == 2 else np.full(len(x), True)
    x = np.where(kept, x - x[kept].mean(), 0)
    return x / np.linalg.norm(x)


def renamed(x, rng):
    """The same weights with the exits in another order, as students and as teachers alike."""
    order = rng.permutation(len(x))
    return x[np.ix_(*[order] * x.ndim)]


def agreement(a, b=None, draws=2000):
    """Mean correlation of two runs, pairs within a or one of a with one of b; (runs, M[, M]) each.

    -> words: the mean and, in brackets, its standard deviation where exits are renamed at random,
    those of every run by themselves; or those of b's runs all alike, since the runs of a task have
    much in common. Exits, not weights one by one: a teacher's weights have much in common too.
    """
    rng, a = np.random.default_rng(0), [centred(x) for x in a]
    if b is None and len(a) < 2:
        return ""
    if b is None:

        def mean(runs):
            pairs = len(runs) * (len(runs) - 1)  # |sum x|^2 is those and every |x|^2 = 1
            return (np.square(np.sum(runs, axis=0)).sum() - len(runs)) / pairs

        found, chance = mean(a), [mean([renamed(x, rng) for x in a]) for _ in range(draws)]
    else:
        a, b = np.mean(a, axis=0), np.mean([centred(x) for x in b], axis=0)
        found, chance = np.sum(a * b), [np.sum(a * renamed(b, rng)) for _ in range(draws)]
    return f"{found:+.2f} ({np.std(chance):.2f})"


def agreement_table(folder=COMPARED):
    """Who teaches whom, and whether two seeds, or two tasks, learn the same weights."""
    rows, pairs = [], {}
    for task in TASKS:
        for name, words in LEARNED.items():
            if runs := load(task, name, folder):
                ce, kd = weights_of(runs)
                off = ~np.eye(ce.shape[1], dtype=bool)  # who teaches whom: all but themselves
                later, earlier = (kd[:, side].mean(axis=1) for side in (np.triu(off), np.tril(off)))
                pairs[task, name] = kd
                cells = [plain(later), plain(earlier), agreement(ce), agreement(kd)]
                rows.append([f"{task}, {words}", len(runs), *cells])
    for name, words in LEARNED.items():
        tasks = [task for task in TASKS if (task, name) in pairs]
        for i, task in enumerate(tasks):
            for other in tasks[:i]:
                cell = agreement(pairs[other, name], pairs[task, name])
                rows.append([f"{other} with {task}, {words}", "", "", "", "", cell])
    head = ["weights of", "n", "a later exit teaches", "an earlier one",
            "two runs: cross-entropies", "distillations"]  # fmt: skip
    return table(head, rows) if rows else absent("toy")


def signed(values):
    return f"{np.mean(values):+.2f}"


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
    "speed": "the metric against the speed-up, in layers and in processor time, for each method",
    "levels": "how deep examples of each level of difficulty go",
    "weights": "learned weights of the distillations, and the course of all",
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
    "agreement": agreement_table,
    "published": published_table,
    **{f"pictures-{task}": partial(pictures, task, "exits", "speed", "levels") for task in TASKS},
    **{f"pictures-weights-{task}": partial(pictures, task, "weights") for task in TASKS},
}  # fmt: skip
