"""Write the numbers of README.md and four pages in docs/, from the files in results/.

    python experiments/tables.py             # rewrite them; unchanged if up to date

A block looks like this, and the text between the two lines is replaced:

    <!-- table: NAME -->
    <!-- end -->
"""

import json
import re
from pathlib import Path

import evidence
import numpy as np
from compare_runs import spread
from evidence import table

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", *(f"docs/{n}.md" for n in ("running", "speed", "faq", "evidence")))


def first_run():
    """From the output of the README's first command: what was learned, and the marked row."""
    lines = (ROOT / "results" / "toy" / "output.txt").read_text(encoding="utf-8").splitlines()
    steps = [line for line in lines if line.startswith("step ")]
    exits = lines.index("exit     acc")
    chosen = ("rule ", "trained in ")
    rest = [x for x in lines[exits:] if x.startswith(chosen) or "<- at most" in x]
    table = lines[exits : lines.index("", exits)]
    return "\n".join(["```", lines[0], steps[0], "...", steps[-1], *table, *rest, "```"])


FIVE = ("none-uniform", "all-uniform", "all-bilevel", "all-cross", "all-uniform-long")


def compared():
    """Five rows for the README; docs/evidence.md has all methods."""
    head, line, *rows = evidence.compared_table().splitlines()
    names = tuple(f"| {evidence.METHODS[name].words} |" for name in FIVE)
    return "\n".join([head, line, *(row for row in rows if row.startswith(names))])


def percent(x):
    return f"{100 * x:.1f}"


def toy_runs(name="all-cross"):
    """Toy over seeds, from the comparison."""
    return evidence.load("toy", name)


def seeds():
    runs = toy_runs()
    first, last = ([run["exits"][m]["acc"] for run in runs] for m in (0, -1))
    return (
        f"Over {len(runs)} seeds, accuracy on dev in percent, mean and standard deviation: first "
        f"exit {spread(first)}, last exit {spread(last)} (lowest {percent(min(last))})."
    )


def band():
    """Toy: every exit over seeds, with its extremes."""
    runs = toy_runs()
    exits = np.array([[row["acc"] for row in run["exits"]] for run in runs]).T  # (M, runs)
    lines = [
        "| exit | " + " | ".join(str(m) for m in range(1, len(exits) + 1)) + " |",
        "|---" * (len(exits) + 1) + "|",
    ]
    for name, number in (
        (f"mean and std, {len(runs)} seeds", spread),
        ("lowest", lambda x: percent(min(x))),
        ("highest", lambda x: percent(max(x))),
    ):
        lines.append(f"| {name} | " + " | ".join(number(x) for x in exits) + " |")
    return "\n".join(lines)


def measured(part):
    """Figures of experiments/benchmark.py."""
    path = ROOT / "results" / "benchmark.json"
    return json.loads(path.read_text(encoding="utf-8"))[part]["figures"]


def form(rows):
    """The default form of the hypergradient; of older files, the one that they have."""
    return next(n for n in ("bilevel, unrolled", "bilevel, reuse") if n in rows)


def machine():
    path = ROOT / "results" / "benchmark.json"
    one = json.loads(path.read_text(encoding="utf-8"))["step"]["machine"]
    return f"{one['threads']} threads of an {one['cpu']} CPU, torch {one['torch']}, float32."


def step_table():
    """BERT-base and MiniLM: ratio to a plain step, extra memory; error, and glibc's allocator."""
    sizes = [size for size in measured("step") if not size.startswith("toy")]
    figures = [measured("step")[size] for size in sizes]
    memory = [measured("memory")[size] for size in sizes]
    plain, rows = "plain (uniform weights)", []
    for name in figures[0]["rows"]:
        if name.endswith("reuse"):  # a form that is gone
            continue
        cells = [name]
        for found, alone in zip(figures, memory, strict=True):
            row = found["rows"][name]
            if row is None:
                cells += ["not installed", ""]
                continue
            low, high = row["quartiles"]
            extra = (alone[name]["kept"]["peak_mb"] - alone[plain]["kept"]["peak_mb"]) / 1000
            cells += [f"{row['ratio']:.2f} ({low:.2f} - {high:.2f})", f"{extra:+.2f} GB"]
        error = figures[-1]["rows"][name] or {}
        glibc = [alone[name]["glibc"]["seconds"] for alone in memory if name in alone]
        kept = [alone[plain]["kept"]["seconds"] for alone in memory]
        cells += [", ".join(f"{a / b:.2f}" for a, b in zip(glibc, kept, strict=False))]
        rows.append([*cells, f"{error['error']:.0e}" if "error" in error else ""])
    words = [
        f"{size}, {f['batch']} x {f['tokens']} tokens: plain {f['rows'][plain]['seconds']:.2f} s, "
        f"{alone[plain]['kept']['peak_mb'] / 1000:.1f} GB"
        for size, f, alone in zip(sizes, figures, memory, strict=True)
    ]
    head = ["step", "BERT-base, time", "memory", "MiniLM, time", "memory",
            "times with glibc's allocator", "error in float32"]  # fmt: skip
    return table(head, rows) + "\n\n" + "; ".join(words) + ". " + machine()


