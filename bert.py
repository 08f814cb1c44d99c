"""BERT, the encoder that the exits of leebert.py stand on.

BERT reads T tokens and returns one vector of H numbers for each of them. It adds three embeddings
(which word, which position, first or second sentence) and then refines the result M times with the
same kind of layer:

    attention      every token looks at all tokens      x <- LayerNorm(x + Attention(x))
    feed-forward   every token thinks for itself        x <- LayerNorm(x + W2 gelu(W1 x + b1) + b2)

The norm stands after the sum ("post-norm"), as in the original. Attention is written out by hand
for two reasons. It is what a reader comes for; and the fused kernel behind
`F.scaled_dot_product_attention` can be differentiated only once, in reverse, while the
hypergradient of leebert.py needs a second derivative, or one in forward mode. Plain tensor
operations have both. (Where nothing will be differentiated, in torch.inference_mode, the fused
kernel does the same work: see Attention.)

    symbol  meaning                          in config.json
    B       examples in a batch
    T       tokens in an example, padded
    H       width of a hidden state          hidden_size
    A       attention heads                  num_attention_heads
    D       width of a head, H / A
    M       layers (later: exits)            num_hidden_layers

BERT's pretraining (masked words, next sentence) is absent: weights are loaded from a checkpoint
(`load_bert`), or start at random, which is enough for the built-in task. Source of everything here:
Devlin et al. 2019, arXiv:1810.04805.

    python -m tools.walk         # follows a sentence through a small random encoder
"""

import math
from dataclasses import dataclass, fields
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

from support.checkpoints import read_object, read_tensors
from support.errors import UserError

# --------------------------------------------------------------------------------------------------
# 1. Configuration


@dataclass
class BertConfig:
    """Sizes of an encoder, named as in a checkpoint's config.json. Defaults: BERT-base, uncased."""

    vocab_size: int = 30522
    hidden_size: int = 768  # H
    num_hidden_layers: int = 12  # M
    num_attention_heads: int = 12  # A
    intermediate_size: int = 3072  # width between the two matrices of the feed-forward part
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512  # the longest T
    type_vocab_size: int = 2  # first and second sentence
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02  # std of the random weights
    hidden_act: str = "gelu"  # the erf form; checkpoints with another activation are refused
    position_embedding_type: str = "absolute"  # likewise

    def __post_init__(self):
        for f in fields(self):
            value, least = getattr(self, f.name), {int: 1, float: 0}.get(f.type)
            if least is not None and not (
                isinstance(value, (int, f.type)) and least <= value < 1e8
            ):
                kind = "an integer" if f.type is int else "a number"
                raise UserError(f"{f.name} must be {kind}, {least} to 1e8, not {value!r}")
        H, A = self.hidden_size, self.num_attention_heads
        if H % A:
            raise UserError(f"hidden_size {H} is not a multiple of {A} heads")
        if self.hidden_act != "gelu" or self.position_embedding_type != "absolute":
            found = f"{self.hidden_act!r} and {self.position_embedding_type!r}"
            raise UserError(f"this encoder has gelu and absolute positions, not {found}")


# --------------------------------------------------------------------------------------------------
# 2. The model


def dropout(x, p, training):
    """Set each entry of x to 0 with probability p, divide the others by 1 - p: the mean stays.

    Own code, because the mask must depend on nothing but the shape and the state of the random
    generator. Then the same seed gives the same mask in a plain pass and under forward-mode
    differentiation, which the hypergradient relies on.
    """
    if not training or p == 0:
        return x
    keep = torch.rand(x.shape, device=x.device) >= p
    return x * (keep / (1 - p))


class Attention(nn.Module):
    """softmax(Q K^T / sqrt(D)) V for each of A heads, then one matrix that mixes the heads."""

    def __init__(self, config):
        super().__init__()
        H = config.hidden_size
        self.A, self.D = config.num_attention_heads, H // config.num_attention_heads
        self.p = config.attention_probs_dropout_prob
        self.query, self.key, self.value, self.output = (nn.Linear(H, H) for _ in range(4))

    def forward(self, hidden, bias):
        """hidden (B, T, H), bias (B, 1, 1, T) -> (B, T, H)"""
        B, T, H = hidden.shape
        query, key, value = (
            matrix(hidden).view(B, T, self.A, self.D).transpose(1, 2)  # (B, A, T, D)
            for matrix in (self.query, self.key, self.value)
        )
        if torch.is_inference_mode_enabled():  # the same by a fused kernel without a derivative
            p = self.p if self.training else 0.0
            mixed = F.scaled_dot_product_attention(query, key, value, bias, dropout_p=p)
        else:
            scores = (query / math.sqrt(self.D)) @ key.transpose(2, 3) + bias  # (B, A, T, T)
            weights = dropout(scores.softmax(-1), self.p, self.training)  # (B, A, T, T)
            mixed = weights @ value  # (B, A, T, D)
        return self.output(mixed.transpose(1, 2).reshape(B, T, H))


