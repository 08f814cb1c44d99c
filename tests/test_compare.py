"""experiments/compare.py: each method is what its name says, and a run repeated is the same run."""

import itertools
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import random_batch, tiny_model

import leebert
import train

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "experiments"))

import compare  # noqa: E402
import evidence  # noqa: E402
import methods  # noqa: E402
import tables  # noqa: E402

TINY = ["--train-examples=96", "--epochs=1"]  # 3 steps of the toy task


def weights_of(name, M=3, results=None, seed=0):
    """The loss weights that a run of the method begins with."""
    method = methods.METHODS[name]
    job = methods.Job(train.Config(seed=seed, **method.settings), results, {})
    with methods.changed(method.changes, job):
        return train.LossWeights(M, job.config.teachers).double()


def trained(name, tmp_path, monkeypatch, seed=0):
    """A tiny run of a method -> model before, model after, the Config of the run."""
    kept = []
    prepare = train.prepare

    def keep(config):
        task, tokenizer, model = prepare(config)
        task.dev = task.dev[:40]
        kept.extend([{k: v.clone() for k, v in model.state_dict().items()}, model, config])
        return task, tokenizer, model

    monkeypatch.setattr(train, "prepare", keep)
    monkeypatch.setattr(methods, "PROBES", 1)
    compare.one_run(name, "toy", seed, tmp_path, TINY)
    monkeypatch.setattr(train, "prepare", prepare)
    return kept[0], kept[1].state_dict(), kept[2]


# --------------------------------------------------------------------------------------------------
# Each method is what its name says


def gradient(loss, model):
    return torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True)


@pytest.mark.parametrize("name, loss", [
    ("last", lambda ce, kd: ce[2]),
    ("none-uniform", lambda ce, kd: ce.sum()),
    ("pabee", lambda ce, kd: (1 * ce[0] + 2 * ce[1] + 3 * ce[2]) / 2),  # mean weight 1
    ("fastbert", lambda ce, kd: ce.sum() + kd[0, 2] + kd[1, 2]),
    ("later-uniform", lambda ce, kd: ce.sum() + (kd[0, 1] + kd[0, 2]) / 2 + kd[1, 2]),
    ("all-uniform", lambda ce, kd: ce.sum() + kd.sum() / 2),
    ("all-cross", lambda ce, kd: ce.sum() + kd.sum() / 2),  # where it begins
])  # fmt: skip
def test_theta_descends_the_loss_of_the_method(name, loss):
    """With every term written out, from independent formulas, for M = 3."""
    model, batch = tiny_model(), random_batch()
    weights = weights_of(name)
    if methods.METHODS[name].settings.get("weights") == "depth":
        leebert.set_depth_weights(weights)
    terms = leebert.loss_terms(model(*batch[:3]), batch.labels, weights.teachers)
    found = gradient(leebert.objective(*terms, *weights()), model)
    z = model(batch.input_ids, batch.token_type_ids, batch.attention_mask)
    ce = torch.stack([F.cross_entropy(x, batch.labels) for x in z])
    kd = torch.stack([
        torch.stack([F.kl_div(s.log_softmax(-1), t.detach().softmax(-1), reduction="batchmean")
                     for t in z]) for s in z
    ])  # fmt: skip
    kd = kd * (1 - torch.eye(3))
    for a, b in zip(found, gradient(loss(ce, kd), model), strict=True):
        torch.testing.assert_close(a, b)


def test_cut_after_k_is_a_model_of_k_layers(monkeypatch):
    """The first exits of the whole model, and no tensor more."""
    model, batch = tiny_model(layers=3), random_batch()
    whole = model(*batch[:3])
    number = sum(
        p.numel() for p in [*model.bert.layers[2].parameters(), *model.exits[2].parameters()]
    )
    all_of_it = sum(p.numel() for p in model.parameters())
    original = lambda config: ("task", "tokenizer", model)  # noqa: E731
    monkeypatch.setattr(train, "prepare", original)
    with methods.changed([methods.cut_after(2)], None):
        _, _, cut = train.prepare(None)
    assert torch.equal(cut(*batch[:3]), whole[:2]) and cut.bert.config.num_hidden_layers == 2
    assert sum(p.numel() for p in cut.parameters()) == all_of_it - number


