"""The files of a pretrained checkpoint beside its weights."""

import json
from pathlib import Path

from tokenizers import BertWordPieceTokenizer, Tokenizer

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def load_tokenizer(folder, vocab_size):
    """Tokenizer of a checkpoint, from tokenizer.json or else vocab.txt.

    vocab.txt does not say whether to lower-case: tokenizer_config.json does (`do_lower_case`, True
    if absent). ValueError if the vocabulary does not fit a model with vocab_size embeddings.
    """
    folder = Path(folder)
    path = folder / "tokenizer.json"
    try:
        if path.exists():
            tokenizer = Tokenizer.from_file(str(path))
        else:
            path = folder / "tokenizer_config.json"
            options = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            lowercase = options.get("do_lower_case", True)
            path = folder / "vocab.txt"
            tokenizer = BertWordPieceTokenizer.from_file(str(path), lowercase=lowercase)
        vocab = tokenizer.get_vocab()
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"{path}: {error}") from None
    if not vocab.keys() >= set(SPECIAL):
        raise ValueError(f"{path}: not a BERT vocabulary, it needs {', '.join(SPECIAL)}")
    if (most := max(vocab.values())) >= vocab_size:
        raise ValueError(f"{path}: ids up to {most}, but the model has {vocab_size} embeddings")
    return tokenizer
