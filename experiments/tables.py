"""Write the numbers of README.md, results/README.md and pages in docs/, from the files in results/.

    python experiments/tables.py             # rewrite them; unchanged if up to date

A block looks like this, and the text between the two lines is replaced:

    <!-- table: NAME -->
    <!-- end -->
"""

import json
import re
from functools import partial
from pathlib import Path

import evidence
import numpy as np
from evidence import exits_of, gains, held_out_loss, interval, last_exit, load, spread, table

from tools.picture import levels_panel

ROOT = Path(__file__).resolve().parent.parent
DOCS = ("paper", "running", "speed", "faq", "evidence", "hypergradient")
PAGES = ("README.md", "results/README.md", *(f"docs/{name}.md" for name in DOCS))

# --------------------------------------------------------------------------------------------------
# 1. The first command, and the same over seeds


def first_run():
    """From the output of the README's first command: the rules' marked row, and the levels."""
    lines = (ROOT / "results" / "toy" / "output.txt").read_text(encoding="utf-8").splitlines()
    steps = [line for line in lines if line.startswith("step ")]
    rules = [line for line in lines if line.startswith("rule ") or "<- at most" in line]
    levels = next(i for i, line in enumerate(lines) if line.startswith("level "))
    table = lines[levels : lines.index("", levels)]
    end = [line for line in lines if line.startswith("trained in ")]
    return "\n".join(["```", steps[0], "...", steps[-1], *rules, *table, *end, "```"])


def seeds():
    runs = load("toy", "cross")
    first, last = ([exits_of(run)[m] for run in runs] for m in (0, -1))
    depth = [run["levels"][-1]["mean_exit"] - run["levels"][0]["mean_exit"] for run in runs]
    over = [run["operating_point"]["over_mix"] for run in runs]
    kd = np.array([run["weights"]["kd"] for run in runs])  # (runs, M, M)
    teachers = kd.sum(axis=1)  # (runs, M): the mean over their students, 1 at the uniform sum
    return (
        f"Accuracy, mean +- SD of {len(runs)} seeds: first exit {spread(first)} %, last exit "
        f"{spread(last)} % (lowest {100 * min(last):.1f}). Leaving early, level 4 goes "
        f"{spread(depth, 1)} layers deeper than level 1, and accuracy is {spread(over)} points "
        f"above the best random mix of fixed exits. As a teacher, exit 1 ends with weight "
        f"{spread(teachers[:, 0], 1, 2)}, the others with {spread(teachers[:, 1:].mean(1), 1, 2)}."
    )


CLAIMS = [  # claim of the abstract; on the task, A and B; what their difference says
    ("Exits learn from each other", "toy", "plain", "all-uniform", "not here: higher loss"),
    ("... not only from the last one", "toy", "last", "all-uniform", "not here: higher loss"),
    ("The loss weights are learned", "liar", "all-uniform", "cross", "yes: most of the lie goes"),
    ("... on two levels", "liar", "all-uniform", "single", "one level brings most of the accuracy"),
    ("", "liar", "single", "cross", "two levels bring the rest, and half the loss"),
    ("", "toy", "single", "cross", "without a lie: no difference seen"),
    ("Better exits than other training", "toy", "deebert", "cross", "yes, as joint training is"),
    ("", "toy", "pabee", "cross", "no: higher loss"),
    ("", "toy", "berxit", "cross", "no difference seen"),
    ("Cross-level improves on bi-level", "liar", "bilevel", "cross", "no difference seen"),
    ("", "toy", "bilevel", "cross", "no difference seen"),
]  # fmt: skip


def claims():
    """What was done for each claim, what came out, and what that says."""
    runs = load("toy", "cross")
    points = [run["operating_point"] for run in runs]
    speedup = spread([point["speedup_layers"] for point in points], 1, 2)
    lost = [point["acc"] - last_exit(run) for point, run in zip(points, runs, strict=True)]
    early = f"speed-up in layers {speedup} (SD); accuracy {interval(lost)}"
    rows = [["Leaving early saves layers at hardly any loss", "toy: the fastest threshold that "
             "loses at most a point, against all layers", early, "yes, on dev"]]  # fmt: skip
    for claim, task, *pair, verdict in CLAIMS:
        sides = [load(task, name) for name in pair]
        accuracy, F = gains(*sides, ("mean over exits", "F"))
        old, new = (f"{np.mean([held_out_loss(run) for run in runs]):.3f}" for runs in sides)
        names = f"{task}: `{pair[1]}` - `{pair[0]}`".replace("all-", "")
        rows.append([claim, names, f"accuracy {accuracy}; F {old} to {new}: {F}", verdict])
    return table(["claim", "experiment", "difference, in points and nats", "here"], rows)


