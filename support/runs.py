"""The folder of a run. An interruption at any moment leaves one that --resume can continue."""

import ctypes
import hashlib
import io
import json
import os
import platform
import sys
import time
from pathlib import Path
from shlex import quote

import torch
from safetensors.torch import save as safetensors

from support.errors import UserError
from support.processes import RANK, WORLD

CHECKPOINT = "checkpoint.pt"


def run_folder(config):
    """The run to resume, or a new one: OUT, or a default, numbered if taken.

    UserError if OUT holds a run: none is overwritten.
    """
    if config.resume:
        return Path(config.resume)
    method = config.optimize if config.weights == "learned" else config.weights
    name = config.out or f"runs/{config.task}-{config.teachers}-{method}-s{config.seed}"
    folder, number = Path(name), 1
    while folder.exists() and not config.out:
        number += 1
        folder = Path(f"{name}-{number}")
    if (folder / "config.json").exists() or (folder / "result.json").exists():
        raise UserError(f"--out {folder} holds a run; name another, or --resume {folder}")
    return folder


def open_log(folder):
    """FOLDER/log.jsonl, to append to; only rank 0 writes one."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "log.jsonl" if RANK == 0 else os.devnull
    return open(path, "a", encoding="utf-8", newline="\n")


def write(path, data):
    """Write beside, then rename: an interruption leaves the old file or the new one."""
    partial = path.with_name("partial")  # one name: the next write replaces what a kill left
    try:
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # otherwise a power cut could keep the name and lose the bytes
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(value, path):
    write(path, (json.dumps(value, indent=1) + "\n").encode())


def save(model, path):
    write(path, safetensors({n: p.detach().contiguous() for n, p in model.state_dict().items()}))


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def start(folder, settings, facts, tokenizer):
    """A new run's tokenizer.json, and last its config.json, which makes the folder a run.

    Of a resumed run: UserError if a fact, say its training data, has changed since it started.
    """
    path = folder / "config.json"
    if settings["resume"]:
        stored = json.loads(path.read_text(encoding="utf-8"))
        for name, value in facts.items():
            if stored.get(name) != value:
                raise UserError(f"{path}: {name} has changed since this run started")
    elif RANK == 0:
        (folder / CHECKPOINT).unlink(missing_ok=True)  # of a run whose config.json was deleted
        write(folder / "tokenizer.json", tokenizer.to_str(pretty=True).encode())
        write_json({**settings, **facts}, path)


def say_how_to_continue(folder):
    python = "python" if WORLD == 1 else f"torchrun --nproc-per-node={WORLD}"
    if RANK == 0:
        print(f"to continue: {python} train.py --resume {quote(str(folder))}", file=sys.stderr)


def save_checkpoint(folder, parts, log, counts):
    """parts: name -> whatever has a state_dict. counts: numbers that `resume` returns.

    -> seconds that it took. The last 32 bytes of the file are the hash of all before them.
    """
    start = time.perf_counter()
    os.fsync(log.fileno())  # the checkpoint counts on these lines being on the disk
    states = {name: part.state_dict() for name, part in parts.items()}
    buffer = io.BytesIO()
    torch.save({"counts": counts, "log_end": log.tell(), **states}, buffer)
    buffer.write(hashlib.sha256(buffer.getbuffer()).digest())
    write(folder / CHECKPOINT, buffer.getbuffer())
    return time.perf_counter() - start


def resume(folder, parts, log):
    """Restore all parts from the checkpoint -> its counts; None if there is no checkpoint yet.

    The log is cut back to the checkpoint. UserError for a damaged file. Nothing in it is executed:
    torch.load(weights_only=True) reads tensors and plain data only.
    """
    path, saved = folder / CHECKPOINT, {"counts": None, "log_end": 0}
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
    return saved["counts"]


def keep_freed_memory():
    """Tell glibc to keep large blocks that are freed, for the next tensor of that size.

    By default it returns them to the system and gets them back zeroed, page by page, which takes
    time (docs/speed.md). Without glibc nothing happens. Call it before the first tensor is made.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt  # the numbers are those of malloc.h
        mallopt(-4, 0)  # M_MMAP_MAX
        mallopt(-1, -1)  # M_TRIM_THRESHOLD
