"""Each checker of exercises/ accepts a solution, names mistakes, and knows the unchanged project.

A solution is a change of one file, as a student makes it. The changes are made in memory.
"""

import re
import shutil
import subprocess
import sys
import textwrap
import types
from pathlib import Path

import pytest

from exercises import check

ROOT = Path(__file__).parent.parent


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


def edited(name, edits):
    """A fresh module of this text."""
    module = types.ModuleType(name)
    exec(compile(edited_source(name, edits), f"{name}.py", "exec"), module.__dict__)
    return module


def verdict(monkeypatch, n, edits):
    """What check.py says of the project with these edits."""
    changed = FILES.get(n, "leebert")
    monkeypatch.setitem(sys.modules, changed, edited(changed, edits))
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
    def start(model, loss_weights, batches, hyper):
        d1, xi = batches.d1, hyper.xi
        theta = dict(model.named_parameters())
        ce, kd = loss_terms(model(*d1[:3]), d1.labels, loss_weights.teachers)
        L = objective(ce, kd, *loss_weights())
        g = torch.autograd.grad(L, list(theta.values()), retain_graph=True)
        pairs = zip(theta.items(), g, strict=True)
        ahead = {name: (p - xi * x).detach().requires_grad_() for (name, p), x in pairs}
        J = judge_loss(model, ahead, batches, hyper)
        return theta, ce, kd, torch.autograd.grad(J, list(ahead.values()))

    def finish(loss_weights, dw):
        return torch.autograd.grad(loss_weights(), list(loss_weights.parameters()), dw)

    def by_loop(model, loss_weights, batches, hyper):
        xi, (theta, ce, kd, v) = hyper.xi, start(model, loss_weights, batches, hyper)

        def inner(term):
            options = dict(retain_graph=True, materialize_grads=True)
            g = torch.autograd.grad(term, list(theta.values()), **options)
            return sum((a * b).sum() for a, b in zip(v, g, strict=True))

        dw = [-xi * torch.stack([inner(x) for x in terms.flatten()]) for terms in (ce, kd)]
        return finish(loss_weights, [dw[0], dw[1].view(kd.shape)])

    def by_direction(model, loss_weights, batches, hyper):
        d1, (theta, ce, kd, v) = batches.d1, start(model, loss_weights, batches, hyper)
        theta = {name: p.detach() for name, p in theta.items()}
        v, teacher = dict(zip(theta, v, strict=True)), model(*d1[:3]).detach()

        def terms(theta):
            logits = functional_call(model, theta, tuple(d1[:3]))
            return loss_terms(logits, d1.labels, loss_weights.teachers, 1.0, teacher)

        inner = jvp(terms, (theta,), (v,))[1]
        return finish(loss_weights, [-hyper.xi * x for x in inner])
""")]  # fmt: skip
LOOP = "-xi * torch.stack"
DIRECTION = "inner = jvp(terms, (theta,), (v,))[1]"
DIFFERENCE = """plus, minus = (
            terms({name: theta[name] + eps * v[name] for name in theta}) for eps in (1e-5, -1e-5))
        inner = [(a - b) / 2e-5 for a, b in zip(plus, minus)]"""
MISTAKES[1] = [
    ("by_loop: the sign is wrong", LOOP, "xi * torch.stack"),
    ("by_loop: the factor xi is missing", LOOP, "-torch.stack"),
    ("by_loop differentiates a gradient", "theta.values()), retain", "theta.values()), create"),
    ("yours is taken at Theta$", "(p - xi * x)", "(p - 0 * x)"),
    ("by_loop: .* slope of the gate", "finish(loss_weights, [dw[0], dw[1]", "([dw[0], dw[1]"),
    ("number of m's teachers", "return finish(loss_weights, [dw[0], dw[1].view(kd.shape)])",
     "return [x * w * (2 - w) / 2 for x, w in zip((dw[0], dw[1].view(3, 3)), loss_weights())]"),
    ("number of m's teachers", "dw[1].view(kd.shape)", "2 * dw[1].view(kd.shape)"),
    ("lambda F.D1. is missing", "ahead, batches, hyper)\n",
     "ahead, batches, hyper._replace(lam=0.0))\n"),
    ("those of the step", "ahead, batches,", "ahead, batches._replace(d1_judge=d1),"),
    ("by_loop is right; not started: by_direction", DIRECTION, "raise NotImplementedError"),
    ("by_direction: the teachers move", DIRECTION, DIFFERENCE, ", 1.0, teacher)", ")"),
    ("makes 17 backward passes for 9 terms", DIRECTION,
     "return by_loop(model, loss_weights, batches, hyper)"),
]  # fmt: skip

SOLUTIONS[2] = [(None, """
    def pcee_rule(history, threshold):
        if len(history) < threshold:
            return torch.zeros(history.shape[1], dtype=torch.bool)
        last = history[len(history) - threshold :]
        p = last.softmax(dim=-1)
        return (p.amax(dim=-1) > 0.9).all(dim=0)

    RULES["pcee"] = pcee_rule
