"""A flat dataclass as a command line: a field is an option, with help, choices, limits."""

import argparse
import math
import os
from dataclasses import field, fields
from pathlib import Path

from support.checkpoints import read_object
from support.errors import UserError

# A limit: how an error names it, and a test.
POSITIVE = ("positive and finite", lambda x: 0 < x < math.inf)  # nan is not
NOT_NEGATIVE = ("0 or more, and finite", lambda x: 0 <= x < math.inf)
FRACTION = ("at least 0 and below 1", lambda x: 0 <= x < 1)
PART = ("above 0 and below 1", lambda x: 0 < x < 1)
MODERATE = ("positive and at most 10,000", lambda x: 0 < x <= 10_000)
SEED = ("from 0 to 2**63 - 1", lambda x: 0 <= x < 2**63)
PATHS = ("data_dir", "cache_dir", "train_file", "dev_file", "model")


def option(default, text, choices=None, limits=None):
    if choices:
        limits = (f"one of {', '.join(choices)}", lambda x: x in choices)
    words, test = limits or (type(default).__name__, lambda x: True)
    return field(default=default, metadata=dict(help=text, choices=choices, words=words, test=test))


def read(Config, argv, description):
    """Command line -> Config, and a dict of the options given there. UserError for a bad one.

    With --resume, the settings are those of that run.
    """
    parser = argparse.ArgumentParser(description=description, argument_default=argparse.SUPPRESS)

    def error(message):
        raise UserError(message)

    parser.error = error
    for f in fields(Config):
        shown = "" if f.default in ("", 0) else f" (default {f.default})"
        text, choices = f.metadata["help"] + shown, f.metadata["choices"]
        parser.add_argument(flag(f.name), type=f.type, choices=choices, help=text)
    given = vars(parser.parse_args(argv))
    values = {f.name: f.default for f in fields(Config)} | given
    for name in PATHS:  # valid from any folder; a model may also be a name
        if values[name] and (name != "model" or os.path.exists(f"{values[name]}/config.json")):
            values[name] = os.path.abspath(values[name])
    if "resume" in given:
        values = stored_settings(values, given)
    return Config(**values), given


def stored_settings(values, given):
    """The settings in the config.json of a run. UserError if a given one differs."""
    path = Path(values["resume"], "config.json")
    stored = read_object(path)
    for name in given.keys() - {"resume"}:
        if values[name] != stored.get(name):
            raise UserError(f"{flag(name)}: this run has {stored.get(name)!r}; leave it out")
    return {name: stored.get(name) for name in values} | {"resume": str(path.parent)}


def flag(name):
    return "--" + name.replace("_", "-")


def check(config):
    """UserError for a value of the wrong type, outside its choices or outside its limits.

    argparse has checked types and choices already, but a stored config.json may have been edited.
    """
    where = f"{config.resume}/config.json: " if config.resume else ""
    for f in fields(config):
        value = getattr(config, f.name)
        kinds = (float, int) if f.type is float else (f.type,)
        if type(value) not in kinds or not f.metadata["test"](value):
            raise UserError(f"{where}{flag(f.name)} must be {f.metadata['words']}, not {value!r}")
