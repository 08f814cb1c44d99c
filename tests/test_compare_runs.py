"""experiments/compare_runs.py: its statistics by closed forms, and its words on made-up runs."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "experiments"))

import compare_runs  # noqa: E402


def made_up_run(folder, seed=0, exits=(0.6, 0.8), metric="acc", dev=400, task="rte", **settings):
    """A run folder with a result.json and a config.json, and nothing else."""
    folder.mkdir(parents=True)
    curve = [(2.0, exits[-1]), (1.5, 0.7), (1.0, exits[0])]
    result = {
        "task": task,
        "model": "some",
        "method": {"teachers": "all", "weights": "learned", "optimize": "cross"},
        "seed": seed,
        "metric": metric,
        "dev_examples": dev,
        "exits": [{"exit": m, metric: x} for m, x in enumerate(exits, 1)],
        "sweep": [{"rule": "entropy", metric: x, "mean_exit": e} for e, x in curve],
        "weights": {"ce": [1.0] * len(exits), "kd": [[0.5] * len(exits)] * len(exits)},
    }
    (folder / "result.json").write_text(json.dumps(result))
    config = {"task": task, "lr": 1e-3, "seed": seed, "out": str(folder), **settings}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def compare(*names):
    script = ROOT / "experiments" / "compare_runs.py"
    return subprocess.run(
        [sys.executable, script, *map(str, names)], capture_output=True, text=True
    )


def test_welch_by_closed_forms():
    """Student's tail is 1 - t / sqrt(2 + t^2) for nu = 2, 1 - 2 atan(t) / pi for nu = 1, and for
    many runs that of a normal, erfc(t / sqrt 2).
    """
    t = 2 / math.sqrt(0.25 + 0.25)  # both variances 1/2, n = 2: nu = 2
    assert compare_runs.welch([0, 1], [2, 3]) == pytest.approx(1 - t / math.sqrt(2 + t * t))
    t = 1.5 / math.sqrt(0.25)  # one side without spread: nu = n - 1 of the other
    assert compare_runs.welch([0, 1], [2, 2]) == pytest.approx(1 - 2 * math.atan(t) / math.pi)
    x, y = np.random.default_rng(0).normal(size=(2, 4000))
    t = abs(x.mean() - y.mean()) / math.sqrt((x.var(ddof=1) + y.var(ddof=1)) / 4000)
    assert compare_runs.welch(x, y) == pytest.approx(math.erfc(t / math.sqrt(2)), abs=1e-3)
    assert compare_runs.welch([1, 2, 4], [4, 1, 2]) == pytest.approx(1)
    assert math.isnan(compare_runs.welch([0.5, 0.5], [0.6, 0.6]))


def test_one_run_a_side_is_judged_by_the_dev_set():
    """0.5 and 0.6 on N examples: the error is sqrt(0.49 / N), 1.96 of it are 0.1 at N = 188."""
    assert compare_runs.judge([0.5], [0.6], "acc", 187).startswith("no  error 5.1")
    assert compare_runs.judge([0.5], [0.6], "acc", 189).startswith("yes error 5.1")
    assert compare_runs.judge([0.5], [0.6], "mcc", 1000) == "?"
    assert compare_runs.judge([0.5], [0.6], "acc", None) == "?"
    assert compare_runs.judge([0.5, 0.5], [0.6, 0.6], "acc", 10) == "?  no spread"


def test_equal_speedup_lies_on_the_line_between_two_thresholds():
    rows = [(1.5, 0.70), (3.0, 0.80)]
    sweep = [{"rule": "patience", "mean_exit": e, "acc": x} for e, x in rows]
    result = {"metric": "acc", "exits": [{"acc": 0.5}] * 3 + [{"acc": 0.9}], "sweep": sweep}

    def at(speedup):
        return compare_runs.at_speedup(result, "patience", speedup)

    assert at(2) == pytest.approx(0.7 + 0.1 * (2.0 - 1.5) / 1.5)  # 4 exits: mean exit 2
    assert at(1) == 0.9 and at(1.25) == pytest.approx(0.8 + 0.1 * 0.2)  # mean exit 3.2, to 4
    assert math.isnan(at(3))  # mean exit 1.33: no threshold leaves so early


def test_one_run_each(tmp_path):
    a = made_up_run(tmp_path / "a", exits=(0.6, 0.8))
    b = made_up_run(tmp_path / "b", exits=(0.6, 0.9), lr=5e-5, seed=3)
    done = compare(a, b)
    assert done.returncode == 0, done.stderr
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "they differ in: lr 0.001 | 5e-05" in lines
    assert "1 60.0 60.0 +0.0 no error 3.5" in lines and "2 80.0 90.0 +10.0 yes error 2.5" in lines
    assert "mean 70.0 75.0 +5.0 no error 3.2" in lines
    assert "entropy 1.25x 72.0 74.0 +2.0 no error 3.1" in lines  # mean exit 1.6: 0.2 of the way
    assert "2 1.00 1.00 1.00 1.00" in lines and "Train both with --seed 1" in done.stdout


def test_several_seeds_each(tmp_path):
    for seed, (x, y) in enumerate([(0.80, 0.90), (0.81, 0.91), (0.82, 0.92)]):
        made_up_run(tmp_path / f"a-s{seed}", seed, (0.6, x))
        made_up_run(tmp_path / f"b-s{seed}", seed, (0.6, y))
    done = compare(tmp_path / "a-s", tmp_path / "b-s")
    assert done.returncode == 0, done.stderr
    assert "a-s: 3 run(s), seeds 0 1 2" in done.stdout and "nothing, of" in done.stdout
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "1 60.0 +- 0.0 60.0 +- 0.0 +0.0 ? no spread" in lines
    assert "2 81.0 +- 1.0 91.0 +- 1.0 +10.0 yes p < 0.001" in lines
    assert "Train both" not in done.stdout


def test_what_cannot_be_compared_is_one_line_and_status_2(tmp_path):
    a = made_up_run(tmp_path / "a")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "result.json").write_text("{")
    made_up_run(tmp_path / "mixed-s0")
    made_up_run(tmp_path / "mixed-s1", seed=1, lr=1e-4)
    made_up_run(tmp_path / "twice-s0")
    made_up_run(tmp_path / "twice-s0-2")
    for other, message in (
        (made_up_run(tmp_path / "other", task="sst2"), "not comparable: task rte against sst2"),
        (made_up_run(tmp_path / "short", dev=9), "number of dev examples 400 against 9"),
        (made_up_run(tmp_path / "deep", exits=(0.5,) * 3), "number of exits 2 against 3"),
        (tmp_path / "nowhere", "nowhere: no result.json here, nor in a folder whose name"),
        (tmp_path / "broken", "broken: not a run of train.py"),
        (tmp_path / "mixed-s", "mixed-s: runs of different settings: lr 0.001 | 0.0001"),
        (tmp_path / "twice", "twice: a seed occurs twice among the 2 runs: [0, 0]"),
    ):
        done = compare(a, other)
        assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
    assert compare(a).returncode == 2
    own = [made_up_run(tmp_path / f, task="own", dev_file=f"{f}.tsv") for f in ("x", "y")]
    assert "dev file x.tsv against y.tsv" in compare(*own).stderr
