"""Draw a finished run: what each exit can do, what leaving early costs, which weights were learned.

    python -m tools.picture runs/toy-all-cross-s0    # writes report.png beside result.json

train.py calls `draw` at its end, where matplotlib is installed. Everything can be told apart
without colour.
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from support.checkpoints import read_object
from support.errors import command

RULES = {"patience": "o-", "entropy": "s--", "confidence": "^:", "always": "kx"}  # marker, line


def cells(axes, values, rows, columns, **options):
    """A matrix as a map with a number in each cell, white on dark; a nan stays empty."""
    picture = axes.imshow(values, aspect="auto", **options)
    for (row, column), value in np.ndenumerate(values):
        red, green, blue, _ = picture.to_rgba(value)
        colour = "white" if 0.3 * red + 0.6 * green + 0.1 * blue < 0.5 else "black"
        number = "" if np.isnan(value) else f"{value:.2f}"
        axes.text(column, row, number, ha="center", va="center", color=colour)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)


def levels_panel(axes, result):
    """Built-in task: the accuracy of each exit on each level of difficulty; darker is better.

    A star on a level: the mean exit there, leaving early.
    """
    levels, exits = result["levels"], result["exits"]
    values = [*(row["exits"] for row in levels), [row["acc"] for row in exits]]
    names = [*(f"level {row['level']}" for row in levels), "all"]
    columns = [row["exit"] for row in exits]
    cells(axes, np.array(values), names, columns, cmap="Greys", vmin=0.5, vmax=1.2)
    x, y = [row["mean_exit"] - 1 for row in levels], np.arange(len(levels)) + 0.32
    axes.plot(x, y, "w*", markeredgecolor="black", markersize=14)
    axes.set_title("Accuracy of each exit on dev. Star: where sentences leave, on average")
    axes.set_xlabel("exit after layer")
    axes.set_ylabel("difficulty")


def speedup_panel(axes, result, which, words):
    """One line a rule, one point a threshold; a numbered cross for each exit, without a rule.

    The best random mix of fixed exits is a row's metric minus its over_mix.
    """
    metric, sweep = result["metric"], sorted(result["sweep"], key=lambda row: row["mean_exit"])
    for rule, style in RULES.items():  # a regression has neither entropy nor confidence
        if points := [(row[which], row[metric]) for row in sweep if row["rule"] == rule]:
            axes.plot(*zip(*points, strict=True), style, label=rule)
    for row in sweep:
        if row["rule"] == "always":
            axes.annotate(f" {row['threshold']}", (row[which], row[metric]), va="top")
    if which == "speedup_layers":
        x, y = [row[which] for row in sweep], [row[metric] - row["over_mix"] for row in sweep]
        axes.plot(x, y, "k-", linewidth=0.8, label="best random mix of them")
    if point := result["operating_point"]:
        axes.plot(point[which], point[metric], "k*", markersize=16, label="one point lost at most")
    axes.set(title="Leaving early", xlabel=f"speed-up in {words}", ylabel=f"{metric} on dev")
    axes.legend()


def weights_panel(axes, result):
    """The weight of every loss term, over what it is in the uniform sum."""
    ce, kd = np.array(result["weights"]["ce"]), np.array(result["weights"]["kd"])
    M, teachers = len(ce), (kd > 0).sum(axis=1, keepdims=True)
    kd = np.where(kd > 0, kd * teachers, np.nan)
    values, exits = np.column_stack([ce, kd]), range(1, M + 1)
    cells(axes, values, exits, ["CE", *exits], cmap="PuOr", vmin=0.5, vmax=1.5)
    axes.axvline(0.5, color="black")
    axes.set(title=f"Weights of the loss terms ({result['method']['weights']}; 1: the uniform sum)",
             xlabel="labels (CE)  |  teacher (KD)", ylabel="student")  # fmt: skip


def draw(folder):
    """result.json of a run folder -> report.png beside it -> a line that says where, or why not."""
    try:
        from matplotlib.figure import Figure  # no window, no state that other code could see
    except ImportError as error:
        return f"no picture ({error}): pip install matplotlib; python -m tools.picture {folder}"
    result, path = read_object(Path(folder, "result.json")), Path(folder, "report.png")
    figure = Figure(figsize=(19, 5.5), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    if result["levels"]:
        levels_panel(left, result)
    else:
        speedup_panel(left, result, "speedup_wall", "wall-clock time")
    speedup_panel(middle, result, "speedup_layers", "layers")
    weights_panel(right, result)
    method = ", ".join(f"{name} {value}" for name, value in result["method"].items())
    figure.suptitle(f"{result['task']}, model {result['model']}, {method}, seed {result['seed']}")
    figure.savefig(path, dpi=100)
    return f"picture: {path}"


def main():
    usage = "usage: python -m tools.picture RUN_DIR"
    command(lambda: print(draw(sys.argv[1])), usage=len(sys.argv) != 2 and usage)


if __name__ == "__main__":
    main()
