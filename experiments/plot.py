"""Draw what experiments/compare.py has found; needs matplotlib.

python experiments/plot.py --task toy                    # docs/toy-exits.png and three others
python experiments/plot.py --task rte --out /tmp --results FOLDER

TASK-exits.png     the metric of every exit, mean and extremes over seeds
TASK-speed.png     the metric against the speed-up, for each rule, in layers and in time
TASK-weights.png   the learned weights, by bilevel and by cross, and their course
toy-levels.png     how deep each level of difficulty goes
"""

import argparse
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "experiments")]

from compare_runs import at_speedup  # noqa: E402
from evidence import COMPARED, CUT, LEARNED, RULES, TASKS, clocks, exits_of, load, weights_of  # noqa: E402
from methods import METHODS  # noqa: E402

from support.picture import LONG  # noqa: E402

STYLES = {  # name: label, colour, marker, line; apart without colour too
    CUT: ("a model for each depth", "black", "X", "-"),
    "deebert-slow": ("DeeBERT, two stages", "tab:brown", "v", "--"),
    "pabee": ("PABEE, weights by depth", "tab:blue", "o", "--"),
    "berxit": ("BERxiT, alternating", "tab:purple", "s", "-."),
    "fastbert": ("last exit teaches", "tab:cyan", "^", ":"),
    "none-uniform": ("no teachers, plain sum", "0.5", "P", ":"),
    "all-uniform": ("all teach, uniform", "tab:green", "s", "--"),
    "all-single": ("all teach, single", "tab:olive", "v", ":"),
    "all-bilevel": ("all teach, bilevel", "tab:orange", "^", "-."),
    "all-cross": ("all teach, cross (LeeBERT)", "tab:red", "o", "-"),
}
OTHERS = ("deebert-slow", "pabee", "berxit", "fastbert")


def drawn(task, folder):
    """-> {name: runs} of the methods that are drawn and have runs."""
    found = {name: load(task, name, folder) for name in STYLES}
    return {name: runs for name, runs in found.items() if runs}


def new_figure(rows, columns, size, **options):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # no window, no state that other code could see

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def line(axes, name, x, y, every=1):
    label, colour, marker, style = STYLES[name]
    axes.plot(x, y, style, color=colour, marker=marker, markevery=every, markersize=5, label=label)


def deviation(values):
    """Standard deviation over axis 0, the runs; 0 for one run."""
    return np.std(values, axis=0, ddof=1) if len(values) > 1 else np.zeros(np.shape(values)[1:])


def seeds_of(found):
    numbers = sorted({len(runs) for runs in found.values()})
    words = f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else f"{numbers[0]}"
    return f"{words} seed{'s' if numbers[-1] > 1 else ''}"


def reference(axes, runs, x):
    """A cross for the network with one exit. x: layer M in one figure, speed-up 1 in the other."""
    last = [exits_of(run)[-1] for run in runs]
    if last:
        label = "one loss, after the last layer"
        axes.errorbar(
            x, np.mean(last), deviation(last), fmt="kX", markersize=9, capsize=3, label=label
        )


def exits_figure(task, found, last):
    """One curve a method: what each exit can do where every example goes as deep as that."""
    figure, ((left, right),) = new_figure(1, 2, (12, 6), sharey=True)
    for name, runs in found.items():
        exits = np.array([exits_of(run) for run in runs])  # (runs, M)
        x = np.arange(1, exits.shape[1] + 1)
        for axes, wanted in ((left, name in OTHERS), (right, name not in OTHERS)):
            if wanted or name == CUT:
                line(axes, name, x, exits.mean(axis=0))
                colour, band = STYLES[name][1], (exits.min(axis=0), exits.max(axis=0))
                axes.fill_between(x, *band, color=colour, alpha=0.12, linewidth=0)
            axes.set(xlabel="exit after layer", xticks=x)
    for axes, words in ((left, "Other methods"), (right, "Exits that teach each other")):
        reference(axes, last, x[-1])
        axes.set_title(words)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2)
        axes.grid(alpha=0.3)
    run = next(iter(found.values()))[0]
    left.set_ylabel(f"{LONG[run['metric']]} on dev")
    figure.suptitle(
        f"{task}: each exit by itself; mean, and band from lowest to highest, of {seeds_of(found)}"
    )
    return figure


