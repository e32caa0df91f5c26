"""Patches, timesteps and positions as CogVideoX embeds them.

Tokens lie patch-major, [B, P, G, D]: P patches of a latent frame, G latent frames (the reference, then view by view).
So a modulation per latent frame [B, 1, G, D] broadcasts without a copy per token, the split over devices runs over P
and leaves every device some of every frame, and padded patches form the end of the flattened sequence.
"""

import jax
import jax.numpy as jnp
import numpy as np


def patchify(latents: jax.Array, patch: int) -> jax.Array:
    """[B, G, h, w, C] -> [B, P, G, C p p], P = h/p * w/p in (h, w) order, a token's values in (C, p, p) order."""
    batch, groups, height, width, channels = latents.shape
    x = latents.reshape(batch, groups, height // patch, patch, width // patch, patch, channels)
    x = x.transpose(0, 2, 4, 1, 6, 3, 5)  # [B, h/p, w/p, G, C, p, p]
    return x.reshape(batch, -1, groups, channels * patch * patch)


def unpatchify(tokens: jax.Array, patch: int, height: int, width: int) -> jax.Array:
    """[B, P, G, C p p] -> [B, G, h, w, C]: undoes `patchify`."""
    batch, _, groups, _ = tokens.shape
    x = tokens.reshape(batch, height // patch, width // patch, groups, -1, patch, patch)
    x = x.transpose(0, 3, 1, 5, 2, 6, 4)  # [B, G, h/p, p, w/p, p, C]
    return x.reshape(batch, groups, height, width, -1)


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


def _spread(time: np.ndarray, column: np.ndarray, row: np.ndarray, *, time_first: str) -> jax.Array:
    """Lay one-dimensional tables [L, a], [w, b], [h, c] out on the grid: [h w, L, a + b + c] (or a, c, b)."""
    shape = (row.shape[0], column.shape[0], time.shape[0])  # h, w, L
    pieces = {
        "t": jnp.broadcast_to(jnp.asarray(time)[None, None], (*shape, time.shape[1])),
        "w": jnp.broadcast_to(jnp.asarray(column)[None, :, None], (*shape, column.shape[1])),
        "h": jnp.broadcast_to(jnp.asarray(row)[:, None, None], (*shape, row.shape[1])),
    }
    table = jnp.concatenate([pieces[axis] for axis in time_first], axis=-1)
    return table.reshape(shape[0] * shape[1], shape[2], -1)


def sincos_positions(
    frames: int, height: int, width: int, dim: int, spatial_scale: float, temporal_scale: float
) -> jax.Array:
    """CogVideoX-2B's additive positions [P, L, D] float32: D/4 temporal, then 3D/8 of the column, then 3D/8 of the row.

    Args:
      frames: L. height, width: the grid of patches (P = height * width). dim: D.
      spatial_scale, temporal_scale: positions are divided by these (float32, as diffusers does).
    """
    scaled = [
        np.arange(count, dtype=np.float32) / np.float32(scale)
        for count, scale in ((frames, temporal_scale), (width, spatial_scale), (height, spatial_scale))
    ]
    time, column, row = (_sinusoids(p, d) for p, d in zip(scaled, (dim // 4, dim * 3 // 8, dim * 3 // 8)))
    return _spread(time, column, row, time_first="twh")


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

    tables = [
        angles(np.arange(frames, dtype=np.float32), head_dim // 4), angles(column, head_dim // 8 * 3),
        angles(row, head_dim // 8 * 3),
    ]
    cosines, sines = ([function(table) for table in tables] for function in (np.cos, np.sin))
    return _spread(*cosines, time_first="thw"), _spread(*sines, time_first="thw")


def rotate(x: jax.Array, cosines: jax.Array, sines: jax.Array) -> jax.Array:
    """Turn neighbouring pairs of channels of x [B, N, H, d] by the angles of tables [N, d]; `x`'s dtype."""
    pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)
    turned = jnp.stack([-pairs[..., 1], pairs[..., 0]], axis=-1).reshape(x.shape)
    return (x.astype(jnp.float32) * cosines[:, None] + turned * sines[:, None]).astype(x.dtype)
