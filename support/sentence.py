"""One sentence, exit by exit: what each exit of a trained run answers, and where each rule stops.

leebert.py hands over its model and its rule, so that nothing here imports it.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from bert import Bert, BertConfig
from support.command import command


def load_run(folder, multi_exit):
    """A run folder of train.py -> model (in eval mode), tokenizer, its config.json as a dict.

    multi_exit makes the model, from an encoder, the number of classes and the way to pool.
    """
    folder = Path(folder)
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        if not (folder / name).exists():
            raise FileNotFoundError(f"{folder / name}: no such file; `python train.py` makes a run")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        bert = Bert(BertConfig(**config["bert"]))
        model = multi_exit(bert, len(config["labels"]), config["pool"])
        model.load_state_dict(load_file(folder / "model.safetensors"))
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # four libraries, four kinds of errors for a damaged file
        raise ValueError(
            f"{folder}: not a run of train.py ({' '.join(str(error).split())})"
        ) from None
    return model.eval(), tokenizer, config


def explain(model, leave, tokenizer, labels, *sentences):
    """Print what each exit answers to a sentence (or a pair), and where each rule would stop.

    ValueError if a sentence has no word that the model knows: its answer would mean nothing.
    """
    encoding = tokenizer.encode(*sentences)
    of = zip(encoding.tokens, encoding.sequence_ids, strict=True)  # None: [CLS] and [SEP]
    if len({number for token, number in of if token != "[UNK]"} - {None}) < len(sentences):
        raise ValueError("a sentence without any word of the model's vocabulary")
    if encoding.overflowing:
        print(f"cut to {len(encoding.ids)} tokens (--max-length), as in training")
    ids, types = torch.tensor([encoding.ids]), torch.tensor([encoding.type_ids])
    with torch.no_grad():
        logits = model(ids, types)  # (M, 1, C)
    print("tokens:", " ".join(encoding.tokens), "\n")
    classes = labels if len(labels) > 1 else ()  # one output: a number, without probabilities
    chosen = (logits[:, 0].argmax(-1) if classes else logits[:, 0, 0]).tolist()
    words = [labels[x] if classes else f"{labels[0]} {x:.2f}" for x in chosen]
    print("exit  answer          " + "  ".join(f"p({name})"[:18].rjust(18) for name in classes))
    for m, p in enumerate(logits[:, 0].softmax(dim=-1).tolist(), start=1):
        row = "  ".join(f"{x:18.3f}" for x in p[: len(classes)])
        print(f"{m:>4}  {words[m - 1]:<16}{row}")
    print()
    shown = [("patience", 1), ("patience", 2), ("entropy", 0.1), ("confidence", 0.95)]
    for rule, threshold in shown if classes else shown[:2]:  # a number has no probabilities
        stop = leave(logits, rule, threshold)[1].item()
        print(f"{rule} {threshold}: leaves at exit {stop}: {words[stop - 1]}")


USAGE = """usage: python leebert.py RUN_DIR SENTENCE [SECOND_SENTENCE]
RUN_DIR is what train.py leaves: `python train.py` makes one."""


def answer(multi_exit, leave, argv):
    model, tokenizer, config = load_run(argv[0], multi_exit)
    if config["pairs"] != (len(argv) == 3):
        wanted = "pairs of sentences" if config["pairs"] else "single sentences"
        raise ValueError(f"{argv[0]}: trained on {wanted}")
    explain(model, leave, tokenizer, config["labels"], *argv[1:])


def main(multi_exit, leave):
    argv = sys.argv[1:]
    command(lambda: answer(multi_exit, leave, argv), usage=len(argv) not in (2, 3) and USAGE)
