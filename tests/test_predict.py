"""support/predict.py: every row, in the file's order, with the answer of its exit."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from test_data import write

from bert import Bert, BertConfig
from data import Task, toy_tokenizer
from leebert import RULES, MultiExitBert
from support import predict, runs
from support.glue import GLUE
from support.sentence import load_run

ROOT = Path(__file__).parent.parent
SENTENCES = [  # of many lengths, so that a batch by length is not the file's order
    "the plot is great", "although the cast and the plot is dull , the plot is great", "the",
    "the cast was not great but the music is awful", "dull", "the hero is not dull", "great and",
]  # fmt: skip
SERVER = {
    "cola": ["CoLA"], "sst2": ["SST-2"], "mrpc": ["MRPC"], "qqp": ["QQP"], "stsb": ["STS-B"],
    "mnli": ["MNLI-m", "MNLI-mm"], "qnli": ["QNLI"], "rte": ["RTE"], "wnli": ["WNLI"],
}  # fmt: skip


def make_run(folder, name, pool="cls", **more):
    """A run with random weights, which disagree from exit to exit, and its task's test files."""
    spec = GLUE[name]
    torch.manual_seed(0)
    sizes = BertConfig(
        vocab_size=toy_tokenizer().get_vocab_size(), hidden_size=12, num_hidden_layers=4,
        num_attention_heads=2, intermediate_size=16, max_position_embeddings=32,
        initializer_range=0.5,
    )  # fmt: skip
    model = MultiExitBert(Bert(sizes), len(spec.labels), pool)
    with torch.no_grad():
        for exit in model.exits:
            exit.bias += 2.5 if name == "stsb" else 0
            exit.weight *= 2.0
    folder.mkdir(parents=True)
    runs.save(model, folder / "model.safetensors")
    toy_tokenizer().save(str(folder / "tokenizer.json"))
    facts = {
        "bert": asdict(sizes),
        "labels": spec.labels,
        "task": name,
        "max_length": 32,
        "pool": pool,
    }
    facts["data_dir"] = str(folder / "glue")
    write(folder / "config.json", json.dumps(facts | more))
    lines = ["\t".join(["index", *spec.texts])]
    lines += ["\t".join([str(i), *[s] * len(spec.texts)]) for i, s in enumerate(SENTENCES)]
    for suffix in ("_matched", "_mismatched") if name == "mnli" else ("",):
        write(folder / "glue" / spec.folder / f"test{suffix}.tsv", "\n".join(lines) + "\n")
        lines.pop()  # the second file is one line shorter
    return folder


def table(path):
    content = path.read_bytes().decode()
    assert content.endswith("\n") and "\r" not in content
    return [line.split("\t") for line in content.split("\n")[:-1]]


@pytest.mark.parametrize("task, pool", [*((task, "cls") for task in GLUE), ("mnli", "mean")])
def test_every_row_in_its_place(tmp_path, task, pool):
    """Against the whole model, one sentence at a time, and the rule on what each exit said."""
    folder = make_run(tmp_path / "run", task, pool)
    paths = predict.predict(folder, "patience", 1)
    names = [f"{name}{kind}.tsv" for name in SERVER[task] for kind in ("", "-exits")]
    assert [path.name for path in paths] == names and all(path.parent == folder for path in paths)
    model, tokenizer, _ = load_run(folder, MultiExitBert)
    assert model.pool == pool
    pairs, seen = len(GLUE[task].texts) == 2, set()
    for number, name in enumerate(SERVER[task]):
        answers, exits = table(folder / f"{name}.tsv"), table(folder / f"{name}-exits.tsv")
        assert answers.pop(0) == ["index", "prediction"] and exits.pop(0) == ["index", "exit"]
        assert len(answers) == len(exits) == len(SENTENCES) - number
        for i, ((place, word), (same, m)) in enumerate(zip(answers, exits, strict=True)):
            assert place == same == str(i)
            encoding = tokenizer.encode(*[SENTENCES[i]] * (1 + pairs))
            with torch.no_grad():
                logits = model(torch.tensor([encoding.ids]), torch.tensor([encoding.type_ids]))
            left = [k for k in (1, 2, 3) if RULES["patience"](logits[:k], 1).item()] or [4]
            z = logits[int(m) - 1, 0]
            assert int(m) == left[0]
            if task == "stsb":
                assert float(word) == pytest.approx(min(max(z.item(), 0), 5), abs=6e-4)
            else:
                assert word == GLUE[task].labels[int(z.argmax())]
            seen.add(m)
    assert len(seen) > 1


