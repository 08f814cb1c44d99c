"""experiments/: methods are what their names say, a run repeated is the same run, each statistic
agrees with a computation of another kind, and two runs can be set side by side.
"""

import copy
import json
import math
import re
import subprocess
import sys
from types import SimpleNamespace
from unittest import mock

import benchmark
import compare
import compare_runs
import evidence
import liar
import methods
import numpy as np
import pytest
import tables
import torch
from conftest import ROOT, random_batch, tiny_model, write
from torch.nn.functional import kl_div

import data
import leebert
import train
from exercises.reference import all_terms
from support.errors import UserError

TINY = ["--train-examples=96", "--epochs=1", "--batch-size=32", "--omega-every=1"]  # 3 steps


# --------------------------------------------------------------------------------------------------
# 1. Each method is what its name says


ALL, OTHERS = ("bert", "exits"), ("exits.0", "exits.1")
FIRST = (("bert", "exits.2"), lambda ce, kd: ce[2])


@pytest.mark.parametrize("name, steps", [
    ("plain", [(ALL, lambda ce, kd: ce.sum())]),
    ("pabee", [(ALL, lambda ce, kd: (1 * ce[0] + 2 * ce[1] + 3 * ce[2]) / 2)]),  # mean weight 1
    ("last", [(ALL, lambda ce, kd: ce.sum() + kd[0, 2] + kd[1, 2])]),
    ("all-uniform", [(ALL, lambda ce, kd: ce.sum() + kd.sum() / 2)]),
    ("cross", [(ALL, lambda ce, kd: ce.sum() + kd.sum() / 2)]),  # where it begins
    ("later", [(ALL, lambda ce, kd: ce.sum() + (kd[0, 1] + kd[0, 2]) / 2 + kd[1, 2])]),
    ("one-exit", [FIRST] * 5),
    ("deebert", [FIRST] * 2 + [(OTHERS, lambda ce, kd: ce[0] + ce[1])] * 3),
    ("fastbert", [FIRST] * 2 + [(OTHERS, lambda ce, kd: kd[0, 2] + kd[1, 2])] * 3),
    ("berxit", [FIRST, (ALL, lambda ce, kd: ce.sum())] * 2 + [FIRST]),
])  # fmt: skip
def test_what_moves_in_which_step_and_along_which_loss(name, steps):
    """By gradient descent of length 0.1 with weight decay 0.2, on terms by torch's own losses; all
    else stays, bit for bit, so it does not decay either.
    """
    batch, config = random_batch(), compare.config_of(name, "toy", 0)
    weights = leebert.LossWeights(3, config.teachers).double()
    if config.weights == "depth":
        leebert.set_depth_weights(weights)

    def loop(config, model, loss_weights, encoded):
        optimizers = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.2), None
        hyper, batches = leebert.Hyper(xi=0.1, max_norm=math.inf), leebert.Batches(batch)
        for moves, loss in steps:
            old = copy.deepcopy(model).requires_grad_(True)
            L = loss(*all_terms(old, leebert.LossWeights(3), batch))
            g = torch.autograd.grad(L, list(old.parameters()), materialize_grads=True)
            train.training_step(model, loss_weights, optimizers, batches, hyper, "fixed")
            after = model.named_parameters()
            for (key, new), before, slope in zip(after, old.parameters(), g, strict=True):
                if key.startswith(moves):
                    torch.testing.assert_close(new, before - 0.1 * (slope + 0.2 * before))
                else:
                    assert torch.equal(new, before), key

    with mock.patch("methods.TRAIN", loop):
        run = methods.METHODS[name].patches.get("train.train", loop)
        run(config, tiny_model(), weights, SimpleNamespace(labels=range(64 * len(steps))))


def test_the_learning_rate_of_two_stages_rises_and_falls_in_each():
    config = train.Config(lr=0.5, warmup=0.2)
    stages = [train.learning_rate(step, n, config) for n in (9, 10) for step in range(n)]
    assert [methods.rate_of_each_half(step, 19, config) for step in range(19)] == stages


def test_distillation_by_squared_errors_moves_the_student_alone():
    """jensen_shannon and softmax_weights are solutions of exercises: the checkers test them."""
    z = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    found = methods.squared_error(z, z, 2.0)[0, 1]
    torch.testing.assert_close(found, (z[0] - z[1]).square().mean())
    slopes = torch.autograd.grad(found, z)[0].abs().sum(dim=(1, 2))
    assert slopes[0] > 0 and slopes[1] == 0


