"""Several processes of one run: what the first finds the others take over, and nobody leaves before all are done.

With a single process all of it is plain Python.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from mvp4d.core.errors import UserError
from mvp4d.core.lock import hold


def is_first() -> bool:
    """Whether this process writes the files."""
    return jax.process_index() == 0


def from_first(find: Callable[[], Any], shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """The array of that shape and dtype that `find` returns in the first process; the others do not call it."""
    if jax.process_count() == 1:
        return np.asarray(find(), dtype)
    given = np.asarray(find(), dtype) if is_first() else np.zeros(shape, dtype)
    return np.asarray(multihost_utils.broadcast_one_to_all(given)).astype(dtype)


def begin_together(begin: Callable[[], None]) -> None:
    """Calls `begin` in the first process; where it raises UserError, every process does."""
    error = None
    if is_first():
        try:
            begin()
        except UserError as found:
            error = found
    begun = from_first(lambda: error is None, (), np.uint8)
    if error is not None:
        raise error
    if not begun:
        raise UserError("process 0", "did not begin", "its own message says why")


@contextlib.contextmanager
def hold_together(path: str | os.PathLike) -> Iterator[None]:
    """Keeps an output for the processes of this run while the block runs (`lock.hold`), by a lock of the first."""
    with contextlib.ExitStack() as held:
        begin_together(lambda: held.enter_context(hold(path)))
        yield


def wait_for_all(name: str, hours: int = 168) -> None:
    """A process that leaves early would end the others: JAX takes it for a failure."""
    if jax.process_count() > 1:
        import orbax.checkpoint as ocp

        ocp.multihost.sync_global_processes(name, timeout=hours * 3600, processes=set(range(jax.process_count())))


def place(tree: Any, layout: jax.sharding.Sharding) -> Any:
    """Arrays that every process has whole, laid out over the devices of all; nothing is compared or sent on the way."""
    if jax.process_count() == 1:
        return jax.device_put(tree, layout)
    return jax.tree.map(lambda array: _placed(array, layout), tree)


def _placed(array: Any, layout: jax.sharding.Sharding) -> jax.Array:
    if isinstance(array, jax.Array) and jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_placed(jax.random.key_data(array), layout), impl=jax.random.key_impl(array))
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        return array  # laid out already
    whole = np.asarray(array)
    return jax.make_array_from_callback(whole.shape, layout, lambda index: whole[index])
