"""A sentence walks through the encoder: the shape and the meaning of each tensor on the way.

python -m tools.walk                        # a small random encoder
python -m tools.walk FOLDER "a sentence"    # with a checkpoint's weights
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bert import Bert, BertConfig, load_bert
from data import load_tokenizer, toy_tokenizer
from support.errors import command


def walk(folder="", sentence="ann calls it dull . carl disagrees ."):
    """Print the shape and the meaning of each tensor on the way through the encoder."""
    torch.manual_seed(0)
    if folder:
        bert = load_bert(folder)
        tokenizer = load_tokenizer(folder, bert.config.vocab_size)
    else:
        tokenizer = toy_tokenizer()
        bert = Bert(BertConfig(tokenizer.get_vocab_size(), 32, 3, 4, 64))  # H, M, A, feed-forward
    bert.eval()
    encoding = tokenizer.encode(sentence)
    input_ids = torch.tensor([encoding.ids[: bert.config.max_position_embeddings]])

    def show(what, tensor, meaning):
        print(f"{what:<22}{str(tuple(tensor.shape)):<18}{meaning}")

    print(f"tokens: {' '.join(encoding.tokens)}\n")
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
            show(f"after layer {m}", state, f"(B, T, H)  [CLS] = {state[0, 0, 0]:+.3f} ...")


def main():
    usage = "usage: python -m tools.walk [FOLDER [SENTENCE]]"
    command(lambda: walk(*sys.argv[1:]), usage=len(sys.argv) > 3 and usage)


if __name__ == "__main__":
    main()
