"""Arguments of the public API held against their annotations, so that a wrong type ends in one line at the call."""

from __future__ import annotations

import functools
import inspect
import math
import numbers
import os
import re
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

import numpy as np

from mvp4d.core.errors import UserError

Pathlike = str | os.PathLike[str]

F = TypeVar("F", bound=Callable[..., Any])
_PLAIN: dict[str, Any] = {
    "None": type(None),
    "str": str,
    "int": numbers.Integral,
    "float": numbers.Real,
    "bool": bool | np.bool_,
    "Pathlike": str | os.PathLike,
}


def checked(function: F) -> F:
    """Holds what a function is called with against its annotations; what `**options` takes is its own affair.

    Numbers are finite, and a `seed` is one that numpy takes. Annotations are read as they are written (their module has
    `from __future__ import annotations`): None, str, int, float, bool, Pathlike, classes by their names, Sequence[...],
    tuple[...] and what `|` joins.

    Raises (when called):
      UserError: names the argument.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs)  # a TypeError of Python's own where names are wrong
        for name, value in given.arguments.items():
            entry = signature.parameters[name]
            if entry.kind is entry.VAR_KEYWORD or entry.annotation is entry.empty:
                continue
            for item in value if entry.kind is entry.VAR_POSITIONAL else (value,):
                _check(name, item, entry.annotation)
        return function(*args, **kwargs)

    return cast("F", call)


def _check(name: str, value: object, wanted: str) -> None:
    if not fits(value, wanted):
        shown = " ".join(repr(value).split())
        raise UserError(f"`{name}`", f"{shown[:60]} ({type(value).__name__}) is not of type {wanted}")
    if name == "seed" and isinstance(value, numbers.Integral) and not 0 <= int(value) < 2**32:
        raise UserError("`seed`", f"is {value}", "it is a whole number from 0 to 4,294,967,295")
    if isinstance(value, numbers.Real) and not math.isfinite(value):
        raise UserError(f"`{name}`", f"{value} is no number that can be meant")


def fits(value: object, wanted: str) -> bool:
    """Whether a value is of a type that is written as `checked` reads it."""
    return any(_fits_one(value, word) for word in _split(wanted, "|"))


def _fits_one(value: object, word: str) -> bool:
    if word == "Any":
        return True
    if word in _PLAIN:
        return isinstance(value, _PLAIN[word]) and (word == "bool" or not isinstance(value, bool))
    outer = re.fullmatch(r"(Sequence|tuple)\[(.*)\]", word)
    if outer is None:
        return any(base.__name__ == word for base in type(value).__mro__)
    if (
        isinstance(value, str | bytes | dict | os.PathLike)
        or not isinstance(value, Iterable)
        or not hasattr(value, "__len__")
    ):
        return False
    items, words = list(value), _split(outer[2], ",")
    if outer[1] == "Sequence":
        return all(fits(item, outer[2]) for item in items)
    return len(items) == len(words) and all(map(fits, items, words))


def _split(text: str, separator: str) -> list[str]:
    """Parts between separators that stand in no bracket."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter == "[") - (letter == "]")
        if letter == separator and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]
