"""The autoencoder against diffusers' AutoencoderKLCogVideoX on the same random weights, float32, CPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLCogVideoX
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mvp4d.core.errors import UserError
from mvp4d_jax.latent_frames import latent_count
from mvp4d_jax.models import autoencoder
from mvp4d_jax.models.autoencoder import VideoAutoencoder
from mvp4d_jax.models.config import AutoencoderConfig

# Every kind of layer of the full model (channel changes, both kinds of resampling), narrow.
NARROW = AutoencoderConfig(block_out_channels=(8, 16, 16, 32), layers_per_block=1, norm_num_groups=4)
# As `tiny` has it: a fourth of the size, two frames a latent frame.
IN_PAIRS = AutoencoderConfig(
    block_out_channels=(8, 16, 16), layers_per_block=1, norm_num_groups=4, temporal_compression_ratio=2
)


def oracle_of(config: AutoencoderConfig) -> AutoencoderKLCogVideoX:
    """Diffusers' model, every parameter random, norms and biases too."""
    torch.manual_seed(0)
    model = (
        AutoencoderKLCogVideoX(
            block_out_channels=config.block_out_channels,
            layers_per_block=config.layers_per_block,
            down_block_types=("CogVideoXDownBlock3D",) * len(config.block_out_channels),
            up_block_types=("CogVideoXUpBlock3D",) * len(config.block_out_channels),
            temporal_compression_ratio=config.temporal_compression_ratio,
            norm_num_groups=config.norm_num_groups,
            scaling_factor=config.scaling_factor,
        )
        .eval()
        .requires_grad_(False)
    )
    for name, parameter in model.named_parameters():
        if "norm" in name or name.endswith("bias"):
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def _their_name(path: tuple) -> str:
    """Diffusers' name of one of our leaves, written independently of `models.checkpoint_names`."""
    name = ".".join(map(str, path))
    sides = ("up_blocks", "upsamplers.0.conv") if path[0] == "decoder" else ("down_blocks", "downsamplers.0.conv")
    name = name.replace("blocks", sides[0]).replace("resample", sides[1]).replace("middle", "mid_block")
    for ours, theirs in (
        ("conv_in.", "conv_in.conv."),
        ("conv_out.", "conv_out.conv."),
        ("conv1.", "conv1.conv."),
        ("conv2.", "conv2.conv."),
    ):
        name = name.replace(ours, theirs)
    if path[0] == "decoder":
        for norm in ("norm1", "norm2", "norm_out"):
            for ours, theirs in (("scale", "conv_y.conv"), ("shift", "conv_b.conv"), ("norm", "norm_layer")):
                name = name.replace(f"{norm}.{ours}.", f"{norm}.{theirs}.")
    parent, leaf = name.rsplit(".", 1)
    return f"{parent}.{'bias' if leaf == 'bias' else 'weight'}"


def ours_from(oracle: AutoencoderKLCogVideoX, config: AutoencoderConfig) -> VideoAutoencoder:
    theirs = {name: tensor.numpy() for name, tensor in oracle.state_dict().items()}
    graph, state = nnx.split(nnx.eval_shape(lambda: VideoAutoencoder(config, rngs=nnx.Rngs(0))))
    filled = {}
    for path, variable in nnx.to_flat_state(state):
        weight = theirs.pop(_their_name(path))
        if weight.ndim > 1:
            weight = np.moveaxis(weight, (0, 1), (-1, -2))
        filled[path] = variable.replace(jnp.asarray(weight.reshape(variable.shape)))
    assert not theirs
    return nnx.merge(graph, nnx.from_flat_state(filled))


def relative_error(ours, theirs) -> float:
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def to_torch(x) -> torch.Tensor:
    return torch.from_numpy(np.array(x)).permute(0, 4, 1, 2, 3).contiguous()


def from_torch(x: torch.Tensor) -> np.ndarray:
    return x.permute(0, 2, 3, 4, 1).numpy()


def random_video(frames: int, height: int, width: int, batch: int = 1) -> np.ndarray:
    return np.random.default_rng(frames).uniform(-1, 1, (batch, frames, height, width, 3)).astype(np.float32)


