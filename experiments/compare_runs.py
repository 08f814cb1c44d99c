"""Set two methods side by side: exit by exit, at equal speed-up, and by what they learned.

    python experiments/compare_runs.py runs/toy-none-uniform-s0 runs/toy-all-cross-s0
    python experiments/compare_runs.py runs/toy-none-uniform-s runs/toy-all-cross-s

A and B are each a run's folder, or what the names of several begin with: the same settings, other
seeds. A difference can be noise, of two kinds; which can be judged depends on what is there:

    seeds    Another seed of the same method gives another number. With two seeds or more that both
             sides have: the 95 % interval of the mean difference, runs of one seed in pairs.
    dev      Another dev set of N examples would give another accuracy p, with standard error
             sqrt(p (1 - p) / N). With one run a side that is all that can be said, and it says
             nothing about seeds. Both runs saw the same dev set, so this error is on the high side.

"yes" is at 5 %: among twenty rows without any real difference, one says yes by luck.
"""

import math
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "experiments")]

from evidence import NOT_SETTINGS, at_speedup, exits_of, mean_and_half, paired, read, spread  # noqa: E402

from support.errors import UserError, command  # noqa: E402

SPEEDUPS = (1.25, 1.5, 2.0, 3.0)  # in layers
USAGE = "usage: python experiments/compare_runs.py RUN_A RUN_B"


def load_side(name):
    """The runs that a name stands for -> results, sorted by seed, and their common settings."""
    path = Path(name)
    alike = sorted(path.parent.glob(f"{path.name}*"))
    folders = [path] if (path / "result.json").exists() else alike
    runs = []
    for folder in folders:
        if (folder / "result.json").exists():
            result, config = read(folder / "result.json"), read(folder / "config.json")
            runs.append((result, {k: v for k, v in config.items() if k not in NOT_SETTINGS}))
    if not runs:
        raise UserError(f"{name}: no result.json here, nor in a folder whose name begins so")
    settings = runs[0][1]
    for _, others in runs:
        if changed := differences(settings, others):
            raise UserError(f"{name}: runs of different settings: {'; '.join(changed)}")
    results = sorted((result for result, _ in runs), key=lambda result: result["seed"])
    seeds = [result["seed"] for result in results]
    if len(set(seeds)) < len(seeds):
        raise UserError(f"{name}*: a seed occurs twice: {seeds}; move one of the folders away")
    return results, settings


def differences(a, b):
    """Settings that both sides know and that differ, as words."""
    return [f"{k} {a[k]} | {b[k]}" for k in a if k in b and a[k] != b[k]]


def kind(results, settings):
    """What has to be the same if numbers are to be compared."""
    first = results[0]
    return {
        "task": first["task"],
        "dev file": settings.get("dev_file"),
        "number of dev examples": first["dev_examples"],
        "number of exits": len(first["exits"]),
    }


def judge(x, y, d, metric, N):
    """Is the difference more than noise? x, y: a number a run; d: of each pair -> words."""
    if len(d) > 1:
        mean, half = 100 * np.array(mean_and_half(d))
        return f"{'yes' if abs(mean) > half else 'no':<3} {mean - half:+.1f} .. {mean + half:+.1f}"
    if metric != "acc" or len(x) > 1 or len(y) > 1:
        return "?"
    (a,), (b,) = x, y
    error = math.sqrt((a * (1 - a) + b * (1 - b)) / N)
    return f"{'yes' if abs(b - a) > 1.96 * error else 'no':<3} error {100 * error:.1f}"


def compare(a, b):
    """Print all of it. a, b: results."""
    first, shared = a[0], len({x["seed"] for x in a} & {x["seed"] for x in b})
    metric, N, M = first["metric"], first["dev_examples"], len(first["exits"])

    def row(name, number):
        x, y = ([number(result) for result in side] for side in (a, b))
        if not np.isnan([*x, *y]).any():
            change = f"{100 * (np.mean(y) - np.mean(x)):+.1f}"
            word = judge(x, y, paired(a, b, number), metric, N)
            print(f"{name:<18}{spread(x):>14}{spread(y):>14}{change:>9}   {word}")

    noise = "seeds" if shared > 1 else "dev"
    head = f"{'A':>14}{'B':>14}{'B - A':>9}   more than noise of {noise}?"
    print(f"\n{metric} on dev in percent\n{'exit':<18}{head}")
    for m in range(M):
        row(f"{m + 1:>4}", lambda result, m=m: exits_of(result)[m])
    row("mean", lambda result: exits_of(result).mean())
    print(f"\n{'rule, speed-up':<18}{head}")
    for rule in dict.fromkeys(row["rule"] for row in first["sweep"]):
        for s in SPEEDUPS:
            row(f"{rule:<11}{s:5.2f}x", lambda result, s=s, rule=rule: at_speedup(result, rule, s))
    print("\n(yes: at 5 %, so one row in twenty says it by luck; ?: no error known for it)")
    print("\nweights of the loss terms, mean over runs (1.00: the uniform sum)")
    print("exit    cross-entropy A     B    distillation, summed over teachers A     B")
    ce, kd = (
        [np.mean([result["weights"][kind] for result in side], axis=0) for side in (a, b)]
        for kind in ("ce", "kd")
    )
    for m, (student_a, student_b) in enumerate(zip(*(x.sum(axis=1) for x in kd), strict=True)):
        print(f"{m + 1:>4}{ce[0][m]:19.2f}{ce[1][m]:6.2f}{student_a:39.2f}{student_b:6.2f}")
    if shared < 2:
        print(
            "\nFewer than two seeds in common: other seeds may change any of this, nobody knows by "
            "how much.\nTrain both with --seed 1, --seed 2, ... and give what their folders share."
        )


def main():
    (a, of_a), (b, of_b) = (load_side(name) for name in sys.argv[1:])
    kinds = kind(a, of_a), kind(b, of_b)
    if wrong := differences(*kinds):
        raise UserError(f"not comparable: {'; '.join(wrong)}")
    for letter, name, results in zip("AB", sys.argv[1:], (a, b), strict=True):
        seeds = " ".join(str(result["seed"]) for result in results)
        print(f"{letter}  {name}: {len(results)} run(s), seeds {seeds}")
    known = f"nothing, of {len(of_a.keys() & of_b.keys())} settings on record for both"
    print("they differ in:", "; ".join(differences(of_a, of_b)) or known)
    compare(a, b)


if __name__ == "__main__":
    command(main, None if len(sys.argv) == 3 else USAGE)
