"""Arguments of the public API held against their annotations, so that a wrong type ends in one line at the call."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import numbers
import os
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar, cast

import numpy as np

from mvp4d.core.errors import UserError
from mvp4d.core.words import meant

Pathlike = str | os.PathLike[str]

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")
_PLAIN: dict[str, Any] = {
    "None": type(None),
    "str": str,
    "int": numbers.Integral,
    "float": numbers.Real,
    "bool": bool | np.bool_,
    "Pathlike": str | os.PathLike,
}


def checked(function: F) -> F:
    """Holds what a function is called with against its names and annotations; what `**options` takes is its own affair.

    Numbers are finite, and a `seed` is one that numpy takes. Annotations are read as they are written (their module has
    `from __future__ import annotations`): None, str, int, float, bool, Pathlike, classes by their names, Sequence[...],
    tuple[...] and what `|` joins.

    Raises (when called):
      UserError: names the argument, and the one that a name which is none may stand for.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            given = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise _misfit(function.__name__, signature, args, kwargs, error) from None
        for name, value in given.arguments.items():
            entry = signature.parameters[name]
            if entry.kind is entry.VAR_KEYWORD or entry.annotation is entry.empty:
                continue
            many = entry.kind is entry.VAR_POSITIONAL
            for item in value if many else (value,):
                _check(name, item, entry.annotation, many)
        return function(*args, **kwargs)

    return cast("F", call)


def checked_fields(kind: type[T], given: dict[str, Any], also: Iterable[str] = ()) -> T:
    """A dataclass made of what a `**options` took, held against its fields as `checked` holds arguments.

    Args:
      kind: the dataclass.
      given: values by name.
      also: names beside its fields that one which is none may stand for.

    Raises:
      UserError: names the argument.
    """
    fields = {field.name: str(field.type) for field in dataclasses.fields(cast("Any", kind))}
    for name, value in given.items():
        if name not in fields:
            raise _unknown(name, [*fields, *also])
        _check(name, value, fields[name])
    return kind(**{name: value.item() if isinstance(value, np.generic) else value for name, value in given.items()})


def _unknown(name: str, known: Sequence[str]) -> UserError:
    close = meant(name, known)
    return UserError(
        f"`{name}`", "no such argument", f"did you mean `{close}`?" if close else f"known are {', '.join(known)}"
    )


def _misfit(
    function: str, signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any], error: TypeError
) -> UserError:
    """What is wrong with a call that Python refuses."""
    entries = {name: entry for name, entry in signature.parameters.items() if name not in ("self", "cls")}
    named = [name for name, entry in entries.items() if entry.kind not in (entry.VAR_POSITIONAL, entry.VAR_KEYWORD)]
    takes_any = any(entry.kind is entry.VAR_KEYWORD for entry in entries.values())
    unknown = [name for name in kwargs if name not in named]
    if unknown and not takes_any:
        if unknown[0] in entries:
            return UserError(f"`{unknown[0]}`", "does not go by name", f"give them one by one: *{unknown[0]}")
        return _unknown(unknown[0], named)
    absent = [name for name in named if name not in kwargs]
    for name in unknown:
        if meant(name, absent):
            return _unknown(name, absent)
    try:
        given = signature.bind_partial(*args, **kwargs).arguments
    except TypeError:  # too many in a row, or one of them twice
        row = [name for name in named if entries[name].kind is not entries[name].KEYWORD_ONLY]
        others = [name for name in named if name not in row]
        by_name = f"; by name {', '.join(others)}" if others else ""
        return UserError(f"{function}()", str(error), f"in a row it takes {', '.join(row)}{by_name}")
    missing = [name for name in named if entries[name].default is inspect.Parameter.empty and name not in given]
    if not missing:  # a method, called on its class
        return UserError(f"{function}()", str(error))
    return UserError(f"`{missing[0]}`", f"is missing: {function}() cannot do without")


def _check(name: str, value: object, wanted: str, one_of_many: bool = False) -> None:
    if not fits(value, wanted):
        shown = " ".join(repr(value).split())
        fix = f"give them one by one: *{name}" if one_of_many and isinstance(value, list | tuple) else ""
        raise UserError(f"`{name}`", f"{shown[:60]} ({type(value).__name__}) is not of type {wanted}", fix)
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
        isinstance(value, str | bytes | dict | range | os.PathLike)
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
