"""How a run is asked to stop: SIGTERM, after which it saves and ends, to be started again."""

from __future__ import annotations

import signal
from typing import Any

import jax
from jax.experimental import multihost_utils


class Interrupted(Exception):
    """The run was asked to stop, and has saved. Not 0: a scheduler must know that there is more to do."""

    exit_code = 128 + signal.SIGTERM


class StopSignal:
    """Notices SIGTERM while it is open: the step in progress is finished, a checkpoint written, and the run ends.

    With several processes JAX's preemption service agrees on the step at which all of them stop: the one after the last
    that it was told of. A signal that comes before it was told of any step would name the first step of all, which a
    resumed run never reaches, so it is told of `step`, where the run stands, at once.
    """

    def __init__(self, step: int):
        self._asked = False
        self._many = jax.process_count() > 1
        if self._many:
            multihost_utils.reached_preemption_sync_point(step)
        self._before = None if self._many else signal.signal(signal.SIGTERM, self._handle)

    def _handle(self, *_: Any) -> None:
        self._asked = True

    def asked(self, step: int) -> bool:
        """Whether to stop after `step`; the same answer on every process."""
        return multihost_utils.reached_preemption_sync_point(step) if self._many else self._asked

    def close(self) -> None:
        """SIGTERM does again what it did before."""
        if not self._many:
            signal.signal(signal.SIGTERM, self._before)
