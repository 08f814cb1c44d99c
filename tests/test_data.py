"""data.py, support/glue.py, support/downloads.py: splits, tasks, files with quirks, accidents."""

import hashlib
import io
import json
import math
import re
import zipfile
from collections import Counter, defaultdict
from http.client import IncompleteRead
from unittest.mock import Mock

import numpy as np
import pytest
from conftest import write
from tokenizers import Tokenizer
from tokenizers.processors import BertProcessing, RobertaProcessing, TemplateProcessing

import data
from data import METRICS, batches_by_length, collate, encode, load_task, load_tokenizer, own_task
from support import downloads
from support.downloads import find_model
from support.errors import UserError
from support.glue import GLUE, plain_lines, read_table, read_text

# --------------------------------------------------------------------------------------------------
# Splits


def test_the_cut_is_stratified_and_loses_nothing():
    labels = np.array([0] * 30 + [1] * 10 + [2] * 5)
    d1, d2 = data.split_train(labels, 0.4, np.random.default_rng(0))
    assert sorted([*d1, *d2]) == list(range(45))
    assert [int((labels[d2] == c).sum()) for c in range(3)] == [12, 4, 2]
    again = data.split_train(labels, 0.4, np.random.default_rng(0))
    other = data.split_train(labels, 0.4, np.random.default_rng(1))
    assert (again[1] == d2).all() and (other[1] != d2).any()


def test_every_class_of_two_or_more_is_in_both_parts():
    """Also where rounding would give one part nothing; a class of one goes to d1."""
    for fraction in (0.1, 0.5, 0.9):
        labels = np.array([0, 0, 1, 1, 1, 2])
        d1, d2 = data.split_train(labels, fraction, np.random.default_rng(0))
        assert set(labels[d1]) == {0, 1, 2} and set(labels[d2]) == {0, 1}


def test_scores_are_cut_at_random():
    """Floats have no classes: many occur once, and by class would all go to d1."""
    labels = np.random.default_rng(1).uniform(0, 5, 1001).astype(np.float32)
    d1, d2 = data.split_train(labels, 0.3, np.random.default_rng(0))
    assert sorted([*d1, *d2]) == list(range(1001)) and len(d2) == 300
    assert abs(labels[d1].mean() - labels[d2].mean()) < 0.3  # 3 standard errors of the difference
    other = data.split_train(labels, 0.3, np.random.default_rng(1))
    assert len(set(d2) & set(other[1])) < 150


def test_a_cut_that_leaves_a_part_empty_is_an_error():
    with pytest.raises(ValueError, match="1 training example.s. cut into d1 1, d2 0"):
        data.split_train([0], 0.5, np.random.default_rng(0))


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


def last_opinion(text):
    """Independently: the last plain statement, turned round by an odd number of `disagrees`."""
    words = text.split()
    plain = len(words) - words[::-1].index("calls")  # the place of the "it" after the last `calls`
    good = words[plain + 1] in "great superb charming brilliant moving fresh witty honest".split()
    return int(good) ^ (words[plain:].count("disagrees") % 2)


def test_toy_labels_by_an_independent_reading(toy):
    examples = [*toy.train, *toy.dev, *toy.test]
    assert all(e.label == last_opinion(e.text_a) for e in examples)
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


def strongest_rule(examples):
    """The largest z of all rules that look at one thing only -> z, that thing.

    A thing: a word, wherever; a word at a place, counted from either end; the number of words. If
    it says nothing, half of the examples that have it are good, with a standard deviation of
    sqrt(n) / 2.
    """
    labels = defaultdict(list)
    for e in examples:
        words = e.text_a.split()
        things = {*words, len(words)}
        things |= {(i, word) for i, word in enumerate(words)}
        things |= {(i - len(words), word) for i, word in enumerate(words)}
        for thing in things:
            labels[thing].append(e.label)
    z = {x: abs(sum(y) - len(y) / 2) / (len(y) ** 0.5 / 2) for x, y in labels.items()}
    best = max(z, key=z.get)
    return z[best], best


def test_no_single_thing_gives_a_toy_label_away(toy):
    """At chance: below 4, among some hundreds of rules. On level 1 the last word says it all."""
    for level in (2, 3, 4):
        z, _ = strongest_rule([e for e in toy.train if e.level == level])
        assert z < 4
    z, thing = strongest_rule([e for e in toy.train if e.level == 1])
    assert z > 10 and thing[0] == -2


