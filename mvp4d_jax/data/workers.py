"""Records made on all devices of this host at once, and written in the order in which they were asked for."""

from __future__ import annotations

import collections
import concurrent.futures
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax

from mvp4d_jax.data.shards import ShardWriter

Record = dict[str, Any]
AHEAD = 2  # records per device that may wait to be written


class Workers:
    """A thread for every local device, with a model's state on each; with one device, no threads.

    Args:
      state: arrays that every device gets.
      devices: default all local accelerators; of a CPU's devices one, since they share its cores.
    """

    def __init__(self, state: Any, devices: Sequence[jax.Device] | None = None):
        local = jax.local_devices()
        self._devices = list(devices or (local[:1] if local[0].platform == "cpu" else local))
        self._states = [jax.device_put(state, device) for device in self._devices]
        self._here = threading.local()
        free: queue.SimpleQueue[int] = queue.SimpleQueue()
        for index in range(len(self._devices)):
            free.put(index)

        def take_device() -> None:
            self._here.index = free.get()

        self._pool = concurrent.futures.ThreadPoolExecutor(len(self._devices), initializer=take_device)

    @property
    def state(self) -> Any:
        """The state on the device of the thread that asks."""
        return self._states[getattr(self._here, "index", 0)]

    def map(self, jobs: Iterable[Callable[[], Record]]) -> Iterator[Record]:
        """What the jobs return, in their order."""
        if len(self._devices) == 1:
            yield from (job() for job in jobs)
            return
        waiting: collections.deque[concurrent.futures.Future] = collections.deque()
        try:
            for job in jobs:
                waiting.append(self._pool.submit(self._run, job))
                if len(waiting) >= AHEAD * len(self._devices):
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    def _run(self, job: Callable[[], Record]) -> Record:
        with jax.default_device(self._devices[self._here.index]):
            return job()


class Later:
    """Records to come: `add` tells at once which number a record will have, `write` makes and writes them."""

    def __init__(self, writer: ShardWriter, workers: Workers):
        self._writer, self._workers, self._jobs = writer, workers, []
        self._first = writer.count

    def add(self, job: Callable[[], Record]) -> int:
        self._jobs.append(job)
        return self._first + len(self._jobs) - 1

    def write(self) -> None:
        for record in self._workers.map(self._jobs):
            self._writer.add(record)
