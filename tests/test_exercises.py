"""exercises/check.py: right solutions pass, usual mistakes are named, the project is "not started".

A solution is an edit of the text of leebert.py or bert.py, as a student makes it. An edit whose
target is not there fails loudly.
"""

import ast
import re
import shutil
import subprocess
import sys
import textwrap
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "exercises"))

import check  # noqa: E402


def replace_text(source, old, new):
    assert source.count(old) == 1, f"{source.count(old)} times in the source: {old!r}"
    return source.replace(old, new)


def replace_function(source, name, new):
    """name: `function` or `Class.method`; new: its whole new text."""
    body = ast.parse(source).body
    for part in name.split("."):
        (node,) = (x for x in body if getattr(x, "name", None) == part)
        body = node.body
    first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
    lines = source.splitlines(keepends=True)
    new = textwrap.indent(textwrap.dedent(new).strip() + "\n", " " * node.col_offset)
    return "".join(lines[: first - 1]) + new + "".join(lines[node.end_lineno :])


def edited(name, edits):
    """A fresh copy of a module. An edit is ("function", its name, its new text), ("text", an old
    fragment, the new one), or ("end", what is added at the end)."""
    source = (ROOT / f"{name}.py").read_text(encoding="utf-8")
    for kind, *edit in edits:
        if kind == "function":
            source = replace_function(source, *edit)
        elif kind == "text":
            source = replace_text(source, *edit)
        else:
            source += "\n\n" + textwrap.dedent(edit[0])
    module = types.ModuleType(name)
    exec(compile(source, f"{name}.py", "exec"), module.__dict__)
    return module


def verdict(monkeypatch, n, edits):
    """What check.py says of the project with these edits, in bert.py for exercise 8."""
    for name in ("bert", "leebert"):
        module = edited(name, edits if (name == "bert") == (n == 8) else [])
        monkeypatch.setitem(sys.modules, name, module)
    return check.verdict(n)


def spoil(edits, changes):
    """A solution with some fragments changed: old, new, old, new, ..."""
    for old, new in zip(changes[::2], changes[1::2], strict=True):
        assert sum(edit[-1].count(old) for edit in edits) == 1, old
        edits = [(*edit[:-1], edit[-1].replace(old, new)) for edit in edits]
    return edits


# --------------------------------------------------------------------------------------------------
# For each exercise a solution, and mistakes: words of the diagnosis (a pattern), then the fragments
# of the solution that are changed

SOLUTIONS, MISTAKES = {}, {}

SOLUTIONS[1] = [("end", """
        def pcee_rule(history, threshold):
            if len(history) < threshold:
                return torch.zeros(history.shape[1], dtype=torch.bool)
            last = history[len(history) - threshold :]
            p = last.softmax(dim=-1)
            return (p.amax(dim=-1) > 0.9).all(dim=0)

        RULES["pcee"] = pcee_rule
""")]  # fmt: skip
ALL = "(p.amax(dim=-1) > 0.9).all(dim=0)"
MISTAKES[1] = [
    ("with threshold 0", "len(history) - threshold :", "-threshold:"),
    ("too short", "len(history) < threshold", "False", "len(history) - threshold", "-threshold"),
    ("threshold [+] 1", "len(history) < threshold", "len(history) <= threshold",
     "len(history) - threshold", "-threshold - 1"),
    ("need not agree", ALL, "((p.amax(-1) > 0.9) & (p.argmax(-1) == p[-1].argmax(-1))).all(0)"),
    ("consecutive", ALL, "(history.softmax(-1).amax(-1) > 0.9).sum(0) >= threshold"),
    ("not probabilities", "last.softmax(dim=-1)", "last"),
    ("not at the ones before", "len(history) < threshold", "False", ALL,
     "(history[-1].softmax(-1).amax(-1) > 0.9)"),
    ("all of them must be", ".all(dim=0)", ".any(dim=0)"),
    ("lets other examples leave", "0.9", "0.8"),
    ("float32; expected torch.bool", ".all(dim=0)", ".all(dim=0).float()"),
    ("shape [(][)]; expected [(]300,[)]", ALL, ALL.replace("dim=0", "")),
]  # fmt: skip

