"""The reader of TSV files against a model of the format, on thousands of files that nobody wrote.

The model, on bytes: a file is lines, each ended by a newline, the last one perhaps not; a line is
fields with a tab between them, and a carriage return before the newline is no text. Line 1 names
the columns, each once. Whatever else it may be, a file is refused with its name and a line.
"""

import re
from pathlib import Path

import pytest

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from data import Glue, read_examples, read_tsv  # noqa: E402

MANY = settings(
    max_examples=2000, deadline=None, database=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
# Pieces that have broken readers of such files, and random text.
PIECES = [
    "a",
    "b",
    "\t",
    "\t",
    "\n",
    "\n",
    "\r",
    "\r\n",
    '"',
    "'",
    "\\",
    "\ufeff",
    "\u2028",
    "\u0085",
]
PIECES += ["\x0c", "\x1c", "\x0b", " ", "é", "😀", "\0", "0", "1", "label", "text"]
TEXT = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=3)), max_size=30).map("".join)
BROKEN = st.tuples(TEXT, st.binary(max_size=3), TEXT).map(
    lambda x: x[0].encode() + x[1] + x[2].encode()
)
FIELD = st.text(
    st.characters(blacklist_categories=["Cs"], blacklist_characters="\t\n\r\0\ufeff"), max_size=8
)


def model(raw):
    """bytes -> list of rows of fields, line 1 first; None if the file must be refused."""
    try:
        lines = re.split("\n", raw.decode("utf-8"))
    except UnicodeDecodeError:
        return None
    if lines[-1] == "":
        lines.pop()
    lines = [re.sub(r"\r\Z", "", line) for line in lines]
    if lines:
        lines[0] = re.sub(r"\A\ufeff", "", lines[0])
    rows = [re.split("\t", line) for line in lines]
    good = len(rows) > 1 and len({len(row) for row in rows}) == 1 and b"\0" not in raw
    return rows if good and len(set(rows[0])) == len(rows[0]) else None


@pytest.fixture
def path(tmp_path):
    return tmp_path / "fuzz.tsv"


@MANY
@given(raw=st.one_of(TEXT.map(str.encode), BROKEN, st.binary(max_size=40)))
def test_any_bytes_are_read_as_the_model_says_or_refused_with_a_line(path, raw):
    path.write_bytes(raw)
    expected = model(raw)
    try:
        rows = list(read_tsv(path))
    except ValueError as error:
        assert expected is None
        message = str(error)
        assert re.match(re.escape(str(path)) + r":(\d+:)? ", message), message
        return
    header, *body = expected
    assert [list(row) for _, row in rows] == [header] * len(body)
    assert [list(row.values()) for _, row in rows] == body
    assert [number for number, _ in rows] == list(range(2, len(body) + 2))


@MANY
@given(
    body=st.integers(1, 4).flatmap(
        lambda n: st.lists(st.lists(FIELD, min_size=n, max_size=n), min_size=1, max_size=6)
    ),
    end=st.sampled_from(["\n", "\r\n"]),
    mark=st.booleans(),
    last=st.booleans(),
)
def test_what_is_written_comes_back(path, body, end, mark, last):
    """And written back, it is the file."""
    columns = [f"c{i}" for i in range(len(body[0]))]
    text = "".join("\t".join(row) + end for row in [columns, *body])
    if not last and "\t".join(body[-1]):  # an empty last line must be ended to be one
        text = text.removesuffix(end)
    raw = b"\xef\xbb\xbf" * mark + text.encode()
    path.write_bytes(raw)
    rows = [row for _, row in read_tsv(path)]
    assert [list(row.values()) for row in rows] == body
    again = end.join("\t".join(row) for row in [rows[0].keys(), *(row.values() for row in rows)])
    assert b"\xef\xbb\xbf" * mark + again.encode() + end.encode() * text.endswith(end) == raw


@MANY
@given(rows=st.lists(st.tuples(st.sampled_from(["0", "1", "2", "", "1 "]), FIELD), max_size=5))
def test_an_example_a_line_or_the_line_that_is_wrong(path, rows):
    path.write_text("label\ttext\n" + "".join(f"{y}\t{x}\n" for y, x in rows), newline="")
    spec = Glue("", "", ("text",), "label", ("0", "1"), ("acc",))
    wrong = [i for i, (y, _) in enumerate(rows, 2) if y not in ("0", "1")]
    if wrong or not rows:
        where = f"{path}:{wrong[0]}: label" if wrong else f"{path}: no examples"
        with pytest.raises(ValueError, match="^" + re.escape(where)):
            read_examples(spec, Path(path))
    else:
        examples = read_examples(spec, Path(path))
        assert [(str(e.label), e.text_a, e.text_b) for e in examples] == [(*r, None) for r in rows]
