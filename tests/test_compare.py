"""experiments/: methods are what their names say, a run repeated is the same run, each statistic
agrees with a computation of another kind, and two runs can be set side by side.
"""

import copy
import itertools
import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import random_batch, tiny_model

import data
import leebert
import train

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "experiments"))

import compare  # noqa: E402
import compare_runs  # noqa: E402
import evidence  # noqa: E402
import methods  # noqa: E402
import tables  # noqa: E402

TINY = ["--train-examples=96", "--epochs=1", "--batch-size=32", "--omega-every=1"]  # 3 steps


# --------------------------------------------------------------------------------------------------
# 1. Each method is what its name says


def independent_terms(model, batch):
    """Cross-entropies (M,), distillations (M, M), by torch's own functions."""
    z = model(*batch[:3])
    ce = torch.stack([F.cross_entropy(x, batch.labels) for x in z])
    kd = torch.stack([
        torch.stack([F.kl_div(s.log_softmax(-1), t.detach().softmax(-1), reduction="batchmean")
                     for t in z]) for s in z
    ]) * (1 - torch.eye(len(z)))  # fmt: skip
    return ce, kd


@pytest.mark.parametrize("name, loss", [
    ("plain", lambda ce, kd: ce.sum()),
    ("pabee", lambda ce, kd: (1 * ce[0] + 2 * ce[1] + 3 * ce[2]) / 2),  # mean weight 1
    ("last", lambda ce, kd: ce.sum() + kd[0, 2] + kd[1, 2]),
    ("all-uniform", lambda ce, kd: ce.sum() + kd.sum() / 2),
    ("cross", lambda ce, kd: ce.sum() + kd.sum() / 2),  # where it begins
    ("later", lambda ce, kd: ce.sum() + (kd[0, 1] + kd[0, 2]) / 2 + kd[1, 2]),
])  # fmt: skip
def test_theta_descends_the_loss_of_the_method(name, loss):
    """With every term written out, for M = 3."""
    model, batch, config = tiny_model(), random_batch(), compare.config_of(name, "toy", 0)
    weights = leebert.LossWeights(3, config.teachers).double()
    if config.weights == "depth":
        leebert.set_depth_weights(weights)
    terms = leebert.loss_terms(model(*batch[:3]), batch.labels, weights.teachers)
    losses = leebert.objective(*terms, *weights()), loss(*independent_terms(model, batch))
    found, expected = (
        torch.autograd.grad(L, list(model.parameters()), materialize_grads=True) for L in losses
    )
    torch.testing.assert_close(found, expected)


FIRST = (("bert", "exits.2"), lambda ce, kd: ce[2])
OTHERS = ("exits.0", "exits.1")


@pytest.mark.parametrize("name, steps", [
    ("one-exit", [FIRST] * 5),
    ("deebert", [FIRST] * 2 + [(OTHERS, lambda ce, kd: ce[0] + ce[1])] * 3),
    ("fastbert", [FIRST] * 2 + [(OTHERS, lambda ce, kd: kd[0, 2] + kd[1, 2])] * 3),
    ("berxit", [FIRST, (("bert", "exits"), lambda ce, kd: ce.sum())] * 2 + [FIRST]),
])  # fmt: skip
def test_what_moves_in_which_step_and_along_which_loss(name, steps, monkeypatch):
    """Five steps of gradient descent of length 0.1; all else stays, bit for bit, and Omega too."""
    batch, config = random_batch(), compare.config_of(name, "toy", 0)

    def loop(config, model, loss_weights, encoded):
        optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (model, loss_weights)]
        hyper, batches = leebert.Hyper(xi=0.1, max_norm=math.inf), leebert.Batches(batch)
        for moves, loss in steps:
            old = copy.deepcopy(model).requires_grad_(True)
            L = loss(*independent_terms(old, batch))
            g = torch.autograd.grad(L, list(old.parameters()), materialize_grads=True)
            train.training_step(model, loss_weights, optimizers, batches, hyper, "fixed")
            for (key, new), before, slope in zip(
                model.named_parameters(), old.parameters(), g, strict=True
            ):
                if key.startswith(moves):
                    torch.testing.assert_close(new, before - 0.1 * slope)
                else:
                    assert torch.equal(new, before), key

    monkeypatch.setattr(methods, "TRAIN", loop)
    weights = leebert.LossWeights(3, config.teachers).double()
    encoded = SimpleNamespace(labels=range(5 * 64))
    methods.METHODS[name].patches["train.train"](config, tiny_model(), weights, encoded)
    assert not weights.ce.any() and not weights.kd.any()


