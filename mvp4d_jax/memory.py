"""How this process gets memory from the system."""

from __future__ import annotations

import ctypes

# mallopt's parameters (glibc, malloc.h).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8


def keep_freed_memory() -> None:
    """Makes malloc keep freed blocks instead of giving them back. For long work that repeats itself on the CPU.

    By default glibc maps each large array anew and unmaps it when it is freed, so that every step of a training has the
    system clear its hundreds of megabytes page by page: a fifth of the step's time on two cores. Memory stays at its
    peak. Does nothing where the C library has no `mallopt` (musl, macOS). Call before threads are started.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    for parameter, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 64 * 2**20), (_ARENA_MAX, 1)):
        mallopt(parameter, value)
