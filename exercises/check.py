"""Is my solution of exercise N right, and if not, what is wrong with it?

    python exercises/check.py          # the list of exercises
    python exercises/check.py 3        # "exercise 3: right", or a sentence that says what is wrong

Each exercise is a page, NN-name.md, and beside it its checker, NN-name.py. The checker imports the
project as you have changed it, computes the formula of the page a second time, and names the
mistake that it recognizes.

Exit status: 0 right, 1 wrong or not started, 2 no such exercise.
"""

import importlib
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))

from exercises.common import Wrong  # noqa: E402

PAGES = {int(path.name[:2]): path for path in sorted(FOLDER.glob("[0-9][0-9]-*.md"))}


def verdict(n):
    """None if exercise n is right, else a sentence. Whatever the student's code raises is one."""
    try:
        importlib.import_module(f"exercises.{PAGES[n].stem}").check()
    except Wrong as sentence:
        return str(sentence)
    except Exception as error:  # it is their code that runs here: anything can come
        text = " ".join(str(error).split()) or "no message"
        return f"your code raised {type(error).__name__}: {text[:200]}"


def list_exercises():
    for path in PAGES.values():
        title, _, time, *_ = path.read_text(encoding="utf-8").splitlines()
        title, time = title.removeprefix("# "), time.removeprefix("Time: ").rstrip(".")
        print(f"{title:<48}{time:<14}exercises/{path.name}")


def main():
    if len(sys.argv) == 1:
        return list_exercises()
    if len(sys.argv) != 2 or sys.argv[1] not in {str(n) for n in PAGES}:
        usage = f"usage: python exercises/check.py [N]   with N from 1 to {max(PAGES)}"
        print(usage, file=sys.stderr)
        sys.exit(2)
    fault = verdict(int(sys.argv[1]))
    print(f"exercise {sys.argv[1]}: {fault or 'right'}")
    sys.exit(1 if fault else 0)


if __name__ == "__main__":
    main()
