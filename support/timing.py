"""How much faster other functions are than one, on the same batches, measured side by side."""

import math
import time

import numpy as np

ROUNDS = 3  # each ratio is the median of this many
MOST = 8  # batches


def timed(function, batch):
    """Call function (batch -> tensor) -> seconds. Reading the result waits for it."""
    start = time.perf_counter()
    function(batch).cpu()
    return time.perf_counter() - start


def speedups(reference, rivals, batches, budget):
    """Time of reference / time of each rival -> ratios, measured within a budget, in seconds.

    Both take turns on a batch, so that a slow moment of the machine affects both alike: one round
    warms up for its shapes, then ROUNDS count. The budget decides how much is timed: up to MOST
    batches, evenly spread; or, if not even one is affordable, some rows of the middle one.
    """
    largest = max(batches, key=lambda batch: batch.input_ids.numel())
    slowest = min(timed(reference, largest) for _ in range(2))
    affordable = budget / (slowest * 2 * len(rivals) * (ROUNDS + 1))  # batches
    rows = max(1, int(min(1, affordable) * len(largest.input_ids)))
    stride = math.ceil(len(batches) / min(MOST, max(1, int(affordable))))
    full, early = np.zeros((2, ROUNDS + 1, len(rivals)))  # seconds
    for batch in batches[stride // 2 :: stride]:
        part = type(batch)(*(x[:rows] for x in batch))
        for number in range(ROUNDS + 1):
            for i, rival in enumerate(rivals):
                full[number, i] += timed(reference, part)
                early[number, i] += timed(rival, part)
    return np.median(full[1:] / early[1:], axis=0).tolist()
