"""Each checker of exercises/ accepts a solution, names mistakes, and knows the unchanged project.

A solution is a change of one file, as a student makes it. The changes are made in memory.
"""

import inspect
import re
import subprocess
import sys
import textwrap
import types
from pathlib import Path

import methods
import pytest
from conftest import ROOT, copy_of_the_code

from exercises import check


def edited_source(name, edits):
    """A module's text with pairs (old, new) replaced. old None: new comes at the end, and takes the
    place of functions of the same name."""
    path = ROOT / f"{name.replace('.', '/')}.py"
    source = path.read_text(encoding="utf-8")
    for old, new in edits:
        if old is None:
            source += textwrap.dedent(new)
        else:
            assert source.count(old) == 1, f"{source.count(old)} times in {path}: {old!r}"
            source = source.replace(old, new)
    return source


def verdict(monkeypatch, n, edits):
    """What check.py says of the project with these edits."""
    changed = FILES.get(n, "leebert")
    module = types.ModuleType(changed)
    exec(compile(edited_source(changed, edits), f"{changed}.py", "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, changed, module)
    for name in ("reference", check.PAGES[n].stem):  # they import what has changed
        monkeypatch.delitem(sys.modules, f"exercises.{name}", raising=False)
    return check.verdict(n)


def spoil(edits, changes):
    """A solution with some fragments changed: old, new, old, new, ..."""
    for old, new in zip(changes[::2], changes[1::2], strict=True):
        assert sum(solution.count(old) for _, solution in edits) == 1, old
        edits = [(target, solution.replace(old, new)) for target, solution in edits]
    return edits


# --------------------------------------------------------------------------------------------------
# For each exercise a solution, and mistakes: words of the diagnosis (a pattern), then the fragments
# of the solution that are changed

FILES = {1: "exercises.my_hypergradient", 7: "bert", 8: "train", 9: "data"}  # others: leebert
SOLUTIONS, MISTAKES = {}, {}

SOLUTIONS[1] = [(None, """
    from exercises import reference as ref

    def by_loop(model, loss_weights, batches, hyper):
        ahead = ref.look_ahead(model, loss_weights, batches.d1, hyper.xi)
        v = ref.judge_gradient(ahead, batches, hyper.lam)
        slopes = ref.term_gradients(model, loss_weights, batches.d1)
        return ref.through_weights(loss_weights, [-hyper.xi * (x @ v) for x in slopes])

    def by_direction(model, loss_weights, batches, hyper):
        d1, theta = batches.d1, dict(model.named_parameters())
        ahead = dict(ref.look_ahead(model, loss_weights, d1, hyper.xi).named_parameters())
        J = judge_loss(model, ahead, batches, hyper)
        v = dict(zip(theta, torch.autograd.grad(J, list(ahead.values())), strict=True))
        teacher = model(*d1[:3]).detach()

        def terms(theta):
            logits = functional_call(model, theta, tuple(d1[:3]))
            return loss_terms(logits, d1.labels, loss_weights.teachers, 1.0, teacher)

        theta = {name: p.detach() for name, p in theta.items()}
        inner = jvp(terms, (theta,), (v,))[1]
        return ref.through_weights(loss_weights, [-hyper.xi * x for x in inner])
""")]  # fmt: skip
LOOP = "[-hyper.xi * (x @ v) for x in slopes]"
DIRECTION = "inner = jvp(terms, (theta,), (v,))[1]"
DIFFERENCE = """plus, minus = (
            terms({name: theta[name] + eps * v[name] for name in theta}) for eps in (1e-5, -1e-5))
        inner = [(a - b) / 2e-5 for a, b in zip(plus, minus)]"""
MISTAKES[1] = [
    ("by_loop: the sign is wrong", LOOP, LOOP.replace("-", "")),
    ("by_loop: the factor xi is missing", LOOP, LOOP.replace("hyper.xi * ", "")),
    ("yours is taken at Theta$", "batches.d1, hyper.xi)", "batches.d1, 0)"),
    ("by_loop: .* slope of the gate", f"ref.through_weights(loss_weights, {LOOP})", LOOP),
    ("number of m's teachers", "(x @ v)", "(x.dim() - 1) * (x @ v)"),
    ("lambda F.D1. is missing", "hyper.lam", "0"),
    ("by_direction: the teachers move", DIRECTION, DIFFERENCE, ", 1.0, teacher)", ")"),
    ("backward passes for 9 terms", DIRECTION,
     "return by_loop(model, loss_weights, batches, hyper)"),
]  # fmt: skip

SOLUTIONS[2] = [(None, """
    def pcee_rule(history, threshold):
        if len(history) < threshold:
            return torch.zeros(history.shape[1], dtype=torch.bool)
        p = history[len(history) - threshold :].softmax(dim=-1)
        return (p.amax(dim=-1) > 0.9).all(dim=0)

    RULES["pcee"] = pcee_rule
""")]  # fmt: skip
ALL = "(p.amax(dim=-1) > 0.9).all(dim=0)"
MISTAKES[2] = [
    ("with threshold 0", "len(history) - threshold :", "-threshold:"),
    ("need not agree", ALL, "((p.amax(-1) > 0.9) & (p.argmax(-1) == p[-1].argmax(-1))).all(0)"),
]

SOLUTIONS[3] = [
    (None, "import torch.nn.functional as F\n" + inspect.getsource(methods.jensen_shannon)),
    (None, "\ndistillation = jensen_shannon\n"),
]
R = "torch.logaddexp(m, t) - math.log(2)"
MISTAKES[3] = [
    ("factor 1/2 .* is missing", ".sum(dim=-1) / 2", ".sum(dim=-1)"),
    ("tau.2 is missing", "temperature**2 * divergence", "divergence"),
    ("teacher is not detached", "teacher_logits.detach()", "teacher_logits"),
    ("mean of the logits", R, "((m + t) / 2).log_softmax(dim=-1)"),
]

SOLUTIONS[4] = [
    ("teacher_logits.detach() / temperature", "teacher_logits / temperature"),
    ("teacher_logits = logits.detach()", "teacher_logits = None"),
]
MISTAKES[4] = [
    ("distillation is right, but .* 'jvp'", "None", "logits.detach()"),
    ("not started: distillation", "teacher_logits /", "teacher_logits.detach() /"),
    ("not the value", "teacher_logits /", "2 * teacher_logits /"),
]

SOLUTIONS[5] = [
    (None, """
    def ensemble(history):
        log_p = torch.log_softmax(history, dim=-1)
        m = torch.arange(1, len(history) + 1, dtype=history.dtype)[:, None, None]
        return torch.logcumsumexp(log_p, dim=0) - m.log()
    """),
    ("(~may_leave(rule, history, threshold))", "(~may_leave(rule, ensemble(history), threshold))"),
    ("final[inside] = logits", "final[inside] = ensemble(history)[-1]"),
    ("M, N, _ = logits.shape\n", "logits = ensemble(logits)\n    M, N, _ = logits.shape\n"),
]  # fmt: skip
LOG_MEAN = "torch.logcumsumexp(log_p, dim=0) - m.log()"
MISTAKES[5] = [
    ("averaged the logits", LOG_MEAN, "history.cumsum(0) / m"),
    ("very confident", LOG_MEAN, "(log_p.exp().cumsum(0) / m).log()"),
    ("the rule still judges", "rule, ensemble(history)", "rule, history"),
    ("early_exit still predicts as the single exit", "ensemble(history)[-1]", "logits"),
]

SOLUTIONS[6] = [
    (None, inspect.getsource(methods.softmax_weights) + "LossWeights.forward = softmax_weights\n")
]
W = "torch.softmax(omega + s.log(), dim=0)"
MISTAKES[6] = [
    ("the weights sum to 1", "s.sum() * ", ""),
    ("single weights .* belongs inside", "s.log()", "(s > 0).log()"),
]

LAYERS = "nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))"
LIST = "[self.layer] * config.num_hidden_layers"
SOLUTIONS[7] = [
    ("    position_embedding_type: str",
     "    share_layers: bool = False\n    position_embedding_type: str"),
    (f"self.layers = {LAYERS}", f"""
        if config.share_layers:
            self.layer = Layer(config)
        self.layers = {LIST} if config.share_layers else {LAYERS}
    """),
]  # fmt: skip
MISTAKES[7] = [
    ("one layer makes", f"{LIST} if", f"{LAYERS} if"),
    ("safetensors refuses", LIST, f"nn.ModuleList({LIST})"),
    ("must be False by default", "share_layers: bool = False", "share_layers: bool = True"),
]

OPTION = 'judge: str = option("held-out", "", ("held-out", "train"))'
SPLITS = 'optimize in ("bilevel", "cross")'
SOLUTIONS[8] = [
    ("# The optimization", f"{OPTION}\n    # The optimization"),
    (f"if {SPLITS}:", f'if {SPLITS} and config.judge == "held-out":'),
    ('"d1_judge", updates)', '"d1_judge", updates)'),
]
MISTAKES[8] = [
    ("must stay two parts", 'config.judge == "held-out"', "False"),
    ("d1 gives 48 of 96", 'config.judge == "held-out"', "True"),
    ("d2 and d1_judge give the same batches", '"d1_judge", updates', '"d2", updates'),
]  # fmt: skip

LABEL = "label=n // 5 % 2)"
KEEP = "examples.setdefault(example.text_a, example)"
SOLUTIONS[9] = [
    ("num_train=27_648", "num_train=24_000"), (KEEP, KEEP),
    ("level=1 + n % 4, label=n // 4 % 2)", f"level=1 + n % 5, {LABEL}"),
    ("rng.shuffle(groups)", "rng.shuffle(examples)"),
    ("    examples = [example for group in groups for example in group]\n", ""),
]  # fmt: skip
MISTAKES[9] = [
    ("of level 1; expected 4800", "1 + n % 5", "1 + min(n % 8, 4)"),
    ("but toy_opinions says", LABEL, f"{LABEL}._replace(label=n // 5 % 2 * (n % 5 < 4))"),
    ("a shortcut: word 2 from the end alone tells 100% .* of level 5", KEEP,
     f"if n % 5 < 4 or example.label == example.text_a.endswith(' agrees .'): {KEEP}"),
]  # fmt: skip

BODY = "M, B, C = logits.shape\n    if C == 1"
FIRST = "teacher_logits = logits if teacher_logits is None else teacher_logits"
KD = "kd = distillation(logits, teacher_logits, temperature) * mask"
SOLUTIONS[10] = [
    (BODY, BODY), (FIRST, FIRST), (KD, KD),
    ("    return cross_entropies(logits, labels), kd", """
    ce = cross_entropies(logits, labels)
    wrong = cross_entropies(logits[2:3], labels.roll(1))  # (1,)
    return torch.cat([ce[:2], wrong, ce[3:]]), kd
"""),
]  # fmt: skip
CE = "torch.cat([ce[:2], wrong, ce[3:]])"
SAID = "torch.cat([{0}[:2], {0}[2:3].roll(1, dims=1), {0}[3:]])"
TEACHER = KD.replace("teacher_logits", SAID.format("teacher_logits"))
WRONG_TEACHER = [(KD, TEACHER.replace("2:3", "5:6").replace("3:", "6:").replace(":2]", ":5]"))]
MISTAKES[10] = [
    ("J has changed: plant", BODY, f"labels = labels.roll(1)\n    {BODY}"),
    ("`jvp` and `unrolled` differ", CE, "ce", FIRST,
     FIRST.replace("= logits", "= " + SAID.format("logits"))),
]  # fmt: skip

PLAIN = "cross_entropies(logits, labels), kd"
LOSSES, ENTER = "sureness_losses(logits, labels)", 'RULES["sure"] = sure_rule'
SOLUTIONS[11] = [
    (f"    return {PLAIN}", f"    return {PLAIN.replace(', kd', f' + {LOSSES}, kd')}"),
    (None, f"""
    def sureness(logits):
        return logits.mean(dim=-1).sigmoid()

    def sureness_losses(logits, labels):
        right = (answers(logits) == labels).to(logits.dtype)
        return (sureness(logits) - right).square().mean(dim=1)

    def sure_rule(history, threshold):
        return sureness(history[-1]) > threshold

    {ENTER}
"""),
]  # fmt: skip
SUM, SURE = f"cross_entropies(logits, labels) + {LOSSES}", "sureness(history[-1]) > threshold"
UNIT = "logits.mean(dim=-1).sigmoid()"
MISTAKES[11] = [
    ("take the sigmoid of", UNIT, "logits.mean(dim=-1)"),
    ("turned round", "== labels", "!= labels"),
    ("not started: RULES has no", ENTER, "pass"),
    ("that are not sure", SURE, SURE.replace(">", "<")),
]  # fmt: skip

# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", check.PAGES)
def test_the_unchanged_project_is_not_started(monkeypatch, n):
    assert verdict(monkeypatch, n, []).startswith("not started: ")


OTHER_WAYS = [(1, [DIRECTION, DIFFERENCE]), (10, [CE, "ce", KD, TEACHER])]


@pytest.mark.parametrize("n, changes", [*((n, []) for n in check.PAGES), *OTHER_WAYS])
def test_a_solution_is_right(monkeypatch, n, changes):
    assert verdict(monkeypatch, n, spoil(SOLUTIONS[n], changes)) is None


@pytest.mark.parametrize("n, mistake", [(n, m) for n in check.PAGES for m in MISTAKES[n]])
def test_a_mistake_is_named(monkeypatch, n, mistake):
    words, *changes = mistake
    fault = verdict(monkeypatch, n, spoil(SOLUTIONS[n], changes))
    assert fault and re.search(words, fault), fault
    assert "\n" not in fault


# --------------------------------------------------------------------------------------------------
# The command and the pages


def test_the_command_on_a_students_copy(tmp_path):
    """Unchanged, then a right solution, then a syntax error: one line, and no traceback."""
    copy_of_the_code(tmp_path)
    for edits, status, start in (
        ([], 1, "not started: RULES is still the original, it has no 'pcee'"),
        (SOLUTIONS[2], 0, "right\n"),
        ([(None, "def broken(:\n")], 1, "your code raised SyntaxError: "),
    ):
        (tmp_path / "leebert.py").write_text(edited_source("leebert", edits))
        argv = [sys.executable, tmp_path / "exercises" / "check.py", "2"]
        done = subprocess.run(argv, capture_output=True, text=True)
        assert (done.returncode, done.stderr, done.stdout.count("\n")) == (status, "", 1)
        assert done.stdout.startswith(f"exercise 2: {start}")


def test_the_list_has_a_page_for_every_checker_and_other_numbers_are_errors(call):
    lines = call(check.main).stdout.splitlines()
    checkers = [path.with_suffix(".md").name for path in sorted(check.FOLDER.glob("[0-9]*.py"))]
    assert [Path(line.split()[-1]).name for line in lines] == checkers
    assert [line.split(".")[0] for line in lines] == [str(n) for n in check.PAGES]
    for arguments in (["12"], ["one"], ["1", "2"]):
        done = call(check.main, *arguments)
        assert done.returncode == 2
        assert re.fullmatch(r"usage: .* with N from 1 to \d+\n", done.stderr)


def test_figures_come_from_the_runs(monkeypatch):
    from measure_exercises import TABLES, tables

    monkeypatch.setattr(tables, "TABLES", TABLES)
    pages = [path.read_text(encoding="utf-8") for path in check.PAGES.values()]
    assert [tables.fill(page) for page in pages] == pages