@pytest.mark.slow
def test_deebert_freezes_encoder_and_last_exit(tmp_path, monkeypatch):
    """After stage 2 they are bit by bit those of the reference; the other exits have moved."""
    before, last, _ = trained("last", tmp_path, monkeypatch)
    _, deebert, _ = trained("deebert", tmp_path, monkeypatch)
    for key in last:
        other_exit = key.startswith("exits.") and not key.startswith("exits.5.")
        assert torch.equal(last[key], deebert[key]) != other_exit, key
    matrices = [key for key in last if "layers" in key and last[key].dim() == 2]
    assert matrices and not any(torch.equal(before[key], last[key]) for key in matrices)


def test_the_second_stage_has_a_learning_rate_of_its_own(monkeypatch):
    rates = []
    monkeypatch.setattr(train, "train", lambda config, *rest: rates.append(config.lr) or 1.0)
    with methods.changed([methods.two_stages], None):
        train.train(train.Config(lr=0.1), tiny_model(), leebert.LossWeights(3), None)
    assert rates == [0.1, compare.config_of("all-cross", "toy", 0).lr]


def test_the_second_stage_sees_the_same_logits():
    model, batch = tiny_model(), random_batch()
    assert torch.equal(methods.OtherExits(model)(*batch[:3]), model(*batch[:3]))
    names = [name for name, _ in methods.OtherExits(model).named_parameters()]
    assert names == ["exits.0.weight", "exits.0.bias", "exits.1.weight", "exits.1.bias"]


def test_berxit_alternates(monkeypatch):
    seen = []
    monkeypatch.setattr(train, "training_step", lambda model, w: seen.append(w()[0].tolist()))
    with methods.changed([methods.alternating], None):
        weights = leebert.LossWeights(3, "none")
        for _ in range(4):
            train.training_step(None, weights)
    assert seen == [[0, 0, 1], [1, 1, 1]] * 2


def test_the_steps_own_batch_judges(monkeypatch):
    """n = 2 of the 5 rows, evenly spaced: the first and the third."""
    d1, again, seen = random_batch(B=5, seed=1), random_batch(B=2, seed=2), []
    monkeypatch.setattr(train, "training_step", lambda *args, **options: seen.append(args[6]))
    with methods.changed([methods.judged_by_its_own_batch], None):
        train.training_step(None, None, None, None, d1, None, again, optimize="cross")
    assert torch.equal(seen[0].input_ids, d1.input_ids[[0, 2]])


def test_dropout_when_the_weights_are_judged():
    """As `judge_loss` does without dropout; with it, another number, and the mode is put back."""
    model, d2 = tiny_model(dropout=0.5).train(), random_batch()
    theta = dict(model.named_parameters())
    for judge, same in ((leebert.judge_loss, True), (methods.judged_with_dropout, False)):
        a, b = (judge(model, theta, d2, None, 0.0).item() for _ in range(2))
        assert (a == b) == same and model.training


@pytest.mark.slow
def test_frozen_begins_and_stays_where_cross_has_ended(tmp_path, monkeypatch):
    trained("all-cross", tmp_path, monkeypatch, seed=3)
    end = json.loads((tmp_path / "toy" / "all-cross-s3.json").read_text())["weights"]
    w_ce, w_kd = weights_of("all-frozen-d1", M=6, results=tmp_path / "toy", seed=3)()
    assert w_ce.tolist() == pytest.approx(end["ce"]) and end["ce"] != [1] * 6
    assert w_kd.flatten().tolist() == pytest.approx(sum(end["kd"], []))
    trained("all-frozen-d1", tmp_path, monkeypatch, seed=3)
    after = json.loads((tmp_path / "toy" / "all-frozen-d1-s3.json").read_text())["weights"]
    assert after["ce"] == pytest.approx(end["ce"])