def every_table():
    """Cost on MiniLM and accuracy on toy, by --omega-every."""
    rows = []
    for n in (1, 2, 4, 8):
        runs = toy_runs("all-cross" if n == 1 else f"omega-every-{n}")
        last, ce = ([run["exits"][-1]["acc"] for run in runs], [r["weights"]["ce"] for r in runs])
        ratio = measured("every")[f"every {n}"]["ratio"]
        cells = [n, f"{ratio:.2f}", f"{spread(last)} (n = {len(runs)})", f"{np.mean(ce):.2f}"]
        rows.append(cells)
    return table(["n", "step of cross", "toy, last exit", "mean weight of a cross-entropy"], rows)


def sizes_table():
    sizes = measured("sizes")
    learned = form(next(iter(sizes.values())))
    words = {"plain (uniform weights)": "plain", learned: "bilevel or cross"}
    rows = [[word, *(f"{row[name] / 1000:.1f} GB" for row in sizes.values())]
            for name, word in words.items()]  # fmt: skip
    return table(["BERT-base, examples x tokens", *sizes], rows)


def mnli():
    """What the largest task would cost, from the size of BERT-base and its measured step."""
    examples, tokens, epochs, gpus, batch, assumed = 392_702, 40, 3, 8, 128, 10e12
    parameters, multiplied = 110e6, 12 * (4 * 768**2 + 2 * 768 * 3072)  # all; those in products
    step = measured("step")["BERT-base, 12 exits"]
    seconds = step["rows"][form(step["rows"])]["seconds"]
    a_token = 8 * 2 * multiplied  # 8 passes, a product and a sum for every weight
    rate = a_token * step["batch"] * step["tokens"] / seconds
    work, updates = epochs * examples * tokens * a_token, epochs * examples / batch
    days, minutes = work / rate / 86400, work / gpus / assumed / 60
    return (
        f"An estimate for MNLI, {epochs} epochs of {examples:,} examples of about {tokens} tokens, "
        f"with learned weights: {work:.1g} operations. That is {days:.0f} days on the CPU of "
        f"[speed.md](speed.md) ({rate / 1e9:.0f} billion operations a second), or {minutes:.0f} "
        f"minutes on {gpus} GPUs if each does {assumed / 1e12:.0f} trillion a second, which we "
        f"have not measured. The averages come on top: each of the {updates:,.0f} updates, of "
        f"{batch} examples, sends two vectors as long as Theta, {2 * 4 * parameters / 1e9:.1f} GB, "
        f"in and out of every GPU."
    )


def growth_table():
    rows = []
    for name, case in measured("growth").items():
        plain, ours = case["plain (uniform weights)"], case[form(case)]
        cells = [f"{1000 * x['seconds']:.0f} ms, {x['peak_mb']:.0f} MB" for x in (plain, ours)]
        rows.append([name, *cells, f"{ours['ratio']:.2f}"])
    return table(["bilevel step at H = 256", "plain", "bilevel", "ratio"], rows)


def encoder_table():
    rows = []
    for size, kinds in measured("encoder").items():
        for kind, found in kinds.items():
            cells = [f"{1000 * found['ours']['seconds']:.0f} ms"]
            for peer in ("transformers, eager", "transformers, sdpa", "matrix products alone"):
                cells.append(f"{found[peer]['ratio']:.2f}" if peer in found else "")
            rows.append([f"{kind}, {size} tokens", *cells])
    for task, found in measured("dev").items():
        if found:
            cells = [f"{found['ours']['seconds']:.1f} s"]
            cells += [f"{found[f'transformers, {a}']['ratio']:.2f}" for a in ("eager", "sdpa")]
            rows.append([f"{task} dev, text to [CLS]", *cells, ""])
    head = ["MiniLM", "ours", "transformers, eager", "transformers, sdpa", "matrix products alone"]
    return table(head, rows)


def exit_table():
    rows = [
        [
            name,
            f"{row['speedup_layers']:.2f}x",
            f"{row['speedup_wall']:.2f}x",
            f"{row['against_32']:.2f}x",
            row["changed_predictions"],
        ]
        for name, row in measured("exit").items()
    ]
    head = ["SST-2 dev", "layers", "time", "time, against full depth in 32s", "changed answers"]
    return table(head, rows)


TABLES = {
    "step": step_table,
    "every": every_table,
    "sizes": sizes_table,
    "mnli": mnli,
    "compared": compared,
    "real": evidence.real_table,
    "growth": growth_table,
    "encoder": encoder_table,
    "exit": exit_table,
    "first-run": first_run,
    "seeds": seeds,
    "band": band,
    **evidence.TABLES,
}


def fill(text):
    """A page's text -> the same with every block made anew. KeyError for a block we cannot make."""

    def block(match):
        return f"<!-- table: {match[1]} -->\n{TABLES[match[1]]()}\n<!-- end -->"

    return re.sub(r"<!-- table: (\S+) -->\n.*?<!-- end -->", block, text, flags=re.S)


def main():
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        (ROOT / page).write_text(fill(text), encoding="utf-8")
        print(page, "is up to date" if fill(text) == text else "rewritten")


if __name__ == "__main__":
    main()
