"""docs/hypergradient.md: its examples print what the code computes, and its arithmetic is right."""

import math
import re
import sys

import pytest
import torch
from conftest import ROOT

sys.path.insert(0, str(ROOT / "docs"))

import two_exits  # noqa: E402

PAGE = (ROOT / "docs" / "hypergradient.md").read_text(encoding="utf-8")
# The indented lines, cut at each "=": formulas, and what is computed by hand.
LINES = [
    [side.strip() for side in re.split(r" >?= ", re.sub(r" +\(\d\)$", "", line))]
    for line in PAGE.splitlines()
    if line.startswith("    ")
]
XI = 4 / 3 * math.log(2)


def test_the_examples(capsys):
    wrong, report = two_exits.check(), capsys.readouterr().out
    assert wrong == 0, report
    assert int(re.search(r"(\d+) examples", report)[1]) >= 20


def arithmetic(text):
    """The numbers that a piece of arithmetic makes; None if it is not arithmetic."""
    names = {"__builtins__": {}, "xi": XI, "log": math.log, "exp": math.exp, "sqrt": math.sqrt}
    try:
        return torch.tensor(eval(text, names), dtype=torch.float64).flatten()
    except (SyntaxError, NameError, TypeError):
        return None


def rounding(text):
    """Half of the last digit of a number with a decimal point; else what float64 may lose."""
    decimals = re.fullmatch(r"-?\d+\.(\d+)", text)
    return 0.5 * 10.0 ** -len(decimals[1]) if decimals else 1e-12


def test_what_is_computed_by_hand_is_computed_right():
    count = 0
    for line in LINES:
        sides = [text for text in line if arithmetic(text) is not None]
        for first, second in zip(sides[:-1], sides[1:], strict=True):
            difference = (arithmetic(first) - arithmetic(second)).abs().max()
            assert difference <= rounding(second), " = ".join(line)
            count += 1
    assert count >= 20


def test_the_pictures_are_those_that_the_script_draws(tmp_path):
    image = pytest.importorskip("matplotlib.image")
    two_exits.draw(tmp_path)
    shown = re.findall(r"\]\((\w+\.png)\)", PAGE)
    assert sorted(shown) == sorted(path.name for path in tmp_path.iterdir())
    for name in shown:
        drawn, kept = (image.imread(folder / name) for folder in (tmp_path, ROOT / "docs"))
        assert drawn.shape == kept.shape
        assert abs(drawn - kept).mean() < 0.005, "run python docs/two_exits.py"
