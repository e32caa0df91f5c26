"""Pictures of a figure: skinning, light per vertex, visibility, and shading per sample.

Four samples a pixel (2 x 2) are shaded in linear light, averaged over those that hit the figure, encoded as sRGB and
laid on white with alpha = the share that hit: rgb = alpha * figure + (1 - alpha) * white, so that an alpha of zero is exact
white and a picture can be laid on another background by its mask.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mvp4d_jax.geometry.cameras import Camera
from mvp4d_jax.heads.model import HeadModel
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
      looks: [T, 8] material, red, green, blue, random, gloss, whether the skull hides it from behind, spare.
      around: [n, R] faces around each of the head's own n vertices, padded with T (a face without area).
      normals, tangents: [N - n, 3] of the extra vertices at rest.
      transfer, visibility: [N, 9] harmonics of what a vertex sees, with and without the cosine.
      texture: [S, S, 4] linear RGB and gloss of the skin.
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
    from mvp4d_jax.heads.motion import Motion
    vertices = skin(figure.rig, Motion(**motion))  # [F, N, 3]
    own = figure.around.shape[0]
    normals = _smooth_normals(vertices[:, :own], figure)  # [F, n, 3]
    joints = joint_rotations(figure.rig, motion)  # [F, J, 3, 3]
    chained = []
    for index, parent in enumerate(figure.rig.joint_parents):
        chained.append(joints[:, index] if parent < 0 else
                       jnp.einsum("fij,fjk->fik", chained[parent], joints[:, index], precision="highest"))
    chained = jnp.stack(chained, 1)  # [F, J, 3, 3]
    world = rotation_matrix(jnp.asarray(motion["rotation"], jnp.float32))  # [F, 3, 3]
    chained = jnp.einsum("fij,fajk->faik", world, chained, precision="highest")
    weights = figure.rig.skin_weights[own:]  # [M, J]
    turn = jnp.einsum("mj,fja->fma", weights, chained.reshape(*chained.shape[:2], 9), precision="highest")
    turn = turn.reshape(*turn.shape[:2], 3, 3)  # [F, M, 3, 3]
    extra_normals = jnp.sum(turn * figure.normals[:, None, :], -1)
    tangents = jnp.sum(turn * figure.tangents[:, None, :], -1)
    tangents = jnp.concatenate([jnp.zeros_like(normals), tangents], 1)
    normals = jnp.concatenate([normals, extra_normals], 1)

    head = chained[:, figure.rig.joint_names.index("neck")]  # [F, 3, 3], head to world

    def lit(rotation):
        light = jnp.maximum(figure.transfer @ environment(lights, rotation), 0.0)  # [N, 3]
        key = figure.visibility @ harmonics(lights.directions[0] @ rotation)  # [N]
        return light, key[:, None]

    light, key = jax.vmap(lit)(head)
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
    corners = jnp.concatenate([xy, ((depth - near) / (far - near))[:, None]], -1)[figure.faces]  # [T, 3, 3]
    a, b, c = corners[:, 0, :2], corners[:, 1, :2], corners[:, 2, :2]
    area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (c[:, 0] - a[:, 0]) * (b[:, 1] - a[:, 1])
    drawn = (area < 0) | figure.two_sided  # counter-clockwise outside turns clockwise with y down
    drawn &= corners[:, :, 2].min(1) >= 0
    # Hair on the far side of the skull is not drawn at all: that is half of it.
    first = figure.faces[:, 0]
    sight = posed.vertices[first] + transform[:3, 3] @ transform[:3, :3]  # from the camera
    away = jnp.sum(posed.corner[first, :3] * sight, -1) > 0.25 * depth[first]
    drawn &= ~(away & (figure.looks[:, 6] > 0))
    key, wanted = nearest_face(corners[:, :, :2], corners[:, :, 2], drawn, (height, width), blocks)
    face, _, covered = unpack(key)  # [P]

    pixel = jnp.arange(height * width)
    u, v = pixel % width + 0.5, pixel // width + 0.5
    index = figure.faces[face]  # [P, 3]
    seen = corners[:, :, :2].reshape(-1, 6)[face]  # [P, 6]
    ax, ay, bx, by, cx, cy = (seen[:, i] for i in range(6))
    full = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)
    full = jnp.where(jnp.abs(full) < 1e-12, 1.0, full)
    wb = ((u - ax) * (cy - ay) - (cx - ax) * (v - ay)) / full
    wc = ((bx - ax) * (v - ay) - (u - ax) * (by - ay)) / full
    wa = 1.0 - wb - wc
    flip = jnp.where(full > 0, -1.0, 1.0)  # seen from behind
    table = posed.corner
    corner = wa[:, None] * table[index[:, 0]] + wb[:, None] * table[index[:, 1]] + wc[:, None] * table[index[:, 2]]
    uv = figure.corner_uv.reshape(-1, 6)[face]
    uv = wa[:, None] * uv[:, :2] + wb[:, None] * uv[:, 2:4] + wc[:, None] * uv[:, 4:]  # [P, 2]
    toward = jnp.stack([(u - centre[0]) / scale[0], (v - centre[1]) / scale[1], jnp.ones_like(u)], -1)
    toward = -toward @ transform[:3, :3]  # camera to world, from the surface to the eye
    linear = shade(figure.looks[face], corner, uv, toward, flip, figure.texture, figure.traits, lights)  # [P, 3]

    weight = covered.astype(jnp.float32)[:, None]
    grid = (size[0], SUPERSAMPLING, size[1], SUPERSAMPLING)
    share = weight.reshape(*grid, 1).mean((1, 3))  # [H, W, 1]
    mean = (linear * weight).reshape(*grid, 3).mean((1, 3)) / jnp.maximum(share, 1e-6)
    picture = share * encode(mean) + (1.0 - share)
    return _to_uint8(picture), _to_uint8(share[..., 0]), wanted


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
    own = vertices.shape[1]
    faces = figure.faces[: figure.rig.face_parts.shape[0]]  # the head's own faces come first
    corners = vertices[:, faces.clip(0, own - 1)]  # [F, T, 3, 3]
    normal = jnp.cross(corners[:, :, 1] - corners[:, :, 0], corners[:, :, 2] - corners[:, :, 0])
    normal = jnp.concatenate([normal, jnp.zeros_like(normal[:, :1])], 1)
    total = normal[:, figure.around].sum(2)
    return total / jnp.maximum(jnp.linalg.norm(total, axis=-1, keepdims=True), 1e-12)


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
