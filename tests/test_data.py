"""data.py, support/glue.py, support/downloads.py: splits, tasks, files with quirks, accidents."""

import errno
import hashlib
import http.server
import io
import json
import math
import os
import re
import threading
import zipfile
from collections import Counter, defaultdict
from unittest.mock import Mock

import numpy as np
import pytest

import data
from data import METRICS, buckets, collate, encode, load_task, own_task
from support import downloads
from support.checkpoints import load_tokenizer
from support.downloads import download, find_model
from support.glue import GLUE, read_tsv

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
    for level in (3, 4):
        z, _ = strongest_rule([e for e in toy.train if e.level == level])
        assert z < 4
    z, thing = strongest_rule([e for e in toy.train if e.level == 1])
    assert z > 10 and thing[0] == -2


def test_toy_vocabulary_covers_the_task():
    task, tokenizer = data.toy_task(100, 10, 10), data.toy_tokenizer()
    encoded = encode(tokenizer, task.train, 64)
    unknown = tokenizer.token_to_id("[UNK]")
    assert not any(unknown in ids for ids in encoded.input_ids)


# --------------------------------------------------------------------------------------------------
# GLUE's files


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_quotes_do_not_merge_rows(tmp_path):
    """Python's csv reader, which knows quoting, sees fewer rows in QNLI than there are."""
    path = write(tmp_path / "a.tsv", 'a\tb\n"one\ttwo\n"three"\tfo"ur\nfive\tsix"\n')
    assert [row for _, row in read_tsv(path)] == [
        {"a": '"one', "b": "two"}, {"a": '"three"', "b": 'fo"ur'}, {"a": "five", "b": 'six"'},
    ]  # fmt: skip


def test_only_newlines_and_tabs_separate(tmp_path):
    """Not U+0085, U+2028, form feed or a lone carriage return, where str.splitlines would cut."""
    text = "x\u0085y\u2028z\x0c\x1c w\rv "
    path = write(tmp_path / "a.tsv", f"a\tb\n{text}\tq\n")
    assert list(read_tsv(path)) == [(2, {"a": text, "b": "q"})]


def test_byte_order_mark_carriage_returns_and_missing_last_newline(tmp_path):
    path = write(tmp_path / "a.tsv", b"\xef\xbb\xbfQuality\tb\r\n1\tx\r\n0\ty")
    assert list(read_tsv(path)) == [
        (2, {"Quality": "1", "b": "x"}),
        (3, {"Quality": "0", "b": "y"}),
    ]