def test_the_learning_rate_of_two_stages_rises_and_falls_in_each():
    config = train.Config(lr=0.5, warmup=0.2)
    stage = [train.learning_rate(step, 10, config) for step in range(10)]
    assert [methods.rate_of_each_half(step, 20, config) for step in range(20)] == 2 * stage
    assert methods.rate_of_each_half(9, 19, config) == stage[0]  # 9 steps, and then 10


@pytest.mark.parametrize("name", ["jsd", "mse"])
def test_other_forms_of_distillation(name):
    """One pair by the definition, and the gradient reaches the student alone."""
    form = methods.CHOICES[name].patches["leebert.distillation"]
    z = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    p = (z / 2).softmax(-1)
    r = (p[0] + p[1]) / 2

    def kl(a, b):
        return 4 * (a * (a / b).log()).sum() / 5  # tau^2, mean over 5 examples

    expected = {"jsd": (kl(p[0], r) + kl(p[1], r)) / 2, "mse": ((z[0] - z[1]) ** 2).sum() / 15}
    found = form(z, z, 2.0)[0, 1]
    torch.testing.assert_close(found, expected[name])
    slopes = torch.autograd.grad(found, z)[0].abs().sum(dim=(1, 2))
    assert slopes[0] > 0 and slopes[1] == 0


def test_softmax_weights_begin_uniform_and_keep_their_sum():
    weights = leebert.LossWeights(4, "later").double()
    for a, b in zip(methods.softmax_weights(weights), weights(), strict=True):
        torch.testing.assert_close(a, b)
    with torch.no_grad():
        weights.ce.normal_()
        weights.kd.normal_()
    w_ce, w_kd = methods.softmax_weights(weights)
    assert (w_ce.sum() + w_kd.sum()).item() == pytest.approx(4 + 3)
    ce = weights.ce.detach()
    assert (w_ce[1] / w_ce[0]).item() == pytest.approx((ce[1] - ce[0]).exp().item())
    assert w_kd.tril().abs().sum() == 0


def test_rows_that_contain_one_another_stay_on_one_side(monkeypatch):
    """0, 1 and 2 are joined by 1, and 4 and 5 are the same; four tokens in common join nobody."""
    texts = "1234567 23456 923456 1234 67890 67890 81234".split()
    rows = [tuple(map(int, text)) for text in texts]
    family = methods.families(rows)
    assert [list(family).index(x) for x in family] == [0, 0, 0, 3, 4, 4, 6]
    labels = np.zeros(7, dtype=int)

    def cut(config, encoded, step, device):
        yield data.split_train(labels, 0.5, np.random.default_rng(config))

    monkeypatch.setattr(methods, "MAKE_BATCHES", cut)
    encoded, sides = SimpleNamespace(input_ids=[[101, *row, 102] for row in rows]), set()
    for seed in range(20):
        d1, d2 = next(methods.batches_by_sentence(seed, encoded, 0, "cpu"))
        assert not set(family[d1]) & set(family[d2]) and sorted([*d1, *d2]) == list(range(7))
        assert len(d2) <= 3.5
        sides.add(tuple(d2))
    assert len(sides) > 3


def test_families_are_all_that_hangs_together_by_steps_of_containment():
    """Against squaring the matrix of "contains", on 300 random words of 1 to 9 letters."""
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abc"), rng.integers(1, 10))) for _ in range(300)]
    joined = np.array([[len(b) >= 5 and b in a or a is b for b in words] for a in words])
    joined = joined | joined.T
    for _ in range(9):
        joined = joined @ joined
    family = methods.families(words)
    assert np.array_equal(family[:, None] == family, joined) and len(set(family)) < 280