""")]  # fmt: skip
ALL = "(p.amax(dim=-1) > 0.9).all(dim=0)"
MISTAKES[2] = [
    ("with threshold 0", "len(history) - threshold :", "-threshold:"),
    ("too short", "len(history) < threshold", "False", "len(history) - threshold", "-threshold"),
    ("need not agree", ALL, "((p.amax(-1) > 0.9) & (p.argmax(-1) == p[-1].argmax(-1))).all(0)"),
    ("float32; expected torch.bool", ".all(dim=0)", ".all(dim=0).float()"),
]

SOLUTIONS[3] = [(None, """
    def distillation(logits, teacher_logits, temperature=1.0):
        q = torch.log_softmax(logits / temperature, dim=-1)[:, None]
        p = torch.log_softmax(teacher_logits.detach() / temperature, dim=-1)[None]
        r = torch.logaddexp(p, q) - math.log(2)
        js = (p.exp() * (p - r) + q.exp() * (q - r)).sum(dim=-1) / 2
        return temperature**2 * js.mean(dim=-1)
""")]  # fmt: skip
R = "torch.logaddexp(p, q) - math.log(2)"
MISTAKES[3] = [
    ("factor 1/2 .* is missing", ".sum(dim=-1) / 2", ".sum(dim=-1)"),
    ("tau.2 is missing", "temperature**2 * js", "js"),
    ("teacher is not detached", "teacher_logits.detach()", "teacher_logits"),
    ("only one half", " + q.exp() * (q - r)", ""),
    ("mean of the logits", R, "((q + p) / 2).log_softmax(dim=-1)"),
    ("very confident", R, "((p.exp() + q.exp()) / 2).log()"),
    ("your code raised NameError: name 'nowhere'", "return ", "return nowhere, "),
]  # fmt: skip

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
    ("exits_from_logits does not use it", "logits = ensemble(logits)\n    ", ""),
    ("the last exit alone", "ensemble(history)[-1]", "ensemble(history)[-1] if m < M else logits"),
]

SOLUTIONS[6] = [("return 2 * torch.sigmoid(self.ce), 2 * torch.sigmoid(self.kd) * self.share", """
        M = len(self.ce)
        share = torch.cat([torch.ones_like(self.ce), self.share.flatten()])
        omega = torch.cat([self.ce, self.kd.flatten()])
        w = share.sum() * torch.softmax(omega + share.log(), dim=0)
        return w[:M], w[M:].view(M, M)
