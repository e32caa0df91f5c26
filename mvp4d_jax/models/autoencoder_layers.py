"""Layers of the CogVideoX video autoencoder: causal convolutions with a cache, norms, residual blocks, resamplers.

Every array is `[B, T, H, W, C]`: batch (of views), time within the chunk, height, width, channels. A causal convolution
sees two frames of the past: the `Cache` carries them from one chunk to the next, and is None for the first chunk, where
the first frame stands in for its own past. Layers that hold one take the old cache and return the new one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax

from mvp4d_jax import parallel

Cache = Any  # a pytree of the last two input frames of every causal convolution, None before the first chunk
_NARROW = 32  # channels up to which joining frames beats adding three results (measured, two cores)
_PAST = 2  # frames of the past that a kernel of three frames sees


def _init_kernel(rngs: nnx.Rngs, shape: Sequence[int]) -> nnx.Param:
    fan_in = 1
    for size in shape[:-1]:
        fan_in *= size
    bound = fan_in**-0.5  # torch's default initialisation of convolutions and linear layers
    return nnx.Param(jax.random.uniform(rngs.params(), tuple(shape), jnp.float32, -bound, bound))


def _conv2d(x: Array, kernel: Array, *, stride: int, padding: Sequence[tuple[int, int]]) -> Array:
    """x [N, H, W, I], kernel [kh, kw, I, O] -> [N, H', W', O]."""
    return lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _conv3d_direct(x: Array, kernel: Array) -> Array:
    return lax.conv_general_dilated(
        x, kernel, (1, 1, 1), ((0, 0), (1, 1), (1, 1)), dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
    )


def _conv3d_as_2d(x: Array, kernel: Array) -> Array:
    batch, padded, height, width, channels = x.shape
    frames = padded - _PAST
    taps = [x[:, tap : tap + frames].reshape(batch * frames, height, width, channels) for tap in range(kernel.shape[0])]
    if channels <= _NARROW:
        joined = jnp.moveaxis(kernel, 0, 2).reshape(3, 3, 3 * channels, -1)
        y = _conv2d(jnp.concatenate(taps, axis=-1), joined, stride=1, padding=((1, 1), (1, 1)))
    else:
        y = sum(_conv2d(tap, part, stride=1, padding=((1, 1), (1, 1))) for tap, part in zip(taps, kernel))
    return y.reshape(batch, frames, height, width, -1)


def conv3d(x: Array, kernel: Array) -> Array:
    """x [B, T + 2, H, W, I], kernel [3, 3, 3, I, O] -> [B, T, H, W, O]; no padding in time, zeros in space.

    On CPU 2D convolutions, XLA's 3D convolution runs there at half their speed or less: the sum of one per frame of the
    kernel, or, where channels are few, one over the three frames side by side.
    """
    form = _conv3d_as_2d if parallel.platform() == "cpu" else _conv3d_direct  # lax.platform_dependent is slower there
    return form(x, kernel)


class CausalConv3d(nnx.Module):
    """3 x 3 x 3 convolution that looks two frames back and none ahead; same size out as in.

    kernel [3, 3, 3, I, O], bias [O].
    """

    def __init__(self, in_channels: int, out_channels: int, *, rngs: nnx.Rngs):
        self.kernel = _init_kernel(rngs, (3, 3, 3, in_channels, out_channels))
        self.bias = nnx.Param(jnp.zeros((out_channels,)))

    def __call__(self, x: Array, cache: Cache) -> tuple[Array, Cache]:
        kernel, bias = self.kernel[...].astype(x.dtype), self.bias[...].astype(x.dtype)
        if cache is None and x.shape[1] == 1:  # a single image: three equal frames, so the taps add up
            y = _conv2d(x[:, 0], kernel.sum(0), stride=1, padding=((1, 1), (1, 1)))[:, None]
            return y + bias, jnp.concatenate([x, x], axis=1)
        past = jnp.repeat(x[:, :1], _PAST, axis=1) if cache is None else cache
        x = jnp.concatenate([past, x], axis=1)  # [B, T + 2, H, W, I]
        return conv3d(x, kernel) + bias, x[:, -_PAST:]


class Pointwise(nnx.Module):
    """1 x 1 x 1 convolution: kernel [I, O], bias [O]."""

    def __init__(self, in_channels: int, out_channels: int, *, rngs: nnx.Rngs):
        self.kernel = _init_kernel(rngs, (in_channels, out_channels))
        self.bias = nnx.Param(jnp.zeros((out_channels,)))

    def __call__(self, x: Array) -> Array:
        return x @ self.kernel[...].astype(x.dtype) + self.bias[...].astype(x.dtype)


class GroupNorm(nnx.Module):
    """Normalises each group of channels over the chunk's time, height and width, in float32: scale [C], bias [C]."""

    def __init__(self, channels: int, *, groups: int, eps: float):
        self.groups, self.eps = groups, eps
        self.scale = nnx.Param(jnp.ones((channels,)))
        self.bias = nnx.Param(jnp.zeros((channels,)))

    def __call__(self, x: Array) -> Array:
        batch, channels = x.shape[0], x.shape[-1]
        y = x.astype(jnp.float32)

        def group_mean(per_channel: Array) -> Array:  # [B, C] -> [B, 1, 1, 1, C], each channel its group's mean
            mean = per_channel.reshape(batch, self.groups, -1).mean(-1)
            return jnp.repeat(mean, channels // self.groups, axis=1)[:, None, None, None]

        y = y - group_mean(y.mean((1, 2, 3)))
        gain = lax.rsqrt(group_mean(jnp.square(y).mean((1, 2, 3))) + self.eps) * self.scale[...]
        return (y * gain + self.bias[...]).astype(x.dtype)


class SpatialNorm(nnx.Module):
    """GroupNorm whose result is scaled and shifted by what two pointwise convolutions read off the latent.

    The original stretches the latent (nearest neighbour) before the convolutions; a pointwise convolution commutes with
    that, so here they run at the latent's height and width. In time it is stretched before them: repeating all frames
    but the first in the loop that normalises would keep that from being vectorised.
    """

    def __init__(self, channels: int, latent_channels: int, *, groups: int, eps: float, rngs: nnx.Rngs):
        self.norm = GroupNorm(channels, groups=groups, eps=eps)
        self.scale = Pointwise(latent_channels, channels, rngs=rngs)
        self.shift = Pointwise(latent_channels, channels, rngs=rngs)
        self.scale.bias.set_value(jnp.ones((channels,)))  # begin as a plain norm; with zeros a decoder learns slowly

    def __call__(self, x: Array, latent: Array) -> Array:
        latent = stretch(latent, (*x.shape[:2], *latent.shape[2:]))
        return self.norm(x) * stretch(self.scale(latent), x.shape) + stretch(self.shift(latent), x.shape)


def _repeat(x: Array, times: int, axis: int) -> Array:
    # As a broadcast, not a gather, so that it fuses into the arithmetic that follows.
    if times == 1:
        return x
    wide = jnp.broadcast_to(jnp.expand_dims(x, axis + 1), (*x.shape[: axis + 1], times, *x.shape[axis + 1 :]))
    return wide.reshape(*x.shape[:axis], x.shape[axis] * times, *x.shape[axis + 1 :])


def stretch(x: Array, shape: Sequence[int]) -> Array:
    """Repeats x [B, t, h, w, C] to [B, T, H, W, C] of `shape`; T odd: the first frame stays one, the rest stretch."""
    frames, height, width = shape[1:4]
    x = _repeat(_repeat(x, height // x.shape[2], 2), width // x.shape[3], 3)
    if frames == x.shape[1]:
        return x
    if frames % 2:
        return jnp.concatenate([x[:, :1], _repeat(x[:, 1:], (frames - 1) // (x.shape[1] - 1), 1)], axis=1)
    return _repeat(x, frames // x.shape[1], 1)


class ResnetBlock(nnx.Module):
    """Norm, SiLU, causal convolution, twice, beside a shortcut. `latent_channels` makes the norms spatial (decoder)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        groups: int,
        eps: float,
        latent_channels: int | None,
        rngs: nnx.Rngs,
    ):
        def norm(channels: int) -> GroupNorm | SpatialNorm:
            if latent_channels is None:
                return GroupNorm(channels, groups=groups, eps=eps)
            return SpatialNorm(channels, latent_channels, groups=groups, eps=eps, rngs=rngs)

        self.norm1 = norm(in_channels)
        self.conv1 = CausalConv3d(in_channels, out_channels, rngs=rngs)
        self.norm2 = norm(out_channels)
        self.conv2 = CausalConv3d(out_channels, out_channels, rngs=rngs)
        self.conv_shortcut = None if in_channels == out_channels else Pointwise(in_channels, out_channels, rngs=rngs)

    def __call__(self, x: Array, latent: Array | None, cache: Cache) -> tuple[Array, Cache]:
        first, second = (None, None) if cache is None else cache
        extra = () if latent is None else (latent,)
        y, first = self.conv1(jax.nn.silu(self.norm1(x, *extra)), first)
        y, second = self.conv2(jax.nn.silu(self.norm2(y, *extra)), second)
        return y + (x if self.conv_shortcut is None else self.conv_shortcut(x)), (first, second)


class Downsample(nnx.Module):
    """Halves height and width by a strided 3 x 3 convolution; with `in_time`, first averages pairs of frames.

    An odd chunk keeps its first frame alone: 9 frames become 1 + 4.
    """

    def __init__(self, channels: int, *, in_time: bool, rngs: nnx.Rngs):
        self.in_time = in_time
        self.kernel = _init_kernel(rngs, (3, 3, channels, channels))
        self.bias = nnx.Param(jnp.zeros((channels,)))

    def __call__(self, x: Array) -> Array:
        if self.in_time and x.shape[1] > 1:
            alone = x.shape[1] % 2
            pairs = (x[:, alone::2] + x[:, alone + 1 :: 2]) * 0.5
            x = jnp.concatenate([x[:, :alone], pairs], axis=1)
        batch, frames, height, width, channels = x.shape
        x = x.reshape(batch * frames, height, width, channels)
        y = _conv2d(x, self.kernel[...].astype(x.dtype), stride=2, padding=((0, 1), (0, 1)))
        return y.reshape(batch, frames, *y.shape[1:]) + self.bias[...].astype(x.dtype)


class Upsample(nnx.Module):
    """Doubles height and width (nearest neighbour, then a 3 x 3 convolution); with `in_time`, also repeats frames.

    An odd chunk keeps its first frame single: 1 + 2 frames become 1 + 4. The convolution is per frame, so it runs
    before frames are repeated.
    """

    def __init__(self, channels: int, *, in_time: bool, rngs: nnx.Rngs):
        self.in_time = in_time
        self.kernel = _init_kernel(rngs, (3, 3, channels, channels))
        self.bias = nnx.Param(jnp.zeros((channels,)))

    def __call__(self, x: Array) -> Array:
        batch, frames, height, width, channels = x.shape
        x = _repeat(_repeat(x, 2, 2), 2, 3).reshape(batch * frames, 2 * height, 2 * width, channels)
        y = _conv2d(x, self.kernel[...].astype(x.dtype), stride=1, padding=((1, 1), (1, 1)))
        y = y.reshape(batch, frames, *y.shape[1:]) + self.bias[...].astype(x.dtype)
        if not self.in_time or frames == 1:
            return y
        longer = 2 * frames - frames % 2
        return stretch(y, (batch, longer, *y.shape[2:]))
