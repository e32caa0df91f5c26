"""Speed and losses between two lines of metrics."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

AHEAD = 2  # steps under way at a time


@dataclasses.dataclass(frozen=True)
class Work:
    """What one step of a kind of data is.

    Attributes:
      samples, tokens: of the batch, over all devices.
      model_flops: 3 x the forward pass: what the model asks for, over all devices.
      hardware_flops: what the compiled step computes, activations computed again included, over all devices.
    """

    samples: int
    tokens: int
    model_flops: float
    hardware_flops: float


class StepTimes:
    """Seconds per step of every kind of data, from the seconds of windows that mix them.

    Steps are dispatched ahead of the devices, so a single one cannot be timed without stopping them. Least squares:
    minimise sum_w (s_w - sum_k n_wk t_k)^2 + c sum_k (t_k - a f_k)^2 over the windows w, older ones fading, where n_wk
    counts steps, f_k is the kind's work and a the seconds per work of the whole; the second term decides where the
    counts leave it open.
    """

    FADE = 0.95  # per window

    def __init__(self, work: dict[str, float]):
        self._names, self._work = list(work), np.array(list(work.values()))
        self._left, self._right = np.zeros((len(work),) * 2), np.zeros(len(work))
        self._done = self._seconds = 0.0

    def add(self, counts: dict[str, int], seconds: float) -> None:
        n = np.array([counts.get(name, 0) for name in self._names], float)
        self._left = self.FADE * self._left + np.outer(n, n)
        self._right = self.FADE * self._right + n * seconds
        self._done, self._seconds = self.FADE * self._done + n @ self._work, self.FADE * self._seconds + seconds

    def seconds(self) -> dict[str, float]:
        expected = self._work * self._seconds / max(self._done, 1e-30)
        weight = 1e-3 * np.trace(self._left) / len(self._names)
        times = np.linalg.solve(self._left + weight * np.eye(len(self._names)), self._right + weight * expected)
        return dict(zip(self._names, times.tolist()))


class MetricsWindow:
    """Sums between two lines of metrics.

    Args:
      work: kind of data -> what a step of it is.
      peak: FLOP/s of all devices together.
    """

    def __init__(self, work: dict[str, Work], peak: float):
        self._work, self._peak = work, peak
        self._times = StepTimes({kind: one.model_flops for kind, one in work.items()})
        self.restart()

    def restart(self) -> None:
        self.began, self.losses, self.last = time.perf_counter(), {}, {}
        self.waited = 0.0
        self._sent: list[tuple[str, dict[str, jax.Array]]] = []

    def wait(self, stream: Iterator, working: jax.Array | None) -> dict[str, np.ndarray]:
        """The next batch. Waiting counts where the devices have nothing else to do: `working` is ready, or None."""
        began = time.perf_counter()
        batch = next(stream)
        if working is None or working.is_ready():
            self.waited += time.perf_counter() - began
        return batch

    def add(self, kind: str, result: dict[str, jax.Array]) -> None:
        """A step that was sent to the devices. At most AHEAD of them are under way: their batches take memory."""
        self._sent.append((kind, result))
        if len(self._sent) > AHEAD:
            jax.block_until_ready(self._sent[-1 - AHEAD][1]["loss"])

    def fetch(self) -> tuple[int, dict[str, float]] | None:
        """Waits for the steps sent so far and takes their metrics.

        Returns:
          None, or the first step that was not finite: how many were sent after it, and its metrics.
        """
        sent, self._sent = self._sent, []
        for index, (kind, result) in enumerate(zip([kind for kind, _ in sent], jax.device_get([r for _, r in sent]))):
            self.last = {name: float(value) for name, value in result.items()}
            if not self.last["finite"]:
                return len(sent) - 1 - index, self.last
            self.losses.setdefault(kind, []).append(self.last["loss"])
        return None

    def finish(self) -> dict[str, Any]:
        """The window's metrics; begins the next one."""
        seconds = time.perf_counter() - self.began
        counts = {kind: len(losses) for kind, losses in self.losses.items()}
        self._times.add(counts, seconds)
        every = [loss for losses in self.losses.values() for loss in losses]

        def rate(field: str) -> float:
            return sum(count * getattr(self._work[kind], field) for kind, count in counts.items()) / seconds

        times = self._times.seconds()
        values = {
            "loss": float(np.mean(every)),
            **{f"loss_{kind}": float(np.mean(losses)) for kind, losses in self.losses.items()},
            "gradient_norm": self.last["gradient_norm"],
            "learning_rate": self.last["learning_rate"],
            "samples_per_second": rate("samples"),
            "tokens_per_second": rate("tokens"),
            "model_flops_utilisation": rate("model_flops") / self._peak,
            "hardware_flops_utilisation": rate("hardware_flops") / self._peak,
            "data_wait": self.waited / seconds,
            "seconds_per_step": seconds / len(every),
            **{f"seconds_per_step_{kind}": times[kind] for kind in counts},
        }
        self.restart()
        return values