@pytest.mark.slow
def test_runs_have_the_batches_and_the_number_of_steps_that_methods_count_on(monkeypatch):
    """all-uniform-d1 has the batches of cross, and 1 of 3 steps of DeeBERT is of its first half."""
    step, seen, weights = leebert.training_step, {}, {}

    def spy(model, *args):
        seen[name].append((args[2].d1.input_ids, model.bert.layers[0].ffn_in.weight.requires_grad))
        return step(model, *args)

    monkeypatch.setattr(leebert, "training_step", spy)
    monkeypatch.setattr(train, "training_step", spy)
    for name in ("cross", "all-uniform-d1", "deebert"):
        seen[name] = []
        weights[name] = compare.one_run(name, "toy", 3, TINY)[0]["weights"]["ce"]
    for (one, _), (other, _) in zip(seen["cross"], seen["all-uniform-d1"], strict=True):
        assert torch.equal(one, other)
    assert weights["all-uniform-d1"] == [1] * 6 != weights["cross"]
    assert [moves for _, moves in seen["deebert"]] == [True, False, False]


# --------------------------------------------------------------------------------------------------
# 2. Runs


def test_all_methods_make_as_many_updates_and_only_missing_runs_are_made(tmp_path):
    configs = {name: compare.config_of(name, "toy", 0) for name in compare.EVERYTHING}
    assert {config.epochs for config in configs.values()} == {1}
    jobs = compare.plan("liar", range(10))
    assert len(set(jobs)) == len(jobs) == 10 * len(methods.METHODS) + 5 * len(methods.CHOICES)
    run = {"name": "last", "seed": 0, "settings": compare.settings_of(configs["last"])}
    evidence.keep(run, evidence.runs_file("toy", tmp_path))
    jobs = compare.plan("toy", range(2), ["jsd", "last", "cross"])
    names = [name for name, _ in compare.missing(jobs, "toy", tmp_path, [])]
    assert names == "cross last cross jsd jsd".split()
    with pytest.raises(UserError, match="last, seed 0, was made with warmup 0.1, not 0.5;"):
        compare.missing(jobs, "toy", tmp_path, ["--warmup=0.5"])


@pytest.mark.slow
def test_a_run_repeated_gives_the_same_line_and_a_finished_one_is_left_alone(tmp_path):
    def command(folder, *names):
        run = f"--task toy --seeds 1 --workers 2 --only {' '.join(names)} --results".split()
        script = [sys.executable, ROOT / "experiments" / "compare.py"]
        return subprocess.run([*script, *run, folder, "--", *TINY], capture_output=True, text=True)

    done = command(tmp_path / "one", "cross", "plain")
    assert "cross, seed 0: trained" in done.stdout, done.stderr
    command(tmp_path / "two", "plain")
    assert "2 runs, 1 of them done" in command(tmp_path / "two", "cross", "plain").stdout
    one, two = ((tmp_path / folder / "toy.jsonl").read_bytes() for folder in ("one", "two"))
    assert one == two and one.count(b"\n") == 2


def test_a_run_takes_its_place_among_the_others_or_that_of_its_older_self(tmp_path):
    path = tmp_path / "toy.jsonl"
    for name, seed, x in (("b", 10, 0), ("b", 9, 0), ("a", 3, 0), ("b", 10, 1)):
        evidence.keep({"name": name, "seed": seed, "x": x}, path)
    found = [(*key, run["x"]) for key, run in evidence.all_runs(path).items()]
    assert found == [("a", 3, 0), ("b", 9, 0), ("b", 10, 1)]
    path.write_text('{"name": "a", "seed": 3}\n{"name": ')
    with pytest.raises(UserError, match="toy.jsonl, line 2: not a result"):
        evidence.load("toy", "a", tmp_path)


# --------------------------------------------------------------------------------------------------
# 3. Numbers


def made_up(exits, curve, rule="patience", over=(0, 0, 0), **more):
    """A result: accuracies of the exits, and (mean exit, accuracy) of each threshold of a rule."""
    run = dict(seed=0, metric="acc", majority={"acc": 0.51}, device="cpu", dev_examples=400) | more
    run["exits"] = [{"exit": m, "acc": x, "loss": 1 - x} for m, x in enumerate(exits, 1)]
    run["sweep"] = [{"rule": rule, "mean_exit": e, "acc": x} for e, x in curve]
    for row, over_mix in zip(run["exits"], over, strict=False):
        row = {"rule": "always", "mean_exit": row["exit"], "acc": row["acc"], "over_mix": over_mix}
        run["sweep"].append(row)
    return run