def test_scores_are_clipped(tmp_path):
    folder = make_run(tmp_path / "run", "stsb")
    predict.predict(folder, "patience", 4)
    scores = [float(x) for _, x in table(folder / "STS-B.tsv")[1:]]
    assert 0 in scores or 5 in scores
    assert any(0 < x < 5 for x in scores) and all(0 <= x <= 5 for x in scores)


@pytest.mark.parametrize("point, rule", [
    ({"rule": "entropy", "threshold": 0.5}, ("entropy", 0.5)), (None, ("patience", 4)),
])  # fmt: skip
def test_the_operating_point_is_the_default(tmp_path, point, rule):
    """Without one: full depth."""
    folder = make_run(tmp_path / "run", "rte")
    write(folder / "result.json", json.dumps({"operating_point": point}))
    first = [path.read_bytes() for path in predict.predict(folder)]
    assert first == [path.read_bytes() for path in predict.predict(folder, *rule)]
    exits = {m for _, m in table(folder / "RTE-exits.tsv")[1:]}
    assert exits == {"4"} if point is None else len(exits) > 1


def files(folder):
    return sorted(str(path) for path in folder.rglob("*"))


@pytest.mark.parametrize("task, change, argv, message", [
    ("rte", {"task": "toy"}, [], "trained on toy, and GLUE's server has no such task"),
    ("rte", {"task": "own"}, [], "trained on own, and GLUE's server has no such task"),
    ("rte", {}, [], "result.json: no rule and threshold to take from it"),
    ("rte", {}, ["mood", "1"], "rule must be one of entropy, confidence, patience, not 'mood'"),
    ("rte", {}, ["entropy", "low"], "the threshold of entropy must be a number, not 'low'"),
    ("rte", {}, ["patience", "nan"], "the threshold of patience must be a whole number, not 'nan'"),
    ("rte", {}, ["patience", "1.5"], "the threshold of patience must be a whole number"),
    ("rte", {}, ["patience"], "usage: python -m support.predict RUN_DIR [RULE THRESHOLD]"),
    ("rte", {"data_dir": "nowhere"}, ["patience", "1"], "nowhere/RTE/test.tsv"),
    ("stsb", {}, ["entropy", "0.1"], "rule entropy needs the probabilities of classes"),
])  # fmt: skip
def test_what_cannot_be_predicted_is_one_line(
    tmp_path, monkeypatch, capsys, task, change, argv, message
):
    folder = make_run(tmp_path / "run", task, **change)
    before = files(folder)
    monkeypatch.setattr(sys, "argv", ["predict.py", str(folder), *argv])
    with pytest.raises(SystemExit) as stopped:
        predict.main()
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and message in error and error.count("\n") == 1
    assert files(folder) == before


def test_a_result_of_something_else_is_named(tmp_path):
    folder = make_run(tmp_path / "run", "rte")
    for content in ("{", "{}", "[]"):
        write(folder / "result.json", content)
        with pytest.raises(ValueError, match="result.json: no rule and threshold"):
            predict.predict(folder)


def test_half_of_mnli_is_nothing(tmp_path):
    """Neither here nor before a training that is to be followed by it."""
    folder = make_run(tmp_path / "run", "mnli")
    (folder / "glue" / "MNLI" / "test_mismatched.tsv").unlink()
    before = files(folder)
    with pytest.raises(OSError, match="test_mismatched.tsv"):
        predict.predict(folder, "patience", 1)
    assert files(folder) == before
    half = Task("mnli", [], [], [0], GLUE["mnli"].labels, ("acc",), dev_mismatched=[0])
    with pytest.raises(ValueError, match="--predict: no test file of mnli in data"):
        predict.check_tests(half, "data")


def test_a_broken_line_of_test_is_never_skipped(tmp_path):
    """In QQP's train they are: there the rows are not counted by a server."""
    folder = make_run(tmp_path / "run", "qqp")
    path = folder / "glue" / "QQP" / "test.tsv"
    path.write_text(path.read_text() + "7\tbroken\n")
    with pytest.raises(ValueError, match="test.tsv:9: 2 columns where 3 belong"):
        predict.predict(folder, "patience", 1)


def test_the_real_command(tmp_path):
    folder = make_run(tmp_path / "a run", "rte")
    done = subprocess.run(
        [sys.executable, "-m", "support.predict", str(folder), "confidence", "0.9"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    exits = [int(m) for _, m in table(folder / "RTE-exits.tsv")[1:]]
    mean = sum(exits) / len(exits)
    assert f"test.tsv: 7 examples, confidence 0.9, mean exit {mean:.2f} of 4" in done.stdout
