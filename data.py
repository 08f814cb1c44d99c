"""Data: the splits and their rule, the built-in task, GLUE, metrics, tokens, batches.

The rule of the splits. Every number of this project stands or falls with it:

    d1     part of train    its loss moves Theta (encoder and exits)
    d2     rest of train    with d1, judges Omega (the loss weights); it does not move Theta
    dev    GLUE's dev       reports, and chooses the exit threshold; no gradient ever sees it
    test   GLUE's test      has no labels in GLUE's files

d1 and d2 are cut from train by `split_train`, once, and only for a method that reads d2.

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
    python data.py --train-file my-train.csv --dev-file my-dev.csv
"""

import argparse
import math
import random
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from tokenizers import BertWordPieceTokenizer

from support.checkpoints import SPECIAL, load_tokenizer  # noqa: F401
from support.errors import UserError, command
from support.glue import GLUE, read_glue
from support.own import read_own


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
    since a random half of thousands has nearly the same scores. rng: numpy Generator. UserError if
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
        found = f"{len(labels)} training example(s) cut into d1 {len(d1)}, d2 {len(d2)}"
        raise UserError(f"{found}: too few; add some, or --weights uniform, which needs no d2")
    return d1, d2


# --------------------------------------------------------------------------------------------------
# 1. The built-in task
#
# A chain of speakers: what does the last one think? The first speaker of the chain says it plainly,
# and each further one agrees or disagrees with the speaker directly before. So each level of
# difficulty asks for one more step of reasoning, and shows what exits after every layer are for:
# easy sentences can leave early, hard ones need depth. Nothing to download, a moment to make.
#
#     level 1   ann calls it dull .                                                        bad
#     level 2   bob calls it witty . ann calls it dull . carl disagrees .                  good
#     level 3   gus calls it tedious . carl calls it superb . ann agrees . fay disagrees . bad
#     level 4   bob calls it witty . gus disagrees . dora disagrees . emil agrees .        good
#
# Up to two plain statements stand before the chain and do not matter. From level 2 on, no single
# word or position gives the answer away.

NAMES = "ann bob carl dora emil fay gus hanna".split()
GOOD = "great superb charming brilliant moving fresh witty honest".split()
BAD = "dull bland awful clumsy tedious stale messy hollow".split()
TOY_WORDS = sorted({*NAMES, *GOOD, *BAD, *"calls it agrees disagrees .".split()})
TOY_LABELS = ("bad", "good")


def toy_example(rng, level, label):
    """A random sentence of the level whose last speaker thinks `label` (0 bad, 1 good)."""
    before = rng.choice((0, 0, 1, 2))  # plain statements before the chain
    names = rng.sample(NAMES, before + level)  # everybody speaks once
    answers = [rng.choice(("agrees", "disagrees")) for _ in range(level - 1)]
    # Going back from the last speaker to the first, each "disagrees" turns the opinion round.
    first = (label + answers.count("disagrees")) % 2
    opinions = [rng.randrange(2) for _ in range(before)] + [first]
    says = [f"calls it {rng.choice((BAD, GOOD)[opinion])}" for opinion in opinions] + answers
    text = " ".join(f"{name} {what} ." for name, what in zip(names, says, strict=True))
    return Example(text, None, label, level)


def toy_opinions(text):
    """Who thinks what: "ann calls it dull . carl disagrees ." -> [("ann", 0), ("carl", 1)]"""
    opinions, opinion = [], None
    for statement in text.removesuffix(" .").split(" . "):
        name, *_, word = statement.split()
        if word == "disagrees":
            opinion = 1 - opinion
        elif word != "agrees":
            opinion = int(word in GOOD)
        opinions.append((name, opinion))
    return opinions