def random_latents(frames: int, height: int, width: int, batch: int = 1) -> np.ndarray:
    return np.random.default_rng(frames).standard_normal((batch, frames, height, width, 16)).astype(np.float32)


@pytest.fixture(scope="module")
def pair():
    oracle = oracle_of(NARROW)
    return oracle, ours_from(oracle, NARROW)


@pytest.mark.parametrize(
    "frames, height, width", [(1, 32, 32), (5, 16, 48), (9, 32, 16), (13, 16, 16), (17, 24, 16), (49, 16, 24)]
)
def test_encode_is_diffusers(pair, frames, height, width):
    oracle, model = pair
    video = random_video(frames, height, width, batch=2)
    theirs = from_torch(oracle.encode(to_torch(video)).latent_dist.parameters)
    ours = model.encode(jnp.asarray(video))
    assert ours.shape == (2, latent_count(frames, 4), height // 8, width // 8, 32)
    assert relative_error(ours, theirs) < 1e-4


@pytest.mark.parametrize("frames, height, width", [(1, 4, 4), (5, 2, 6), (9, 4, 2), (13, 2, 2), (17, 3, 2), (49, 2, 3)])
def test_decode_is_diffusers(pair, frames, height, width):
    oracle, model = pair
    latents = random_latents(latent_count(frames, 4), height, width, batch=2)
    theirs = from_torch(oracle.decode(to_torch(latents)).sample)[:, -frames:]  # of 4 L frames where L is even
    ours = model.decode(jnp.asarray(latents))
    assert ours.shape == (2, frames, 8 * height, 8 * width, 3)
    assert relative_error(ours, theirs) < 1e-4


@pytest.mark.parametrize("frames, latents", [(1, 1), (9, 5), (17, 9)])
def test_two_frames_a_latent_is_diffusers(frames, latents):
    oracle = oracle_of(IN_PAIRS)
    model = ours_from(oracle, IN_PAIRS)
    video = random_video(frames, 16, 24)
    theirs = oracle.encode(to_torch(video)).latent_dist
    ours = model.encode(jnp.asarray(video))
    assert ours.shape == (1, latents, 4, 6, 32) and IN_PAIRS.frames_of(latents) == frames
    assert relative_error(ours, from_torch(theirs.parameters)) < 1e-4
    decoded = model.decode(ours[..., :16])
    assert decoded.shape == video.shape
    assert relative_error(decoded, from_torch(oracle.decode(theirs.mean).sample)[:, -frames:]) < 1e-4


def test_stream_is_decode(pair):
    latents = jnp.asarray(random_latents(5, 2, 2))
    chunks = list(pair[1].decode_stream(latents))
    assert [chunk.shape[1] for chunk in chunks] == [9, 8]
    np.testing.assert_allclose(jnp.concatenate(chunks, axis=1), pair[1].decode(latents), atol=1e-5)


def test_blocks_in_a_loop_are_blocks_one_by_one(pair, monkeypatch):
    """As TPUs run them: the first chunk and one with the cache it leaves."""
    latents = jnp.asarray(random_latents(5, 2, 2))
    results = []
    for loop in (False, True):
        monkeypatch.setattr(autoencoder, "_compiles_once", lambda loop=loop: loop)
        first, cache = jax.jit(lambda model, z: model(z, None))(pair[1].decoder, latents[:, :3])
        second, _ = jax.jit(lambda model, z, cache: model(z, cache))(pair[1].decoder, latents[:, 3:], cache)
        results.append((first, second, cache))
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=1e-5), *results)


def test_later_frames_do_not_reach_earlier_chunks(pair):
    """Causality over chunks: what comes after frame 8 of 17 changes nothing in the first three latent frames."""
    video = random_video(17, 24, 16, batch=2)
    other = video.copy()
    other[:, 9:] = -other[:, 9:]
    first, second = (np.asarray(pair[1].encode(jnp.asarray(x))) for x in (video, other))
    np.testing.assert_array_equal(first[:, :3], second[:, :3])
    assert np.abs(first[:, 3:] - second[:, 3:]).max() > 1e-2