@pytest.mark.slow
def test_without_d2_it_sees_the_batches_of_cross(tmp_path, monkeypatch):
    """all-uniform-d1 is paired with all-cross: d1 in the same order."""
    seen = {}
    step = train.training_step
    for name in ("all-cross", "all-uniform-d1", "all-uniform"):
        ids = seen[name] = []

        def spy(*args, ids=ids, **options):
            ids.append(args[4].input_ids)  # d1
            return step(*args, **options)

        monkeypatch.setattr(train, "training_step", spy)
        trained(name, tmp_path, monkeypatch)
    same = [all(map(torch.equal, seen["all-cross"], seen[n])) for n in list(seen)[1:]
            if [x.shape for x in seen[n]] == [x.shape for x in seen["all-cross"]]]  # fmt: skip
    assert same[0] and not any(same[1:])


@pytest.mark.parametrize("name", ["jsd", "mse", "attached"])
def test_other_forms_of_distillation(name):
    """One pair by the definition, and which side its gradient reaches."""
    form = {"jsd": methods.jensen_shannon, "mse": methods.squared_error,
            "attached": methods.attached}[name]  # fmt: skip
    z = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    p = (z / 2).softmax(-1)
    r = (p[0] + p[1]) / 2

    def kl(a, b):
        return 4 * (a * (a / b).log()).sum() / 5  # tau^2, mean over 5 examples

    expected = {"jsd": (kl(p[0], r) + kl(p[1], r)) / 2, "mse": ((z[0] - z[1]) ** 2).sum() / 15,
                "attached": kl(p[1], p[0])}[name]  # fmt: skip
    found = form(z, z, 2.0)[0, 1]
    torch.testing.assert_close(found, expected)
    slopes = torch.autograd.grad(found, z)[0].abs().sum(dim=(1, 2))
    assert slopes[0] > 0 and (slopes[1] > 0) == (name == "attached")


def test_softmax_weights_begin_uniform_and_keep_their_sum():
    weights = leebert.LossWeights(4, "later").double()
    uniform = weights()
    for a, b in zip(methods.softmax_weights(weights), uniform, strict=True):
        torch.testing.assert_close(a, b)
    with torch.no_grad():
        weights.ce.normal_()
        weights.kd.normal_()
    w_ce, w_kd = methods.softmax_weights(weights)
    assert (w_ce.sum() + w_kd.sum()).item() == pytest.approx(4 + 3)
    ce = weights.ce.detach()
    assert (w_ce[1] / w_ce[0]).item() == pytest.approx((ce[1] - ce[0]).exp().item())
    assert w_kd.tril().abs().sum() == 0


def test_alignment_is_the_hypergradient_without_the_lengths():
    """< v, grad l_k > = cos ||v|| ||grad l_k||, and dJ/dw_k = -xi < v, grad l_k >."""
    model = tiny_model()
    d1, d2, again = (random_batch(seed=seed) for seed in (1, 2, 3))
    weights, xi = leebert.LossWeights(3).double(), 0.1
    ce, kd = methods.alignment(model, weights, d1, d2, again, xi, 0.7)
    hyper = leebert.hypergradient(model, weights, d1, d2, xi, 0.7, again=again)
    terms = leebert.loss_terms(model(*d1[:3]), d1.labels)
    g = gradient(leebert.objective(*terms, *weights()), model)
    named = zip(model.named_parameters(), g, strict=True)
    ahead = {n: (p - xi * x).detach().requires_grad_() for (n, p), x in named}
    J = leebert.judge_loss(model, ahead, d2, again, 0.7)
    v = methods.flat(torch.autograd.grad(J, list(ahead.values())))
    for m in range(3):
        length = methods.flat(gradient(leebert.loss_terms(model(*d1[:3]), d1.labels)[0][m], model))
        # dw_m / dOmega_m = 2 * 1/4 at Omega = 0
        expected = float(ce[m] * v.norm() * length.norm())
        assert float(-2 * hyper[0][m] / xi) == pytest.approx(expected)
    assert kd.diagonal().tolist() == [0, 0, 0] and kd.abs().max() > 0.01


