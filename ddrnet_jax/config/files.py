"""Configs from files, flags and JSON."""

import ast
import importlib.machinery
import importlib.util
import json
import os
import traceback
from collections.abc import Iterable
from pathlib import Path

from ml_collections import ConfigDict

from ddrnet_jax import regular_files
from ddrnet_jax.config.checks import suggestion, validate, what_fits
from ddrnet_jax.config.schema import WORDS, ConfigError, base
from ddrnet_jax.text import cut

# The keys that may change when a run is resumed: they do not touch what is learned.
FREE_KEYS = ("log_every_steps", "trackers", "eval.", "checkpoint.", "data.root", "data.num_threads", "model.remat")


def load(path_and_argument: str, overrides: Iterable[str] = ()) -> ConfigDict:
    """The config of a file, with `key=value` overrides applied, everything checked, and ~ as the user's folder.

    path_and_argument  "file.py" or "file.py:argument", passed to get_config(argument)
    overrides          ("optimizer.learning_rate=0.02", ...)
    Raises ConfigError with one line that names the file and the key.
    """
    config = _call_get_config(path_and_argument)
    for override in overrides:
        _apply_override(config, override)
    validate(config)
    paths = ((config, "init_from"), (config.data, "root"), (config.data, "pseudo_root"), (config.distill, "teacher"))
    for group, key in paths:
        group[key] = os.path.expanduser(group[key])
    return config


def to_json(config: ConfigDict) -> dict:
    """Plain JSON values; tuples become lists."""
    return json.loads(config.to_json())


def from_json(values: dict) -> ConfigDict:
    """The config that `to_json` wrote, by this or an earlier version: unknown keys go, new ones get defaults.

    Raises ConfigError if the values are no config.
    """
    config = base()

    def fill(target: ConfigDict, source: dict) -> None:
        for key, value in source.items():
            if key not in target:
                continue
            if isinstance(target[key], ConfigDict):
                fill(target[key], value)
            else:
                target[key] = tuples(value)

    try:
        fill(config, values)
    except (TypeError, ValueError, AttributeError, OverflowError, RecursionError) as e:
        raise ConfigError(f"not a config of ours ({_first_line(e)})") from e
    validate(config)
    return config


def changed_keys(old: dict, new: dict) -> list[str]:
    """Keys on which two JSON configs differ, without those that may (FREE_KEYS), as "key: old -> new"."""
    flat_old, flat_new = flatten(old), flatten(new)
    return [
        f"{key}: {flat_old.get(key)!r} -> {flat_new.get(key)!r}"
        for key in sorted(flat_old.keys() | flat_new.keys())
        if flat_old.get(key) != flat_new.get(key) and not key.startswith(FREE_KEYS)
    ]


def _call_get_config(path_and_argument: str) -> ConfigDict:
    path, argument = Path(path_and_argument), None
    if not path.is_file() and ":" in path_and_argument:
        name, argument = path_and_argument.rsplit(":", 1)
        path = Path(name)
    if not path.is_file():
        raise ConfigError(f"--config {path}: {'not a regular file' if path.exists() else 'no such file'}")
    spec = importlib.machinery.ModuleSpec("ddrnet_jax_config", loader=None)
    module = importlib.util.module_from_spec(spec)
    module.__file__ = str(path)
    try:
        exec(compile(regular_files.read_bytes(path), str(path), "exec"), module.__dict__)
        get_config = module.__dict__.get("get_config")
        if get_config is None:
            raise ConfigError("defines no get_config()")
        config = get_config() if argument is None else get_config(argument)
    except KeyboardInterrupt:
        raise
    except BaseException as e:  # anything the user's own code may raise, sys.exit(0) too
        lines = [frame.lineno for frame in traceback.extract_tb(e.__traceback__) if frame.filename == str(path)]
        line = e.lineno if isinstance(e, SyntaxError) else (lines or [None])[-1]
        raise ConfigError(f"{path}{f', line {line}' if line else ''}: {_first_line(e)}") from e
    if not isinstance(config, ConfigDict):
        raise ConfigError(f"{path}: get_config() returned {type(config).__name__}, expected a ConfigDict from base()")
    return config


def _apply_override(config: ConfigDict, override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator:
        raise ConfigError(f"--config.{override}: expected --config.KEY=VALUE")
    *groups, last = key.split(".")
    target = config
    for name in (*groups, last):
        if not isinstance(target, ConfigDict) or name not in target:
            raise ConfigError(f"--config.{key}: unknown key{suggestion(target, name)}")
        parent, target = target, target[name]
    if isinstance(target, ConfigDict):
        raise ConfigError(f"--config.{key}: is a group of keys; set one of {', '.join(target)}")
    like = False if key in WORDS else target  # which may be the word
    try:
        parent[last] = text if text == WORDS.get(key) else _parse(text, like)
    except (TypeError, ValueError, OverflowError) as e:
        raise ConfigError(f"--config.{key}={cut(text, 80)}: expected {what_fits(like, key)}") from e


def _parse(text: str, like):
    if isinstance(like, str):
        return text
    if isinstance(like, bool):
        return {"true": True, "false": False}[text.lower()] if text.lower() in ("true", "false") else _bad(text)
    try:
        value = ast.literal_eval(text)
    except (SyntaxError, ValueError, MemoryError, RecursionError) as e:
        raise ValueError(text[:100]) from e
    if isinstance(like, int) and isinstance(value, float) and value.is_integer():
        return int(value)
    return tuples(value)


def _bad(text):
    raise ValueError(text)


def tuples(value: object) -> object:
    """A value of plain JSON as a config has it: lists become tuples, those inside too."""
    return tuple(tuples(v) for v in value) if isinstance(value, list | tuple) else value


def flatten(values: dict, prefix: str = "") -> dict:
    """{"data": {"root": ...}} -> {"data.root": ...}"""
    flat = {}
    for key, value in values.items():
        flat.update(flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value})
    return flat


def _first_line(error: BaseException) -> str:
    try:
        text = str(error).strip()
    except BaseException:  # of a class in the user's own code
        text = ""
    if not isinstance(error, Exception):
        text = f"{type(error).__name__} {text}".strip()
    if not isinstance(error, ConfigError):  # a KeyError's text stands in quotes
        text = text.strip("'\"")
    return (text.splitlines() or [type(error).__name__])[0]
