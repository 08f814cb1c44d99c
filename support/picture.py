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
}
LONG = {
    "acc": "accuracy",
    "mcc": "Matthews correlation",
    "f1": "F1",
    "pearson": "Pearson correlation",
}


def exits_panel(axes, result):
    """The metric of each exit, where every example goes as deep as that."""
    metric, M = result["metric"], len(result["exits"])
    axes.plot(range(1, M + 1), [row[metric] for row in result["exits"]], "k-o")
    axes.axhline(result["majority"][metric], color="black", linestyle="--", linewidth=0.8)
    axes.set(title="Each exit by itself", ylabel=f"{LONG[metric]} on dev")
    constant = "mean" if metric == "pearson" else "most frequent class"
    axes.set_xlabel(f"exit after layer  (dashed line: always the {constant})")
    axes.set_xticks(range(1, M + 1))


def speedup_panel(axes, result, which, words):
    """One line a rule, one point a threshold; a cross at full depth, and one point below it."""
    metric = result["metric"]
    full = result["exits"][-1][metric]
    for rule, (colour, marker, line) in RULES.items():
        rows = [row for row in result["sweep"] if row["rule"] == rule]
        rows.sort(key=lambda row: row["speedup_layers"])
        if not rows and metric == "pearson":  # a regression has patience only
            continue
        x, y = [row[which] for row in rows], [row[metric] for row in rows]
        axes.plot(x, y, line, marker=marker, color=colour, label=rule)
    axes.plot(1, full, "kX", markersize=10, label="full depth")
    axes.axhline(full - 0.01, color="grey", linewidth=0.8)
    axes.text(0.99, full - 0.01, "one point lost", color="0.3", ha="right", va="top",
              transform=axes.get_yaxis_transform())  # fmt: skip
    axes.set(title=f"Leaving early: {words}", xlabel=f"speed-up in {words}")
    axes.legend()


def ce_panel(axes, result):
    """The weight of each exit's cross-entropy."""
    w = result["weights"]["ce"]
    axes.bar(range(1, len(w) + 1), w, color="0.6", edgecolor="black")
    axes.axhline(1, color="black", linestyle="--", linewidth=0.8)
    title = f"Weight of each exit's cross-entropy ({result['method']['weights']})"
    axes.set(title=title, xlabel="exit  (dashed line: the uniform sum)", ylabel="weight")
    axes.set_xticks(range(1, len(w) + 1))
    axes.set_ylim(0, 2)  # 2 sigmoid(Omega) ends there


def kd_panel(axes, result):
    """The weight of each pair's distillation, as a matrix; darker is more."""
    kd = np.array(result["weights"]["kd"])
    M = len(kd)
    kd = kd * (kd > 0).sum(axis=1, keepdims=True)  # 1 at the uniform sum
    axes.imshow(kd, cmap="Greys", vmin=0, vmax=2)
    for m, t in np.ndindex(M, M):
        colour, size = "white" if kd[m, t] > 1.2 else "black", 9 if M <= 8 else 6
        number = f"{kd[m, t]:.1f}" if kd[m, t] > 0 else "-"
        axes.text(t, m, number, ha="center", va="center", color=colour, fontsize=size)
    axes.set(title="Weight of each distillation", ylabel="student")
    axes.set_xlabel("teacher  (1: the uniform sum; -: does not teach)")
    axes.set_xticks(range(M), range(1, M + 1))
    axes.set_yticks(range(M), range(1, M + 1))


def levels_panel(axes, result):
    """Built-in task: how deep each level of difficulty goes at the chosen threshold."""
    levels, point = result["levels"], result["operating_point"]
    bars = axes.bar([row["level"] for row in levels], [row["mean_exit"] for row in levels],
                    color="0.85", edgecolor="black")  # fmt: skip
    axes.bar_label(bars, [f"acc {row['acc']:.2f}" for row in levels])
    axes.set(title=f"How deep each level goes ({point['rule']} {point['threshold']})",
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
        figure = Figure(figsize=(15, 8.5), layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(2, 3).flat
        exits_panel(panels[0], result)
        speedup_panel(panels[1], result, "speedup_layers", "layers")
        speedup_panel(panels[2], result, "speedup_wall", "wall-clock time")
        ce_panel(panels[3], result)
        kd_panel(panels[4], result)
        if result["levels"]:
            levels_panel(panels[5], result)
        else:
            panels[5].axis("off")
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
