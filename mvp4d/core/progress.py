"""Progress of long work on the terminal: rate and time left, quiet when the output is not a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def progress(iterable: Iterable | None = None, *, total: int | None = None, what: str, unit: str = "it") -> Any:
    """Wraps `iterable` (or, without one, returns a bar to `update`) in a tqdm bar that names what is being done.

    When standard error is not a terminal (a log file, CI) it prints a line at most every ten seconds.
    """
    interactive = sys.stderr.isatty()
    return tqdm(
        iterable, total=total, desc=what, unit=unit, dynamic_ncols=interactive, mininterval=0.2 if interactive else 10.0
    )
