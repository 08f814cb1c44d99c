"""What a trained run answers to GLUE's test set, in the files that GLUE's server takes.

    python -m support.predict runs/rte-all-cross-s0             # at its operating point
    python -m support.predict runs/rte-all-cross-s0 patience 4  # by another rule and threshold

Two files in the run's folder, a line for each line of test.tsv and in its order: RTE.tsv, columns
index and prediction, for the server; RTE-exits.tsv, index and exit, the layer where each example
left. MNLI has two test sets, so four files. GLUE's diagnostic set AX is left out.
"""

import json
import math
import sys
from pathlib import Path

from data import Example, dev_batches, encode
from leebert import MultiExitBert, early_exit
from support.command import command
from support.glue import GLUE, HIGHEST, read_examples
from support.runs import write
from support.sentence import load_run


def operating_point(folder, M):
    """Rule and threshold that result.json marks; if none does, a patience that never leaves."""
    try:
        point = json.loads((folder / "result.json").read_text(encoding="utf-8"))["operating_point"]
        return (point["rule"], point["threshold"]) if point else ("patience", M)
    except FileNotFoundError:
        raise ValueError(f"{folder}: no result.json to take rule and threshold from") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / 'result.json'}: not of train.py ({error!r})") from None


def check_task(name):
    if name not in GLUE:
        raise ValueError(f"--predict is for GLUE's server, which has no task {name}")


def check_tests(task, data_dir):
    """ValueError, before hours of training, if there is nothing to answer."""
    if not task.test or (task.dev_mismatched and not task.test_mismatched):
        raise ValueError(f"--predict: no test file of {task.name} in {data_dir}")


def number(rule, text):
    """The threshold from the command line. ValueError unless it is a number, whole for patience."""
    try:
        threshold = float(text)
    except ValueError:
        threshold = math.nan
    if not math.isfinite(threshold) or (rule == "patience" and threshold != round(threshold)):
        kind = "a whole number" if rule == "patience" else "a number"
        raise ValueError(f"the threshold of {rule} must be {kind}, not {text!r}")
    return threshold


def predict(folder, rule=None, threshold=None, device="cpu"):
    """Write the files -> their paths. All is computed first: an error leaves no file."""
    folder, tables = Path(folder), {}
    model, tokenizer, config = load_run(folder, MultiExitBert)
    if config["task"] not in GLUE:
        raise ValueError(
            f"{folder}: trained on {config['task']}, and GLUE's server has no such task"
        )
    spec, labels = GLUE[config["task"]], config["labels"]
    if rule is None:
        rule, threshold = operating_point(folder, len(model.exits))
    model.to(device)
    suffixes = {"_matched": "-m", "_mismatched": "-mm"} if spec.folder == "MNLI" else {"": ""}
    for suffix, short in suffixes.items():
        path = Path(config["data_dir"]) / spec.folder / f"test{suffix}.tsv"
        encoded = encode(
            tokenizer, [Example(*row) for row in read_examples(spec, path)], config["max_length"]
        )
        words, layers = [""] * len(encoded.labels), [0] * len(encoded.labels)
        for places, batch in dev_batches(encoded, 32, device):
            predictions, exits = early_exit(model, batch, rule, threshold)
            for i, x, m in zip(places, predictions.tolist(), exits.tolist(), strict=True):
                words[i] = labels[x] if len(labels) > 1 else f"{min(max(x, 0.0), HIGHEST):.3f}"
                layers[i] = m
        tables[f"{spec.folder}{short}.tsv"] = ["prediction", *words]
        tables[f"{spec.folder}{short}-exits.tsv"] = ["exit", *layers]
        print(f"{path}: {len(words)} examples, {rule} {threshold:g}, "
              f"mean exit {sum(layers) / len(layers):.2f} of {len(model.exits)}")  # fmt: skip
    for name, column in tables.items():
        lines = [f"{'index' if i == 0 else i - 1}\t{cell}\n" for i, cell in enumerate(column)]
        write(folder / name, "".join(lines).encode())
    return [folder / name for name in tables]


def start():
    folder, *rule = sys.argv[1:]
    how = (rule[0], number(*rule)) if rule else ()
    print("written:", *predict(folder, *how))


def main():
    usage = "usage: python -m support.predict RUN_DIR [RULE THRESHOLD]"
    command(start, usage=len(sys.argv) not in (2, 4) and usage)


if __name__ == "__main__":
    main()
