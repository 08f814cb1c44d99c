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
from liar import of_the_lie
from methods import CHOICES, EVERYTHING, METHODS

from support.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
COMPARED = ROOT / "results" / "compare"  # what compare.py leaves
TASKS = ("toy", "sst2", "cola", "rte")
RULES = ("patience", "entropy", "confidence")
SPEEDUPS = (1.5, 2, 3)  # in layers
HEADLINE = "plain deebert fastbert berxit last all-uniform single bilevel cross".split()
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


def held_out_loss(run):
    """F on dev, equation (7): what the judge lowers, in nats; nan for a result without losses."""
    return np.mean([row.get("loss", np.nan) for row in run["exits"]])


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


def interval(d, scale=100, digits=1):
    """d, one number a seed -> mean and 95 % interval; bold if 0 is outside."""
    d = scale * np.array(d)[~np.isnan(d)]
    if not len(d):
        return "-"
    mean, half = mean_and_half(d)
    if np.isnan(half) or not d.any():  # one seed; or no difference on any
        return f"{mean:+.{digits}f}"
    text = f"{mean:+.{digits}f} ({mean - half:+.{digits}f} .. {mean + half:+.{digits}f})"
    return f"**{text}**" if abs(mean) > half else text


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


# --------------------------------------------------------------------------------------------------
# 4. Tables

NUMBERS = {
    "mean over exits": over_exits,
    "F": held_out_loss,
    "last exit": last_exit,
    "confidence, 2x": partial(at_speedup, rule="confidence", speedup=2),
    "confidence, 3x": partial(at_speedup, rule="confidence", speedup=3),
    "patience, 2x": partial(at_speedup, rule="patience", speedup=2),
    "patience, 3x": partial(at_speedup, rule="patience", speedup=3),
}
UNITS = {"F": (1, 3)}  # scale and digits; the others are in percent

QUESTIONS = {  # as results/README.md numbers them: pairs of A and B
    0: (("one-exit", "plain"), ("one-exit", "deebert"), ("one-exit", "cross")),
    1: (("plain", "last"), ("plain", "all-uniform"), ("last", "all-uniform"), ("later", "cross")),
    2: (("all-uniform", "cross"), ("all-uniform", "all-uniform-d1"), ("all-uniform-d1", "cross"),
        ("plain", "cross")),
    3: (("bilevel", "cross"), ("single", "cross"), ("single", "bilevel"),
        ("all-uniform", "single")),
    4: (("deebert", "cross"), ("fastbert", "cross"), ("berxit", "cross"), ("pabee", "cross")),
}  # fmt: skip


def table(head, rows):
    if not rows:
        return "No runs yet: `python experiments/compare.py --help`"
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def counted(text):
    """A table, and how many of its intervals leave out 0, and how many would by chance."""
    intervals, bold = text.count(" .. "), text.count("**") // 2
    if not intervals:
        return text
    return (
        f"{text}\n\nOf {intervals} intervals of 95 %, {bold} without 0 (bold); by chance alone, "
        f"about {intervals / 20:.1f}."
    )


def gains(a, b, names=NUMBERS):
    """B - A by each number -> the cells of a row."""
    return [interval(paired(a, b, NUMBERS[name]), *UNITS.get(name, ())) for name in names]


def exits_table(task, folder=COMPARED):
    """The metric of every exit, their mean, and the mean of their losses; and how to make them."""
    rows, head, constant, devices = [], [], np.nan, set()
    for name, runs in listed(task, folder).items():
        exits = np.array([exits_of(run) for run in runs])  # (runs, M)
        F = spread(list(map(held_out_loss, runs)), *UNITS["F"])
        cells = [*map(spread, exits.T), spread(exits.mean(axis=1)), F]
        rows.append([f"`{name}`", METHODS[name].words, len(runs), *cells])
        columns = (f"exit {m}" for m in range(1, exits.shape[1] + 1))
        head = [f"{task}, {runs[0]['metric']}", "trained as", "n", *columns, "mean", "F"]
        constant = 100 * runs[0]["majority"][runs[0]["metric"]]
        devices |= {run["device"] for run in runs}
    options = "10 --workers 2" if task == "toy" else "5 -- --data-dir GLUE"
    options += "" if devices == {"cpu"} else " --device cuda"
    return (
        f"{table(head, rows)}\n\nAlways the most frequent class: {constant:.1f}. "
        f"On {', '.join(sorted(devices))}. "
        f"`python experiments/compare.py --task {task} --seeds {options}`"
    )


def tuning_table(folder=COMPARED):
    """The mean over exits at each learning rate, one run each; the best in bold."""
    rates, rows = sorted(Path(folder).glob("tuning/*"), key=lambda path: float(path.name)), []
    for task, name in itertools.product(TASKS, METHODS):
        means = [100 * over_exits(run) for rate in rates for run in load(task, name, rate)]
        if means:
            cells = (f"**{x:.1f}**" if x == max(means) else f"{x:.1f}" for x in means)
            rows.append([task, METHODS[name].words, *cells])
    return table(["task", "method", *(rate.name for rate in rates)], rows)


