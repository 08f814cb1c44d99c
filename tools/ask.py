"""One sentence, exit by exit: what each exit of a trained run answers, and where each rule stops.

python -m tools.ask RUN_DIR "bob calls it witty . gus disagrees . dora agrees ."
python -m tools.ask RUN_DIR "the first sentence of a pair" "the second"
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bert import Bert, BertConfig
from leebert import MultiExitBert, exits_from_logits
from support.checkpoints import SPECIAL, read_object, read_tensors, read_tokenizer
from support.errors import UserError, command

RULES = [("patience", 1), ("patience", 2), ("entropy", 0.4), ("confidence", 0.8)]


def load_run(folder):
    """A run folder of train.py -> model (in eval mode), tokenizer, its config.json as a dict."""
    try:
        config, tensors = read_object(Path(folder, "config.json")), read_tensors(Path(folder))[1]
        sizes, labels, pool = config["bert"], config["labels"], config["pool"]
    except (UserError, OSError, LookupError) as error:
        raise UserError(f"{folder}: not a finished run of train.py ({error})") from None
    model = MultiExitBert(Bert(BertConfig(**sizes)), len(labels), pool)
    model.load_state_dict(tensors)
    return model.eval(), read_tokenizer(Path(folder)), config


def answer(folder, *sentences):
    """Print what each exit answers to a sentence (or a pair), and where each rule would stop.

    UserError if a sentence has no word that the model knows: its answer would mean nothing.
    """
    model, tokenizer, config = load_run(folder)
    if config["pairs"] != (len(sentences) == 2):
        raise UserError(f"{folder}: trained on {'pairs' if config['pairs'] else 'single texts'}")
    if any("\ud800" <= letter <= "\udfff" for letter in "".join(sentences)):
        raise UserError("the sentence is not UTF-8")  # Python's sign for a byte that is not
    if any(set(tokenizer.encode(text).tokens) <= set(SPECIAL) for text in sentences):
        raise UserError("a sentence without any word of the model's vocabulary")
    encoding = tokenizer.encode(*sentences)
    what = "tokens (cut to --max-length)" if encoding.overflowing else "tokens"
    print(f"{what}: {' '.join(encoding.tokens)}\n")
    with torch.no_grad():
        logits = model(torch.tensor([encoding.ids]), torch.tensor([encoding.type_ids]))  # (M, 1, C)
    show(logits, config["labels"])


def show(logits, labels):
    """logits (M, 1, C) of one example. With one label it is a number, without probabilities."""
    classes = labels if len(labels) > 1 else []
    values = (logits[:, 0].argmax(-1) if classes else logits[:, 0, 0]).tolist()  # M numbers
    answers = [labels[x] if classes else f"{labels[0]} {x:.2f}" for x in values]
    print("exit  answer          " + "  ".join(f"p({name})"[:18].rjust(18) for name in classes))
    for m, p in enumerate(logits[:, 0].softmax(dim=-1).tolist(), start=1):
        row = "  ".join(f"{x:18.3f}" for x in p[: len(classes)])
        print(f"{m:>4}  {answers[m - 1]:<16}{row}")
    for rule, threshold in RULES if classes else RULES[:2]:
        stop = exits_from_logits(logits, rule, threshold)[1].item()
        print(f"{rule} {threshold}: leaves at exit {stop}: {answers[stop - 1]}")


def main():
    usage = "usage: python -m tools.ask RUN_DIR SENTENCE [SECOND_SENTENCE]"
    command(lambda: answer(*sys.argv[1:]), usage=len(sys.argv) not in (3, 4) and usage)


if __name__ == "__main__":
    main()
