"""tools/picture.py: what stands in the panels is what stands in result.json."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tools import picture

figures = pytest.importorskip("matplotlib.figure")
ROOT = Path(__file__).parent.parent


@pytest.fixture
def result():
    """Three exits; student 2 learns from 3 most, and 3 from nobody (as with --teachers later)."""
    rows = [dict(rule=rule, threshold=t, mcc=mcc, speedup_layers=layers, speedup_wall=wall,
                 over_mix=over, mean_exit=3 / layers) for rule, t, mcc, layers, wall, over in (
        ("always", 1, 0.1, 3.0, 2.8, 0.0), ("patience", 2, 0.5, 1.0, 0.9, 0.0),
        ("entropy", 0.4, 0.3, 2.5, 1.5, 0.125), ("entropy", 0.1, 0.4, 2.0, 1.7, 0.25))]  # fmt: skip
    return {
        "task": "cola", "model": "some", "seed": 0, "metric": "mcc", "majority": {"mcc": 0.0},
        "method": {"teachers": "later", "weights": "learned", "optimize": "cross"},
        "exits": [{"exit": m, "mcc": x} for m, x in enumerate((0.1, 0.4, 0.5), 1)],
        "sweep": rows, "operating_point": rows[1],
        "levels": [{"level": 1, "acc": 1.0, "mean_exit": 1.2, "exits": [0.6, 0.9, 1.0]}],
        "weights": {"ce": [0.5, 1.0, 1.5], "kd": [[0, 0.6, 0.4], [0, 0, 1.7], [0, 0, 0]]},
    }  # fmt: skip


def test_lines_are_the_numbers(result):
    axes = figures.Figure().subplots()
    picture.leaving_panel(axes, result)
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert lines["patience"] == lines["<= 1 point lost"] == [[3.0, 0.5]]
    assert lines["entropy"] == [[1.2, 0.3], [1.5, 0.4]] and "confidence" not in lines
    mix = lines["best random mix of exits"]  # the metric without over_mix, from fast to slow
    assert mix == [[1.0, 0.1], [1.2, 0.175], [1.5, pytest.approx(0.15)], [3.0, 0.5]]
    assert axes.get_xticklabels()[1].get_text() == "2\n1.5x"


def numbers(axes):
    """Cells of a panel: (row, column) -> text, without the empty ones."""
    cells = {text.get_position()[::-1]: text.get_text() for text in axes.texts}
    return {place: text for place, text in cells.items() if text}


def test_a_row_of_the_weights_is_a_student(result):
    """First its cross-entropy; then each teacher's weight times the number of its teachers."""
    axes = figures.Figure().subplots()
    picture.weights_panel(axes, result)
    assert numbers(axes) == {
        (0, 0): "0.50", (0, 2): "1.20", (0, 3): "0.80", (1, 0): "1.00", (1, 3): "1.70",
        (2, 0): "1.50",
    }  # fmt: skip


def test_a_row_of_the_levels_is_a_level(result):
    axes = figures.Figure().subplots()
    result["exits"] = [{"exit": m, "acc": x} for m, x in enumerate((0.7, 0.8, 0.9), 1)]
    picture.levels_panel(axes, result)
    assert [text for _, text in sorted(numbers(axes).items())] == [
        "0.60", "0.90", "1.00", "0.70", "0.80", "0.90",
    ]  # fmt: skip
    assert [text.get_text() for text in axes.get_yticklabels()] == ["level 1", "all"]
    # The star of mean exit 1.2 is at .2, since exit 1 is at 0.
    assert axes.lines[0].get_xdata().tolist() == [pytest.approx(0.2)]


@pytest.mark.parametrize("levels", [True, False])
def test_the_pictures_are_drawn(result, tmp_path, levels):
    result["exits"] = [{**row, "acc": 0.5} for row in result["exits"]]
    names = ["levels", "leaving", "weights"]
    if not levels:
        result |= {"levels": [], "operating_point": None}
        names.remove("levels")
    (tmp_path / "result.json").write_text(json.dumps(result))
    assert picture.draw(tmp_path) == f"pictures: {', '.join(names)} (.png) in {tmp_path}"
    assert {path.stem for path in tmp_path.glob("*.png")} == set(names)
    assert all(path.read_bytes()[1:4] == b"PNG" for path in tmp_path.glob("*.png"))


def test_the_command_line(tmp_path):
    def command(*args):
        script = [sys.executable, ROOT / "tools" / "picture.py", *args]
        return subprocess.run(script, cwd=tmp_path, capture_output=True, text=True)

    (tmp_path / "result.json").write_text((ROOT / "results/toy/result.json").read_text())
    done = command(tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"pictures: levels, leaving, weights (.png) in {tmp_path}\n"
    assert command("nowhere").returncode == 2 and command().returncode == 2
