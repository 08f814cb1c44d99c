"""A sentence walks through the encoder: the shape and the meaning of each tensor on the way.

python -m tools.walk                        # a small random encoder
python -m tools.walk FOLDER "a sentence"    # with a checkpoint's weights
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bert import Bert, BertConfig, load_bert
from data import load_tokenizer
from support.errors import UserError, command

USAGE = "usage: python -m tools.walk [FOLDER [SENTENCE]]"


def encoded(folder, sentence):
    """-> bert, tokens, ids (1, T); without a folder, a small random encoder of these words."""
    torch.manual_seed(0)
    if not folder:
        tokens = ["[CLS]", *sentence.split(), "[SEP]"]
        bert = Bert(BertConfig(len(tokens), 32, 3, 4, 64))  # vocabulary, H, M, A, feed-forward
        return bert, tokens, torch.arange(len(tokens))[None]
    bert = load_bert(folder)
    tokenizer = load_tokenizer(folder, bert.config.vocab_size)
    encoding, longest = tokenizer.encode(sentence), bert.config.max_position_embeddings
    if len(encoding.ids) > longest:
        raise UserError(f"{len(encoding.ids)} tokens, but the model has {longest} positions")
    return bert, encoding.tokens, torch.tensor([encoding.ids])


def walk(folder="", sentence="ann calls it dull . carl disagrees ."):
    """Print the shape and the meaning of each tensor on the way through the encoder."""
    bert, tokens, input_ids = encoded(folder, sentence)
    bert.eval()

    def show(what, tensor, meaning):
        print(f"{what:<22}{str(tuple(tensor.shape)):<18}{meaning}")

    print(f"tokens: {' '.join(tokens)}\n")
    show("input_ids", input_ids, "(B, T)     a number for each token")
    with torch.no_grad():
        hidden = bert.embed(input_ids)
        show("embed", hidden, "(B, T, H)  word + position + sentence, normalised")
        bias = bert.attention_bias(torch.ones_like(input_ids))
        show("attention_bias", bias, "(B, 1, 1, T)  0 for a token, -3e38 for padding")
        attention = bert.layers[0].attention
        show("  query(hidden)", attention.query(hidden), f"(B, T, H)  {attention.A} heads")
        show("  attention", attention(hidden, bias), "(B, T, H)  what the other tokens say")
        show("  ffn_in", bert.layers[0].ffn_in(hidden), "(B, T, intermediate_size)  for the gelu")
        for m, state in enumerate(bert(input_ids), start=1):
            first, second = state[0, 0, :2].tolist()
            show(f"after layer {m}", state, f"(B, T, H)  [CLS] = {first:+.3f} {second:+.3f} ...")


def main():
    argv = sys.argv[1:]
    command(lambda: walk(*argv), usage=len(argv) > 2 and USAGE)


if __name__ == "__main__":
    main()
