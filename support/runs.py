"""The folder of a run: an interruption at any moment leaves one that --resume can go on with."""

import ctypes
import hashlib
import io
import json
import os
import signal
import sys
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save as safetensors

from support.processes import RANK

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def interrupt(number, frame):
    """What main() makes of Ctrl-C and of SIGTERM."""
    raise KeyboardInterrupt(number)


@contextmanager
def undisturbed():
    """An interruption takes effect at the end of the block, if main() is there to answer it.

    Python would raise it between any two lines, of torch's too, which is not written for that: what
    then comes out of a TorchFunctionMode (leebert.Remember) is an error of torch's.
    """
    came, caught = [], [n for n in SIGNALS if signal.getsignal(n) is interrupt]
    for number in caught:
        signal.signal(number, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        for number in caught:
            signal.signal(number, interrupt)
        if came:
            raise KeyboardInterrupt(came[0])


def lock(file):
    """ValueError if another process holds it. Whoever ends, however he ends, lets go."""
    if sys.platform == "win32":
        return  # no flock there
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(f"{file.name}: another process is writing into this folder") from None
    except OSError:
        pass  # a file system without locks


def open_log(folder):
    """log.jsonl, held by this process until it ends; only rank 0 writes one."""
    if RANK != 0:
        return open(os.devnull, "w")
    folder.mkdir(parents=True, exist_ok=True)
    log = open(folder / "log.jsonl", "a", encoding="utf-8", newline="\n")
    lock(log)
    return log


def write(path, data):
    """Write beside, then rename: whoever is interrupted keeps the file that was there."""
    partial = path.with_name("partial")  # one name for all: what a kill leaves, the next one takes
    try:
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # else a power cut could keep the new name and lose the bytes
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(value, path):
    write(path, (json.dumps(value, indent=1) + "\n").encode())


def save(model, path):
    write(path, safetensors({n: p.detach().contiguous() for n, p in model.state_dict().items()}))


def checkpoints(folder):
    """From old to new. A name is checkpoint-STEP-HASH.pt, with the hash of what is in the file."""
    return sorted(folder.glob(f"checkpoint-{'[0-9]' * 8}-{'[0-9a-f]' * 16}.pt"))


def digest(data):
    return hashlib.sha256(data).hexdigest()[:16]


def write_checkpoint(folder, state):
    """state: numbers and state_dicts. The checkpoint before this one stays; older ones go."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    name = f"checkpoint-{state['step']:08d}-{digest(buffer.getbuffer())}.pt"
    write(folder / name, buffer.getbuffer())
    for path in checkpoints(folder)[:-2]:
        path.unlink()


def read_checkpoint(folder):
    """The last checkpoint whose content fits its hash, or None."""
    for path in reversed(checkpoints(folder)):
        data = path.read_bytes()
        if digest(data) == path.stem[-16:]:
            # weights_only: nothing in the file is executed.
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        print(f"{path} is damaged; the one before it is used, if there is one")
    return None


def go_on(folder, parts, log):
    """Put everything back as the last checkpoint has it -> step, tokens and seconds until then."""
    saved = read_checkpoint(folder) or dict(step=0, tokens=0, seconds=0.0, log_end=0)
    for name in parts.keys() & saved.keys():
        parts[name].load_state_dict(saved[name])
    print(f"going on after step {saved['step']}")
    if RANK == 0:
        log.truncate(min(saved["log_end"], log.seek(0, os.SEEK_END)))
    return saved["step"], saved["tokens"], saved["seconds"]


def run_folder(config):
    """Its path, new unless --out says where. ValueError if a run is there: none is overwritten."""
    method = config.optimize if config.weights == "learned" else config.weights
    folder = Path(config.out or f"runs/{config.task}-{config.teachers}-{method}-s{config.seed}")
    if config.out and (folder / "result.json").exists():
        raise ValueError(f"--out {folder} holds a finished run")
    if config.out and (folder / "config.json").exists():
        raise ValueError(f"--out {folder} holds an unfinished run; --resume {folder} goes on")
    taken, number = folder, 2
    while not config.out and folder.exists():
        folder, number = Path(f"{taken}-{number}"), number + 1
    return folder


def keep_freed_memory():
    """Tell glibc to keep large blocks that are freed, for the next tensor of that size.

    By default it returns them to the system and gets them back zeroed, page by page, which takes
    time (README, Speed). Where there is no glibc nothing happens. Before the first tensor.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, -1)
