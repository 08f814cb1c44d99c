"""What a trained run answers to GLUE's test set, in the files that GLUE's server takes.

    python -m tools.predict runs/rte-all-cross-s0             # at its operating point
    python -m tools.predict runs/rte-all-cross-s0 patience 4  # by another rule and threshold

Two files in the run's folder, a line for each line of test.tsv and in its order: RTE.tsv, columns
index and prediction, for the server; RTE-exits.tsv, index and exit, the layer where each example
left. MNLI has two test sets, so four files. GLUE's diagnostic set AX is left out.
"""

import json
import sys
from pathlib import Path

import numpy as np

from data import Example, dev_batches, encode
from leebert import early_exit
from support.errors import UserError, command
from support.glue import GLUE, HIGHEST, SCORE, read_examples
from support.runs import write
from tools.ask import load_run


def operating_point(folder, M):
    """Rule and threshold that result.json marks; if none does, a patience that never leaves."""
    path = folder / "result.json"
    try:
        point = json.loads(path.read_text(encoding="utf-8"))["operating_point"]
        return (point["rule"], point["threshold"]) if point else ("patience", M)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: no rule and threshold to take from it ({error!r})") from None


def number(rule, text):
    """The threshold from the command line. UserError unless it is a number, whole for patience."""
    kind, convert = ("a whole number", int) if rule == "patience" else ("a number", float)
    try:
        return convert(text)
    except ValueError:
        raise UserError(f"the threshold of {rule} must be {kind}, not {text!r}") from None


def check_tests(task, data_dir):
    """UserError, before hours of training, if there is nothing to answer."""
    if task.name not in GLUE or not task.test or (task.dev_mismatched and not task.test_mismatched):
        raise UserError(f"--predict: no test file of {task.name} in {data_dir}")


def predict(folder, rule=None, threshold=None, device="cpu"):
    """Write the files -> their paths. All is computed first: an error leaves no file."""
    folder, files = Path(folder), {}
    model, tokenizer, config = load_run(folder)
    task = config["task"]
    if task not in GLUE:
        raise UserError(f"{folder}: trained on {task}, and GLUE's server has no such task")
    spec, model = GLUE[task], model.to(device)
    if rule is None:
        rule, threshold = operating_point(folder, len(model.exits))
    threshold = number(rule, threshold)
    suffixes = {"_matched": "-m", "_mismatched": "-mm"} if task == "mnli" else {"": ""}
    for suffix, short in suffixes.items():
        path = Path(config["data_dir"]) / spec.folder / f"test{suffix}.tsv"
        examples = [Example(*row) for row in read_examples(spec, path, labelled=False)]
        answers, layers = np.zeros(len(examples)), np.zeros(len(examples), dtype=int)
        encoded = encode(tokenizer, examples, config["max_length"])
        for places, batch in dev_batches(encoded, device):
            found = early_exit(model, batch, rule, threshold)
            answers[places], layers[places] = (x.cpu() for x in found)
        if spec.labels == SCORE:
            words = [f"{x:.3f}" for x in answers.clip(0, HIGHEST)]
        else:
            words = [spec.labels[int(x)] for x in answers]
        for name, title, column in (("", "prediction", words), ("-exits", "exit", layers)):
            rows = [f"index\t{title}", *(f"{i}\t{cell}" for i, cell in enumerate(column))]
            files[folder / f"{spec.folder}{short}{name}.tsv"] = "\n".join(rows) + "\n"
        print(f"{path}: {len(words)} examples, {rule} {threshold:g}, "
              f"mean exit {layers.mean():.2f} of {len(model.exits)}")  # fmt: skip
    for path, content in files.items():
        write(path, content.encode())
    return list(files)


def main():
    argv = sys.argv[1:]
    usage = "usage: python -m tools.predict RUN_DIR [RULE THRESHOLD]"
    command(lambda: print("written:", *predict(*argv)), usage=len(argv) not in (1, 3) and usage)


if __name__ == "__main__":
    main()
