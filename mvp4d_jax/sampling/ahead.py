"""Compiling in the background what a run will need, while its inputs are made.

A program that is compiled for shapes and layouts that the run then brings is found compiled, or waited for. XLA holds
no lock of Python's while it compiles, so that a second core does it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax

from mvp4d_jax import parallel


@contextlib.contextmanager
def compiled_ahead(tasks: Iterable[Callable[[], Any]]) -> Iterator[None]:
    """Runs tasks that compile, one after another, beside the block: in a single process on a CPU.

    Elsewhere they are left out: processes of several hosts compile in step, and a launch's programs as they come. Those
    that are not begun when the block ends are dropped. A task that fails is no error here: the run meets the same one.
    """
    if parallel.platform() != "cpu" or jax.process_count() > 1:
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


def placed(shape: tuple[int, ...], dtype: Any, layout: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
    """An array of the run to come."""
    return jax.ShapeDtypeStruct(shape, dtype, sharding=layout)
