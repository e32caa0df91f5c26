"""Records made on several devices at once."""

import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mvp4d_jax.data.workers import Later, Workers


class Writer:
    """A shard writer that keeps what it is given."""

    def __init__(self, before: int = 0):
        self.count, self.records = before, []

    def add(self, record):
        self.records.append(record)
        self.count += 1


def test_every_device_works_and_the_order_stays():
    """24 jobs on 4 devices, the first ones slowest: each runs where its state lies; records come in the order asked."""
    devices = jax.local_devices()[:4]
    assert len(devices) == 4
    workers, seen, writer = Workers(jnp.arange(3.0), devices), set(), Writer(before=5)
    meet = threading.Barrier(4)  # four jobs are at work at the same time, or this waits for ever

    def job(number):
        if number < 4:
            meet.wait(timeout=60)
        time.sleep(0.02 * (24 - number) / 24)
        made = workers.state * number + jnp.zeros(3)  # the zeros are made on the thread's device
        seen.add(next(iter(made.devices())))
        return {"value": np.asarray(made)}

    later = Later(writer, workers)
    assert [later.add(lambda number=number: job(number)) for number in range(24)] == list(range(5, 29))
    later.write()
    assert seen == set(devices) and writer.count == 29
    np.testing.assert_array_equal([record["value"][1] for record in writer.records], np.arange(24))


def test_an_error_in_a_job_is_raised_where_the_records_are_written():
    workers = Workers(jnp.zeros(1), jax.local_devices()[:2])

    def fail():
        raise ValueError("job 3")

    jobs = [lambda: {}, lambda: {}, lambda: {}, fail, *[lambda: {}] * 20]
    with pytest.raises(ValueError, match="job 3"):
        list(workers.map(jobs))