class Layer(nn.Module):
    """One encoder layer: attention, then feed-forward, each added to its input and normalised."""

    def __init__(self, config):
        super().__init__()
        H, wide, eps = config.hidden_size, config.intermediate_size, config.layer_norm_eps
        self.p = config.hidden_dropout_prob
        self.attention = Attention(config)
        self.attention_norm = nn.LayerNorm(H, eps=eps)
        self.ffn_in, self.ffn_out = nn.Linear(H, wide), nn.Linear(wide, H)
        self.ffn_norm = nn.LayerNorm(H, eps=eps)

    def forward(self, hidden, bias):
        """hidden (B, T, H), bias (B, 1, 1, T) -> (B, T, H)"""
        update = self.attention(hidden, bias)
        hidden = self.attention_norm(hidden + dropout(update, self.p, self.training))
        update = self.ffn_out(F.gelu(self.ffn_in(hidden)))
        return self.ffn_norm(hidden + dropout(update, self.p, self.training))


class Bert(nn.Module):
    """The encoder with random weights. `load_bert` makes one with a checkpoint's weights."""

    def __init__(self, config):
        super().__init__()
        self.config, H = config, config.hidden_size
        self.word_embedding = nn.Embedding(config.vocab_size, H)
        self.position_embedding = nn.Embedding(config.max_position_embeddings, H)
        self.token_type_embedding = nn.Embedding(config.type_vocab_size, H)
        self.embedding_norm = nn.LayerNorm(H, eps=config.layer_norm_eps)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.apply(lambda module: init_weights(module, config.initializer_range))

    def embed(self, input_ids, token_type_ids=None):
        """ids (B, T) -> hidden (B, T, H), before the first layer.

        ValueError if T is more than the model has positions.
        """
        T, longest = input_ids.shape[1], self.config.max_position_embeddings
        if T > longest:
            raise ValueError(f"{T} tokens, but the model has {longest} positions")
        token_type_ids = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        hidden = (
            self.word_embedding(input_ids)  # (B, T, H)
            + self.position_embedding.weight[:T]  # (T, H), the same for every example
            + self.token_type_embedding(token_type_ids)
        )
        return dropout(self.embedding_norm(hidden), self.config.hidden_dropout_prob, self.training)

    def attention_bias(self, attention_mask):
        """mask (B, T), 1 for a token and 0 for padding -> (B, 1, 1, T), to be added to the scores.

        A padded key gets the lowest finite number, so that its softmax weight is exactly 0 and
        padding cannot change a result. (Not minus infinity: a softmax over nothing else is NaN.)
        """
        dtype = self.embedding_norm.weight.dtype
        absent = (attention_mask == 0).to(dtype)[:, None, None]  # (B, 1, 1, T)
        return torch.finfo(dtype).min * absent

    def forward(self, input_ids, token_type_ids=None, attention_mask=None):
        """ids and masks (B, T) -> list of M hidden states (B, T, H), one after every layer.

        Inference that stops in the middle calls `embed`, `attention_bias` and then `layers` one
        by one: see early_exit in leebert.py.
        """
        attention_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        hidden, bias = self.embed(input_ids, token_type_ids), self.attention_bias(attention_mask)
        states = []
        for layer in self.layers:
            hidden = layer(hidden, bias)
            states.append(hidden)
        return states


def init_weights(module, std):
    """BERT's start for new weights: matrices and embeddings normal(0, std), biases 0.

    The original cuts the normal off at two std. LayerNorm keeps its own start, weight 1 and bias 0.
    """
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=std)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


# --------------------------------------------------------------------------------------------------
# 3. Loading a checkpoint
#
# Strict: every tensor of ours is filled exactly once with its shape checked, and every tensor of
# theirs is used or stands on the list of drops. A loader that skips what it does not know turns a
# typing error into random weights.