@pytest.mark.slow
def test_runs_have_the_batches_and_the_number_of_steps_that_methods_count_on(monkeypatch):
    """all-uniform-d1 has the batches of cross, and 1 of 3 steps of DeeBERT is of its first half."""
    seen, step, weights = {}, leebert.training_step, {}
    for name in ("cross", "all-uniform-d1", "deebert"):
        calls = seen[name] = []

        def spy(model, *args, calls=calls):
            calls.append((args[2].d1.input_ids, model.bert.layers[0].ffn_in.weight.requires_grad))
            return step(model, *args)

        monkeypatch.setattr(leebert, "training_step", spy)
        monkeypatch.setattr(train, "training_step", spy)
        weights[name] = compare.one_run(name, "toy", 3, TINY)[0]["weights"]
    batches = {name: [ids for ids, _ in calls] for name, calls in seen.items()}
    assert all(map(torch.equal, batches["cross"], batches["all-uniform-d1"]))
    assert weights["all-uniform-d1"]["ce"] == [1] * 6 != weights["cross"]["ce"]
    assert [moves for _, moves in seen["deebert"]] == [True, False, False]
    assert weights["deebert"]["ce"] == [1] * 5 + [0]  # of its last step


# --------------------------------------------------------------------------------------------------
# 2. Runs


def test_every_method_and_choice_has_settings_that_train_accepts():
    configs = {name: compare.config_of(name, "toy", 0) for name in compare.EVERYTHING}
    assert {config.epochs for config in configs.values()} == {1}  # so, as many updates
    assert compare.config_of("cross", "rte", 2, ["--lr=3e-4"]).lr == 3e-4
    for name in ("single", "bilevel", "cross"):
        assert train.optimize_of(configs[name]) == name


def test_only_missing_runs_are_made_and_choices_last(tmp_path):
    jobs = compare.plan("toy", range(10))
    assert len(set(jobs)) == len(jobs) == 10 * len(methods.METHODS) + 5 * len(methods.CHOICES)
    assert compare.plan("rte", range(100, 101)) == [(name, 100) for name in methods.METHODS]
    settings = compare.settings_of(compare.config_of("last", "toy", 0))
    run = {"name": "last", "seed": 0, "settings": settings}
    evidence.keep(run, evidence.runs_file("toy", tmp_path))
    jobs = compare.plan("toy", range(2), ["jsd", "last", "cross"])
    names = [name for name, _ in compare.missing(jobs, "toy", tmp_path, [])]
    assert names == "cross last cross jsd jsd".split()
    with pytest.raises(ValueError, match="last, seed 0, was made with weight_decay 0.01, not 0.5"):
        compare.missing(jobs, "toy", tmp_path, ["--weight-decay=0.5"])


@pytest.mark.slow
def test_a_run_repeated_gives_the_same_line_and_a_finished_one_is_left_alone(tmp_path):
    def command(folder, *names):
        run = f"--task toy --seeds 1 --workers 2 --only {' '.join(names)} --results".split()
        script = [sys.executable, ROOT / "experiments" / "compare.py"]
        return subprocess.run([*script, *run, folder, "--", *TINY], capture_output=True, text=True)

    done = command(tmp_path / "one", "cross", "plain")
    assert "2/2  " in done.stdout and "cross, seed 0: trained" in done.stdout, done.stderr
    command(tmp_path / "two", "plain")
    assert "2 runs, 1 of them done" in command(tmp_path / "two", "cross", "plain").stdout
    one, two = ((tmp_path / folder / "toy.jsonl").read_bytes() for folder in ("one", "two"))
    assert one == two and one.count(b"\n") == 2
    runs = evidence.all_runs(tmp_path / "one" / "toy.jsonl")
    assert list(runs) == [("cross", 0), ("plain", 0)]
    assert runs["cross", 0]["settings"]["train_examples"] == 96


