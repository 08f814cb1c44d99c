"""What a run reports: a line while it trains, its levels of difficulty, tables at the end."""

import json

import numpy as np


def progress(log, steps, losses, weights, clock):
    """Write a line to the log and one to the screen: losses of the first, middle and last exit,
    mean weights (1 at the uniform sum), speed, time left.

    steps: done, total. losses: ce, kd. weights: w_ce, w_kd. clock: tokens, seconds.
    """
    (step, total), (ce, kd), (tokens, seconds) = steps, losses, clock
    ce, (w_ce, w_kd) = ce.tolist(), (w.tolist() for w in weights)
    row = dict(step=step, total=total, ce=ce, kd=kd.mean().item(), w_ce=w_ce, w_kd=w_kd)
    row |= dict(tokens_per_second=round(tokens / seconds), seconds=round(seconds, 2))
    print(json.dumps(row), file=log, flush=True)
    M, left = len(ce), int(seconds * (total / step - 1))
    losses = "  ".join(f"exit {m} {ce[m - 1]:.3f}" for m in sorted({1, (M + 1) // 2, M}))
    students = max(1, sum(any(row) for row in w_kd))
    means = f"ce {np.mean(w_ce):.2f} kd {np.sum(w_kd) / students:.2f}"
    speed = f"{row['tokens_per_second']:,} tokens/s  {left // 60}:{left % 60:02d} left"
    print(f"step {step:>5}/{total}  loss: {losses}  weights: {means}  {speed}", flush=True)


def by_level(examples, of_exits, predictions, layers):
    """Built-in task: accuracy and mean exit layer of each level of difficulty -> one dict a level.

    predictions, layers: (N,), leaving early; of_exits: (M, N), what each exit would have answered.
    """
    levels, labels = np.array([e.level for e in examples]), np.array([e.label for e in examples])
    rows = []
    for level in np.unique(levels[levels > 0]):
        these = levels == level
        acc, *exits = (float(np.mean(x[these] == labels[these])) for x in (predictions, *of_exits))
        mean_exit = float(layers[these].mean())
        rows.append({"level": int(level), "acc": acc, "mean_exit": mean_exit, "exits": exits})
    return rows


def report(result):
    """Tables of the sweep and of the levels, and the learned weights as a matrix."""
    metrics, M = list(result["majority"]), len(result["exits"])

    def cells(row):
        return "  ".join(f"{row[name]:{max(6, len(name))}.3f}" for name in metrics)

    names = "  ".join(f"{name:>6}" for name in metrics)
    print(f"\nrule        threshold  {names}  mean exit  speed-up: layers  wall clock  over mix")
    for row in result["sweep"]:
        rule = f"{row['rule']:<12}{row['threshold']:>9}  {cells(row)}  {row['mean_exit']:9.2f}"
        speedups = f"{row['speedup_layers']:15.2f}x  {row['speedup_wall']:9.2f}x"
        mark = "  <- at most one point lost" if row == result["operating_point"] else ""
        print(f"{rule}  {speedups}  {row['over_mix']:+8.3f}{mark}")
    constant = "mean" if "pearson" in metrics else "most frequent class"
    print(f"{'none':<21}  {cells(result['majority'])}   (always the {constant})")
    if max(row[metrics[0]] for row in result["exits"]) <= result["majority"][metrics[0]]:
        print("no exit beats the line none: try a larger --lr, more --epochs, or the other --pool")
    print("over mix: above the best random mix of fixed exits with the same mean exit")
    losses = [row["loss"] for row in result["exits"]]
    of_exits = " ".join(f"{x:6.3f}" for x in losses)
    print(f"\nloss on dev, exits 1 to {M}: {of_exits}   mean {np.mean(losses):.3f}")
    if result["levels"]:
        print(f"\nlevel  {'accuracy of each exit':<{M * 7}}  when leaving early: acc  mean exit")
    for row in result["levels"]:
        exits = "".join(f"{acc:7.3f}" for acc in row["exits"])
        print(f"{row['level']:>5}  {exits}  {row['acc']:23.3f}  {row['mean_exit']:9.2f}")
    print("\nweights   ce   distillation, student by teacher (1.00: the uniform sum)")
    for m, (ce, row) in enumerate(zip(*result["weights"].values(), strict=True), start=1):
        teachers = sum(w > 0 for w in row)
        kd = " ".join(f"{w * teachers:4.2f}" if w > 0 else "   ." for w in row)
        print(f"exit {m:>2}  {ce:4.2f}  {kd}")