def test_equal_speedup_lies_on_the_line_between_two_thresholds():
    run = made_up([0.5, 0.5, 0.5, 0.9], [(1.5, 0.70), (3.0, 0.80)])
    at = [evidence.at_speedup(run, "patience", s) for s in (2, 1, 1.25)]
    assert at == pytest.approx([0.7 + 0.1 * (2.0 - 1.5) / 1.5, 0.9, 0.8 + 0.1 * 0.2])  # to 4
    assert math.isnan(evidence.at_speedup(run, "patience", 3))  # no threshold leaves so early


def test_over_the_mix_is_over_every_coin_between_two_exits():
    """Exit 2, .55, is below the line from 1 to 3, so at mean exit 2 the best mix has .65."""
    run = made_up([0.5, 0.55, 0.8, 0.9], [(1.6, 0.7), (3.0, 0.85)], over=(0, -0.1, 0, 0))
    at = 0.7 + 0.15 * (2 - 1.6) / 1.4  # of the rule, at mean exit 2
    assert evidence.over_mix(run, "patience", 2) == pytest.approx(at - 0.65)
    assert evidence.over_mix(run, "patience", 4 / 3.5) == pytest.approx(0.025)  # 0.875 - 0.85


def test_a_difference_is_paired_by_seed_and_has_students_interval():
    """d = 1, 2, 3 percent: mean 2, std 1, t(2) = 4.30, so 2 +- 4.30 / sqrt(3)."""
    a = [{"seed": seed, "x": 0.5 + seed / 10} for seed in (2, 0, 1)]
    b = [{"seed": seed, "x": 0.5 + seed / 10 + (seed + 1) / 100} for seed in (0, 1, 2, 3)]
    d = np.array(evidence.paired(a, b, lambda run: run["x"]))
    assert evidence.interval(d) == "+2.0 (-0.5 .. +4.5)"
    assert evidence.interval(d + 0.02) == "**+4.0 (+1.5 .. +6.5)**"
    assert evidence.interval(-d - 0.02, 1, 3) == "**-0.040 (-0.065 .. -0.015)**"
    assert [evidence.interval(x) for x in ([0.05], [], [0, 0])] == ["+5.0", "-", "+0.0"]
    spreads = [evidence.spread(x) for x in ([0.7, 0.8, math.nan], [0.9], [math.nan])]
    assert spreads == ["75.0 +- 7.1 (n = 2)", "90.0", "-"]
    for nu, t in enumerate(evidence.T975, 1):  # the area under Student's density, beyond t
        x = np.linspace(math.atan(t / math.sqrt(nu)), math.pi / 2, 10_001)
        whole = math.sqrt(math.pi) * math.gamma(nu / 2) / math.gamma((nu + 1) / 2)
        assert np.trapezoid(np.cos(x) ** (nu - 1), x) / whole == pytest.approx(0.025, abs=2e-4)


# --------------------------------------------------------------------------------------------------
# 4. Tables


def test_the_tables_show_the_numbers_of_the_results(tmp_path):
    """M = 3; exit 1 is taught with weight 1.5 by exit 2 and 1.7 by exit 3, and so on."""
    rows = [("toy", "bilevel", "cross")]
    kd = np.array([[0, 1.5, 1.7], [0.4, 0, 1.6], [0.2, 0.9, 0]])
    for seed, factor in ((0, 0.9), (1, 1.1)):
        weights = {"ce": [1.0, 1.2, 1.4 + seed / 10], "kd": (factor * kd / 2).tolist()}
        for name, x in {"plain": 0.5, "bilevel": 0.6, "cross": 0.8}.items():
            exits, run = [x + seed / 100, x, x], dict(name=name, seed=seed, weights=weights)
            evidence.keep(made_up(exits, [(1.5, 0.5)], **run), tmp_path / "toy.jsonl")
    for table, cells in (
        (evidence.exits_table("toy", tmp_path), "| 2 | 80.5 +- 0.7 | 80.0 +- 0.0 | 80.0 +- 0.0 |"),
        (evidence.exits_table("toy", tmp_path), "| 80.2 +- 0.2 | 0.198 +- 0.002 |\n\nAlways the"),
        (evidence.differences_table(rows, tmp_path), "toy: `cross` - `bilevel` | 2 | **+20.0 ("),
        (evidence.differences_table(rows, tmp_path), " | **-0.200 (-0.200 .. -0.200)** | **+20.0"),
        (evidence.differences_table(rows, tmp_path), "\n\nOf 3 intervals of 95 %, 3 without 0"),
        (evidence.against_table("toy", "cross", ["cross"], tmp_path),
         "| 80.2 +- 0.2 | 1.22 +- 0.02 | 1.05 +- 0.15 | - | - |"),
        (evidence.against_table("toy", "cross", ["bilevel"], tmp_path),
         "| **-20.0 (-20.0 .. -20.0)** | **+0.200 (+0.200 .. +0.200)** |\n"),
        (evidence.leaving_table(tmp_path), "toy, patience | 2 | 80.0 +- 0.0 | 50.0 +- 0.0 | - | "),
    ):  # fmt: skip
        assert cells in table, table