# --------------------------------------------------------------------------------------------------
# GLUE's files


@pytest.mark.parametrize("content, rows", [
    # Nothing quotes. Python's csv reader, which knows quoting, sees fewer rows in QNLI.
    ('a\tb\n"one\ttwo\n"3"\tfo"ur\n5\tsix"\n',
     [['"one', "two"], ['"3"', 'fo"ur'], ["5", 'six"']]),
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


# Each task's own format, a bar for a tab: the line of names, a row of train and a row of dev, and
# what must come out of these two.
FORMATS = {
    "cola": (None, "gj04|1||Good.", "gj04|0|*|Bad the.", ("Good.", None, 1), ("Bad the.", None, 0)),
    "sst2": ("sentence|label", "ends in a space |0", "fine|1",
             ("ends in a space ", None, 0), ("fine", None, 1)),
    "mrpc": ("\ufeffQuality|#1 ID|#2 ID|#1 String|#2 String", "1|1|2|one|uno", "0|3|4|two|dos",
             ("one", "uno", 1), ("two", "dos", 0)),
    "qqp": ("id|qid1|qid2|question1|question2|is_duplicate", "0|1|2|who|whom|1", "0|1|2|why|how|0",
            ("who", "whom", 1), ("why", "how", 0)),
    "mnli": ("index|sentence1|sentence2|label1|gold_label", "0|p|h|neutral|contradiction",
             "0|q|h|entailment|neutral", ("p", "h", 2), ("q", "h", 1)),
    "stsb": ("index|genre|old_index|sentence1|sentence2|score", '0|main|1|A "plane.|Air.|4.750',
             "0|main|1|a|b|0.000", ('A "plane.', "Air.", 4.75), ("a", "b", 0.0)),
    "qnli": ("index|question|sentence|label", "0|q|s|entailment", "0|r|t|not_entailment",
             ("q", "s", 0), ("r", "t", 1)),
    "rte": ("index|sentence1|sentence2|label", "0|p|h|not_entailment", "0|q|h|entailment",
            ("p", "h", 1), ("q", "h", 0)),
    "wnli": ("index|sentence1|sentence2|label", "0|p|h|1", "0|q|h|0", ("p", "h", 1), ("q", "h", 0)),
}  # fmt: skip


def files_of(task):
    """-> path -> content. Dev has no last newline; MNLI's mismatched files have the row twice."""
    names, train, dev, *_ = FORMATS[task]
    test = ["\ufeffindex|" + "|".join(GLUE[task].texts), "0" + "|x" * len(GLUE[task].texts)]
    parts = {"train": [names, train], "dev": [names, dev], "test": test}
    if task == "mnli":
        for part in ("dev", "test"):
            header, row = parts.pop(part)
            parts |= {f"{part}_matched": [header, row], f"{part}_mismatched": [header, row, row]}
    files = {}
    for part, lines in parts.items():
        text = "\n".join(line for line in lines if line).replace("|", "\t")
        files[f"{GLUE[task].folder}/{part}.tsv"] = text + "\n" * (part != "dev")
    return files


@pytest.fixture
def glue_files(tmp_path):
    for task in GLUE:
        for name, content in files_of(task).items():
            write(tmp_path / name, content)
    return tmp_path


@pytest.mark.parametrize("name", GLUE)
def test_every_task_from_its_own_format(glue_files, name):
    task = load_task(name, glue_files)
    assert (task.train[0][:3], task.dev[0][:3]) == FORMATS[name][-2:]
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
    ("sst2", S, "train.tsv: no examples"),
    ("sst2", S + "a\t0\n1\n", "train.tsv:3: expected 2 columns, found 1"),
    ("sst2", S + "\n1\t2\t3\n", "train.tsv:2: expected 2 columns, found 1"),
    ("sst2", S.encode() + b"a\t1\n1\t\xff\n", "train.tsv:3: not UTF-8; save the file as"),
    ("sst2", "a\tA\n1\t2\n", "train.tsv:1: duplicate column name: a, a"),
    ("sst2", S + "a\t0\nb\t2\n", "train.tsv:3: label '2' is not one of 0, 1"),
    ("sst2", "text\tlabel\na\t0\n", "train.tsv:2: needs text under sentence, label; its"),
    ("sst2", "index\tsentence\n0\ta\n", "train.tsv:2: needs text under sentence, label; its"),
    ("stsb", PAIR + "a\tb\t5\na\tb\t5.1\n", ":3: label '5.1' is not a number from 0 to 5"),
    ("stsb", PAIR + "a\tb\tnan\n", "train.tsv:2: label 'nan' is not"),
    ("stsb", PAIR + "a\tb\thigh\n", "train.tsv:2: label 'high' is not"),
])  # fmt: skip
def test_a_malformed_file_is_named_with_its_line(glue_files, task, content, message):
    write(glue_files / GLUE[task].folder / "train.tsv", content)
    with pytest.raises(UserError, match=re.escape(message)):
        load_task(task, glue_files)