SOLUTIONS[2] = [("function", "distillation", """
        def distillation(logits, teacher_logits, temperature=1.0):
            student, teacher = logits, teacher_logits.detach()
            q = torch.log_softmax(student / temperature, dim=-1)[:, None]
            p = torch.log_softmax(teacher / temperature, dim=-1)[None]
            r = torch.logaddexp(p, q) - math.log(2)
            js = (p.exp() * (p - r) + q.exp() * (q - r)).sum(dim=-1) / 2
            return temperature**2 * js.mean(dim=-1)
""")]  # fmt: skip
R = "torch.logaddexp(p, q) - math.log(2)"
MISTAKES[2] = [
    ("factor 1/2 .* is missing", ".sum(dim=-1) / 2", ".sum(dim=-1)"),
    ("averaged over classes too: the result is C times too small", ".sum(", ".mean("),
    ("B times too large", "js.mean(dim=-1)", "js.sum(dim=-1)"),
    ("tau.2 is missing", "temperature**2 * js", "js"),
    ("temperature is not used", "temperature**2 * js", "js", "student / temperature", "student",
     "teacher / temperature", "teacher"),
    ("in bits", ".sum(dim=-1) / 2", ".sum(dim=-1) / 2 / math.log(2)"),
    ("teacher is not detached", "teacher_logits.detach()", "teacher_logits"),
    ("swapped in the detach", "logits, teacher_logits.detach()", "logits.detach(), teacher_logits"),
    ("rows are students .* swapped", "js.mean(dim=-1)", "js.mean(dim=-1).T"),
    ("only one half", " + q.exp() * (q - r)", ""),
    ("symmetric KL", "(p - r)", "(p - q)", "(q - r)", "(q - p)"),
    ("mean of the logits", R,
     "torch.log_softmax((student[:, None] + teacher) / 2 / temperature, -1)"),
    ("very confident", R, "((p.exp() + q.exp()) / 2).log()"),
    ("shape [(]3, 3, 5[)]; expected [(]3, 3[)]", "js.mean(dim=-1)", "js"),
    ("of type NoneType", "return ", ""),
    ("your code raised NameError: name 'nowhere'", "return ", "return nowhere, "),
]  # fmt: skip

SOLUTIONS[3] = [
    ("text", "teacher_logits.detach() / temperature", "teacher_logits / temperature"),
    ("text", "teacher = logits.detach()", "teacher = None"),
    ("text", "(logits / temperature", "(logits / temperature"),
    ("text", "teacher_logits = logits if", "teacher_logits = logits if"),
]
MISTAKES[3] = [
    ("incomplete: .* teacher logits of the first pass as constants", "None", "logits.detach()"),
    ("not started: distillation", "teacher_logits /", "teacher_logits.detach() /"),
    ("not the value", "teacher_logits /", "2 * teacher_logits /"),
    ("student is detached", "(logits / temp", "(logits.detach() / temp"),
    ("loss_terms hands on detached teachers", "logits if", "logits.detach() if"),
]  # fmt: skip

SOLUTIONS[4] = [
    (
        "end",
        """
        def ensemble(history):
            log_p = torch.log_softmax(history, dim=-1)
            m = torch.arange(1, len(history) + 1, dtype=history.dtype)[:, None, None]
            return torch.logcumsumexp(log_p, dim=0) - m.log()
        """,
    ),
    ("text", "RULES[rule](history, threshold)", "RULES[rule](ensemble(history), threshold)"),
    ("text", "answers(history[-1", "answers(ensemble(history)[-1"),
    (
        "text",
        "    M, N, _ = logits.shape\n",
        "    logits = ensemble(logits)\n    M, N, _ = logits.shape\n",
    ),
]
LOG_MEAN = "torch.logcumsumexp(log_p, dim=0) - m.log()"
RULE = "RULES[rule](ensemble(history), threshold)"
ANSWER = "answers(ensemble(history)[-1"
MISTAKES[4] = [
    ("averaged the logits", LOG_MEAN, "history.cumsum(0) / m"),
    ("averaged the log-probabilities", LOG_MEAN, "log_p.cumsum(0) / m"),
    ("return their log", LOG_MEAN, "log_p.exp().cumsum(0) / m"),
    ("did not divide by m", " - m.log()", ""),
    ("divides every sum by the number", "m.log()", "math.log(len(history))"),
    ("very confident", LOG_MEAN, "(log_p.exp().cumsum(0) / m).log()"),
    ("shape [(]7, 3[)]; expected [(]4, 7, 3[)]", LOG_MEAN, "log_p.exp().mean(0).log()"),
    ("does not use it yet", RULE, RULE.replace("ensemble(history)", "history"),
     ANSWER, "answers(history[-1"),
    ("the rule still judges", RULE, RULE.replace("ensemble(history)", "history")),
    ("early_exit still predicts as the single exit", ANSWER, "answers(history[-1"),
    ("exits_from_logits does not use it", "    logits = ensemble(logits)\n", ""),
    ("the last exit alone", ANSWER, "answers((ensemble(history) if m < M else history)[-1"),
    ("what was averaged before", RULE,
     "[history := ensemble(history), RULES[rule](history, threshold)][1]",
     ANSWER, "answers((history if m < M else ensemble(history))[-1"),
]  # fmt: skip

