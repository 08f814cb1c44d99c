"""The README's numbers are those of the result files; its commands are those that CI runs."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "experiments"))

import tables  # noqa: E402

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_number_comes_from_a_result_file():
    assert set(re.findall(r"<!-- table: (\S+) -->", README)) == set(tables.TABLES)
    assert tables.fill(README) == README, "run python experiments/tables.py"


def test_the_two_commands_stand_there_exactly():
    assert "\npip install -r requirements.txt && python train.py\n" in README
    assert "\npip install -r requirements-dev.txt && pytest\n" in README


def test_every_option_and_file_it_names_exists():
    import train

    known = {f"--{f.name.replace('_', '-')}" for f in train.fields(train.Config)}
    assert set(re.findall(r"--[a-z][a-z0-9-]+", README)) <= known | {"--help"}
    for name in re.findall(r"`((?:[a-z]+/)?\w+\.(?:py|md))`", README):
        assert (ROOT / name).exists(), name