@pytest.mark.parametrize("content, message", [
    ("", "a.tsv: no examples"),
    ("a\tb\n", "a.tsv: no examples"),
    ("a\tb\n1\t2\n1\n", "a.tsv:3: 1 columns where 2 belong"),
    ("a\tb\n1\t2\t3\n", "a.tsv:2: 3 columns where 2 belong"),
    ("a\tb\n\n1\t2\n", "a.tsv:2: 1 columns where 2 belong"),
    (b"a\tb\n1\t2\n1\t\xff\n", "a.tsv:3: not UTF-8"),
    ("a\tb\n".encode("utf-16"), "a.tsv:1: not UTF-8"),
    ("a\ta\n1\t2\n", "a.tsv:1: two columns of one name: a, a"),
])  # fmt: skip
def test_a_malformed_file_is_named_with_its_line(tmp_path, content, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        list(read_tsv(write(tmp_path / "a.tsv", content)))


# One small set of files in each task's own format.
FILES = {
    "CoLA/train.tsv": "gj04\t1\t\tGood.\ngj04\t0\t*\tBad the.\n",
    "CoLA/dev.tsv": "gj04\t1\t\tLast line without newline.",
    "CoLA/test.tsv": "index\tsentence\n0\tWith a header.\n",
    "SST-2/train.tsv": "sentence\tlabel\nends in a space \t0\nfine\t1\n",
    "SST-2/dev.tsv": "sentence\tlabel\nfine\t1\n",
    "SST-2/test.tsv": "index\tsentence\n0\tno label\n",
    "MRPC/train.tsv": "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t1\t2\tone\tuno\n",
    "MRPC/dev.tsv": "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t3\t4\ttwo\ttres\n",
    "MRPC/test.tsv": "\ufeffindex\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t5\t6\tx\ty\n",
    "QQP/train.tsv": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n0\t1\t2\twho\twhom\t1\n",
    "QQP/dev.tsv": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n0\t1\t2\twhy\thow\t0\n",
    "QQP/test.tsv": "id\tquestion1\tquestion2\n0\ta\tb\n",
    "MNLI/train.tsv": "index\tsentence1\tsentence2\tlabel1\tgold_label\n"
    "0\tp\th\tneutral\tentailment\n1\tp\th\tneutral\tcontradiction\n",
    "MNLI/dev_matched.tsv": "index\tsentence1\tsentence2\tgold_label\n0\tm\th\tneutral\n",
    "MNLI/dev_mismatched.tsv": "index\tsentence1\tsentence2\tgold_label\n0\tmm\th\tentailment\n",
    "MNLI/test_matched.tsv": "index\tsentence1\tsentence2\n0\tt\th\n",
    "MNLI/test_mismatched.tsv": "index\tsentence1\tsentence2\n0\ttt\th\n",
    "STS-B/train.tsv": "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\t"
    'sentence2\tscore\n0\tmain\tMSR\t2012test\t1\tnone\tnone\tA "plane.\tAn air plane.\t4.750\n',
    "STS-B/dev.tsv": "index\tsentence1\tsentence2\tscore\n0\ta\tb\t0.000\n",
    "STS-B/test.tsv": "index\tsentence1\tsentence2\n0\ta\tb\n",
    "QNLI/train.tsv": "index\tquestion\tsentence\tlabel\n0\tq\ts\tentailment\n",
    "QNLI/dev.tsv": "index\tquestion\tsentence\tlabel\n0\tq\ts\tnot_entailment\n",
    "QNLI/test.tsv": "index\tquestion\tsentence\n0\tq\ts\n",
    "RTE/train.tsv": "index\tsentence1\tsentence2\tlabel\n0\tp\th\tnot_entailment\n",
    "RTE/dev.tsv": "index\tsentence1\tsentence2\tlabel\n0\tp\th\tentailment\n",
    "RTE/test.tsv": "index\tsentence1\tsentence2\n0\tp\th\n",
    "WNLI/train.tsv": "index\tsentence1\tsentence2\tlabel\n0\tp\th\t1\n",
    "WNLI/dev.tsv": "index\tsentence1\tsentence2\tlabel\n0\tp\th\t0\n",
    "WNLI/test.tsv": "index\tsentence1\tsentence2\n0\tp\th\n",
}
# What must come out: first train example, first dev example (texts and label), number of classes.
EXPECTED = {
    "cola": (("Good.", None, 1), ("Last line without newline.", None, 1), 2),
    "sst2": (("ends in a space ", None, 0), ("fine", None, 1), 2),
    "mrpc": (("one", "uno", 1), ("two", "tres", 0), 2),
    "qqp": (("who", "whom", 1), ("why", "how", 0), 2),
    "mnli": (("p", "h", 0), ("m", "h", 1), 3),
    "stsb": (('A "plane.', "An air plane.", 4.75), ("a", "b", 0.0), 1),
    "qnli": (("q", "s", 0), ("q", "s", 1), 2),
    "rte": (("p", "h", 1), ("p", "h", 0), 2),
    "wnli": (("p", "h", 1), ("p", "h", 0), 2),
}


@pytest.fixture
def glue_files(tmp_path):
    for name, content in FILES.items():
        write(tmp_path / name, content)
    return tmp_path


@pytest.mark.parametrize("name", GLUE)
def test_every_task_from_its_own_format(glue_files, name):
    task = load_task(name, glue_files)
    train, dev, num_classes = EXPECTED[name]
    assert task.train[0][:3] == train and task.dev[0][:3] == dev
    assert task.num_classes == num_classes and task.metrics[0] in METRICS
    assert [e.label for e in task.test] == [-1]
    for matched, other in ((task.dev, task.dev_mismatched), (task.test, task.test_mismatched)):
        assert [e.text_a for e in other] == ([2 * matched[0].text_a] if name == "mnli" else [])


def test_broken_lines_are_skipped_aloud_in_qqp_only(glue_files, capsys):
    for folder in ("QQP", "RTE"):
        path = glue_files / folder / "train.tsv"
        path.write_text(path.read_text() + "a\tbroken\n")
    assert len(load_task("qqp", glue_files).train) == 1
    assert "QQP/train.tsv:3: 2 columns, skipped" in capsys.readouterr().out
    with pytest.raises(ValueError, match="train.tsv:3: 2 columns where 4 belong"):
        load_task("rte", glue_files)


def test_a_task_without_its_test_file_loads(glue_files):
    (glue_files / "RTE" / "test.tsv").unlink()
    assert load_task("rte", glue_files).test == []


@pytest.mark.parametrize("file, content, message", [
    ("SST-2/train.tsv", "sentence\tlabel\na\t0\nb\t2\n", "train.tsv:3: label '2' is not one of"),
    ("STS-B/dev.tsv", "sentence1\tsentence2\tscore\na\tb\t5\na\tb\t5.1\n",
     "dev.tsv:3: label '5.1' is not a number from 0 to 5"),
    ("STS-B/train.tsv", "sentence1\tsentence2\tscore\na\tb\tnan\n",
     "train.tsv:2: label 'nan' is not a number from 0 to 5"),
    ("STS-B/train.tsv", "sentence1\tsentence2\tscore\na\tb\thigh\n",
     "train.tsv:2: label 'high' is not a number from 0 to 5"),
    ("SST-2/dev.tsv", "text\tlabel\na\t0\n", "dev.tsv:1: no column 'sentence' among text, label"),
    ("SST-2/dev.tsv", "index\tsentence\n0\ta\n", "dev.tsv:1: no column 'label' among index"),
    ("SST-2/train.tsv", "", "train.tsv: no examples in this file"),
])  # fmt: skip
def test_a_file_of_the_wrong_kind_is_named(glue_files, file, content, message):
    write(glue_files / file, content)
    with pytest.raises(ValueError, match=re.escape(message)):
        load_task("stsb" if "STS-B" in file else "sst2", glue_files)


def test_an_unknown_task_is_an_error():
    with pytest.raises(ValueError, match="no task 'imdb'; there are toy, cola"):
        load_task("imdb")


COUNTS = {
    "rte": (2490, 277, 3000),
    "cola": (8551, 1043, 1063),
    "sst2": (67349, 872, 1821),
    "mrpc": (3668, 408, 1725),
    "qnli": (104743, 5463, 5463),
    "wnli": (635, 71, 146),
    "stsb": (5749, 1500, 1379),
}


@pytest.mark.parametrize("name", COUNTS)
def test_row_counts_of_the_real_files(glue_dir, name):
    if not (glue_dir / GLUE[name].folder / "train.tsv").exists():
        pytest.skip(f"no {name} in {glue_dir}")
    task = load_task(name, glue_dir)
    assert (len(task.train), len(task.dev), len(task.test)) == COUNTS[name]


# --------------------------------------------------------------------------------------------------
# Files of your own


def test_own_files_singles_and_pairs(tmp_path):
    """Columns by name, in any order; classes are train's labels, sorted; nothing quotes."""
    train = write(tmp_path / "a.tsv", b'\xef\xbb\xbflabel\ttext\r\nso-so\t"one\r\nbad\ttwo\r\n')
    dev = write(tmp_path / "b.tsv", "id\ttext\tlabel\n7\tthree\tso-so\n8\tfour\tbad")
    task = own_task(str(train), str(dev))
    assert (task.name, task.labels, task.metrics) == ("own", ("bad", "so-so"), ("acc",))
    assert [e[:3] for e in task.train] == [('"one', None, 1), ("two", None, 0)]
    assert [e[:3] for e in task.dev] == [("three", None, 1), ("four", None, 0)] and not task.test
    pairs = write(tmp_path / "c.tsv", "text_b\tlabel\ttext_a\nq\t1\tp\ns\t0\tr\n")
    assert [e[:3] for e in own_task(pairs, pairs).dev] == [("p", "q", 1), ("r", "s", 0)]


GOOD_TSV = "label\ttext\n0\ta\n1\tb\n"


@pytest.mark.parametrize("train, dev, message", [
    (GOOD_TSV, "label\ttext\n0\ta\nx\tb\n", "dev.tsv:3: label 'x' is not one of 0, 1"),
    (GOOD_TSV, "label,text\n0,a\n", "dev.tsv:1: no column 'text' among label,text"),
    ("label,text\n0,a\n", GOOD_TSV, "train.tsv:1: columns (separated by tabs) must be label and "
     "one or two of text_a, sentence, text, text_b; here: label,text"),
    ("label\tsentence1\n0\ta\n", GOOD_TSV, "train.tsv:1: columns"),
    ("text\ttext_b\na\tb\n", GOOD_TSV, "here: text, text_b"),
    ("label\ttext\ttext_b\n0\ta\tb\n1\ta\tb\n", GOOD_TSV, "dev.tsv:1: no column 'text_b' among"),
    ("label\ttext\n0\ta\n0\tb\n", GOOD_TSV, "train.tsv: every label is '0'"),
    ("label\ttext\n0\ta\n1\n", GOOD_TSV, "train.tsv:3: 1 columns where 2 belong"),
    (GOOD_TSV + "\tforgotten\n", GOOD_TSV, "train.tsv:4: label '' is not one of 0, 1"),
    (GOOD_TSV, GOOD_TSV + "\tforgotten\n", "dev.tsv:4: label '' is not one of 0, 1"),
    ("", GOOD_TSV, "train.tsv: no examples"),
    (GOOD_TSV, "label\ttext\n", "dev.tsv: no examples"),
])  # fmt: skip
def test_own_files_that_do_not_fit_are_named(tmp_path, train, dev, message):
    paths = (write(tmp_path / "train.tsv", train), write(tmp_path / "dev.tsv", dev))
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        own_task(*paths)
    assert "\n" not in str(caught.value)


def test_a_hundred_classes_do_not_fill_the_screen(tmp_path):
    train = "label\ttext\n" + "".join(f"{i}\tx\n" for i in range(100))
    write(tmp_path / "dev.tsv", "label\ttext\n200\tx\n")
    with pytest.raises(ValueError, match=r"dev.tsv:2: label '200' .* \.\.\.$") as caught:
        own_task(write(tmp_path / "train.tsv", train), tmp_path / "dev.tsv")
    assert len(str(caught.value)) < 100 + len(str(tmp_path))


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
    p, y = rng.normal(size=60).astype(np.float32), rng.integers(0, 26, 60).astype(np.float32) / 5
    p[:20] = np.round(p[:20])  # ties in both, 0.2 being no float32
    p = p + y / 4
    counted = [
        [1 + sum(b < a for b in x) + (sum(b == a for b in x) - 1) / 2 for a in x] for x in (p, y)
    ]
    assert len(set(counted[0])) < 60 and len(set(counted[1])) < 27
    assert METRICS["pearson"](p, y) == pytest.approx(np.corrcoef(p, y)[0, 1], abs=1e-6)
    assert METRICS["spearman"](p, y) == pytest.approx(np.corrcoef(*counted)[0, 1], abs=1e-12)
    assert METRICS["spearman"](np.exp(y), y) == pytest.approx(1)
    assert METRICS["spearman"](-np.exp(y), y) == pytest.approx(-1)
    assert METRICS["pearson"](np.exp(y), y) < 0.9
    for name in ("pearson", "spearman"):  # of a constant that no float is exactly
        assert METRICS[name](np.full_like(y, y.mean()), y) == METRICS[name](y, y * 0) == 0


# --------------------------------------------------------------------------------------------------
# Tokens and batches


def test_tokens_equal_transformers(minilm, glue_dir):
    """Pairs, truncated longest first, from tokenizer.json and from vocab.txt."""
    transformers = pytest.importorskip("transformers")
    reference = transformers.AutoTokenizer.from_pretrained(minilm)
    examples = load_task("rte", glue_dir).dev[:100]
    expected = reference([e.text_a for e in examples], [e.text_b for e in examples],
                         truncation="longest_first", max_length=40)  # fmt: skip
    encoded = encode(load_tokenizer(minilm, 30522), examples, 40)
    assert encoded.input_ids == expected["input_ids"]
    assert encoded.token_type_ids == expected["token_type_ids"]
    assert encoded.lengths.max() == 40 and encoded.labels.tolist() == [e.label for e in examples]


def test_vocab_txt_and_tokenizer_json_agree(minilm, glue_dir, tmp_path):
    write(tmp_path / "vocab.txt", (minilm / "vocab.txt").read_bytes())
    examples = [*load_task("cola", glue_dir).dev[:200], *load_task("rte", glue_dir).dev[:100]]
    examples.append(data.Example("Ça coûte 5 € — naïve 中文 façade\u200b", None, 0))
    one, two = (encode(load_tokenizer(f, 30522), examples, 60) for f in (minilm, tmp_path))
    assert one.input_ids == two.input_ids and one.token_type_ids == two.token_type_ids


def test_what_is_too_long_is_cut_and_said_once(capsys):
    """An enormous field, an empty one, and one that just fits: [CLS] and [SEP] count."""
    texts = ["the " * 100_000, "", "the " * 14, "the " * 15]
    encoded = encode(data.toy_tokenizer(), [data.Example(text, None, 0) for text in texts], 16)
    assert encoded.lengths.tolist() == [16, 2, 16, 16]
    assert capsys.readouterr().out == "2 of 4 inputs cut to 16 tokens (--max-length)\n"
    assert collate(encoded, np.arange(4)).attention_mask.sum(dim=1).tolist() == [16, 2, 16, 16]


VOCAB = "[PAD]\n[UNK]\n[CLS]\n[SEP]\nhello\nHello\n"


def test_lower_casing_is_what_the_checkpoint_says(tmp_path):
    write(tmp_path / "vocab.txt", VOCAB)
    assert load_tokenizer(tmp_path, 6).encode("Hello").tokens == ["[CLS]", "hello", "[SEP]"]
    write(tmp_path / "tokenizer_config.json", '{"do_lower_case": false}')
    assert load_tokenizer(tmp_path, 6).encode("Hello").tokens == ["[CLS]", "Hello", "[SEP]"]


@pytest.mark.parametrize("file, content, size, message", [
    ("vocab.txt", VOCAB, 5, "ids up to 5, but the model has 5 embeddings"),
    ("vocab.txt", "a\nb\n", 99, "vocab.txt: sep_token not found in the vocabulary"),
    ("tokenizer.json", "{}", 99, "tokenizer.json: "),
    ("other.txt", "", 99, "vocab.txt: [Errno 2] No such file or directory"),
    ("vocab.txt", b"\xff\n", 99, "vocab.txt: 'utf-8' codec"),
    ("tokenizer_config.json", "[]", 99, "tokenizer_config.json: "),
    ("tokenizer_config.json", "{", 99, "tokenizer_config.json: "),
])  # fmt: skip
def test_a_vocabulary_that_does_not_fit_is_named(tmp_path, file, content, size, message):
    write(tmp_path / file, content)
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(message)):
        load_tokenizer(tmp_path, size)


