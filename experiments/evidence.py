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
TASKS = ("toy", "cola", "stsb", "sst2", "rte")
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
    over_mix.
    """
    always = [row for row in run["sweep"] if row["rule"] == "always"]
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
    """d, one number a seed -> mean and 95 % interval, bold if 0 is outside; n if some are nan."""
    there = scale * np.array(d)[~np.isnan(d)]
    if not len(there):
        return "-"
    few = f", n = {len(there)}" if len(there) < len(d) else ""
    mean, half = mean_and_half(there)
    if np.isnan(half) or not there.any():  # one seed; or no difference on any
        return f"{mean:+.{digits}f}{few}"
    text = f"{mean:+.{digits}f} ({mean - half:+.{digits}f} .. {mean + half:+.{digits}f})"
    return (f"**{text}**" if abs(mean) > half else text) + few


def paired(a, b, number):
    """B - A: a number of the runs a and b, subtracted where they share a seed -> one a seed.

    Runs of one seed share the initial weights and, within a kind, the order of the examples.
    """
    a, b = ({run["seed"]: number(run) for run in side} for side in (a, b))
    return [b[seed] - a[seed] for seed in sorted(a.keys() & b.keys())]


# --------------------------------------------------------------------------------------------------
# 4. Tables

NUMBERS = {
    "mean over exits": over_exits,
    "F": held_out_loss,
    "last exit": last_exit,
    "confidence, 2x": partial(at_speedup, rule="confidence", speedup=2),
    "confidence, 3x": partial(at_speedup, rule="confidence", speedup=3),
    "patience, 2x": partial(at_speedup, rule="patience", speedup=2),  # it never reaches 3x
}
UNITS = {"F": (1, 3)}  # scale and digits; the others are in percent

# The comparisons of each question: task, A, B.
DIFFERENCES = {
    "teachers": [("toy", "plain", "all-uniform"), ("toy", "last", "all-uniform"),
                 ("toy", "plain", "cross"), ("stsb", "plain", "all-uniform"),
                 ("cola", "plain", "all-uniform-d1")],
    "learning": [("stsb", "all-uniform", "cross"), *((task, "all-uniform-d1", "cross")
                 for task in ("liar", "no-liar", "toy", "cola"))],
    "one-level": [(task, "single", "cross") for task in ("liar", "toy", "cola")],
    "both-splits": [(task, "bilevel", "cross") for task in ("liar", "toy", "cola")],
    "others": [*(("toy", name, "cross") for name in ("deebert", "fastbert", "berxit", "pabee")),
               ("cola", "deebert", "cross")],
    "older": [("sst2", "plain", "all-uniform"), ("rte", "plain", "all-uniform"),
              ("rte", "all-uniform-d1", "cross"), ("rte", "single", "cross"),
              ("rte", "bilevel", "cross")],
}  # fmt: skip


def table(head, rows):
    if not rows:
        return "No runs yet: `python experiments/compare.py --help`"
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def counted(text):
    """A table, and how many of its intervals leave out 0, and how many would by chance."""
    intervals, bold = text.count(" .. "), text.count("**") // 2
    return (
        f"{text}\n\nOf {intervals} intervals of 95 %, {bold} without 0 (bold); by chance alone, "
        f"about {intervals / 20:.1f}."
    )


def gains(a, b, names=NUMBERS):
    """B - A by each number -> the cells of a row."""
    return [interval(paired(a, b, NUMBERS[name]), *UNITS.get(name, ())) for name in names]


def differences_table(comparisons, folder=COMPARED):
    """A row a comparison, a column a number."""
    rows = []
    for task, a, b in comparisons:
        sides = [load(task, name, folder) for name in (a, b)]
        if n := len(paired(*sides, over_exits)):
            rows.append([f"{task}: `{b}` - `{a}`", n, *gains(*sides)])
    return counted(table(["difference", "n", *NUMBERS], rows))


def exits_table(task, folder=COMPARED):
    """The metric of every exit, their mean, and the mean of their losses."""
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
    return (
        f"{table(head, rows)}\n\nAlways the most frequent class, or the mean: {constant:.1f}. "
        f"On {', '.join(sorted(devices))}."
    )


def leaving_table(folder=COMPARED):
    """Cross, leaving early: the metric at a speed-up in layers, and its gain over the mix."""
    rows = []
    for task, rule in itertools.product(("toy", "cola"), ("confidence", "patience")):
        if runs := load(task, "cross", folder):
            at = [spread([at_speedup(run, rule, s) for run in runs]) for s in (1, 2, 3)]
            over = [interval([over_mix(run, rule, s) for run in runs]) for s in (2, 3)]
            rows.append([f"{task}, {rule}", len(runs), *at, *over])
    return counted(table(["rule", "n", "all layers", "half", "a third", "half: over the mix",
                          "a third: over the mix"], rows))  # fmt: skip


def against_table(task, base, names, folder=COMPARED):
    """Methods or choices, each against one of them; weights are 1 at the uniform sum."""
    rows, runs_of_base = [], load(task, base, folder)
    for name, runs in listed(task, folder, names).items():
        weights = [run["weights"] for run in runs]
        ce = [np.mean(w["ce"]) for w in weights]
        kd = [np.sum(w["kd"]) / max(1, np.any(w["kd"], axis=1).sum()) for w in weights]
        means = spread(list(map(over_exits, runs))), spread(ce, 1, 2), spread(kd, 1, 2)
        changed = gains(runs_of_base, runs, ("mean over exits", "F")) if name != base else "--"
        rows.append([EVERYTHING[name].words, len(runs), *means, *changed])
    return counted(table([f"{task}, trained as", "n", "mean over exits", "weight of a CE",
                          "of a KD", "mean: difference", "F: difference"], rows))  # fmt: skip


def fault_table(task, which, base, folder=COMPARED):
    """A teacher that lies: what each method reaches, what it learned, and `base` against it.

    The weight of the lie is 1 at the uniform sum; beside it the smallest of a cross-entropy.
    """
    names = ("all-uniform", "all-uniform-d1", "single", "bilevel", "cross")
    rows, runs_of_base = [], load(task, base, folder)
    for name, runs in listed(task, folder, names).items():
        lie = [of_the_lie(run["weights"]["kd"], which) for run in runs]
        ce = [min(run["weights"]["ce"]) for run in runs]
        cells = [spread([exits_of(run)[:-1].mean() for run in runs])]
        cells += [spread(list(map(held_out_loss, runs)), *UNITS["F"])]
        other = gains(runs, runs_of_base, ("mean over exits", "F")) if name != base else "--"
        rows.append([f"`{name}`", *cells, spread(lie, 1, 2), spread(ce, 1, 2), *other])
    head = [f"{task}, n = {len(runs_of_base)}", "exits but the last", "F", "weight of the lie"]
    head += ["least of a CE", f"`{base}` - this: mean over exits", "F"]
    return counted(table(head, rows))


ON_WRONG_LABELS = "plain last all-uniform all-uniform-d1 cross".split()
TABLES = {
    "leaving": leaving_table,
    "liar": partial(fault_table, "liar", 6, "cross"),
    "liar-among-six": partial(fault_table, "liar-among-six", 3, "cross"),
    "wrong-labels": partial(against_table, "wrong-labels", "plain", ON_WRONG_LABELS),
    "choices": partial(against_table, "liar", "cross", ("cross", *CHOICES)),
    **{name: partial(differences_table, rows) for name, rows in DIFFERENCES.items()},
    **{f"exits-{task}": partial(exits_table, task) for task in TASKS},
}
