"""The pages' numbers are those of the result files; their commands are those that CI runs."""

import re
import sys
from pathlib import Path

import pytest
import torch
from conftest import random_batch, tiny_model

import leebert
import train

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "experiments"))

import tables  # noqa: E402

PAGES = {page: (ROOT / page).read_text(encoding="utf-8") for page in tables.PAGES}
README, FAQ = PAGES["README.md"], PAGES["docs/faq.md"]


def test_every_number_comes_from_a_result_file():
    found = re.findall(r"<!-- table: (\S+) -->", "".join(PAGES.values()))
    assert sorted(found) == sorted(tables.TABLES)  # each once
    for page, text in PAGES.items():
        assert tables.fill(text) == text, f"{page}: run python experiments/tables.py"


def test_the_two_commands_stand_there_exactly():
    assert "\npip install -r requirements.txt && python train.py\n" in README
    assert "\npip install -r requirements-dev.txt && pytest\n" in README


@pytest.mark.parametrize("page", PAGES)
def test_every_option_and_file_it_names_exists(page):
    known = {f"--{f.name.replace('_', '-')}" for f in train.fields(train.Config)}
    for script in (ROOT / "experiments").glob("*.py"):
        known |= set(re.findall(r'add_argument\(\s*"(--[a-z-]+)"', script.read_text()))
    known |= {"--help", "--nproc-per-node"}
    assert set(re.findall(r"--[a-z][a-z0-9-]+", PAGES[page])) <= known
    for name in re.findall(r"(?:`|python )((?:[a-z]+/)?\w+\.(?:py|md))\b", PAGES[page]):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"\]\(([^#):]+)", PAGES[page]):
        assert ((ROOT / page).parent / name).exists(), name


def passes(optimize, method):
    """Cost of one training step, counted at the encoder: an example forward 1, backward 2 more; a
    forward pass that carries a derivative 3, or 2 where it makes no product a second time.
    """
    model, weights = tiny_model(), leebert.LossWeights(3).double()
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (model, weights)]
    d1, d2 = random_batch(B=4, seed=1), random_batch(B=4, seed=2)
    share = 0.5 if optimize == "cross" else 0.0  # as train.py does at lambda = 1
    cost = []

    def count(module, inputs, states):
        carries = torch.autograd.forward_ad.unpack_dual(states[0]).tangent is not None
        one = (2 if method == "reuse" else 3) if carries else 3 if states[0].requires_grad else 1
        cost.append(one * len(states[0]) / len(d1.labels))

    model.bert.register_forward_hook(count)
    options = dict(step_size=0.1, lam=1.0, method=method, temperature=1.0)
    d1_judge, d2 = train.some_of(d1, share), train.some_of(d2, 1 - share)
    leebert.training_step(
        model, weights, *optimizers, d1, d2, optimize, 1.0, d1_judge=d1_judge, **options
    )
    return sum(cost)


@pytest.mark.parametrize("method", ["reuse", "difference"])
def test_the_passes_of_a_step_are_those_of_the_page(method):
    rows = re.findall(r"^\| (?:plain: )?`(\w+)`.* \| (\d+) \|", FAQ, flags=re.M)
    assert [name for name, _ in rows] == ["single", "bilevel", "cross"]
    for optimize, number in rows:
        assert passes(optimize, method) == int(number)


def test_forward_costs_one_more():
    assert passes("bilevel", "forward") == passes("bilevel", "reuse") + 1