def test_a_run_takes_its_place_among_the_others_or_that_of_its_older_self(tmp_path):
    path = tmp_path / "toy.jsonl"
    for name, seed, x in (("b", 10, 0), ("b", 9, 0), ("a", 3, 0), ("b", 10, 1)):
        evidence.keep({"name": name, "seed": seed, "x": x}, path)
    found = [(*key, run["x"]) for key, run in evidence.all_runs(path).items()]
    assert found == [("a", 3, 0), ("b", 9, 0), ("b", 10, 1)]
    path.write_text('{"name": "a", "seed": 3}\n{"name": ')
    with pytest.raises(ValueError, match="toy.jsonl, line 2: not a result"):
        evidence.load("toy", "a", tmp_path)


# --------------------------------------------------------------------------------------------------
# 3. Numbers


def made_up(folder, task, name, seed, exits, sweep=(), **more):
    run = dict(name=name, metric="acc", majority={"acc": 0.51}, seed=seed, device="cpu") | more
    run["exits"] = [{"exit": m, "acc": x} for m, x in enumerate(exits, 1)]
    run["sweep"] = [{"rule": "patience", "mean_exit": e, "acc": x} for e, x in sweep]
    evidence.keep(run, evidence.runs_file(task, folder))
    return run


def test_equal_speedup_lies_on_the_line_between_two_thresholds(tmp_path):
    run = made_up(tmp_path, "toy", "pabee", 0, [0.5, 0.5, 0.5, 0.9], [(1.5, 0.70), (3.0, 0.80)])
    at = [evidence.at_speedup(run, "patience", s) for s in (2, 1, 1.25)]
    assert at == pytest.approx([0.7 + 0.1 * (2.0 - 1.5) / 1.5, 0.9, 0.8 + 0.1 * 0.2])  # to 4
    assert math.isnan(evidence.at_speedup(run, "patience", 3))  # no threshold leaves so early


def test_over_the_mix_is_over_every_coin_between_two_exits(tmp_path):
    """The best mix, by trying all pairs of exits; exit 2 is below the line from 1 to 3."""
    exits = [0.5, 0.55, 0.8, 0.9]
    best = [max(a + (b - a) * (k - i) / max(j - i, 1)
                for (i, a), (j, b) in itertools.product(enumerate(exits), repeat=2) if i <= k <= j)
            for k in range(4)]  # fmt: skip
    assert best == pytest.approx([0.5, 0.65, 0.8, 0.9])
    run = made_up(tmp_path, "toy", "plain", 0, exits, [(1.6, 0.7), (3.0, 0.85)])
    assert math.isnan(evidence.over_mix(run, "patience", 2))  # an older result
    run["sweep"] += [{"rule": "always", "mean_exit": k + 1.0, "acc": x, "over_mix": x - best[k]}
                     for k, x in enumerate(exits)]  # fmt: skip
    at = 0.7 + 0.15 * (2 - 1.6) / 1.4  # of the rule, at mean exit 2
    assert evidence.over_mix(run, "patience", 2) == pytest.approx(at - 0.65)
    assert evidence.over_mix(run, "patience", 4 / 3.5) == pytest.approx(0.025)  # 0.875 - 0.85


def test_spread_counts_the_runs_that_have_the_number():
    assert evidence.spread([0.7, 0.8, math.nan]) == "75.0 +- 7.1 (n = 2)"
    assert [evidence.spread(x) for x in ([0.9], [math.nan])] == ["90.0", "-"]


def test_a_difference_is_paired_by_seed_and_has_students_interval():
    """d = 1, 2, 3 percent: mean 2, std 1, t(2) = 4.30, so 2 +- 4.30 / sqrt(3)."""
    a = [{"seed": seed, "x": 0.5 + seed / 10} for seed in (2, 0, 1)]
    b = [{"seed": seed, "x": 0.5 + seed / 10 + (seed + 1) / 100} for seed in (0, 1, 2, 3)]
    d = np.array(evidence.paired(a, b, lambda run: run["x"]))
    assert evidence.interval(d) == "+2.0 (-0.5 .. +4.5)"
    assert evidence.interval(d + 0.02) == "**+4.0 (+1.5 .. +6.5)**"
    assert evidence.interval(-d - 0.02, 1, 3) == "**-0.040 (-0.065 .. -0.015)**"
    assert [evidence.interval(x) for x in ([0.05], [], [0, 0])] == ["+5.0", "-", "+0.0"]
    for nu, t in enumerate(evidence.T975, 1):  # the area under Student's density, beyond t
        x = np.linspace(math.atan(t / math.sqrt(nu)), math.pi / 2, 10_001)
        whole = math.sqrt(math.pi) * math.gamma(nu / 2) / math.gamma((nu + 1) / 2)
        assert np.trapezoid(np.cos(x) ** (nu - 1), x) / whole == pytest.approx(0.025, abs=2e-4)


