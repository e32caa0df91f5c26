"""Shards in the devices' memory: the same batches as those read from files."""

import tracemalloc

import jax
import numpy as np
import pytest

from mvp4d.core.errors import UserError
from mvp4d_jax import parallel
from mvp4d_jax.data.pipeline import Batches, Modality, SamplingOptions
from mvp4d_jax.data.resident import Resident, Tables, resident_bytes
from mvp4d_jax.data.shards import Shards
from mvp4d_jax.training.feed import Feed
from tests.data.synthetic import CONDITIONING, write_shards

MIXTURE = (Modality("monocular", 1, 1, 3, 8), Modality("static", 1, 4, 1, 8), Modality("multiview", 2, 3, 2, 8))
OPTIONS = SamplingOptions(condition_dropout=0.5, clean_prefix=0.5, clean_views=0.5)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("resident")
    return [
        Shards.open(write_shards(root / "a", variants=2)),
        Shards.open(write_shards(root / "b", seed=1, scenes=2, latents=5, windows=1, images=2, photos=True)),
    ]


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 2)])
def test_the_same_batches(folders, shape):
    mesh = parallel.make_mesh(shape)
    batches = Batches(folders, MIXTURE, OPTIONS, CONDITIONING, steps=12, seed=3)
    resident = Resident(batches, Tables.read(folders, mesh))
    assert len(resident) == 12
    for step in range(12):
        feed = Feed.onto(mesh, batches.modality(step).batch)
        expected, found = feed.place(batches[step]), resident.place(resident[step], feed.layout)
        assert set(found) == set(expected)
        for name, value in expected.items():
            assert (
                found[name].sharding.is_equivalent_to(value.sharding, value.ndim) and found[name].dtype == value.dtype
            )
            ours, theirs = np.asarray(found[name]), np.asarray(value)
            if "conditioning" in name:  # rays are turned in float32 and rounded to float16: the last bit may differ
                rays = CONDITIONING.parts["rays"]
                np.testing.assert_allclose(
                    ours[..., rays].astype(np.float32), theirs[..., rays].astype(np.float32), rtol=2**-10, atol=1e-6
                )
                ours, theirs = (np.delete(array, np.r_[rays], axis=-1) for array in (ours, theirs))
            np.testing.assert_array_equal(ours, theirs, err_msg=f"{name}, step {step}")


def test_the_host_holds_no_second_copy(folders):
    needed = resident_bytes(folders)
    tracemalloc.start()
    try:
        tables = Tables.read(folders, parallel.make_mesh((1, 1, 1)))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert tables.nbytes == needed
    assert peak < 1.5 * needed


def test_records_of_another_size_are_told(folders):
    """A manifest that says longer windows than its records are; a shorter one would leave rows unread, too."""
    for latents in (2, 4):
        other = Shards(folders[0].path, {**folders[0].manifest, "latents": latents})
        with pytest.raises(UserError, match=rf"record \d+ has latents \(3, .*, expected \({latents}, .*prepare"):
            Tables.read([other], parallel.make_mesh((1, 1, 1)))


def test_shards_that_do_not_fit_are_refused(folders, monkeypatch):
    mesh = parallel.make_mesh((1, 1, 1))
    device = mesh.devices.flat[0]
    monkeypatch.setattr(type(device), "memory_stats", lambda _: {"bytes_limit": 1000, "bytes_in_use": 0}, raising=False)
    with pytest.raises(UserError, match=r"config\.data\.resident: the shards take .* leave it out"):
        Tables.read(folders, mesh)


def test_several_processes_are_refused(folders, monkeypatch):
    mesh = parallel.make_mesh((1, 1, 1))
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(UserError, match="is for one process"):
        Tables.read(folders, mesh)
