"""Triangle rasteriser in JAX: z-buffer, face ids, perspective-correct barycentrics.

One code path for CPU, GPU and TPU. Every triangle's box of pixels is cut into small blocks; the blocks of all
triangles form one list, which is worked off in chunks of fixed size inside a while loop: evaluate the edge functions at
its pixels, scatter the largest 1/z, then scatter the smallest face id among those that reach it. Large and small
triangles thus cost what they cover, shapes stay fixed, and ties go to the lower face id on every device.

A pixel is covered where its centre is inside or on the edge of the projected triangle. Triangles with a corner nearer
than `near` are left out.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mvp4d.core.cameras.camera import Camera, project
from mvp4d.core.rotation import array_namespace, float32
from mvp4d_jax.geometry.frame_by_frame import apart, draw_apart

Array = Any
BLOCK_WIDTH, BLOCK_HEIGHT = 3, 2  # pixels of the unit of work; measured best for heads at 128 to 256 pixels
_CHUNK = 4096  # blocks at a time
_NO_FACE = np.int32(2**31 - 1)


@dataclasses.dataclass(frozen=True)
class Raster:
    """What is seen through each pixel centre.

    Attributes:
      face: [..., H, W] int32, -1 where there is none.
      barycentric: [..., H, W, 3] perspective-correct weights of the face's corners; zero where there is no face.
      depth: [..., H, W] metres along the camera axis; infinite where there is no face.
    """

    face: Array
    barycentric: Array
    depth: Array


jax.tree_util.register_dataclass(Raster, data_fields=["face", "barycentric", "depth"], meta_fields=[])


def rasterize(
    camera: Camera,
    vertices: Array,
    faces: Array,
    image_size: tuple[int, int],
    *,
    cull_backfaces: bool = False,
    near: float = 0.01,
) -> Raster:
    """Rasterises one mesh, or many poses of it: leading axes of `camera` and `vertices` broadcast.

    Args:
      camera: batch axes [...].
      vertices: [..., N, 3] world metres.
      faces: [T, 3] int, counter-clockwise seen from outside; the same for all.
      image_size: (H, W), static.
      cull_backfaces: leave out triangles seen from behind.
      near: triangles with a corner nearer than this (metres along the camera axis) are left out.

    Returns:
      Raster with leading axes [...]. Barycentrics and depth are differentiable in vertices and camera, ids are not.
    """
    pixels, depth = project(jax.tree.map(float32, camera), float32(vertices))  # [..., N, 2], [..., N]
    return rasterize_screen(
        on_screen(pixels, depth),
        faces,
        image_size,
        cull_backfaces=cull_backfaces,
        near=near,
    )


def on_screen(pixels: Array, depth: Array) -> Array:
    """[..., N, 3] points on screen from what `cameras.camera.project` gives."""
    return array_namespace(pixels, depth).concatenate([pixels, depth[..., None]], axis=-1)


def rasterize_screen(
    points: Array, faces: Array, image_size: tuple[int, int], *, cull_backfaces: bool = False, near: float = 0.01
) -> Raster:
    """As `rasterize`, from projected points [..., N, 3] = (u, v in pixels, depth in metres)."""
    if not apart(points, faces):
        return _rasterize_together(points, faces, image_size, cull_backfaces, near)
    points = np.asarray(points, np.float32)
    faces, batch = np.asarray(faces, np.int32), points.shape[:-2]
    flat = points.reshape(-1, *points.shape[-2:])
    if not len(flat):
        return _rasterize_together(points, faces, image_size, cull_backfaces, near)
    raster = draw_apart(lambda frame: _rasterize_one(frame, faces, image_size, cull_backfaces, near), flat)
    return jax.tree.map(lambda array: array.reshape(*batch, *array.shape[1:]), raster)


@functools.partial(jax.jit, static_argnames="image_size")
def _rasterize_one(
    points: Array, faces: Array, image_size: tuple[int, int], cull_backfaces: Array, near: Array
) -> Raster:
    """The raster of one frame, points [N, 3]."""
    face = _visible_faces(points, faces, image_size, cull_backfaces, near)
    return Raster(face, *_attributes_of(points, faces, face))


@functools.partial(jax.jit, static_argnames="image_size")
def _rasterize_together(
    points: Array, faces: Array, image_size: tuple[int, int], cull_backfaces: bool, near: float
) -> Raster:
    """The rasters of frames [..., N, 3], in one program."""
    points = float32(points)
    faces = jnp.asarray(faces, jnp.int32)
    batch = points.shape[:-2]

    def visible(frame: Array) -> Array:
        return _visible_faces(frame, faces, image_size, cull_backfaces, near)

    flat = points.reshape(-1, *points.shape[-2:])
    # Frame by frame: a while loop over a batch would run every frame for as long as the slowest, with copies.
    face = jax.lax.map(visible, jax.lax.stop_gradient(flat)).reshape(*batch, *image_size)
    return Raster(face, *_attributes_of(points, faces, face))


def interpolate(raster: Raster, faces: Array, values: Array, background: float = 0.0) -> Array:
    """Paints per-vertex values [N, A] (or [..., N, A] with the raster's leading axes) -> [..., H, W, A]."""
    values = jnp.asarray(values)
    corners = jnp.asarray(faces)[jnp.maximum(raster.face, 0)]  # [..., H, W, 3]
    picked = values[corners] if values.ndim == 2 else jax.vmap(lambda v, c: v[c])(*_flatten(raster, values, corners))
    picked = picked.reshape(*raster.face.shape, 3, values.shape[-1])
    return _mix(raster, picked, background)


def on_pixels(faces: Array, face: np.ndarray, barycentric: np.ndarray, values: np.ndarray) -> np.ndarray:
    """[M] or [M, A] values of vertices [N] or [N, A], in numpy, at M pixels where faces [T, 3] `face` [M] are seen at
    `barycentric` [M, 3]."""
    corners = np.asarray(faces)[face]
    weights = barycentric if values.ndim == 1 else barycentric[..., None]
    return sum(
        values[corners[:, corner]] * weights[:, corner] for corner in range(3)
    )  # sum(axis=1) takes twice as long


def _mix(raster: Raster, picked: Array, background: float) -> Array:
    # Written out: XLA's CPU compiler can get sums over short axes wrong when it merges them (see core/rotation.py).
    mixed = sum(picked[..., corner, :] * raster.barycentric[..., corner, None] for corner in range(3))
    return jnp.where((raster.face >= 0)[..., None], mixed, background)


def _flatten(raster: Raster, values: Array, corners: Array) -> tuple[Array, Array]:
    values = jnp.broadcast_to(values, (*raster.face.shape[:-2], *values.shape[-2:]))
    return values.reshape(-1, *values.shape[-2:]), corners.reshape(-1, *corners.shape[-3:])


def _visible_faces(
    points: Array, faces: Array, image_size: tuple[int, int], cull_backfaces: Array, near: Array
) -> Array:
    """[H, W] int32 ids of the nearest faces, -1 where there is none, of one frame's screen points [N, 3]."""
    height, width = image_size
    setup, counts = _setup_triangles(points, faces, image_size, cull_backfaces, near)
    ends = jnp.cumsum(counts)  # [T] blocks up to and including each triangle
    total, last, nowhere = ends[-1], faces.shape[0] - 1, height * width
    chunk = min(_CHUNK, max(1024, faces.shape[0]))
    offset = np.arange(BLOCK_WIDTH * BLOCK_HEIGHT)[:, None]
    dx, dy = (offset % BLOCK_WIDTH).astype(np.float32), (offset // BLOCK_WIDTH).astype(np.float32)  # [K, 1]

    def step(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        start, inverse_depth, ids = carry
        item = start + jnp.arange(chunk, dtype=jnp.int32)
        triangle = jnp.minimum(jnp.searchsorted(ends, item, side="right"), last).astype(jnp.int32)
        *planes, x0, y0, columns, first = (array[triangle] for array in (*setup, ends - counts))  # [C] each
        block = (item - first).astype(jnp.float32)
        block_y = jnp.floor((block + 0.5) / columns)  # in floats: CPUs have no vector instruction for integer division
        block_x = block - block_y * columns
        local_x, local_y = block_x * BLOCK_WIDTH + dx, block_y * BLOCK_HEIGHT + dy  # [K, C] from the box's corner
        e0, e1, e2, w = (planes[k] * local_x + planes[k + 1] * local_y + planes[k + 2] for k in (0, 3, 6, 9))
        x, y = x0 + local_x, y0 + local_y
        inside = (e0 >= 0) & (e1 >= 0) & (e2 >= 0) & (x < width) & (y < height) & (item < total)
        pixel = jnp.where(inside, y * width + x, nowhere).astype(jnp.int32).reshape(-1)
        w = w.reshape(-1)
        updated = inverse_depth.at[pixel].max(w, mode="drop")
        ids = jnp.where(updated > inverse_depth, _NO_FACE, ids)
        wins = w >= updated.at[pixel].get(mode="fill", fill_value=jnp.inf)
        winner = jnp.broadcast_to(triangle, x.shape).reshape(-1)
        ids = ids.at[jnp.where(wins, pixel, nowhere)].min(winner, mode="drop")
        return start + chunk, updated, ids

    begin = (jnp.int32(0), jnp.zeros(height * width, jnp.float32), jnp.full(height * width, _NO_FACE))
    _, _, ids = jax.lax.while_loop(lambda carry: carry[0] < total, step, begin)
    return jnp.where(ids == _NO_FACE, -1, ids).reshape(height, width)


def _setup_triangles(
    points: Array, faces: Array, image_size: tuple[int, int], cull_backfaces: Array, near: Array
) -> tuple[list[Array], Array]:
    """Per triangle: edge functions, the 1/depth plane and the pixel box, relative to the box's first pixel centre.

    One array [T] per quantity, not rows: CPUs then compute eight triangles at a time.

    Returns:
      setup: barycentric planes (a, b, c) of the three corners, 1/depth (a, b, c), box x, box y, block columns.
      counts: [T] int32 number of blocks; 0 for what cannot be seen.
    """
    height, width = image_size
    corners = [faces[:, k] for k in range(3)]
    us, vs, depths = ([points[:, axis][corner] for corner in corners] for axis in range(3))
    lowest, largest = functools.partial(functools.reduce, jnp.minimum), functools.partial(functools.reduce, jnp.maximum)
    # Pixel centres within the box: ceil(low - 0.5) .. floor(high - 0.5).
    x0 = jnp.clip(jnp.ceil(lowest(us) - 0.5), 0, width)
    x1 = jnp.clip(jnp.floor(largest(us) - 0.5), -1, width - 1)
    y0 = jnp.clip(jnp.ceil(lowest(vs) - 0.5), 0, height)
    y1 = jnp.clip(jnp.floor(largest(vs) - 0.5), -1, height - 1)
    columns = jnp.floor((x1 - x0) / BLOCK_WIDTH) + 1
    rows = jnp.floor((y1 - y0) / BLOCK_HEIGHT) + 1

    # Relative to the box: small numbers, so that the edge functions keep their precision.
    us, vs = [u - (x0 + 0.5) for u in us], [v - (y0 + 0.5) for v in vs]
    planes = []
    for k in range(3):  # the edge opposite to corner k
        m, n = (k + 1) % 3, (k + 2) % 3
        planes.append((vs[m] - vs[n], us[n] - us[m], us[m] * vs[n] - vs[m] * us[n]))
    area = planes[0][2] + planes[1][2] + planes[2][2]  # twice the signed area; negative for a front face, as y is down
    seen = jnp.where(cull_backfaces, area < 0, area != 0)
    seen &= jnp.isfinite(area) & (lowest(depths) > near) & (x1 >= x0) & (y1 >= y0)
    scale = jnp.where(seen, 1.0 / jnp.where(area == 0, 1.0, area), 0.0)
    planes = [tuple(item * scale for item in plane) for plane in planes]
    inverses = [jnp.where(depth > near, 1.0 / jnp.where(depth > near, depth, 1.0), 0.0) for depth in depths]
    inverse_depth = [sum(planes[k][item] * inverses[k] for k in range(3)) for item in range(3)]
    counts = jnp.where(seen, columns * rows, 0).astype(jnp.int32)
    return [item for plane in planes for item in plane] + inverse_depth + [x0, y0, jnp.maximum(columns, 1)], counts


def _attributes_of(points: Array, faces: Array, face: Array) -> tuple[Array, Array]:
    """Perspective-correct barycentrics [..., H, W, 3] and depth [..., H, W] of the visible faces."""
    height, width = face.shape[-2:]
    batch = face.shape[:-2]
    seen = face >= 0
    corners = faces[jnp.maximum(face, 0)]  # [..., H, W, 3]
    flat_points, flat_corners = points.reshape(-1, *points.shape[-2:]), corners.reshape(-1, height, width, 3)
    picked = jax.vmap(lambda p, c: p[c])(flat_points, flat_corners).reshape(*batch, height, width, 3, 3)
    v, u = jnp.meshgrid(jnp.arange(height) + 0.5, jnp.arange(width) + 0.5, indexing="ij")
    xs, ys = ([picked[..., k, axis] - centre for k in range(3)] for axis, centre in ((0, u), (1, v)))
    inverses = [1.0 / jnp.where(seen, picked[..., k, 2], 1.0) for k in range(3)]
    areas = [xs[(k + 1) % 3] * ys[(k + 2) % 3] - xs[(k + 2) % 3] * ys[(k + 1) % 3] for k in range(3)]
    weights = [area * inverse for area, inverse in zip(areas, inverses)]
    total = weights[0] + weights[1] + weights[2]
    safe = jnp.where(seen & (total != 0), total, 1.0)
    barycentric = jnp.stack([jnp.where(seen, weight / safe, 0.0) for weight in weights], axis=-1)
    return barycentric, jnp.where(seen, (areas[0] + areas[1] + areas[2]) / safe, jnp.inf)
