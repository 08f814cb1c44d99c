"""Checks 07-shared-layer.md against M layers of their own that hold the same numbers."""

from dataclasses import fields

import torch

import bert
import leebert
from exercises.common import compare, gradient, random, require
from exercises.reference import random_batch, small_bert, small_problem

M = 4


def count(module):
    return sum(p.numel() for p in module.parameters())


def check_structure(own, shared):
    require(
        f"layers.{M - 1}.ffn_in.weight" in own.state_dict(),
        "without share_layers nothing may change: M layers, called layers.0, layers.1, ...",
    )
    found, one_layer = count(shared), count(own) - (M - 1) * count(bert.Layer(own.config))
    require(
        found == one_layer,
        f"{found} parameters with share_layers; one layer makes {one_layer}, M layers make "
        f"{count(own)}. Equal numbers at the start are not one layer",
    )
    require(
        len(shared.layers) == M,
        f"bert.layers has {len(shared.layers)} entries for M = {M} exits: early_exit goes through "
        "it layer by layer, so it must list the one layer M times",
    )
    once, all_names = (list(shared.named_parameters(remove_duplicate=x)) for x in (True, False))
    require(
        len(once) == len(all_names),
        "the one layer is registered under several names: safetensors refuses tensors that share "
        "memory, so train.py stops when it saves, and functional_call does not put the model's "
        "parameters back; register it once",
    )


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

    problem, forms = small_problem(share_layers=True), ("jvp", "unrolled")
    result = [leebert.hypergradient(*problem, leebert.Hyper(0.1, form=form)) for form in forms]
    compare("the hypergradient `jvp`, against `unrolled`,", *result)
    model, d1 = problem[0], problem[-1].d1
    answers, _ = leebert.early_exit(model, d1, "confidence", 2.0)
    compare("early_exit at full depth", answers, model(*d1[:3])[-1].argmax(-1))