def test_every_method_and_choice_has_settings_that_train_accepts():
    for name in [*methods.METHODS, *methods.CHOICES]:
        config = compare.config_of(name, "toy", 0)
        assert config.epochs == (3 if name.endswith("-long") else 2 if "redraw" in name else 1)
    assert compare.config_of("all-cross", "rte", 2, ["--lr=1e-4"]).lr == 1e-4
    kinds = {train.optimize_of(compare.config_of(f"all-{k}", "toy", 0))
             for k in ("single", "bilevel", "cross", "uniform")}  # fmt: skip
    assert kinds == {"single", "bilevel", "cross", "fixed"}


# --------------------------------------------------------------------------------------------------
# Runs


def command(*args):
    return subprocess.run(
        [sys.executable, ROOT / "experiments" / "compare.py", *map(str, args)],
        capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.slow
def test_a_run_repeated_gives_the_same_file_and_a_finished_one_is_left_alone(tmp_path):
    run = ["--task", "toy", "--seeds", "1", "--only", "all-cross", "--results"]
    for folder in ("one", "two"):
        done = command(*run, tmp_path / folder, "--", *TINY)
        assert "1/1  all-cross, seed 0: trained" in done.stdout, done.stderr
    one, two = (tmp_path / folder / "toy" / "all-cross-s0.json" for folder in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    result = json.loads(one.read_text())
    assert len(one.read_bytes()) < 20_000 and result["settings"]["train_examples"] == 96
    assert [p["step"] for p in result["alignment"]] == [0, 1, 2] and len(result["course"]) == 1
    clock = evidence.clocks("toy", tmp_path / "one")["all-cross", 0]
    assert clock["seconds"] > 0 and len(clock["speedup_wall"]) == len(result["sweep"])
    before = one.stat().st_mtime_ns
    done = command(*run, tmp_path / "one", "--", *TINY)
    assert "1 runs, 1 of them there" in done.stdout and one.stat().st_mtime_ns == before
    done = command(*run, tmp_path / "one", "--", *TINY, "--weight-decay=0.5")
    assert done.returncode == 2 and "made with weight_decay 0.01, not 0.5" in done.stderr
    assert done.stderr.count("\n") == 1
    done = command("--write-tables", "--results", tmp_path / "one")
    assert done.returncode == 2 and "--write-tables writes what" in done.stderr


def test_only_what_is_missing_is_run_and_who_needs_another_comes_last(tmp_path):
    done = tmp_path / "toy" / "last-s0.json"
    done.parent.mkdir()
    settings = compare.settings_of(compare.config_of("last", "toy", 0))
    done.write_text(json.dumps({"settings": settings}))
    jobs = compare.plan("toy", 2, ["jsd", "all-frozen-d1", "all-uniform-long", "last", "all-cross"])
    names = [name for name, _ in compare.to_do(jobs, "toy", tmp_path, [])]
    assert names == ["all-cross", "last", "all-cross", "all-frozen-d1", "all-frozen-d1",
                     "all-uniform-long", "all-uniform-long", "jsd", "jsd"]  # fmt: skip


def test_a_plan_has_every_method_for_every_seed():
    jobs = compare.plan("toy", 2)
    assert len(set(jobs)) == len(jobs) == 2 * (len(methods.METHODS) + len(methods.CHOICES))
    assert [name for name, _ in compare.plan("rte", 1)] == list(methods.REAL)
    for task, more in methods.MORE.items():
        assert [name for name, _ in compare.plan(task, 1)] == [*methods.REAL, *more]
    assert compare.plan("cola", 2, ["pabee"]) == [("pabee", 0), ("pabee", 1)]


# --------------------------------------------------------------------------------------------------
# Numbers and tables


def made_up(folder, task, name, seed, exits, sweep=()):
    run = {"metric": "acc", "majority": {"acc": 0.51}, "seed": seed}
    run["exits"] = [{"exit": m, "acc": x} for m, x in enumerate(exits, 1)]
    run["sweep"] = [{"rule": "patience", "mean_exit": e, "acc": x} for e, x in sweep]
    path = Path(folder) / task / f"{name}-s{seed}.json"
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(json.dumps(run))
    clock = {"name": name, "seed": seed, "seconds": 7, "speedup_wall": []}
    with open(path.parent / "clocks.jsonl", "a") as clocks:
        clocks.write(json.dumps(clock) + "\n")
    return run


def test_area_of_a_curve_whose_area_is_known(tmp_path):
    """M = 4, 0.9 at full depth, 0.7 from mean exit 2 down to 1.

    With mean exit e = 4 / s: 0.7 + 0.1 (e - 2) for s <= 2, then 0.7. The integral of 4 / s - 2
    from 1 to 2 is 4 log 2 - 2.
    """
    run = made_up(tmp_path, "toy", "pabee", 0, [0.7, 0.7, 0.7, 0.9], [(2.0, 0.7)])
    assert evidence.at(run, "patience", 2) == pytest.approx(0.7)
    assert evidence.at(run, "patience", 4 / 3) == pytest.approx(0.8)
    expected = 0.7 + 0.1 * (4 * np.log(2) - 2) / 2
    assert evidence.area(run, "patience") == pytest.approx(expected, abs=1e-4)
    assert evidence.at(run, "entropy", 3) == pytest.approx(0.7 + 0.2 * (4 / 3 - 1) / 3)  # no sweep


def test_models_cut_to_size_stand_in_one_row(tmp_path):
    for k in range(1, 6):
        made_up(tmp_path, "toy", f"cut{k}", 0, [0.1] * (k - 1) + [0.5 + k / 100])
    made_up(tmp_path, "toy", "last", 0, [0.1] * 5 + [0.8])
    made_up(tmp_path, "toy", "last", 1, [0.1] * 5 + [0.9])  # its parts are not there yet
    (run,) = evidence.load("toy", "cut", tmp_path)
    assert evidence.exits_of(run).tolist() == [0.51, 0.52, 0.53, 0.54, 0.55, 0.8]
    assert [evidence.at(run, "entropy", s) for s in (2, 3)] == pytest.approx([0.53, 0.52])
    lines = evidence.exits_table("toy", tmp_path).splitlines()
    assert lines[2].endswith("| 2 | - | - | - | - | - | 85.0 +- 7.1 | - | 7 |")
    assert lines[3].endswith("| 1 | 51.0 | 52.0 | 53.0 | 54.0 | 55.0 | 80.0 | 57.5 | 42 |")


def test_tables_of_nothing_name_the_command(tmp_path):
    for words in (evidence.exits_table("rte", tmp_path), evidence.speeds_table("rte", tmp_path)):
        assert words.startswith("Not run yet: `python experiments/compare.py --task rte --seeds 3")
    for table in (evidence.choices_table, evidence.questions_table, evidence.weights_table,
                  evidence.agreement_table):  # fmt: skip
        assert table(tmp_path).startswith("Not run yet: ")


def test_readme_has_full_depth_and_twice_as_fast(tmp_path):
    assert evidence.real_table(tmp_path).startswith("Not run yet: ")
    for seed in (0, 1):
        made_up(tmp_path, "sst2", "all-cross", seed, [0.6, 0.7, 0.8, 0.8, 0.8, 0.9 + seed / 50])
    lines = evidence.real_table(tmp_path).splitlines()
    assert lines[0] == (
        "| on dev, in percent | sst2 acc, last exit | 2x, patience | 2x, confidence |"
    )
    assert lines[2] == "| always the most frequent class | 51.0 | 51.0 | 51.0 |"
    assert lines[3].endswith("the reference | - | - | - |") and "91.0 +- 1.4" in lines[-1]
    assert len(lines) == 3 + len(methods.REAL)
    made_up(tmp_path, "sst2", "pabee-long", 0, [0.5] * 6, [(3.0, 0.7)])
    last = evidence.real_table(tmp_path).splitlines()[-1]
    assert last == "| PABEE: weights by depth, 3 x the updates | 50.0 | 70.0 | - |"


def test_who_does_not_get_to_a_speed_is_counted(tmp_path):
    runs = [made_up(tmp_path, "toy", "pabee", seed, [0.8] * 6, [(deep, 0.7 + seed / 10)])
            for seed, deep in enumerate((3.0, 3.0, 4.0))]  # fmt: skip
    assert evidence.reached(runs, "patience", 2) == "75.0 +- 7.1 (2 of 3)"
    assert evidence.reached(runs, "patience", 3) == "-"
    assert evidence.reached(runs, "patience", 1) == "80.0 +- 0.0"


def test_a_difference_is_paired_by_seed():
    """d = 1, 2, 3 percent: mean 2, std 1, t(2) = 4.30, so 2 +- 4.30 / sqrt(3)."""
    a = [{"seed": seed, "x": 0.5 + seed / 10} for seed in (2, 0, 1)]
    b = [{"seed": seed, "x": 0.5 + seed / 10 + (seed + 1) / 100} for seed in (0, 1, 2, 3)]
    assert evidence.difference(a, b, lambda run: run["x"]) == "+2.0 (-0.5 .. +4.5)"
    b = [{**run, "x": run["x"] + 0.02} for run in b]
    assert evidence.difference(a, b, lambda run: run["x"]) == "**+4.0 (+1.5 .. +6.5)**"
    assert evidence.difference(b, a, lambda run: run["x"]) == "**-4.0 (-6.5 .. -1.5)**"
    assert evidence.difference(a[:1], b, lambda run: run["x"]) == "+5.0"


def test_a_question_is_answered_with_its_noise(tmp_path):
    for seed in range(3):
        made_up(tmp_path, "toy", "all-bilevel", seed, [0.6 + seed / 100] * 6)
        made_up(tmp_path, "toy", "all-cross", seed, [0.8 + seed / 100] * 6)
    lines = evidence.questions_table(tmp_path).splitlines()
    assert len(lines) == 3 and "Cross rather than bilevel?" in lines[2]
    assert lines[2].count("**+20.0 (+20.0 .. +20.0)**") == 3 and "toy | 3 |" in lines[2]


def test_cutting_again_is_compared_with_cutting_once(tmp_path):
    for name, x in (("all-cross", 0.9), ("no-redraw", 0.95), ("redraw", 0.96), ("jsd", 0.92)):
        made_up(tmp_path, "toy", name, 0, [x] * 6)
    ends = {line.split(" | ")[0]: line.split(" | ")[-1] for line in
            evidence.choices_table(tmp_path).splitlines()}  # fmt: skip
    words = {name: f"| {methods.CHOICES[name].words}" for name in ("redraw", "no-redraw", "jsd")}
    assert {name: ends[words[name]] for name in words} == {
        "redraw": "+1.0 |", "no-redraw": "+5.0 |", "jsd": "+2.0 |"
    }  # fmt: skip


def test_agreement_of_weights():
    """Six orders of three exits: r = 1, 1/2, 1/2, -1/2, -1/2, -1, whose std is sqrt(1/2)."""
    a, b = np.array([1.0, 2, 3]), np.array([3.0, 2, 1])
    for sides, r, std in (
        ([[a, 2 * a, a + 1]], 1, math.sqrt(1 / 2 / 3)),  # the mean of three pairs
        ([[a], [b]], -1, math.sqrt(1 / 2)),
        ([[a, a], [b, b]], -1, math.sqrt(1 / 2)),  # all alike: no more than one pair
    ):
        found = [float(x.strip("()")) for x in evidence.agreement(*sides).split()]
        assert found == pytest.approx([r, std], abs=0.02)
    assert evidence.agreement([a]) == ""


def test_agreement_leaves_the_diagonal_out_and_renames_students_with_teachers():
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 4, 4))
    off = ~np.eye(4, dtype=bool)
    r = np.corrcoef(a[off], b[off])[0, 1]
    assert evidence.agreement([a, b]).startswith(f"{r:+.2f} (")
    assert evidence.agreement([a], [b]).startswith(f"{r:+.2f} (")
    again = evidence.renamed(a, rng)
    assert sorted(np.diag(again)) == sorted(np.diag(a))
    assert sorted(again.sum(axis=0)) == pytest.approx(sorted(a.sum(axis=0)))


