"""train.py through its real command line, and the parts of it that can be wrong in silence."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from conftest import ROOT, fail_in, flags, options, read_log, tiny_model, without_clocks, write
from torch.nn.functional import cross_entropy

import data
import leebert
import train
from leebert import RULES, Hyper, LossWeights, answers
from support import report, runs, timing
from support.errors import UserError
from tools import ask, walk
from train import Config, learning_rate, operating_point, parse


def run(workplace, out, **more):
    return train.run(parse(options(workplace, out=out, **more)))


def result_of(folder):
    return json.loads((folder / "result.json").read_text())


@pytest.fixture(scope="module")
def finished(workplace, tmp_path_factory):
    """-> folder, output. The real command, started in another folder, warnings being errors."""
    out = tmp_path_factory.mktemp("finished") / "a run"
    argv = [sys.executable, "-W", "error", ROOT / "train.py", *options(workplace, out=out)]
    done = subprocess.run(argv, cwd=out.parent, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return out, done.stdout


def test_what_a_run_leaves(finished):
    folder, printed = finished
    left = {"config.json", "log.jsonl", "model.safetensors", "result.json", "tokenizer.json"}
    assert {p.name for p in folder.iterdir()} == left | {"leaving.png", "weights.png"}
    result, log = result_of(folder), read_log(folder)
    assert (result["task"], result["metric"], result["seed"]) == ("sst2", "acc", 0)
    assert result["method"] == {"teachers": "all", "weights": "learned", "optimize": "cross"}
    assert result["dev_examples"] == 30 and [x["exit"] for x in result["exits"]] == [1, 2, 3]
    assert {row["rule"] for row in result["sweep"]} == set(RULES)
    for row in result["sweep"]:
        assert row["speedup_layers"] == pytest.approx(3 / row["mean_exit"])
        assert 1 <= row["mean_exit"] <= 3 and row["speedup_wall"] > 0
    assert [row["step"] for row in log] == list(range(1, 17))  # 2 epochs of ceil(60 / 8) steps
    assert log[-1]["w_ce"] == result["weights"]["ce"] != [1, 1, 1]
    assert "d1 30 examples, d2 30" in printed and "0:00 left" in printed
    best = max(row["acc"] for row in result["exits"])
    assert ("no exit beats the line none" in printed) == (best <= result["majority"]["acc"])


def test_a_run_without_matplotlib_says_so_and_is_whole(workplace, tmp_path, monkeypatch, call):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    done = call(train.main, *options(workplace, out=tmp_path / "run", epochs=0.5))
    assert done.returncode == 0 and (tmp_path / "run" / "result.json").exists()
    assert len(read_log(tmp_path / "run")) == 4  # half of 8 steps
    last = done.stdout.splitlines()[-1]
    assert last.startswith("no pictures (") and "pip install matplotlib" in last


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_the_saved_model_answers_what_the_result_says(workplace, finished, tmp_path, pool):
    folder = finished[0]
    if pool == "mean":
        folder = run(workplace, tmp_path / "run", pool="mean", epochs=1)
    model, tokenizer, config = ask.load_run(folder)
    assert config["pool"] == model.pool == pool
    encoded = data.encode(tokenizer, data.load_task("sst2", workplace).dev, 16)
    logits = train.all_logits(model, encoded, "cpu")
    result = result_of(folder)
    assert train.evaluate_exits(logits, encoded.labels, ("acc",)) == result["exits"]
    for row, z in zip(result["exits"], logits, strict=True):
        assert row["loss"] == pytest.approx(cross_entropy(z, torch.tensor(encoded.labels)).item())
    assert result["majority"]["acc"] == pytest.approx(np.bincount(encoded.labels).max() / 30)
    batch = data.collate(encoded, np.arange(30))  # and what early exit is compared with, the same
    assert torch.equal(train.full_depth(model, batch), answers(logits[-1]))
    if pool == "mean":  # the other pooling would say something else
        model.pool = "cls"
        assert not torch.allclose(train.all_logits(model, encoded, "cpu"), logits, atol=1e-3)


def rows_of_exits(done):
    assert done.returncode == 0, done.stderr
    return [line.split() for line in done.stdout.splitlines() if line[:4].strip().isdigit()]


def test_a_sentence_exit_by_exit(finished, call):
    done = call(ask.main, finished[0], "the film was not good")
    rows = rows_of_exits(done)
    assert "tokens: [CLS] the film was not good [SEP]" in done.stdout
    model, tokenizer, _ = ask.load_run(finished[0])
    p = model(torch.tensor([tokenizer.encode("the film was not good").ids])).softmax(dim=-1)
    for m, (number, answer, *printed) in enumerate(rows):
        assert number == str(m + 1) and answer == str(p[m, 0].argmax().item())
        assert [float(x) for x in printed] == pytest.approx(p[m, 0].tolist(), abs=6e-4)
    assert len(rows) == 3 and done.stdout.count("leaves at exit") == 4


def test_a_checkpoint_is_walked_through_with_either_vocabulary(workplace, finished, tmp_path, call):
    """vocab.txt, or the tokenizer.json that a run saved of it: the same tokens, the same states."""
    for name in ("config.json", "model.safetensors"):
        write(tmp_path / name, (workplace / "bert" / name).read_bytes())
    write(tmp_path / "tokenizer.json", (finished[0] / "tokenizer.json").read_bytes())
    printed = [call(walk.main, folder, "The film") for folder in (workplace / "bert", tmp_path)]
    one, two = (p.stdout.partition("\n")[2] for p in printed)  # line 1 names the folder
    assert one == two and two.startswith("tokens: [CLS] the film [SEP]"), printed[1].stderr


def test_a_regression_from_file_to_sentence(workplace, tmp_path, call):
    """Scores in place of classes: two correlations, patience only, one number an exit."""
    out = tmp_path / "run"
    done = call(train.main, *options(workplace, out=out, task="stsb", epochs=4))
    assert done.returncode == 0, done.stderr
    assert "threshold  pearson  spearman" in done.stdout and "(always the mean)" in done.stdout
    result = result_of(out)
    assert result["metric"] == "pearson" and result["majority"] == {"pearson": 0, "spearman": 0}
    rules = [(row["rule"], row["threshold"]) for row in result["sweep"]]
    assert rules == [("always", 1), ("always", 2), ("always", 3), ("patience", 1), ("patience", 2)]
    model, tokenizer, config = ask.load_run(out)
    dev = data.load_task("stsb", workplace).dev
    z = train.all_logits(model, data.encode(tokenizer, dev, 16), "cpu")[..., 0].numpy()  # (M, N)
    pearson = [np.corrcoef(x, [e.label for e in dev])[0, 1] for x in z]
    assert [row["pearson"] for row in result["exits"]] == pytest.approx(pearson, abs=1e-5)
    squares = [np.mean((x - [e.label for e in dev]) ** 2) for x in z]
    assert [row["loss"] for row in result["exits"]] == pytest.approx(squares, abs=1e-5)
    done = call(ask.main, out, dev[0].text_a, dev[0].text_b)
    rows = rows_of_exits(done)
    assert [row[1] for row in rows] == ["score"] * 3 and all(len(row) == 3 for row in rows)
    assert [float(row[2]) for row in rows] == pytest.approx(z[:, 0], abs=0.006)
    assert done.stdout.count("leaves at exit") == 2 and "p(" not in done.stdout
    mean = np.mean([e.label for e in data.load_task("stsb", workplace).train])
    _, _, fresh = train.prepare(parse(options(workplace, task="stsb")))
    assert all(exit.bias.item() == pytest.approx(mean) for exit in fresh.exits)
    done = call(data.main, "--task", "stsb", "--data-dir", workplace)
    assert f"labels: mean score {mean:.2f}" in done.stdout, done.stderr


def test_six_exits_learn_a_regression_that_one_exit_learns(tmp_path, monkeypatch):
    """Four, plus the share of good words among six: scores far from 0, which differ little."""
    rng, words = np.random.default_rng(0), np.array([*data.GOOD, *data.BAD])
    examples = [
        data.Example(" ".join(words[row]), None, 4 + np.mean(row < len(data.GOOD)))
        for row in rng.integers(len(words), size=(3000, 6))
    ]
    task = data.Task("toy", examples[300:], examples[:300], [], ("score",), ("pearson",))
    monkeypatch.setattr(data, "load_task", lambda *_: task)

    def exits(name):
        argv = flags(weights="uniform", batch_size=16, device="cpu", out=tmp_path / name)
        return [row["pearson"] for row in result_of(train.run(parse(argv)))["exits"]]

    def of_the_last_exit(ce, kd, w_ce, w_kd):
        return w_ce[-1] * ce[-1] + 0 * w_kd.sum()

    six = exits("six")
    monkeypatch.setattr(leebert, "objective", of_the_last_exit)
    assert min(six) > exits("one")[-1] - 0.02 > 0.95


@pytest.mark.parametrize("teachers, weights, optimize, learned", [
    ("none", "uniform", "cross", "fixed"), ("last", "depth", "cross", "fixed"),
    ("later", "learned", "single", "single"), ("all", "learned", "bilevel", "bilevel"),
])  # fmt: skip
def test_every_method_trains(workplace, tmp_path, teachers, weights, optimize, learned):
    """Learned weights move, under `single` all of them down; fixed ones stay."""
    method = dict(teachers=teachers, weights=weights, optimize=optimize)
    result = result_of(run(workplace, tmp_path / "run", epochs=1, **method))
    assert result["method"] == method | {"optimize": learned}
    w_ce = result["weights"]["ce"]
    if learned == "fixed":
        assert w_ce == pytest.approx({"uniform": [1, 1, 1], "depth": [0.5, 1, 1.5]}[weights])
    else:
        assert w_ce != [1, 1, 1] and (max(w_ce) < 1 or optimize != "single")


def test_a_seed_repeats_a_run_also_from_own_files(workplace, finished, tmp_path, monkeypatch):
    """SST-2's files are such files. Same examples, same run; only the task's name differs."""
    monkeypatch.chdir(tmp_path)
    files = [f"--{n}-file={workplace / 'SST-2' / n}.tsv" for n in ("train", "dev")]
    argv = [option for option in options(workplace) if not option.startswith("--task")]
    own, other = (train.run(parse([*argv, *files, f"--seed={seed}"])) for seed in (0, 1))
    assert without_clocks(finished[0]) == without_clocks(own) | {"task": "sst2"}
    weights = [(run / "model.safetensors").read_bytes() for run in (finished[0], own, other)]
    assert weights[0] == weights[1] != weights[2]
    facts = json.loads(Path("runs/own-all-cross-s0/config.json").read_text())
    assert facts["labels"] == ["0", "1"] and not facts["pairs"]


# --------------------------------------------------------------------------------------------------
# Parts


@pytest.mark.parametrize("change, sizes", [
    (dict(optimize="bilevel"), {(8, 8, 0)}),
    (dict(optimize="cross"), {(8, 4, 4)}),
    (dict(optimize="cross", lam=3.0), {(8, 2, 6), (8, 2, 4)}),
    (dict(optimize="cross", omega_every=2), {(8, 4, 4), (8, 0, 0)}),
    (dict(optimize="single"), {(8, 0, 0)}),
    (dict(weights="uniform"), {(8, 0, 0)}),
])  # fmt: skip
def test_who_sees_which_examples(workplace, tmp_path, monkeypatch, change, sizes):
    """The judge sees one batch, in the ratio 1 : lambda; Theta never sees d2, nor does d1_judge.

    A run on 32 examples, labelled by their numbers. Each step gets its own seed for dropout, and
    the settings of the method as they are; every stream has an order of its own.
    """
    steps, seeds = [], set()
    method = dict(hypergradient="jvp", step_size=0.1, temperature=2.0)
    config = parse(options(workplace, train_examples=32, **method, **change))

    def spy(model, loss_weights, optimizers, batches, hyper, optimize):
        assert hyper == Hyper(0.1, config.lam, 2.0, "jvp")
        assert (optimize in ("bilevel", "cross")) == (batches.d2 is not None)
        seeds.add(torch.initial_seed())
        steps.append([set() if b is None else {int(i) for i in b.labels} for b in batches])
        return torch.zeros(3), torch.zeros(3, 3)

    monkeypatch.setattr(train, "training_step", spy)
    monkeypatch.setattr(data, "stream", stream := Mock(wraps=data.stream))
    task, tokenizer, model = train.prepare(config)
    labels = np.arange(32, dtype=np.float32)
    encoded = data.encode(tokenizer, task.train, 16)._replace(labels=labels)
    with open(tmp_path / "log", "w") as log:
        train.train(config, model, LossWeights(3), encoded, tmp_path, log)
    assert len(steps) == len(seeds) == 8 and {tuple(map(len, step)) for step in steps} == sizes
    assert len({call.args[3] for call in stream.call_args_list}) == stream.call_count
    if change.get("omega_every"):
        assert [not d2 for _, d2, _ in steps] == [False, True] * 4
    d1, d2, judge = (set.union(*part) for part in zip(*steps, strict=True))
    assert d1 | d2 == set(range(32)) and not d1 & d2 and len(d2) == (16 if any(judge | d2) else 0)
    assert judge <= d1
    if judge:  # drawn independently: not the step's own, nor those that it has left over
        assert any(own & x for own, _, x in steps) and any(x - own for own, _, x in steps)


def test_learning_rate_rises_and_falls_linearly():
    config = Config(lr=1.0, warmup=0.25)
    rates = [learning_rate(step, 8, config) for step in range(8)]
    assert rates == pytest.approx([1 / 2, 1, 6 / 7, 5 / 7, 4 / 7, 3 / 7, 2 / 7, 1 / 7])


def test_weight_decay_is_for_matrices():
    """And Omega's Adam has an eps in proportion to xi, as the hypergradient has its size."""
    model, config = tiny_model(), Config(lr=1.0, step_size=2e-5)
    theta, omega = train.make_optimizers(model, LossWeights(3), config, 800)
    assert omega.param_groups[0]["eps"] == 1e-8 * 2e-5
    decay = {id(p): group["weight_decay"] for group in theta.param_groups for p in group["params"]}
    for name, p in model.named_parameters():
        assert decay[id(p)] == (0.0 if "norm" in name or "bias" in name else 0.01)