SOLUTIONS[5] = [
    (
        "function",
        "LossWeights.forward",
        """
        def forward(self):
            M = len(self.ce)
            share = torch.cat([torch.ones_like(self.ce), self.share.flatten()])
            omega = torch.cat([self.ce, self.kd.flatten()])
            w = share.sum() * torch.softmax(omega + share.log(), dim=0)
            return w[:M], w[M:].view(M, M)
""")]  # fmt: skip
W = "torch.softmax(omega + share.log(), dim=0)"
MISTAKES[5] = [
    ("the weights sum to 1", "share.sum() * ", ""),
    ("the number of terms K", "share.sum()", "(share > 0).sum()"),
    ("pairs that do not teach", W, "torch.softmax(omega, dim=0) * share"),
    ("single weights .* belongs inside", "share.log()", "(share > 0).log()"),
    ("multiplied afterwards", W, "torch.softmax(omega + (share > 0).log(), dim=0) * share"),
    ("two softmaxes", "return w[:M], w[M:].view(M, M)", "return M * self.ce.softmax(0), "
     "M * (self.kd + self.share.log()).flatten().softmax(0).view(M, M)"),
    ("exp overflows", W, "(share * omega.exp() / (share * omega.exp()).sum())"),
    ("should be two tensors", "return w[:M], w[M:].view(M, M)", "return w"),
    ("shape [(]16,[)]; expected [(]4, 4[)]", "w[M:].view(M, M)", "w[M:]"),
    ("the gradient of Omega", "w[M:].view(M, M)", "w[M:].view(M, M).detach()"),
]  # fmt: skip

SOLUTIONS[6] = [
    (
        "function",
        "derivative_difference",
        """
        @torch.no_grad()
        def derivative_difference(terms, theta, v, here, eps=None):
            length = math.sqrt(sum(float((x * x).sum()) for x in v.values()))
            u = torch.finfo(next(iter(theta.values())).dtype).eps
            eps = math.sqrt(u) / length if eps is None else eps
            there = terms({name: theta[name] + eps * v[name] for name in theta})
            return [(a - b) / eps for a, b in zip(there, here, strict=True)]
        """,
    ),
    (
        "text",
        "derivative(terms, theta, v)",
        "(derivative(terms, theta, v, (ce.detach(), kd.detach()))\n"
        "if derivative is derivative_difference else derivative(terms, theta, v))",
    ),
]
PLUS = "{name: theta[name] + eps * v[name] for name in theta}"
HERE = "(ce.detach(), kd.detach())"
MISTAKES[6] = [
    ("divided by 2 eps", "/ eps for", "/ (2 * eps) for"),
    ("the sign is wrong", "(a - b)", "(b - a)"),
    ("not divided by eps", "(a - b) / eps", "(a - b)"),
    ("not the default step: in float64", "math.sqrt(u)", "0.01"),
    ("not the default step: in float32", "math.sqrt(u)", "1e-8"),
    ("not the default step", "math.sqrt(u) / length", "math.sqrt(u)"),
    ("called 2 times", "zip(there, here", "zip(there, terms(theta)"),
    ("still the central difference", "/ eps for", "/ (2 * eps) for", "zip(there, here",
     "zip(there, terms({name: theta[name] - eps * v[name] for name in theta})"),
    ("theta has changed", PLUS, "{name: theta[name].add_(eps * v[name]) for name in theta}"),
    ("masks", HERE, "loss_terms(frozen_dropout(model, d1)(theta), d1.labels)"),
    ("raised TypeError: .*'here'", f", {HERE}", ""),
    ("derivative_difference takes", "here, eps=None", "here"),
]  # fmt: skip