""")]  # fmt: skip
W = "torch.softmax(omega + share.log(), dim=0)"
MISTAKES[6] = [
    ("the weights sum to 1", "share.sum() * ", ""),
    ("single weights .* belongs inside", "share.log()", "(share > 0).log()"),
    ("multiplied afterwards", W, "torch.softmax(omega + (share > 0).log(), dim=0) * share"),
    ("exp overflows", W, "(share * omega.exp() / (share * omega.exp()).sum())"),
    ("should be 2 tensors", "return w[:M], w[M:].view(M, M)", "return w"),
]

LAYERS = "nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))"
LIST = "[self.layer] * config.num_hidden_layers"
SOLUTIONS[7] = [
    ("    position_embedding_type: str",
     "    share_layers: bool = False\n    position_embedding_type: str"),
    (f"self.layers = {LAYERS}", f"""
        if config.share_layers:
            self.layer = Layer(config)
            self.layers = {LIST}
        else:
            self.layers = {LAYERS}
    """),
]  # fmt: skip
MISTAKES[7] = [
    ("one layer makes", f"self.layers = {LIST}", f"self.layers = {LAYERS}"),
    ("safetensors refuses", LIST, f"nn.ModuleList({LIST})"),
    ("must be False by default", "share_layers: bool = False", "share_layers: bool = True"),
    ("without share_layers nothing may change", "if config.share_layers:", "if True:"),
]

OPTION = 'judge: str = option("held-out", "", ("held-out", "train"))'
SPLITS = 'optimize in ("bilevel", "cross")'
SOLUTIONS[8] = [
    ("# The optimization", f"{OPTION}\n    # The optimization"),
    (f"if {SPLITS}:", f'if {SPLITS} and config.judge == "held-out":'),
    ('"d2", updates)', '"d2", updates)'),
    ('"d1_judge", updates)', '"d1_judge", updates)'),
]
MISTAKES[8] = [
    ("default of judge must be", 'option("held-out"', 'option("train"'),
    ("must stay two parts", 'config.judge == "held-out"', "False"),
    ("d1 gives 48 of 96", 'config.judge == "held-out"', "True"),
    ("bilevel: each batch of d2 lies inside the step's", '"d2", updates', '"d1", updates'),
    ("d2 and d1_judge give the same batches", '"d1_judge", updates', '"d2", updates'),
    ("from step 3 on the batches differ", '"d1_judge", updates', '"d1_judge", 0'),
]  # fmt: skip

SOLUTIONS[9] = [(None, """
    def toy_task(num_train=24_000, num_dev=1000, num_test=1000):
        rng, examples = random.Random(0), {}
        while (n := len(examples)) < num_train + num_dev + num_test:
            example = toy_example(rng, level=1 + n % 5, label=n // 5 % 2)
            examples.setdefault(example.text_a, example)
        examples = list(examples.values())
        rng.shuffle(examples)
        train, dev = examples[:num_train], examples[num_train : num_train + num_dev]
        return Task("toy", train, dev, examples[num_train + num_dev :], TOY_LABELS, ("acc",))
""")]  # fmt: skip
LABEL, KEEP = "label=n // 5 % 2)", "examples.setdefault(example.text_a, example)"
MISTAKES[9] = [
    ("of level 1; expected 4800", "1 + n % 5", "1 + min(n % 8, 4)"),
    ("of level 1 in train are good", LABEL, "label=int(n % 5 == 0))"),
    ("occurs twice", KEEP, "examples[n] = example"),
    ("other examples each time", "random.Random(0)", "random"),
    ("levels 1 to 4 must stay", LABEL, f"{LABEL}._replace(label=0)"),
    ("but toy_opinions says", LABEL, f"{LABEL}._replace(label=n // 5 % 2 * (n % 5 < 4))"),
    ("number.* is not in TOY_WORDS", LABEL, f"{LABEL}._replace(text_a=f'number{{n}}')"),
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
    ("differs from call to call", "labels.roll(1)", "labels[torch.randperm(len(labels))]"),
    ("2 cross-entropies and 0 teachers", CE, "torch.cat([ce[:1], wrong, wrong, ce[3:]])"),
    ("1 cross-entropies and 1 teachers", KD, TEACHER),
    ("is not that of the neighbour's labels", "labels.roll(1)", "1 - labels.clamp(max=1)"),
    ("does not give the neighbour's answers", CE, "ce", KD, TEACHER.replace("roll(1", "roll(2")),
    ("`jvp` and `unrolled` differ", CE, "ce", FIRST,
     FIRST.replace("= logits", "= " + SAID.format("logits"))),
]  # fmt: skip

OUT, PLAIN = "return -log_p[:, torch", "cross_entropies(logits, labels), kd"
LOSSES, ENTER = "sureness_losses(logits, labels)", 'RULES["sure"] = sure_rule'
SOLUTIONS[11] = [
    (OUT, OUT), (f"    return {PLAIN}", f"    return {PLAIN.replace(', kd', f' + {LOSSES}, kd')}"),
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
RIGHT, UNIT = "(answers(logits) == labels).to(logits.dtype)", "logits.mean(dim=-1).sigmoid()"
MISTAKES[11] = [
    ("take the sigmoid of", UNIT, "logits.mean(dim=-1)"),
    ("take their mean", UNIT, "logits.sum(dim=-1).sigmoid()"),
    ("take that, not a probability", UNIT, "logits.softmax(dim=-1).amax(dim=-1)"),
    ("turned round", "== labels", "!= labels"),
    ("yours is a probability", RIGHT, "logits.softmax(-1)[:, torch.arange(len(labels)), labels]"),
    ("the losses of the examples", "square().mean(dim=1)", "square().sum(dim=1)"),
    ("does not use it yet", SUM, "cross_entropies(logits, labels)"),
    ("yours is in its place", SUM, LOSSES),
    ("kd of loss_terms", f"{LOSSES}, kd", f"{LOSSES}, kd + 1"),
    ("J has changed: add", SUM, PLAIN[:-4], OUT, OUT.replace("-log", f"{LOSSES} - log")),
    ("not started: RULES has no", ENTER, "pass"),
    ("that are not sure", SURE, SURE.replace(">", "<")),
    ("yours is the first", SURE, SURE.replace("-1", "0")),
]  # fmt: skip

# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", check.PAGES)
def test_the_unchanged_project_is_not_started(monkeypatch, n):
    assert verdict(monkeypatch, n, []).startswith("not started: ")


@pytest.mark.parametrize("n", check.PAGES)
def test_a_solution_is_right(monkeypatch, n):
    assert verdict(monkeypatch, n, SOLUTIONS[n]) is None


@pytest.mark.parametrize(
    "n, words, changes",
    [(n, words, changes) for n in check.PAGES for words, *changes in MISTAKES[n]],
)
def test_a_mistake_is_named(monkeypatch, n, words, changes):
    fault = verdict(monkeypatch, n, spoil(SOLUTIONS[n], changes))
    assert fault and re.search(words, fault), fault
    assert "\n" not in fault


OTHER_WAYS = [
    (1, [DIRECTION, DIFFERENCE]),
    (3, [R, f"({R}).detach()"]),  # the derivative through r vanishes
    (7, [LIST, "(self.layer,) * config.num_hidden_layers"]),
    (10, [CE, "ce", KD, TEACHER]),
]  # fmt: skip


@pytest.mark.parametrize("n, changes", OTHER_WAYS)
def test_another_way_to_write_it_is_right_too(monkeypatch, n, changes):
    assert verdict(monkeypatch, n, spoil(SOLUTIONS[n], changes)) is None


# --------------------------------------------------------------------------------------------------
# The command and the pages


def command(folder, *arguments):
    argv = [sys.executable, folder / "exercises" / "check.py", *arguments]
    done = subprocess.run(argv, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def test_the_command_on_a_students_copy(tmp_path):
    """Unchanged, then a right solution, then a syntax error: one line, and no traceback."""
    for folder in ("exercises", "support"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    for name in ("bert.py", "data.py", "leebert.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    started = "exercise 2: not started: RULES is still the original, it has no 'pcee'\n"
    assert command(tmp_path, "2") == (1, started, "")
    with open(tmp_path / "leebert.py", "a", encoding="utf-8") as file:
        file.write(textwrap.dedent(SOLUTIONS[2][0][1]))
    assert command(tmp_path, "2") == (0, "exercise 2: right\n", "")
    with open(tmp_path / "leebert.py", "a", encoding="utf-8") as file:
        file.write("def broken(:\n")
    status, out, err = command(tmp_path, "2")
    assert (status, err, out.count("\n")) == (1, "", 1)
    assert out.startswith("exercise 2: your code raised SyntaxError: ")


@pytest.mark.parametrize("arguments", [["12"], ["0"], ["one"], ["1", "2"]])
def test_a_bad_number_is_an_error_of_one_line(monkeypatch, capsys, arguments):
    monkeypatch.setattr(sys, "argv", ["check.py", *arguments])
    with pytest.raises(SystemExit) as stop:
        check.main()
    assert stop.value.code == 2
    assert re.fullmatch(r"usage: .* with N from 1 to \d+\n", capsys.readouterr().err)


def test_the_list_has_a_page_for_every_checker(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["check.py"])
    check.main()
    lines = capsys.readouterr().out.splitlines()
    checkers = [path.with_suffix(".md").name for path in sorted(check.FOLDER.glob("[0-9]*.py"))]
    assert [Path(line.split()[-1]).name for line in lines] == checkers
    assert [line.split(".")[0] for line in lines] == [str(n) for n in check.PAGES]


def test_pages_have_their_parts_and_name_options_that_exist():
    import train

    known = {f"--{name.replace('_', '-')}" for name in vars(train.Config())}
    known.add("--judge")  # exercise 8 makes it
    for path in check.PAGES.values():
        page = path.read_text(encoding="utf-8")
        parts = "Time: ", "**Change.**", "**Formula.**", "**What you should see.**", "<details>"
        assert [page.count(part) for part in parts] == [1] * len(parts), path.name
        assert set(re.findall(r"--[a-z][a-z0-9-]+", page)) <= known, path.name


def test_figures_come_from_the_runs(monkeypatch):
    from measure_exercises import TABLES, tables

    monkeypatch.setattr(tables, "TABLES", TABLES)
    pages = [path.read_text(encoding="utf-8") for path in check.PAGES.values()]
    assert [tables.fill(page) for page in pages] == pages