def test_the_tables_of_weights_know_students_from_teachers(tmp_path):
    """M = 3; exit 1 is taught with weight 1.5 by exit 2 and 1.7 by exit 3, and so on."""
    kd = np.array([[0, 1.5, 1.7], [0.4, 0, 1.6], [0.2, 0.9, 0]])
    for seed, factor in ((0, 0.9), (1, 1.1)):
        run = made_up(tmp_path, "sst2", "all-cross", seed, [0.5] * 3)
        run["weights"] = {"ce": [1.0, 1.2, 1.4], "kd": (factor * kd / 2).tolist()}
        run["alignment"] = [{"ce": [0.1, 0.2, 0.3], "kd": (kd / 5).tolist()}]
        (tmp_path / "sst2" / f"all-cross-s{seed}.json").write_text(json.dumps(run))
    words = evidence.weights_table(tmp_path)
    assert "as student | 1.60 +- 0.23 | 1.00 +- 0.14 | 0.55 +- 0.08 |" in words
    assert "as teacher | 0.30 +- 0.04 | 1.20 +- 0.17 | 1.65 +- 0.23 |" in words
    assert "cos with v, as student | +0.32 | +0.20 | +0.11 |" in words
    assert "cos with v, as teacher | +0.06 | +0.24 | +0.33 |" in words
    row = evidence.agreement_table(tmp_path).splitlines()[2]
    assert "| 2 | 1.60 +- 0.23 | 0.50 +- 0.07 | +1.00 (0.71) | +1.00 (" in row
    off = ~np.eye(3, dtype=bool)
    orders = [kd[np.ix_(order, order)][off] for order in itertools.permutations(range(3))]
    chance = np.std([np.corrcoef(kd[off], x)[0, 1] for x in orders])
    assert float(row.split("(")[-1].rstrip(") |")) == pytest.approx(chance, abs=0.02)


