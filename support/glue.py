"""GLUE's nine tasks from GLUE's own files, and files of your own.

A row is (text_a, text_b, label): text_b is None for single sentences, label is an index into the
task's labels, or a score, or -1 where the file has none.
"""

import textwrap
from pathlib import Path
from typing import NamedTuple

from support.downloads import download_glue


class Glue(NamedTuple):
    folder: str
    archive: str  # below GLUE_URL
    texts: tuple  # names of the one or two text columns
    label: str  # name of the label column; a file without it has no labels
    labels: tuple  # as written in the file, in the order of the classifier's outputs; or SCORE
    metrics: tuple


BINARY = ("0", "1")
ENTAILS = ("entailment", "not_entailment")
THREE = ("entailment", "neutral", "contradiction")
SCORE = ("score",)  # one output: a regression, 0 to HIGHEST
HIGHEST = 5
PAIR = ("sentence1", "sentence2")
STRINGS = ("#1 String", "#2 String")
ASKED = ("question1", "question2")
GLUE = {
    "cola": Glue("CoLA", "CoLA.zip", ("sentence",), "label", BINARY, ("mcc", "acc")),
    "sst2": Glue("SST-2", "SST-2.zip", ("sentence",), "label", BINARY, ("acc",)),
    "mrpc": Glue("MRPC", "mrpc_dev_ids.tsv", STRINGS, "Quality", BINARY, ("acc", "f1")),
    "qqp": Glue("QQP", "QQP-clean.zip", ASKED, "is_duplicate", BINARY, ("acc", "f1")),
    "stsb": Glue("STS-B", "STS-B.zip", PAIR, "score", SCORE, ("pearson", "spearman")),
    "mnli": Glue("MNLI", "MNLI.zip", PAIR, "gold_label", THREE, ("acc",)),
    "qnli": Glue("QNLI", "QNLIv2.zip", ("question", "sentence"), "label", ENTAILS, ("acc",)),
    "rte": Glue("RTE", "RTE.zip", PAIR, "label", ENTAILS, ("acc",)),
    "wnli": Glue("WNLI", "WNLI.zip", PAIR, "label", BINARY, ("acc",)),
}


def read_tsv(path, header=None, skip_short=False):
    """A GLUE file -> its rows, one after the other: (line number, dict column -> text).

    header: None if line 1 has it. Newlines and tabs separate, and nothing quotes: a csv reader
    merges rows at stray quotation marks. A byte-order mark (MRPC) and a missing last newline (CoLA)
    are accepted. ValueError with file and line for text that is not UTF-8 or holds a NUL byte, for
    a row with more or fewer columns, for two columns of one name; skip_short drops rows with fewer
    and says how many, for QQP, some copies of which have broken lines.
    """
    rows = skipped = 0
    with open(path, "rb") as file:
        for number, raw in enumerate(file, 1):
            where = f"{path}:{number}"
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(f"{where}: not UTF-8 ({error.reason})") from None
            if "\0" in line:
                raise ValueError(f"{where}: a NUL byte; the file is damaged, or no text")
            fields = line.removesuffix("\n").removesuffix("\r").split("\t")
            if header is None:
                header = fields
                if len(set(header)) < len(header):
                    raise ValueError(f"{where}: two columns of one name: {', '.join(header)}")
            elif skip_short and len(fields) < len(header):
                skipped += 1
            elif len(fields) != len(header):
                raise ValueError(f"{where}: {len(fields)} columns where {len(header)} belong")
            else:
                rows += 1
                yield number, dict(zip(header, fields, strict=True))
    if skipped:
        print(f"{path}: {skipped} of {rows + skipped} rows are cut short, skipped")
    if not rows:
        raise ValueError(f"{path}: no examples in this file")