# --------------------------------------------------------------------------------------------------
# 4. Tables


def test_the_tables_show_the_numbers_of_the_results(tmp_path):
    """M = 3; exit 1 is taught with weight 1.5 by exit 2 and 1.7 by exit 3, and so on."""
    assert evidence.differences_table(1, tmp_path).startswith("No runs yet")
    kd = np.array([[0, 1.5, 1.7], [0.4, 0, 1.6], [0.2, 0.9, 0]])
    for seed, factor in ((0, 0.9), (1, 1.1)):
        weights = {"ce": [1.0, 1.2, 1.4 + seed / 10], "kd": (factor * kd / 2).tolist()}
        for name, x in dict(plain=0.5, bilevel=0.6, cross=0.8, jsd=0.9).items():
            run = made_up(tmp_path, "toy", name, seed, [x + seed / 100, x, x], [(1.5, 0.5)],
                          weights=weights)  # fmt: skip
            if name != "plain":  # an older result
                for row in run["exits"]:
                    row["loss"] = x + row["exit"] / 10
                evidence.keep(run, evidence.runs_file("toy", tmp_path))
    exits = evidence.exits_table("toy", tmp_path)
    assert "| 2 | 80.5 +- 0.7 | 80.0 +- 0.0 | 80.0 +- 0.0 | 80.2 +- 0.2 | 1.000 +- 0.000 |" in exits
    assert "| 50.2 +- 0.2 | - |" in exits and "class: 51.0. On cpu. `python" in exits
    differences = evidence.differences_table(3, tmp_path)
    cells = "`cross` - `bilevel` | toy | 2 | **+20.0 (+20.0 .. +20.0)** | **+0.200 (+0.200 .. +0.2"
    assert cells in differences
    assert "3 intervals of 95 %, of which 3 exclude 0 (bold)." in differences
    choices = evidence.choices_table("toy", tmp_path)
    assert "| **-20.0 (-20.0 .. -20.0)** | **-0.200 (-0.200 .. -0.200)** |\n" in choices  # bilevel
    assert "| **+10.0 (+10.0 .. +10.0)** | **+0.100 (+0.100 .. +0.100)** |\n" in choices  # jsd
    leaving = evidence.leaving_table("toy", tmp_path)
    assert "cross | patience | 2 | 60.0 +- 0.0 | 50.0 +- 0.0 | - | - | - | - |" in leaving
    words = "| 2 | 1.22 +- 0.02 | 1.60 +- 0.23 | 0.50 +- 0.07 | 0.30 +- 0.04 | 1.65 +- 0.23 |"
    assert words in evidence.weights_table(tmp_path)
    headline = evidence.headline_table(tmp_path)
    assert "| 50.5 +- 0.7 | 50.0 +- 0.0 | - |" in headline
    assert "| 80.5 +- 0.7 | 80.0 +- 0.0 | **+30.0 (+30.0 .. +30.0)** |" in headline


def test_what_stands_in_a_block_is_written_anew_and_the_rest_stays():
    text = "before\n<!-- table: exit -->\nwrong\n<!-- end -->\nafter"
    assert tables.fill(text) == text.replace("wrong", tables.exit_table())


# --------------------------------------------------------------------------------------------------
# 5. Two runs side by side