COUNTS = {
    "rte": (2490, 277, 3000), "cola": (8551, 1043, 1063), "sst2": (67349, 872, 1821),
    "mrpc": (3668, 408, 1725), "qnli": (104743, 5463, 5463), "wnli": (635, 71, 146),
    "stsb": (5749, 1500, 1379),
}  # fmt: skip


@pytest.mark.parametrize("name", COUNTS)
def test_row_counts_of_the_real_files(glue_dir, name):
    if not (glue_dir / GLUE[name].folder / "train.tsv").exists():
        pytest.skip(f"no {name} in {glue_dir}")
    task = load_task(name, glue_dir)
    assert (len(task.train), len(task.dev), len(task.test)) == COUNTS[name]


# --------------------------------------------------------------------------------------------------
# Files of your own


PLAIN = "label\ttext\n0\ta\n1\tb\n"
ONE, TWO = ('say "hi",\tthere\nyou', None, 1), ("b", None, 0)  # what four of the files say


@pytest.mark.parametrize("name, content, rows", [
    ("a.csv", 'Text,LABEL,,\r\n"say ""hi"",\tthere\nyou",pos ,,\r\n\r\nb,neg,,', [ONE, TWO]),
    ("a.json", '{"labels": "pos", "sentence": "say \\"hi\\",\\tthere\\nyou"}\n\n'
               '{"sentence": "b", "labels": "neg", "more": null}', [ONE, TWO]),
    # Not every mark belongs to a field in quotation marks: nothing quotes.
    ("a.tsv", 'label\ttext\n0\t"a"\n1\tb"\n', [('"a"', None, 0), ('b"', None, 1)]),
    ("a.txt", 'id\tText_B\tlabel\tTEXT_A\n1\tq\t1\tp\n2\t\t0\tr\n',
     [("p", "q", 1), ("r", "", 0)]),
    ("a.jsonl", '{"label": 1, "premise": "p", "hypothesis": "q"}\n'
                '{"label": false, "premise": "r", "hypothesis": "s"}',
     [("p", "q", 0), ("r", "s", 1)]),
    ("a.tsv", "label\tquestion\tsentence\n1\tp\tq\n0\tr\ts\n", [("p", "q", 1), ("r", "s", 0)]),
])  # fmt: skip
def test_own_files_as_people_have_them(tmp_path, capsys, name, content, rows):
    """Classes are train's labels, sorted. That dev is train is said."""
    path = write(tmp_path / name, content)
    task = own_task(str(path), str(path))
    assert [e[:3] for e in task.train] == [e[:3] for e in task.dev] == rows
    assert (task.name, task.metrics, task.test) == ("own", ("acc",), [])
    assert task.labels == tuple(sorted(task.labels)) and len(task.labels) == 2
    assert capsys.readouterr().out == f"{path}: the texts of 2 of 2 rows are in train too\n"