def read_examples(spec, path):
    """One file of a GLUE task -> list of rows. ValueError with file and line for a bad row."""
    header = None
    if spec.folder == "CoLA" and path.name != "test.tsv":  # these two have no line of names
        header = ("source", "label", "mark", "sentence")
    skip_short = spec.folder == "QQP" and "test" not in path.name  # each row of test is asked for
    rows = []
    for number, row in read_tsv(path, header, skip_short):  # of MNLI's 12 columns, 3 stay in memory
        missing = [column for column in spec.texts if column not in row]
        if missing:
            raise ValueError(f"{path}:1: no column {missing[0]!r} among {', '.join(row)}")
        label = read_label(spec, row[spec.label]) if spec.label in row else -1
        if label is None:
            known = textwrap.shorten(", ".join(spec.labels), 60, placeholder=" ...")
            kind = f"a number from 0 to {HIGHEST}" if spec.labels == SCORE else f"one of {known}"
            raise ValueError(f"{path}:{number}: label {row[spec.label]!r} is not {kind}")
        texts = [row[column] for column in spec.texts] + [None]
        rows.append((texts[0], texts[1], label))
    return rows


def read_label(spec, text):
    """The text of a label -> index into spec.labels, or a score; None if it is neither."""
    if spec.labels != SCORE:
        return spec.labels.index(text) if text in spec.labels else None
    try:
        score = float(text)
    except ValueError:
        return None
    return score if 0 <= score <= HIGHEST else None  # nan is not


def read_glue(name, data_dir):
    """A GLUE task from DATA_DIR -> rows of train, dev, test; of MNLI also of the mismatched two.

    Downloaded first if its train or dev file is not there.
    """
    spec, folder = GLUE[name], Path(data_dir) / GLUE[name].folder
    suffixes = ("_matched", "_mismatched") if name == "mnli" else ("",)
    needed = [folder / "train.tsv", *(folder / f"dev{suffix}.tsv" for suffix in suffixes)]
    tests = [folder / f"test{suffix}.tsv" for suffix in suffixes]
    if not all(path.exists() for path in needed):
        download_glue(name, spec, data_dir, [*needed, *tests])
    train, *devs = (read_examples(spec, path) for path in needed)
    for path, rows in zip(needed, (train, *devs), strict=True):
        if rows[0][2] < 0:
            raise ValueError(f"{path}:1: no label column {spec.label!r}")
    tests = [read_examples(spec, path) if path.exists() else [] for path in tests]
    return train, devs[0], tests[0], *devs[1:], *tests[1:]


OWN_TEXTS = ("text_a", "sentence", "text")  # names that the first text column may have


def read_own(train_file, dev_file):
    """Two files of your own -> rows of train, rows of dev, labels.

    ValueError or OSError with one clear line. Line 1 names the columns, in any order: `label`, one
    of OWN_TEXTS, and `text_b` if the inputs are pairs; further columns are ignored. The classes are
    the labels that occur in train, sorted.
    """
    if not (train_file and dev_file):
        raise ValueError("--train-file and --dev-file belong together, and only one is given")
    paths, texts = (Path(train_file), Path(dev_file)), []
    tables = [list(read_tsv(path)) for path in paths]
    for path, rows in zip(paths, tables, strict=True):
        columns = list(rows[0][1])
        first = [name for name in OWN_TEXTS if name in columns]
        if "label" not in columns or len(first) != 1:
            raise ValueError(
                f"{path}:1: columns (separated by tabs) must be label, one of "
                f"{', '.join(OWN_TEXTS)}, and perhaps text_b; here: {', '.join(columns)}"
            )
        texts.append((*first, *(["text_b"] if "text_b" in columns else [])))
    if len(texts[0]) != len(texts[1]):
        raise ValueError(f"text_b is in one of {paths[0]}, {paths[1]} only; pairs or single texts?")
    labels = tuple(sorted({row["label"] for _, row in tables[0]}))
    if "" in labels:
        number = next(number for number, row in tables[0] if not row["label"])
        raise ValueError(f"{paths[0]}:{number}: no label")
    if len(labels) == 1:
        raise ValueError(f"{paths[0]}: every label is {labels[0]!r}; two classes are the least")
    specs = [Glue("", "", columns, "label", labels, ("acc",)) for columns in texts]
    train, dev = (read_examples(*pair) for pair in zip(specs, paths, strict=True))
    return train, dev, labels