def test_what_stands_in_a_block_is_written_anew_and_the_rest_stays():
    text = "before\n<!-- table: encoder -->\nwrong\n<!-- end -->\nafter"
    assert tables.fill(text) == text.replace("wrong", tables.encoder_table())


# --------------------------------------------------------------------------------------------------
# 5. Two runs side by side


def run_folder(folder, seed=0, exits=(0.6, 0.8), task="rte", lr=1e-3, dev_examples=400):
    """A run folder with a result.json and a config.json, and nothing else."""
    curve = [(2.0, exits[-1]), (1.5, 0.7), (1.0, exits[0])]
    result = made_up(exits, curve, "entropy", seed=seed, task=task, dev_examples=dev_examples)
    write(folder / "result.json", json.dumps(result))
    write(folder / "config.json", json.dumps(dict(task=task, lr=lr, seed=seed, out=str(folder))))
    return folder


def side_by_side(call, *names):
    printed = call(compare_runs.main, *names).stdout
    return [" ".join(line.split()) for line in printed.splitlines()]


def test_one_run_a_side_is_judged_by_the_dev_set(tmp_path, call):
    """0.5 and 0.6 on N examples: the error is sqrt(0.49 / N), 1.96 of it are 0.1 at N = 188."""
    for N, word in ((187, "no  error 5.1"), (189, "yes error 5.1")):
        assert compare_runs.judge([0.5], [0.6], [0.1], "acc", N) == word
    a = run_folder(tmp_path / "a", exits=(0.6, 0.8))
    b = run_folder(tmp_path / "b", exits=(0.6, 0.9), lr=5e-5, seed=3)
    lines = side_by_side(call, a, b)
    assert "they differ in: lr 0.001 | 5e-05" in lines and "train both with" in lines[-1]
    assert "exit 2 80.0 90.0 +10.0 yes error 2.5" in lines
    assert "100 F, the mean loss 30.0 25.0 -5.0 ?" in lines
    assert "entropy, 1.25x 72.0 74.0 +2.0 no error 3.1" in lines  # mean exit 1.6: 0.2 of the way


def test_several_seeds_are_judged_by_their_differences(tmp_path, call):
    """d = 9, 10, 11 points: 10 +- 4.30 / sqrt(3)."""
    for seed, (x, y) in enumerate([(0.80, 0.89), (0.81, 0.91), (0.82, 0.93)]):
        run_folder(tmp_path / f"a-s{seed}", seed, (0.6, x))
        run_folder(tmp_path / f"b-s{seed}", seed, (0.6, y))
    lines = side_by_side(call, tmp_path / "a-s", tmp_path / "b-s")
    assert lines[0].endswith("a-s: 3 run(s), seeds 0 1 2") and "none of the settings" in lines[2]
    assert "exit 2 81.0 +- 1.0 91.0 +- 2.0 +10.0 yes +7.5 .. +12.5" in lines