def test_a_batch_is_padded_to_its_longest():
    task, tokenizer = data.toy_task(100, 10, 10), data.toy_tokenizer()
    encoded = encode(tokenizer, task.train, 64)
    chosen = np.array([3, 0, 5])
    batch = collate(encoded, chosen)
    assert batch.input_ids.shape == (3, encoded.lengths[chosen].max())
    for row, i in enumerate(chosen):
        n = encoded.lengths[i]
        assert batch.input_ids[row, :n].tolist() == encoded.input_ids[i]
        assert (batch.input_ids[row, n:] == 0).all()
        assert batch.attention_mask[row].tolist() == [1] * n + [0] * (batch.input_ids.shape[1] - n)
        assert batch.labels[row] == task.train[i].label


@pytest.mark.parametrize("rng", [None, 0])
def test_buckets_hold_every_example_once(rng):
    lengths = np.random.default_rng(1).integers(5, 100, 1003)
    batches = buckets(lengths, 16, rng if rng is None else np.random.default_rng(rng))
    assert sorted(np.concatenate(batches)) == list(range(1003))
    assert sorted({len(b) for b in batches}) == [11, 16]
    padded = sum(len(b) * lengths[b].max() for b in batches)
    plain = sum(16 * lengths[i : i + 16].max() for i in range(0, 1003, 16))
    assert padded < 1.15 * lengths.sum() < 0.75 * plain


