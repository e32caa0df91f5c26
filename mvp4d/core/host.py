"""The machine that a command runs on: asked and set up before JAX is loaded."""

from __future__ import annotations

import ctypes
import importlib.util
import os
from pathlib import Path

# mallopt's parameters (glibc, malloc.h).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8


def has_accelerator() -> bool:
    """Whether the machine has a TPU or an NVIDIA GPU, by its device files."""
    return any(
        any(Path(folder).glob(pattern))
        for folder, pattern in (("/dev", "accel*"), ("/dev/vfio", "[0-9]*"), ("/dev", "nvidia[0-9]*"))
    )


def choose_platform() -> None:
    """Keeps libtpu (installed for ahead-of-time compilation) from looking for a TPU that is not there: it would wait,
    and complain. Call before JAX is imported.

    JAX_PLATFORMS, where the user has set it, stands. NVIDIA machines keep JAX's own choice.
    """
    if not has_accelerator() and importlib.util.find_spec("libtpu") is not None:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")


def cpu_count() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def keep_freed_memory() -> None:
    """Makes malloc keep freed blocks instead of giving them back. For long work that repeats itself on the CPU.

    By default glibc maps each large array anew and unmaps it when it is freed, so that every step of a training has the
    system clear its hundreds of megabytes page by page: a fifth of `tiny`'s step. With this, memory stays at its peak
    and all threads share one heap, so not for a host that feeds accelerators with many readers. Does nothing where the
    C library has no `mallopt` (musl, macOS). Call before threads are started.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    for parameter, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 64 * 2**20), (_ARENA_MAX, 1)):
        mallopt(parameter, value)
