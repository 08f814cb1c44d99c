"""Draw a finished run: what each exit can do, what leaving early costs, which weights were learned.

    python -m support.picture runs/toy-all-cross-s0    # writes report.png beside result.json

train.py calls `draw` at its end, where matplotlib is installed; no other script needs that package.
Everything can be told apart without colour.
"""

import json
import sys
from pathlib import Path

import numpy as np

from support.command import command

RULES = {  # colour, marker, line
    "patience": ("tab:blue", "o", "-"),
    "entropy": ("tab:orange", "s", "--"),
    "confidence": ("tab:green", "^", ":"),
    "always": ("black", "x", "none"),
}


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
    """Built-in task: the accuracy of each exit on each level of difficulty; darker is better."""
    levels, exits = result["levels"], result["exits"]
    values = [*(row["exits"] for row in levels), [row["acc"] for row in exits]]
    names = [*(f"level {row['level']}" for row in levels), "all"]
    columns = [row["exit"] for row in exits]
    cells(axes, np.array(values), names, columns, cmap="Greys", vmin=0.5, vmax=1.2)
    axes.set(title="What each exit can do: accuracy on dev", xlabel="exit after layer")


def speedup_panel(axes, result, which, words):
    """One line a rule, one point a threshold; beside them, what the fixed exits do without a rule.

    The best random mix of fixed exits is what remains of a row's metric without its over_mix.
    """
    metric, sweep = result["metric"], sorted(result["sweep"], key=lambda row: row["mean_exit"])
    for rule, (colour, marker, line) in RULES.items():
        rows = [row for row in sweep if row["rule"] == rule]
        x, y = [row[which] for row in rows], [row[metric] for row in rows]
        if rows:  # a regression has no rules but patience
            axes.plot(x, y, linestyle=line, marker=marker, color=colour, label=rule)
    for row in sweep:
        if row["rule"] == "always":
            axes.annotate(row["threshold"], (row[which], row[metric]), (4, -11),
                          textcoords="offset points")  # fmt: skip
    if which == "speedup_layers":
        x, y = [row[which] for row in sweep], [row[metric] - row["over_mix"] for row in sweep]
        axes.plot(x, y, "k-", linewidth=0.8, label="best random mix of them")
    if point := result["operating_point"]:
        axes.plot(point[which], point[metric], "k*", markersize=16, label="one point lost at most")
    axes.set(title=f"Leaving early: speed-up in {words}", xlabel=f"speed-up in {words}")
    axes.set_ylabel(f"{metric} on dev")
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


def depth_panel(axes, result):
    """Built-in task: how deep each level of difficulty goes at the operating point."""
    levels, point = result["levels"], result["operating_point"]
    bars = axes.bar([row["level"] for row in levels], [row["mean_exit"] for row in levels],
                    color="0.85", edgecolor="black")  # fmt: skip
    axes.bar_label(bars, [f"acc {row['acc']:.2f}" for row in levels])
    how = f"{point['rule']} {point['threshold']}" if point else "full depth"
    axes.set(title=f"How deep each level goes ({how})",
             xlabel="level of difficulty", ylabel="mean exit")  # fmt: skip
    axes.set_xticks([row["level"] for row in levels])
    axes.set_ylim(0, len(result["exits"]))


def draw(folder):
    """result.json of a run folder -> report.png beside it -> a line that says where, or why not."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure  # no window, no state that other code could see
    except ImportError as error:
        again = f"pip install matplotlib, then python -m support.picture {folder}"
        return f"no picture ({error}): {again}"
    path = Path(folder) / "result.json"
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        toy = bool(result["levels"])
        figure = Figure(figsize=(13, 9) if toy else (18, 5), layout="constrained")
        FigureCanvasAgg(figure)
        panels = iter(figure.subplots(2, 2).flat if toy else figure.subplots(1, 3))
        if toy:
            levels_panel(next(panels), result)
        speedup_panel(next(panels), result, "speedup_layers", "layers")
        weights_panel(next(panels), result)
        if toy:
            depth_panel(next(panels), result)
        else:
            speedup_panel(next(panels), result, "speedup_wall", "wall-clock time")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a result of train.py ({error!r})") from None
    method = ", ".join(f"{name} {value}" for name, value in result["method"].items())
    figure.suptitle(f"{result['task']}, model {result['model']}, {method}, seed {result['seed']}")
    figure.savefig(path.with_name("report.png"), dpi=100)
    return f"picture: {path.with_name('report.png')}"


def main():
    usage = "usage: python -m support.picture RUN_DIR"
    command(lambda: print(draw(sys.argv[1])), usage=len(sys.argv) != 2 and usage)


if __name__ == "__main__":
    main()