@pytest.mark.parametrize("updates", [50, 9000])
def test_omega_reaches_as_far_in_a_short_run_as_in_a_long_one(updates):
    """A judge that insists moves Omega by the reach, 5, so w from 1 to 2 sigmoid(-5), under 2 %."""
    weights = LossWeights(3).double()
    _, omega = train.make_optimizers(tiny_model(), weights, Config(step_size=2e-5), 8 * updates)
    for _ in range(updates):
        weights.ce.grad, weights.kd.grad = (torch.full_like(p, 1e-6) for p in weights.parameters())
        omega.step()
    assert weights.ce.tolist() == pytest.approx([-5] * 3, rel=1e-3)
    assert weights()[0].max() < 0.02


def test_the_operating_point_is_the_fastest_that_costs_a_point():
    pairs = [(0.9, 1.0), (0.89, 2.0), (0.88, 3.0), (0.9, 1.5)]
    rows = [dict(rule="entropy", acc=acc, speedup_layers=speedup) for acc, speedup in pairs]
    rows.append(dict(rule="always", acc=0.9, speedup_layers=9.0))  # is no rule, but what to beat
    assert operating_point(rows, 0.9, "acc") == rows[1]
    assert operating_point(rows, 0.95, "acc") is None


def test_the_best_mix_is_the_best_line_between_two_exits():
    """Exits .5, .9 and .6: at mean exit 2.5, exits 2 and 3 in halves; exits 1 and 3 reach less."""
    for mean_exit, expected in ((1.0, 0.5), (1.5, 0.7), (2.0, 0.9), (2.5, 0.75), (3.0, 0.6)):
        assert train.best_mix([0.5, 0.9, 0.6], mean_exit) == pytest.approx(expected)
    assert train.best_mix([0.5, 0.1, 0.9], 2.0) == pytest.approx(0.7)  # never at exit 2


