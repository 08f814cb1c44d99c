"""Checks 09-a-fifth-level.md: labels, words, equal parts, and shortcuts to the label of level 5."""

from collections import Counter, defaultdict

import data
from exercises.common import require


def chain(text):
    """What the last speaker of levels 1 to 4 thinks."""
    opinion = None
    for statement in text.removesuffix(" .").split(" . "):
        word = statement.split()[-1]
        if word == "disagrees":
            opinion = 1 - opinion
        elif word != "agrees":
            opinion = int(word in data.GOOD)
    return opinion


def check_examples(examples):
    """Each one by itself."""
    for e in examples:
        what = f"level {e.level}, {e.text_a!r}, is labelled {e.label}"
        for word in e.text_a.split():
            require(word in data.TOY_WORDS, f"{word!r} is not in TOY_WORDS: the model reads [UNK]")
        same = e.level == 5 or chain(e.text_a) == e.label
        require(same, f"levels 1 to 4 must stay as they are, but {what}")
        opinion = data.toy_opinions(e.text_a)[-1][1]
        require(opinion == e.label, f"{what}, but toy_opinions says {opinion}")


def check_split(name, examples):
    """Levels in equal parts, and on each of them labels too, up to a quarter more or less.

    That much can happen by chance in 1000 examples that were shuffled.
    """
    sizes = Counter(e.level for e in examples)
    good = Counter(e.level for e in examples if e.label == 1)
    for level in range(1, 6):
        n, expected = sizes[level], len(examples) / 5
        sentence = f"{name} has {n} examples of level {level}; expected {expected:.0f}"
        require(abs(n - expected) < 0.25 * expected, sentence)
        sentence = f"{good[level]} of {n} examples of level {level} in {name} are good, not half"
        require(abs(good[level] - n / 2) < 0.25 * n / 2, sentence)


def clues(text):
    """What a reader could go by who does not follow the argument -> (name, value) pairs."""
    words = text.split()
    yield "the number of words", len(words)
    for word, n in Counter(words).items():
        yield f"how often {word!r} occurs", n
    for i in range(len(words)):
        yield f"word {i + 1}", words[i]
        yield f"word {i + 1} from the end", words[-i - 1]


def check_shortcuts(examples):
    """A clue that a tenth of the examples or more have must not tell over 60 % of their labels."""
    labels = defaultdict(Counter)  # (clue, value) -> label -> count
    for e in examples:
        for clue in clues(e.text_a):
            labels[clue][e.label] += 1
    right, total = Counter(), Counter()
    for (name, _), counts in labels.items():
        right[name] += max(counts.values())
        total[name] += counts.total()
    told = {name: right[name] / n for name, n in total.items() if n >= len(examples) / 10}
    clue = max(told, key=told.get)
    sentence = f"a shortcut: {clue} alone tells {told[clue]:.0%} of the labels of level 5"
    require(told[clue] <= 0.6, sentence)


def check():
    task = data.toy_task()
    examples = [*task.train, *task.dev, *task.test]
    there = any(e.level == 5 for e in examples)
    require(there, "not started: toy_task is still the original, it has no example of level 5")
    same = data.toy_task().train == task.train
    require(same, "toy_task gives other examples each time: take all random numbers from rng")
    different = len({e.text_a for e in examples}) == len(examples)
    require(different, "a sentence occurs twice; one of dev must not occur in train")
    check_examples(examples)
    for name in ("train", "dev", "test"):
        check_split(name, getattr(task, name))
    check_shortcuts([e for e in examples if e.level == 5])
