"""GLUE's nine tasks from GLUE's own files.

A row is (text_a, text_b, label): text_b is None for single sentences, label is an index into the
task's labels, or a score, or -1 where the file has none.
"""

import textwrap
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from support.downloads import download_glue
from support.errors import UserError

ENTAILS = ("entailment", "not_entailment")
ACC_F1 = ("acc", "f1")
SCORE = ("score",)  # one output: a regression, 0 to HIGHEST
HIGHEST = 5


class Glue(NamedTuple):
    folder: str
    texts: tuple = ("sentence1", "sentence2")  # the one or two text columns, in lower case
    label: str = "label"  # name of the label column
    metrics: tuple = ("acc",)
    labels: tuple = ("0", "1")  # as in the file, in the order of the classifier's outputs; or SCORE
    archive: str = ""  # below GLUE_URL; if not FOLDER.zip


GLUE = {
    "cola": Glue("CoLA", ("sentence",), metrics=("mcc", "acc")),
    "sst2": Glue("SST-2", ("sentence",)),
    "mrpc": Glue("MRPC", ("#1 string", "#2 string"), "quality", ACC_F1, archive="mrpc_dev_ids.tsv"),
    "qqp": Glue("QQP", ("question1", "question2"), "is_duplicate", ACC_F1, archive="QQP-clean.zip"),
    "stsb": Glue("STS-B", label="score", metrics=("pearson", "spearman"), labels=SCORE),
    "mnli": Glue("MNLI", label="gold_label", labels=("entailment", "neutral", "contradiction")),
    "qnli": Glue("QNLI", ("question", "sentence"), labels=ENTAILS, archive="QNLIv2.zip"),
    "rte": Glue("RTE", labels=ENTAILS),
    "wnli": Glue("WNLI"),
}


def read_text(path):
    """UserError with file and line if it is not UTF-8. A byte-order mark is left out."""
    raw = Path(path).read_bytes()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: not UTF-8; save the file as UTF-8") from None


def plain_lines(text):
    """A table without quoting -> (line number, cells), as GLUE's files have them.

    Newlines and tabs separate, and nothing else: a csv reader merges rows at stray quotation marks.
    A missing last newline (CoLA) is accepted.
    """
    for number, line in enumerate(text.removesuffix("\n").split("\n"), 1):
        yield number, line.removesuffix("\r").split("\t")


def short(words):
    return textwrap.shorten(", ".join(words), 80, placeholder=" ...")


def column_names(where, names):
    """The names in lower case, without blanks around them. UserError if two are the same.

    Several columns may have no name, as spreadsheets leave them.
    """
    names = [name.strip().lower() for name in names]
    named = [name for name in names if name]
    if len(set(named)) < len(named):
        raise UserError(f"{where}: duplicate column name: {short(names)}")
    return names


def read_table(path, lines, header=None, skip_short=False):
    """(line number, cells) of each line -> (file and line, dict column -> text) of each row.

    header: None if line 1 has it. UserError with file and line for a row with more or fewer
    columns. skip_short: rows with fewer are skipped and named instead; some copies of QQP have
    broken lines.
    """
    for number, cells in lines:
        where = f"{path}:{number}"
        if header is None:
            header = column_names(where, cells)
        elif len(cells) == len(header):
            yield where, dict(zip(header, cells, strict=True))
        elif skip_short and len(cells) < len(header):
            print(f"{where}: {len(cells)} columns, skipped")
        else:
            raise UserError(f"{where}: expected {len(header)} columns, found {len(cells)}")


def pick(path, rows, texts, label):
    """The columns that count -> list of (file and line, text_a, text_b or None, label as text).

    texts: names of one or two columns. label: name of the label's column, or None; then the label
    is "". UserError with file and line for a row that lacks one of them.
    """
    examples = []
    for where, row in rows:
        cells, y = [row.get(name) for name in texts], row.get(label) if label else ""
        if not all(isinstance(x, str) for x in cells) or not isinstance(y, (str, int, float)):
            need = ", ".join([*texts, label] if label else texts)
            raise UserError(f"{where}: needs text under {need}; its columns are {short(row)}")
        examples.append((where, *(*cells, None)[:2], str(y)))
    if not examples:
        raise UserError(f"{path}: no examples in this file")
    return examples


def read_label(labels, text, where):
    """The text of a label -> index into labels, or a score. UserError if it is neither."""
    with suppress(ValueError):  # no number, or not among the labels
        label = float(text) if labels == SCORE else labels.index(text)
        if labels != SCORE or 0 <= label <= HIGHEST:  # nan is not
            return label
    kind = f"a number from 0 to {HIGHEST}" if labels == SCORE else f"one of {short(labels)}"
    raise UserError(f"{where}: label {text!r} is not {kind}")


def with_labels(examples, labels):
    """What `pick` returns -> rows; labels: None if the file has none."""
    return [(a, b, read_label(labels, y, where) if labels else -1) for where, a, b, y in examples]


def read_examples(spec, path, labelled=True):
    """One file of a GLUE task -> list of rows. UserError with file and line for a bad row.

    labelled: False for a test file. Those have no labels, and of QQP's no row may be skipped, since
    the server asks for each.
    """
    # CoLA's train and dev have no line of names.
    header = ["source", "label", "mark", "sentence"] if spec.folder == "CoLA" and labelled else None
    skip_short = spec.folder == "QQP" and labelled
    rows = read_table(path, plain_lines(read_text(path)), header, skip_short)
    examples = pick(path, rows, spec.texts, spec.label if labelled else None)
    return with_labels(examples, spec.labels if labelled else None)


def read_glue(name, data_dir):
    """A GLUE task from DATA_DIR -> rows of train, dev, test; of MNLI also of the mismatched two.

    Downloaded first if its train or dev file is not there.
    """
    spec, folder = GLUE[name], Path(data_dir) / GLUE[name].folder
    suffixes = ("_matched", "_mismatched") if name == "mnli" else ("",)
    needed = [folder / "train.tsv", *(folder / f"dev{suffix}.tsv" for suffix in suffixes)]
    tests = [folder / f"test{suffix}.tsv" for suffix in suffixes]
    if not all(path.exists() for path in needed):
        download_glue(name, spec, [*needed, *tests])
    train, dev, *more = (read_examples(spec, path) for path in needed)
    tests = [read_examples(spec, path, False) if path.exists() else [] for path in tests]
    return train, dev, tests[0], *more, *tests[1:]
