"""The files of a checkpoint: JSON, tensors, tokenizer. bert.py says which ones fit."""

import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import BertWordPieceTokenizer, Tokenizer

from support.errors import UserError

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def read_object(path):
    """A file with one object in JSON -> dict. UserError, naming it, or OSError."""
    try:
        return {**json.loads(Path(path).read_text(encoding="utf-8"))}  # TypeError for a list
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: not an object in JSON ({error})") from None


def read_tensors(folder):
    """FOLDER/model.safetensors, or the parts that its index names -> file, dict name -> tensor."""
    path, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    try:
        if path.exists() or not index.exists():
            return path, load_file(path)
        path, place = index, dict(read_object(index)["weight_map"])
        parts = {name: load_file(folder / name) for name in set(place.values())}
        return path, {name: parts[part][name] for name, part in place.items()}
    except (SafetensorError, OSError, ValueError, LookupError, TypeError) as error:
        advice = "docs/faq.md says how to convert pytorch_model.bin"
        raise UserError(f"{path}: not readable, or not whole ({error}); {advice}") from None


def read_tokenizer(folder):
    """FOLDER/tokenizer.json, or else vocab.txt -> tokenizer.

    vocab.txt does not say whether to lower-case; `do_lower_case` in tokenizer_config.json does
    (True if absent).
    """
    path, options = folder / "tokenizer.json", folder / "tokenizer_config.json"
    if path.exists():
        return Tokenizer.from_file(str(path))
    values = read_object(options) if options.exists() else {}
    lowercase = values.get("do_lower_case", True)
    return BertWordPieceTokenizer.from_file(str(folder / "vocab.txt"), lowercase=lowercase)


def check_tokenizer(tokenizer, vocab_size):
    """UserError unless it suits a BERT of this vocab_size: [CLS] a [SEP] b [SEP] of a pair.

    Every exit reads [CLS]. A tokenizer.json without a post-processor does not put it there.
    """
    vocab = tokenizer.get_vocab()
    if not vocab.keys() >= set(SPECIAL) or max(vocab.values()) >= vocab_size:
        raise UserError(f"needs {', '.join(SPECIAL)} and ids below {vocab_size}, as in the model")
    a, b = (tokenizer.encode(text, add_special_tokens=False).ids for text in ("a", "the film"))
    first, second = [vocab["[CLS]"], *a, vocab["[SEP]"]], [*b, vocab["[SEP]"]]
    single, pair = tokenizer.encode("a"), tokenizer.encode("a", "the film")
    types = [0] * len(first) + [1] * len(second)
    if (single.ids, pair.ids, pair.type_ids) != (first, first + second, types):
        need = "post-processor must make [CLS] a [SEP] b [SEP] of a pair, types 0 and 1"
        raise UserError(f"{need}, not {' '.join(pair.tokens)}; docs/faq.md says how to add it")


def load_tokenizer(folder, vocab_size):
    """Tokenizer of a checkpoint. UserError if there is none, or none that suits the model."""
    try:
        tokenizer = read_tokenizer(Path(folder))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        check_tokenizer(tokenizer, vocab_size)
    except Exception as error:  # the library raises bare Exception
        raise UserError(f"{folder}: its tokenizer.json or vocab.txt: {error}") from None
    return tokenizer
