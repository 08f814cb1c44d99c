"""Checks 07-shared-layer.md against M layers of their own that hold the same numbers."""

from dataclasses import fields

import torch

import bert
import leebert
from exercises.common import compare, gradient, random, require
from exercises.reference import check_forms, random_batch, small_bert, small_problem

M = 4


def count(module):
    return sum(p.numel() for p in module.parameters())


def check_structure(own, shared):
    original = f"layers.{M - 1}.ffn_in.weight" in own.state_dict()
    require(original, "without share_layers nothing may change: M layers, layers.0, layers.1, ...")
    found, one_layer = count(shared), count(own) - (M - 1) * count(bert.Layer(own.config))
    sentence = f"one layer makes {one_layer} parameters; with share_layers there are {found}"
    require(found == one_layer, f"{sentence}. Equal numbers at the start are not one layer")
    sentence = f"early_exit goes through bert.layers, which must list the one layer {M} times"
    require(len(shared.layers) == M, f"{sentence}; yours has {len(shared.layers)} entries")
    once, all_names = (list(shared.named_parameters(remove_duplicate=x)) for x in (True, False))
    sentence = "the one layer has several names, so safetensors refuses to save it, and "
    sentence += "functional_call does not put its parameters back: register it once"
    require(len(once) == len(all_names), sentence)


def check():
    there = "share_layers" in {field.name for field in fields(bert.BertConfig)}
    require(there, "not started: BertConfig is still the original, it has no field share_layers")
    off = bert.BertConfig().share_layers is False
    require(off, "share_layers must be False by default: checkpoints of BERT have M layers")
    own, shared = small_bert(M, share_layers=False), small_bert(M, share_layers=True)
    check_structure(own, shared)

    values = {name: p for name, p in shared.state_dict().items() if name in own.state_dict()}
    for i in range(M):
        values |= {f"layers.{i}.{name}": p for name, p in shared.layers[0].state_dict().items()}
    own.load_state_dict(values)
    ids, _, mask, _ = random_batch(5, seed=1)
    hidden, theirs = own.embed(ids), []
    for layer in own.layers:
        hidden = layer(hidden, own.attention_bias(mask))
        theirs.append(hidden)
    ours, theirs = torch.stack(shared(ids, None, mask)), torch.stack(theirs)
    compare("the states of a shared layer", ours, theirs)

    def layer_gradient(states, layer):  # of a function of the last state
        loss = (states[-1] * random(*states[-1].shape, seed=4)).sum()
        return torch.cat([gradient(loss, p).flatten() for p in layer.parameters()])

    uses = [layer_gradient(theirs, layer) for layer in own.layers]
    result = layer_gradient(ours, shared.layers[0])
    sentence = "the gradient is that of the last use alone: a state is detached on the way"
    compare("the gradient of the shared layer", result, sum(uses), [(sentence, uses[-1])])

    check_forms("a parameter of the shared layer is not put back", share_layers=True)
    model, _, (d1, *_) = small_problem(share_layers=True)
    answers, _ = leebert.early_exit(model, d1, "confidence", 2.0)
    compare("early_exit at full depth", answers, model(*d1[:3])[-1].argmax(-1))