def test_levels_are_counted_apart():
    examples = [data.Example("", None, 1, level) for level in (1, 2, 2, 4)]
    of_exits = np.array([[1, 0, 0, 0], [1, 1, 1, 1]])
    assert report.by_level(examples, of_exits, np.array([1, 0, 1, 1]), np.array([1, 2, 4, 6])) == [
        dict(level=1, acc=1.0, mean_exit=1.0, exits=[1.0, 1.0]),
        dict(level=2, acc=0.5, mean_exit=3.0, exits=[0.0, 1.0]),
        dict(level=4, acc=1.0, mean_exit=6.0, exits=[0.0, 1.0]),
    ]


@pytest.mark.parametrize("budget, number, rows", [
    (0, 1, 1), (16, 1, 2), (63, 1, 4), (64, 2, 4), (1e6, 8, 4),
])  # fmt: skip
def test_a_speed_up_is_a_median_within_a_budget(monkeypatch, budget, number, rows):
    """Half a second a row at full depth, so 32 s a batch of 4: four rounds of four calls. Early it
    is half or twice as much. The first call for its shapes takes more, and so does one round.
    """
    calls = []

    def timed(who, batch):
        calls.append((who, *batch.input_ids.shape))
        before = calls.count(calls[-1]) - 1
        slow = before == 0 or who == "fast" and before == 2
        return 100 if slow else {"full": 0.5, "fast": 0.25, "slow": 1}[who] * calls[-1][1]

    monkeypatch.setattr(timing, "timed", timed)
    ids = [torch.zeros(4, n, dtype=torch.long) for n in range(1, 25)]
    batches = [data.Batch(x, x, x, x[:, 0]) for x in ids]
    assert timing.speedups("full", ["fast", "slow"], batches, budget) == [2, 0.5]
    lengths = sorted({length for who, _, length in calls if who == "fast"})
    assert len(lengths) == number and {call[1] for call in calls[2:]} == {rows}
    assert all(abs(n - (i + 0.5) * 24 / number) <= 1 for i, n in enumerate(lengths))