def differences_table(question, folder=COMPARED):
    """The comparisons of a question: a row a comparison and task, a column a number.

    Question 0 is about fine-tuning without early exits, which trains the last exit only.
    """
    names, rows = list(NUMBERS) if question else ["last exit"], []
    for (a, b), task in itertools.product(QUESTIONS[question], TASKS):
        sides = [load(task, name, folder) for name in (a, b)]
        if n := len(paired(*sides, over_exits)):
            rows.append([f"`{b}` - `{a}`", task, n, *gains(*sides, names)])
    return counted(table(["difference", "task", "n", *names], rows))


def weights_table(folder=COMPARED):
    """What was learned, 1 at the uniform sum."""
    rows = []
    for task, name in itertools.product((*TASKS, "wrong-labels"), ("single", "bilevel", "cross")):
        if runs := load(task, name, folder):
            ce, kd = weights_of(runs)
            M = ce.shape[1]
            later, earlier = np.triu_indices(M, 1), np.tril_indices(M, -1)
            pairs = [kd[:, *side].mean(axis=1) for side in (later, earlier)]
            teachers = [kd[:, :, t].sum(axis=1) / (M - 1) for t in (0, M - 1)]
            cells = (spread(x, 1, 2) for x in (ce.mean(axis=1), *pairs, *teachers))
            rows.append([f"{task}, {name}", len(runs), *cells])
    return table(["weights of", "n", "cross-entropies", "a later exit teaches", "an earlier one",
                  "exit 1 as a teacher", "the last exit"], rows)  # fmt: skip


def leaving_table(task, folder=COMPARED):
    """Leaving early by each rule: the metric at a speed-up in layers, and its gain over the mix."""
    rows = []
    for (name, runs), rule in itertools.product(listed(task, folder, HEADLINE).items(), RULES):
        at = [spread([at_speedup(run, rule, s) for run in runs]) for s in SPEEDUPS]
        over = [interval([over_mix(run, rule, s) for run in runs]) for s in SPEEDUPS]
        rows.append([METHODS[name].words, rule, len(runs), *at, *over])
    head = [f"{s:g}x" for s in SPEEDUPS] + [f"over the mix, {s:g}x" for s in SPEEDUPS]
    return counted(table([task, "rule", "n", *head], rows))


def against_table(task, base, names, folder=COMPARED):
    """Methods or choices, each against one of them."""
    rows, runs_of_base = [], load(task, base, folder)
    for name, runs in listed(task, folder, names).items():
        cells = [spread(list(map(number, runs))) for number in (first_exit, over_exits, last_exit)]
        changed = gains(runs_of_base, runs, ("mean over exits", "F")) if name != base else "--"
        rows.append([EVERYTHING[name].words, len(runs), *cells, *changed])
    return counted(table([f"{task}, trained as", "n", "first exit", "mean over exits", "last exit",
                          "mean: difference", "F: difference"], rows))  # fmt: skip


LIAR = {
    "all-uniform": "uniform",
    "all-uniform-d1": "uniform, without d2",
    "single": "single",
    "bilevel": "bilevel",
    "cross": "cross",
}


def fault_table(task, which, base, folder=COMPARED):
    """A teacher that lies: what each method reaches, what it learned, and `base` against it.

    The weight of the lie is 1 at the uniform sum; beside it the smallest of a cross-entropy.
    """
    rows, runs_of_base = [], load(task, base, folder)
    for name, runs in listed(task, folder, LIAR).items():
        exits = np.array([exits_of(run) for run in runs])  # (runs, M)
        lie = [of_the_lie(run["weights"]["kd"], which) for run in runs]
        ce = [min(run["weights"]["ce"]) for run in runs]
        cells = [spread(exits[:, :-1].mean(axis=1)), spread(exits.mean(axis=1))]
        cells += [spread(list(map(held_out_loss, runs)), *UNITS["F"]), spread(lie, 1, 2)]
        other = gains(runs, runs_of_base, ("mean over exits", "F")) if name != base else "--"
        rows.append([LIAR[name], len(runs), *cells, spread(ce, 1, 2), *other])
    head = ["weights", "n", "exits but the last", "mean over exits", "F", "weight of the lie"]
    head += ["least of a CE", f"{base} - this: mean", f"{base} - this: F"]
    return counted(table(head, rows))


TABLES = {
    "liar": partial(fault_table, "liar", 6, "cross"),
    "liar-among-six": partial(fault_table, "liar-among-six", 3, "cross"),
    "wrong-labels": partial(
        against_table, "wrong-labels", "plain", ("plain", "last", "all-uniform", "cross")
    ),
    "compared": partial(against_table, "toy", "plain", HEADLINE),
    "tuning": tuning_table,
    "weights": weights_table,
    "choices": partial(against_table, "toy", "cross", ("cross", "bilevel", "later", *CHOICES)),
    **{f"exits-{task}": partial(exits_table, task) for task in (*TASKS, "stsb")},
    **{f"leaving-{task}": partial(leaving_table, task) for task in TASKS},
    **{f"differences-{number}": partial(differences_table, number) for number in QUESTIONS},
}
