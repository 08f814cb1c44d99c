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


class UserError(ValueError):
    """Something is wrong with a file, an option or a folder; the message says what to do."""


def not_finite(ce, kd, norm):
    """Name what is wrong: the first term that is not finite, else a gradient."""
    names = [f"CE_{m}" for m in range(1, len(ce) + 1)]
    names += [f"KD_{m}<-{t}" for m in range(1, len(ce) + 1) for t in range(1, len(ce) + 1)]
    for name, x in zip(names, [*ce.tolist(), *kd.flatten().tolist()], strict=True):
        if not math.isfinite(x):
            return f"{name} is {x}; try a smaller --lr"
    which = "hypergradient" if math.isfinite(norm) else "gradient of L"
    return f"the {which} is not finite, though all terms of L are; try a smaller --lr"


def is_out_of_memory(error):
    """On a GPU torch has a class for it; on a CPU it is a RuntimeError of the allocator."""
    classes = (torch.OutOfMemoryError, MemoryError)
    return isinstance(error, classes) or "DefaultCPUAllocator" in str(error)


def interrupt(number, frame):
    raise KeyboardInterrupt(number)


def command(function, usage=None):
    """Call function. Status 2: an error of the user's or the system's; 130, 143: interrupted; 141:
    whatever read the output has closed it.

    usage: the lines to print, and status 2, instead of the call.
    """
    if usage:
        print(usage, file=sys.stderr)
        sys.exit(2)
    try:
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
    except (UserError, OSError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        advice = "try a smaller --batch-size or --max-length, or --hypergradient jvp"
        print(f"error: out of memory; {advice}", file=sys.stderr)
        sys.exit(2)
