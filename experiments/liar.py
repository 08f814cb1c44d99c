"""A lie that the judge finds: plant a fault whose right answer is known, and see who finds it.

    python experiments/liar.py                   # only the last exit teaches, and it lies
    python experiments/liar.py --all --which 3   # all exits teach, and exit 3 lies

The built-in task is solved with any weights, so it cannot show what learned weights are for. Here
is a case that can. The last exit is an honest student: its cross-entropy is as always. But as a
teacher it inverts its answers, softmax(-z) in place of softmax(z). Every student is asked to agree
with the labels and with the lie at once; with weight 1 on both it settles near 1/2. What should
happen is plain: the weight of the lie should fall, and the cross-entropies should keep theirs.

    uniform    every weight stays 1                              nobody looks
    single     the weights descend L itself                      one level: every weight falls
    bilevel    they descend J, judged on D2, held-out data       two levels
    cross      they descend J, judged on D2 and D1               two levels, both splits

Nothing of the method is touched but the one function through which teachers speak,
`leebert.distillation`. The judge is not told who lies.
"""

import argparse
import contextlib
import io
import json
import multiprocessing
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402

import leebert  # noqa: E402
import train  # noqa: E402
from support.errors import UserError, command  # noqa: E402

EXITS = train.TOY_BERT["num_hidden_layers"]
METHODS = {
    "uniform": ["--weights=uniform"],
    "single": ["--optimize=single"],
    "bilevel": ["--optimize=bilevel"],
    "cross": ["--optimize=cross"],
}
honest = leebert.distillation


def lying(which):
    """-> what stands in for leebert.distillation: teacher number `which` inverts its answers."""

    def distillation(logits, teacher_logits, temperature=1.0):
        sign = torch.ones(len(teacher_logits), 1, 1, device=logits.device)
        sign[which - 1] = -1  # softmax(-z): of two classes, each has the probability of the other
        return honest(logits, sign * teacher_logits, temperature)

    return distillation


def one_run(name, teachers, which, seed):
    """-> its result.json, and the lines of its log."""
    torch.set_num_threads(1)
    leebert.distillation = lying(which)
    with tempfile.TemporaryDirectory() as folder:
        argv = [*METHODS[name], f"--teachers={teachers}", f"--seed={seed}", "--log-every=8"]
        config = train.parse([*argv, "--device=cpu", f"--out={folder}/run"])
        with contextlib.redirect_stdout(io.StringIO()):
            out = train.run(config)
        log = (out / "log.jsonl").read_text(encoding="utf-8").splitlines()
        return json.loads((out / "result.json").read_text()), [json.loads(line) for line in log]


def of_the_lie(w_kd, which):
    """Mean weight of teacher `which` over its students, 1 at the uniform sum.   w_kd (M, M)"""
    w_kd = np.array(w_kd)
    teachers = (w_kd > 0).sum(axis=1)  # (M,)
    students = w_kd[:, which - 1] > 0
    return float((w_kd[:, which - 1] * teachers)[students].mean())


def table(runs, which):
    exits = "".join(f"{m:6}" for m in range(1, EXITS + 1))
    print(f"accuracy of exit{exits}   mean      F   weight of the lie   of a cross-entropy")
    for name, (result, _) in runs.items():
        accuracy = [row["acc"] for row in result["exits"]]
        F = np.mean([row["loss"] for row in result["exits"]])
        lie, ce = of_the_lie(result["weights"]["kd"], which), np.mean(result["weights"]["ce"])
        cells = "".join(f"{x:6.2f}" for x in accuracy)
        print(f"{name:<16}{cells}  {np.mean(accuracy):5.3f}  {F:5.3f}{lie:20.2f}{ce:21.2f}")


def draw(runs, which, path):
    """Left: accuracy by exit. Right: the weight of the lie and of the cross-entropies, by step."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    styles = {"uniform": "k:o", "single": "C1--s", "bilevel": "C2-.^", "cross": "C0-D"}
    for name, (result, _) in runs.items():
        accuracy = [row["acc"] for row in result["exits"]]
        left.plot(range(1, EXITS + 1), accuracy, styles[name], label=name, linewidth=2)
    left.set(title="Each exit, while one teacher lies", xlabel="exit", ylabel="accuracy on dev")
    left.legend()
    for name in ("single", "cross"):
        log = runs[name][1]
        steps = [row["step"] for row in log]
        ce = [np.mean(row["w_ce"]) for row in log]
        lie = [of_the_lie(row["w_kd"], which) for row in log]
        colour, marker = styles[name][:2], styles[name][-1]
        dots = dict(marker=marker, markevery=8)
        right.plot(steps, ce, colour + "-", linewidth=2, label=f"{name}: cross-entropies", **dots)
        right.plot(steps, lie, colour + ":", linewidth=3, label=f"{name}: the lie", **dots)
    right.set(title="Weights that are learned", xlabel="step", ylabel="weight (1: uniform)")
    right.set_ylim(0, 2)
    right.legend()
    figure.savefig(path, dpi=100)
    print(f"picture: {path}")


def main():
    parser = argparse.ArgumentParser(description="One teacher lies; who finds it?")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--all", action="store_true", help="all exits teach, not only the last")
    parser.add_argument("--which", type=int, default=EXITS, help=f"who lies, default {EXITS}")
    args = parser.parse_args()
    if not 1 <= args.which <= EXITS or (args.which != EXITS and not args.all):
        raise UserError(f"--which {args.which}: only exit {EXITS} teaches; 1 to {EXITS} with --all")
    case = ("all" if args.all else "last", args.which, args.seed)
    print(f"teachers: {case[0]}; exit {args.which} lies; four runs, two at a time", flush=True)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = {name: pool.submit(one_run, name, *case) for name in METHODS}
        runs = {name: future.result() for name, future in futures.items()}
    table(runs, args.which)
    Path("runs").mkdir(exist_ok=True)
    draw(runs, args.which, "runs/liar.png")


if __name__ == "__main__":
    command(main)
