"""Set two methods side by side: exit by exit, at equal speed-up, and by what they learned.

    python experiments/compare_runs.py runs/toy-none-uniform-s0 runs/toy-all-cross-s0
    python experiments/compare_runs.py runs/toy-none-uniform-s runs/toy-all-cross-s

A and B are each a run's folder, or what the names of several begin with: the same settings, other
seeds. A difference can be noise, of two kinds; which can be judged depends on what is there:

    seeds    Another seed of the same method gives another number. With two runs or more on both
             sides: mean +- standard deviation, and Welch's t-test of the two means.
    dev      Another dev set of N examples would give another accuracy p, with standard error
             sqrt(p (1 - p) / N). With one run a side that is all that can be said, and it says
             nothing about seeds. Both runs saw the same dev set, so this bar is on the high side.

"yes" is at 5 %: among twenty rows without any real difference, one says yes by luck.
"""

import json
import math
import sys
from pathlib import Path

import numpy as np

NOT_SETTINGS = """seed out resume device log_every data_dir cache_dir bert labels pairs processes
                  train_data""".split()
SPEEDUPS = (1.25, 1.5, 2.0, 3.0)  # in layers


def load_side(name):
    """The runs that a name stands for -> list of (result, settings), sorted by seed."""
    path = Path(name)
    folders = (
        [path] if (path / "result.json").exists() else sorted(path.parent.glob(f"{path.name}*"))
    )
    runs = []
    for folder in folders:
        try:
            if (folder / "result.json").exists():
                result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
                settings = {"task": result["task"], "model": result["model"], **result["method"]}
                if (folder / "config.json").exists():
                    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
                    settings = config | settings
                runs.append((result, {k: v for k, v in settings.items() if k not in NOT_SETTINGS}))
        except (ValueError, KeyError) as error:
            raise ValueError(f"{folder}: not a run of train.py ({error!r})") from None
    if not runs:
        raise ValueError(f"{name}: no result.json here, nor in a folder whose name begins so")
    for _, settings in runs[1:]:
        if changed := differences(runs[0][1], settings):
            raise ValueError(f"{name}: runs of different settings: {'; '.join(changed)}")
    seeds = sorted(result["seed"] for result, _ in runs)
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"{name}: a seed occurs twice among the {len(runs)} runs: {seeds}")
    return sorted(runs, key=lambda run: run[0]["seed"])


def differences(a, b):
    """Settings that both sides know and that differ, as words."""
    return [f"{k} {a[k]} | {b[k]}" for k in a if k in b and a[k] != b[k]]


def comparable(a, b):
    """ValueError unless the numbers of the two sides are of the same kind."""
    for what, of in (
        ("task", lambda run: run[0]["task"]),
        ("dev file", lambda run: run[1].get("dev_file", "")),
        ("number of dev examples", lambda run: run[0].get("dev_examples")),
        ("number of exits", lambda run: len(run[0]["exits"])),
    ):
        values = [of(side[0]) for side in (a, b)]
        if values[0] != values[1] and None not in values:
            raise ValueError(f"not comparable: {what} {values[0]} against {values[1]}")


def welch(x, y):
    """Welch's test of equal means -> two-sided p. x, y: one number a run, at least two each.

    t = (mean y - mean x) / sqrt(s_x^2 / n_x + s_y^2 / n_y), with Welch's degrees of freedom nu.
    Student's density in theta = atan(t / sqrt(nu)) is cos(theta)^(nu - 1), up to a factor, so that
    p is a quotient of two areas under it. nan where neither side has any spread.
    """
    vx, vy = np.var(x, ddof=1) / len(x), np.var(y, ddof=1) / len(y)
    if vx + vy < 1e-18:  # rounding apart
        return math.nan
    t = abs(np.mean(y) - np.mean(x)) / math.sqrt(vx + vy)
    nu = (vx + vy) ** 2 / (vx**2 / (len(x) - 1) + vy**2 / (len(y) - 1))

    def area(start):  # by the midpoint rule
        width = (math.pi / 2 - start) / 10_000
        return width * np.sum(np.cos(start + width * (np.arange(10_000) + 0.5)) ** (nu - 1))

    return float(area(math.atan(t / math.sqrt(nu))) / area(0.0))


