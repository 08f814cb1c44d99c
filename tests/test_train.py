"""train.py through its real command line, and the parts of it that can be wrong in silence."""

import importlib.util
import json
import math
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_model
from safetensors.torch import load_file, save_file
from test_data import write

import bert
import data
import train
from bert import NAMES, Bert, BertConfig
from data import encode, load_task
from leebert import LossWeights, MultiExitBert, answers, exits_from_logits
from support import runs, sentence
from support.sentence import load_run
from train import Config, learning_rate, operating_point, parse

ROOT = Path(__file__).parent.parent
WORDS = "good bad fine poor the film was and not very".split()


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A tiny SST-2 in GLUE's format and a tiny checkpoint with BERT's original tensor names."""
    folder = tmp_path_factory.mktemp("work")
    rng = np.random.default_rng(0)

    def rows(n):
        for _ in range(n):
            label = int(rng.integers(2))
            words = " ".join(rng.choice(WORDS[4:], rng.integers(2, 9)))
            yield f"{words} {WORDS[1 - label + 2 * rng.integers(2)]} \t{label}\n"

    for name, n in (("train", 60), ("dev", 30)):
        write(folder / "SST-2" / f"{name}.tsv", "sentence\tlabel\n" + "".join(rows(n)))
    columns = ["sentence1", "sentence2", "score"]
    for name, n, k in (("train", 40, 3), ("dev", 20, 3), ("test", 10, 2)):
        rows = ["\t".join(columns[:k])]
        for _ in range(n):
            a, b = rng.choice(WORDS, (2, 3))
            rows.append("\t".join([" ".join(a), " ".join(b), f"{5 * np.mean(a == b):.3f}"][:k]))
        write(folder / "STS-B" / f"{name}.tsv", "\n".join(rows) + "\n")
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
    write(folder / "bert" / "vocab.txt", "\n".join(vocab) + "\n")
    sizes = dict(
        vocab_size=len(vocab), hidden_size=12, num_hidden_layers=3, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=32, hidden_dropout_prob=0.4,
    )  # fmt: skip
    write(folder / "bert" / "config.json", json.dumps(sizes))
    torch.manual_seed(0)
    theirs = dict(row.split() for row in NAMES.strip().splitlines()[1:])
    tensors = {}
    for name, tensor in Bert(BertConfig(**sizes, initializer_range=0.2)).state_dict().items():
        module, _, kind = name.rpartition(".")
        number = next((part for part in module.split(".") if part.isdigit()), "N")
        module = theirs[module.replace(f".{number}.", ".N.")].replace(".N.", f".{number}.")
        tensors[f"bert.{module}.{kind}"] = tensor.contiguous()
    save_file(tensors, folder / "bert" / "model.safetensors")
    return folder


def options(workplace, **more):
    values = dict(task="sst2", data_dir=workplace, model=workplace / "bert", epochs=2, batch_size=8,
                  lr=1e-3, max_length=16, log_every=1, device="cpu") | more  # fmt: skip
    return [f"--{name.replace('_', '-')}={value}" for name, value in values.items()]


def command(*args, cwd=ROOT):
    return subprocess.run(
        [sys.executable, *map(str, args)], cwd=cwd, capture_output=True, text=True
    )


ask = partial(sentence.main, MultiExitBert, exits_from_logits)  # python leebert.py


@pytest.fixture
def call(monkeypatch, capsys):
    """The main() of a script, in this process, since to load torch takes seconds."""
    handlers = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]

    def call(main, *args):
        monkeypatch.setattr(sys, "argv", ["script", *map(str, args)])
        capsys.readouterr()
        try:
            status = main() or 0
        except SystemExit as ended:
            status = ended.code
        return subprocess.CompletedProcess(args, status, *capsys.readouterr())

    yield call
    for handler in handlers:
        signal.signal(*handler)


def without_clocks(result):
    """A result.json less the numbers that measure time."""
    result = json.loads(json.dumps(result))
    del result["seconds"]
    for row in [*result["sweep"], result["operating_point"] or {}]:
        row.pop("speedup_wall", None)
    return result


@pytest.fixture(scope="module")
def finished(workplace):
    """The real command line, twice, in processes of their own."""
    folders = []
    for name in ("one", "two"):
        out = workplace / name
        done = command("train.py", *options(workplace, out=out))
        assert done.returncode == 0, done.stderr
        folders.append((out, done.stdout))
    return folders


def test_two_runs_with_one_seed_are_identical(finished):
    (one, _), (two, _) = finished
    results = [json.loads((folder / "result.json").read_text()) for folder in (one, two)]
    assert without_clocks(results[0]) == without_clocks(results[1])
    assert (one / "model.safetensors").read_bytes() == (two / "model.safetensors").read_bytes()
    logs = [[json.loads(x) for x in (f / "log.jsonl").read_text().splitlines()] for f in (one, two)]
    for a, b in zip(*logs, strict=True):
        assert all(a[k] == b[k] for k in ("step", "ce", "kd", "w_ce", "w_kd"))


def test_two_equal_runs_compare_as_equal(finished):
    done = command("experiments/compare_runs.py", *(folder for folder, _ in finished))
    assert done.returncode == 0, done.stderr
    assert "they differ in: nothing, of " in done.stdout and done.stdout.count("+0.0") > 4
    assert "yes " not in done.stdout and " ? " not in done.stdout


def test_another_seed_is_another_run(workplace, finished):
    out = workplace / "other seed"  # with a space in its path
    train.run(parse(options(workplace, out=out, seed=1)))
    one, other = (load_file(f / "model.safetensors") for f in (finished[0][0], out))
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_what_a_run_leaves(finished):
    folder, printed = finished[0]
    left = {"config.json", "log.jsonl", "model.safetensors", "result.json", "tokenizer.json"}
    drawn = {"report.png"} if importlib.util.find_spec("matplotlib") else set()
    assert {p.name for p in folder.iterdir()} == left | drawn
    result = json.loads((folder / "result.json").read_text())
    assert result["task"] == "sst2" and result["metric"] == "acc" and result["seed"] == 0
    assert result["method"] == {"teachers": "all", "weights": "learned", "optimize": "cross"}
    assert result["dev_examples"] == 30
    assert [row["exit"] for row in result["exits"]] == [1, 2, 3]
    assert {row["rule"] for row in result["sweep"]} == {"entropy", "confidence", "patience"}
    for row in result["sweep"]:
        assert row["speedup_layers"] == pytest.approx(3 / row["mean_exit"])
        assert 1 <= row["mean_exit"] <= 3 and row["speedup_wall"] > 0
    assert len(result["weights"]["ce"]) == 3 and np.shape(result["weights"]["kd"]) == (3, 3)
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log] == list(range(1, 17))  # 2 epochs of ceil(60 / 8) steps
    assert log[-1]["w_ce"] == result["weights"]["ce"] != [1, 1, 1]
    assert "d1 30 examples, d2 30" in printed and "0 newly initialised" in printed
    assert "sst2: train 60, dev 30 examples, on cpu" in printed and "0:00 left" in printed


def test_a_run_without_matplotlib_says_so_and_is_whole(workplace, tmp_path, monkeypatch, call):
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    done = call(train.main, *options(workplace, out=tmp_path / "run", epochs=1))
    assert done.returncode == 0 and (tmp_path / "run" / "result.json").exists()
    assert not (tmp_path / "run" / "report.png").exists()
    last = done.stdout.splitlines()[-1]
    assert last.startswith("no picture (") and "pip install matplotlib" in last
    assert last.endswith(f"python -m support.picture {tmp_path / 'run'}")


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_the_saved_model_answers_what_the_result_says(workplace, finished, tmp_path, pool):
    folder = finished[0][0]
    if pool == "mean":
        folder = train.run(parse(options(workplace, pool="mean", epochs=1, out=tmp_path / "run")))
    model, tokenizer, config = load_run(folder, MultiExitBert)
    assert config["pool"] == model.pool == pool
    encoded = encode(tokenizer, load_task("sst2", workplace).dev, 16)
    logits = train.all_logits(model, encoded, "cpu")
    exits = train.evaluate_exits(logits, encoded.labels, ("acc",))
    assert exits == json.loads((folder / "result.json").read_text())["exits"]
    batch = data.collate(encoded, np.arange(30))  # and what early exit is compared with, the same
    assert torch.equal(train.full_depth(model, batch), answers(logits[-1]))
    if pool == "mean":  # the other pooling would say something else
        model.pool = "cls"
        assert not torch.allclose(train.all_logits(model, encoded, "cpu"), logits, atol=1e-3)


def test_a_sentence_exit_by_exit(finished, call):
    done = call(ask, finished[0][0], "the film was not good")
    assert done.returncode == 0, done.stderr
    assert "tokens: [CLS] the film was not good [SEP]" in done.stdout
    rows = [line.split() for line in done.stdout.splitlines() if line[:4].strip().isdigit()]
    assert [row[0] for row in rows] == ["1", "2", "3"]
    assert all(float(row[2]) + float(row[3]) == pytest.approx(1, abs=0.002) for row in rows)
    assert done.stdout.count("leaves at exit") == 4


def test_a_sentence_that_the_run_cannot_answer(finished, call):
    folder = finished[0][0]
    for sentences, message in (
        (["xyzzy"], "a sentence without any word of the model's vocabulary"),
        ([""], "a sentence without any word of the model's vocabulary"),
        (["the film", "was good"], "trained on single sentences"),
    ):
        done = call(ask, folder, *sentences)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and message in done.stderr
    done = call(ask, folder, "the film was good " * 10)
    assert done.returncode == 0 and "cut to 16 tokens (--max-length)" in done.stdout


def test_a_checkpoint_is_walked_through_with_either_vocabulary(workplace, finished, tmp_path, call):
    """vocab.txt, or the tokenizer.json that a run saved of it: the same tokens, the same states."""
    for name in ("config.json", "model.safetensors"):
        write(tmp_path / name, (workplace / "bert" / name).read_bytes())
    write(tmp_path / "tokenizer.json", (finished[0][0] / "tokenizer.json").read_bytes())
    printed = [call(bert.main, folder, "The film") for folder in (workplace / "bert", tmp_path)]
    one, two = (p.stdout.partition("\n")[2] for p in printed)  # line 1 names the folder
    assert one == two and printed[1].returncode == 0, printed[1].stderr
    assert two.startswith("tokens: [CLS] the film [SEP]")
    for content in ("{}", '{"model": {}}', '{"model": null}', "{", '{"model": {"vocab": {"a": 0}}}',
                    '{"model": {"vocab": {"[CLS]": 0, "[SEP]": 1, "the": 2}}}'):  # fmt: skip
        write(tmp_path / "tokenizer.json", content)
        done = call(bert.main, tmp_path, "The film")
        assert done.returncode == 2 and done.stderr.startswith(f"error: {tmp_path}")
        assert done.stderr.count("\n") == 1


def test_a_cased_checkpoint_keeps_its_capitals(workplace, tmp_path, call):
    for name in ("config.json", "model.safetensors"):
        write(tmp_path / name, (workplace / "bert" / name).read_bytes())
    words = (workplace / "bert" / "vocab.txt").read_text().replace("the\n", "The\n")
    write(tmp_path / "vocab.txt", words)
    write(tmp_path / "tokenizer_config.json", '{"do_lower_case": false}')
    done = call(bert.main, tmp_path, "The film")
    assert done.stdout.partition("\n")[2].startswith("tokens: [CLS] The film [SEP]\n"), done.stderr


def test_a_pair_exit_by_exit(workplace, tmp_path, call):
    rows = "".join(f"{a}\t{b}\t{int(a == b)}\n" for a in WORDS[:4] for b in WORDS[:4])
    path = write(tmp_path / "pairs.tsv", "text_a\ttext_b\tlabel\n" + rows)
    argv = [o for o in options(workplace, out=tmp_path / "run") if "task=" not in o]
    train.run(parse([*argv, f"--train-file={path}", f"--dev-file={path}"]))
    done = call(ask, tmp_path / "run", "good", "not bad")
    assert done.returncode == 0, done.stderr
    assert "tokens: [CLS] good [SEP] not bad [SEP]" in done.stdout
    model, tokenizer, config = load_run(tmp_path / "run", MultiExitBert)
    encoded = encode(tokenizer, [data.Example("good", "not bad", 0)], 16)
    p = model(*data.collate(encoded, np.array([0]))[:3])[:, 0].softmax(dim=-1)  # (M, C)
    rows = [line.split() for line in done.stdout.splitlines() if line[:4].strip().isdigit()]
    printed = [[float(x) for x in row[2:]] for row in rows]
    assert np.allclose(printed, p.detach(), atol=6e-4)
    for sentences, message in (
        (["good"], "trained on pairs of sentences"),
        (["good", "xyzzy"], "a sentence without any word of the model's vocabulary"),
    ):
        done = call(ask, tmp_path / "run", *sentences)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and message in done.stderr


def test_a_regression_from_file_to_picture(workplace, tmp_path, call):
    """Scores in place of classes: two correlations, patience only, one number an exit."""
    out = tmp_path / "run"
    argv = [*options(workplace, out=out), "--task=stsb", "--epochs=4"]
    done = call(train.main, *argv)
    assert done.returncode == 0, done.stderr
    result = json.loads((out / "result.json").read_text())
    assert result["metric"] == "pearson" and result["majority"] == {"pearson": 0, "spearman": 0}
    assert [row["exit"] for row in result["exits"]] == [1, 2, 3]
    assert [(row["rule"], row["threshold"]) for row in result["sweep"]] == [
        ("patience", 1), ("patience", 2)
    ]  # fmt: skip
    assert "exit  pearson  spearman\n" in done.stdout and "(always the mean)" in done.stdout
    model, tokenizer, config = load_run(out, MultiExitBert)
    assert config["labels"] == ["score"] and model.exits[0].out_features == 1
    dev = load_task("stsb", workplace).dev
    encoded = encode(tokenizer, dev, 16)
    with torch.no_grad():
        z = model(*data.collate(encoded, np.arange(len(dev)))[:3])[..., 0].numpy()  # (M, N)
    for m, row in enumerate(result["exits"]):
        expected = np.corrcoef(z[m], [e.label for e in dev])[0, 1]
        assert row["pearson"] == pytest.approx(expected, abs=1e-5) and -1 <= row["spearman"] <= 1
    done = call(ask, out, dev[0].text_a, dev[0].text_b)
    rows = [line.split() for line in done.stdout.splitlines() if line[:4].strip().isdigit()]
    assert [row[1] for row in rows] == ["score"] * 3 and all(len(row) == 3 for row in rows)
    assert [float(row[2]) for row in rows] == pytest.approx(z[:, 0], abs=0.006)
    assert done.stdout.count("leaves at exit") == 2 and "p(" not in done.stdout
    done = call(data.main, "--task", "stsb", "--data-dir", workplace)
    mean = np.mean([e.label for e in load_task("stsb", workplace).train])
    assert f"labels: mean score {mean:.2f}" in done.stdout, done.stderr


def test_every_method_trains(workplace, tmp_path):
    """One epoch each; learned weights move, fixed ones stay."""
    methods = [
        ("none", "uniform", "cross"),
        ("last", "depth", "cross"),
        ("later", "learned", "single"),
        ("all", "learned", "bilevel"),
        ("none", "learned", "cross"),
    ]
    for teachers, weights, optimize in methods:
        out = tmp_path / f"{teachers}-{weights}-{optimize}"
        more = dict(teachers=teachers, weights=weights, optimize=optimize, out=out)
        folder = train.run(replace(parse(options(workplace, **more)), epochs=1))
        result = json.loads((folder / "result.json").read_text())
        learned = optimize if weights == "learned" else "fixed"
        assert result["method"] == dict(teachers=teachers, weights=weights, optimize=learned)
        w_ce = result["weights"]["ce"]
        if weights == "uniform":
            assert w_ce == [1, 1, 1]
        elif weights == "depth":
            assert w_ce == pytest.approx([0.5, 1, 1.5])
        else:
            assert w_ce != [1, 1, 1] and (max(w_ce) < 1 or optimize != "single")


def test_predict_answers_the_test_set_at_the_end(workplace, tmp_path, call):
    data = tmp_path / "glue"
    for name in ("train", "dev"):
        text = (workplace / "SST-2" / f"{name}.tsv").read_text(encoding="utf-8")
        write(data / "SST-2" / f"{name}.tsv", text)
    arguments = [*options(workplace, out=tmp_path / "run"), "--predict", "--data-dir", data]
    missing = call(train.main, *arguments)
    assert (missing.returncode, missing.stderr.count("\n")) == (2, 1)
    assert "no test file of sst2" in missing.stderr and not (tmp_path / "run").exists()
    write(data / "SST-2" / "test.tsv", "index\tsentence\n0\tgood film\n1\tbad film\n")
    done = call(train.main, *arguments)
    assert done.returncode == 0, done.stderr
    answers = (tmp_path / "run" / "SST-2.tsv").read_text(encoding="utf-8").split("\n")
    assert answers[0] == "index\tprediction" and [x[:2] for x in answers[1:3]] == ["0\t", "1\t"]


def test_own_files_train_like_a_glue_task(workplace, tmp_path, monkeypatch):
    """SST-2's files are such files. Same examples, same run; only the task's name differs."""
    monkeypatch.chdir(tmp_path)
    files = [f"--{n}-file={workplace / 'SST-2' / n}.tsv" for n in ("train", "dev")]
    glue = options(workplace, out=tmp_path / "glue")
    own = [o for o in glue if not o.startswith(("--task", "--out"))] + files
    results = [
        without_clocks(json.loads((train.run(parse(argv)) / "result.json").read_text()))
        for argv in (glue, own)
    ]
    assert [r.pop("task") for r in results] == ["sst2", "own"] and results[0] == results[1]
    facts = json.loads(Path("runs/own-all-cross-s0/config.json").read_text())
    assert facts["labels"] == ["0", "1"] and not facts["pairs"]
    config = parse(files)
    assert (config.model, config.lr, config.epochs) == ("bert-base-uncased", 2e-5, 3)


# --------------------------------------------------------------------------------------------------
# Parts


def examples_of(workplace, tmp_path, monkeypatch, **change):
    """The numbers of the examples in d1, d2 and again, step by step, of a run on 32 of them."""
    steps = []

    def spy(model, loss_weights, first, second, *batches, **options):
        steps.append([set() if b is None else {int(i) for i in b.labels} for b in batches])
        return torch.zeros(3), torch.zeros(3, 3)

    monkeypatch.setattr(train, "training_step", spy)
    config = replace(parse(options(workplace)), train_examples=32, **change)
    task, tokenizer, model = train.prepare(config)
    encoded = encode(tokenizer, task.train, 16)._replace(labels=np.arange(32, dtype=np.float32))
    with open(tmp_path / "log", "w") as log:
        train.train(config, model, LossWeights(3), encoded, tmp_path, log)
    return steps


@pytest.mark.parametrize("change, sizes", [
    (dict(optimize="bilevel"), {(8, 8, 0)}),
    (dict(optimize="cross"), {(8, 4, 4)}),
    (dict(optimize="cross", lam=3.0), {(8, 2, 6), (8, 2, 4)}),
    (dict(optimize="cross", omega_every=2), {(8, 4, 4), (8, 0, 0)}),
    (dict(optimize="single"), {(8, 0, 0)}),
    (dict(weights="uniform"), {(8, 0, 0)}),
])  # fmt: skip
def test_who_sees_which_examples(workplace, tmp_path, monkeypatch, change, sizes):
    """The judge sees one batch, in the ratio 1 : lambda; Theta never sees d2, nor does `again`."""
    steps = examples_of(workplace, tmp_path, monkeypatch, **change)
    assert len(steps) == 8 and {tuple(map(len, step)) for step in steps} == sizes
    if change.get("omega_every"):
        assert [not d2 for _, d2, _ in steps] == [False, True] * 4
    d1, d2, again = (set.union(*part) for part in zip(*steps, strict=True))
    assert d1 | d2 == set(range(32)) and not d1 & d2 and len(d2) == (16 if any(again | d2) else 0)
    assert again <= d1
    if again:  # drawn independently: not the step's own, nor those that it has left over
        assert any(own & more for own, _, more in steps) and any(m - own for own, _, m in steps)


def test_train_is_cut_again_in_every_epoch_if_asked(workplace, tmp_path, monkeypatch):
    steps = examples_of(workplace, tmp_path, monkeypatch, redraw=True)
    epochs = [[set.union(*p) for p in zip(*steps[i : i + 4], strict=True)] for i in (0, 4)]
    assert all(d1 | d2 == set(range(32)) and not d1 & d2 >= again for d1, d2, again in epochs)
    assert epochs[0][1] != epochs[1][1]


def test_learning_rate_rises_and_falls_linearly():
    config = Config(lr=1.0, warmup=0.25)
    rates = [learning_rate(step, 8, config) for step in range(8)]
    assert rates == pytest.approx([1 / 2, 1, 6 / 7, 5 / 7, 4 / 7, 3 / 7, 2 / 7, 1 / 7])


def test_weight_decay_is_for_matrices():
    """And Omega's Adam has an eps in proportion to xi, as the hypergradient has its size."""
    model, config = tiny_model(), Config(lr=1.0, step_size=2e-5)
    theta, omega = train.make_optimizers(model, LossWeights(3), config)
    assert omega.param_groups[0]["eps"] == 1e-8 * 2e-5
    matrices, vectors = theta.param_groups
    names = {id(p): name for name, p in model.named_parameters()}
    assert matrices["weight_decay"] == 0.01 and vectors["weight_decay"] == 0
    assert all("norm" in names[id(p)] or "bias" in names[id(p)] for p in vectors["params"])
    assert not any("norm" in names[id(p)] or "bias" in names[id(p)] for p in matrices["params"])
    assert len(names) == len(matrices["params"]) + len(vectors["params"])


