"""data.py, support/glue.py, support/downloads.py: splits, tasks, files with quirks, accidents."""

import hashlib
import io
import json
import math
import re
import zipfile
from collections import Counter
from http.client import IncompleteRead
from importlib import import_module
from unittest.mock import Mock

import numpy as np
import pytest
import transformers
from conftest import write
from tokenizers import Tokenizer
from tokenizers.processors import RobertaProcessing, TemplateProcessing

import data
from data import METRICS, batches_by_length, collate, encode, load_task, load_tokenizer, own_task
from exercises.common import Wrong
from support import downloads
from support.errors import UserError
from support.glue import GLUE, plain_lines, read_table, read_text

exercise_9 = import_module("exercises.09-a-fifth-level")  # reads the built-in task by itself

# --------------------------------------------------------------------------------------------------
# Splits


@pytest.mark.parametrize("fraction, sizes", [(0.05, [2, 1, 1, 0]), (0.95, [28, 9, 4, 0])])
def test_the_cut_is_stratified_and_loses_nothing(fraction, sizes):
    """Both parts get some of every class; a class of one goes to d1."""
    labels = np.repeat([0, 1, 2, 3], [30, 10, 5, 1])
    cuts = [data.split_train(labels, fraction, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    (d1, d2), (_, again), (_, other) = cuts
    assert sorted([*d1, *d2]) == list(range(46))
    assert np.bincount(labels[d2], minlength=4).tolist() == sizes
    assert (again == d2).all() and (other != d2).any()


def test_scores_are_cut_at_random():
    """Floats have no classes: many occur once, and by class would all go to d1."""
    labels = np.random.default_rng(1).uniform(0, 5, 1001).astype(np.float32)
    cuts = (data.split_train(labels, 0.3, np.random.default_rng(seed)) for seed in (0, 1))
    (d1, d2), (_, other) = cuts
    assert sorted([*d1, *d2]) == list(range(1001)) and len(d2) == 300
    assert len(set(d2) & set(other)) < 150


def test_a_subset_is_random_and_keeps_the_order():
    """The same for every seed of a run."""
    chosen = data.subset(list(range(100)), 30)
    assert chosen == sorted(set(chosen)) and len(chosen) == 30 and max(chosen) > 60
    assert chosen == data.subset(list(range(100)), 30)


# --------------------------------------------------------------------------------------------------
# The built-in task


@pytest.fixture(scope="module")
def toy():
    return data.toy_task()


def test_toy_labels_by_an_independent_reading(toy):
    examples = [*toy.train, *toy.dev, *toy.test]
    assert all(e.label == exercise_9.chain(e.text_a) for e in examples)
    assert all(e.label == data.toy_opinions(e.text_a)[-1][1] for e in examples[:2000])


def test_toy_levels_are_what_they_claim(toy):
    """Level - 1 speakers refer to the one before; 0 to 2 statements come before; all are equal."""
    words = {word for e in toy.train for word in e.text_a.split()}
    assert words == set(data.TOY_WORDS)
    for e in toy.train:
        verbs = [statement.split()[1] for statement in e.text_a.removesuffix(" .").split(" . ")]
        speakers = [statement.split()[0] for statement in e.text_a.split(" . ")]
        chain = verbs[len(verbs) - e.level :]
        assert chain[0] == "calls" and "calls" not in chain[1:]
        assert set(verbs[: -e.level]) <= {"calls"} and len(verbs) - e.level <= 2
        assert len(set(speakers)) == len(speakers)
    for part in (toy.train, toy.dev, toy.test):
        counts = Counter((e.level, e.label) for e in part)
        assert len(counts) == 8 and set(counts.values()) == {len(part) // 8}


def test_toy_is_deterministic_and_its_dev_is_unseen(toy):
    assert toy == data.toy_task()
    train, dev, test = ([e.text_a for e in part] for part in (toy.train, toy.dev, toy.test))
    assert not set(train) & set(dev + test) and len(set(dev + test)) == 2000
    # Of "ann calls it dull ." there are only 128, and each part has some.
    assert all(any(len(text.split()) == 5 for text in part) for part in (train, dev, test))


def test_no_single_thing_gives_a_toy_label_away(toy):
    """How often a word occurs, the word at a place, the length. On level 1 the last word does."""
    for level in (2, 3, 4):
        exercise_9.check_shortcuts([e for e in toy.train if e.level == level])
    with pytest.raises(Wrong, match="word 2 from the end alone tells 100%"):
        exercise_9.check_shortcuts([e for e in toy.train if e.level == 1])


# --------------------------------------------------------------------------------------------------
# GLUE's files


@pytest.mark.parametrize("content, rows", [
    # Nothing quotes. Python's csv reader, which knows quoting, sees fewer rows in QNLI.
    ('a\tb\n"one\ttwo\n"3"\tfo"ur\n5\t6"\n', [['"one', "two"], ['"3"', 'fo"ur'], ["5", '6"']]),
    # Only newlines and tabs separate: not what str.splitlines would cut at, nor blanks.
    ("a\tb\nx\u0085y\u2028z\x0c\x1c w\rv \tq\n", [["x\u0085y\u2028z\x0c\x1c w\rv ", "q"]]),
    # A byte-order mark, one carriage return a line, no newline at the end, where a blank counts.
    ("\ufeffa\tb\r\n1\tx\r\r\n0\ty ", [["1", "x\r"], ["0", "y "]]),
])  # fmt: skip
def test_quirks_of_the_format(tmp_path, content, rows):
    text = read_text(write(tmp_path / "a.tsv", content))
    rows = [dict(zip("ab", row, strict=True)) for row in rows]
    table = list(read_table("a.tsv", plain_lines(text)))
    assert table == [(f"a.tsv:{n}", row) for n, row in enumerate(rows, 2)]


# Each task's own format, a bar for a tab: the line of names, a row, and the labels of the row of
# train and of the row of dev.
ROW = "0|{a}|{b}|{y}"
FORMATS = {
    "cola": ("", "gj04|{y}|*|{a}", {"1": 1, "0": 0}),
    "sst2": ("sentence|label", "{a}|{y}", {"0": 0, "1": 1}),
    "mrpc": ("\ufeffQuality|#1 ID|#2 ID|#1 String|#2 String", "{y}|1|2|{a}|{b}", {"1": 1, "0": 0}),
    "qqp": ("id|qid1|qid2|question1|question2|is_duplicate", "0|1|2|{a}|{b}|{y}", {"1": 1, "0": 0}),
    "mnli": ("index|sentence1|sentence2|label1|gold_label", "0|{a}|{b}|neutral|{y}",
             {"contradiction": 2, "neutral": 1}),
    "stsb": ("index|genre|sentence1|sentence2|score", "0|main|{a}|{b}|{y}", {"4.75": 4.75, "0": 0}),
    "qnli": ("index|question|sentence|label", ROW, {"entailment": 0, "not_entailment": 1}),
    "rte": ("index|sentence1|sentence2|label", ROW, {"not_entailment": 1, "entailment": 0}),
    "wnli": ("index|sentence1|sentence2|label", ROW, {"1": 1, "0": 0}),
}  # fmt: skip
A, B = 'ends in a "blank ', "x"


def files_of(task):
    """-> path -> content. MNLI's mismatched files have their row twice."""
    names, row, labels = FORMATS[task]
    train, dev = (row.format(a=A, b=B, y=y) for y in labels)
    test = ["\ufeffindex|" + "|".join(GLUE[task].texts), "0" + "|x" * len(GLUE[task].texts)]
    parts = {"train": [names, train]}
    suffixes = ("_matched", "_mismatched") if task == "mnli" else ("",)
    for number, suffix in enumerate(suffixes, 1):
        parts[f"dev{suffix}"] = [names, *[dev] * number]
        parts[f"test{suffix}"] = [test[0], *[test[1]] * number]
    files = {part: "".join(f"{x}\n" for x in lines if x) for part, lines in parts.items()}
    return {f"{GLUE[task].folder}/{p}.tsv": text.replace("|", "\t") for p, text in files.items()}


@pytest.fixture
def glue_files(tmp_path):
    for task in GLUE:
        for name, content in files_of(task).items():
            write(tmp_path / name, content)
    return tmp_path


@pytest.mark.parametrize("name", GLUE)
def test_every_task_from_its_own_format(glue_files, name):
    task = load_task(name, glue_files)
    b = B if len(GLUE[name].texts) == 2 else None
    expected = [(A, b, y) for y in FORMATS[name][2].values()]
    assert [task.train[0][:3], task.dev[0][:3]] == expected
    assert task.num_classes == {"mnli": 3, "stsb": 1}.get(name, 2) and task.metrics[0] in METRICS
    assert task.test[0][0] == "x" and task.test[0].label == -1
    others = task.dev_mismatched, task.test_mismatched
    assert [len(part) for part in (task.dev, task.test)] == [1, 1]
    assert [len(part) for part in others] == ([2, 2] if name == "mnli" else [0, 0])
    assert all(e.label == -1 for e in task.test_mismatched)


def test_broken_lines_are_skipped_aloud_in_qqp(glue_files, capsys):
    path = glue_files / "QQP" / "train.tsv"
    path.write_text(path.read_text() + "a\tbroken\n")
    assert len(load_task("qqp", glue_files).train) == 1
    assert "QQP/train.tsv:3: 2 columns, skipped" in capsys.readouterr().out


S, PAIR = "sentence\tlabel\n", "sentence1\tsentence2\tscore\n"


@pytest.mark.parametrize("task, content, message", [
    ("sst2", S + "a\t0\n1\n", "train.tsv:3: expected 2 columns, found 1"),
    ("sst2", S.encode() + b"a\t1\n1\t\xff\n", "train.tsv:3: not UTF-8; save the file as"),
    ("sst2", S + "a\t0\nb\t2\n", "train.tsv:3: label '2' is not one of 0, 1"),
    ("sst2", "text\tlabel\na\t0\n", "train.tsv:2: needs text under sentence, label; its"),
    ("stsb", PAIR + "a\tb\t5\na\tb\t5.1\n", ":3: label '5.1' is not a number from 0 to 5"),
])  # fmt: skip
def test_a_malformed_file_is_named_with_its_line(glue_files, task, content, message):
    write(glue_files / GLUE[task].folder / "train.tsv", content)
    with pytest.raises(UserError, match=re.escape(message)):
        load_task(task, glue_files)


@pytest.mark.parametrize("name, counts", [
    ("rte", [2490, 277, 3000]), ("cola", [8551, 1043, 1063]), ("sst2", [67349, 872, 1821]),
    ("qnli", [104743, 5463, 5463]), ("stsb", [5749, 1500, 1379]),
])  # fmt: skip
def test_row_counts_of_the_real_files(glue_dir, name, counts):
    if not (glue_dir / GLUE[name].folder / "train.tsv").exists():
        pytest.skip(f"no {name} in {glue_dir}")
    task = load_task(name, glue_dir)
    assert [len(part) for part in (task.train, task.dev, task.test)] == counts


# --------------------------------------------------------------------------------------------------
# Files of your own


PLAIN = "label\ttext\n0\ta\n1\tb\n"
ONE, TWO = ('say "hi",\tthere\nyou', None, 1), ("b", None, 0)  # what four of the files say


@pytest.mark.parametrize("name, content, rows, said", [
    ("a.csv", 'Text,LABEL,,\r\n"say ""hi"",\tthere\nyou",pos ,,\r\n\r\nb,neg,,', [ONE, TWO],
     "a.csv:3: blanks around the label removed; 1 such row"),
    ("a.json", '{"labels": "pos", "sentence": "say \\"hi\\",\\tthere\\nyou"}\n\n'
               '{"sentence": "b", "labels": "neg", "more": null}', [ONE, TWO], ""),
    # Not every mark belongs to a field in quotation marks: nothing quotes.
    ("a.tsv", 'label\ttext\n0\t"a"\n1\tb"\n', [('"a"', None, 0), ('b"', None, 1)], ""),
    ("a.txt", 'id\tText_B\tlabel\tTEXT_A\n1\tq\t1\tp\n2\t\t0\tr\n',
     [("p", "q", 1), ("r", "", 0)], "a.txt:3: an empty text; 1 such row"),
])  # fmt: skip
def test_own_files_as_people_have_them(tmp_path, capsys, name, content, rows, said):
    """Classes are train's labels, sorted. Slips are said, and that dev is train."""
    path = write(tmp_path / name, content)
    task = own_task(str(path), str(path))
    assert [e[:3] for e in task.train] == [e[:3] for e in task.dev] == rows
    assert (task.name, task.metrics, task.test) == ("own", ("acc",), [])
    assert task.labels == tuple(sorted(task.labels)) and len(task.labels) == 2
    *slips, same = capsys.readouterr().out.splitlines()
    assert same == f"{path}: the texts of 2 of 2 rows are in train too"
    assert len(slips) == 2 * bool(said) and all(said in line for line in slips)


def test_labels_that_are_ids_are_pointed_out(tmp_path, capsys):
    path = write(tmp_path / "a.csv", "label,text\n" + "".join(f"{i},t{i}\n" for i in range(9)))
    own_task(str(path), str(write(tmp_path / "b.csv", "label,text\n0,new\n")))
    assert capsys.readouterr().out == f"{path}: 9 classes in 9 rows; is the label an id?\n"


@pytest.mark.parametrize("name, train, message", [
    ("a.tsv", PLAIN + "\tforgotten\n", "a.tsv:4: label '' is not one of 0, 1"),
    ("a.tsv", "label,text\n0,a\n", "a.tsv:1: columns label,text; there must be one label"),
    ("a.tsv", "label\ttext\ttext_a\n0\t1\ta\n", "a.tsv:1: columns label, text, text_a; there"),
    ("a.tsv", "label\ttext\ttext_b\n0\ta\tb\n1\ta\tb\n", "dev.tsv: one has pairs of texts, the"),
    ("a.csv", "label,text\n0.5,a\n2,b\n", "a.csv: labels are scores: 0.5, 2; name classes"),
    ("a.tsv", 'label\ttext\n0\ta\n1\t"b ""c"""\n', "a.tsv:3: a field in quotation marks, but a"),
    ("a.csv", 'label,text\n0,a\n1,"b\n0,c\n', "a.csv:3: unexpected end of data; is every"),
    ("a.json", '{"label": 0, "text": "a"}\n\n{"label": 1}', ":3: needs text under text, label"),
    ("a.json", '{"label": 1, "text": "", "Text": ""}', "a.json:1: duplicate column name"),
    ("a.csv", "label,text\n", "a.csv: no examples"),
])  # fmt: skip
def test_own_files_that_do_not_fit_are_named(tmp_path, name, train, message):
    paths = (write(tmp_path / name, train), write(tmp_path / "dev.tsv", PLAIN))
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        own_task(*paths)
    assert "\n" not in str(caught.value)


# --------------------------------------------------------------------------------------------------
# Metrics


def test_metrics_by_their_definitions():
    """From the four counts of a confusion matrix; also the two constant cases."""
    rng = np.random.default_rng(0)
    p, y = rng.integers(0, 2, (2, 50))
    tn, fn, fp, tp = np.bincount(2 * p + y)
    assert METRICS["acc"](p, y) == pytest.approx((tp + tn) / 50)
    precision, recall = tp / (tp + fp), tp / (tp + fn)
    assert METRICS["f1"](p, y) == pytest.approx(2 * precision * recall / (precision + recall))
    scale = math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    assert METRICS["mcc"](p, y) == pytest.approx((tp * tn - fp * fn) / scale)
    zeros = np.zeros(50, dtype=int)
    assert METRICS["mcc"](zeros, y) == 0 and METRICS["f1"](zeros, zeros) == 0


def test_correlations_by_their_definitions():
    """numpy's corrcoef, of ranks counted one by one: rank = 1 + smaller ones + half of the ties."""
    rng = np.random.default_rng(0)
    p, y = rng.integers(0, 9, 60) / 2, rng.integers(0, 26, 60).astype(np.float32) / 5
    p = p + np.round(y)  # ties in both, 0.2 being no float32
    counted = [[sum(b < a for b in x) + sum(b == a for b in x) / 2 for a in x] for x in (p, y)]
    assert METRICS["pearson"](p, y) == pytest.approx(np.corrcoef(p, y)[0, 1], abs=1e-6)
    assert METRICS["spearman"](p, y) == pytest.approx(np.corrcoef(*counted)[0, 1], abs=1e-12)
    for name in ("pearson", "spearman"):  # of a constant that no float is exactly
        assert METRICS[name](np.full_like(y, y.mean()), y) == METRICS[name](y, y * 0) == 0


# --------------------------------------------------------------------------------------------------
# Tokens and batches


@pytest.mark.parametrize("file", ["tokenizer.json", "vocab.txt"])
def test_tokens_equal_transformers(minilm, glue_dir, tmp_path, file):
    """Pairs, truncated longest first, and signs that no English text has."""
    write(tmp_path / file, (minilm / file).read_bytes())
    examples = load_task("rte", glue_dir).dev[:100]
    examples.append(data.Example("Ça coûte 5 € — naïve 中文 façade\u200b", "", 0))
    reference = transformers.AutoTokenizer.from_pretrained(minilm)
    expected = reference([e.text_a for e in examples], [e.text_b for e in examples],
                         truncation="longest_first", max_length=40)  # fmt: skip
    encoded = encode(load_tokenizer(tmp_path, 30522), examples, 40)
    assert encoded.input_ids == expected["input_ids"]
    assert encoded.token_type_ids == expected["token_type_ids"]
    assert encoded.lengths.max() == 40 and encoded.labels.tolist() == [e.label for e in examples]


def test_what_is_too_long_is_cut_and_said_once(capsys):
    """An enormous field, an empty one, and one that just fits: [CLS] and [SEP] count."""
    texts = ["the " * 100_000, "", "the " * 14, "the " * 15]
    encoded = encode(data.toy_tokenizer(), [data.Example(text, None, 0) for text in texts], 16)
    assert encoded.lengths.tolist() == [16, 2, 16, 16]
    assert capsys.readouterr().out == "2 of 4 inputs cut to 16 tokens (--max-length)\n"


VOCAB = "[PAD]\n[UNK]\n[CLS]\n[SEP]\nhello\nHello\n"


def test_lower_casing_is_what_the_checkpoint_says(tmp_path):
    write(tmp_path / "vocab.txt", VOCAB)
    assert load_tokenizer(tmp_path, 6).encode("Hello").tokens == ["[CLS]", "hello", "[SEP]"]
    write(tmp_path / "tokenizer_config.json", '{"do_lower_case": false}')
    assert load_tokenizer(tmp_path, 6).encode("Hello").tokens == ["[CLS]", "Hello", "[SEP]"]


@pytest.mark.parametrize("file, content, message", [
    ("vocab.txt", VOCAB, "needs [PAD], [UNK], [CLS], [SEP] and ids below 5, as in"),
    ("vocab.txt", "a\nb\n", "sep_token not found in the vocabulary"),
    ("tokenizer.json", "{}", ""),
])  # fmt: skip
def test_a_vocabulary_that_does_not_fit_is_named(tmp_path, file, content, message):
    write(tmp_path / file, content)
    expected = f"{tmp_path}: its tokenizer.json or vocab.txt: {message}"
    with pytest.raises(UserError, match=re.escape(expected)):
        load_tokenizer(tmp_path, 5)


@pytest.mark.parametrize("processor", [
    RobertaProcessing(("[SEP]", 3), ("[CLS]", 2)), TemplateProcessing("$A", "$A $B"), None,
])  # fmt: skip
def test_an_exit_reads_cls_or_the_tokenizer_is_refused(tmp_path, processor):
    """None: trained with the library."""
    fields = json.loads(data.toy_tokenizer()._tokenizer.to_str()) | {"post_processor": None}
    tokenizer = Tokenizer.from_str(json.dumps(fields))
    if processor:
        tokenizer.post_processor = processor
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match="post-processor must make .CLS. a .SEP. b .SEP. of a pair"):
        load_tokenizer(tmp_path, 64)


def test_a_batch_is_padded_to_its_longest():
    task, tokenizer = data.toy_task(96, 8, 8), data.toy_tokenizer()
    encoded = encode(tokenizer, task.train, 64)
    chosen = np.array([3, 0, 5])
    batch, T = collate(encoded, chosen), encoded.lengths[chosen].max()
    for row, i in enumerate(chosen):
        n = encoded.lengths[i]
        assert batch.input_ids[row].tolist() == encoded.input_ids[i] + [0] * (T - n)
        assert batch.attention_mask[row].tolist() == [1] * n + [0] * (T - n)
        assert batch.labels[row] == task.train[i].label


@pytest.mark.parametrize("N, B", [(1, 16), (5, 16), (1003, 16), (2003, 128)])
@pytest.mark.parametrize("seed", [None, 0])
def test_batches_by_length_hold_every_example_once(N, B, seed):
    """With half of the padding of random batches or less."""
    lengths = np.random.default_rng(1).integers(5, 100, N)
    rng = None if seed is None else np.random.default_rng(seed)
    batches = batches_by_length(lengths, B, 8, rng)
    assert sorted(np.concatenate(batches)) == list(range(N))
    assert {len(b) for b in batches} == ({N} if N < B else {N % B, B})
    padded = sum(len(b) * lengths[b].max() for b in batches)
    assert padded < 1.15 * lengths.sum() or N < B  # random batches: 1.8
    if rng is not None and N > B:
        firsts = [int(lengths[b].max()) for b in batches[:8]]
        assert firsts != sorted(firsts)  # the batches of a bucket are shuffled


# --------------------------------------------------------------------------------------------------
# Downloads, from a folder in place of a server


@pytest.fixture
def serve(monkeypatch, tmp_path_factory):
    """serve(name, content) -> path; its hash is on the list."""
    folder = tmp_path_factory.mktemp("server")
    monkeypatch.setattr(downloads, "GLUE_URL", f"{folder.as_uri()}/")
    monkeypatch.setattr(downloads, "MRPC_URL", f"{folder.as_uri()}/msr_paraphrase_")
    monkeypatch.setitem(downloads.MODEL_URL, "bert-base-uncased", f"{folder.as_uri()}/")

    def serve(name, content):
        monkeypatch.setitem(downloads.SHA256, name, hashlib.sha256(content).hexdigest())
        return write(folder / name, content)

    return serve


def archive(members):
    with zipfile.ZipFile(buffer := io.BytesIO(), "w") as z:
        for name, content in members.items():
            z.writestr(name, content)
    return buffer.getvalue()


RTE = files_of("rte")


def leftovers(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_a_missing_task_is_downloaded_once(serve, tmp_path, monkeypatch):
    """Of the archive only the files we name, whatever path another one has. What is there stays.

    Train is written last: the next try after an accident looks for train and dev.
    """
    written, evil = Mock(wraps=downloads.write), {"../../evil.tsv": "x", "RTE/../../evil.tsv": "x"}
    monkeypatch.setattr(downloads, "write", written)
    source, folder = serve("RTE.zip", archive(RTE | evil)), tmp_path / "deep" / "data"
    mine = write(folder / "RTE" / "dev.tsv", RTE["RTE/dev.tsv"].replace(B, "mine"))
    assert load_task("rte", folder).train[0].label == 1
    assert [call.args[0].name for call in written.mock_calls] == ["test.tsv", "train.tsv"]
    assert leftovers(tmp_path) == [f"deep/data/{name}" for name in sorted(RTE)]
    assert "mine" in mine.read_text()
    source.unlink()
    assert load_task("rte", folder).train[0].label == 1


@pytest.mark.parametrize("accident, message", [
    (None, "No such file"), ("wrong hash", "its hash is wrong"),
    (IncompleteRead(b"half", 9), "IncompleteRead"),
    (OSError("HTTP Error 302: redirects"), "302: redirects"),
])  # fmt: skip
def test_no_accident_leaves_half_a_file(serve, tmp_path, monkeypatch, accident, message):
    """And the error says what to fetch, where to put it, and that the toy task needs neither."""
    if accident == "wrong hash":
        serve("RTE.zip", archive(RTE)).write_bytes(b"half")
    elif accident:
        monkeypatch.setattr(downloads, "urlopen", Mock(side_effect=accident))
    with pytest.raises(OSError, match=re.escape(message)) as caught:
        load_task("rte", tmp_path / "data")
    for hint in ("train.tsv, dev.tsv, test.tsv", str(tmp_path / "data" / "RTE"), "built-in task"):
        assert hint in str(caught.value)
    assert "\n" not in str(caught.value) and not (tmp_path / "data").exists()


def test_mrpc_is_made_from_the_public_release(serve, tmp_path):
    """Dev is the list of id pairs; the public test file's labels do not come along."""
    header = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n"
    train = header + '1\t1\t2\tone "\tuno\r\n0\t3\t4\ttwo\ttres\r\n1\t5\t6\tsix\tseis\r\n'
    serve("msr_paraphrase_train.txt", train.encode())
    serve("msr_paraphrase_test.txt", (header + "1\t7\t8\tx\ty\r\n").encode())
    serve("mrpc_dev_ids.tsv", b"3\t4\n")
    task = load_task("mrpc", tmp_path)
    assert [e[:3] for e in task.train] == [('one "', "uno", 1), ("six", "seis", 1)]
    assert [e[:3] for e in task.dev] == [("two", "tres", 0)]
    assert [e[:3] for e in task.test] == [("x", "y", -1)]
    assert leftovers(tmp_path) == ["MRPC/dev.tsv", "MRPC/test.tsv", "MRPC/train.tsv"]
    assert (tmp_path / "MRPC" / "test.tsv").read_text().startswith("index\t#1 ID\t")


def test_a_model_is_downloaded_once_and_whole(serve, tmp_path):
    content = {"config.json": b"{}", "vocab.txt": b"[PAD]\n", "model.safetensors": b"\0" * 999}
    sources = [serve(name, value) for name, value in content.items()]
    sources[2].write_bytes(b"half")
    with pytest.raises(OSError, match="no weights: .*Put config.json, vocab.txt.*--model"):
        downloads.find_model("bert-base-uncased", tmp_path)
    assert not leftovers(tmp_path)
    sources[2].write_bytes(content["model.safetensors"])
    folder = downloads.find_model("bert-base-uncased", tmp_path)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == content
    for source in sources:
        source.unlink()
    assert downloads.find_model("bert-base-uncased", tmp_path) == folder