def test_model_toy_gets_one_thread_unless_told(monkeypatch, call):
    monkeypatch.setattr(runs, "run_folder", Mock(side_effect=UserError))
    monkeypatch.setattr(torch, "set_num_threads", threads := Mock())
    call(train.main)  # conftest.py sets OMP_NUM_THREADS
    monkeypatch.delenv("OMP_NUM_THREADS")
    call(train.main, "--task=rte")
    threads.assert_not_called()
    call(train.main)
    threads.assert_called_once_with(1)


def test_what_is_given_counts_more_than_the_defaults_of_model_toy():
    assert parse(["--epochs=2"]).epochs == 2 and parse([]).epochs == 1
    assert parse(["--task=rte"]).lr == 2e-5 and parse(["--lr=2e-5"]).lr == 2e-5 < parse([]).lr


def test_paths_are_valid_from_any_folder(workplace, tmp_path, monkeypatch):
    monkeypatch.chdir(workplace)
    config = parse(["--train-file=a", "--dev-file=b", "--model=bert"])
    assert config.model == str(workplace / "bert") and config.train_file == str(workplace / "a")
    assert config.data_dir == str(workplace / "data")
    assert parse(["--task=rte"]).model == "bert-base-uncased" and parse([]).train_file == ""


def test_the_levels_of_a_run_add_up(tmp_path):
    """All have equally many examples, so their mean is that of the whole dev set."""
    argv = flags(train_examples=1280, device="cpu", omega_reach=0.1, out=tmp_path / "run")
    result = result_of(train.run(parse(argv)))
    exits, levels = [row["acc"] for row in result["exits"]], result["levels"]
    assert np.mean([row["exits"] for row in levels], axis=0) == pytest.approx(exits)
    point = result["operating_point"]["mean_exit"]
    assert np.mean([row["mean_exit"] for row in levels]) == pytest.approx(point)