NAMES = """
    ours                              checkpoint
    word_embedding                    embeddings.word_embeddings
    position_embedding                embeddings.position_embeddings
    token_type_embedding              embeddings.token_type_embeddings
    embedding_norm                    embeddings.LayerNorm
    layers.N.attention.query          encoder.layer.N.attention.self.query
    layers.N.attention.key            encoder.layer.N.attention.self.key
    layers.N.attention.value          encoder.layer.N.attention.self.value
    layers.N.attention.output         encoder.layer.N.attention.output.dense
    layers.N.attention_norm           encoder.layer.N.attention.output.LayerNorm
    layers.N.ffn_in                   encoder.layer.N.intermediate.dense
    layers.N.ffn_out                  encoder.layer.N.output.dense
    layers.N.ffn_norm                 encoder.layer.N.output.LayerNorm
"""
OURS = {theirs: ours for ours, theirs in (row.split() for row in NAMES.strip().splitlines()[1:])}

DROPPED = {
    "cls.": "heads of the pretraining tasks",
    "discriminator_predictions.": "the same of ELECTRA",
    "classifier.": "head of a fine-tuned model: classes of texts or tokens, multiple choice",
    "qa_outputs.": "the same for question answering",
    "pooler.": "trained on the last layer, for the next-sentence task; an exit here is one matrix",
    "embeddings.position_ids": "the constant 0, 1, 2, ...",
}


def our_name(theirs):
    """A checkpoint's tensor name -> ours; None if it is dropped, `unknown...` if it is neither.

    All styles: with and without the prefix `bert.` or `electra.`; LayerNorm's tensors called gamma
    and beta (as in 2018) or weight and bias.
    """
    theirs = theirs.removeprefix("bert.").removeprefix("electra.")
    if theirs.startswith(tuple(DROPPED)):
        return None
    module, _, tensor = theirs.rpartition(".")
    tensor = {"gamma": "weight", "beta": "bias"}.get(tensor, tensor)
    number = next((part for part in module.split(".") if part.isdigit()), "N")
    module = OURS.get(module.replace(f".{number}.", ".N."), "unknown").replace(".N.", f".{number}.")
    return f"{module}.{tensor}"


def read_config(folder):
    """FOLDER/config.json -> BertConfig. Fields that do not describe the encoder are ignored."""
    path = Path(folder) / "config.json"
    if not path.exists():
        need = "config.json, model.safetensors and vocab.txt or tokenizer.json"
        raise FileNotFoundError(f"{path}: no such file; a checkpoint is a folder with {need}")
    values = read_object(path)
    kind = "a run of train.py" if "bert" in values else values.get("model_type", "bert")
    narrow = kind == "electra" and values.get("embedding_size") != values.get("hidden_size")
    if kind not in ("bert", "electra") or narrow:
        need = "a checkpoint of bert, or of electra with embedding_size equal to hidden_size"
        raise UserError(f"{path}: this is {kind}; --model must be {need}")
    names = [field.name for field in fields(BertConfig)]
    try:
        return BertConfig(**{name: values[name] for name in names if name in values})
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def load_bert(folder):
    """FOLDER with config.json and model.safetensors -> Bert, in float32.

    Prints one line of what was loaded and dropped. UserError, naming file and tensor, if a tensor
    is missing, unknown, given twice or of the wrong shape.
    """
    folder = Path(folder)
    config, (path, checkpoint) = read_config(folder), read_tensors(folder)
    if (M := config.num_hidden_layers) > len(checkpoint):
        raise UserError(f"{path}: {len(checkpoint)} tensors, but config.json names {M} layers")
    with torch.device("meta"):  # shapes only: those of a wrong config.json may not fit into memory
        ours, filled, dropped = Bert(config).state_dict(), {}, []
    for theirs, tensor in checkpoint.items():
        name = our_name(theirs)
        if name is None:
            dropped.append(theirs)
        elif name not in ours:
            advice = "if a wrapper added module. or model. to the names, save the model inside it"
            place = f"has no place in a BERT of {M} layers; {advice}"
            raise UserError(f"{path}: tensor {theirs!r} {place}")
        elif name in filled:
            raise UserError(f"{path}: tensor {theirs!r} is there twice, under two spellings")
        elif tensor.shape != ours[name].shape:
            shapes = f"{tuple(tensor.shape)}, config.json asks for {tuple(ours[name].shape)}"
            raise UserError(f"{path}: tensor {theirs!r} has shape {shapes}")
        else:
            filled[name] = tensor.float()
    if missing := sorted(ours.keys() - filled.keys()):
        raise UserError(f"{path}: {len(missing)} tensor(s) missing, first our {missing[0]!r}")
    bert = Bert(config)
    bert.load_state_dict(filled)
    count, names = sum(x.numel() for x in filled.values()), ", ".join(sorted(dropped)) or "none"
    print(f"{path}: {len(filled)} tensors loaded ({count:,} parameters), 0 newly initialised, "
          f"{len(dropped)} dropped ({names})")  # fmt: skip
    return bert
