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


def read_text(path):
    """UserError with file and line if it is not UTF-8. A byte-order mark is no text."""
    raw = Path(path).read_bytes()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        reason = f"not UTF-8 ({error.reason}); save the file as UTF-8"
        raise UserError(f"{path}:{line}: {reason}") from None


def read_tsv(path, header=None, skip_short=False):
    """A GLUE file -> its rows, one after the other: (line number, dict column -> text).

    header: None if line 1 has it. Newlines and tabs separate, and nothing quotes: a csv reader
    merges rows at stray quotation marks. A byte-order mark (MRPC) and a missing last newline (CoLA)
    are accepted. UserError with file and line for text that is not UTF-8, for a row with more or
    fewer columns, for a duplicate column name; skip_short drops rows with fewer and names them, for
    QQP, some copies of which have broken lines.
    """
    rows = 0
    for number, line in enumerate(read_text(path).removesuffix("\n").split("\n"), 1):
        where, fields = f"{path}:{number}", line.removesuffix("\r").split("\t")
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