# --------------------------------------------------------------------------------------------------
# Bad input: one clear line, exit status 2


@pytest.mark.parametrize("change, message", [
    ({"lr": "nan"}, "--lr must be positive and finite, not nan"),
    ({"seed": 10**23}, "--seed must be from 0 to 2**63 - 1, not 1000"),
    ({"train_examples": 2}, "too few; add some, or --weights uniform, which needs no d2"),
    ({"lam": "inf"}, "--lam must be 0 or more, and finite, not inf"),
    ({"max_length": 33}, "--max-length must lie between 8 and 32"),
    ({"train_examples": 61}, "train has only 60"),
    ({"model": "nowhere"}, "no model 'nowhere'"),
    ({"model": "toy"}, "--model toy knows the words of the toy task only"),
    ({"device": "cuda"}, "--device cuda is not available"),
    ({"task": "cola"}, "no data for cola"),
    ({"task": "sst2", "train_file": "a", "dev_file": "b"}, "--task cannot be combined with"),
    ({"task": None, "train_file": "a.tsv", "dev_file": "b"}, "a.tsv'"),
])  # fmt: skip
def test_bad_options_are_one_line(workplace, tmp_path, monkeypatch, call, change, message):
    """And leave no folder behind, whether of a run or for a download."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("support.downloads.GLUE_URL", "http://127.0.0.1:9/")
    out = tmp_path / "new" / "run"
    argv = [o for o in options(workplace, out=out) if "task=" not in o or change.get("task", o)]
    argv += flags(**{name: value for name, value in change.items() if value is not None})
    done = call(train.main, *argv)
    assert done.returncode == 2 and message in done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert not out.exists() and not (workplace / "CoLA").exists()


@pytest.mark.parametrize("main, args, message", [
    (data.main, ["--data-dir=bad", "--task=sst2"], "train.tsv:3: expected 2 columns, found 1"),
    (ask.main, ["bad", "x"], "bad: not a finished run of train.py ([Errno 2] No"),
    (ask.main, ["a run", "the film", "was good"], "trained on single texts"),
    (ask.main, ["a run", "\udcff"], "the sentence is not UTF-8"),
    (ask.main, ["a run", "xyzzy"], "without any word of the model's vocabulary"),
    (walk.main, ["a run"], "this is a run of train.py; --model must be a checkpoint"),
])  # fmt: skip
def test_bad_input_of_the_other_scripts(finished, monkeypatch, call, main, args, message):
    monkeypatch.chdir(finished[0].parent)
    write(Path("bad/SST-2/train.tsv"), "sentence\tlabel\nfine\t1\nfine\n")
    write(Path("bad/SST-2/dev.tsv"), "sentence\tlabel\nfine\t1\n")
    done = call(main, *args)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
    monkeypatch.setattr(ask, "MultiExitBert", Mock(side_effect=AttributeError))  # a student's bug
    pytest.raises(AttributeError, ask.load_run, finished[0])


def test_a_closed_pipe_and_an_early_interruption_end_quietly(tmp_path):
    script = f"{sys.executable} {ROOT / 'data.py'} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True)
    assert (done.returncode, done.stderr) == (141, b"")
    with subprocess.Popen([sys.executable, "-v", ROOT / "train.py"], stderr=subprocess.PIPE) as run:
        next(line for line in run.stderr if b"import 'torch" in line)
        run.send_signal(signal.SIGINT)
        rest = run.stderr.read()
    assert run.returncode == -signal.SIGINT and b"Traceback" not in rest


@pytest.mark.parametrize("error, said", [
    (FloatingPointError("CE_1 is nan"), "error: CE_1 is nan\n"),
    (torch.OutOfMemoryError(), "to continue: python train.py --resume {}\nerror: out of memory"),
])  # fmt: skip
def test_what_stops_a_run_is_one_line(workplace, tmp_path, monkeypatch, call, error, said):
    """What was written stays."""
    fail_in(monkeypatch, 12, error)
    done = call(train.main, *options(workplace, out=tmp_path))
    assert done.returncode == 2 and done.stderr.startswith(said.format(tmp_path))
    assert len(read_log(tmp_path)) == 11
