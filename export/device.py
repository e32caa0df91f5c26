"""Which device, and what to say when its memory runs out."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from mvp4d.core.errors import UserError


def pick_device(wanted: str | None) -> str:
    """Names the device, "cuda" or "cpu". None means CUDA where there is one.

    Raises:
      UserError: no such device; CUDA is asked for and there is none.
    """
    if wanted not in (None, "cpu", "cuda"):
        raise UserError("`device`", f"is {wanted!r}", "give cpu or cuda")
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise UserError(
            "`device`", "cuda: torch sees no CUDA device here", "use `device` cpu, or install a CUDA build of torch"
        )
    return wanted or ("cuda" if available else "cpu")


@contextlib.contextmanager
def guard_memory(fix: str) -> Iterator[None]:
    """Turns running out of memory into one line that says what to try."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise UserError(
            "memory", f"ran out ({str(error).splitlines()[0][:100] if str(error) else 'host'})", f"try {fix}"
        ) from None
    except RuntimeError as error:
        # torch's CPU allocator raises a plain RuntimeError.
        if "not enough memory" not in str(error) and "DefaultCPUAllocator" not in str(error):
            raise
        raise UserError("memory", "ran out (host)", f"try {fix}") from None


SWITCH = 1e-3  # seconds that a thread may keep Python's lock for: samples of a step ask for it at every operation

_Item, _Result = TypeVar("_Item"), TypeVar("_Result")
_pool: ThreadPoolExecutor | None = None
_lock = threading.Lock()
_thread = threading.local()  # .works: this thread is one of the pool's


def in_parallel(function: Callable[[_Item], _Result], items: list[_Item]) -> list[_Result]:
    """`[function(item) for item in items]`, each item by a thread that computes on one core.

    The tensors of a step on the CPU are small: sharing out whole samples keeps two cores busy, where sharing out every
    single operation makes them wait for each other. Called by one of these threads, it goes on in that thread alone.
    """
    if len(items) == 1 or getattr(_thread, "works", False):
        return [function(item) for item in items]
    return list(_workers().map(function, items))


def _workers() -> ThreadPoolExecutor:
    global _pool
    with _lock:
        if _pool is None:
            sys.setswitchinterval(SWITCH)
            _pool = ThreadPoolExecutor(torch.get_num_threads(), "mvp4d", _start_worker)
    return _pool


def _start_worker() -> None:
    torch.set_num_threads(1)  # holds for the thread that calls it
    _thread.works = True
