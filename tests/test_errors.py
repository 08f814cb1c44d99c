"""support/errors.py: a bug is a traceback with its own line; what a file causes is one line."""

import subprocess
import sys
import traceback
import types

import pytest
import torch
from conftest import ROOT

from support import errors

# Ten bugs as a class makes them: file, what stands there, what a student makes of it.
BUGS = {
    "shape": ("leebert", "M, B, C = logits.shape\n    if C", "M, B = logits.shape\n    if C"),
    "name": ("leebert", "return table[teachers]", "return table[teacher]"),
    "zip": ("leebert", "in zip(states, self.exits,", "in zip(states[1:], self.exits,"),
    "broadcasting": ("leebert", "(w_kd * kd).sum()", "(w_kd * kd[:, :2]).sum()"),
    "key": ("leebert", "hyper.xi * g[name] for", "hyper.xi * g['no'] for"),
    "index": ("data", "n = encoded.lengths[i]", "n = encoded.lengths[i + 10**6]"),
    "dtype": ("leebert", "labels].mean(", "labels.float()].mean("),
    "in-place": ("leebert", "p - hyper.xi * g[name] for", "p.sub_(hyper.xi * g[name]) for"),
    "device": ("bert", "hidden + dropout(update", "hidden.to('meta') + dropout(update"),
    "detach": ("leebert", "gradient(L, theta, create", "gradient(L.detach(), theta, create"),
}


def fresh(monkeypatch, changed, old, new):
    """The four scripts, one of them changed -> train, and the first line that has changed."""
    for name in ("bert", "data", "leebert", "train"):
        source = (ROOT / f"{name}.py").read_text(encoding="utf-8")
        if name == changed:
            assert old in source
            number = source[: source.index(old)].count("\n") + 1
            source = source.replace(old, new)
        module = types.ModuleType(name)
        monkeypatch.setitem(sys.modules, name, module)
        exec(compile(source, f"{name}.py", "exec"), module.__dict__)
    return module, number


@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_is_a_traceback_with_its_line(monkeypatch, tmp_path, call, bug):
    train, number = fresh(monkeypatch, *BUGS[bug])
    with pytest.raises(Exception) as raised:
        call(train.main, "--train-examples=64", "--device=cpu", f"--out={tmp_path / 'run'}")
    frames = [(f.filename, f.lineno) for f in traceback.extract_tb(raised.tb)]
    assert (f"{BUGS[bug][0]}.py", number) in frames


def test_the_command_shows_it_and_ends_with_status_1(tmp_path):
    script = "import train; train.learning_rate = lambda *a: 1 / 0; train.main()"
    argv = [sys.executable, "-c", script, "--train-examples=64", f"--out={tmp_path / 'run'}"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" in done.stderr and "ZeroDivision" in done.stderr


def allocate():
    torch.empty(2**60)


@pytest.mark.parametrize("function, message", [
    (allocate, "out of memory; try a smaller --batch-size or --max-length, or --hypergradient jvp"),
    (lambda: open("/no/such/file"), "[Errno 2] No such file or directory: '/no/such/file'"),
])  # fmt: skip
def test_what_is_no_bug_is_one_line(call, function, message):
    done = call(lambda: errors.command(function))
    assert done.returncode == 2 and done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1