def test_the_operating_point_is_the_fastest_that_costs_a_point():
    rows = [
        dict(acc=a, speedup_layers=s) for a, s in [(0.9, 1.0), (0.89, 2.0), (0.88, 3.0), (0.9, 1.5)]
    ]
    assert operating_point(rows, 0.9, "acc") == 1
    assert operating_point(rows, 0.95, "acc") is None


def test_levels_are_counted_apart():
    task = load_task("toy")
    examples = [next(e for e in task.dev if e.level == level) for level in (1, 2, 2, 4)]
    predictions = np.array([e.label for e in examples])
    predictions[1] = 1 - predictions[1]
    levels = data.by_level(examples, predictions, np.array([1, 2, 4, 6]))
    assert levels == [
        dict(level=1, acc=1.0, mean_exit=1.0),
        dict(level=2, acc=0.5, mean_exit=3.0),
        dict(level=4, acc=1.0, mean_exit=6.0),
    ]


def test_a_finished_run_is_never_overwritten(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = []
    for _ in range(3):
        names.append(runs.run_folder(Config()).as_posix())
        Path(names[-1]).mkdir(parents=True)
    assert names == [f"runs/toy-all-cross-s0{n}" for n in ("", "-2", "-3")]
    write(tmp_path / "mine" / "result.json", "{}")
    with pytest.raises(ValueError, match="--out mine holds a run"):
        runs.run_folder(Config(out="mine"))


# --------------------------------------------------------------------------------------------------
# Bad input: one clear line, exit status 2


@pytest.mark.parametrize("change, message", [
    ({"task": "imdb"}, "invalid choice: 'imdb'"),
    ({"teachers": "some"}, "invalid choice: 'some'"),
    ({"epochs": "many"}, "invalid int value: 'many'"),
    ({"colour": "red"}, "unrecognized arguments: --colour=red"),
    ({"lr": -1}, "--lr must be positive and finite, not -1.0"),
    ({"lr": "nan"}, "--lr must be positive and finite, not nan"),
    ({"seed": -1}, "--seed must be 0 or more, and finite, not -1"),
    ({"lam": "inf"}, "--lam must be 0 or more, and finite, not inf"),
    ({"train_examples": -5}, "--train-examples must be 0 or more, and finite, not -5"),
    ({"warmup": 5}, "--warmup must be at least 0 and below 1, not 5.0"),
    ({"d2_fraction": 1}, "--d2-fraction must be at least 0 and below 1, not 1.0"),
    ({"max_length": 33}, "--max-length must lie between 8 and 32"),
    ({"train_examples": 61}, "train has only 60"),
    ({"model": "nowhere"}, "no model 'nowhere'"),
    ({"model": "toy"}, "--model toy knows the words of the toy task only"),
    ({"device": "cuda"}, "--device cuda is not available"),
    ({"task": "cola"}, "no data for cola"),
    ({"task": "sst2", "train_file": "a", "dev_file": "b"}, "--task cannot be combined with"),
    ({"task": None, "train_file": "a"}, "--train-file and --dev-file belong together"),
    ({"task": None, "dev_file": "a"}, "--train-file and --dev-file belong together"),
    ({"task": None, "train_file": "a.tsv", "dev_file": "b"}, "No such file or directory: 'a.tsv'"),
])  # fmt: skip
def test_bad_input_is_one_line_and_status_2(workplace, monkeypatch, call, change, message):
    if change.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.setattr("support.downloads.GLUE_URL", "http://127.0.0.1:9/")
    argv = [o for o in options(workplace) if "task=" not in o or change.get("task", o)]
    argv += options_of({name: value for name, value in change.items() if value is not None})
    done = call(train.main, *argv)
    assert done.returncode == 2 and message in done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def options_of(change):
    return [f"--{name.replace('_', '-')}={value}" for name, value in change.items()]


def test_bad_files_are_one_line_in_every_script(workplace, call):
    bad = workplace / "bad"
    write(bad / "SST-2" / "train.tsv", "sentence\tlabel\nfine\t1\nfine\n")
    write(bad / "SST-2" / "dev.tsv", "sentence\tlabel\nfine\t1\n")
    line = f"error: {bad / 'SST-2' / 'train.tsv'}:3: 1 columns where 2 belong\n"
    data_dir = f"--data-dir={bad}"
    for main, args in ((train.main, [*options(workplace), data_dir]),
                       (data.main, ["--task=sst2", data_dir])):  # fmt: skip
        done = call(main, *args)
        assert (done.returncode, done.stderr) == (2, line)
    for main, args in ((ask, [bad, "x"]), (ask, []), (bert.main, [bad])):
        done = call(main, *args)
        assert done.returncode == 2 and done.stderr


def test_a_run_warns_of_nothing(workplace, tmp_path):
    """From another folder, into one with a space in its name, warnings being errors."""
    out = tmp_path / "a run"
    for argv in ([ROOT / "train.py", *options(workplace, out=out, epochs=1)],
                 [ROOT / "leebert.py", out, "the film was good"]):  # fmt: skip
        done = command("-W", "error", *argv, cwd=tmp_path)
        assert done.returncode == 0 and done.stderr == ""


def test_a_loss_that_is_not_finite_stops_the_run(workplace, tmp_path, monkeypatch, call):
    """What was written stays."""
    steps = []
    original = train.training_step

    def poisoned(model, *args, **kwargs):
        steps.append(1)
        if len(steps) == 12:  # in the second epoch
            with torch.no_grad():
                model.exits[0].bias[0] = math.inf
        return original(model, *args, **kwargs)

    monkeypatch.setattr(train, "training_step", poisoned)
    done = call(train.main, *options(workplace, out=tmp_path / "run"))
    assert done.returncode == 2
    assert done.stderr == "error: step 12: CE_1 is nan; try a smaller --lr\n"
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == 11
    saved = load_file(tmp_path / "run" / "model.safetensors")
    assert all(tensor.isfinite().all() for tensor in saved.values())
