"""TSV files that nobody wrote, against a model of the format.

200 of them; the environment variable FUZZ asks for another number.
"""

import os
import re

import pytest

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from support.glue import read_tsv  # noqa: E402

MANY = settings(
    max_examples=int(os.environ.get("FUZZ", 200)), deadline=None, database=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
# Pieces that have broken readers of such files, and random text. Every other file is a table.
PIECES = st.sampled_from([*"ab\r\"'\\\ufeff\u2028\u0085\x0c\x1c\x0b é😀\0", "label"])
FIELD = st.lists(PIECES | st.text(max_size=2), max_size=3).map("".join)
TABLE = st.integers(1, 3).flatmap(
    lambda n: st.lists(st.lists(FIELD, min_size=n, max_size=n).map("\t".join), max_size=4)
)
LINES = st.lists(st.sampled_from(["\t", "\n", "\r\n"]) | PIECES, max_size=30).map("".join)
BYTES = st.one_of(TABLE.map("\n".join), LINES).map(str.encode) | st.binary(max_size=9)


def model(raw):
    """bytes -> list of rows of fields, line 1 first; None if the file must be refused.

    A file is lines, each ended by a newline, the last one perhaps not; a line is fields with a tab
    between them, and a carriage return before the newline is no text. Line 1 names the columns,
    each once.
    """
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
    good = len(rows) > 1 and len({len(row) for row in rows}) == 1
    return rows if good and len(set(rows[0])) == len(rows[0]) else None


@MANY
@given(raw=BYTES)
def test_any_bytes_are_read_as_the_model_says_or_refused_with_a_line(tmp_path, raw):
    path = tmp_path / "fuzz.tsv"
    path.write_bytes(raw)
    expected = model(raw)
    if expected is None:
        with pytest.raises(ValueError, match="^" + re.escape(str(path)) + r":(\d+:)? "):
            list(read_tsv(path))
    else:
        header, *body = expected
        assert list(read_tsv(path)) == [
            (number, dict(zip(header, row, strict=True))) for number, row in enumerate(body, 2)
        ]
