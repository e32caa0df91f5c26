"""Doing in the background what a run will need: programs compiled, and the next window's maps drawn.

A program that is compiled for shapes and layouts that the run then brings is found compiled, or waited for. XLA holds
no lock of Python's while it compiles, so that a second core does it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax

from mvp4d_jax import parallel


@contextlib.contextmanager
def compiled_ahead(tasks: Iterable[Callable[[], Any]]) -> Iterator[None]:
    """Runs tasks that compile, one after another, beside the block: in a single process on a CPU.

    Elsewhere they are left out: processes of several hosts compile in step, and a launch's programs as they come. Those
    that are not begun when the block ends are dropped. A task that fails is no error here: the run meets the same one.
    """
    if not _cores_idle():
        yield
        return
    ended = threading.Event()

    def work() -> None:
        with contextlib.suppress(Exception):
            for task in tasks:
                if ended.is_set():
                    return
                task()

    thread = threading.Thread(target=work, name="compiling ahead")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def one_ahead(work: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """`work` of every item, in order, the next one done while the last is used: in a single process on a CPU."""
    if not _cores_idle():
        yield from map(work, items)
        return
    with ThreadPoolExecutor(1) as pool:
        pending = None
        for item in items:
            following = pool.submit(work, item)
            if pending is not None:
                yield pending.result()
            pending = following
        if pending is not None:
            yield pending.result()


def _cores_idle() -> bool:
    """Whether the run's own programs leave cores without work, and no other process has to keep in step."""
    return parallel.platform() == "cpu" and jax.process_count() == 1


def placed(shape: tuple[int, ...], dtype: Any, layout: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
    """An array of the run to come."""
    return jax.ShapeDtypeStruct(shape, dtype, sharding=layout)
