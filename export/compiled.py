"""Loops of Python as machine code, by numba."""

from __future__ import annotations

from collections.abc import Callable

import numba

# Sums may be taken in any order, the same every time: without this leave no loop that sums becomes vector instructions.
MATHS = {"reassoc", "contract", "nsz"}


def compiled(function: Callable) -> Callable:
    """Machine code for a function; kept for the next process where numba finds a folder that it may write to.

    It lets go of Python's lock; what it calls is put in its place.
    """
    options = {"nogil": True, "error_model": "numpy", "forceinline": True, "fastmath": MATHS}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:
        return numba.njit(**options)(function)