@pytest.mark.parametrize("name, train, message", [
    ("a.tsv", PLAIN + "\tforgotten\n", "a.tsv:4: label '' is not one of 0, 1"),
    ("a.tsv", "label,text\n0,a\n", "a.tsv:1: columns label,text; there must be one label or "
     "labels, and one of text, sentence, text_a, text_a + text_b, "),
    ("a.tsv", "label\ttext\ttext_a\n0\t1\ta\n", "a.tsv:1: columns label, text, text_a; there"),
    ("a.tsv", "label\ttext\ttext_b\n0\ta\tb\n1\ta\tb\n", "dev.tsv: one has pairs of texts, the"),
    ("a.tsv", "label\ttext\n0\ta\n0\tb\n", "a.tsv: every label is '0'"),
    ("a.csv", "label,text\n0.5,a\n2,b\n", "a.csv: labels are scores: 0.5, 2; name classes"),
    ("a.tsv", 'label\ttext\n0\ta\n1\t"b ""c"""\n', "a.tsv:3: a field in quotation marks, but a"),
    ("a.tsv", '"text"\t"label"\n"a"\t"x"\n', "a.tsv:1: a field in quotation marks, but a table"),
    ("a.csv", "label,text\n0,a,b\n", "a.csv:2: expected 2 columns, found 3"),
    ("a.csv", 'label,text\n0,a\n1,"b\n0,c\n', "a.csv:3: unexpected end of data; is every"),
    ("a.csv", b"label,text\n0,a\n1,\xff\n", "a.csv:3: not UTF-8; save the"),
    ("a.json", '{"label": 0, "text": "a"}\n\n{"label": 1}', ":3: needs text under text, label"),
    ("a.json", '{"label": null, "text": "a"}', "a.json:1: needs text under text, label"),
    ("a.json", '{"label": 1, "text": "\\ud800"}', "surrogates not allowed"),
    ("a.json", '{"label": 1, "text": "", "Text": ""}', "a.json:1: duplicate column name"),
    ("a.csv", "label,text\n", "a.csv: no examples"),
    pytest.param("a.tsv", "label\ttext\n" + "".join(f"{i}\tx\n" for i in range(9, 99)),
                 "dev.tsv:2: label '0' is not one of 10, 11, 12, 13, 14, 15, 16, 17, 18,",
                 id="a hundred classes do not fill the screen"),
])  # fmt: skip
def test_own_files_that_do_not_fit_are_named(tmp_path, name, train, message):
    paths = (write(tmp_path / name, train), write(tmp_path / "dev.tsv", PLAIN))
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        own_task(*paths)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 350 + len(str(tmp_path))


# --------------------------------------------------------------------------------------------------
# Metrics


def test_metrics_by_their_definitions():
    """From the four counts of a confusion matrix; also the two constant cases."""
    rng = np.random.default_rng(0)
    p, y = rng.integers(0, 2, 50), rng.integers(0, 2, 50)
    tp, fp = sum((p == 1) & (y == 1)), sum((p == 1) & (y == 0))
    fn, tn = sum((p == 0) & (y == 1)), sum((p == 0) & (y == 0))
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
    transformers = pytest.importorskip("transformers")
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
    ("other.txt", "", "Error while reading WordPiece file: "),
    ("vocab.txt", b"\xff\n", "Error while reading WordPiece file: stream did"),
])  # fmt: skip
def test_a_vocabulary_that_does_not_fit_is_named(tmp_path, file, content, message):
    write(tmp_path / file, content)
    expected = f"{tmp_path}: its tokenizer.json or vocab.txt: {message}"
    with pytest.raises(UserError, match=re.escape(expected)):
        load_tokenizer(tmp_path, 5)


ENDS = ("[SEP]", 3), ("[CLS]", 2)


@pytest.mark.parametrize("processor, good", [
    (BertProcessing(*ENDS), True), (RobertaProcessing(*ENDS), False), (None, False),
    (TemplateProcessing("$A", "$A $B"), False),
])  # fmt: skip
def test_an_exit_reads_cls_or_the_tokenizer_is_refused(tmp_path, processor, good):
    """None: trained with the library. The vocabulary is smaller than the model's, as if padded."""
    fields = json.loads(data.toy_tokenizer()._tokenizer.to_str()) | {"post_processor": None}
    tokenizer = Tokenizer.from_str(json.dumps(fields))
    tokenizer.enable_padding(length=40)
    if processor:
        tokenizer.post_processor = processor
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    if good:
        pair = load_tokenizer(tmp_path, 64).encode("ann calls", "it")
        assert pair.tokens == "[CLS] ann calls [SEP] it [SEP]".split()
        assert pair.type_ids == [0, 0, 0, 0, 1, 1]
    else:
        with pytest.raises(UserError, match="post-processor must make .CLS. a .SEP. b .SEP. of"):
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
    """With half of the padding of random batches or less, and in training in another order."""
    lengths = np.random.default_rng(1).integers(5, 100, N)
    rng = None if seed is None else np.random.default_rng(seed)
    batches = batches_by_length(lengths, B, 8, rng)
    assert sorted(np.concatenate(batches)) == list(range(N))
    assert {len(b) for b in batches} == ({N} if N < B else {N % B, B})
    padded = sum(len(b) * lengths[b].max() for b in batches)
    assert padded < 1.15 * lengths.sum() or N < B  # random batches: 1.8
    if rng is not None and N > B:
        same = batches_by_length(lengths, B, 8, np.random.default_rng(seed))
        other = batches_by_length(lengths, B, 8, rng)
        assert np.array_equal(np.concatenate(batches), np.concatenate(same))
        assert not np.array_equal(np.concatenate(batches), np.concatenate(other))
        firsts = [int(lengths[b].max()) for b in batches[:8]]
        assert firsts != sorted(firsts)  # the batches of a bucket are shuffled


