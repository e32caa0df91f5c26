"""The studio's depth buffer: thousands of triangles smaller than a pixel, drawn in a few milliseconds on a CPU.

`geometry.rasterize` answers which face a pixel sees with exact, perspective-correct barycentrics, for any mesh.
Pictures of a person hold forty thousand slivers of hair instead, need only the nearest face, and are drawn by the
million for training sets. So triangles are cut into 4 x 4-pixel blocks, blocks are listed, and one scatter-minimum over
(depth, face) packed in 32 bits settles visibility.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

BLOCK = 4
DEPTH_BITS, FACE_BITS = 15, 17
MAXIMUM_FACES = (1 << FACE_BITS) - 1
EMPTY = jnp.uint32(0xFFFFFFFF)


def nearest_face(xy: list, depth: list, drawn: jax.Array, size: tuple[int, int], blocks: int) -> tuple:
    """The face nearest to the camera at every pixel centre.

    Args:
      xy: x [T] and y [T] of the three corners, in pixels, pixel centres at +0.5.
      depth: of the three corners, [T] each, in [0, 1]; resolved to 1 / 32768.
      drawn: [T] bool, faces to draw (both orientations are drawn).
      size: height, width.
      blocks: how many 4 x 4 blocks the list holds; with more, the faces last in order are lost.

    Returns:
      key: [H * W] uint32, the packed depth and face; EMPTY where nothing is seen.
      wanted: [] int32, the number of blocks that were needed: compare it with `blocks`.
    """
    height, width = size

    def span(a: jax.Array, b: jax.Array, c: jax.Array, limit: int) -> tuple[jax.Array, jax.Array]:
        low, high = jnp.minimum(jnp.minimum(a, b), c), jnp.maximum(jnp.maximum(a, b), c)
        low = jnp.ceil(jnp.clip(low, -1.0, limit + 1.0) - 0.5).astype(jnp.int32)
        high = jnp.floor(jnp.clip(high, -1.0, limit + 1.0) - 0.5).astype(jnp.int32)
        return jnp.maximum(low, 0), jnp.minimum(high, limit - 1)

    (left, right), (top, bottom) = (
        span(*(corner[axis] for corner in xy), limit) for axis, limit in ((0, width), (1, height))
    )
    columns, rows = (right - left) // BLOCK + 1, (bottom - top) // BLOCK + 1
    seen = drawn & (right >= left) & (bottom >= top)
    count = jnp.where(seen, columns * rows, 0)  # [T]
    end = jnp.cumsum(count)
    start = end - count
    face_count = drawn.shape[0]
    # Item i belongs to the last face whose run starts at or before i.
    first = (
        jnp.zeros(blocks, jnp.int32)
        .at[jnp.where(count > 0, start, blocks)]
        .max(jnp.arange(face_count, dtype=jnp.int32), mode="drop")
    )
    face = jax.lax.cummax(first)  # [M]
    item = jnp.arange(blocks, dtype=jnp.int32)
    layout = jnp.stack([start, jnp.maximum(columns, 1), left, top], -1)[face]  # [M, 4]
    offset = item - layout[:, 0]
    x0 = layout[:, 2] + BLOCK * (offset % layout[:, 1])
    y0 = layout[:, 3] + BLOCK * (offset // layout[:, 1])
    corner = jnp.stack([value for pair in xy for value in pair] + list(depth), -1)[face]  # [M, 9]
    ax, ay, bx, by, cx, cy, az, bz, cz = (corner[:, i, None] for i in range(9))
    step = jnp.arange(BLOCK * BLOCK, dtype=jnp.int32)
    px, py = x0[:, None] + step % BLOCK, y0[:, None] + step // BLOCK  # [M, 16]
    u, v = px + 0.5, py + 0.5
    area = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)
    inverse = jnp.where(area == 0, 0.0, 1.0 / jnp.where(area == 0, 1.0, area))
    wb = ((u - ax) * (cy - ay) - (cx - ax) * (v - ay)) * inverse
    wc = ((bx - ax) * (v - ay) - (u - ax) * (by - ay)) * inverse
    wa = 1.0 - wb - wc
    inside = (jnp.minimum(jnp.minimum(wa, wb), wc) >= 0) & (area != 0) & (item < end[-1])[:, None]
    inside &= (px < width) & (py < height)
    z = jnp.clip(wa * az + wb * bz + wc * cz, 0.0, 1.0) * ((1 << DEPTH_BITS) - 2)
    packed = (z.astype(jnp.uint32) << FACE_BITS) | face.astype(jnp.uint32)[:, None]
    pixel = jnp.where(inside, py * width + px, height * width)
    key = jnp.full(height * width, EMPTY).at[pixel.reshape(-1)].min(packed.reshape(-1), mode="drop")
    return key, end[-1]


def unpack(key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Face [...] int32 (0 where empty), depth [...] in [0, 1], covered [...] bool."""
    covered = key != EMPTY
    face = jnp.where(covered, key & MAXIMUM_FACES, 0).astype(jnp.int32)
    return face, (key >> FACE_BITS).astype(jnp.float32) / ((1 << DEPTH_BITS) - 2), covered
