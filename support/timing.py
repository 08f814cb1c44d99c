"""How much faster other functions are than one, on the same batches, measured side by side."""

import time

import numpy as np

ROUNDS = 3  # each ratio is the median of this many
NEAR = 5  # rivals that are compared with the same call of the reference
MOST = 8  # batches


def timed(function, batch):
    """Call function (batch -> tensor) -> seconds. Reading the result waits for it."""
    start = time.perf_counter()
    function(batch).cpu()
    return time.perf_counter() - start


def speedups(reference, rivals, batches, budget):
    """Time of reference / time of each rival -> ratios, measured within a budget, in seconds.

    All take turns on a batch, so that a slow moment of the machine affects all alike: one round
    warms up for its shapes, then ROUNDS count. The budget decides how much is timed: up to MOST
    batches, evenly spread; or, if not even one is affordable, some rows of the middle one.
    """

    def one_round(batch):
        """-> seconds (rivals, 2): of the reference and of the rival."""
        pairs = []
        for i, rival in enumerate(rivals):
            if i % NEAR == 0:
                full = timed(reference, batch)
            pairs.append((full, timed(rival, batch)))
        return pairs

    largest = max(batches, key=lambda batch: batch.input_ids.numel())
    slowest = min(timed(reference, largest) for _ in range(2))
    per_batch = slowest * (ROUNDS + 1) * (len(rivals) + -(-len(rivals) // NEAR))  # seconds
    affordable = budget / per_batch  # batches
    rows = max(1, int(min(1, affordable) * len(largest.input_ids)))
    stride = -(-len(batches) // min(MOST, max(1, int(affordable))))
    sample = [type(b)(*(x[:rows] for x in b)) for b in batches[stride // 2 :: stride]]
    expected = per_batch * len(sample) * rows / len(largest.input_ids)
    what = f"{len(rivals)} settings on {len(sample)} of {len(batches)} batches, {rows} rows each"
    print(f"timing {what}: at most {expected:.0f} s", flush=True)
    rounds = [[one_round(batch) for _ in range(ROUNDS + 1)][1:] for batch in sample]
    seconds = np.sum(rounds, axis=0)  # (ROUNDS, rivals, 2)
    return np.median(seconds[..., 0] / seconds[..., 1], axis=0).tolist()
