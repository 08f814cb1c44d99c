"""How a script ends: with status 0, with one clear line, or with a traceback.

What the user's files, options and folders cause is a UserError, raised with a message that says
what is wrong, where, and what to do. It becomes that one line, and so do errors of the system (a
full disk, too little memory) and a run that diverged. Everything else is a bug, in our code or in
yours, and a bug is a traceback.
"""

import math
import os
import signal
import sys

import torch

LESS_MEMORY = "try a smaller --batch-size or --max-length, or --hypergradient jvp"


class UserError(ValueError):
    """Something is wrong with a file, an option or a folder; the message says what to do."""


def not_finite(ce, kd, norm):
    """Name the first that is not finite: a cross-entropy, a distillation loss, a gradient."""
    values = {f"CE_{m}": x for m, x in enumerate(ce.tolist(), 1)}
    values |= {"the sum of all KD": kd.sum().item(), "the gradient of L": norm}
    bad = [f"{name} is {x}" for name, x in values.items() if not math.isfinite(x)]
    return [*bad, "the hypergradient is not finite"][0] + "; try a smaller --lr"


def interrupt(number, frame):
    raise KeyboardInterrupt(number)


def command(function, usage=None):
    """Call function. Status 2: an error of the user's or the system's; 130, 143: interrupted; 141:
    whatever read the output has closed it.

    usage: what to say instead of the call, with status 2.
    """
    try:
        if usage:
            raise UserError(usage)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, interrupt)
        function()
        sys.stdout.flush()  # a closed pipe shows here, and not after the end
    except BrokenPipeError:  # the reader has enough, as in `| head`: the shell's status for that
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(128 + 13)
    except KeyboardInterrupt as error:
        print("interrupted", file=sys.stderr)
        # Python's own KeyboardInterrupt has no number.
        sys.exit(128 + (error.args[0] if error.args else signal.SIGINT))
    except Exception as error:
        # On a GPU torch has a class for it; on a CPU it is a RuntimeError of the allocator.
        if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "DefaultCPUAllocator" in str(
            error
        ):
            error = f"out of memory; {LESS_MEMORY}"
        elif not isinstance(error, (UserError, OSError, FloatingPointError)):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