def toy_task(num_train=27_648, num_dev=1000, num_test=1000):
    """The same examples on every machine and for every seed of a run. Sizes: multiples of 8.

    Levels come in equal parts, and so do the labels of a level. No sentence occurs twice, so none
    of dev or test occurs in train.
    """
    rng, examples = random.Random(0), {}  # text -> Example
    while (n := len(examples)) < num_train + num_dev + num_test:
        example = toy_example(rng, level=1 + n % 4, label=n // 4 % 2)
        examples.setdefault(example.text_a, example)
    examples = list(examples.values())
    groups = [examples[i : i + 8] for i in range(0, len(examples), 8)]
    rng.shuffle(groups)  # otherwise all of the shortest sentences, soon used up, would be in train
    examples = [example for group in groups for example in group]
    train, dev = examples[:num_train], examples[num_train : num_train + num_dev]
    return Task("toy", train, dev, examples[num_train + num_dev :], TOY_LABELS, ("acc",))


# --------------------------------------------------------------------------------------------------
# 2. GLUE, and files of your own: support/glue.py and support/own.py read them

TASKS = ("toy", *GLUE, "own")


def glue_task(name, data_dir):
    """A GLUE task from DATA_DIR, downloaded first if its train or dev file is not there -> Task."""
    train, dev, test, *mismatched = (
        [Example(*row) for row in rows] for rows in read_glue(name, data_dir)
    )
    return Task(name, train, dev, test, GLUE[name].labels, GLUE[name].metrics, *mismatched)


def own_task(train_file, dev_file):
    """Two files of your own -> Task `own`. UserError or OSError with one clear line."""
    train, dev, labels = read_own(train_file, dev_file)
    train, dev = ([Example(*row) for row in rows] for rows in (train, dev))
    return Task("own", train, dev, [], labels, ("acc",))


def load_task(name, data_dir="data", train_file="", dev_file=""):
    """`toy`, `own` (two files) or the name of a GLUE task -> Task. UserError or OSError."""
    if name == "own":
        return own_task(train_file, dev_file)
    if name not in TASKS:
        raise UserError(f"no task {name!r}; there are {', '.join(TASKS)}")
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


def scores(predictions, labels, metrics):
    return {name: METRICS[name](predictions, labels) for name in metrics}


# --------------------------------------------------------------------------------------------------
# 4. From text to batches


class Batch(NamedTuple):
    input_ids: torch.Tensor  # (B, T)
    token_type_ids: torch.Tensor  # (B, T)  0 first sentence, 1 second
    attention_mask: torch.Tensor  # (B, T)  1 token, 0 padding
    labels: torch.Tensor  # (B,)


def toy_tokenizer():
    vocab = {word: i for i, word in enumerate((*SPECIAL, *TOY_WORDS))}
    return BertWordPieceTokenizer(vocab, lowercase=True)


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
    pin = torch.device(device).type == "cuda"  # so that the host need not wait for the copy
    tensors = (torch.from_numpy(array) for array in arrays)
    return Batch(*((x.pin_memory() if pin else x).to(device, non_blocking=pin) for x in tensors))


def batches_by_length(lengths, batch_size, bucket=None, rng=None):
    """Cut 0..N-1 into batches of similar length -> list of index arrays.

    Without rng: all of it by length, for evaluation. With rng: at random, for training, but sorted
    by length within buckets of `bucket` batches, and the batches then shuffled. Little padding, and
    still another set of batches in every epoch.
    """
    order = np.arange(len(lengths)) if rng is None else rng.permutation(len(lengths))
    size = len(order) if rng is None else bucket * batch_size
    buckets = [order[i : i + size] for i in range(0, len(order), size)]
    order = np.concatenate([b[np.argsort(lengths[b], kind="stable")] for b in buckets])
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    if rng is not None:
        rng.shuffle(batches)
    return batches


def generator(seed, purpose, number):
    """Random numbers that depend only on these three: a run is a function of its settings and the
    step, so a resumed run draws the same ones.
    """
    purposes = ("cut", "d1", "d2", "dropout", "d1_judge")
    return np.random.default_rng([seed, purposes.index(purpose), number])


def subset(examples, N):
    """N random examples, the same ones for every seed, in their order; 0: all of them.

    UserError if there are too few.
    """
    if N > len(examples):
        raise UserError(f"--train-examples {N}: train has only {len(examples)}")
    chosen = np.random.default_rng(0).permutation(len(examples))[: N or None]
    return [examples[i] for i in np.sort(chosen)]


def stream(lengths, batch_size, bucket, key, position):
    """Endless batches of 0..N-1, from number `position` on -> index arrays. lengths: (N,) tokens.

    bucket: see batches_by_length. key: seed and purpose; the order of a pass depends only on it and
    on the number of the pass.
    """
    batches_per_pass = math.ceil(len(lengths) / batch_size)
    while True:
        rng = generator(*key, position // batches_per_pass)
        batches = batches_by_length(lengths, batch_size, bucket, rng)
        for batch in batches[position % batches_per_pass :]:
            yield batch
            position += 1


def dev_batches(encoded, device):
    """Batches by length, with the places of their examples. A GPU needs large ones: there, a batch
    of 32 takes about as long as one of 16, so removing rows would save nothing.
    """
    batch_size = 32 if torch.device(device).type == "cpu" else 256
    batches = batches_by_length(encoded.lengths, batch_size)
    return [(i, collate(encoded, i, device)) for i in batches]


# --------------------------------------------------------------------------------------------------
# 5. A look at a task


def main():
    parser = argparse.ArgumentParser(description="Show examples, label balance and lengths.")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--task", choices=TASKS, default="toy", help="default toy")
    what.add_argument("--train-file", help="a file of your own, together with --dev-file")
    parser.add_argument("--dev-file")
    parser.add_argument("--data-dir", default="data")
    args = parser.parse_args()
    command(lambda: show(args))


def show(args):
    """Print sizes, label balance and lengths of the splits, then a few examples."""
    own = args.train_file or args.dev_file
    task = load_task("own" if own else args.task, args.data_dir, args.train_file, args.dev_file)
    for name, examples in (("train", task.train), ("dev", task.dev), ("test", task.test)):
        words = np.array([len(f"{e.text_a} {e.text_b or ''}".split()) for e in examples] or [0])
        known = [e.label for e in examples if e.label >= 0]
        share = [f"{label} {known.count(i)}" for i, label in enumerate(task.labels) if known]
        if known and task.num_classes == 1:
            share = [f"mean {task.labels[0]} {np.mean(known):.2f}"]
        sizes = f"median {np.median(words):.0f}, most {words.max()}"
        counts = ", ".join(share) or "none"
        print(f"{name:<6}{len(examples):>7} examples   labels: {counts}   words: {sizes}")
    print()
    for example in task.train[:4]:
        level = f"level {example.level}  " if example.level else ""
        pair = f"  |  {example.text_b}" if example.text_b is not None else ""
        label = task.labels[example.label] if task.num_classes > 1 else example.label
        print(f"{level}{label:<16}{example.text_a}{pair}")
        if example.level:
            chain = ", ".join(f"{who} {TOY_LABELS[x]}" for who, x in toy_opinions(example.text_a))
            print(f"{'':24}{chain}")


if __name__ == "__main__":
    main()
