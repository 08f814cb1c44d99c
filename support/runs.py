"""The folder of a run. An interruption at any moment leaves one that --resume can continue."""

import ctypes
import hashlib
import io
import itertools
import json
import os
import platform
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

    It is made at once, so that of two runs that start at the same time each has its own.
    UserError if OUT holds a run: none is overwritten.
    """
    folders = [claim_folder(config) if RANK == 0 else None]
    if WORLD > 1:
        dist.broadcast_object_list(folders)
    return folders[0]


def claim_folder(config):
    if config.resume:
        return Path(config.resume)
    if config.out:
        folder = Path(config.out)
        if (folder / "config.json").exists() or (folder / "result.json").exists():
            raise UserError(f"--out {folder} holds a run; name another, or --resume {folder}")
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    method = config.optimize if config.weights == "learned" else config.weights
    name = f"runs/{config.task}-{config.teachers}-{method}-s{config.seed}"
    for number in itertools.count(1):
        folder = Path(name if number == 1 else f"{name}-{number}")
        with suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder


@contextmanager
def interruptible(folder, new):
    """If what follows fails: say how to continue, or leave no folder if nothing was trained."""
    try:
        yield
    except BaseException as error:
        log, config = folder / "log.jsonl", folder / "config.json"
        if RANK == 0 and config.exists():
            if new and isinstance(error, UserError) and not log.stat().st_size:
                for path in (config, log, folder / "tokenizer.json"):
                    path.unlink(missing_ok=True)
            elif isinstance(error, (KeyboardInterrupt, OSError, RuntimeError, MemoryError)):
                python = "python" if WORLD == 1 else f"torchrun --nproc-per-node={WORLD}"
                where = quote(str(folder))
                print(f"to continue: {python} train.py --resume {where}", file=sys.stderr)
        with suppress(OSError):
            folder.rmdir()  # only if empty
        if isinstance(error, OSError) and error.errno and not error.filename:  # say, a full disk
            raise OSError(error.errno, error.strerror, str(folder)) from None
        raise


def open_log(folder):
    """FOLDER/log.jsonl, to append to; only rank 0 writes one."""
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
    except OSError as error:  # of a write to a full disk: it does not name the file
        raise OSError(error.errno, error.strerror, str(path)) from None
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
        stored = read_object(path)
        for name, value in facts.items():
            if stored.get(name) != value:
                raise UserError(f"{path}: {name} has changed since this run started")
        if not (folder / CHECKPOINT).exists():
            print(f"{folder} has no {CHECKPOINT} yet: starting over")
    elif RANK == 0:
        (folder / CHECKPOINT).unlink(missing_ok=True)  # of a run whose config.json was deleted
        write(folder / "tokenizer.json", tokenizer.to_str(pretty=True).encode())
        write_json({**settings, **facts}, path)


def say_finished(folder):
    """UserError if its network is gone."""
    if not (folder / "model.safetensors").exists():
        reason = "model.safetensors is gone; to train again, delete result.json and --resume"
        raise UserError(f"{folder}: {reason}")
    print(f"{folder} is finished; nothing to train")


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
        print(f"continuing after step {saved['counts'][0]}")
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