def run_folder(folder, seed=0, exits=(0.6, 0.8), dev=400, task="rte", **settings):
    """A run folder with a result.json and a config.json, and nothing else."""
    folder.mkdir(parents=True)
    curve = [(2.0, exits[-1]), (1.5, 0.7), (1.0, exits[0])]
    result = {"task": task, "seed": seed, "metric": "acc", "dev_examples": dev}
    result["exits"] = [{"exit": m, "acc": x, "loss": 1 - x} for m, x in enumerate(exits, 1)]
    result["sweep"] = [{"rule": "entropy", "acc": x, "mean_exit": e} for e, x in curve]
    (folder / "result.json").write_text(json.dumps(result))
    config = {"task": task, "lr": 1e-3, "seed": seed, "out": str(folder), **settings}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def side_by_side(monkeypatch, capsys, *names):
    monkeypatch.setattr(sys, "argv", ["compare_runs.py", *map(str, names)])
    compare_runs.main()
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


def test_one_run_a_side_is_judged_by_the_dev_set(tmp_path, monkeypatch, capsys):
    """0.5 and 0.6 on N examples: the error is sqrt(0.49 / N), 1.96 of it are 0.1 at N = 188."""
    for N, word in ((187, "no  error 5.1"), (189, "yes error 5.1")):
        assert compare_runs.judge([0.5], [0.6], [0.1], "acc", N) == word
    a = run_folder(tmp_path / "a", exits=(0.6, 0.8))
    b = run_folder(tmp_path / "b", exits=(0.6, 0.9), lr=5e-5, seed=3)
    lines = side_by_side(monkeypatch, capsys, a, b)
    assert "they differ in: lr 0.001 | 5e-05" in lines and "train both with" in lines[-1]
    assert "exit 1 60.0 60.0 +0.0 no error 3.5" in lines
    assert "exit 2 80.0 90.0 +10.0 yes error 2.5" in lines
    assert "100 F, the mean loss 30.0 25.0 -5.0 ?" in lines
    assert "entropy, 1.25x 72.0 74.0 +2.0 no error 3.1" in lines  # mean exit 1.6: 0.2 of the way


def test_several_seeds_are_judged_by_their_differences(tmp_path, monkeypatch, capsys):
    """d = 9, 10, 11 points: 10 +- 4.30 / sqrt(3)."""
    for seed, (x, y) in enumerate([(0.80, 0.89), (0.81, 0.91), (0.82, 0.93)]):
        run_folder(tmp_path / f"a-s{seed}", seed, (0.6, x))
        run_folder(tmp_path / f"b-s{seed}", seed, (0.6, y))
    lines = side_by_side(monkeypatch, capsys, tmp_path / "a-s", tmp_path / "b-s")
    assert lines[0].endswith("a-s: 3 run(s), seeds 0 1 2") and "none of the settings" in lines[2]
    assert "exit 1 60.0 +- 0.0 60.0 +- 0.0 +0.0 no +0.0 .. +0.0" in lines
    assert "exit 2 81.0 +- 1.0 91.0 +- 2.0 +10.0 yes +7.5 .. +12.5" in lines


def test_what_cannot_be_compared_is_an_error_with_its_reason(tmp_path, monkeypatch, capsys):
    a = run_folder(tmp_path / "a")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "result.json").write_text("{")
    for name, seed, lr in (
        ("mixed-s0", 0, 1e-3), ("mixed-s1", 1, 1e-4), ("twice-s0", 0, 1e-3), ("twice-s0-2", 0, 1e-3)
    ):  # fmt: skip
        run_folder(tmp_path / name, seed, lr=lr)
    for other, message in (
        (run_folder(tmp_path / "other", task="sst2"), "not comparable: task rte | sst2"),
        (run_folder(tmp_path / "short", dev=9), "number of dev examples 400 | 9"),
        (run_folder(tmp_path / "deep", exits=(0.5,) * 3), "number of exits 2 | 3"),
        (run_folder(tmp_path / "own", dev_file="x.tsv"), "dev file None | x.tsv"),
        (tmp_path / "nowhere", "nowhere: no result.json here, nor in a folder whose name"),
        (tmp_path / "broken", "result.json: not a result"),
        (tmp_path / "mixed-s", "mixed-s: runs of different settings: lr 0.001 | 0.0001"),
        (tmp_path / "twice", r"twice\*: a seed occurs twice: \[0, 0\]; move one"),
    ):
        with pytest.raises(ValueError, match=message.replace("|", r"\|")):
            side_by_side(monkeypatch, capsys, a, other)
