"""What a trained run answers: GLUE's test set, in the files that GLUE's server takes, or your file.

    python -m tools.predict runs/rte-all-cross-s0               # at its operating point
    python -m tools.predict runs/rte-all-cross-s0 patience 4 --out patient  # another rule, folder
    python -m tools.predict runs/own-all-cross-s0 --file texts.csv --out answers.tsv

GLUE: two files, a line for each line of test.tsv and in its order: RTE.tsv, columns index and
prediction, for the server; RTE-exits.tsv, which also says at which exit each example left, by which
rule and at which threshold. MNLI has two test sets, so four files. GLUE's diagnostic set AX is left
out. Your file has columns as for training, without the label; the answers are one file, like the
second. A file that holds other answers is not overwritten.
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
from support.glue import GLUE, HIGHEST, read_examples, with_labels
from support.own import read_examples as read_own_examples
from support.runs import write
from tools.ask import load_run

COLUMNS = ("index", "prediction", "exit", "rule", "threshold")


def operating_point(folder, M):
    """Rule and threshold that result.json marks; if none does, a patience that never leaves."""
    point = read_object(folder / "result.json").get("operating_point")
    return (point["rule"], point["threshold"]) if point else ("patience", M)


def read_threshold(rule, text, M):
    """From the command line; a rule of your own may have any finite one. UserError."""
    ranges = dict(patience=(1, M), always=(1, M), entropy=(0, 1), confidence=(0, 1))
    low, high = ranges.get(rule, (-1e300, 1e300))
    with suppress(TypeError, ValueError):  # None, or not such a number
        number = float(text)
        whole = number % 1 == 0
        if low <= number <= high and (whole or low != 1):
            return int(number) if whole else number
    kind = "a whole number" if low == 1 else "a number"
    raise UserError(f"the threshold of {rule} must be {kind}, {low:g} to {high:g}, not {text!r}")


def answer(run, path, examples, how, device):
    """Texts and how, (rule, threshold) -> rows of the answers; the first row names the columns."""
    model, tokenizer, config = run
    encoded = encode(tokenizer, [Example(*row) for row in examples], config["max_length"])
    answers, layers = np.zeros(len(examples)), np.zeros(len(examples), dtype=int)
    for places, batch in dev_batches(encoded, device):
        found = early_exit(model, batch, *how)
        answers[places], layers[places] = (x.cpu() for x in found)
    print(f"{path}: {len(examples)} examples, {how[0]} {how[1]}, mean exit {layers.mean():.2f}")
    if len(labels := config["labels"]) == 1:
        words = [f"{x:.3f}" for x in answers.clip(0, HIGHEST)]
    else:
        words = [labels[int(x)] for x in answers]
    return [COLUMNS, *((i, words[i], m, *how) for i, m in enumerate(layers))]


def own_answers(run, file, how, device):
    """A file of your own -> rows of its answers."""
    examples, pairs = read_own_examples(file, labelled=False), run[2]["pairs"]
    if pairs != (examples[0][2] is not None):
        raise UserError(f"{file}: the run was trained on {'pairs' if pairs else 'single texts'}")
    return answer(run, file, with_labels(examples, None), how, device)


def glue_answers(run, how, device):
    """The test sets of the run's task -> name of a file -> its rows."""
    files, task = {}, run[2]["task"]
    if task not in GLUE:
        raise UserError(f"GLUE has no task {task}; --file FILE --out FILE answers any file")
    folder, tests = GLUE[task].folder, {"": "test"}
    if task == "mnli":
        tests = {"-m": "test_matched", "-mm": "test_mismatched"}
    for suffix, test in tests.items():
        path = Path(run[2]["data_dir"], folder, f"{test}.tsv")
        rows = answer(run, path, read_examples(GLUE[task], path, labelled=False), how, device)
        files[f"{folder}{suffix}.tsv"] = [row[:2] for row in rows]
        files[f"{folder}{suffix}-exits.tsv"] = rows
    return files


def content(rows):
    """-> bytes. A class may be called by a name with a tab in it: csv quotes that."""
    buffer = io.StringIO()
    csv.writer(buffer, delimiter="\t", lineterminator="\n").writerows(rows)
    return buffer.getvalue().encode()


def predict(folder, rule=None, threshold=None, device="cpu", file=None, out=None):
    """Write the files -> their paths. All is computed first: an error leaves no file."""
    run, place = load_run(folder), Path(out or folder)
    M = len(run[0].to(device).exits)
    how = (rule, read_threshold(rule, threshold, M)) if rule else operating_point(Path(folder), M)
    if file:
        files = {place: own_answers(run, file, how, device)}
    else:
        files = {place / name: rows for name, rows in glue_answers(run, how, device).items()}
    for path, rows in files.items():
        if path.exists() and path.read_bytes() != content(rows):
            raise UserError(f"{path} holds other answers; move it away, or name another by --out")
    for path, rows in files.items():
        write(path, content(rows))
    return list(files)


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