def test_training_buckets_differ_from_pass_to_pass_and_not_from_seed_to_seed():
    lengths = np.random.default_rng(1).integers(5, 100, 200)
    rng, same = np.random.default_rng(0), np.random.default_rng(0)
    first, second, again = (buckets(lengths, 8, r) for r in (rng, rng, same))
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert any((a != b).any() for a, b in zip(first, second, strict=True))


# --------------------------------------------------------------------------------------------------
# Downloads, from a server on this machine


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `files`; a path in `cut` promises all of the file and breaks off after half."""

    files, cut, stalled = {}, set(), threading.Event()

    def do_GET(self):
        content = self.files.get(self.path)
        if content is None:
            return self.send_error(404)
        if content == b"elsewhere":
            self.send_response(302)
            self.send_header("Location", self.path)
            return self.end_headers()
        self.send_response(200)
        short = content.startswith(b"too little promised")
        self.send_header("Content-Length", str(10 if short else len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if self.path in self.cut else content)
        if content.startswith(b"stalls"):
            self.wfile.flush()
            self.stalled.wait(20)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    """serve(path, content, cut=False, known=True); known: put its true hash on the list."""
    Handler.files, Handler.cut, Handler.stalled = {}, set(), threading.Event()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{httpd.server_port}/"
        monkeypatch.setattr(downloads, "GLUE_URL", url)
        monkeypatch.setattr(downloads, "MRPC_URL", url)
        monkeypatch.setattr(downloads, "MODEL_URL", {"bert-base-uncased": url})

        def serve(name, content, cut=False, known=True):
            Handler.files["/" + name] = content
            if cut:
                Handler.cut.add("/" + name)
            if known:
                monkeypatch.setitem(downloads.SHA256, name, hashlib.sha256(content).hexdigest())

        serve.url = url
        yield serve
        Handler.stalled.set()
        httpd.shutdown()


def archive(**members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as z:
        for name, content in members.items():
            z.writestr(name.replace("__", "/").replace("_tsv", ".tsv"), content)
    return buffer.getvalue()


def rte_archive(**more):
    parts = {f"RTE__{p}_tsv": FILES[f"RTE/{p}.tsv"] for p in ("train", "dev", "test")}
    return archive(**parts, **more)


@pytest.mark.parametrize("N", [1, 2, 5, 31, 33])
def test_odd_numbers_of_examples(N):
    """Every part of a cut, and every batch, also where there are fewer examples than a batch."""
    labels = np.arange(N) % 2
    if N == 1:
        with pytest.raises(ValueError, match="1 training example"):
            data.split_train(labels, 0.5, np.random.default_rng(0))
    else:
        d1, d2 = data.split_train(np.zeros(N), 0.5, np.random.default_rng(0))  # one class only
        assert sorted([*d1, *d2]) == list(range(N)) and abs(len(d1) - len(d2)) <= 1
    for rng in (None, np.random.default_rng(0)):
        batches = buckets(np.full(N, 7), 32, rng)
        assert sorted(np.concatenate(batches)) == list(range(N))


def leftovers(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_a_missing_task_is_downloaded_once(server, tmp_path):
    server("RTE.zip", rte_archive())
    assert load_task("rte", tmp_path).train[0].label == 1
    assert leftovers(tmp_path) == ["RTE/dev.tsv", "RTE/test.tsv", "RTE/train.tsv"]
    Handler.files.clear()
    assert load_task("rte", tmp_path).train[0].label == 1


def test_a_download_leaves_the_files_that_are_there(server, tmp_path):
    mine = write(
        tmp_path / "RTE" / "train.tsv",
        "index\tsentence1\tsentence2\tlabel\n0\tmy\town\tentailment\n",
    )
    server("RTE.zip", rte_archive())
    assert load_task("rte", tmp_path).train[0][:2] == ("my", "own") and mine.exists()


def test_an_archive_cannot_write_where_it_wants(server, tmp_path):
    hostile = {"..__..__evil_tsv": "x", "RTE__..__..__evil_tsv": "x"}
    server("RTE.zip", rte_archive(**hostile))
    load_task("rte", tmp_path / "deep" / "data")
    assert [name for name in leftovers(tmp_path) if "evil" in name] == []


@pytest.mark.parametrize("accident, message", [
    ("404", "HTTP Error 404"),
    ("cut", "invalid hash value"),
    ("wrong hash", "invalid hash value"),
    ("redirects for ever", "infinite loop"),
    ("stalls", "timed out"),
    ("promises too little", "invalid hash value"),
    ("disk full", "No space left on device"),
])  # fmt: skip
def test_no_accident_leaves_half_a_file(server, tmp_path, monkeypatch, accident, message):
    """And the error says what to fetch, where to put it, and that the toy task needs neither."""
    if accident == "cut":
        server("RTE.zip", rte_archive(), cut=True)
    elif accident == "wrong hash":
        server("RTE.zip", rte_archive(), known=False)  # the hash on our list is the true file's
    elif accident == "redirects for ever":
        server("RTE.zip", b"elsewhere")
    elif accident == "stalls":
        monkeypatch.setattr(downloads, "TIMEOUT", 0.3)
        server("RTE.zip", b"stalls" * 1000, cut=True)
    elif accident == "promises too little":
        server("RTE.zip", b"too little promised" * 10)
    elif accident == "disk full":
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        monkeypatch.setattr("torch.hub.download_url_to_file", Mock(side_effect=full))
    with pytest.raises(OSError, match=re.escape(message)) as caught:
        load_task("rte", tmp_path)
    for hint in ("train.tsv, dev.tsv, test.tsv", str(tmp_path / "RTE"), "built-in task"):
        assert hint in str(caught.value)
    assert "\n" not in str(caught.value) and leftovers(tmp_path) == []


def test_an_accident_between_two_files_is_made_good_by_the_next_try(server, tmp_path, monkeypatch):
    """Who asks for a task again asks for train and dev: so test comes first, and train last."""
    server("RTE.zip", rte_archive())
    replace, calls = os.replace, []

    def interrupted(source, target):
        calls.append(target)
        if len(calls) == 2:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load_task("rte", tmp_path)
    assert leftovers(tmp_path) == ["RTE/test.tsv"]
    assert load_task("rte", tmp_path).test and len(leftovers(tmp_path)) == 3


def test_nobody_answers(monkeypatch, tmp_path):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(downloads, "GLUE_URL", "http://127.0.0.1:9/")  # the discard port: refused
    with pytest.raises(OSError, match="no data for rte: .*refused.*built-in task"):
        load_task("rte", tmp_path)


def test_mrpc_is_made_from_the_public_release(server, tmp_path):
    """Dev is the list of id pairs; the public test file's labels do not come along."""
    header = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n"
    train = header + '1\t1\t2\tone "\tuno\r\n0\t3\t4\ttwo\ttres\r\n1\t5\t6\tsix\tseis\r\n'
    server("msr_paraphrase_train.txt", train.encode())
    server("msr_paraphrase_test.txt", (header + "1\t7\t8\tx\ty\r\n").encode())
    server("mrpc_dev_ids.tsv", b"3\t4\n")
    task = load_task("mrpc", tmp_path)
    assert [e[:3] for e in task.train] == [('one "', "uno", 1), ("six", "seis", 1)]
    assert [e[:3] for e in task.dev] == [("two", "tres", 0)]
    assert [e[:3] for e in task.test] == [("x", "y", -1)]
    assert leftovers(tmp_path) == ["MRPC/dev.tsv", "MRPC/test.tsv", "MRPC/train.tsv"]


