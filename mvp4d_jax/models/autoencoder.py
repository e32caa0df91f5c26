"""The CogVideoX causal 3D video autoencoder in Flax NNX.

A video of F = 1 + s (L - 1) frames becomes L latent frames at 1/r of the height and width. s is the temporal and r the
spatial stride: 4 and 8 in CogVideoX, 1 and 4 in `tiny`, 2 and 4 in `tiny_128`. It is worked on in chunks; CogVideoX's
are 8 frames (2 latent frames), and what is left over joins the first chunk (49 frames: 9 + 8 x 5; 13 latent frames: 3 +
2 x 5). Caches carry the last two frames of every causal convolution from chunk to chunk, so convolutions do not see the
seams; GroupNorm does: it normalises one chunk at a time, which makes the chunk size part of the model. Layers and
chunks follow diffusers' `AutoencoderKLCogVideoX`; `tests/models/test_autoencoder.py` holds the numbers to it.

Memory: a scan over the chunks keeps one chunk's activations alive, whatever the length. Shards over the batch (views):
no layer mixes its elements.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax
from jax.typing import DTypeLike

from mvp4d_jax import parallel
from mvp4d_jax.models.autoencoder_layers import (
    Cache,
    CausalConv3d,
    Downsample,
    GroupNorm,
    ResnetBlock,
    SpatialNorm,
    Upsample,
)
from mvp4d_jax.models.config import AutoencoderConfig


def _compiles_once() -> bool:
    """Whether blocks that are alike run as a loop: the TPU compiler takes seconds for every convolution. (XLA's CPU
    backend runs a loop's gradient many times slower.)"""
    return parallel.platform() == "tpu"


def _repeated(
    blocks: Sequence[ResnetBlock], x: Array, latent: Array | None, caches: Sequence[Cache]
) -> tuple[Array, list[Cache]]:
    """Blocks of the same widths, one after another, as one loop."""
    graph = nnx.split(blocks[0])[0]
    weights = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(nnx.split(block)[1] for block in blocks))
    before = None if caches[0] is None else jax.tree.map(lambda *leaves: jnp.stack(leaves), *caches)

    def step(x: Array, item: tuple[Any, Cache]) -> tuple[Array, Cache]:
        return nnx.merge(graph, item[0])(x, latent, item[1])

    x, after = lax.scan(step, x, (weights, before))
    return x, [jax.tree.map(lambda leaf, index=index: leaf[index], after) for index in range(len(blocks))]


_EFFORT_O1 = 19  # XLA's number for it


class Stage(nnx.Module):
    """Residual blocks of one resolution, then a resampler (or none)."""

    def __init__(
        self,
        widths: tuple[int, ...],
        config: AutoencoderConfig,
        *,
        latent_channels: int | None,
        resample: type[Downsample] | type[Upsample] | None = None,
        in_time: bool = False,
        rngs: nnx.Rngs,
    ):
        self.resnets = nnx.List(
            [
                ResnetBlock(
                    before,
                    after,
                    groups=config.norm_num_groups,
                    eps=config.norm_eps,
                    latent_channels=latent_channels,
                    rngs=rngs,
                )
                for before, after in itertools.pairwise(widths)
            ]
        )
        self.resample = None if resample is None else resample(widths[-1], in_time=in_time, rngs=rngs)

    def __call__(self, x: Array, latent: Array | None, cache: Cache) -> tuple[Array, Cache]:
        blocks, old, new = list(self.resnets), cache or [None] * len(self.resnets), []
        widens = int(blocks[0].conv_shortcut is not None)  # the others are alike
        alone = widens if _compiles_once() and len(blocks) > widens + 1 else len(blocks)
        for resnet, entry in zip(blocks[:alone], old):
            x, entry = resnet(x, latent, entry)
            new.append(entry)
        if alone < len(blocks):
            x, entries = _repeated(blocks[alone:], x, latent, old[alone:])
            new += entries
        return (x if self.resample is None else self.resample(x)), new


def _stages(
    widths: Sequence[int],
    depth: int,
    config: AutoencoderConfig,
    latent_channels: int | None,
    resample: type[Downsample] | type[Upsample],
    rngs: nnx.Rngs,
) -> nnx.List:
    """A stage of `depth` blocks for each width, resamplers between them."""
    return nnx.List(
        [
            Stage(
                (widths[max(level - 1, 0)], *[width] * depth),
                config,
                latent_channels=latent_channels,
                resample=resample if level < len(widths) - 1 else None,
                in_time=2**level < config.temporal_compression_ratio,
                rngs=rngs,
            )
            for level, width in enumerate(widths)
        ]
    )


