"""Patches, timesteps and positions as CogVideoX embeds them.

Tokens lie patch-major, [B, P, G, D]: P patches of a latent frame, G latent frames (the reference, then view by view).
So a modulation per latent frame [B, 1, G, D] broadcasts without a copy per token, the split over devices runs over P
and leaves every device some of every frame, and padded patches form the end of the flattened sequence.
"""

import jax
import jax.numpy as jnp
import numpy as np

from mvp4d_jax import parallel


def patchify(latents: jax.Array, patch: int) -> jax.Array:
    """[B, G, h, w, C] -> [B, P, G, C p p], P = h/p * w/p in (h, w) order, a token's values in (C, p, p) order."""
    batch, groups, height, width, channels = latents.shape
    x = latents.reshape(batch, groups, height // patch, patch, width // patch, patch, channels)
    x = x.transpose(0, 2, 4, 1, 6, 3, 5)  # [B, h/p, w/p, G, C, p, p]
    return x.reshape(batch, -1, groups, channels * patch * patch)


def unpatchify(pixels: jax.Array, patch: int, height: int, width: int) -> jax.Array:
    """[B, P, G, p p, C], a patch's latent pixels in (p, p) order -> [B, G, h, w, C]."""
    batch, _, groups, _, channels = pixels.shape
    x = pixels.reshape(batch, height // patch, width // patch, groups, patch, patch, channels)
    return x.transpose(0, 3, 1, 4, 2, 5, 6).reshape(batch, groups, height, width, channels)


def to_latents(tokens: jax.Array, kernel: jax.Array, bias: jax.Array, patch: int, height: int, width: int) -> jax.Array:
    """Tokens [B, P, G, D] -> latents [B, G, h, w, C], each through a kernel [D, C p p] and bias to its patch.

    One product for each place in the patch, so that channels stay the last dimension throughout: taking a (C, p, p)
    apart costs the compiler for TPU minutes. Not so on CPU, where it is the many narrow products that cost time.
    """
    batch, _, groups, _ = tokens.shape
    if parallel.platform() == "cpu":
        x = (tokens @ kernel + bias).reshape(batch, height // patch, width // patch, groups, -1, patch, patch)
        return x.transpose(0, 3, 1, 5, 2, 6, 4).reshape(batch, groups, height, width, -1)
    kernel, bias = kernel.reshape(kernel.shape[0], -1, patch, patch), bias.reshape(-1, patch, patch)

    def place(row: int, column: int) -> jax.Array:
        x = tokens @ kernel[:, :, row, column] + bias[:, row, column]  # [B, P, G, C]
        x = x.reshape(batch, height // patch, width // patch, groups, -1)
        return x.transpose(0, 3, 1, 2, 4)  # [B, G, h/p, w/p, C]

    rows = [jnp.stack([place(i, j) for j in range(patch)], axis=4) for i in range(patch)]  # [B, G, h/p, w/p, p, C]
    return jnp.stack(rows, axis=3).reshape(batch, groups, height, width, -1)  # of [B, G, h/p, p, w/p, p, C]


def timestep_features(timesteps: jax.Array, width: int) -> jax.Array:
    """Sinusoids of timesteps, cosines first: [...] -> [..., width] float32; frequencies 10000^(-i / (width/2))."""
    half = width // 2
    frequencies = jnp.asarray(np.exp(-np.log(10000.0) * np.arange(half, dtype=np.float32) / half), jnp.float32)
    angles = timesteps[..., None].astype(jnp.float32) * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def _sinusoids(positions: np.ndarray, width: int) -> np.ndarray:
    """[M] -> [M, width]: sines, then cosines, computed in float64."""
    frequencies = 10000.0 ** (-np.arange(width // 2, dtype=np.float64) / (width / 2.0))
    angles = np.outer(positions, frequencies)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


def _variable(table: np.ndarray) -> jax.Array:
    """A constant that the compiler does not look into: it would fold what is made of it, a value for every token."""
    return jax.lax.optimization_barrier(jnp.asarray(table))


def sincos_positions(
    frames: int, height: int, width: int, dim: int, spatial_scale: float, temporal_scale: float
) -> tuple[jax.Array, jax.Array]:
    """CogVideoX-2B's additive positions, in two parts that are zero where the other is not: [P, D] and [L, D] float32.

    D/4 channels tell the frame, then 3D/8 the column, then 3D/8 the row. A token's position is the sum of its patch's
    part and its frame's.

    Args:
      frames: L. height, width: the grid of patches (P = height * width). dim: D.
      spatial_scale, temporal_scale: positions are divided by these (float32, as diffusers does).
    """
    time, column, row = (
        _sinusoids(np.arange(count, dtype=np.float32) / np.float32(scale), channels)
        for count, scale, channels in (
            (frames, temporal_scale, dim // 4),
            (width, spatial_scale, dim * 3 // 8),
            (height, spatial_scale, dim * 3 // 8),
        )
    )
    start, middle = dim // 4, dim * 3 // 8  # where the columns' channels begin, and how many they are
    column = np.pad(column, ((0, 0), (start, dim - start - middle)))
    row = np.pad(row, ((0, 0), (start + middle, 0)))
    space = (_variable(row)[:, None] + _variable(column)[None]).reshape(-1, dim)  # [P, D]
    return space, _variable(np.pad(time, ((0, 0), (0, dim - start))))


def rotary_positions(
    frames: int, height: int, width: int, head_dim: int, base_height: int, base_width: int
) -> tuple[jax.Array, jax.Array]:
    """CogVideoX-5B's rotary tables, cosines and sines [P, L, head_dim] float32: 1/4 time, 3/8 row, 3/8 column.

    The grid of patches is fitted, aspect kept and centred, into the grid the model was trained at.

    Args:
      frames: L. height, width: the grid of patches. base_height, base_width: the grid trained at.
    """
    if height / width > base_height / base_width:
        fitted = (base_height, round(base_height / height * width))
    else:
        fitted = (round(base_width / width * height), base_width)
    starts = [round((base - size) / 2.0) for base, size in zip((base_height, base_width), fitted)]
    row, column = (
        np.linspace(start, (start + size) * (count - 1) / count, count, dtype=np.float32)
        for start, size, count in zip(starts, fitted, (height, width))
    )

    def angles(positions: np.ndarray, dim: int) -> np.ndarray:
        frequencies = 1.0 / 10000.0 ** (np.arange(0, dim, 2, dtype=np.float32) / dim)
        return np.repeat(np.outer(positions, frequencies.astype(np.float32)), 2, axis=1).astype(np.float32)

    spatial = head_dim // 8 * 3
    shape = (height, width, frames)
    time = _variable(angles(np.arange(frames, dtype=np.float32), head_dim // 4))[None, None]
    row, column = _variable(angles(row, spatial))[:, None, None], _variable(angles(column, spatial))[None, :, None]
    table = jnp.concatenate([jnp.broadcast_to(x, (*shape, x.shape[-1])) for x in (time, row, column)], axis=-1)
    table = table.reshape(height * width, frames, head_dim)
    return jnp.cos(table), jnp.sin(table)


def rotate(x: jax.Array, cosines: jax.Array, sines: jax.Array) -> jax.Array:
    """Turn neighbouring pairs of channels of x [B, N, H, d] by the angles of tables [N, d]; `x`'s dtype."""
    pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)
    turned = jnp.stack([-pairs[..., 1], pairs[..., 0]], axis=-1).reshape(x.shape)
    return (x.astype(jnp.float32) * cosines[:, None] + turned * sines[:, None]).astype(x.dtype)
