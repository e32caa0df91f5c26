"""Speed between two lines of metrics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mvp4d_jax.training import window as module
from mvp4d_jax.training.window import MetricsWindow, StepTimes, Work


def test_times_by_kind_from_windows_that_mix_them():
    """Windows of 20 steps drawn at random from three kinds, their seconds exact: the times come out."""
    true = {"monocular": 0.4, "static": 1.1, "multiview": 3.0}
    times = StepTimes({"monocular": 1.0, "static": 2.0, "multiview": 4.0})  # work is not in the ratio of the times
    random = np.random.default_rng(0)
    for _ in range(60):
        counts = dict(zip(true, random.multinomial(20, [0.2, 0.3, 0.5])))
        times.add(counts, sum(true[kind] * count for kind, count in counts.items()))
    assert times.seconds() == pytest.approx(true, rel=0.03)


def test_times_follow_the_work_where_the_windows_leave_it_open():
    """One window: infinitely many answers; the one in the ratio of the work is taken."""
    times = StepTimes({"a": 1.0, "b": 3.0})
    times.add({"a": 10, "b": 10}, 40.0)
    assert times.seconds() == pytest.approx({"a": 1.0, "b": 3.0}, rel=1e-6)


def test_rates_of_a_window(monkeypatch):
    """Two kinds, 10 s: rates against sums done by hand."""
    clock = iter([0.0, 10.0, 10.0])
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(clock))
    window = MetricsWindow({"a": Work(8, 800, 3e12, 4e12), "b": Work(2, 400, 6e12, 9e12)}, peak=10e12)
    for kind, loss in (("a", 1.0), ("b", 2.0), ("a", 3.0)):
        window.add(kind, {"loss": jnp.float32(loss), "gradient_norm": 0.5, "learning_rate": 1e-4, "finite": True})
    assert window.fetch() is None
    values = window.finish()
    assert values["loss"] == 2.0 and values["loss_a"] == 2.0 and values["loss_b"] == 2.0
    assert values["samples_per_second"] == 1.8 and values["tokens_per_second"] == 200
    assert values["model_flops_utilisation"] == pytest.approx(12e12 / 10 / 10e12)
    assert values["hardware_flops_utilisation"] == pytest.approx(17e12 / 10 / 10e12)
    assert values["seconds_per_step"] == pytest.approx(10 / 3)
    assert values["seconds_per_step_b"] == pytest.approx(2 * values["seconds_per_step_a"])  # twice the work


def test_the_first_step_that_was_not_finite_is_told():
    window = MetricsWindow({"a": Work(1, 1, 1.0, 1.0)}, peak=1.0)
    for loss, finite in ((1.0, True), (np.nan, False), (2.0, False)):
        window.add("a", {"loss": jnp.float32(loss), "gradient_norm": jnp.float32(3.0), "finite": jnp.bool_(finite)})
    back, values = window.fetch()
    assert back == 1 and np.isnan(values["loss"]) and values["gradient_norm"] == 3.0
    assert window.fetch() is None  # told once


def test_nothing_is_fetched_while_steps_are_sent():
    """Under a guard against copies to the host; `fetch` alone makes them."""
    window = MetricsWindow({"a": Work(1, 1, 1.0, 1.0)}, peak=1.0)
    losses = [jnp.float32(value) for value in range(6)]
    finite = jnp.bool_(True)
    with jax.transfer_guard_device_to_host("disallow"):
        for loss in losses:
            window.add("a", {"loss": loss, "gradient_norm": loss, "finite": finite})
    assert window.fetch() is None and window.last["loss"] == 5.0
