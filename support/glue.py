"""GLUE's nine tasks from GLUE's own files, and files of your own.

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
    texts: tuple = ("sentence1", "sentence2")  # names of the one or two text columns
    label: str = "label"  # name of the label column
    metrics: tuple = ("acc",)
    labels: tuple = ("0", "1")  # as in the file, in the order of the classifier's outputs; or SCORE
    archive: str = ""  # below GLUE_URL; if not FOLDER.zip


GLUE = {
    "cola": Glue("CoLA", ("sentence",), metrics=("mcc", "acc")),
    "sst2": Glue("SST-2", ("sentence",)),
    "mrpc": Glue("MRPC", ("#1 String", "#2 String"), "Quality", ACC_F1, archive="mrpc_dev_ids.tsv"),
    "qqp": Glue("QQP", ("question1", "question2"), "is_duplicate", ACC_F1, archive="QQP-clean.zip"),
    "stsb": Glue("STS-B", label="score", metrics=("pearson", "spearman"), labels=SCORE),
    "mnli": Glue("MNLI", label="gold_label", labels=("entailment", "neutral", "contradiction")),
    "qnli": Glue("QNLI", ("question", "sentence"), labels=ENTAILS, archive="QNLIv2.zip"),
    "rte": Glue("RTE", labels=ENTAILS),
    "wnli": Glue("WNLI"),
}


def read_tsv(path, header=None, skip_short=False):
    """A GLUE file -> its rows, one after the other: (line number, dict column -> text).

    header: None if line 1 has it. Newlines and tabs separate, and nothing quotes: a csv reader
    merges rows at stray quotation marks. A byte-order mark (MRPC) and a missing last newline (CoLA)
    are accepted. UserError with file and line for text that is not UTF-8, for a row with more or
    fewer columns, for a duplicate column name; skip_short drops rows with fewer and names them, for
    QQP, some copies of which have broken lines.
    """
    rows = 0
    with open(path, "rb") as file:
        for number, raw in enumerate(file, 1):
            where = f"{path}:{number}"
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise UserError(f"{where}: not UTF-8 ({error.reason})") from None
            fields = line.removesuffix("\n").removesuffix("\r").split("\t")
            if header is None:
                header = fields
                if len(set(header)) < len(header):
                    raise UserError(f"{where}: duplicate column name: {', '.join(header)}")
            elif len(fields) == len(header):
                rows += 1
                yield number, dict(zip(header, fields, strict=True))
            elif skip_short and len(fields) < len(header):
                print(f"{where}: {len(fields)} columns, skipped")
            else:
                raise UserError(f"{where}: expected {len(header)} columns, found {len(fields)}")
    if not rows:
        raise UserError(f"{path}: no examples in this file")


def read_label(labels, text, where):
    """The text of a label -> index into labels, or a score. UserError if it is neither."""
    with suppress(ValueError):  # no number, or not among the labels
        label = float(text) if labels == SCORE else labels.index(text)
        if labels != SCORE or 0 <= label <= HIGHEST:  # nan is not
            return label
    known = textwrap.shorten(", ".join(labels), 60, placeholder=" ...")
    kind = f"a number from 0 to {HIGHEST}" if labels == SCORE else f"one of {known}"
    raise UserError(f"{where}: label {text!r} is not {kind}")


def read_examples(spec, path, labelled=True):
    """One file of a GLUE task -> list of rows. UserError with file and line for a bad row.

    labelled: False for a test file. Those have no labels, and of QQP's no row may be skipped, since
    the server asks for each.
    """
    # CoLA's train and dev have no line of names.
    header = ("source", "label", "mark", "sentence") if spec.folder == "CoLA" and labelled else None
    columns = (*spec.texts, spec.label) if labelled else spec.texts
    rows = []
    table = read_tsv(path, header, skip_short=spec.folder == "QQP" and labelled)
    for number, row in table:  # of MNLI's 12 columns, 3 stay in memory
        if missing := [column for column in columns if column not in row]:
            raise UserError(f"{path}:1: no column {missing[0]!r} among {', '.join(row)}")
        label = read_label(spec.labels, row[spec.label], f"{path}:{number}") if labelled else -1
        texts = [row[column] for column in spec.texts] + [None]
        rows.append((texts[0], texts[1], label))
    return rows


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


OWN_TEXTS = ("text_a", "sentence", "text", "text_b")  # names that a text column may have


def read_own(train_file, dev_file):
    """Two files of your own -> rows of train, rows of dev, labels.

    UserError or OSError with one clear line. Line 1 names the columns, in any order: `label`, and
    one of OWN_TEXTS, or two for pairs, the same ones in both files; further columns are ignored.
    The classes are the labels that occur in train, sorted.
    """
    if not (train_file and dev_file):
        raise UserError("--train-file and --dev-file belong together; give both")
    rows = [row for _, row in read_tsv(train_file)]
    texts = tuple(name for name in OWN_TEXTS if name in rows[0])
    if "label" not in rows[0] or len(texts) not in (1, 2):
        known, here = ", ".join(OWN_TEXTS), ", ".join(rows[0])
        need = f"columns (separated by tabs) must be label and one or two of {known}"
        raise UserError(f"{train_file}:1: {need}; here: {here}")
    labels = tuple(sorted({row["label"] for row in rows} - {""}))
    if len(labels) == 1:
        raise UserError(f"{train_file}: every label is {labels[0]!r}; two or more are needed")
    spec = Glue("own", texts, labels=labels)
    return read_examples(spec, train_file), read_examples(spec, dev_file), labels