def test_what_stands_in_a_block_is_written_anew_and_the_rest_stays():
    text = "before\n<!-- table: published -->\nwrong\n<!-- end -->\nafter"
    assert tables.fill(text) == text.replace("wrong", evidence.published_table())


@pytest.mark.slow
def test_pictures_show_the_numbers_of_the_results(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    import plot

    for seed in (0, 1):
        for name in ("all-cross", "pabee"):
            trained(name, tmp_path, monkeypatch, seed)
    paths = plot.draw("toy", tmp_path, tmp_path)
    names = ["toy-exits.png", "toy-speed.png", "toy-weights.png", "toy-levels.png"]
    assert [path.name for path in paths] == names
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
    found = plot.drawn("toy", tmp_path)
    left, right = plot.exits_figure("toy", found, found["pabee"]).axes
    cross = right.containers[0]  # the reference: of these runs, only the last exit
    last = np.mean([evidence.exits_of(run)[-1] for run in found["pabee"]])
    assert cross.lines[0].get_xydata().flatten() == pytest.approx([6, last])
    for axes, name in ((left, "pabee"), (right, "all-cross")):
        expected = np.mean([evidence.exits_of(run) for run in found[name]], axis=0)
        assert axes.lines[0].get_ydata() == pytest.approx(expected)
        assert axes.lines[0].get_label() == plot.STYLES[name][0]
    axes = plot.weights_figure("toy", {"all-cross": found["all-cross"]}).axes[0]
    shown = [run["weights"]["kd"][2][0] * 5 for run in found["all-cross"]]
    assert f"{np.mean(shown):.2f}\n±{np.std(shown, ddof=1):.2f}" in [
        t.get_text() for t in axes.texts
    ]
    with pytest.raises(ValueError, match="no results"):
        plot.draw("cola", tmp_path, tmp_path)
