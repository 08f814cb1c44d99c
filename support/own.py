"""Files of your own: CSV, JSON lines or text with tabs, under the column names that people use.

A file is read right, or refused in one line that says what to do. What looks like a slip is said.
"""

import csv
import io
import json
import re
from pathlib import Path

from support.errors import UserError
from support.glue import column_names, pick, plain_lines, read_table, read_text, short, with_labels

LABELS = ("label", "labels")
TEXTS = [
    ("text",), ("sentence",), ("text_a",), ("text_a", "text_b"), ("text", "text_b"),
    ("sentence", "text_b"), ("sentence1", "sentence2"), ("premise", "hypothesis"),
    ("question", "sentence"), ("question1", "question2"),
]  # fmt: skip


def json_rows(path):
    """-> (file and line, dict) for each line that is not blank."""
    for number, line in enumerate(read_text(path).split("\n"), 1):
        where = f"{path}:{number}"
        if line.strip():
            try:
                row = {**json.loads(line)}  # TypeError for a list
                json.dumps(row, ensure_ascii=False).encode()  # fails on half a surrogate pair
            except (ValueError, TypeError, RecursionError) as error:
                raise UserError(f"{where}: not one object in JSON on a line ({error})") from None
            yield where, dict(zip(column_names(where, row), row.values(), strict=True))


def quoted_lines(path, text):
    """CSV with standard quoting -> (line number, cells). Blank lines do not count."""
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    number = 0
    try:
        for cells in reader:
            number = reader.line_num
            if cells:
                yield number, cells
    except csv.Error as error:
        where = f"{path}:{number + 1}"
        raise UserError(f"{where}: {error}; is every quotation mark closed?") from None


def tabbed_lines(path, text):
    """A table with tabs -> (line number, cells). Nothing quotes in it, as in GLUE's files.

    UserError if all its quotation marks enclose fields: then it was written with quoting.
    """
    marked = [field for field in re.split(r"[\t\r\n]", text) if '"' in field]
    if marked and all(re.fullmatch(r'"(?:[^"]|"")*"', field) for field in marked):
        line = text[: text.index('"')].count("\n") + 1
        need = "a table with tabs has no quoting; save it as .csv or as JSON lines"
        raise UserError(f"{path}:{line}: a field in quotation marks, but {need}")
    return plain_lines(text)


def find_columns(path, names, labelled):
    """-> names of the one or two text columns; name of the label column, or None if not labelled.

    UserError unless there is exactly one way to read the names.
    """
    found = [columns for columns in TEXTS if set(columns) <= names]
    texts = [one for one in found if not any(set(one) < set(other) for other in found)]
    labels = [name for name in LABELS if name in names] if labelled else [None]
    if len(texts) != 1 or len(labels) != 1:
        need = f"{' or '.join(LABELS)}, and one of {', '.join(map(' + '.join, TEXTS))}"
        raise UserError(f"{path}:1: columns {short(sorted(names))}; there must be one {need}")
    return texts[0], labels[0]


def read_examples(path, labelled=True):
    """-> list of (file and line, text_a, text_b or None, the label as stripped text).

    The extension says in which format the file is. What looks like a slip is said in one line.
    """
    suffix = Path(path).suffix.lower()
    if suffix in (".json", ".jsonl", ".ndjson"):
        rows = list(json_rows(path))
    else:
        lines = quoted_lines if suffix == ".csv" else tabbed_lines
        rows = list(read_table(path, lines(path, read_text(path))))
    if not rows:
        raise UserError(f"{path}: no examples in this file")
    examples = pick(path, rows, *find_columns(path, rows[0][1].keys(), labelled))
    spaced = [where for where, _, _, label in examples if label != label.strip()]
    empty = [where for where, a, b, _ in examples if "" in (a.strip(), b and b.strip())]
    for places, what in ((spaced, "blanks around the label removed"), (empty, "an empty text")):
        if places:
            print(f"{places[0]}: {what}; {len(places)} such row(s) in this file")
    return [(where, a, b, label.strip()) for where, a, b, label in examples]


def find_labels(path, train):
    """The classes: train's labels, sorted. UserError for fewer than two, or for scores.

    Says so if they are suspiciously many.
    """
    labels = tuple(sorted({label for *_, label in train} - {""}))
    if len(labels) < 2:
        raise UserError(f"{path}: every label is {''.join(labels)!r}; two or more are needed")
    if all(re.fullmatch(r"-?\d*\.?\d+", x) for x in labels) and any(float(x) % 1 for x in labels):
        reason = "name classes by words or whole numbers (only STS-B learns scores)"
        raise UserError(f"{path}: labels are scores: {short(labels)}; {reason}")
    if len(labels) > max(2, len(train) / 10):
        print(f"{path}: {len(labels)} classes in {len(train)} rows; is the label an id?")
    return labels


def read_own(train_file, dev_file):
    """Two files of your own -> rows of train, rows of dev, labels. UserError or OSError.

    A row is (text_a, text_b or None, index into labels).
    """
    if not (train_file and dev_file):
        raise UserError("--train-file and --dev-file belong together; give both")
    train, dev = read_examples(train_file), read_examples(dev_file)
    if (train[0][2] is None) != (dev[0][2] is None):
        raise UserError(f"{train_file}, {dev_file}: one has pairs of texts, the other single ones")
    labels, seen = find_labels(train_file, train), {row[1:3] for row in train}
    if both := sum(row[1:3] in seen for row in dev):
        print(f"{dev_file}: the texts of {both} of {len(dev)} rows are in train too")
    return with_labels(train, labels), with_labels(dev, labels), labels