def judge(x, y, metric, N):
    """Is the difference more than noise? -> "yes ...", "no ..." or "?"."""
    if np.isnan([*x, *y]).any():
        return ""
    if min(len(x), len(y)) > 1:
        p = welch(x, y)
        if math.isnan(p):
            return "?  no spread"
        return f"{'yes' if p < 0.05 else 'no':<3} p {'< 0.001' if p < 0.001 else f'= {p:.3f}'}"
    if metric != "acc" or N is None:
        return "?"
    a, b = np.mean(x), np.mean(y)
    error = math.sqrt((a * (1 - a) + b * (1 - b)) / N)
    return f"{'yes' if abs(b - a) > 1.96 * error else 'no':<3} error {100 * error:.1f}"


def spread(x):
    """In percent: 93.1, or 93.1 +- 0.4 over several runs."""
    std = f" +- {100 * np.std(x, ddof=1):.1f}" if len(x) > 1 else ""
    return "-" if np.isnan(x).any() else f"{100 * np.mean(x):.1f}{std}"


def at_speedup(result, rule, speedup):
    """The metric of a rule where the mean exit is M / speedup; nan where the rule never gets there.

    Between two thresholds the metric is taken as linear in the mean exit. That can be had: let each
    example draw one of the two thresholds.
    """
    M, metric = len(result["exits"]), result["metric"]
    points = [(r["mean_exit"], r[metric]) for r in result["sweep"] if r["rule"] == rule]
    points = sorted([*points, (M, result["exits"][-1][metric])])  # never leaving is a threshold too
    exits, values = zip(*points, strict=True)
    return float(np.interp(M / speedup, exits, values, left=math.nan))


def compare(a, b):
    """Print all of it. a, b: lists from load_side."""
    results = [[result for result, _ in side] for side in (a, b)]
    first = results[0][0]
    metric, N, M = first["metric"], first.get("dev_examples"), len(first["exits"])
    single = min(map(len, results)) == 1

    def row(name, number):
        x, y = ([number(result) for result in side] for side in results)
        if np.isnan(x).any() and np.isnan(y).any():
            return
        change = f"{100 * (np.mean(y) - np.mean(x)):+.1f}" if np.isfinite([*x, *y]).all() else ""
        word = judge(x, y, metric, N)
        print(f"{name:<18}{spread(x):>14}{spread(y):>14}{change:>9}   {word}".rstrip())

    head = f"{'A':>14}{'B':>14}{'B - A':>9}   more than noise of {'dev' if single else 'seeds'}?"
    print(f"\n{metric} on dev in percent\n{'exit':<18}{head}")
    for m in range(M):
        row(f"{m + 1:>4}", lambda result, m=m: result["exits"][m][metric])
    row("mean", lambda result: np.mean([exit[metric] for exit in result["exits"]]))
    print(f"\n{'rule, speed-up':<18}{head}")
    for rule in dict.fromkeys(r["rule"] for r in first["sweep"]):
        for s in SPEEDUPS:
            row(f"{rule:<11}{s:5.2f}x", lambda result, s=s, rule=rule: at_speedup(result, rule, s))

    print("\n(yes: at 5 %, so one row in twenty says it by luck; ?: no error known for it)")

    print("\nweights of the loss terms, mean over runs (1.00: the uniform sum)")
    print("exit    cross-entropy A     B    distillation, summed over teachers A     B")
    ce, kd = (
        [np.mean([result["weights"][kind] for result in side], axis=0) for side in results]
        for kind in ("ce", "kd")
    )
    for m in range(M):
        print(
            f"{m + 1:>4}{ce[0][m]:19.2f}{ce[1][m]:6.2f}{kd[0][m].sum():39.2f}{kd[1][m].sum():6.2f}"
        )
    if single:
        print(
            "\nOne run on a side: other seeds may change any of this, and nothing here says by how "
            "much.\nTrain both with --seed 1, --seed 2, ... and give what the folders' names share."
        )


def main():
    if len(sys.argv) != 3:
        print("usage: python experiments/compare_runs.py RUN_A RUN_B", file=sys.stderr)
        sys.exit(2)
    try:
        sides = [load_side(name) for name in sys.argv[1:]]
        comparable(*sides)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    for letter, name, side in zip("AB", sys.argv[1:], sides, strict=True):
        seeds = " ".join(str(result["seed"]) for result, _ in side)
        print(f"{letter}  {name}: {len(side)} run(s), seeds {seeds}")
    a, b = (side[0][1] for side in sides)
    known = f"nothing, of {len(a.keys() & b.keys())} settings on record for both"
    print("they differ in:", "; ".join(differences(a, b)) or known)
    compare(*sides)


if __name__ == "__main__":
    main()
