"""Numbers made of results, and the tables of the comparison; experiments/tables.py writes them.

run      a result, of compare.py or of train.py          M    exits
metric   accuracy, or Matthews correlation for cola, on dev; tables give it in percent
"""

import itertools
import json
import os
from functools import partial
from pathlib import Path

import numpy as np
from methods import CHOICES, METHODS

from support.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
COMPARED = ROOT / "results" / "compare"  # what compare.py leaves
TASKS = ("toy", "sst2", "cola", "rte")
RULES = ("patience", "entropy", "confidence")
SPEEDUPS = (1.5, 2, 3)  # in layers
HEADLINE = "plain last all-uniform single bilevel cross all-uniform-long".split()
# Fields of a run's config.json that do not make it another method.
NOT_SETTINGS = """seed out resume device log_every data_dir cache_dir bert labels pairs processes
                  train_data""".split()

# --------------------------------------------------------------------------------------------------
# 1. Results


def parsed(text, where):
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(f"{where}: not a result ({error})") from None


def read(path):
    return parsed(Path(path).read_text(encoding="utf-8"), path)


def runs_file(task, folder=COMPARED):
    return Path(folder) / f"{task}.jsonl"


def all_runs(path):
    """-> {(name, seed): run} of a file of JSON lines; empty if there is no such file."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    runs = [parsed(line, f"{path}, line {n}") for n, line in enumerate(lines, 1)]
    return {(run["name"], run["seed"]): run for run in runs}


def keep(run, path):
    """Add a run to the file, or replace it there; lines are sorted by name and seed.

    The file is always whole: a new one takes its place. Only one process may write it at a time.
    """
    runs = all_runs(path) | {(run["name"], run["seed"]): run}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text("".join(f"{json.dumps(runs[key])}\n" for key in sorted(runs)))
    os.replace(partial, path)


def load(task, name, folder=COMPARED):
    """-> the runs of a method, sorted by seed."""
    return [run for key, run in all_runs(runs_file(task, folder)).items() if key[0] == name]


def listed(task, folder=COMPARED, names=METHODS):
    """-> {name: runs} of the methods that have runs, in the order of methods.py."""
    found = {name: load(task, name, folder) for name in names}
    return {name: runs for name, runs in found.items() if runs}


# --------------------------------------------------------------------------------------------------
# 2. Numbers: of a run


def exits_of(run):
    return np.array([row[run["metric"]] for row in run["exits"]])  # (M,)


def first_exit(run):
    return exits_of(run)[0]


def last_exit(run):
    return exits_of(run)[-1]


def over_exits(run):
    return exits_of(run).mean()


def at_speedup(run, rule, speedup):
    """The metric of a rule where the mean exit is M / speedup; nan where the rule never gets there.

    Between two thresholds the metric is taken as linear in the mean exit: let each example draw one
    of the two.
    """
    M, metric = len(run["exits"]), run["metric"]
    points = [(row["mean_exit"], row[metric]) for row in run["sweep"] if row["rule"] == rule]
    points = sorted([*points, (M, last_exit(run))])  # never leaving is a threshold too
    exits, values = zip(*points, strict=True)
    return float(np.interp(M / speedup, exits, values, left=np.nan))


def over_mix(run, rule, speedup):
    """at_speedup minus the best random mix of fixed exits with the same mean exit.

    That mix is linear between two exits, and at exit k it is the metric of "always k" minus its
    over_mix. nan for results that have no such rows.
    """
    always = [row for row in run["sweep"] if row["rule"] == "always"]
    if not always:
        return np.nan
    exits = [row["mean_exit"] for row in always]
    best = [row[run["metric"]] - row["over_mix"] for row in always]
    mix = np.interp(len(run["exits"]) / speedup, exits, best)
    return at_speedup(run, rule, speedup) - float(mix)


# --------------------------------------------------------------------------------------------------
# 3. Numbers: over seeds


def spread(x, scale=100, digits=1):
    """Mean +- standard deviation; `(n = 2)` after it if only so many runs have the number."""
    there = np.array(x)[~np.isnan(x)]
    if not len(there):
        return "-"
    std = f" +- {scale * np.std(there, ddof=1):.{digits}f}" if len(there) > 1 else ""
    some = f" (n = {len(there)})" if len(there) < len(x) else ""
    return f"{scale * np.mean(there):.{digits}f}{std}{some}"


# Student's t with 1, 2, .. degrees of freedom, at 97.5 %.
T975 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)


def mean_and_half(d):
    """d: one number a seed, or (seeds, ...) -> mean, and half its 95 % interval (nan for one)."""
    mean = np.mean(d, axis=0)
    if len(d) < 2:
        return mean, np.full_like(mean, np.nan)
    t = T975[min(len(d) - 2, len(T975) - 1)]
    return mean, t * np.std(d, axis=0, ddof=1) / np.sqrt(len(d))


def interval(d):
    """d, one number a seed -> mean and 95 % interval in percent; bold if 0 is outside."""
    d = 100 * np.array(d)[~np.isnan(d)]
    if not len(d):
        return "-"
    mean, half = mean_and_half(d)
    if np.isnan(half) or not d.any():  # one seed; or no difference on any
        return f"{mean:+.1f}"
    words = f"{mean:+.1f} ({mean - half:+.1f} .. {mean + half:+.1f})"
    return f"**{words}**" if abs(mean) > half else words


def paired(a, b, number):
    """B - A: a number of the runs a and b, subtracted where they share a seed -> one a seed.

    Runs of one seed share the initial weights and, within a kind, the order of the examples.
    """
    a, b = ({run["seed"]: number(run) for run in side} for side in (a, b))
    return [b[seed] - a[seed] for seed in sorted(a.keys() & b.keys())]


def weights_of(runs):
    """-> ce (runs, M), kd (runs, M, M), 1 at the uniform sum; for runs in which all teach."""
    ce, kd = (np.array([run["weights"][kind] for run in runs]) for kind in ("ce", "kd"))
    return ce, kd * (ce.shape[1] - 1)


def centred(x):
    """x (M,), or (M, M) without its diagonal -> mean 0, length 1: so r of two is a sum of products.

    0 on the diagonal: nobody teaches itself.
    """
    kept = ~np.eye(len(x), dtype=bool) if x.ndim == 2 else np.full(len(x), True)
    x = np.where(kept, x - x[kept].mean(), 0)
    return x / np.linalg.norm(x)


def renamed(x, orders):
    """x (M,) or (M, M), with the exits in other orders (draws, M), as students and as teachers
    alike -> (draws, M) or (draws, M, M).
    """
    return x[orders] if x.ndim == 1 else x[orders[:, :, None], orders[:, None, :]]


def agreement(weights, draws=2000):
    """weights (runs, M) or (runs, M, M) -> mean correlation of two runs, and p by chance.

    p: how often runs agree as much when the exits of each are renamed at random. Exits, and not
    weights one by one: those of one teacher have much in common.
    """
    rng, n = np.random.default_rng(0), len(weights)
    exits = np.tile(np.arange(weights.shape[1]), (draws, 1))
    runs = [centred(x) for x in weights]
    others = sum(renamed(x, rng.permuted(exits, axis=1)) for x in runs)  # (draws, M[, M])

    def mean_correlation(total):  # |sum x|^2 is n (n - 1) products of two runs, and n times 1
        return (np.square(total).sum() - n) / (n * (n - 1))

    found = mean_correlation(np.sum(runs, axis=0))
    as_high = sum(mean_correlation(total) >= found - 1e-9 for total in others)
    return found, (1 + as_high) / (1 + draws)


# --------------------------------------------------------------------------------------------------
# 4. Tables


def command(task):
    more = "10 --workers 2" if task == "toy" else "5 -- --data-dir GLUE --device cuda"
    return f"`python experiments/compare.py --task {task} --seeds {more}`"


def absent(task):
    return f"Not run yet: {command(task)}"


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def counted(text):
    """A table, and how many of its intervals leave out 0, and how many would by luck."""
    intervals, bold = text.count(" .. "), text.count("**") // 2
    return (
        f"{text}\n\n{intervals} intervals of 95 %, of which {bold} exclude 0 (bold). If nothing "
        f"made a difference, about {intervals / 20:.1f} would."
    )


def exits_table(task, folder=COMPARED):
    """The metric of every exit, and their mean."""
    found, rows = listed(task, folder), []
    if not found:
        return absent(task)
    for name, runs in found.items():
        exits = np.array([exits_of(run) for run in runs])  # (runs, M)
        cells = [*map(spread, exits.T), spread(exits.mean(axis=1))]
        rows.append([METHODS[name].words, len(runs), *cells])
    run = next(iter(found.values()))[0]
    exits = (f"exit {row['exit']}" for row in run["exits"])
    head = [f"{task}, {run['metric']}", "n", *exits, "mean"]
    constant = 100 * run["majority"][run["metric"]]
    where = sorted({run["device"] for runs in found.values() for run in runs})
    last = f"Always the most frequent class: {constant:.1f}. On {', '.join(where)}. {command(task)}"
    return f"{table(head, rows)}\n\n{last}"


def tuning_table(folder=COMPARED):
    """The mean over exits at each learning rate, on rows of train held out; the best in bold."""
    rates, rows = sorted(Path(folder).glob("tuning/*"), key=lambda path: float(path.name)), []
    for task, name in itertools.product(TASKS, METHODS):
        means = [100 * over_exits(run) for rate in rates for run in load(task, name, rate)]
        cells = [f"**{x:.1f}**" if x == max(means) else f"{x:.1f}" for x in means]
        if means:
            rows.append([task, METHODS[name].words, *cells])
    return table(["task", "method", *(rate.name for rate in rates)], rows)


def leaving_table(task, folder=COMPARED):
    """Leaving early by each rule: the metric at a speed-up in layers, and its gain over the mix."""
    found, rows = listed(task, folder, HEADLINE), []
    if not found:
        return absent(task)
    for name, runs in found.items():
        for rule in RULES:
            at = [spread([at_speedup(run, rule, s) for run in runs]) for s in SPEEDUPS]
            gains = [interval([over_mix(run, rule, s) for run in runs]) for s in SPEEDUPS]
            rows.append([METHODS[name].words, rule, len(runs), *at, *gains])
    head = [task, "rule", "n", *(f"{s:g}x" for s in SPEEDUPS)]
    head += (f"over the mix, {s:g}x" for s in SPEEDUPS)
    return f"{counted(table(head, rows))} {command(task)}"


def levels_table(folder=COMPARED):
    """The built-in task by level of difficulty: each exit, and leaving early."""
    rows = []
    for name, runs in listed("toy", folder, HEADLINE).items():
        for same in zip(*(run["levels"] for run in runs if run["levels"]), strict=True):
            exits = np.array([row.get("exits", []) for row in same])  # (runs, M)
            point = [spread([row["acc"] for row in same])]
            point.append(spread([row["mean_exit"] for row in same], scale=1))
            rows.append([METHODS[name].words, same[0]["level"], *map(spread, exits.T), *point])
    if not rows:
        return absent("toy")
    exits = (f"exit {m}" for m in range(1, len(rows[0]) - 3))
    return table(["toy", "level", *exits, "leaving early", "mean exit"], rows)


QUESTIONS = {  # by the numbers of docs/evidence.md: in words, A, B
    1: (
        ("the last exit teaches, against no teacher", "plain", "last"),
        ("all exits teach, against no teacher", "plain", "all-uniform"),
        ("... in the time of cross", "plain-long", "all-uniform-long"),
        ("all exits teach, against the last alone", "last", "all-uniform"),
        ("all exits teach, against weights by depth", "pabee", "all-uniform"),
    ),
    2: (
        ("cross against uniform weights, equal updates", "all-uniform", "cross"),
        ("... the part of it that d2 costs", "all-uniform", "all-uniform-d1"),
        ("... the part that learning adds, on the same d1", "all-uniform-d1", "cross"),
        ("cross against uniform weights, equal time", "all-uniform-long", "cross"),
        ("cross against no teacher, equal updates", "plain", "cross"),
        ("cross against no teacher, equal time", "plain-long", "cross"),
    ),
    3: (
        ("cross against bilevel", "bilevel", "cross"),
        ("cross against single", "single", "cross"),
        ("bilevel against single", "single", "bilevel"),
        ("single against uniform weights", "all-uniform", "single"),
    ),
    4: (
        ("final weights from the start, against uniform ones", "all-uniform-d1", "frozen-d1"),
        ("the path to them, against final weights from the start", "frozen-d1", "cross"),
    ),
}


NUMBERS = {
    "first exit": first_exit,
    "second exit": lambda run: exits_of(run)[1],
    "mean over exits": over_exits,
    "last exit": last_exit,
    "patience, 2x": partial(at_speedup, rule="patience", speedup=2),
    "confidence, 2x": partial(at_speedup, rule="confidence", speedup=2),
}


def differences_table(question, folder=COMPARED):
    """The comparisons of a question: a row a comparison and task, a column a number."""
    rows = []
    for words, a, b in QUESTIONS[question]:
        for task in TASKS:
            sides = [load(task, name, folder) for name in (a, b)]
            if n := len(paired(*sides, over_exits)):
                cells = [interval(paired(*sides, number)) for number in NUMBERS.values()]
                rows.append([words, f"{b} - {a}", task, n, *cells])
    head = ["difference in points", "B - A", "task", "n", *NUMBERS]
    return counted(table(head, rows)) if rows else absent("toy")


def choices(folder=COMPARED):
    """-> (words, runs, what they are compared with): cross; or no-redraw, for `redraw`."""
    words = {"bilevel": "lambda 0 (bilevel)"}
    words |= {name: choice.words for name, choice in CHOICES.items()}
    for name in words:
        base = load("toy", "no-redraw" if name == "redraw" else "cross", folder)
        if runs := load("toy", name, folder):
            yield words[name], runs, base


def choices_table(folder=COMPARED):
    """The built-in task: one change at a time."""
    numbers, rows = (first_exit, over_exits, last_exit), []
    unchanged = ("cross, as it is", load("toy", "cross", folder), [])
    for words, runs, base in [unchanged, *choices(folder)]:
        cells = [spread(list(map(number, runs))) for number in numbers]
        gains = [interval(paired(base, runs, number)) for number in numbers[1:]]
        rows.append([words, len(runs), *cells, *gains])
    head = ["changed, one at a time", "n", "first exit", "mean over exits", "last exit",
            "mean over exits: difference", "last exit: difference"]  # fmt: skip
    return f"{counted(table(head, rows))} {command('toy')}" if rows[0][1] else absent("toy")


def learned(folder=COMPARED):
    """-> (task, name, ce (runs, M), kd (runs, M, M)) of the methods that learn weights."""
    for task in TASKS:
        for name in ("single", "bilevel", "cross"):
            if runs := load(task, name, folder):
                yield task, name, *weights_of(runs)


def weights_table(folder=COMPARED):
    """What was learned, 1 at the uniform sum: of each exit, as a student and as a teacher."""
    rows = []
    for task, name, ce, kd in learned(folder):
        others = ce.shape[1] - 1
        kinds = {
            "cross-entropy": ce,
            "as student": kd.sum(axis=2) / others,
            "as teacher": kd.sum(axis=1) / others,
        }
        for words, x in kinds.items():
            cells = (spread(column, scale=1, digits=2) for column in x.T)
            rows.append([f"{task}, {name}", words, *cells])
    if not rows:
        return absent("toy")
    return table(["weights of", "", *(f"exit {m}" for m in range(1, len(rows[0]) - 1))], rows)


def agreement_table(folder=COMPARED):
    """Who teaches whom, and whether seeds learn the same weights."""
    rows = []
    for task, name, ce, kd in learned(folder):
        later, earlier = np.triu_indices(ce.shape[1], 1), np.tril_indices(ce.shape[1], -1)
        cells = [spread(kd[:, *side].mean(axis=1), 1, 2) for side in (later, earlier)]
        if len(ce) > 1:
            found = agreement(ce), agreement(kd)
            cells += [f"{r:+.2f} (p {'<' if p < 0.001 else '='} {max(p, 0.001):.3f})"
                      for r, p in found]  # fmt: skip
            rows.append([f"{task}, {name}", len(ce), *cells])
    head = ["weights of", "n", "a later exit teaches", "an earlier one",
            "two seeds: cross-entropies", "two seeds: distillations"]  # fmt: skip
    return table(head, rows) if rows else absent("toy")


def headline_table(folder=COMPARED):
    """For the README: the built-in task, equal updates."""
    rows = []
    for name, runs in listed("toy", folder, HEADLINE[:-1]).items():  # the last one is longer
        cells = [spread(list(map(number, runs))) for number in (first_exit, last_exit)]
        gain = interval(paired(load("toy", "plain", folder), runs, over_exits))
        rows.append([METHODS[name].words, *cells, gain if name != "plain" else "-"])
    head = ["trained as; accuracy on dev", "first exit", "last exit", "all, against row 1"]
    return table(head, rows) if rows else absent("toy")


PICTURES = {
    "exits": "The metric of every exit, mean and standard deviation over seeds, for six methods",
    "differences": "The differences of questions 1 to 4, mean over exits, with 95 % intervals",
    "weights": "Learned weights of the distillations, by bilevel and by cross",
    "leaving": "What each rule gains over the best random mix of fixed exits, with 95 % intervals",
    "choices": "The differences that each choice makes, with their intervals",
}


def picture(name, folder=ROOT / "docs"):
    """For docs/evidence.md; drawn by experiments/plot.py."""
    there = (folder / f"evidence-{name}.png").exists()
    shown = f"![{PICTURES[name]}](evidence-{name}.png)"
    return shown if there else "Not drawn yet: `python experiments/plot.py`"


TABLES = {
    **{f"picture-{name}": partial(picture, name) for name in PICTURES},
    "compared": headline_table,
    **{f"exits-{task}": partial(exits_table, task) for task in TASKS},
    "tuning": tuning_table,
    **{f"leaving-{task}": partial(leaving_table, task) for task in TASKS},
    "levels": levels_table,
    **{f"differences-{number}": partial(differences_table, number) for number in QUESTIONS},
    "choices": choices_table,
    "weights": weights_table,
    "agreement": agreement_table,
}
