"""Several processes, as torchrun starts them; with one, only the device is chosen here.

Each process has the whole network and takes its share of every batch. The gradients of a step are
averaged, so all make the same step, that of the whole batch. Only rank 0 writes.
"""

import os
import sys
from datetime import timedelta

import torch

from support.errors import UserError

RANK, WORLD = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
if WORLD > 1:
    import torch.distributed as dist

    # Before there is a group: torch.optim would import it later, its functions would hold the group
    # as a default argument, and the group's threads would outlive `leave` and could abort Python.
    import torch.distributed.nn  # noqa: F401
    from torch.distributed._functional_collectives import all_reduce
LOCAL_RANK = int(os.environ.get("LOCAL_RANK", 0))  # among the processes of this machine


def find_device(name):
    """auto -> cuda, mps or cpu, the first available one. UserError if a named one is not.

    Each process needs a separate GPU; a Mac (mps) has one.
    """
    mps = int(torch.backends.mps.is_available() and WORLD == 1)
    counts = {"cuda": torch.cuda.device_count(), "mps": mps, "cpu": WORLD}
    if name == "auto":
        name = next(kind for kind, count in counts.items() if count > 0)
    if LOCAL_RANK >= counts[name]:
        raise UserError(f"--device {name} is not available: {counts[name]} found on this machine")
    return torch.device(name, LOCAL_RANK if name == "cuda" else None)


def join(name, one_thread=False):
    """Find this process's device, and the other processes -> device.

    one_thread: on the CPU, unless OMP_NUM_THREADS asks for a number. The built-in network is so
    small that several threads would mostly wait for each other. The processes' patience is two
    hours, since they also wait for rank 0 while it downloads or reports.
    """
    device = find_device(name)
    if one_thread and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if WORLD > 1:
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(hours=2))
    if RANK > 0:
        sys.stdout = open(os.devnull, "w")
    return device


def leave():
    """Wait for the others: a process that exits first breaks their connections."""
    if WORLD > 1:
        dist.barrier()
        dist.destroy_process_group()


def barrier(here=True):
    """Wait until every process is at a barrier; those whose `here` is False pass this one by."""
    if WORLD > 1 and here:
        dist.barrier()


def share(batch):
    """This process's rows. All get equally many; if B does not divide, some are used twice."""
    if WORLD == 1 or batch is None:
        return batch
    B = len(batch.labels)
    rows = torch.arange(RANK, -(-B // WORLD) * WORLD, WORLD, device=batch.labels.device) % B
    return type(batch)(*(x[rows] for x in batch))


def average(tensors):
    """A list of tensors -> the mean of each over the processes, the same bits in all of them.

    Differentiable, as the definition of the hypergradient needs: the derivative of all_reduce is an
    all_reduce of gradients. One vector, so one exchange.
    """
    if WORLD == 1:
        return list(tensors)
    vector = torch.cat([x.flatten() for x in tensors])
    vector = all_reduce(vector, "sum", dist.group.WORLD) / WORLD
    parts = vector.split([x.numel() for x in tensors])
    return [part.view_as(x) for part, x in zip(parts, tensors, strict=True)]
