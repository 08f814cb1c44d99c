"""Draw the pictures of docs/evidence.md from what experiments/compare.py has found.

    python experiments/plot.py                               # docs/evidence-NAME.png; matplotlib
    python experiments/plot.py --results FOLDER --out /tmp

evidence.PICTURES says what each of them shows. A task or a method without results is left out.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "experiments")]

import evidence  # noqa: E402
from evidence import RULES, TASKS, listed, load, mean_and_half, paired  # noqa: E402

from support.errors import UserError, command  # noqa: E402

STYLES = {  # name: colour, marker, line; apart without colour too
    "plain": ("0.5", "P", ":"),
    "last": ("tab:cyan", "^", ":"),
    "all-uniform": ("tab:green", "s", "--"),
    "single": ("tab:olive", "v", ":"),
    "bilevel": ("tab:orange", "^", "-."),
    "cross": ("tab:red", "o", "-"),
}


def shown(folder):
    """The tasks with runs of cross; the others have nothing to be compared."""
    return [task for task in TASKS if load(task, "cross", folder)]


def new_figure(rows, columns, panel, **options):
    """panel: the width and height of one, in inches."""
    from matplotlib.figure import Figure  # no window, no state that other code could see

    figure = Figure(figsize=(columns * panel[0], rows * panel[1]), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def panel_a_task(tasks, panel, **options):
    """Two in a row -> figure, a panel for each task."""
    columns = min(len(tasks), 2)
    figure, panels = new_figure(-(-len(tasks) // columns), columns, panel, **options)
    for axes in panels.flat[len(tasks) :]:
        axes.set_axis_off()
    return figure, panels.flat[: len(tasks)]


def line(axes, name, x, y, half, every=1):
    """A method's line and its band y +- half."""
    colour, marker, style = STYLES[name]
    axes.plot(x, y, style, color=colour, marker=marker, markevery=every, markersize=5, label=name)
    axes.fill_between(x, y - half, y + half, color=colour, alpha=0.12, linewidth=0)
    axes.grid(alpha=0.3)


def exits_figure(folder):
    """A panel a task: what each exit can do where every example goes as deep as that."""
    tasks = {task: listed(task, folder, STYLES) for task in shown(folder)}
    figure, panels = panel_a_task(tasks, (5, 4))
    for axes, (task, found) in zip(panels, tasks.items(), strict=True):
        for name, runs in found.items():
            exits = np.array([evidence.exits_of(run) for run in runs])  # (runs, M)
            std = exits.std(axis=0, ddof=1) if len(runs) > 1 else 0
            line(axes, name, np.arange(1, exits.shape[1] + 1), exits.mean(axis=0), std)
        title = f"{task}: {runs[0]['metric']} on dev"
        axes.set(title=title, xlabel="exit after layer", xticks=range(1, exits.shape[1] + 1))
    panels[0].legend()
    return figure


def forest(axes, rows, title):
    """rows: (words, differences by seed). Mean and 95 % interval, filled where it excludes 0."""
    for place, (_, d) in enumerate(rows):
        if len(d):
            mean, half = 100 * np.array(mean_and_half(d))
            fill = "black" if abs(mean) > half else "white"
            axes.errorbar(mean, place, xerr=half, fmt="ko", markerfacecolor=fill, capsize=3)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [words for words, _ in rows])
    axes.set(title=title, xlabel="points, mean over exits", ylim=(max(len(rows), 1) - 0.5, -0.5))
    axes.grid(axis="x", alpha=0.3)


def differences_figure(folder):
    """A panel a task, a row a comparison."""
    tasks = shown(folder)
    figure, panels = panel_a_task(tasks, (6, 5), sharey=True)
    for axes, task in zip(panels, tasks, strict=True):
        rows = []
        for question, comparisons in evidence.QUESTIONS.items():
            for words, a, b in comparisons:
                d = paired(load(task, a, folder), load(task, b, folder), evidence.over_exits)
                rows.append((f"{question}.  {words}", d))
        forest(axes, rows, task)
    return figure


def choices_figure(folder):
    found = evidence.choices(folder)
    rows = [(words, paired(base, runs, evidence.over_exits)) for words, runs, base in found]
    figure, ((axes,),) = new_figure(1, 1, (10, 7))
    forest(axes, rows, "toy: one change at a time")
    return figure


def weights_figure(folder):
    """A column a task, a row a method: who teaches whom, mean over seeds; darker is more."""
    found = {(name, task): kd.mean(axis=0) for task, name, _, kd in evidence.learned(folder)}
    tasks = shown(folder)
    figure, panels = new_figure(2, len(tasks), (4, 4.25))
    for row, name in enumerate(("bilevel", "cross")):
        for axes, task in zip(panels[row], tasks, strict=True):
            kd = found.get((name, task), np.zeros((1, 1)))  # (M, M)
            axes.imshow(kd, cmap="Greys", vmin=0.5, vmax=1.5)
            for m, t in np.ndindex(kd.shape):
                colour = "white" if kd[m, t] > 1.1 else "black"
                number = f"{kd[m, t]:.2f}" if m != t else "-"
                axes.text(t, m, number, ha="center", va="center", color=colour)
            axes.set(title=f"{task}, {name}; 1: uniform", xlabel="teacher", ylabel="student")
            axes.set_xticks(range(len(kd)), range(1, len(kd) + 1))
            axes.set_yticks(range(len(kd)), range(1, len(kd) + 1))
    return figure


def leaving_figure(folder):
    """A row a task, a column a rule. Above 0, the rule knows more than chance."""
    tasks = shown(folder)
    figure, panels = new_figure(len(tasks), len(RULES), (4.6, 3.5), sharex=True)
    for (row, column), axes in np.ndenumerate(panels):
        task, rule = tasks[row], RULES[column]
        for name, runs in listed(task, folder, STYLES).items():
            grid = np.linspace(1, len(runs[0]["exits"]), 51)
            values = np.array([[evidence.over_mix(run, rule, s) for s in grid] for run in runs])
            mean, half = mean_and_half(100 * values)
            line(axes, name, grid, mean, half, every=5)
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set(title=f"{task}: {rule}", ylabel="points above the mix")
    for axes in panels[-1]:
        axes.set_xlabel("speed-up in layers")
    panels[0, 0].legend()
    return figure


def draw(results, out):
    """-> the paths of the pictures. UserError if there is nothing to draw."""
    if not shown(results):
        raise UserError(f"{results}: no results; python experiments/compare.py")
    figures = (exits_figure, differences_figure, weights_figure, leaving_figure, choices_figure)
    paths = []
    for name, figure in zip(evidence.PICTURES, figures, strict=True):
        paths.append(Path(out) / f"evidence-{name}.png")
        figure(results).savefig(paths[-1], dpi=90)
    return paths


def main():
    parser = argparse.ArgumentParser(description="Draw the comparison.")
    parser.add_argument("--results", default=str(evidence.COMPARED), help="folder of the results")
    parser.add_argument("--out", default=str(ROOT / "docs"), help="folder for the pictures")
    args = parser.parse_args()
    print(*draw(args.results, args.out), sep="\n")


if __name__ == "__main__":
    command(main)