class Encoder(nnx.Module):
    """One chunk of video [B, T, H, W, 3] -> moments [B, t, h, w, 2C]."""

    def __init__(self, config: AutoencoderConfig, *, rngs: nnx.Rngs):
        widths, depth = config.block_out_channels, config.layers_per_block
        self.conv_in = CausalConv3d(config.in_channels, widths[0], rngs=rngs)
        self.blocks = _stages(widths, depth, config, None, Downsample, rngs)
        self.middle = Stage((widths[-1],) * 3, config, latent_channels=None, rngs=rngs)
        self.norm_out = GroupNorm(widths[-1], groups=config.norm_num_groups, eps=1e-6)
        self.conv_out = CausalConv3d(widths[-1], 2 * config.latent_channels, rngs=rngs)

    def __call__(self, x: Array, cache: Cache) -> tuple[Array, Cache]:
        cache = cache or {}
        new = {}
        x, new["conv_in"] = self.conv_in(x, cache.get("conv_in"))
        for level, block in enumerate(self.blocks):
            x, new[f"block_{level}"] = block(x, None, cache.get(f"block_{level}"))
        x, new["middle"] = self.middle(x, None, cache.get("middle"))
        x, new["conv_out"] = self.conv_out(jax.nn.silu(self.norm_out(x)), cache.get("conv_out"))
        return x, new


class Decoder(nnx.Module):
    """One chunk of latents [B, t, h, w, C] -> video [B, T, H, W, 3]."""

    def __init__(self, config: AutoencoderConfig, *, rngs: nnx.Rngs):
        widths, depth = config.block_out_channels[::-1], config.layers_per_block + 1
        latent = config.latent_channels
        self.conv_in = CausalConv3d(latent, widths[0], rngs=rngs)
        self.middle = Stage((widths[0],) * 3, config, latent_channels=latent, rngs=rngs)
        self.blocks = _stages(widths, depth, config, latent, Upsample, rngs)
        self.norm_out = SpatialNorm(widths[-1], latent, groups=config.norm_num_groups, eps=1e-6, rngs=rngs)
        self.conv_out = CausalConv3d(widths[-1], config.out_channels, rngs=rngs)

    def __call__(self, latent: Array, cache: Cache) -> tuple[Array, Cache]:
        cache = cache or {}
        new = {}
        x, new["conv_in"] = self.conv_in(latent, cache.get("conv_in"))
        x, new["middle"] = self.middle(x, latent, cache.get("middle"))
        for level, block in enumerate(self.blocks):
            x, new[f"block_{level}"] = block(x, latent, cache.get(f"block_{level}"))
        x, new["conv_out"] = self.conv_out(jax.nn.silu(self.norm_out(x, latent)), cache.get("conv_out"))
        return x, new


