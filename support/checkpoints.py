"""The files of a checkpoint: JSON, tensors, tokenizer. bert.py says which ones fit."""

import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import BertWordPieceTokenizer, Tokenizer
from tokenizers.processors import BertProcessing

from support.errors import UserError

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def read_object(path):
    """A file with one object in JSON -> dict. UserError, naming it, or OSError."""
    try:
        return dict(json.loads(Path(path).read_text(encoding="utf-8")))
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: not an object in JSON ({error})") from None


def read_tensors(folder):
    """FOLDER/model.safetensors, or the parts that its index names -> file, dict name -> tensor."""
    path, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if not path.exists() and list(folder.glob("pytorch_model*.bin")):
        raise UserError(f"{folder}: only pytorch_model.bin; docs/faq.md says how to convert it")
    try:
        if path.exists() or not index.exists():
            return path, load_file(path)
        path, place = index, dict(read_object(index)["weight_map"])
        parts = {name: load_file(folder / name) for name in set(place.values())}
        return path, {name: parts[part][name] for name, part in place.items()}
    except (SafetensorError, OSError, ValueError, LookupError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not readable, or not whole ({reason})") from None


def read_tokenizer(folder):
    """FOLDER/tokenizer.json, or else vocab.txt -> tokenizer.

    vocab.txt does not say whether to lower-case: tokenizer_config.json does (`do_lower_case`, True
    if absent). A tokenizer.json without a post-processor gets BERT's, and a line says so.
    """
    path, options = folder / "tokenizer.json", folder / "tokenizer_config.json"
    if not path.exists():
        values = read_object(options) if options.exists() else {}
        lowercase = values.get("do_lower_case", True)
        return BertWordPieceTokenizer.from_file(str(folder / "vocab.txt"), lowercase=lowercase)
    tokenizer = Tokenizer.from_file(str(path))
    ends = [(token, tokenizer.token_to_id(token)) for token in ("[SEP]", "[CLS]")]
    if tokenizer.post_processor is None and all(number is not None for _, number in ends):
        tokenizer.post_processor = BertProcessing(*ends)
        print(f"{path}: no post-processor, so [CLS] is put first and [SEP] last, as in BERT")
    return tokenizer


def check_tokenizer(tokenizer, vocab_size):
    """UserError unless it suits a BERT of this vocab_size: [CLS] a [SEP] b [SEP] of a pair."""
    vocab = tokenizer.get_vocab()
    if not vocab.keys() >= set(SPECIAL):
        raise UserError(f"not a BERT vocabulary, it needs {', '.join(SPECIAL)}")
    if (most := max(vocab.values())) >= vocab_size:
        raise UserError(f"ids up to {most}, but the model has {vocab_size} embeddings")
    a, b = (tokenizer.encode(word, add_special_tokens=False).ids for word in ("a", "the film"))
    single, pair = tokenizer.encode("a"), tokenizer.encode("a", "the film")
    first, second = [vocab["[CLS]"], *a, vocab["[SEP]"]], [*b, vocab["[SEP]"]]
    types = [0] * len(first) + [1] * len(second)
    if (single.ids, pair.ids, pair.type_ids) != (first, first + second, types):
        made = f"{' '.join(pair.tokens)}, types {pair.type_ids}"
        raise UserError(f"must make [CLS] a [SEP] b [SEP] of a pair, types 0 and 1, not {made}")


def load_tokenizer(folder, vocab_size):
    """Tokenizer of a checkpoint. UserError if there is none, or none that suits the model."""
    folder = Path(folder)
    path = folder / ("tokenizer.json" if (folder / "tokenizer.json").exists() else "vocab.txt")
    if not path.exists():
        raise UserError(f"{folder}: neither tokenizer.json nor vocab.txt; a checkpoint has one")
    try:
        tokenizer = read_tokenizer(folder)
        tokenizer.no_padding()
        tokenizer.no_truncation()
        check_tokenizer(tokenizer, vocab_size)
    except Exception as error:  # the library raises bare Exception
        raise UserError(f"{path}: {error}") from None
    return tokenizer
