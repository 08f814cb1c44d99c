"""A flat dataclass as a command line: each field is an option, with its help, choices and range."""

import argparse
import math
import os
from dataclasses import asdict, field, fields
from pathlib import Path

from support.checkpoints import read_object
from support.errors import UserError

# A range is its words and its test.
POSITIVE = ("positive and finite", lambda x: 0 < x < math.inf)  # nan is not
NOT_NEGATIVE = ("0 or more, and finite", lambda x: 0 <= x < math.inf)
FRACTION = ("at least 0 and below 1", lambda x: 0 <= x < 1)
PART = ("above 0 and below 1", lambda x: 0 < x < 1)
MODERATE = ("positive and at most 10,000", lambda x: 0 < x <= 10_000)
SEED = ("from 0 to 2**63 - 1", lambda x: 0 <= x < 2**63)
PATHS = ("data_dir", "cache_dir", "train_file", "dev_file")


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
    given = absolute(vars(parser.parse_args(argv)))
    folder = given.pop("resume", None)
    if folder == "":
        raise UserError("--resume needs the folder of a run")
    if folder:
        return stored_config(Config, folder, given), given
    return Config(**absolute(asdict(Config(**given)))), given


def absolute(values):
    """Paths that are valid from any folder; --model only if it names a checkpoint's."""
    model = values.get("model", "")
    paths = (*PATHS, "model") if os.path.exists(f"{model}/config.json") else PATHS
    full = {name: os.path.abspath(values[name]) for name in paths if values.get(name)}
    return values | full


def flag(name):
    return "--" + name.replace("_", "-")


def check(config):
    """UserError for a value of the wrong type, outside its choices or outside its range.

    The command line has seen to types and choices, but a stored config.json may have been edited.
    The task is checked where it is loaded.
    """
    for f in fields(config):
        value, choices, range = getattr(config, f.name), f.metadata["choices"], f.metadata["range"]
        kinds = (int, float) if f.type is float else f.type
        if not isinstance(value, kinds) or isinstance(value, bool) != (f.type is bool):
            raise UserError(f"{flag(f.name)} must be of type {f.type.__name__}, not {value!r}")
        if choices and value not in choices and f.name != "task":
            raise UserError(f"{flag(f.name)} must be one of {', '.join(choices)}, not {value!r}")
        if range and not range[1](value):
            raise UserError(f"{flag(f.name)} must be {range[0]}, not {value}")


def stored_config(Config, folder, given):
    """The settings in FOLDER/config.json; UserError, naming it, if a given option differs.

    Only --predict may be added.
    """
    path = Path(folder) / "config.json"
    if not path.exists():
        reason = "no config.json, so not a run" if Path(folder).is_dir() else "no such folder"
        raise UserError(f"--resume {folder}: {reason}")
    stored = read_object(path)
    if missing := [f.name for f in fields(Config) if f.name not in stored]:
        raise UserError(f"{path}: no run of this version, {missing[0]!r} is missing")
    config = Config(**{f.name: stored[f.name] for f in fields(Config)} | {"resume": folder})
    try:
        check(config)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    config.predict = given.pop("predict", config.predict)
    for name, value in given.items():
        if value != (was := stored[name]):
            raise UserError(f"{flag(name)} {value}: this run started with {was!r}; cannot change")
    return config
