"""Set two methods side by side: exit by exit, and at equal speed-up.

    python experiments/compare_runs.py runs/toy-none-uniform-s0 runs/toy-all-cross-s0
    python experiments/compare_runs.py runs/toy-none-uniform-s runs/toy-all-cross-s

A and B are each a run's folder, or what the names of several begin with: the same settings, other
seeds. A difference can be noise, of two kinds; which can be judged depends on what is there:

    seeds    Another seed of the same method gives another number. With two seeds or more that both
             sides have: the 95 % interval of the mean difference, runs of one seed in pairs.
    dev      Another dev set of N examples would give another accuracy p, with standard error
             sqrt(p (1 - p) / N). With one run a side that is all that can be said, and it says
             nothing about seeds. Both runs saw the same dev set, so this error is on the high side.

"yes" is at 5 %: among twenty rows without any real difference, about one says yes by chance.
"""

import math
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "experiments")]

import evidence  # noqa: E402

from support.errors import UserError, command  # noqa: E402

SPEEDUPS = (1.25, 1.5, 2.0, 3.0)  # in layers
USAGE = "usage: python experiments/compare_runs.py RUN_A RUN_B"


def load_side(name):
    """The runs that a name stands for -> results, sorted by seed, and their common settings."""
    path = Path(name)
    alike = [path] if (path / "result.json").exists() else sorted(path.parent.glob(f"{path.name}*"))
    folders = [folder for folder in alike if (folder / "result.json").exists()]
    if not folders:
        raise UserError(f"{name}: no result.json here, nor in a folder whose name begins so")
    results = [evidence.read(folder / "result.json") for folder in folders]
    configs = [evidence.read(folder / "config.json") for folder in folders]
    for folder, result in zip(folders, results, strict=True):
        if not {"task", "seed", "exits", "sweep"} <= set(result):
            raise UserError(f"{folder / 'result.json'}: not a result of train.py")
    for config in configs:
        if changed := differences(configs[0], config, evidence.NOT_SETTINGS):
            raise UserError(f"{name}: runs of different settings: {changed}")
    results = sorted(results, key=lambda result: result["seed"])
    seeds = [result["seed"] for result in results]
    if len(set(seeds)) < len(seeds):
        raise UserError(f"{name}*: a seed occurs twice: {seeds}; move one of the folders away")
    return results, configs[0]


def differences(a, b, but=()):
    """What both sides know and what differs, as words."""
    return "; ".join(f"{k} {a[k]} | {b[k]}" for k in a if k in b and k not in but and a[k] != b[k])


def kind(results, config):
    """What has to be the same if numbers are to be compared."""
    dev = {"dev file": config.get("dev_file"), "number of dev examples": results[0]["dev_examples"]}
    return {"task": results[0]["task"], **dev, "number of exits": len(results[0]["exits"])}


def judge(x, y, d, metric, N):
    """Is the difference more than noise? x, y: a number a run; d: of each pair -> words."""
    if len(d) > 1:
        mean, half = 100 * np.array(evidence.mean_and_half(d))
        return f"{'yes' if abs(mean) > half else 'no':<3} {mean - half:+.1f} .. {mean + half:+.1f}"
    if metric != "acc" or len(x) > 1 or len(y) > 1:
        return "?"
    (a,), (b,) = x, y
    error = math.sqrt((a * (1 - a) + b * (1 - b)) / N)
    return f"{'yes' if abs(b - a) > 1.96 * error else 'no':<3} error {100 * error:.1f}"


def compare(a, b):
    """Print all of it. a, b: results."""
    metric, N = a[0]["metric"], a[0]["dev_examples"]
    print(f"\n{f'{metric} on dev, percent':<24}{'A':>14}{'B':>14}{'B - A':>9}   more than noise?")

    def row(name, number, metric=metric):
        x, y = ([number(result) for result in side] for side in (a, b))
        if not np.isnan([*x, *y]).any():
            noise = judge(x, y, evidence.paired(a, b, number), metric, N)
            change = f"{100 * (np.mean(y) - np.mean(x)):+.1f}"
            x, y = map(evidence.spread, (x, y))
            print(f"{name:<24}{x:>14}{y:>14}{change:>9}   {noise}")

    for m in range(len(a[0]["exits"])):
        row(f"exit {m + 1}", lambda result, m=m: evidence.exits_of(result)[m])
    row("mean over exits", evidence.over_exits)
    row("100 F, the mean loss", evidence.held_out_loss, "loss")
    for rule in dict.fromkeys(row["rule"] for row in a[0]["sweep"]):
        for s in SPEEDUPS:
            row(f"{rule}, {s:.2f}x", lambda run, s=s, rule=rule: evidence.at_speedup(run, rule, s))
    print("\nyes: at 5 %, so one row in twenty says it by chance; ?: its error is not known")
    if len({run["seed"] for run in a} & {run["seed"] for run in b}) < 2:
        print("This is the noise of the dev set. For that of seeds, train both with --seed 1, ...")


def main():
    (a, config_a), (b, config_b) = (load_side(name) for name in sys.argv[1:])
    if wrong := differences(kind(a, config_a), kind(b, config_b)):
        raise UserError(f"not comparable: {wrong}")
    for letter, name, results in zip("AB", sys.argv[1:], (a, b), strict=True):
        seeds = " ".join(str(result["seed"]) for result in results)
        print(f"{letter}  {name}: {len(results)} run(s), seeds {seeds}")
    changed = differences(config_a, config_b, evidence.NOT_SETTINGS)
    print("they differ in:", changed or "none of the settings that both have on record")
    compare(a, b)


if __name__ == "__main__":
    command(main, None if len(sys.argv) == 3 else USAGE)
