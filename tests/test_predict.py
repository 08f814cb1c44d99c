"""tools/predict.py: every row, in the file's order, with the answer of its exit."""

import json
from dataclasses import asdict

import pytest
import torch
from conftest import write

from bert import Bert, BertConfig
from data import toy_tokenizer
from leebert import RULES, MultiExitBert, exits_from_logits
from support import runs
from support.glue import GLUE
from tools import predict
from tools.ask import load_run
from train import TOY_BERT

SENTENCES = [  # of many lengths, so that a batch by length is not the file's order
    "ann calls it dull .", "bob calls it witty . ann calls it dull . carl disagrees .", "dull .",
    "gus calls it tedious . ann agrees . fay disagrees .", "ann agrees .",
    "dora calls it great . emil disagrees .", "hanna calls it",
]  # fmt: skip
SERVER = {name: [spec.folder] for name, spec in GLUE.items()} | {"mnli": ["MNLI-m", "MNLI-mm"]}


def make_run(folder, name, pool="cls", **more):
    """A run with random weights, whose exits disagree, and its task's test files."""
    spec = GLUE[name]
    torch.manual_seed(3)
    toy = TOY_BERT | {"num_hidden_layers": 4, "initializer_range": 0.35}
    sizes = BertConfig(vocab_size=toy_tokenizer().get_vocab_size(), **toy)
    model = MultiExitBert(Bert(sizes), len(spec.labels), pool)
    for classifier in model.exits:
        classifier.bias.data += 2.5 if name == "stsb" else 0
    folder.mkdir()
    runs.save(model, folder / "model.safetensors")
    toy_tokenizer().save(str(folder / "tokenizer.json"))
    facts = {"bert": asdict(sizes), "labels": spec.labels, "task": name, "max_length": 32}
    facts |= {"pool": pool, "pairs": len(spec.texts) == 2, "data_dir": str(folder / "glue")} | more
    write(folder / "config.json", json.dumps(facts))
    lines = ["\t".join(["index", *spec.texts])]
    lines += ["\t".join([str(i), *[s] * len(spec.texts)]) for i, s in enumerate(SENTENCES)]
    for suffix in ("_matched", "_mismatched") if name == "mnli" else ("",):
        write(folder / "glue" / spec.folder / f"test{suffix}.tsv", "\n".join(lines) + "\n")
        lines.pop()  # the second file is one line shorter
    return folder


def read(path):
    """A file of answers -> name of a column -> its cells."""
    content = path.read_bytes().decode()
    assert content.endswith("\n") and "\r" not in content
    names, *rows = [line.split("\t") for line in content.splitlines()]
    columns = {name: [row[i] for row in rows] for i, name in enumerate(names)}
    assert columns["index"] == [str(i) for i in range(len(rows))]
    return columns


@pytest.mark.parametrize("task, pool", [*((task, "cls") for task in GLUE), ("mnli", "mean")])
def test_every_row_in_its_place(tmp_path, task, pool):
    """Against the whole model, one sentence at a time, and the rule on what each exit said."""
    folder = make_run(tmp_path / "run", task, pool)
    paths = predict.predict(folder, "patience", 1)
    names = [f"{name}{kind}.tsv" for name in SERVER[task] for kind in ("", "-exits")]
    assert paths == [folder / name for name in names]
    model, tokenizer, _ = load_run(folder)
    encodings = [tokenizer.encode(*[s] * len(GLUE[task].texts)) for s in SENTENCES]
    with torch.no_grad():
        logits = [model(torch.tensor([e.ids]), torch.tensor([e.type_ids])) for e in encodings]
    predictions, layers = exits_from_logits(torch.cat(logits, dim=1), "patience", 1)
    assert len(set(layers.tolist())) > 1
    for number, name in enumerate(SERVER[task]):
        N = len(SENTENCES) - number
        table, server = read(folder / f"{name}-exits.tsv"), read(folder / f"{name}.tsv")
        assert table["exit"] == [str(m) for m in layers[:N].tolist()]
        assert (table["rule"], table["threshold"]) == (["patience"] * N, ["1"] * N)
        assert server == {name: table[name] for name in ("index", "prediction")}
        if task == "stsb":  # clipped to the scale, and some of these are outside
            assert predictions.max() > 5 or predictions.min() < 0
            words = [f"{x:.3f}" for x in predictions.clamp(0, 5).tolist()]
        else:
            words = [GLUE[task].labels[x] for x in predictions[:N].tolist()]
        assert table["prediction"] == words