def test_a_model_is_downloaded_into_the_cache(server, tmp_path):
    content = {"config.json": b"{}", "vocab.txt": b"[PAD]\n", "model.safetensors": b"\0" * 1000}
    for name, value in content.items():
        server(name, value)
    folder = find_model("bert-base-uncased", tmp_path)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == content
    Handler.files.clear()
    assert find_model("bert-base-uncased", tmp_path) == folder


@pytest.mark.parametrize("broken", ["config.json", "vocab.txt", "model.safetensors"])
def test_a_model_that_breaks_off_is_not_kept(server, tmp_path, broken):
    config = json.dumps({"hidden_size": 768}).encode()
    content = {"config.json": config, "vocab.txt": b"[PAD]\n" * 9, "model.safetensors": b"\0" * 999}
    for name, value in content.items():
        server(name, value, cut=name == broken)
    with pytest.raises(OSError, match="no weights: .*Put config.json, vocab.txt.*--model"):
        find_model("bert-base-uncased", tmp_path)
    assert broken not in "".join(leftovers(tmp_path))
    Handler.cut.clear()
    assert (find_model("bert-base-uncased", tmp_path) / broken).read_bytes() == content[broken]


def test_an_interrupted_download_keeps_the_old_file(server, tmp_path):
    path = write(tmp_path / "vocab.txt", b"old")
    server("vocab.txt", b"new" * 100, cut=True)
    with pytest.raises(OSError):
        download([server.url + "vocab.txt"], tmp_path, "vocabulary", "Write one")
    assert path.read_bytes() == b"old" and leftovers(tmp_path) == ["vocab.txt"]


def test_an_unknown_model_is_an_error():
    with pytest.raises(
        ValueError, match="no model 'bert-huge': neither a folder nor one of bert-base"
    ):
        find_model("bert-huge")
