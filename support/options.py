"""A flat dataclass as a command line: each field is an option, with its help, choices and range."""

import argparse
import json
import math
from dataclasses import field, fields
from pathlib import Path

from support.errors import UserError

# A range is its words and its test.
POSITIVE = ("positive and finite", lambda x: 0 < x < math.inf)  # nan is not
NOT_NEGATIVE = ("0 or more, and finite", lambda x: 0 <= x < math.inf)
FRACTION = ("at least 0 and below 1", lambda x: 0 <= x < 1)


def option(default, help, choices=None, range=None):
    return field(default=default, metadata={"help": help, "choices": choices, "range": range})


def read(Config, argv, description):
    """Command line -> Config, and a dict of the options named there. UserError for a bad one.

    With --resume, the settings are those of that run.
    """
    parser = argparse.ArgumentParser(description=description, argument_default=argparse.SUPPRESS)

    def error(message):
        raise UserError(message)

    parser.error = error
    for f in fields(Config):
        value = {"type": f.type, "choices": f.metadata["choices"]}
        kind = {"action": "store_true"} if f.type is bool else value
        shown = "" if f.default in ("", 0, False) else f" (default {f.default})"
        parser.add_argument(flag(f.name), help=f.metadata["help"] + shown, **kind)
    given = vars(parser.parse_args(argv))
    folder = given.pop("resume", "")
    return (stored_config(Config, folder, given) if folder else Config(**given)), given


def flag(name):
    return "--" + name.replace("_", "-")


def check_ranges(config):
    """UserError for a number outside the range of its option."""
    for f in fields(config):
        value, range = getattr(config, f.name), f.metadata["range"]
        if range and not range[1](value):
            raise UserError(f"{flag(f.name)} must be {range[0]}, not {value}")


def stored_config(Config, folder, given):
    """The settings in FOLDER/config.json; UserError, naming it, if a given option differs."""
    path = Path(folder) / "config.json"
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        config = Config(**{f.name: stored[f.name] for f in fields(Config)} | {"resume": folder})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"no run of this version to resume: {path} ({error!r})") from None
    for name, value in given.items():
        if value != (was := stored[name]):
            raise UserError(f"{flag(name)} {value}: this run started with {was!r}; cannot change")
    return config
