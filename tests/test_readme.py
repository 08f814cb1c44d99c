"""The pages are true: numbers, commands, options, links, and the passes that they count."""

import re
import shlex
from dataclasses import fields

import pytest
import tables
import torch
from conftest import ROOT, random_batch, tiny_model
from torch.utils.flop_counter import FlopCounterMode

import leebert
import train
from exercises import check

PAGES = {page: (ROOT / page).read_text(encoding="utf-8") for page in tables.PAGES}
README, SPEED = PAGES["README.md"], PAGES["docs/speed.md"]


def blocks(text):
    """The lines of all code blocks, without comments; a command that follows && is another line."""
    code = "".join(re.findall(r"^```\n(.*?)^```$", text, flags=re.S | re.M))
    return [part.split(" #")[0].strip() for part in re.split(r"\n| && ", code)]


def test_every_number_comes_from_a_result_file():
    found = re.findall(r"<!-- table: (\S+) -->", "".join(PAGES.values()))
    assert sorted(found) == sorted(tables.TABLES)  # each once
    for page, text in PAGES.items():
        assert tables.fill(text) == text, f"{page}: run python experiments/tables.py"


def test_the_readme_is_short():
    prose = re.sub(r"<!-- table.*?<!-- end -->|\$\$.*?\$\$", "", README, flags=re.S)
    assert 800 <= len(prose.split()) <= 1100


def test_the_commands_of_the_readme_are_right():
    assert "\npip install -r requirements.txt matplotlib && python train.py\n" in README
    assert "\npip install -r requirements-dev.txt && pytest\n" in README
    commands = [line for line in blocks(README) if line.startswith("python train.py")]
    assert len(commands) == 5
    for command in commands:
        train.parse(shlex.split(command)[2:])


def test_equations_have_the_numbers_of_the_code():
    numbers = [int(n) for n in re.findall(r"\\tag\{(\d+)\}", README)]
    in_code = (ROOT / "leebert.py").read_text(encoding="utf-8")
    assert numbers == sorted({int(n) for n in re.findall(r"# .*\((\d+)\)$", in_code, flags=re.M)})


def anchors(page):
    """What a link to a heading of the page may say after the #, as GitHub makes it."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, *(f"exercises/{x.name}" for x in check.PAGES.values())])
def test_every_option_file_and_link_exists(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    known = {f"--{f.name.replace('_', '-')}" for f in fields(train.Config)}
    for script in [*ROOT.glob("experiments/*.py"), *ROOT.glob("tools/*.py")]:
        known |= set(re.findall(r'add_argument\(\s*"(--[a-z-]+)"', script.read_text()))
    known |= {"--help", "--nproc-per-node", "--judge"}  # exercise 8 makes --judge
    assert set(re.findall(r"--[a-z][a-z0-9-]+", text)) <= known
    for name in re.findall(r"(?:`|python )((?:[a-z]+/)?\w+\.(?:py|md))\b", text):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"python -m ([a-z.]+)", text):
        assert (ROOT / f"{name.replace('.', '/')}.py").exists(), name
    for name, heading in re.findall(r"\]\(([^#):]*)#?([^):]*)\)", text):
        target = (ROOT / page).parent / name if name else ROOT / page
        assert target.exists(), name
        assert not heading or heading in anchors(target), heading


def passes(optimize, form):
    """Cost of one training step, in forward passes of the step's batch: a plain step is 3."""

    def operations(optimize):
        model, weights = tiny_model(), leebert.LossWeights(3).double()
        optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (model, weights)]
        size = 2 if optimize == "cross" else 4  # as train.py does at lambda = 1
        sizes = ((4, 1), (size, 2), (2, 3))
        batches = leebert.Batches(*(random_batch(B, seed=seed) for B, seed in sizes))
        hyper = leebert.Hyper(xi=0.1, form=form)
        with FlopCounterMode(display=False) as counter:
            leebert.training_step(model, weights, optimizers, batches, hyper, optimize)
        return counter.get_total_flops()

    return 3 * operations(optimize) / operations("fixed")


def test_the_passes_of_a_step_are_those_of_the_page():
    by_step = re.findall(r"^\| (?:plain: )?`(\w+)`[^|]*\| (\d) \|", SPEED, flags=re.M)
    found = {name: int(number) for name, number in by_step}
    assert list(found) == ["single", "bilevel", "cross", *leebert.FORMS]
    for name, number in found.items():
        call = ("bilevel", name) if name in leebert.FORMS else (name, "unrolled")
        assert passes(*call) == pytest.approx(number)
