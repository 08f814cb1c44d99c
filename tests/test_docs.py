"""docs/: the examples of hypergradient.md print what the code computes, its arithmetic is right;
lesson.ipynb runs from top to bottom, and what it stores is clean.
"""

import json
import math
import re

import nbformat
import pytest
import torch
import two_exits
from conftest import ROOT, copy_of_the_code
from matplotlib import image
from nbclient import NotebookClient

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
    two_exits.draw(tmp_path)
    shown = re.findall(r"\]\((\w+\.png)\)", PAGE)
    assert sorted(shown) == sorted(path.name for path in tmp_path.iterdir())
    for name in shown:
        drawn, kept = (image.imread(folder / name) for folder in (tmp_path, ROOT / "docs"))
        assert drawn.shape == kept.shape
        assert abs(drawn - kept).mean() < 0.005, "run python docs/two_exits.py"


# --------------------------------------------------------------------------------------------------
# The lesson, with few examples


LESSON = (ROOT / "docs" / "lesson.ipynb").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["docs", "."])
def test_the_lesson_runs(folder, tmp_path):
    copy_of_the_code(tmp_path)
    (tmp_path / "docs").mkdir()
    text, count = re.subn(r"EXAMPLES = len\(.*?\)\.train\)", "EXAMPLES = 512", LESSON)
    assert count == 1
    notebook, where = nbformat.reads(text, as_version=4), {"metadata": {"path": tmp_path / folder}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=where).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    printed = "".join(output.get("text", "") for output in outputs)
    found = re.search(r"largest difference (\S+), largest entry (\S+)", printed)
    assert float(found[1]) < 1e-10 * float(found[2])
    found = re.search(r"autograd +(\S+)\nfinite difference +(\S+)", printed)
    assert float(found[1]) == pytest.approx(float(found[2]), rel=1e-5, abs=1e-12)
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 4


def test_what_the_lesson_stores():
    cells = json.loads(LESSON)["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    assert outputs and all(output["output_type"] != "error" for output in outputs)
    assert all(output.get("name") != "stderr" for output in outputs)  # no warning either
    words = re.sub(r'"image/png": ".*"', "", LESSON)
    depths = re.findall(r"level \d   mean exit (\S+)", words)  # harder sentences stay longer
    assert len(depths) == 4 and depths == sorted(depths)
    assert not re.search(r"/(home|root|tmp|Users|usr|opt|work)\b|[A-Z]:\\\\", words)