class VideoAutoencoder(nnx.Module):
    """Encoder and decoder over whole videos. r below is `config.spatial_compression_ratio`: 8 in CogVideoX.

    Args:
      config: the sizes.
      dtype: what the convolutions compute in, float32 or bfloat16; norms are float32 in both, parameters float32.
      rngs: source of the initial weights.
    """

    def __init__(self, config: AutoencoderConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.config, self.dtype = config, jnp.dtype(dtype)
        self.encoder = Encoder(config, rngs=rngs)
        self.decoder = Decoder(config, rngs=rngs)

    def encode(self, video: Array) -> Array:
        """video [B, 1 + s (L - 1), H, W, 3] in [-1, 1], H and W multiples of r -> moments [B, L, h, w, 2C] float32.

        The first C channels are the latent's mean, the last C its log variance.

        Raises:
          ValueError: F, H or W does not fit.
        """
        ratio = self.config.spatial_compression_ratio
        self.config.latents_of(video.shape[1])
        if video.ndim != 5 or video.shape[2] % ratio or video.shape[3] % ratio:
            raise ValueError(f"video {video.shape} must be [B, F, H, W, 3] with H and W multiples of {ratio}")
        return _encode(self, video)

    def decode(self, latents: Array) -> Array:
        """latents [B, L, h, w, C], not scaled -> video [B, 1 + s (L - 1), r h, r w, 3] float32, about [-1, 1].

        For an even L the original decodes s L frames, latent 0 standing for frames 1 - s .. 0; the s - 1 that belong to
        no frame are dropped.
        """
        return _decode(self, latents)

    def decode_stream(self, latents: Array, place: Callable[[Array], Array] = lambda piece: piece) -> Iterator[Array]:
        """`decode`, chunk by chunk: yields [B, T, r h, r w, 3] in order of time, so that no whole video need fit.

        `place` brings the latents [B, t, h, w, C] of a chunk to the devices.
        """
        first, rest = split_chunks(latents, self.config.chunk_latents)
        decode_chunk = chunk_program()
        chunk, cache = decode_chunk(self, place(first), None)
        frames = self.config.frames_of(first.shape[1])
        yield chunk if chunk.shape[1] == frames else chunk[:, -frames:]
        for piece in rest:
            chunk, cache = decode_chunk(self, place(piece), cache)
            yield chunk

    def encode_latents(self, video: Array, *, key: Array | None = None) -> Array:
        """video [B, F, H, W, 3] -> latents of the diffusion model [B, L, h, w, C], scaled by `config.scaling_factor`.

        The posterior's mean, or with `key` a sample of it.
        """
        moments = self.encode(video)
        mean, log_variance = jnp.split(moments, 2, axis=-1)
        if key is not None:
            mean += jnp.exp(0.5 * jnp.clip(log_variance, -30.0, 20.0)) * jax.random.normal(key, mean.shape)
        return mean * self.config.scaling_factor

    def decode_latents(self, latents: Array) -> Array:
        """Latents of the diffusion model [B, L, h, w, C] -> video [B, F, H, W, 3]; takes the scale off."""
        return self.decode(latents / self.config.scaling_factor)


def split_chunks(x: Array, size: int) -> tuple[Array, Array]:
    """x [B, T, ...] -> first chunk [B, size + T % size, ...] (all of it when T < size), the rest [n, B, size, ...]."""
    first = min(x.shape[1], size + x.shape[1] % size)
    rest = x[:, first:].reshape(x.shape[0], -1, size, *x.shape[2:])
    return x[:, :first], rest.swapaxes(0, 1)


def _join(first: Array, rest: Array) -> Array:
    rest = jnp.moveaxis(rest, 0, 1)  # [B, n, T, ...]
    return jnp.concatenate([first, rest.reshape(rest.shape[0], -1, *rest.shape[3:])], axis=1)


def _in_chunks(coder: Encoder | Decoder, x: Array, size: int, dtype: DTypeLike) -> Array:
    first, rest = split_chunks(x.astype(dtype), size)
    first, cache = coder(first, None)
    if rest.shape[0] == 0:
        return first.astype(jnp.float32)

    def step(cache: Cache, chunk: Array) -> tuple[Cache, Array]:
        y, cache = coder(chunk, cache)
        return cache, y.astype(jnp.float32)

    if rest.shape[0] == 1:  # no loop around it: XLA's CPU backend runs a loop's gradient many times slower
        return _join(first.astype(jnp.float32), step(cache, rest[0])[1][None])
    return _join(first.astype(jnp.float32), lax.scan(step, cache, rest)[1])


# Inlined where they are differentiated: XLA's CPU backend runs a called gradient twenty times slower.
@functools.partial(jax.jit, inline=True)
def _encode(model: VideoAutoencoder, video: Array) -> Array:
    return _in_chunks(model.encoder, video, model.config.chunk_frames, model.dtype)


@functools.partial(jax.jit, inline=True)
def _decode(model: VideoAutoencoder, latents: Array) -> Array:
    video = _in_chunks(model.decoder, latents, model.config.chunk_latents, model.dtype)
    return video[:, -model.config.frames_of(latents.shape[1]) :]


def _decode_chunk(model: VideoAutoencoder, latents: Array, cache: Cache) -> tuple[Array, Cache]:
    """One chunk of `VideoAutoencoder.decode_stream`: latents [B, t, h, w, C] and what the last chunk left (or None) ->
    video [B, T, r h, r w, 3] and what the next one needs."""
    video, cache = model.decoder(latents.astype(model.dtype), cache)
    return video.astype(jnp.float32), cache


def compiler_options() -> dict[str, Any] | None:
    """What `jax.jit` is to be given for a program of this module, on the current mesh's devices.

    The TPU compiler tries every tiling of a convolution that its scratch memory holds. With the 64 MiB of a launch's
    flags, which are meant for attention, that takes eight times as long as with 16, and at effort O1, whose tilings
    its own model finds no slower, a third of that.
    """
    if parallel.platform() != "tpu":
        return None
    return {"xla_tpu_scoped_vmem_limit_kib": "16384", "optimization_level": _EFFORT_O1}


@functools.cache
def _chunk_program(platform: str) -> Any:
    return jax.jit(_decode_chunk, compiler_options=compiler_options())


def chunk_program() -> Any:
    """`_decode_chunk`, compiled for the current mesh's devices."""
    return _chunk_program(parallel.platform())