# --------------------------------------------------------------------------------------------------
# Downloads, from a folder in place of a server


@pytest.fixture
def serve(monkeypatch, tmp_path_factory):
    """serve(name, content, known=True) -> path; known: put its true hash on the list."""
    folder = tmp_path_factory.mktemp("server")
    monkeypatch.setattr(downloads, "GLUE_URL", f"{folder.as_uri()}/")
    monkeypatch.setattr(downloads, "MRPC_URL", f"{folder.as_uri()}/msr_paraphrase_")
    monkeypatch.setitem(downloads.MODEL_URL, "bert-base-uncased", f"{folder.as_uri()}/")

    def serve(name, content, known=True):
        if known:
            monkeypatch.setitem(downloads.SHA256, name, hashlib.sha256(content).hexdigest())
        return write(folder / name, content)

    return serve


def archive(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as z:
        for name, content in members.items():
            z.writestr(name, content)
    return buffer.getvalue()


RTE = files_of("rte")


def leftovers(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_a_missing_task_is_downloaded_once(serve, tmp_path, monkeypatch):
    """Of the archive only the files we name, whatever path another one may have.

    Train is written last: the next try after an accident looks for train and dev.
    """
    written, evil = Mock(wraps=downloads.write), {"../../evil.tsv": "x", "RTE/../../evil.tsv": "x"}
    monkeypatch.setattr(downloads, "write", written)
    source, folder = serve("RTE.zip", archive(RTE | evil)), tmp_path / "deep" / "data"
    assert load_task("rte", folder).train[0].label == 1
    names = [call.args[0].name for call in written.mock_calls]
    assert names == ["test.tsv", "dev.tsv", "train.tsv"]
    assert leftovers(tmp_path) == [f"deep/data/RTE/{name}" for name in sorted(names)]
    source.unlink()
    assert load_task("rte", folder).train[0].label == 1


def test_a_download_leaves_the_files_that_are_there(serve, tmp_path):
    mine = "index\tsentence1\tsentence2\tlabel\n0\tmy\town\tentailment\n"
    write(tmp_path / "RTE" / "train.tsv", mine)
    serve("RTE.zip", archive(RTE))
    assert load_task("rte", tmp_path).train[0][:2] == ("my", "own")


@pytest.mark.parametrize("accident, message", [
    (None, "No such file"), ("wrong hash", "its hash is wrong"),
    (IncompleteRead(b"half", 9), "IncompleteRead"), (TimeoutError("timed out"), "timed out"),
    (OSError("HTTP Error 302: redirects"), "302: redirects"),
])  # fmt: skip
def test_no_accident_leaves_half_a_file(serve, tmp_path, monkeypatch, accident, message):
    """And the error says what to fetch, where to put it, and that the toy task needs neither."""
    if accident == "wrong hash":
        serve("RTE.zip", archive(RTE), known=False)
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
        find_model("bert-base-uncased", tmp_path)
    assert not leftovers(tmp_path)
    sources[2].write_bytes(content["model.safetensors"])
    folder = find_model("bert-base-uncased", tmp_path)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == content
    for source in sources:
        source.unlink()
    assert find_model("bert-base-uncased", tmp_path) == folder


def test_an_unknown_name_is_an_error():
    with pytest.raises(ValueError, match="no task 'imdb'; there are toy, cola"):
        load_task("imdb")
    with pytest.raises(ValueError, match="no model 'bert-huge': neither a folder nor one of bert"):
        find_model("bert-huge")
