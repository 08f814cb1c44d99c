"""The folder of a run. An interruption at any moment leaves one that --resume can continue."""

import ctypes
import hashlib
import io
import json
import os
import shutil
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from shlex import quote

import torch
import torch.distributed as dist
from safetensors.torch import save as safetensors

from support.checkpoints import read_object
from support.errors import UserError
from support.processes import RANK, WORLD

CHECKPOINT = "checkpoint.pt"


def run_folder(config):
    """The run to resume, or a new folder: OUT, or a default, numbered if taken -> its path.

    UserError if OUT is taken: no run is overwritten.
    """
    folders = [Path(config.resume) if config.resume or RANK > 0 else claim_folder(config)]
    if WORLD > 1:
        dist.broadcast_object_list(folders)
    return folders[0]


def claim_folder(config):
    """A folder belongs to the run that made its log.jsonl, also if two runs start together."""
    method = config.optimize if config.weights == "learned" else config.weights
    name = config.out or f"runs/{config.task}-{config.teachers}-{method}-s{config.seed}"
    for number in range(1, 10_000):
        folder = Path(name if number == 1 else f"{name}-{number}")
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            if not any(folder.iterdir()):
                (folder / "log.jsonl").touch(exist_ok=False)
                return folder
        if config.out:
            raise UserError(f"--out {folder} is not empty; name another, or --resume the run in it")


@contextmanager
def interruptible(folder, new):
    """If what follows fails: say how to continue, or leave no folder if nothing was trained."""
    try:
        yield
    except BaseException as error:
        refused = isinstance(error, UserError) or not (folder / "config.json").exists()
        if RANK == 0 and new and refused and not (folder / "log.jsonl").stat().st_size:
            shutil.rmtree(folder)
        elif RANK == 0 and isinstance(error, (KeyboardInterrupt, OSError, RuntimeError)):
            python = "python" if WORLD == 1 else f"torchrun --nproc-per-node={WORLD}"
            print(f"to continue: {python} train.py --resume {quote(str(folder))}", file=sys.stderr)
        raise


def open_log(folder):
    """FOLDER/log.jsonl, to append to; only rank 0 writes one."""
    path = folder / "log.jsonl" if RANK == 0 else os.devnull
    return open(path, "a", encoding="utf-8", newline="\n")


def write(path, data):
    """Write another file, then rename it: an interruption leaves the old content or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name("partial")  # always this name, so that the next write replaces it
    try:
        partial.write_bytes(data)
        os.replace(partial, path)
    except OSError as error:  # of a write to a full disk: it does not name the file
        raise OSError(error.errno, error.strerror, str(path)) from None


def write_json(value, path):
    write(path, (json.dumps(value, indent=1) + "\n").encode())


def save(model, path):
    write(path, safetensors({n: p.detach().contiguous() for n, p in model.state_dict().items()}))


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def start(folder, settings, facts, tokenizer):
    """Write a new run's tokenizer.json, and last its config.json, which makes the folder a run.

    If the run is resumed: UserError if a fact, say its training data, has changed since it started.
    """
    path = folder / "config.json"
    if settings["resume"]:
        stored = read_object(path)
        if changed := [name for name in facts if stored.get(name) != facts[name]]:
            raise UserError(f"{path}: {changed[0]} has changed since this run started")
    elif RANK == 0:
        write(folder / "tokenizer.json", tokenizer.to_str(pretty=True).encode())
        write_json({**settings, **facts}, path)


def save_checkpoint(folder, parts, log, counts):
    """parts: name -> whatever has a state_dict. counts: numbers that `resume` returns.

    -> seconds that it took. The last 32 bytes of the file are the hash of all before them.
    """
    start = time.perf_counter()
    states = {name: part.state_dict() for name, part in parts.items()}
    buffer = io.BytesIO()
    torch.save({"counts": counts, "log_end": log.tell(), **states}, buffer)
    buffer.write(hashlib.sha256(buffer.getbuffer()).digest())
    write(folder / CHECKPOINT, buffer.getbuffer())
    return time.perf_counter() - start


def resume(folder, parts, log):
    """Restore all parts from the checkpoint -> its counts; without a checkpoint, zeros.

    The log is cut back to the checkpoint. UserError for a damaged file. No code in it can run:
    torch.load(weights_only=True) reads tensors and plain data only.
    """
    path, saved = folder / CHECKPOINT, {"counts": [0, 0, 0.0], "log_end": 0}
    if path.exists():
        content = memoryview(path.read_bytes())
        if hashlib.sha256(content[:-32]).digest() != content[-32:]:
            raise UserError(f"{path}: damaged (its hash is wrong); delete it to start again")
        saved = torch.load(path, map_location="cpu", weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(saved[name])
    if RANK == 0:
        log.truncate(min(saved["log_end"], log.seek(0, os.SEEK_END)))
        log.seek(0, os.SEEK_END)
    print(f"starting after step {saved['counts'][0]}")
    return saved["counts"]


def keep_freed_memory():
    """Tell glibc to keep large blocks that are freed, for the next tensor of that size.

    By default it returns them to the system and gets them back zeroed, page by page, which takes
    time (docs/speed.md). Without glibc this does nothing. Call it before the first tensor is made.
    """
    if os.name == "posix" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(-4, 0)  # M_MMAP_MAX, a number of malloc.h
        libc.mallopt(-1, -1)  # M_TRIM_THRESHOLD
