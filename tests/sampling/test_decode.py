"""The autoencoder over a mesh: as one device alone, whatever the number of views; frames to disk, views one by one."""

import jax
import numpy as np
import pytest
from flax import nnx
from small_world import quick_compilation

from mvp4d.core.files import read_npz
from mvp4d_jax import parallel
from mvp4d_jax.models.autoencoder import VideoAutoencoder
from mvp4d_jax.models.config import AutoencoderConfig
from mvp4d_jax.sampling.decode import Coder, decode_to_files

VIEWS, LATENTS, SIDE = 5, 4, 4  # five views leave places of an eight-device mesh empty; 13 frames: two chunks


@pytest.fixture(scope="module")
def autoencoder():
    config = AutoencoderConfig(
        block_out_channels=(4, 8, 8, 8), layers_per_block=1, norm_num_groups=4, scaling_factor=2.0
    )
    with quick_compilation():
        return VideoAutoencoder(config, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def latents():
    return np.random.default_rng(0).normal(size=(VIEWS, LATENTS, SIDE, SIDE, 16)).astype(np.float32)


def _coder(autoencoder, shape):
    return Coder(autoencoder, parallel.make_mesh(shape, jax.devices()[: int(np.prod(shape))]))


def test_decoding_is_sharded_over_views_and_equals_the_whole(autoencoder, latents, tmp_path):
    views = decode_to_files(_coder(autoencoder, (2, 1, 4)), latents, lambda view: tmp_path / f"{view}.npz")
    assert list(views) == list(range(VIEWS))
    whole = np.asarray(autoencoder.decode_latents(latents))
    expected = (np.clip(whole, -1, 1) + 1) * 127.5
    found = np.stack([read_npz(tmp_path / f"{view}.npz")["frames"] for view in range(VIEWS)])
    assert found.shape == (VIEWS, 13, 32, 32, 3) and found.dtype == np.uint8
    assert np.abs(found - expected).max() <= 0.51 and found.std() > 5
    assert len(list(tmp_path.iterdir())) == VIEWS


def test_a_view_is_on_disk_when_it_is_handed_on(autoencoder, latents, tmp_path):
    views = decode_to_files(_coder(autoencoder, (1, 1, 1)), latents[:3, :1], lambda view: tmp_path / f"{view}.npz")
    there = [(view, sorted(path.name for path in tmp_path.iterdir())) for view in views]
    assert there == [(0, ["0.npz"]), (1, ["0.npz", "1.npz"]), (2, ["0.npz", "1.npz", "2.npz"])]


def test_encoding_on_a_mesh_equals_one_device(autoencoder):
    video = np.random.default_rng(1).uniform(-1, 1, (3, 5, 32, 32, 3)).astype(np.float32)
    one, many = (_coder(autoencoder, shape).encode(video) for shape in ((1, 1, 1), (8, 1, 1)))
    np.testing.assert_allclose(one, many, atol=1e-4)
    np.testing.assert_allclose(one, np.asarray(autoencoder.encode_latents(video)), atol=1e-4)
