"""Several processes of one run: they meet, what the first finds the others take over, none leaves before all are done.

With a single process all of it is plain Python.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from mvp4d.core.errors import UserError
from mvp4d.core.lock import hold
from mvp4d_jax import slurm

log = logging.getLogger(__name__)

_GREETING = "mvp4d-process"
_LEAVE_TIMEOUT = 60  # seconds that a process which ends, by an error perhaps, waits for the others to end as well


def initialise_processes(
    coordinator: str | None = None,
    count: int | None = None,
    index: int | None = None,
    timeout: float = 300.0,
    otherwise: str = "give `coordinator`, `processes` and `process`",
) -> int:
    """Join the other processes of this run. Call it before anything touches a device.

    On TPU VMs, SLURM and GKE all three arguments are found out by JAX; elsewhere give them. Under SLURM a process takes
    the GPUs that `slurm.local_device_ids` tells.

    Args:
      coordinator: `host:port` of process 0.
      count: how many processes there are. 1: nothing to join.
      index: which of them this is.
      timeout: seconds to wait for the others before giving up.
      otherwise: what helps where nothing tells of the others.

    Returns:
      The number of processes.

    Raises:
      UserError: an argument is wrong, or the others did not come in time.
    """
    if count == 1:
        return 1
    given = [value is not None for value in (coordinator, count, index)]
    if any(given) and not all(given):
        raise UserError("`coordinator`, `processes`, `process`", "go together", "give all three or none")
    if not 0 < timeout <= 86_400:
        raise UserError("`join_timeout`", f"is {timeout:g}", "give seconds, more than 0 and at most 86,400")
    if all(given) and count < 1:
        raise UserError("`processes`", f"is {count}", "it is a whole number from 1 on")
    if all(given) and not 0 <= index < count:
        raise UserError("processes", f"index {index} is not below the count {count}", "number the processes from 0")
    began = time.monotonic()
    if coordinator is not None:
        _meet(coordinator, count, index, timeout)
    left = max(1, math.ceil(timeout - (time.monotonic() - began)))
    try:
        jax.distributed.initialize(
            coordinator,
            count,
            index,
            slurm.local_device_ids(),
            initialization_timeout=left,
            shutdown_timeout_seconds=_LEAVE_TIMEOUT,
        )
    except (RuntimeError, ValueError) as error:  # the first line names the barrier; the rest is a stack of the runtime
        reason = str(error).strip().splitlines()[0]
        if coordinator is None and isinstance(error, ValueError):  # before any waiting
            raise UserError(
                "`distributed`",
                f"no TPU pod, GKE or SLURM job tells where the others are ({reason})",
                otherwise,
            ) from error
        raise UserError(
            "processes",
            f"the run's processes did not meet within {timeout:.0f} s ({reason})",
            "check that every process was started, and that all name the same coordinator and count",
        ) from error
    if count is not None and jax.process_count() != count:
        raise UserError("processes", f"{jax.process_count()} joined where {count} were announced", "check the launcher")
    slurm.note_idle_gpus()
    log.info("process %d of %d, %d devices", jax.process_index(), jax.process_count(), jax.device_count())
    return jax.process_count()


def _meet(coordinator: str, count: int, index: int, timeout: float) -> None:
    """Wait until every process is there. The runtime's own wait ends the process with a stack trace and no name."""
    host, _, port = coordinator.rpartition(":")
    sound = re.fullmatch(r"[!-~]{1,253}", host) and re.fullmatch(r"[0-9]{1,5}", port) and 1 <= int(port) <= 65535
    if not sound:
        shown = ascii(coordinator) if len(coordinator) < 80 else f"{coordinator[:60]!a} ..."
        raise UserError("`coordinator`", f"{shown} is not host:port", "for example 10.0.0.2:8476")
    address, deadline = (host.strip("[]"), int(port)), time.monotonic() + timeout
    try:
        if index == 0:
            _gather_others(address, count, deadline)
        else:
            _announce(address, count, index, deadline)
    except OSError as error:
        raise UserError(
            "processes",
            f"process {index} of {count} met nobody at {coordinator} within {timeout:.0f} s ({error})",
            "start every process, process 0 on that machine, and open the port between the machines",
        ) from error


def _gather_others(address: tuple[str, int], count: int, deadline: float) -> None:
    """Process 0: let the others go once all have come. Strangers on the port (scanners, health checks) are passed over,
    whatever they say and however they leave."""
    with contextlib.ExitStack() as open_sockets, socket.create_server(address) as server:
        present: dict[int, socket.socket] = {}
        while len(present) < count - 1:
            if (left := deadline - time.monotonic()) <= 0:
                missing = sorted(set(range(1, count)) - present.keys())
                raise TimeoutError(f"missing: {', '.join(map(str, missing))}")
            server.settimeout(left)
            try:
                connection = open_sockets.enter_context(server.accept()[0])
                connection.settimeout(min(5, left))
                word, index, their_count = connection.recv(64).decode().split()
                if word == _GREETING and int(their_count) == count and 0 < int(index) < count:
                    present[int(index)] = connection
            except (OSError, ValueError):
                continue
        for connection in present.values():
            connection.sendall(b"go")


def _announce(address: tuple[str, int], count: int, index: int, deadline: float) -> None:
    """Every other process: tell process 0 and wait for its word."""
    while True:
        left = deadline - time.monotonic()
        try:
            with socket.create_connection(address, timeout=max(0.01, min(5, left))) as connection:
                connection.sendall(f"{_GREETING} {index} {count}".encode())
                connection.settimeout(max(0.01, left))
                if connection.recv(8) == b"go":
                    return
                raise ConnectionError("process 0 left")
        except OSError:
            if time.monotonic() + 0.2 > deadline:
                raise
        time.sleep(0.2)


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
