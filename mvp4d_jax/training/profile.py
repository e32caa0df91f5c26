"""A JAX profile of some steps of a run, for TensorBoard's or Perfetto's trace viewer."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

import jax
import ml_collections

from mvp4d.core.places import is_remote, uploaded

log = logging.getLogger(__name__)


class Profiler:
    """Traces `settings.steps` steps, after `settings.after` others since this start of the program.

    Args:
      settings: `config.profile`.
      folder: where profiles go (`plugins/profile/DATE/`); one per host.
    """

    def __init__(self, settings: ml_collections.ConfigDict, folder: Any):
        self._first, self._last = settings.after, settings.after + settings.steps
        self._folder, self._count, self._open = folder, 0, contextlib.ExitStack()

    def before_step(self) -> None:
        if self._count == self._first < self._last:
            if is_remote(self._folder):
                target = self._open.enter_context(uploaded(self._folder))
            else:
                target = self._folder
            jax.profiler.start_trace(str(target))
            self._open.callback(jax.profiler.stop_trace)

    def after_step(self, result: Any) -> None:
        """`result`: what the step returned; the last traced step is waited for."""
        self._count += 1
        if self._count == self._last > self._first:
            jax.block_until_ready(result)
            self.close()
            log.info("profile of %d steps: %s", self._last - self._first, self._folder)

    def close(self) -> None:
        self._open.close()
