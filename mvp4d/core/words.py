"""Words of messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

NEAR = 0.7  # difflib's ratio from which one word may be meant by another; its own 0.6 takes "out" for "routing"


def counted(count: int, noun: str) -> str:
    """1 photo, 2 photos."""
    return f"{count} {noun}" + ("" if count == 1 else "s")


def sides(array: Any, *, less: int = 0) -> str:
    """2 x 3, an array's shape but for its last `less` axes; nothing for what is none, as jax has in its trees."""
    shape = tuple(getattr(array, "shape", ()))
    return " x ".join(map(str, shape[: len(shape) - less]))


def signed(degrees: float) -> str:
    """+20, -20, 0: degrees to either side."""
    return f"{degrees:+.0f}" if round(degrees) else "0"


def meant(word: str, known: Iterable[str]) -> str | None:
    """The known word that a mistyped one is nearest to; None where none is near."""
    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=NEAR)), None)