SOLUTIONS[7] = [
    (
        "end",
        """
        def alignment(model, loss_weights, d1, d2, again, step_size, lam=1.0, temperature=1.0):
            theta = dict(model.named_parameters())
            logits = frozen_dropout(model, d1)(theta)
            ce, kd = loss_terms(logits, d1.labels, loss_weights.teachers, temperature)
            L = objective(ce, kd, *loss_weights())

            def gradients(scalar, at):
                options = dict(retain_graph=True, materialize_grads=True)
                return torch.autograd.grad(scalar, list(at.values()), **options)

            step = zip(theta.items(), gradients(L, theta), strict=True)
            ahead = {n: (p - step_size * g).detach().requires_grad_() for (n, p), g in step}
            v = gradients(judge_loss(model, ahead, d2, again, lam), ahead)

            def dot(a, b):
                return sum((x * y).sum() for x, y in zip(a, b, strict=True))

            def cosine(term):
                g = gradients(term, theta)
                if dot(g, g) == 0:
                    return torch.zeros_like(dot(g, v))
                return dot(g, v) / (dot(g, g).sqrt() * dot(v, v).sqrt())

            rows = [torch.stack([cosine(x) for x in row]) for row in kd]
            return torch.stack([cosine(x) for x in ce]), torch.stack(rows)

        def align(model, loss_weights, *problem):
            terms, g, _ = unrolled(model, loss_weights, *problem)
            dw = [-x for x in alignment(model, loss_weights, *problem[:-1])]
            omega = list(loss_weights.parameters())
            return terms, g, torch.autograd.grad(loss_weights(), omega, grad_outputs=dw)

        FORMS["align"] = align
""")]  # fmt: skip
COSINE = "dot(g, v) / (dot(g, g).sqrt() * dot(v, v).sqrt())"
MISTAKES[7] = [
    ("divided by neither length", COSINE, "dot(g, v)"),
    ("not divided by ..v..", COSINE, "dot(g, v) / dot(g, g).sqrt()"),
    ("not divided by the length of grad", COSINE, "dot(g, v) / dot(v, v).sqrt()"),
    ("NaN; where .* the cosine is 0", "if dot(g, g) == 0:", "if False:"),
    ("yours is taken at Theta$", "(p - step_size * g)", "(p - 0 * g)"),
    ("lambda F[(]D1[)] is missing", "d2, again, lam)", "d2, again, 0.0)"),
    ("yours are those of the step", "d2, again, lam)", "d2, d1, lam)"),
    ("swapped", "torch.stack(rows)", "torch.stack(rows).T"),
    ("leaves something in .grad", "theta = dict", "model.exits[0].bias.sum().backward()\n"
     "            theta = dict"),
    ("enter a form 'align'", 'FORMS["align"] = align', ""),
    ("the sign is wrong: Omega descends", "[-x for x in alignment", "[x for x in alignment"),
    ("no step size", "[-x for x in alignment", "[-problem[3] * x for x in alignment"),
    ("still the inner product", "= align\n", "= unrolled\n"),
]  # fmt: skip

LAYERS = "self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))"
SOLUTIONS[8] = [
    (
        "text",
        "    position_embedding_type: str",
        "    share_layers: bool = False\n    position_embedding_type: str",
    ),
    (
        "text",
        f"        {LAYERS}",
        "        if config.share_layers:\n"
        "            self.layer = Layer(config)\n"
        "            self.layers = [self.layer] * config.num_hidden_layers\n"
        f"        else:\n            {LAYERS}",
    ),
    ("text", "hidden = layer(hidden, bias)\n", "hidden = layer(hidden, bias)\n"),
]
LIST = "[self.layer] * config.num_hidden_layers"
MISTAKES[8] = [
    ("has not fallen", "self.layer = Layer(config)", "pass", LIST,
     "nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))"),
    ("safetensors refuses", LIST, f"nn.ModuleList({LIST})"),
    ("must list the one layer M times", LIST, "[self.layer]"),
    ("gradient is that of the last use alone", "layer(hidden, bias)",
     "layer(hidden.detach(), bias)"),
    ("applied only once", "hidden = layer(hidden, bias)\n",
     "hidden = states[0] if states and self.config.share_layers else layer(hidden, bias)\n"),
    ("must be False by default", "share_layers: bool = False", "share_layers: bool = True"),
    ("without share_layers nothing may change", "if config.share_layers:", "if True:"),
]  # fmt: skip

# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", check.CHECKS)
def test_the_unchanged_project_is_not_started(monkeypatch, n):
    assert verdict(monkeypatch, n, []).startswith("not started: ")


@pytest.mark.parametrize("n", check.CHECKS)
def test_a_solution_is_right(monkeypatch, n):
    assert verdict(monkeypatch, n, SOLUTIONS[n]) is None


@pytest.mark.parametrize(
    "n, words, changes",
    [(n, words, changes) for n in check.CHECKS for words, *changes in MISTAKES[n]],
)
def test_a_mistake_is_named(monkeypatch, n, words, changes):
    fault = verdict(monkeypatch, n, spoil(SOLUTIONS[n], changes))
    assert fault and re.search(words, fault), fault
    assert "\n" not in fault


OTHER_WAYS = [
    (1, [ALL, "torch.stack([torch.softmax(z, -1).max(-1)[0] for z in last] or [z := "
              "torch.ones(history.shape[1])]).min(0)[0] > 0.9"]),
    (2, [R, "torch.log(((p.exp() + q.exp()) / 2).clamp(min=1e-30))"]),
    (2, [R, f"({R}).detach()"]),  # the derivative through r vanishes
    (4, [LOG_MEAN, "torch.stack([log_p[: k + 1].logsumexp(0) - math.log(k + 1) "
                   "for k in range(len(history))])"]),
    (5, [W, "torch.softmax(omega.masked_fill(share == 0, -math.inf) + "
            "share.clamp(min=1e-9).log(), dim=0)"]),
    (6, ["math.sqrt(u) / length", "3 * u**0.5 / length"]),
    (8, [LIST, "(self.layer,) * config.num_hidden_layers"]),
]  # fmt: skip


@pytest.mark.parametrize("n, changes", OTHER_WAYS)
def test_another_way_to_write_it_is_right_too(monkeypatch, n, changes):
    assert verdict(monkeypatch, n, spoil(SOLUTIONS[n], changes)) is None


# --------------------------------------------------------------------------------------------------
# The command and the pages


def command(folder, *arguments):
    done = subprocess.run(
        [sys.executable, folder / "exercises" / "check.py", *arguments],
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout, done.stderr


def test_the_command_on_a_students_copy(tmp_path):
    """Unchanged, then a right solution, then a syntax error: one line, and no traceback."""
    for folder in ("exercises", "support"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    for name in ("bert.py", "data.py", "leebert.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    status, out, err = command(tmp_path, "1")
    assert (status, err) == (1, "")
    assert re.fullmatch(r"exercise 1: not started: RULES is still the original.*\n", out)
    with open(tmp_path / "leebert.py", "a", encoding="utf-8") as file:
        file.write(textwrap.dedent(SOLUTIONS[1][0][1]))
    assert command(tmp_path, "1") == (0, "exercise 1: right\n", "")
    with open(tmp_path / "leebert.py", "a", encoding="utf-8") as file:
        file.write("def broken(:\n")
    status, out, err = command(tmp_path, "1")
    assert (status, err, out.count("\n")) == (1, "", 1)
    assert out.startswith("exercise 1: your code raised SyntaxError: ")


@pytest.mark.parametrize("arguments", [["9"], ["0"], ["one"], ["1", "2"]])
def test_a_bad_number_is_an_error_of_one_line(monkeypatch, capsys, arguments):
    monkeypatch.setattr(sys, "argv", ["check.py", *arguments])
    with pytest.raises(SystemExit) as stop:
        check.main()
    assert stop.value.code == 2
    assert capsys.readouterr().err == "usage: python exercises/check.py [N]   with N from 1 to 8\n"


def test_the_list_has_a_page_for_every_check(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["check.py"])
    check.main()
    lines = capsys.readouterr().out.splitlines()
    assert [int(line.split()[0]) for line in lines] == list(check.CHECKS)
    for line in lines:
        assert (ROOT / line.split()[-1]).exists()


def test_pages_have_their_parts_and_name_options_that_exist():
    import train

    known = {f"--{name.replace('_', '-')}" for name in vars(train.Config())}
    for _, _, path in check.pages().values():
        page = path.read_text(encoding="utf-8")
        for part in ("Time: ", "**Change.**", "**Formula.**", "**See.**", "**Traps.**"):
            assert page.count(part) == 1, (path.name, part)
        assert set(re.findall(r"--[a-z][a-z0-9-]+", page)) <= known, path.name
