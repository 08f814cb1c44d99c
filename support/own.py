"""Files of your own: CSV, JSON lines or text with tabs, under the column names that people use.

A file is read right, or refused in one line that says what to do. What had to be assumed, and what
looks like a slip, is said in one line each.
"""

import csv
import io
import json
import os
import re
import textwrap
from pathlib import Path

from support.errors import UserError
from support.glue import read_label, read_text, read_tsv

LABELS = ("label", "labels")
SINGLES = ("text", "sentence", "text_a")
PAIRS = [
    ("text_a", "text_b"), ("text", "text_b"), ("sentence", "text_b"), ("sentence1", "sentence2"),
    ("premise", "hypothesis"), ("question", "sentence"), ("question1", "question2"),
]  # fmt: skip
# A field in quotation marks, from one separator to the next; marks inside it are doubled.
QUOTED_FIELD = r'(?:\A|(?<=[\t\n]))"(?:[^"%s]|"")*+"(?=[\t\r\n]|\Z)'


def read_json(path):
    """-> (line number, dict) for each line that is not blank."""
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            try:
                row = dict(json.loads(line))
                json.dumps(row, ensure_ascii=False).encode()  # half a surrogate pair is no text
            except (ValueError, TypeError, RecursionError) as error:
                reason = f"not an object in JSON, one a line ({error})"
                raise UserError(f"{path}:{number}: {reason}") from None
            yield number, row


def read_csv(path, delimiter=","):
    """A table with standard quoting -> (line number, dict column -> text). Skips blank lines."""
    csv.field_size_limit(2**31 - 1)
    lines = io.StringIO(read_text(path), newline="")
    reader = csv.DictReader(lines, delimiter=delimiter, strict=True)
    try:
        for row in reader:
            if None in row or None in row.values() or len(row) < len(reader.fieldnames):
                reason = f"not one cell for each column of line 1: {', '.join(reader.fieldnames)}"
                raise UserError(f"{path}:{reader.line_num}: {reason}")
            yield reader.line_num, row
    except csv.Error as error:
        reason = f"{error}; is every quotation mark closed?"
        raise UserError(f"{path}:{reader.line_num + 1}: {reason}") from None


def is_quoted(text):
    """Does every quotation mark of a table with tabs belong to a quoted field?

    If all lines have equally many tabs, a quoted field must end within its line: otherwise a stray
    mark and another one further down would swallow the rows between them.
    """
    lines = text.removesuffix("\n").split("\n")
    outside = r"\t\n" if len({line.count("\t") for line in lines}) == 1 else ""
    return '"' not in re.sub(QUOTED_FIELD % outside, "", text)


def read_tabs(path):
    """A table with tabs, quoted or not: what its quotation marks show decides, and is said."""
    if '"' not in (text := read_text(path)):
        return read_tsv(path)
    if not is_quoted(text):
        print(f"{path}: its quotation marks are text, as in GLUE's files")
        return read_tsv(path)
    print(f"{path}: its quotation marks quote fields, as pandas writes them")
    return read_csv(path, "\t")


READERS = {".csv": read_csv, ".jsonl": read_json, ".json": read_json, ".ndjson": read_json}


def read_table(path):
    """-> list of (file and line, dict column -> value); the extension says in which format."""
    read = READERS.get(Path(path).suffix.lower(), read_tabs)
    rows = [
        (f"{path}:{number}", {name.strip().lower(): value for name, value in row.items()})
        for number, row in read(path)
    ]
    if not rows:
        raise UserError(f"{path}: no examples in this file")
    return rows


def find_columns(path, names, labelled):
    """-> the name of the label column, of the one or two text columns.

    UserError unless there is exactly one way to read them.
    """
    texts = [pair for pair in PAIRS if set(pair) <= names]
    texts += [(name,) for name in SINGLES if name in names and name not in sum(texts, ())]
    labels = [name for name in LABELS if name in names]
    if len(texts) != 1 or labelled and len(labels) != 1:
        here = textwrap.shorten(", ".join(sorted(names)), 80, placeholder=" ...")
        pairs = ", ".join(map(" + ".join, PAIRS))
        need = f"one column {' or '.join(LABELS)}, and one of {', '.join(SINGLES)} or of the pairs"
        raise UserError(f"{path}:1: the columns are {here}; there must be {need} {pairs}")
    return labels[0] if labelled else "", texts[0]


def read_examples(path, labelled=True):
    """-> list of (file and line, text_a, text_b or None, the label as stripped text)."""
    table, examples, spaced, empty = read_table(path), [], [], []
    label, texts = find_columns(path, table[0][1].keys(), labelled)
    for where, row in table:
        kinds = dict.fromkeys(texts, str) | ({label: (str, int, float)} if labelled else {})
        for name, kind in kinds.items():
            if not isinstance(row.get(name), kind):
                raise UserError(f"{where}: {name} must not be {row.get(name)!r}")
        cells, name = [row[text] for text in texts], str(row.get(label, ""))
        spaced += [] if name == name.strip() else [where]
        empty += [] if all(map(str.strip, cells)) else [where]
        examples.append((where, *(*cells, None)[:2], name.strip()))
    for places, what in ((spaced, "blanks around the label removed"), (empty, "an empty text")):
        if places:
            print(f"{places[0]}: {what}; {len(places)} such row(s) in this file")
    return examples


def find_labels(path, train):
    """The classes: the labels that occur in train, sorted. UserError for fewer than two, or scores.

    Says so if they are suspiciously many.
    """
    labels = tuple(sorted({label for *_, label in train} - {""}))
    if len(labels) < 2:
        raise UserError(f"{path}: every label is {''.join(labels)!r}; two or more are needed")
    if all(re.fullmatch(r"-?\d*\.?\d+", x) for x in labels) and any(float(x) % 1 for x in labels):
        reason = "name classes by words or whole numbers; scores can be learned in STS-B only"
        raise UserError(f"{path}: labels are scores ({labels[0]}, {labels[1]}, ...); {reason}")
    if len(labels) > max(2, len(train) / 10):
        print(f"{path}: {len(labels)} classes in {len(train)} rows; is the label an id?")
    return labels


def read_own(train_file, dev_file):
    """Two files of your own -> rows of train, rows of dev, labels. UserError or OSError.

    A row is (text_a, text_b or None, index into labels). The classes are train's labels, sorted.
    """
    if not (train_file and dev_file):
        raise UserError("--train-file and --dev-file belong together; give both")
    train, dev = read_examples(train_file), read_examples(dev_file)
    if (train[0][2] is None) != (dev[0][2] is None):
        raise UserError(f"{train_file}, {dev_file}: one has pairs of texts, the other single ones")
    labels, seen = find_labels(train_file, train), {row[1:3] for row in train}
    if os.path.samefile(train_file, dev_file):
        print(f"{train_file} is given twice: the report says nothing about new examples")
    elif both := sum(row[1:3] in seen for row in dev):
        print(f"{dev_file}: the texts of {both} of {len(dev)} rows are in train too")
    rows = (
        [(a, b, read_label(labels, y, where)) for where, a, b, y in part] for part in (train, dev)
    )
    return *rows, labels
