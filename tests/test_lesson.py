"""docs/lesson.ipynb runs from top to bottom, with few examples; and what it stores is clean."""

import json
import re
import shutil

import nbformat
import pytest
from conftest import ROOT
from nbclient import NotebookClient

PATH = ROOT / "docs" / "lesson.ipynb"
TEXT = PATH.read_text(encoding="utf-8")
SCRIPTS = ("bert.py", "leebert.py", "data.py", "train.py")


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["docs", "."])
def test_the_lesson_runs(folder, tmp_path):
    for part in ("support", "tools"):
        shutil.copytree(ROOT / part, tmp_path / part)
    (tmp_path / "docs").mkdir()
    for name in SCRIPTS:
        shutil.copy(ROOT / name, tmp_path)
    text, count = re.subn(r"EXAMPLES = len\(.*?\)\.train\)", "EXAMPLES = 512", TEXT)
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


def test_what_is_stored():
    cells = json.loads(TEXT)["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    scripts = "".join((ROOT / name).read_text(encoding="utf-8") for name in SCRIPTS)
    defined = [set(re.findall(r"^ *(?:def|class) (\w+)", s, flags=re.M)) for s in (code, scripts)]
    assert defined[0] and not defined[0] & defined[1]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    assert outputs and all(output["output_type"] != "error" for output in outputs)
    assert all(output.get("name") != "stderr" for output in outputs)  # no warning either
    words = re.sub(r'"image/png": ".*"', "", TEXT)
    depths = re.findall(
        r"level \d   mean exit (\S+)", words
    )  # by level: harder sentences stay longer
    assert len(depths) == 4 and depths == sorted(depths)
    assert not re.search(r"/(home|root|tmp|Users|usr|opt|work)\b|[A-Z]:\\\\", words)
    assert PATH.stat().st_size < 400_000