@pytest.mark.parametrize("point, rule", [
    ({"rule": "entropy", "threshold": 0.5}, ("entropy", 0.5)), (None, ("always", 4)),
    ({"rule": "mine", "threshold": 2}, ("mine", 2)),
])  # fmt: skip
def test_the_operating_point_is_the_default(tmp_path, call, monkeypatch, point, rule):
    """Without one: full depth. An added rule gets its threshold as it is."""
    monkeypatch.setitem(RULES, "mine", lambda history, t: (len(history[-t:]) == t) & sure(history))
    folder = make_run(tmp_path / "a run", "rte")
    write(folder / "result.json", json.dumps({"operating_point": point}))
    first = [path.read_bytes() for path in predict.predict(folder)]
    done = call(predict.main, folder, *rule, "--out", tmp_path / "again")
    again = [tmp_path / "again" / name for name in ("RTE.tsv", "RTE-exits.tsv")]
    assert first == [path.read_bytes() for path in again], done.stderr
    exits = [int(m) for m in read(folder / "RTE-exits.tsv")["exit"]]
    assert set(exits) == {4} if point is None else len(set(exits)) > 1
    words = f"test.tsv: 7 examples, {rule[0]} {rule[1]}, mean exit {sum(exits) / 7:.2f}\n"
    assert words in done.stdout, done.stderr
    done = call(predict.main, folder, "always", 2)
    assert done.returncode == 2 and f"{folder / 'RTE.tsv'} exists; move it" in done.stderr
    assert first == [(folder / name).read_bytes() for name in ("RTE.tsv", "RTE-exits.tsv")]
    done = call(predict.main, folder, "always", 2, "--out", tmp_path / "x" / "y")
    assert set(read(tmp_path / "x" / "y" / "RTE-exits.tsv")["exit"]) == {"2"}, done.stderr


def sure(history):
    return history[-1].softmax(-1).amax(-1) > 0.9


def test_a_file_of_your_own_is_answered_with_exit_rule_and_threshold(tmp_path, call):
    """Against the test set of the same sentences, of a run that knows no test set."""
    folder, out = make_run(tmp_path / "run", "rte"), tmp_path / "out.tsv"
    predict.predict(folder, "patience", 1)
    rows = [json.dumps({"Text_A": s, "text_b": s}) for s in SENTENCES]
    file = write(tmp_path / "x.jsonl", "\n".join(rows))
    config = json.loads((folder / "config.json").read_text())
    write(folder / "config.json", json.dumps(config | {"task": "own", "data_dir": "nowhere"}))
    done = call(predict.main, folder, "patience", 1, "--file", file, "--out", out)
    assert done.stdout.endswith(f"written: {out}\n"), done.stderr
    assert out.read_bytes() == (folder / "RTE-exits.tsv").read_bytes()
    write(file, '{"text": "ann calls it dull ."}')
    done = call(predict.main, folder, "patience", 1, "--file", file, "--out", file)
    assert done.returncode == 2 and "x.jsonl: trained on pairs" in done.stderr


@pytest.mark.parametrize("task, change, argv, message", [
    ("rte", {"task": "own"}, ["patience", "1"],
     "GLUE has no task own; --file FILE answers any file"),
    ("rte", {}, [], "result.json"),
    ("rte", {}, ["entropy", "nan"], "entropy needs a number from 0 to 1, not nan"),
    ("rte", {}, ["always", "0"], "always needs a whole number from 1 to 4, not 0.0"),
    ("rte", {}, ["patience", "1.5"], "patience needs a whole number from 1 to 4, not 1.5"),
    ("stsb", {}, ["entropy", "0.1"], "rule entropy needs the probabilities of classes"),
    ("qqp", {"broken": "7\tbroken\n"}, ["patience", "1"], "test.tsv:9: expected 3 columns"),
    ("mnli", {"broken": "6\tbroken\n"}, ["patience", "1"], "test_mismatched.tsv:8: expected"),
])  # fmt: skip
def test_what_cannot_be_predicted_is_one_line(tmp_path, call, task, change, argv, message):
    """A broken line of QQP's train is skipped, but the server counts those of test. And half of
    the answers are no answers.
    """
    folder = make_run(tmp_path / "run", task, **change)
    *_, last = sorted((folder / "glue" / GLUE[task].folder).glob("*.tsv"))
    last.write_text(last.read_text() + change.get("broken", ""))
    done = call(predict.main, folder, *argv)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
    assert not list(folder.glob("*.tsv"))
