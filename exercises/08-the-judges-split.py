"""Checks 08-the-judges-split.md: which examples does make_batches of train.py give?"""

import contextlib
import io
from dataclasses import fields
from itertools import islice

import numpy as np

import train
from data import Encoded
from exercises.common import require

N, B = 96, 8


def streams(optimize, judge, step=0):
    """make_batches on N examples of one token each, its number -> name -> 24 batches, as sets."""
    encoded = Encoded([[i] for i in range(N)], [[0]] * N, np.ones(N, int), np.arange(N) % 2, 0)
    how = dict(optimize=optimize, judge=judge, d2_fraction=0.5, omega_every=1)
    config = train.Config(batch_size=B, **how)
    with contextlib.redirect_stdout(io.StringIO()):
        steps = list(islice(train.make_batches(config, encoded, step, "cpu"), 24))
    names = ("d1", "d2", "d1_judge") if optimize == "cross" else ("d1", "d2")

    def examples(batch):
        return set(batch.input_ids.flatten().tolist())

    return {name: [examples(getattr(x, name)) for x in steps] for name in names}


def check():
    there = "judge" in {field.name for field in fields(train.Config)}
    require(there, "not started: Config is still the original, it has no field judge")
    default = train.Config().judge == "held-out"
    require(default, "the default of judge must be held-out: without the option nothing changes")
    for optimize in ("cross", "bilevel"):
        before = streams(optimize, "held-out")
        d1, d2 = (set.union(*before[name]) for name in ("d1", "d2"))
        apart = len(d1) == len(d2) == N / 2 and not d1 & d2
        require(apart, "with judge held-out, d1 and d2 must stay two parts of train")
        batches = streams(optimize, "train")
        for name, sets in batches.items():
            count = len(set.union(*sets))
            require(count == N, f"{optimize}: {name} gives {count} of {N} examples; expected all")
            inside = all(a <= b for a, b in zip(sets, batches["d1"], strict=True))
            sentence = f"{optimize}: each batch of {name} lies inside the step's own, which the "
            sentence += "look-ahead has just fitted; the judge's must be drawn independently"
            require(name == "d1" or not inside, sentence)
        different = batches["d2"] != batches.get("d1_judge")
        require(different, "d2 and d1_judge give the same batches: the judge sees examples twice")
        later = streams(optimize, "train", step=3)
        same = all(later[name][:9] == sets[3:12] for name, sets in batches.items())
        require(same, "from step 3 on the batches differ: a resumed run would see other examples")
