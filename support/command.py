"""How a script ends: exit status 0, or one clear line and another status."""

import signal
import sys

import torch


def interrupt(number, frame):
    raise KeyboardInterrupt(number)


def command(function, usage=None):
    """Call function. Status 2: an error of the user's or the system's; 130, 143: interrupted.

    usage: the lines to print, and status 2, instead of the call.
    """
    if usage:
        print(usage, file=sys.stderr)
        sys.exit(2)
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, interrupt)
        function()
    except KeyboardInterrupt as error:
        print("interrupted", file=sys.stderr)
        # Python's own KeyboardInterrupt has no number.
        sys.exit(128 + (error.args[0] if error.args else signal.SIGINT))
    except torch.OutOfMemoryError:
        advice = "try a smaller --batch-size or --max-length, or --hypergradient forward"
        print(f"error: out of memory; {advice}", file=sys.stderr)
        sys.exit(2)
    except (ValueError, OSError, FloatingPointError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