def test_latent_scale_is_applied_once(pair):
    video = jnp.asarray(random_video(1, 32, 32, batch=2))
    mean = pair[1].encode(video)[..., :16]
    latents = pair[1].encode_latents(video)
    np.testing.assert_allclose(latents, mean * NARROW.scaling_factor, rtol=1e-6)
    np.testing.assert_allclose(pair[1].decode_latents(latents), pair[1].decode(mean), atol=1e-4)


def test_posterior_sample_has_the_posteriors_moments(pair):
    video = jnp.asarray(random_video(1, 32, 32, batch=2))
    mean, log_variance = jnp.split(pair[1].encode(video), 2, axis=-1)
    draws = jnp.stack([pair[1].encode_latents(video, key=jax.random.key(n)) for n in range(64)]) / NARROW.scaling_factor
    normalised = (draws - mean) * jnp.exp(-0.5 * log_variance)
    assert abs(float(normalised.mean())) < 0.02 and abs(float(normalised.std()) - 1) < 0.02


def test_bfloat16_stays_close(pair):
    abstract = nnx.eval_shape(lambda: VideoAutoencoder(NARROW, dtype=jnp.bfloat16, rngs=nnx.Rngs(0)))
    model = nnx.merge(nnx.graphdef(abstract), nnx.state(pair[1]))
    video = jnp.asarray(random_video(1, 32, 32, batch=2))
    assert relative_error(model.encode(video), pair[1].encode(video)) < 0.05


def test_shards_over_views(pair):
    """Eight devices, a view each: the same numbers, and no device asks another for anything."""
    mesh = Mesh(np.array(jax.devices()[:8]), ("views",))
    split = NamedSharding(mesh, PartitionSpec("views"))
    graph, state = nnx.split(pair[1])
    video = random_video(9, 16, 16, batch=8)

    def round_trip(state, video):
        model = nnx.merge(graph, state)
        return model.decode(model.encode(video)[..., :16])

    everywhere = jax.device_put(state, NamedSharding(mesh, PartitionSpec()))
    sharded = jax.jit(round_trip, in_shardings=(None, split), out_shardings=split).lower(everywhere, video).compile()
    text = sharded.as_text()
    assert not any(word in text for word in ("all-gather", "all-reduce", "all-to-all", "collective-permute"))
    alone = jax.jit(round_trip)(state, video)
    np.testing.assert_allclose(sharded(everywhere, jax.device_put(video, split)), alone, atol=2e-5)


def test_memory_does_not_grow_with_frames(pair):
    """What a program needs beside its arguments and results: the same for 17 and for 65 frames."""
    graph, state = nnx.split(pair[1])

    def scratch(frames: int) -> int:
        latents = jax.ShapeDtypeStruct((1, latent_count(frames, 4), 4, 4, 16), jnp.float32)
        decode = jax.jit(lambda state, x: nnx.merge(graph, state).decode(x))
        return decode.lower(state, latents).compile().memory_analysis().temp_size_in_bytes

    output = 4 * 3 * 32 * 32  # bytes of one frame
    assert scratch(65) - scratch(17) < 2.5 * 48 * output  # the scan's stacked chunks, and their join


@pytest.mark.parametrize("shape", [(1, 4, 16, 16, 3), (1, 1, 20, 16, 3), (1, 16, 16, 3)])
def test_rejects_sizes_that_do_not_fit(pair, shape):
    with pytest.raises((UserError, ValueError, IndexError)):
        pair[1].encode(jnp.zeros(shape))


@pytest.mark.slow
def test_full_size_is_diffusers():
    config = AutoencoderConfig.named("2b")
    oracle = oracle_of(config)
    model = ours_from(oracle, config)
    video = random_video(9, 32, 48)
    moments = oracle.encode(to_torch(video)).latent_dist.parameters
    assert relative_error(model.encode(jnp.asarray(video)), from_torch(moments)) < 1e-4
    latents = random_latents(3, 4, 6)
    theirs = from_torch(oracle.decode(to_torch(latents)).sample)
    assert relative_error(model.decode(jnp.asarray(latents)), theirs) < 1e-4
