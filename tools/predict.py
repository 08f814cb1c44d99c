"""What a trained run answers: GLUE's test set, in the files that GLUE's server takes, or your file.

    python -m tools.predict runs/rte-all-cross-s0               # at its operating point
    python -m tools.predict runs/rte-all-cross-s0 patience 4 --out patient  # another rule, folder
    python -m tools.predict runs/own-all-cross-s0 --file texts.csv --out answers.tsv

GLUE: two files, a line for each line of test.tsv and in its order: RTE.tsv, columns index and
prediction, for the server; RTE-exits.tsv, index and exit, the layer where each example left. MNLI
has two test sets, so four files. GLUE's diagnostic set AX is left out. rule.tsv holds the rule and
the threshold. Your file has columns as for training, without the label; the answers are a line a
row, with exit, rule and threshold. A file that holds other answers is not overwritten.
"""

import argparse
import csv
import io
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from data import Example, dev_batches, encode
from leebert import early_exit
from support.checkpoints import read_object
from support.errors import UserError, command
from support.glue import GLUE, HIGHEST, read_examples
from support.own import read_examples as read_own_examples
from support.runs import write
from tools.ask import load_run

RECORD = "rule.tsv"  # written last


def operating_point(folder, M):
    """Rule and threshold that result.json marks; if none does, a patience that never leaves."""
    path = folder / "result.json"
    try:
        point = read_object(path)["operating_point"]
        return (point["rule"], point["threshold"]) if point else ("patience", M)
    except (OSError, LookupError, TypeError) as error:
        raise UserError(f"{path}: no rule and threshold to take from it ({error!r})") from None


def read_threshold(rule, text, M):
    """From the command line; a rule of your own may have any finite one. UserError."""
    ranges = dict(patience=(1, M), always=(1, M), entropy=(0, 1), confidence=(0, 1))
    low, high = ranges.get(rule, (-1e300, 1e300))
    whole = rule in ("patience", "always")
    with suppress(TypeError, ValueError):  # None or no number
        number = float(text)
        if low <= number <= high and not (whole and number % 1):
            return number if number % 1 else int(number)
    kind = "a whole number" if whole else "a number"
    raise UserError(
        f"the threshold of {rule} must be {kind} from {low:g} to {high:g}, not {text!r}"
    )


def check_tests(task, data_dir):
    """UserError, before hours of training, if there is nothing to answer."""
    if task.name not in GLUE:
        raise UserError("--predict is for GLUE; later: tools.predict RUN --file FILE --out FILE")
    if not task.test or (task.dev_mismatched and not task.test_mismatched):
        raise UserError(f"--predict: no test file of {task.name} in {data_dir}")


def answer(run, path, rows, how, device):
    """rows of texts, how: (rule, threshold) -> a table with columns index, prediction, exit."""
    model, tokenizer, config = run
    encoded = encode(tokenizer, [Example(*row) for row in rows], config["max_length"])
    answers, layers = np.zeros(len(rows)), np.zeros(len(rows), dtype=int)
    for places, batch in dev_batches(encoded, device):
        found = early_exit(model, batch, *how)
        answers[places], layers[places] = (x.cpu() for x in found)
    print(f"{path}: {len(rows)} examples, {how[0]} {how[1]:g}, "
          f"mean exit {layers.mean():.2f} of {len(model.exits)}")  # fmt: skip
    labels = config["labels"]
    score = len(labels) == 1
    words = [f"{min(max(x, 0), HIGHEST):.3f}" if score else labels[int(x)] for x in answers]
    return dict(index=range(len(rows)), prediction=words, exit=layers)


def own_answers(run, file, how, device):
    """A file of your own -> the table of its answers, with rule and threshold."""
    rows, pairs = read_own_examples(file, labelled=False), run[2]["pairs"]
    if pairs != (rows[0][2] is not None):
        raise UserError(f"{file}: the run was trained on {'pairs' if pairs else 'single texts'}")
    table = answer(run, file, [(a, b, -1) for _, a, b, _ in rows], how, device)
    return table | dict(rule=[how[0]] * len(rows), threshold=[how[1]] * len(rows))


def glue_answers(run, how, device):
    """The test sets of the run's task -> name of a file -> its table."""
    config, tables = run[2], {}
    if (task := config["task"]) not in GLUE:
        reason = f"trained on {task}, and GLUE's server has no such task"
        raise UserError(f"{reason}; --file FILE --out FILE answers any file")
    name, suffixes = GLUE[task].folder, {"_matched": "-m", "_mismatched": "-mm"}
    for suffix, short in suffixes.items() if task == "mnli" else [("", "")]:
        path = Path(config["data_dir"]) / name / f"test{suffix}.tsv"
        table = answer(run, path, read_examples(GLUE[task], path, labelled=False), how, device)
        tables[f"{name}{short}.tsv"] = table
        tables[f"{name}{short}-exits.tsv"] = {"index": table["index"], "exit": table.pop("exit")}
    return tables | {RECORD: {"rule": [how[0]], "threshold": [how[1]]}}


def predict(folder, rule=None, threshold=None, device="cpu", file=None, out=None):
    """Write the files -> their paths. All is computed first: an error leaves no file."""
    run = load_run(folder)
    M, place = len(run[0].to(device).exits), Path(out or folder)
    how = (rule, read_threshold(rule, threshold, M)) if rule else operating_point(Path(folder), M)
    if file:
        files = {place: own_answers(run, file, how, device)}
    else:
        files = {place / name: x for name, x in glue_answers(run, how, device).items()}
    for path, table in files.items():
        buffer = io.StringIO()  # a class may be called by a name with a tab in it: csv quotes that
        lines = csv.writer(buffer, delimiter="\t", lineterminator="\n")
        lines.writerows([table, *zip(*table.values(), strict=True)])
        files[path] = buffer.getvalue().encode()
        if path.exists() and path.read_bytes() != files[path]:
            raise UserError(f"{path} holds other answers; move it away, or name another by --out")
    for path, content in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, content)
    return [path for path in files if path.name != RECORD]


def main():
    parser = argparse.ArgumentParser(description="Answer GLUE's test set, or a file of your own.")
    parser.add_argument("folder", help="of the run")
    for name in ("rule", "threshold"):
        parser.add_argument(name, nargs="?", help="default: the run's operating point")
    parser.add_argument("--file", help="texts of your own instead of GLUE's test set")
    parser.add_argument("--out", help="where the answers go: with --file a file, else a folder")
    args = parser.parse_args()
    usage = args.file and not args.out and "--file needs --out, a file for the answers"
    command(lambda: print("written:", *predict(**vars(args))), usage=usage)


if __name__ == "__main__":
    main()
