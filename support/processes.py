"""Several processes, as torchrun starts them; with one, nothing here does anything.

Each process has the whole network and takes its share of every batch. The gradients of a step are
averaged, so all make the same step, that of the whole batch. Only rank 0 writes.
"""

import os
import sys
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist

RANK, WORLD = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def join(device):
    """Find the other processes. They wait for each other while rank 0 downloads or reports."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=timedelta(hours=2))
    if RANK > 0:
        sys.stdout = open(os.devnull, "w")


def meet(here):
    """One barrier, entered at two places: the others wait at theirs until rank 0 is at its own."""
    if WORLD > 1 and here:
        dist.barrier()


def share(batch):
    """This process's rows. All get equally many: where B does not divide, some are taken twice."""
    B = len(batch.labels)
    rows = torch.arange(RANK, -(-B // WORLD) * WORLD, WORLD, device=batch.labels.device) % B
    return type(batch)(*(x[rows] for x in batch)) if WORLD > 1 else batch


def average(tensors):
    """A list of tensors -> the mean of each over the processes, the same bits in all of them."""
    if WORLD == 1:
        return list(tensors)
    tensors = [x.clone(memory_format=torch.contiguous_format) for x in tensors]
    for x in tensors:
        dist.all_reduce(x)
    return [x.div_(WORLD) for x in tensors]


def gather(array):
    """Each process has filled its own places in an array of zeros -> all of it."""
    arrays = [array]
    if WORLD > 1:
        dist.all_gather_object(arrays := [None] * WORLD, array)
    return np.sum(arrays, axis=0)
