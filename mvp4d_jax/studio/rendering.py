"""Pictures of a figure: skinning, light per vertex, visibility, and shading per sample.

Four samples a pixel (2 x 2) are shaded in linear light, averaged over those that hit the figure, encoded as sRGB and
laid on white with alpha = the share that hit: rgb = alpha * figure + (1 - alpha) * white, so that an alpha of zero is
exact white and a picture can be laid on another background by its mask.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mvp4d.core.cameras.camera import Camera
from mvp4d.core.heads.model import HeadModel
from mvp4d.core.heads.motion import Motion
from mvp4d_jax.heads.skinning import joint_rotations, rotation_matrix, skin
from mvp4d_jax.studio.lighting import Lights, environment, harmonics
from mvp4d_jax.studio.shading import shade
from mvp4d_jax.studio.zbuffer import nearest_face, unpack

Array = Any
SUPERSAMPLING = 2
ARRAYS = ("expression", "rotation", "translation", "neck", "jaw", "eyes")


@dataclasses.dataclass(frozen=True)
class Figure:
    """A person, ready to be drawn. N vertices: the head's own, then the extra ones (hair, clothes, glasses).

    Attributes:
      rig: HeadModel whose vertices are all N: extra vertices follow the head through the same skinning function.
      faces: [T, 3]; two_sided: [T] bool, drawn from behind too.
      corner_uv: [T, 3, 2] texture coordinate (skin), direction from the eye's centre (eyes), across and along (hair).
      looks: [T, 6] material, red, green, blue, random, gloss.
      around: [n, R] faces around each of the head's own n vertices, padded with T (a face without area).
      normals, tangents: [N - n, J * 3] of the extra vertices at rest, times the weight of each joint.
      transfer, visibility: [N, 9] harmonics of what a vertex sees, with and without the cosine.
      texture: [S, S, 4] linear RGB and gloss of the skin; eye: [E, E, 3] linear RGB of the eyeballs seen from ahead.
      traits: float vector read by `shading`.
    """

    rig: HeadModel
    faces: Array
    two_sided: Array
    corner_uv: Array
    looks: Array
    around: Array
    normals: Array
    tangents: Array
    transfer: Array
    visibility: Array
    texture: Array
    eye: Array
    traits: Array


jax.tree_util.register_dataclass(Figure, [field.name for field in dataclasses.fields(Figure)], [])


@dataclasses.dataclass(frozen=True)
class Posed:
    """A figure at one moment (or F of them): position, and everything that a corner hands to its pixels.

    Attributes:
      vertices: [N, 3] world metres.
      corner: [N, 10] normal, light, visibility of the key light, tangent.
    """

    vertices: Array
    corner: Array


jax.tree_util.register_dataclass(Posed, ["vertices", "corner"], [])


@jax.jit
def pose(figure: Figure, motion: dict[str, Array], lights: Lights) -> Posed:
    """Vertices, normals and light of F frames.

    Args:
      motion: arrays of a Motion, by name, [F, ...].
    """
    vertices = skin(figure.rig, Motion(**motion))  # [F, N, 3]
    own = figure.around.shape[0]
    normals = _smooth_normals(vertices[:, :own], figure)  # [F, n, 3]
    joints = joint_rotations(figure.rig, motion)  # [F, J, 3, 3]
    chained = []
    for index, parent in enumerate(figure.rig.joint_parents):
        chained.append(
            joints[:, index]
            if parent < 0
            else jnp.einsum("fij,fjk->fik", chained[parent], joints[:, index], precision="highest")
        )
    chained = jnp.stack(chained, 1)  # [F, J, 3, 3]
    world = rotation_matrix(jnp.asarray(motion["rotation"], jnp.float32))  # [F, 3, 3]
    chained = jnp.einsum("fij,fajk->faik", world, chained, precision="highest")
    # Extra vertices carry their normals and tangents, times every joint's weight, so that turning is one product.
    turn = chained.transpose(1, 3, 0, 2).reshape(-1, chained.shape[0] * 3)  # [J 3, F 3]
    frames = vertices.shape[0]

    def turned(vectors: Array) -> Array:
        product = jnp.matmul(vectors, turn, precision="highest")  # [M, F 3]
        return product.reshape(-1, frames, 3).transpose(1, 0, 2)  # [F, M, 3]

    tangents = jnp.concatenate([jnp.zeros_like(normals), turned(figure.tangents)], 1)
    normals = jnp.concatenate([normals, turned(figure.normals)], 1)

    head = chained[:, figure.rig.joint_names.index("neck")]  # [F, 3, 3], head to world
    sky = jax.vmap(lambda rotation: environment(lights, rotation))(head)  # [F, 9, 3]
    sun = jax.vmap(lambda rotation: harmonics(lights.directions[0] @ rotation))(head)  # [F, 9]
    light = jnp.matmul(figure.transfer, sky.transpose(1, 0, 2).reshape(9, -1), precision="highest")  # [N, F 3]
    light = jnp.maximum(light.reshape(-1, frames, 3).transpose(1, 0, 2), 0.0)
    key = jnp.matmul(figure.visibility, sun.T, precision="highest").T[..., None]  # [F, N, 1]
    return Posed(vertices, jnp.concatenate([normals, light, key, tangents], -1))


@functools.partial(jax.jit, static_argnames=("size", "blocks"))
def draw(figure: Figure, posed: Posed, camera: Camera, lights: Lights, *, size: tuple[int, int], blocks: int) -> tuple:
    """One picture.

    Args:
      posed: one moment, no leading axis.
      camera: unbatched.
      size: height, width of the picture; static.
      blocks: room for pieces of triangles, see `zbuffer`; static.

    Returns:
      rgb [H, W, 3] uint8, alpha [H, W] uint8, wanted [] int32 (how many blocks were needed).
    """
    height, width = size[0] * SUPERSAMPLING, size[1] * SUPERSAMPLING
    transform = jnp.asarray(camera.world_to_camera, jnp.float32)
    local = posed.vertices @ transform[:3, :3].T + transform[:3, 3]  # [N, 3]
    scale = jnp.stack([camera.fx, camera.fy]).astype(jnp.float32) * SUPERSAMPLING
    centre = jnp.stack([camera.cx, camera.cy]).astype(jnp.float32) * SUPERSAMPLING
    depth = local[:, 2]
    xy = local[:, :2] / jnp.maximum(depth, 1e-3)[:, None] * scale + centre
    near, far = jnp.maximum(depth.min(), 0.01), depth.max()
    table = jnp.concatenate([posed.vertices, posed.corner[:, :3], xy, ((depth - near) / (far - near))[:, None]], -1)
    ends = [table[figure.faces[:, k]] for k in range(3)]  # 3 x [T, 9]
    flat = [(end[:, 6], end[:, 7]) for end in ends]
    (ax, ay), (bx, by), (cx, cy) = flat
    area = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)
    drawn = (area < 0) | figure.two_sided  # counter-clockwise outside turns clockwise with y down
    drawn &= jnp.minimum(jnp.minimum(ends[0][:, 8], ends[1][:, 8]), ends[2][:, 8]) >= 0
    key, wanted = nearest_face(flat, [end[:, 8] for end in ends], drawn, (height, width), blocks)
    # Samples of a pixel lie a whole picture apart, so that averaging adds four pictures. P = 4 H W.
    order = (size[0], SUPERSAMPLING, size[1], SUPERSAMPLING)
    pixel = jnp.arange(height * width, dtype=jnp.int32).reshape(order).transpose(1, 3, 0, 2).reshape(-1)
    face, _, covered = unpack(key[pixel])  # [P]
    u, v = pixel % width + 0.5, pixel // width + 0.5
    index = figure.faces[face]  # [P, 3]
    seen = jnp.stack([value for pair in flat for value in pair], -1)[face]  # [P, 6]
    ax, ay, bx, by, cx, cy = (seen[:, i] for i in range(6))
    full = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)
    full = jnp.where(jnp.abs(full) < 1e-12, 1.0, full)
    wb = ((u - ax) * (cy - ay) - (cx - ax) * (v - ay)) / full
    wc = ((bx - ax) * (v - ay) - (u - ax) * (by - ay)) / full
    share = [value[:, None] for value in (1.0 - wb - wc, wb, wc)]
    flip = jnp.where(full > 0, -1.0, 1.0)  # seen from behind
    corner = sum(share[k] * posed.corner[index[:, k]] for k in range(3))  # [P, 10]
    uv = figure.corner_uv.reshape(-1, 6)[face]
    uv = share[0] * uv[:, :2] + share[1] * uv[:, 2:4] + share[2] * uv[:, 4:]  # [P, 2]
    x, y = (centre[0] - u) / scale[0], (centre[1] - v) / scale[1]
    toward = [x * transform[0, c] + y * transform[1, c] - transform[2, c] for c in range(3)]  # from surface to camera
    # The barrier keeps XLA from gathering again for every use of what was gathered.
    looks, corner, uv = jax.lax.optimization_barrier((figure.looks[face], corner, uv))
    linear = shade(looks, corner, uv, toward, flip, figure.texture, figure.eye, figure.traits, lights)
    weight = covered.astype(jnp.float32)
    hits = _sum_samples(weight)  # [H W]
    alpha = hits / SUPERSAMPLING**2
    mean = [_sum_samples(value * weight) / jnp.maximum(hits, 1.0) for value in linear]
    picture = [alpha * encode(value) + (1.0 - alpha) for value in mean]
    return _to_uint8(jnp.stack(picture, -1)).reshape(*size, 3), _to_uint8(alpha).reshape(size), wanted


def _sum_samples(values: Array) -> Array:
    """[4 H W] -> [H W]."""
    count = SUPERSAMPLING**2
    parts = jnp.split(values, count)
    return sum(parts[1:], parts[0])


def encode(linear: Array) -> Array:
    """Linear light to sRGB, with a soft shoulder above 0.7 so that highlights do not clip."""
    knee = 0.7
    over = jnp.maximum(linear - knee, 0.0)
    value = jnp.where(linear > knee, knee + (1 - knee) * (1 - jnp.exp(-over / (1 - knee))), jnp.maximum(linear, 0.0))
    return jnp.where(value <= 0.0031308, 12.92 * value, 1.055 * jnp.maximum(value, 0.0031308) ** (1 / 2.4) - 0.055)


def _to_uint8(image: Array) -> Array:
    return jnp.clip(jnp.round(image * 255), 0, 255).astype(jnp.uint8)


def _smooth_normals(vertices: Array, figure: Figure) -> Array:
    """[F, n, 3] unit normals: sum of the area-weighted normals of the faces around each vertex."""
    faces = figure.faces[: figure.rig.face_parts.shape[0]]  # the head's own faces come first
    first, second, third = (vertices[:, faces[:, k]] for k in range(3))  # [F, T, 3]
    along, across = second - first, third - first
    ax, ay, az = (along[..., c] for c in range(3))
    bx, by, bz = (across[..., c] for c in range(3))
    normal = jnp.stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx], -1)
    normal = jnp.concatenate([normal, jnp.zeros_like(normal[:, :1])], 1)
    total = sum(normal[:, figure.around[:, slot]] for slot in range(figure.around.shape[1]))  # [F, n, 3]
    x, y, z = (total[..., c] for c in range(3))
    return total / jnp.sqrt(jnp.maximum(x * x + y * y + z * z, 1e-24))[..., None]


def faces_around(faces: np.ndarray, vertex_count: int) -> np.ndarray:
    """[n, R] int32 the faces that touch each vertex, padded with len(faces)."""
    owner = faces.reshape(-1)
    order = np.argsort(owner, kind="stable")
    count = np.bincount(owner, minlength=vertex_count)
    start = np.cumsum(count) - count
    slot = np.arange(len(owner)) - start[owner[order]]
    table = np.full((vertex_count, int(count.max())), len(faces), np.int32)
    table[owner[order], slot] = order // 3
    return table