def wall_points(runs, name, rule, clock):
    """Mean over seeds of wall-clock speed-up and metric, a point a threshold -> x, y."""
    x, y = [], []
    for run in runs:
        if (name, run["seed"]) in clock:
            wall = clock[name, run["seed"]]["speedup_wall"]
            rows = [(w, r) for w, r in zip(wall, run["sweep"], strict=True) if r["rule"] == rule]
            x.append([w for w, _ in rows])
            y.append([r[run["metric"]] for _, r in rows])
    if not x:
        return np.array([]), np.array([])
    x, y = np.mean(x, axis=0), np.mean(y, axis=0)
    return x[np.argsort(x)], y[np.argsort(x)]


def speed_figure(task, found, last, clock):
    """A column a rule; above, speed-up in layers, below, in time. A curve ends with its rule."""
    figure, panels = new_figure(2, 3, (15, 9), sharey=True)
    run = next(iter(found.values()))[0]
    M = len(run["exits"])
    grid = np.linspace(1, M, 51)
    for column, rule in enumerate(RULES):
        for name, runs in found.items():
            values = np.array([[at_speedup(run, rule, s) for s in grid] for run in runs])
            line(panels[0, column], name, grid, values.mean(axis=0), every=5)
            if name != CUT:
                line(panels[1, column], name, *wall_points(runs, name, rule, clock))
        reference(panels[0, column], last, 1)
        panels[0, column].set(title=f"leave by {rule}", xlabel="speed-up in layers")
        panels[1, column].set(xlabel="speed-up in processor time, one thread, batches of 32")
        panels[1, column].axvline(1, color="black", linewidth=0.8)
    for axes in panels.flat:
        axes.grid(alpha=0.3)
    for axes in panels[:, 0]:
        axes.set_ylabel(f"{LONG[run['metric']]} on dev")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5)
    figure.suptitle(
        f"{task}: what leaving early costs and saves, mean over {seeds_of(found)}; "
        "1 is full depth, up and to the right is better"
    )
    return figure


def matrix(axes, runs, title):
    """Final weights of distillation, on a ground whose darkness goes with them."""
    kd = weights_of(runs)[1]  # (runs, M, M)
    mean, std, M = kd.mean(axis=0), deviation(kd), kd.shape[1]
    axes.imshow(mean, cmap="Greys", vmin=0, vmax=2)
    for m, t in np.ndindex(M, M):
        words = f"{mean[m, t]:.2f}\n±{std[m, t]:.2f}" if m != t else "-"
        colour = "white" if mean[m, t] > 1.25 else "black"
        axes.text(t, m, words, ha="center", va="center", fontsize=8, color=colour)
    axes.set(title=title, xlabel="teacher", ylabel="student")
    axes.set_xticks(range(M), range(1, M + 1))
    axes.set_yticks(range(M), range(1, M + 1))


def course(axes, steps, values, title):
    """values (runs, steps, M): a line an exit, mean and std over runs."""
    M = values.shape[2]
    for m, y, band in zip(range(M), values.mean(axis=0).T, deviation(values).T, strict=True):
        grey = str(0.75 * (1 - m / (M - 1)))
        marker = "osv^DP"[m % 6]
        axes.plot(steps, y, "-", color=grey, marker=marker, markersize=5, label=m + 1)
        axes.fill_between(steps, y - band, y + band, color=grey, alpha=0.15, linewidth=0)
    axes.axhline(1, color="black", linestyle="--", linewidth=0.8)
    axes.set(xlabel="step  (dashed line: the uniform sum)", ylabel="weight", ylim=(0, 2))
    axes.set_title(title)
    axes.legend(ncols=3, loc="lower left")


