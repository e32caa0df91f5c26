"""Progress of long work on the terminal: rate and time left; and notes that a person should read."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tqdm import tqdm

_silent = False
_worded: Callable[[str], str] = str


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Shows no progress and says nothing while the block runs."""
    global _silent
    before, _silent = _silent, True
    try:
        yield
    finally:
        _silent = before


@contextlib.contextmanager
def worded(change: Callable[[str], str]) -> Iterator[None]:
    """Says notes as `change` puts them while the block runs."""
    global _worded
    before, _worded = _worded, change
    try:
        yield
    finally:
        _worded = before


def progress(iterable: Iterable | None = None, *, total: int | None = None, what: str, unit: str = "it") -> Any:
    """Wraps `iterable` (or, without one, returns a bar to `update`) in a tqdm bar that names what is being done.

    When standard error is not a terminal (a log file, CI) it prints a line at most every ten seconds.
    """
    interactive = sys.stderr.isatty()
    return tqdm(
        iterable,
        total=total,
        desc=what,
        unit=unit,
        dynamic_ncols=interactive,
        disable=_silent,
        mininterval=0.2 if interactive else 10.0,
    )


def end_bars() -> None:
    """Ends bars that an error left open, so that what is said next has a line of its own."""
    for bar in list(getattr(tqdm, "_instances", ())):
        bar.close()


def say(note: str) -> None:
    """Prints one line on standard error: what a person should know and a program need not.

    Arguments stand in it as in a UserError: `name`, in backticks, which the command line shows as its flag.
    """
    if not _silent:
        print(_worded(note), file=sys.stderr, flush=True)
