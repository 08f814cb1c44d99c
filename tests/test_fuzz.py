"""Files, checkpoints and options that nobody wrote: read as they are meant, or a UserError.

2,000 of each; the environment variable FUZZ asks for another number.
"""

import contextlib
import csv
import json
import os
from dataclasses import fields

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

import train
from bert import Bert, BertConfig, load_bert
from data import load_tokenizer, own_task, toy_tokenizer
from support.errors import UserError
from support.glue import GLUE, read_examples

MANY = settings(
    max_examples=int(os.environ.get("FUZZ", 2000)), deadline=None, database=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
pytestmark = pytest.mark.slow
# Pieces that have broken readers of such files, and random text.
PIECES = st.sampled_from(
    [*"ab01,\t\n\r\"'\\:;{}[]\ufeff\u2028\u0085\x0c\x1c\x0b é😀\0", "text", "text_b", "NaN", "\r\n"]
)  # fmt: skip
TEXT = st.lists(PIECES, max_size=6).map("".join) | st.text(st.characters(codec="utf-8"), max_size=3)
ROWS = st.lists(st.tuples(st.sampled_from(["0", "1", "x"]), TEXT), max_size=4)


@MANY
@given(rows=ROWS, suffix=st.sampled_from([".csv", ".json", ".tsv"]), place=st.integers(0, 99),
       slip=st.just(b"") | PIECES.map(str.encode) | st.binary(max_size=9))  # fmt: skip
def test_a_file_is_read_as_it_was_written_or_refused(tmp_path, rows, suffix, place, slip):
    """Written by Python, and with something inserted somewhere. With tabs there is no quoting."""
    path, rows = tmp_path / f"a{suffix}", [("0", "a"), ("1", "b"), *rows]
    with open(path, "w", encoding="utf-8", newline="") as file:
        if suffix == ".json":
            file.writelines(json.dumps({"label": y, "text": x}) + "\n" for y, x in rows)
        elif suffix == ".csv":
            csv.writer(file).writerows([("label", "text"), *rows])
        else:
            rows = [(y, x.translate(dict.fromkeys(b"\t\n\r", " "))) for y, x in rows]
            file.writelines(f"{y}\t{x}\n" for y, x in [("label", "text"), *rows])
    content = path.read_bytes()
    path.write_bytes(content[:place] + slip + content[place:])
    may_refuse = slip or suffix == ".tsv"  # if all its quotation marks enclose fields
    with contextlib.suppress(UserError) if may_refuse else contextlib.nullcontext():
        task = own_task(path, path)
        assert slip or [(task.labels[e.label], e.text_a) for e in task.train] == rows
    with contextlib.suppress(UserError):
        read_examples(GLUE["sst2"], path)


VALUES = st.recursive(
    st.sampled_from([None, True, -1, 0, 1, 2, 0.5, 10**6, 2**62, 10**30, 1e999, "x", "bert"]),
    lambda x: st.lists(x, max_size=3) | st.dictionaries(st.just("dtype"), x), max_leaves=3,
)  # fmt: skip
SIZES = dict(vocab_size=40, hidden_size=4, num_hidden_layers=1, num_attention_heads=2,
             intermediate_size=3, max_position_embeddings=5)  # fmt: skip
CONFIG = {**SIZES, "model_type": "bert", "hidden_act": "gelu", "layer_norm_eps": 1e-12}
TENSORS = save(Bert(BertConfig(**SIZES)).state_dict())
END = 8 + int.from_bytes(TENSORS[:8], "little")
HEADER = json.loads(TENSORS[8:END])
TOKENIZER = json.loads(toy_tokenizer()._tokenizer.to_str())


def changed(values, changes):
    """Some entries of a JSON object, or of the objects in it, have another value."""
    values = json.loads(json.dumps(values))
    for number, inner, value in changes:
        key = sorted(values)[number % len(values)]
        place = values[key] if inner and isinstance(values[key], dict) else values
        place[sorted(place)[number % len(place)] if place else "x"] = value
    return values


CHANGES = st.lists(st.tuples(st.integers(0, 99), st.booleans(), VALUES), max_size=2)


@MANY
@given(config=CHANGES, header=CHANGES, tokenizer=CHANGES, cut=st.just(None) | st.integers(0, 999))
def test_a_checkpoint_is_loaded_or_refused(tmp_path, config, header, tokenizer, cut):
    (tmp_path / "config.json").write_text(json.dumps(changed(CONFIG, config)))
    lines = json.dumps(changed(HEADER, header)).encode()
    content = len(lines).to_bytes(8, "little") + lines + TENSORS[END:]
    (tmp_path / "model.safetensors").write_bytes(content[:cut])
    (tmp_path / "tokenizer.json").write_text(json.dumps(changed(TOKENIZER, tokenizer)))
    for load in (load_bert, lambda folder: load_tokenizer(folder, 40)):
        with contextlib.suppress(UserError):
            load(tmp_path)


FLAGS = [f"--{f.name.replace('_', '-')}" for f in fields(train.Config)] + ["--what", "-x", "own"]
STRINGS = st.sampled_from("toy rte own cross nan inf -1 0 1 1e308 0.5 1_0 9999999999".split())
ARGUMENTS = st.lists(st.sampled_from(FLAGS) | STRINGS | TEXT.filter(lambda x: x[:2] != "-h"))


@MANY
@given(argv=ARGUMENTS, edited=st.none() | CHANGES)
def test_options_are_taken_or_refused(tmp_path, argv, edited):
    """Also those that a stored config.json holds."""
    with contextlib.suppress(UserError):
        if edited is not None:
            stored = changed(vars(train.parse([])), edited)
            (tmp_path / "config.json").write_text(json.dumps(stored))
            argv = [*argv[:2], f"--resume={tmp_path}"]
        config = train.parse(argv)
        assert 0 < config.lr < 1e999 and 0 <= config.seed < 2**63
