"""Configs by name or path, overrides from the command line, and their checks.

A config file has `get_config() -> ml_collections.ConfigDict`. An override is `--config.a.b=value`: a key that does not
exist, a value of another type, or the same text without its dashes is an error that says what was meant.
"""

from __future__ import annotations

import ast
import difflib
import json
import re
from collections.abc import Sequence
from typing import Any

import ml_collections

from mvp4d.core.errors import UserError
from mvp4d.core.files import write_json
from mvp4d.core.places import require_local
from mvp4d_jax.training.config_file import read_config_file, read_value
from mvp4d_jax.training.config_values import check_values

_PREFIX = "--config."
_SAVED = re.compile(r"config(?:-(\d+))?\.json")


def load_config(name: str, overrides: Sequence[str] = ()) -> ml_collections.ConfigDict:
    """The config `name`, with overrides applied; locked.

    Args:
      name: a packaged config ("tiny"), or the path of a .py file or of a run's saved config.json, which may lie in a
        bucket (`gs://`).
      overrides: arguments as typed: "--config.train.lr=1e-4" or "--config.train.lr", "1e-4".

    Raises:
      UserError: no such config; one that does not run, or lacks a setting; an override that is unknown, mistyped, of
        the wrong type or without its dashes.
    """
    config = read_config_file(name)
    config.lock()
    for key, text in _pairs(overrides):
        _override(config, key, text)
    _refuse_buckets(config, "config")
    check_values(config)
    return config


def _refuse_buckets(value: Any, where: str) -> None:
    """Folders that a config names are read by ArrayRecord and safetensors, which take local files."""
    if isinstance(value, str):
        require_local(value, where, "which ArrayRecord and safetensors do not read")
    elif isinstance(value, list | tuple):
        for item in value:
            _refuse_buckets(item, where)
    elif isinstance(value, ml_collections.ConfigDict):
        for name, item in value.items():
            _refuse_buckets(item, f"{where}.{name}")


def save_config(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The resolved config as plain JSON values; `load_config` reads it back from a file."""
    return json.loads(config.to_json_best_effort())


def saved_configs(workdir: Any) -> dict[str, object]:
    """name -> value of what a run has kept in its workdir: config.json, config-1.json, ...; no other file is read.

    Raises:
      UserError: one of them is damaged.
    """
    found = {}
    for path in workdir.glob("config*.json") if workdir.is_dir() else ():
        if _SAVED.fullmatch(path.name):
            try:
                found[path.name] = read_value(path)
            except UserError as error:
                raise UserError(path, error.args[1], "move it away: the run goes on without it") from None
    return found


def record_config(config: ml_collections.ConfigDict, workdir: Any, saved: dict[str, object]) -> None:
    """config.json is what a run began with; going on with other settings adds config-1.json, config-2.json, ...

    Args:
      saved: what `saved_configs` found before the run.
    """
    value = save_config(config)
    if value not in saved.values():
        last = max((int(_SAVED.fullmatch(name)[1] or 0) for name in saved), default=-1)
        write_json(workdir / (f"config-{last + 1}.json" if saved else "config.json"), value)


def _pairs(overrides: Sequence[str]) -> list[tuple[str, str]]:
    pairs, left = [], list(overrides)
    while left:
        text = left.pop(0)
        if not text.startswith(_PREFIX):
            meant = text.lstrip("-").removeprefix("config.")
            raise UserError(
                text,
                "is not an argument of this command",
                f"did you mean '{_PREFIX}{meant}'?" if "=" in text and "." in text else "see --help",
            )
        key, separator, value = text.removeprefix(_PREFIX).partition("=")
        if not separator:
            if not left or left[0].startswith("--"):
                raise UserError(text, "has no value", f"write {text}=VALUE")
            value = left.pop(0)
        pairs.append((key, value))
    return pairs


def _override(config: ml_collections.ConfigDict, key: str, text: str) -> None:
    parts, node = key.split("."), config
    for depth, part in enumerate(parts):
        names = _names(node)
        if names is None or part not in names:
            raise UserError(
                _PREFIX + key,
                f"the config has no '{'.'.join(parts[: depth + 1])}'",
                _suggestion(config, key, parts[:depth], names),
            )
        if depth + 1 < len(parts):
            node = _child(node, part)
    if isinstance(_child(node, parts[-1]), ml_collections.ConfigDict):
        inside = ", ".join(f"{key}.{name}" for name in _names(_child(node, parts[-1])))
        raise UserError(_PREFIX + key, "is a group of settings", f"set one of {inside}")
    value = _parse(_child(node, parts[-1]), text, _PREFIX + key)
    if isinstance(node, ml_collections.ConfigDict):
        with node.ignore_type():
            node[parts[-1]] = value
    else:
        raise UserError(_PREFIX + key, "a single entry of a list cannot be set", "give the whole list")


def _names(node: Any) -> list[str] | None:
    if isinstance(node, ml_collections.ConfigDict):
        return list(node.keys())
    if isinstance(node, list | tuple):
        return [str(index) for index in range(len(node))]
    return None


def _child(node: Any, name: str) -> Any:
    return node[int(name)] if isinstance(node, list | tuple) else node[name]


def _all_keys(node: Any, prefix: str = "") -> list[str]:
    keys = []
    for name in _names(node) or []:
        child = _child(node, name)
        keys += [prefix + name, *_all_keys(child, f"{prefix}{name}.")]
    return keys


def _suggestion(config: ml_collections.ConfigDict, key: str, path: list[str], names: list[str] | None) -> str:
    every = _all_keys(config)
    close = difflib.get_close_matches(key, every, n=1, cutoff=0.75)
    if not close:  # the right name in the wrong place
        close = [other for other in every if other.split(".")[-1] == key.split(".")[-1]][:1]
    if close:
        return f"did you mean '{_PREFIX}{close[0]}'?"
    return f"'{'.'.join(path) or 'config'}' has {', '.join(names or [])}"


def _parse(current: Any, text: str, where: str) -> Any:
    """`text` as a value of the type that `current` has."""
    if isinstance(current, str):
        return text
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = {"true": True, "false": False, "none": None}.get(text.lower(), text)
    if current is None:
        return value
    if isinstance(current, bool):
        fits = isinstance(value, bool)
    elif isinstance(current, int):
        fits = isinstance(value, int) and not isinstance(value, bool)
    elif isinstance(current, float):
        fits = isinstance(value, int | float) and not isinstance(value, bool)
        value = float(value) if fits else value
    else:  # tuples
        if isinstance(value, str):
            value = tuple(part for part in value.split(",") if part)
        fits = isinstance(value, list | tuple)
        value = tuple(value) if fits else value
    if not fits:
        raise UserError(where, f"'{text}' is not of type {type(current).__name__}", f"the config has {current!r}")
    return value