def test_what_cannot_be_compared_is_an_error_with_its_reason(tmp_path, call):
    a = run_folder(tmp_path / "a")
    for name, seed, lr in (("mixed-s0", 0, 1e-3), ("mixed-s1", 1, 1e-4), ("twice-s0", 0, 1e-3)):
        run_folder(tmp_path / name, seed, lr=lr)
    for other, message in (
        (run_folder(tmp_path / "other", task="sst2"), "not comparable: task rte | sst2"),
        (run_folder(tmp_path / "short", dev_examples=9), "number of dev examples 400 | 9"),
        (tmp_path / "nowhere", "nowhere: no result.json here, nor in a folder whose name"),
        (tmp_path / "mixed-s", "mixed-s: runs of different settings: lr 0.001 | 0.0001"),
        (run_folder(tmp_path / "twice-s0-2").parent / "twice", "twice*: a seed occurs twice"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            side_by_side(call, a, other)


# --------------------------------------------------------------------------------------------------
# 6. The liar: only one teacher lies, only as a teacher, and its weight is read rightly


def test_only_the_liar_as_a_teacher_is_inverted(monkeypatch):
    """Of two classes each gets the other's probability; cross-entropies know nothing of it."""
    torch.manual_seed(0)
    z, labels = torch.randn(3, 5, 2), torch.tensor([0, 1, 1, 0, 1])
    ce, honest = leebert.loss_terms(z, labels)
    monkeypatch.setattr(leebert, "distillation", liar.lying(2))
    lied_ce, kd = leebert.loss_terms(z, labels)
    assert torch.equal(lied_ce, ce) and torch.equal(kd[:, [0, 2]], honest[:, [0, 2]])
    inverted = z[1].softmax(dim=-1)[:, [1, 0]]
    for m in (0, 2):
        expected = kl_div(z[m].log_softmax(dim=-1), inverted, reduction="batchmean")
        torch.testing.assert_close(kd[m, 1], expected)
    judged = leebert.Batches(None, data.Batch(*torch.zeros(3, 5, 1, dtype=torch.long), labels))
    monkeypatch.setattr(leebert, "functional_call", lambda *_: z)
    J = leebert.judge_loss(torch.nn.Linear(1, 1), {}, judged, leebert.Hyper(0.1, lam=0.0))
    torch.testing.assert_close(J, ce.mean())  # the judge is honest


def test_the_weight_of_the_lie_is_the_mean_over_its_students():
    """1 at the uniform sum, whether one exit teaches or all do."""
    for teachers in ("last", "all"):
        w_kd = leebert.LossWeights(6, teachers)()[1].tolist()
        assert liar.of_the_lie(w_kd, 6) == pytest.approx(1)
    w_kd = np.zeros((3, 3))
    w_kd[:2, 2] = 0.2, 0.4
    assert liar.of_the_lie(w_kd, 3) == pytest.approx(0.3)


def test_the_table_and_the_picture(tmp_path, capsys):
    exits = [{"acc": 0.5 + m / 20, "loss": 0.6 - m / 10} for m in range(6)]
    w_ce, w_kd = leebert.LossWeights(6, "last")()
    weights = {"ce": w_ce.tolist(), "kd": w_kd.tolist()}
    log = [{"step": step, "w_ce": weights["ce"], "w_kd": weights["kd"]} for step in (8, 16)]
    runs = dict.fromkeys(liar.METHODS, ({"exits": exits, "weights": weights}, log))
    liar.table(runs, 6)
    rows = capsys.readouterr().out.splitlines()
    assert rows[-1].split() == "cross 0.50 0.55 0.60 0.65 0.70 0.75 0.625 0.350 1.00 1.00".split()
    liar.draw(runs, 6, tmp_path / "liar.png")
    assert (tmp_path / "liar.png").read_bytes().startswith(b"\x89PNG")


def test_a_fifth_of_the_labels_is_wrong():
    honest = {e.text_a: e.label for e in methods.LOAD_TASK("toy").train}
    train_set = methods.with_wrong_labels("toy").train
    assert len(train_set) == 3000 and sum(e.label != honest[e.text_a] for e in train_set) == 600


# --------------------------------------------------------------------------------------------------
# 7. The benchmark


def test_the_benchmark_makes_every_step_after_a_check_and_leaves_at_every_exit(monkeypatch):
    monkeypatch.setitem(leebert.RULES, "shares", benchmark.equal_shares)
    config = dict(vocab_size=50, hidden_size=12, num_hidden_layers=2, num_attention_heads=2)
    errors = benchmark.errors(config, 4, 6)  # which asserts that they are small
    assert len(errors) == 4 and max(errors.values()) > 0
    state = benchmark.problem(config, 4, 6)
    for step in benchmark.STEPS.values():
        before = [p.clone() for p in state[0].parameters()]
        step(state)
        assert any((a != b).any() for a, b in zip(before, state[0].parameters(), strict=True))
    rows = benchmark.exits_of(config, (1, 2), 4, "cpu", 1)
    assert [row["mean_exit"] for row in rows.values()] == [2, 1, 2, 1.5, 1]