def weights_figure(task, learned):
    """learned: {name: runs}. Above, the final weights of each way to learn them; below, courses."""
    figure, panels = new_figure(2, max(2, len(learned)), (6 * max(2, len(learned)), 10))
    for axes, (name, runs) in zip(panels[0], learned.items(), strict=False):
        matrix(axes, runs, f"{LEARNED[name]}:\nweight of each distillation (1: the uniform sum)")
    name, runs = list(learned.items())[-1]
    steps = [row["step"] for row in runs[0]["course"]]
    ce = np.array([[row["ce"] for row in run["course"]] for run in runs])  # (runs, steps, M)
    kd = np.array([[row["kd"] for row in run["course"]] for run in runs])  # (runs, steps, M, M)
    words = f"{LEARNED[name]}, course:"
    course(panels[1, 0], steps, ce, f"{words} cross-entropy of exit ...")
    course(panels[1, 1], steps, kd.sum(axis=3), f"{words} mean distillation of student ...")
    for axes in [*panels[0, len(learned) :], *panels[1, 2:]]:
        axes.set_axis_off()
    figure.suptitle(f"{task}, all exits teach; mean and std over {seeds_of(learned)}")
    return figure


def levels_figure(found):
    """Toy: mean exit of each level at the fastest setting that loses at most one point."""
    figure, ((axes,),) = new_figure(1, 1, (8, 5))
    shown = {n: runs for n, runs in found.items() if n != CUT and any(r["levels"] for r in runs)}
    for i, (name, runs) in enumerate(shown.items()):
        rows = np.array([[x["mean_exit"] for x in run["levels"]] for run in runs if run["levels"]])
        label, colour, marker, style = STYLES[name]
        x = np.arange(1, rows.shape[1] + 1) + 0.05 * (i - len(shown) / 2)  # beside each other
        axes.errorbar(x, rows.mean(axis=0), deviation(rows), color=colour, marker=marker,
                      linestyle=style, capsize=2, label=label)  # fmt: skip
    axes.set(xlabel="level of difficulty, 1 to 4", ylabel="mean exit", xticks=[1, 2, 3, 4])
    axes.set_title(
        "toy: how deep each level goes, at the fastest setting of any rule\n"
        f"that loses at most one point of accuracy; mean and std over {seeds_of(found)}"
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def draw(task, results, out):
    """-> the paths of the pictures. ValueError if there is nothing to draw."""
    found = drawn(task, results)
    if not found:
        raise ValueError(f"{Path(results) / task}: no results; python experiments/compare.py")
    # Where there is a model for each depth, the deepest of them is the same reference.
    last = [] if CUT in found else load(task, "last", results)
    figures = {"exits": exits_figure(task, found, last)}
    figures["speed"] = speed_figure(task, found, last, clocks(task, results))
    shown = (name for name in LEARNED if name != "all-single" and METHODS[name].times == 1)
    if learned := {name: runs for name in shown if (runs := load(task, name, results))}:
        figures["weights"] = weights_figure(task, learned)
    if task == "toy":
        figures["levels"] = levels_figure(found)
    paths = []
    for name, figure in figures.items():
        paths.append(Path(out) / f"{task}-{name}.png")
        figure.savefig(paths[-1], dpi=100)
    return paths


def main():
    parser = argparse.ArgumentParser(description="Draw the comparison.")
    parser.add_argument("--task", choices=TASKS, default="toy")
    parser.add_argument("--results", default=str(COMPARED), help="folder of the results")
    parser.add_argument("--out", default=str(ROOT / "docs"), help="folder for the pictures")
    args = parser.parse_args()
    try:
        for path in draw(args.task, args.results, args.out):
            print(path)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
