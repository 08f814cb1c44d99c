"""support/picture.py: what stands in the panels is what stands in result.json."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from support import picture

figures = pytest.importorskip("matplotlib.figure")
ROOT = Path(__file__).parent.parent


@pytest.fixture
def result():
    """Three exits; student 2 learns from 3 most, and 3 from nobody (as with --teachers later)."""
    rows = [
        {"rule": rule, "threshold": t, "mcc": x, "speedup_layers": s, "speedup_wall": w}
        for rule, t, x, s, w in [
            ("patience", 2, 0.5, 1.0, 0.9),
            ("entropy", 0.4, 0.3, 2.5, 1.5),
            ("entropy", 0.1, 0.4, 2.0, 1.7),
        ]
    ]
    return {
        "task": "cola",
        "model": "some",
        "method": {"teachers": "later", "weights": "learned", "optimize": "cross"},
        "seed": 0,
        "metric": "mcc",
        "majority": {"mcc": 0.0},
        "exits": [{"exit": m, "mcc": x} for m, x in enumerate((0.1, 0.4, 0.5), 1)],
        "sweep": rows,
        "operating_point": rows[0],
        "levels": [{"level": 1, "acc": 1.0, "mean_exit": 1.2}],
        "weights": {"ce": [0.5, 1.0, 1.5], "kd": [[0, 0.6, 0.4], [0, 0, 1.7], [0, 0, 0]]},
    }


def test_lines_are_the_numbers(result):
    axes = figures.Figure().subplots()
    picture.exits_panel(axes, result)
    assert axes.lines[0].get_ydata().tolist() == [0.1, 0.4, 0.5]
    assert list(axes.lines[1].get_ydata()) == [0.0, 0.0]
    assert axes.get_ylabel() == "Matthews correlation on dev"
    axes = figures.Figure().subplots()
    picture.speedup_panel(axes, result, "speedup_wall", "time")
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert lines["patience"] == [[0.9, 0.5]] and lines["confidence"] == []
    assert lines["entropy"] == [[1.7, 0.4], [1.5, 0.3]]  # in the order of the thresholds
    assert lines["full depth"] == [[1, 0.5]]


def test_a_row_of_the_matrix_is_a_student(result):
    """And each number is the weight times the number of the student's teachers."""
    axes = figures.Figure().subplots()
    picture.kd_panel(axes, result)
    cells = {(text.get_position()[::-1]): text.get_text() for text in axes.texts}
    assert len(cells) == 9 and {k: v for k, v in cells.items() if v != "-"} == {
        (0, 1): "1.2", (0, 2): "0.8", (1, 2): "1.7",
    }  # fmt: skip
    axes = figures.Figure().subplots()
    picture.ce_panel(axes, result)
    assert [bar.get_height() for bar in axes.patches] == [0.5, 1.0, 1.5]


@pytest.mark.parametrize("levels", [True, False])
def test_the_picture_is_drawn(result, tmp_path, levels):
    if not levels:
        result |= {"levels": [], "operating_point": None}
    (tmp_path / "result.json").write_text(json.dumps(result))
    path = tmp_path / "report.png"
    assert picture.draw(tmp_path) == f"picture: {path}"
    assert path.read_bytes().startswith(b"\x89PNG")


def test_the_command_line(tmp_path):
    def command(*args):
        script = [sys.executable, "-m", "support.picture", *args]
        return subprocess.run(script, cwd=ROOT, capture_output=True, text=True)

    (tmp_path / "result.json").write_text((ROOT / "results/toy/result.json").read_text())
    done = command(tmp_path)
    assert done.returncode == 0 and done.stdout == f"picture: {tmp_path / 'report.png'}\n", (
        done.stderr
    )
    for content in ("{", "{}", "[]"):
        (tmp_path / "result.json").write_text(content)
        done = command(tmp_path)
        assert done.returncode == 2 and "not a result of train.py" in done.stderr
        assert done.stderr.count("\n") == 1
    assert command(tmp_path / "nowhere").returncode == 2 and command().returncode == 2
