"""What a trained run answers: GLUE's test set, in the files that GLUE's server takes, or your file.

    python -m tools.predict runs/rte-all-cross-s0               # at its operating point
    python -m tools.predict runs/rte-all-cross-s0 patience 4 --out patience  # another rule, folder
    python -m tools.predict runs/own-all-cross-s0 --file texts.csv    # writes answers.tsv there

GLUE: two files, a line for each line of test.tsv and in its order: RTE.tsv, columns index and
prediction, for the server; RTE-exits.tsv, which also says at which exit each example left, by which
rule and at which threshold. MNLI has two test sets, so four files. GLUE's diagnostic set AX is left
out. Your file has columns as for training, without the label; the answers are one file, like the
second. No file is overwritten.
"""

import argparse
import csv
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from data import Example, dev_batches, encode
from leebert import early_exit
from support.checkpoints import read_object
from support.errors import UserError, command
from support.glue import GLUE, HIGHEST, read_examples, with_labels
from support.own import read_examples as read_own_examples
from support.processes import find_device
from tools.ask import load_run


def rule_and_threshold(folder, rule, threshold, M):
    """The given ones, or else the operating point in result.json; if it has none, full depth."""
    if not rule:
        point = read_object(folder / "result.json").get("operating_point")
        return (point["rule"], point["threshold"]) if point else ("always", M)
    ranges = dict(patience=(1, M), always=(1, M), entropy=(0, 1), confidence=(0, 1))
    low, high = ranges.get(rule, (-1e300, 1e300))
    if threshold is None or not low <= threshold <= high or (low == 1 and threshold % 1 > 0):
        kind = "whole number" if low == 1 else "number"
        raise UserError(f"{rule} needs a {kind} from {low:g} to {high:g}, not {threshold}")
    return rule, int(threshold) if threshold % 1 == 0 else threshold


def test_sets(config):
    """-> name of the answers -> file of the texts."""
    task = config["task"]
    if task not in GLUE:
        raise UserError(f"GLUE has no task {task}; --file FILE answers any file")
    folder = Path(config["data_dir"], GLUE[task].folder)
    if task == "mnli":
        return {"MNLI-m": folder / "test_matched.tsv", "MNLI-mm": folder / "test_mismatched.tsv"}
    return {folder.name: folder / "test.tsv"}


def answer(run, path, examples, how):
    """-> rows of the answers; the first one names the columns. how: rule, threshold."""
    model, tokenizer, config = run
    encoded = encode(tokenizer, [Example(*row) for row in examples], config["max_length"])
    answers, layers = np.zeros(len(examples)), np.zeros(len(examples), dtype=int)
    for places, batch in dev_batches(encoded, next(model.parameters()).device):
        answers[places], layers[places] = (x.cpu() for x in early_exit(model, batch, *how))
    print(f"{path}: {len(examples)} examples, {how[0]} {how[1]}, mean exit {layers.mean():.2f}")
    labels, scores = config["labels"], answers.clip(0, HIGHEST)
    words = [labels[int(x)] for x in answers] if len(labels) > 1 else [f"{x:.3f}" for x in scores]
    rows = [(i, words[i], m, *how) for i, m in enumerate(layers)]
    return [("index", "prediction", "exit", "rule", "threshold"), *rows]


def predict(folder, rule=None, threshold=None, file=None, out=None):
    """Write the files -> their paths. All is computed first, and no file is overwritten."""
    model, _, config = run = load_run(folder)
    how = rule_and_threshold(Path(folder), rule, threshold, len(model.exits))
    model.to(find_device("auto"))
    files, place = {}, Path(out or folder)
    if file:
        examples = read_own_examples(file, labelled=False)
        if config["pairs"] != (examples[0][2] is not None):
            raise UserError(f"{file}: trained on {'pairs' if config['pairs'] else 'single texts'}")
        path = place if out else place / "answers.tsv"
        files[path] = answer(run, file, with_labels(examples, None), how)
    else:
        for name, path in test_sets(config).items():
            examples = read_examples(GLUE[config["task"]], path, labelled=False)
            rows = answer(run, path, examples, how)
            files[place / f"{name}.tsv"] = [row[:2] for row in rows]
            files[place / f"{name}-exits.tsv"] = rows
    if taken := [path for path in files if path.exists()]:
        raise UserError(f"{taken[0]} exists; move it away, or name another place with --out")
    for path, rows in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "w", encoding="utf-8", newline="") as table:
            csv.writer(table, delimiter="\t", lineterminator="\n").writerows(rows)
    return list(files)


def main():
    parser = argparse.ArgumentParser(description="Answer GLUE's test set, or a file of your own.")
    parser.add_argument("folder", help="of the run")
    parser.add_argument("rule", nargs="?", help="default: the run's operating point")
    parser.add_argument("threshold", nargs="?", type=float)
    parser.add_argument("--file", help="texts of your own instead of GLUE's test set")
    parser.add_argument("--out", help="with --file, the file of the answers; else their folder")
    args = parser.parse_args()
    command(lambda: print("written:", *predict(**vars(args))))


if __name__ == "__main__":
    main()
