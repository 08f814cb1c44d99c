"""How a script ends: with status 0, with one clear line, or with a traceback.

What the user's files, options and folders cause is a UserError, raised with a message that says
what is wrong, where, and what to do. It becomes that one line, and so do errors of the system (a
full disk, too little memory) and a run that diverged. Everything else is a bug, in our code or in
yours, and a bug is a traceback.
"""

import os
import signal
import sys

import torch


class UserError(ValueError):
    """Something is wrong with a file, an option or a folder; the message says what to do."""


def not_finite(ce, kd, norm):
    """What to say when a step has diverged; if these three are finite, the hypergradient is not."""
    values = f"CE {[round(x, 3) for x in ce.tolist()]}, sum of KD {kd.sum():.3g}, |g| {norm:.3g}"
    advice = "try a smaller --lr; at the first step, look for a bug"
    return f"a loss or a gradient is not finite ({values}); {advice}"


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
        # For too little memory torch has a class on a GPU; on a CPU it raises a RuntimeError.
        text, full = str(error), (torch.OutOfMemoryError, MemoryError)
        if isinstance(error, full) or "DefaultCPUAllocator" in text:
            advice = "try a smaller --batch-size or --max-length, or --hypergradient jvp"
            text = f"out of memory; {advice}"
        elif not isinstance(error, (UserError, OSError, FloatingPointError)):
            raise
        print("error:", text.replace("\n", " "), file=sys.stderr)
        sys.exit(2)
