"""Write the numbers of README.md and docs/faq.md, from the files in results/, between markers.

    python experiments/tables.py             # rewrite both; unchanged if they are up to date

A block looks like this, and the text between the two lines is replaced:

    <!-- table: NAME -->
    <!-- end -->
"""

import json
import re
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "docs/faq.md")


def load(name):
    return json.loads((ROOT / "results" / name / "result.json").read_text(encoding="utf-8"))


def first_run():
    """The output of the README's first command: first steps, last step, report."""
    lines = (ROOT / "results" / "toy" / "output.txt").read_text(encoding="utf-8").splitlines()
    steps = [i for i, line in enumerate(lines) if line.startswith("step ")]
    kept = [*lines[: steps[2]], "...", *lines[steps[-1] :]]
    return "\n".join(["```", *kept, "```"])


def percent(x):
    return f"{100 * x:.1f}"


def real_run(name):
    """Every exit's score, then the fastest setting of each rule that loses at most one point."""
    result = load(name)
    metric, exits = result["metric"], result["exits"]
    lines = [
        "| exit | " + " | ".join(str(row["exit"]) for row in exits) + " |",
        "|---" * (len(exits) + 1) + "|",
        f"| {metric} on dev | " + " | ".join(percent(row[metric]) for row in exits) + " |",
        "",
        f"| rule | threshold | {metric} on dev | mean exit | speed-up in layers | wall clock |",
        "|---|---|---|---|---|---|",
    ]
    floor = exits[-1][metric] - 0.01 - 1e-9
    for rule in ("patience", "entropy", "confidence"):
        rows = [r for r in result["sweep"] if r["rule"] == rule and r[metric] >= floor]
        if not rows:
            lines.append(f"| {rule} | none loses at most one point | | | | |")
            continue
        r = max(rows, key=lambda r: (r["speedup_layers"], r[metric]))
        lines.append(
            f"| {rule} | {r['threshold']} | {percent(r[metric])} | {r['mean_exit']:.2f} "
            f"| {r['speedup_layers']:.2f}x | {r['speedup_wall']:.2f}x |"
        )
    minutes = result["seconds"] / 60
    always = percent(result["majority"][metric])
    lines += [
        "",
        f"Always answering the most frequent class scores {always}. Training took {minutes:.0f} "
        f"minutes on {result['device']}; one run, one seed.",
    ]
    return "\n".join(lines)


def spread(values):
    return f"{100 * np.mean(values):.1f} +- {100 * np.std(values, ddof=1):.1f}"


def redraw():
    """Toy, two epochs: D1 and D2 cut once, or again in every epoch. Mean and std over seeds."""
    lines = ["| D1 and D2 | seeds | last exit | mean over exits |", "|---|---|---|---|"]
    for name, words in (("once", "cut once"), ("redraw", "cut again every epoch")):
        files = sorted((ROOT / "results" / "toy-redraw").glob(f"{name}-s*.json"))
        runs = [json.loads(path.read_text(encoding="utf-8"))["exits"] for path in files]
        last = [exits[-1]["acc"] for exits in runs]
        mean = [np.mean([row["acc"] for row in exits]) for exits in runs]
        lines.append(f"| {words} | {len(runs)} | {spread(last)} | {spread(mean)} |")
    return "\n".join(lines)


def toy_runs():
    """Toy, the README's first command, over seeds."""
    files = [ROOT / "results" / "toy" / "result.json"]
    files += sorted((ROOT / "results" / "toy-seeds").glob("s*.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in files]


def seeds():
    runs = toy_runs()
    first, last = ([run["exits"][m]["acc"] for run in runs] for m in (0, -1))
    return (
        f"Over {len(runs)} seeds, accuracy on dev in percent, mean and standard deviation: first "
        f"exit {spread(first)}, last exit {spread(last)} (lowest {percent(min(last))})."
    )


def band():
    """Toy: every exit over seeds, with its extremes."""
    runs = toy_runs()
    exits = np.array([[row["acc"] for row in run["exits"]] for run in runs]).T  # (M, runs)
    lines = [
        "| exit | " + " | ".join(str(m) for m in range(1, len(exits) + 1)) + " |",
        "|---" * (len(exits) + 1) + "|",
    ]
    for name, number in (
        (f"mean and std, {len(runs)} seeds", spread),
        ("lowest", lambda x: percent(min(x))),
        ("highest", lambda x: percent(max(x))),
    ):
        lines.append(f"| {name} | " + " | ".join(number(x) for x in exits) + " |")
    return "\n".join(lines)


TABLES = {
    "first-run": first_run,
    "seeds": seeds,
    "band": band,
    "redraw": redraw,
    "rte": lambda: real_run("rte-minilm"),
    "sst2": lambda: real_run("sst2-minilm"),
}


def fill(text):
    """A page's text -> the same with every block made anew. KeyError for a block we cannot make."""

    def block(match):
        return f"<!-- table: {match[1]} -->\n{TABLES[match[1]]()}\n<!-- end -->"

    return re.sub(r"<!-- table: (\S+) -->\n.*?<!-- end -->", block, text, flags=re.S)


def main():
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        (ROOT / page).write_text(fill(text), encoding="utf-8")
        print(page, "is up to date" if fill(text) == text else "rewritten")


if __name__ == "__main__":
    main()