# --------------------------------------------------------------------------------------------------
# 2. The benchmark

PLAIN = "plain (uniform weights)"


def benchmark():
    return json.loads((ROOT / "results" / "benchmark.json").read_text(encoding="utf-8"))


def measured(part):
    return benchmark()[part]["figures"]


def where(machine):
    place = machine.get("gpu") or f"{machine['threads']} thread(s) of an {machine['cpu']} CPU"
    return f"{place}, torch {machine['torch']}."


def step_table(part):
    """A row a step, a column a case: ratio to a plain step, extra memory; last, the errors."""
    cases, one, rows = measured(part), benchmark()[part]["machine"], []
    for name in next(iter(cases.values())):
        found = [(case[name], case[PLAIN]) for case in cases.values()]
        cells = [
            "{:.2f} ({:.2f} - {:.2f}), {:+.2f} GB".format(
                row["ratio"], *row["quartiles"], (row["peak_mb"] - plain["peak_mb"]) / 1000
            )
            for row, plain in found
        ]
        errors = (f"{row['error']:.0e}" for row, _ in found if row["error"])
        rows.append([name, *cells, ", ".join(errors)])
    words = "; ".join(
        f"{name}: {1000 * case[PLAIN]['seconds']:.0f} ms, {case[PLAIN]['peak_mb'] / 1000:.1f} GB"
        for name, case in cases.items()
    )
    text = table(["step", *cases, "error of the hypergradient"], rows)
    return f"{text}\n\nA plain step: {words}. {where(one)}"


def encoder_table():
    peers = ("transformers, eager", "transformers, sdpa")
    rows = []
    for size, kinds in measured("encoder").items():
        for kind, found in kinds.items():
            ratios = (f"{found[peer]['ratio']:.2f}" for peer in peers)
            ours = f"{1000 * found['ours']['seconds']:.0f} ms"
            rows.append([f"{kind}, {size} tokens", ours, *ratios])
    return table(["MiniLM", "ours", *peers], rows)


def exit_table(part):
    """A row a way to leave: the speed-up in layers, and in time by size of the batch."""
    if part not in benchmark():
        return f"Not measured yet: `python experiments/benchmark.py {part}`."
    texts = []
    for model, cases in measured(part).items():
        rows, last = [], list(cases.values())[-1]  # the largest batch; a batch of 1 has fewer rows
        for name in last:
            found = [case.get(name) for case in cases.values()]
            times = (f"{1 / x['ratio']:.2f}x" if x else "" for x in found)
            if name == "full depth":
                times = (f"{1000 * x['seconds']:.0f} ms" for x in found)
            layers = last["full depth"]["mean_exit"] / last[name]["mean_exit"]
            rows.append([name, f"{layers:.2f}x", *times])
        texts.append(table([model, "layers", *cases], rows))
    return "\n\n".join([*texts, where(benchmark()[part]["machine"])])


TABLES = {
    "first-run": first_run,
    "seeds": seeds,
    "claims": claims,
    "step": partial(step_table, "step"),
    "gpu": partial(step_table, "gpu"),
    "encoder": encoder_table,
    "exit": partial(exit_table, "exit"),
    "exit-gpu": partial(exit_table, "exit-gpu"),
    **evidence.TABLES,
}

# --------------------------------------------------------------------------------------------------
# 3. The pages


def fill(text):
    """A page's text -> the same with every block made anew. KeyError for a block we cannot make."""

    def block(match):
        return f"<!-- table: {match[1]} -->\n{TABLES[match[1]]()}\n<!-- end -->"

    return re.sub(r"<!-- table: (\S+) -->\n.*?<!-- end -->", block, text, flags=re.S)


def draw_staircase():
    """The README's picture, from the result of its first command."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.8), layout="constrained")
    levels_panel(figure.subplots(), evidence.read(ROOT / "results" / "toy" / "result.json"))
    figure.savefig(ROOT / "docs" / "staircase.png", dpi=100)


def main():
    draw_staircase()
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        filled = fill(text)
        (ROOT / page).write_text(filled, encoding="utf-8")
        print(page, "is up to date" if filled == text else "rewritten")


if __name__ == "__main__":
    main()
