"""Files that nobody wrote: TSV against a model of the format; damaged checkpoints.

200 cases each; the environment variable FUZZ asks for another number.

The model, on bytes: a file is lines, each ended by a newline, the last one perhaps not; a line is
fields with a tab between them, and a carriage return before the newline is no text. Line 1 names
the columns, each once. Whatever else it may be, a file is refused with its name and a line.
"""

import json
import os
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from bert import NAMES, Bert, BertConfig, load_bert  # noqa: E402
from support import runs  # noqa: E402
from support.glue import Glue, read_examples, read_tsv  # noqa: E402

MANY = settings(
    max_examples=int(os.environ.get("FUZZ", 200)), deadline=None, database=None, derandomize=True,
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
    good = len(rows) > 1 and len({len(row) for row in rows}) == 1
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
    path.write_text("label\ttext\n" + "".join(f"{y}\t{x}\n" for y, x in rows), "utf-8", newline="")
    spec = Glue("", ("text",))
    wrong = [i for i, (y, _) in enumerate(rows, 2) if y not in ("0", "1")]
    if wrong or not rows:
        where = f"{path}:{wrong[0]}: label" if wrong else f"{path}: no examples"
        with pytest.raises(ValueError, match="^" + re.escape(where)):
            read_examples(spec, Path(path))
    else:
        expected = [(text, None, int(label)) for label, text in rows]
        assert read_examples(spec, Path(path)) == expected


# --------------------------------------------------------------------------------------------------
# Checkpoints: files of our own that somebody or something has damaged

EDITS = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255), st.sampled_from("=+-|")),
    max_size=4,
)


def damaged(data, edits):
    """Each edit, at a share of the length: a byte replaced, put in, taken out; or all that follows
    cut off."""
    data = bytearray(data)
    for share, byte, kind in edits:
        i = int(share * len(data))
        if kind == "|":
            del data[i:]
        elif kind == "+":
            data.insert(i, byte)
        elif data:
            data[i : i + 1] = bytes([byte] if kind == "=" else [])
    return bytes(data)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A checkpoint of a layer and its Adam, and its log, of 17 bytes and one line too many."""
    folder = tmp_path_factory.mktemp("stored")
    layer = torch.nn.Linear(3, 2)
    parts = dict(layer=layer, adam=torch.optim.Adam(layer.parameters(), lr=0.5))
    layer(torch.ones(3)).sum().backward()
    parts["adam"].step()
    (folder / "log.jsonl").write_text(f"{'x' * 16}\n")
    with runs.open_log(folder) as log:
        log.seek(0, os.SEEK_END)
        runs.save_checkpoint(folder, parts, log, (3, 99, 0.5))
        log.write("line\n")
    return folder, parts


@MANY
@given(edits=EDITS)
def test_a_damaged_checkpoint_is_refused_by_name_or_whole(stored, edits):
    """Whole: the damage was where a zip file holds nothing of ours, say the time of a record."""
    folder, parts = stored
    path, log_path = folder / runs.CHECKPOINT, folder / "log.jsonl"
    original, lines = path.read_bytes(), log_path.read_bytes()
    layer = torch.nn.Linear(3, 2)
    found = dict(layer=layer, adam=torch.optim.Adam(layer.parameters(), lr=0.1))
    try:
        path.write_bytes(damaged(original, edits))
        with runs.open_log(folder) as log:
            counts = runs.resume(folder, found, log)
    except ValueError as error:
        assert "\n" not in str(error) and edits
        assert re.match(
            re.escape(str(path)) + r": damaged \(.*\); delete it to start again$", str(error)
        )
        assert log_path.read_bytes() == lines
    else:
        assert tuple(counts) == (3, 99, 0.5) and len(log_path.read_bytes()) == 17
        for name, part in parts.items():
            torch.testing.assert_close(found[name].state_dict(), part.state_dict(), rtol=0, atol=0)
    finally:
        path.write_bytes(original)
        log_path.write_bytes(lines)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    sizes = dict(vocab_size=3, hidden_size=4, num_hidden_layers=1, num_attention_heads=2,
                 intermediate_size=4, max_position_embeddings=4)  # fmt: skip
    (folder / "config.json").write_text(json.dumps(sizes))
    theirs = dict(row.split() for row in NAMES.strip().splitlines()[1:])
    tensors = {}
    for name, tensor in Bert(BertConfig(**sizes)).state_dict().items():
        module, _, kind = name.rpartition(".")
        tensors[f"bert.{theirs[module.replace('.0.', '.N.')].replace('.N.', '.0.')}.{kind}"] = (
            tensor
        )
    return folder, save({name: tensor.contiguous() for name, tensor in tensors.items()})


@MANY
@given(name=st.sampled_from(["config.json", "model.safetensors"]), edits=EDITS)
def test_damaged_weights_are_refused_by_name_or_have_the_right_shapes(weights, name, edits):
    """A bit of a number may change unseen, since such a file carries no hash; nothing else may."""
    folder, data = weights
    config = (folder / "config.json").read_bytes()
    (folder / "model.safetensors").write_bytes(data)
    try:
        (folder / name).write_bytes(damaged((folder / name).read_bytes(), edits))
        bert = load_bert(folder)
    except ValueError as error:
        assert str(folder) in str(error) and edits
    else:
        shapes = {n: p.shape for n, p in Bert(bert.config).state_dict().items()}
        assert {n: p.shape for n, p in bert.state_dict().items()} == shapes
    finally:
        (folder / "config.json").write_bytes(config)
