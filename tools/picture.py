"""Draw a finished run: what each exit can do, what leaving early costs, which weights were learned.

    python -m tools.picture runs/toy-all-cross-s0    # levels.png, leaving.png, weights.png in it

train.py calls `draw` at its end, where matplotlib is installed. Everything can be told apart
without colour, and read in half the width of a page.
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
        dark = np.dot(picture.to_rgba(value)[:3], (0.3, 0.6, 0.1)) < 0.5
        number = "" if np.isnan(value) else f"{value:.2f}"
        axes.text(column, row, number, ha="center", va="center", color="white" if dark else "black")
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)


def levels_panel(axes, result):
    """Built-in task: the accuracy of each exit on each level of difficulty; darker is better.

    A star on a level: the mean exit there, leaving early.
    """
    levels, exits = result["levels"], [row["exit"] for row in result["exits"]]
    values = [*(row["exits"] for row in levels), [row["acc"] for row in result["exits"]]]
    names = [*(f"level {row['level']}" for row in levels), "all"]
    cells(axes, np.array(values), names, exits, cmap="Greys", vmin=0.5, vmax=1.2)
    x, y = [row["mean_exit"] - 1 for row in levels], np.arange(len(levels)) + 0.32
    axes.plot(x, y, "w*", markeredgecolor="black", markersize=14)
    axes.set_title("Accuracy of each exit on dev. Star: where sentences leave, on average")
    axes.set(xlabel="exit after layer", ylabel="difficulty")


def leaving_panel(axes, result):
    """One line a rule, one point a threshold; a cross for each exit, without a rule.

    The best random mix of fixed exits is a row's metric minus its over_mix.
    """
    metric, sweep = result["metric"], sorted(result["sweep"], key=lambda row: row["mean_exit"])
    for rule, style in RULES.items():  # a regression has neither entropy nor confidence
        if points := [(row["mean_exit"], row[metric]) for row in sweep if row["rule"] == rule]:
            axes.plot(*zip(*points, strict=True), style, label=rule)
    mix = [(row["mean_exit"], row[metric] - row["over_mix"]) for row in sweep]
    axes.plot(*zip(*mix, strict=True), "k-", linewidth=0.8, label="best random mix of exits")
    if point := result["operating_point"]:
        axes.plot(point["mean_exit"], point[metric], "k*", markersize=16, label="<= 1 point lost")
    M = len(result["exits"])
    axes.set_xticks(range(1, M + 1), [f"{m}\n{M / m:.1f}x" for m in range(1, M + 1)])
    axes.set(title="Leaving early", xlabel="mean exit, speed-up", ylabel=f"{metric} on dev")
    axes.legend()


def weights_panel(axes, result):
    """The weight of every loss term, over what it is in the uniform sum; darker is larger."""
    ce, kd = np.array(result["weights"]["ce"]), np.array(result["weights"]["kd"])
    M, teachers = len(ce), (kd > 0).sum(axis=1, keepdims=True)
    kd = np.where(kd > 0, kd * teachers, np.nan)
    values, exits = np.column_stack([ce, kd]), range(1, M + 1)
    cells(axes, values, exits, ["labels\n(CE)", *exits], cmap="Blues", vmin=0, vmax=2.5)
    axes.axvline(0.5, color="black")
    axes.set_title(f"Weights of the loss terms: {result['method']['weights']} (1: the uniform sum)")
    axes.set(xlabel="learns from: the labels, or a teacher (KD)", ylabel="exit that learns")


def draw(folder):
    """result.json of a run -> pictures beside it -> a line that says where, or why not."""
    try:
        from matplotlib.figure import Figure  # no window, no state that other code could see
    except ImportError as error:
        return f"no pictures ({error}): pip install matplotlib; python -m tools.picture {folder}"
    result = read_object(Path(folder, "result.json"))
    panels = {"levels": levels_panel, "leaving": leaving_panel, "weights": weights_panel}
    names = [name for name in panels if name != "levels" or result["levels"]]
    for name in names:
        figure = Figure(figsize=(7, 4), layout="constrained")
        panels[name](figure.subplots(), result)
        method = " / ".join(result["method"].values())
        figure.suptitle(f"{result['task']}: {method}, seed {result['seed']}", fontsize="small")
        figure.savefig(Path(folder, f"{name}.png"), dpi=100)
    return f"pictures: {', '.join(names)} (.png) in {folder}"


def main():
    usage = len(sys.argv) != 2 and "usage: python -m tools.picture RUN_DIR"
    command(lambda: print(draw(sys.argv[1])), usage)


if __name__ == "__main__":
    main()
