"""Pinhole cameras, batched over any leading axes.

Functions compute with numpy where every input is numpy (float64 stays float64: rigs and file readers) and with JAX as
soon as one input is a JAX array (training step, fitting).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from mvp4d.core.errors import UserError
from mvp4d.core.rotation import array_namespace, rotate
from mvp4d.core.words import sides

Array = Any


@dataclasses.dataclass(frozen=True)
class Camera:
    """Pinhole camera in OpenCV axes: x right, y down, z forward. Pixel centres lie at +0.5.

    A world point X (y up, metres) lands at pixel u = fx x/z + cx, v = fy y/z + cy with (x, y, z) = world_to_camera X;
    the top-left corner of the image is (0, 0) and the centre of its first pixel (0.5, 0.5).

    Attributes:
      world_to_camera: [..., 4, 4], right-handed rigid transform.
      fx, fy, cx, cy: [...] pixels.
    """

    world_to_camera: Array
    fx: Array
    fy: Array
    cx: Array
    cy: Array

    def __repr__(self) -> str:
        return f"Camera({sides(self.world_to_camera, less=2) or 'one'})"

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return tuple(self.world_to_camera.shape[:-2])

    def __getitem__(self, index: Any) -> Camera:
        """Indexes the leading axes, as an array would."""
        return Camera(*(getattr(self, name)[index] for name in FIELDS))


FIELDS = ("world_to_camera", "fx", "fy", "cx", "cy")
FOCAL_SIDES = (0.05, 300.0)  # focal lengths, in sides of the picture: 170 degrees to a fifth of one
PIXEL_ASPECT = 4.0


def make_camera(world_to_camera: Array, fx: Array, fy: Array, cx: Array, cy: Array) -> Camera:
    """A Camera whose intrinsics are broadcast to the leading axes of `world_to_camera` [..., 4, 4]."""
    xp = array_namespace(world_to_camera, fx, fy, cx, cy)
    batch = xp.shape(world_to_camera)[:-2]
    return Camera(
        xp.asarray(world_to_camera), *(xp.broadcast_to(xp.asarray(item, float), batch) for item in (fx, fy, cx, cy))
    )


def perspective(world_to_camera: Array, fov: float, image_size: tuple[int, int]) -> Camera:
    """A Camera with square pixels, its axis through the image centre and `fov` radians across the image height."""
    height, width = image_size
    focal = focal_from_fov(fov, height)
    return make_camera(world_to_camera, focal, focal, width / 2, height / 2)


def focal_from_fov(fov: float, size: float) -> float:
    """Focal length in pixels of a field of view (radians) across `size` pixels."""
    return size / (2 * np.tan(fov / 2))


def look_at(position: Array, target: Array, up: Array = (0.0, 1.0, 0.0)) -> Array:
    """World-to-camera [..., 4, 4] of a camera at `position` [..., 3] with its axis through `target` [..., 3].

    `up` points upwards in the picture; it must not be parallel to the viewing direction.
    """
    xp = array_namespace(position, target, up)
    position, target, up = (xp.asarray(item, float) for item in (position, target, up))
    position, target, up = xp.broadcast_arrays(position, target, up)
    forward = _unit(xp, target - position)
    right = _unit(xp, xp.cross(forward, up))
    down = xp.cross(forward, right)
    rotation = xp.stack([right, down, forward], axis=-2)  # [..., 3, 3]
    return rigid(rotation, -rotate(rotation, position))


def rigid(rotation: Array, translation: Array) -> Array:
    """[..., 4, 4] from a rotation [..., 3, 3] and a translation [..., 3]."""
    xp = array_namespace(rotation, translation)
    top = xp.concatenate([rotation, translation[..., None]], axis=-1)
    last = xp.broadcast_to(xp.asarray([0.0, 0.0, 0.0, 1.0], top.dtype), (*top.shape[:-2], 1, 4))
    return xp.concatenate([top, last], axis=-2)


def centre(camera: Camera) -> Array:
    """Camera positions in the world, [..., 3]."""
    return -rotate(_inverse_rotation(camera), camera.world_to_camera[..., :3, 3])


def angle_off(camera: Camera, place: np.ndarray, direction: np.ndarray) -> float:
    """Radians between a unit direction [3] and the way from a place [3] to an unbatched camera; world axes."""
    matrix = np.asarray(camera.world_to_camera, np.float64)
    towards = -matrix[:3, :3].T @ matrix[:3, 3] - place
    return float(np.arccos(np.clip(direction @ towards / np.linalg.norm(towards), -1, 1)))


def axis_in_head(camera: Camera, rotation: Array) -> np.ndarray:
    """Unit optical axis [3], float64, of an unbatched camera in the axes of a head turned by axis-angle [3] radians."""
    from scipy.spatial.transform import Rotation  # takes longer to load than all else here

    axis = np.asarray(camera.world_to_camera, np.float64)[2, :3]
    return Rotation.from_rotvec(np.asarray(rotation, np.float64)).inv().apply(axis)


def to_camera(camera: Camera, points: Array) -> Array:
    """World points [..., N, 3] in camera axes; camera axes [...] and the points' leading axes broadcast."""
    rotation, translation = camera.world_to_camera[..., :3, :3], camera.world_to_camera[..., :3, 3]
    return rotate(rotation[..., None, :, :], points) + translation[..., None, :]


def project(camera: Camera, points: Array) -> tuple[Array, Array]:
    """Projects world points [..., N, 3] -> pixels [..., N, 2] and depth along the axis [..., N].

    Points on or behind the camera plane get finite, meaningless pixels: look at the depth.
    """
    xp = array_namespace(camera.world_to_camera, camera.fx, points)
    local = to_camera(camera, points)
    depth = local[..., 2]
    safe = xp.where(xp.abs(depth) < 1e-8, 1e-8, depth)
    u = camera.fx[..., None] * local[..., 0] / safe + camera.cx[..., None]
    v = camera.fy[..., None] * local[..., 1] / safe + camera.cy[..., None]
    return xp.stack([u, v], axis=-1), depth


def pixel_grid(image_size: tuple[int, int]) -> np.ndarray:
    """[H, W, 2] float32 positions (u, v) of the pixel centres."""
    height, width = image_size
    u, v = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    return np.stack([u, v], axis=-1).astype(np.float32)


def pixel_rays(camera: Camera, image_size: tuple[int, int]) -> Array:
    """Unit ray directions in world axes, [..., H, W, 3], through the pixel centres; they start at `centre(camera)`."""
    xp = array_namespace(camera.world_to_camera, camera.fx)
    grid = pixel_grid(image_size)
    fx, fy, cx, cy = (getattr(camera, name)[..., None, None] for name in FIELDS[1:])
    x, y = (grid[..., 0] - cx) / fx, (grid[..., 1] - cy) / fy
    local = _unit(xp, xp.stack([x, y, xp.ones_like(x)], axis=-1))  # [..., H, W, 3]
    return rotate(_inverse_rotation(camera)[..., None, None, :, :], local)


def resize(camera: Camera, old_size: tuple[float, float], new_size: tuple[float, float]) -> Camera:
    """The camera of the same picture resampled from `old_size` to `new_size`, both (H, W)."""
    sy, sx = new_size[0] / old_size[0], new_size[1] / old_size[1]
    return dataclasses.replace(camera, fx=camera.fx * sx, fy=camera.fy * sy, cx=camera.cx * sx, cy=camera.cy * sy)


def letterbox(camera: Camera, old_size: tuple[int, int], new_size: tuple[int, int]) -> Camera:
    """The camera of the same picture scaled by one factor into the middle of another (H, W): its whole view is kept."""
    factor = min(new_size[0] / old_size[0], new_size[1] / old_size[1])
    fit = (factor * old_size[0], factor * old_size[1])
    return crop(resize(camera, old_size, fit), (fit[1] - new_size[1]) / 2, (fit[0] - new_size[0]) / 2)


def crop(camera: Camera, left: Array, top: Array) -> Camera:
    """The camera of the picture cut so that its old pixel position (left, top) becomes the corner (0, 0)."""
    return dataclasses.replace(camera, cx=camera.cx - left, cy=camera.cy - top)


def stack(cameras: list[Camera], axis: int = 0) -> Camera:
    """One Camera with a new leading axis; `axis` counts among the batch axes and is not negative."""
    arrays = {name: [getattr(camera, name) for camera in cameras] for name in FIELDS}
    return Camera(**{name: array_namespace(*items).stack(items, axis=axis) for name, items in arrays.items()})


def check(camera: Camera, where: object) -> None:
    """Raises UserError where a camera is not finite, not a right-handed rigid transform, or has no positive focal."""
    matrix = np.asarray(camera.world_to_camera, np.float64)
    if matrix.shape[-2:] != (4, 4):
        raise UserError(where, f"world_to_camera has shape {matrix.shape}, expected [..., 4, 4]")
    for name in FIELDS:
        value = np.asarray(getattr(camera, name), np.float64)
        if name != "world_to_camera" and value.shape != matrix.shape[:-2]:
            raise UserError(where, f"{name} has shape {value.shape}, expected {matrix.shape[:-2]} as world_to_camera")
        if not np.isfinite(value).all():
            raise UserError(where, f"{name} holds NaN or infinite values", "drop or repair these cameras")
    rotation = matrix[..., :3, :3]
    with np.errstate(over="ignore", invalid="ignore"):
        error = np.abs(rotation @ np.swapaxes(rotation, -1, -2) - np.eye(3)).max(initial=0.0)
    if not error <= 1e-3 or np.abs(matrix[..., 3, :] - [0, 0, 0, 1]).max(initial=0.0) > 1e-6:
        raise UserError(where, "world_to_camera is not a rigid transform (its rotation is scaled or sheared)")
    if (np.linalg.det(rotation) < 0).any():
        raise UserError(
            where, "world_to_camera is left-handed", "flip one axis; cameras are OpenCV: x right, y down, z forward"
        )
    if (np.asarray(camera.fx) <= 0).any() or (np.asarray(camera.fy) <= 0).any():
        raise UserError(where, "fx and fy must be positive pixels")
    if np.abs(matrix[..., :3, 3]).max(initial=0.0) > 1e6:
        raise UserError(where, "world_to_camera is more than 1000 km away", "translations are in metres")


def check_focal(cameras: Camera, names: tuple[str, ...], image_size: tuple[int, int], where: object) -> None:
    """Refuses focal lengths [V, F'] that no lens has for a picture of (H, W)."""
    fx, fy = np.asarray(cameras.fx, np.float64), np.asarray(cameras.fy, np.float64)
    for name, values, side in (("fx", fx, image_size[1]), ("fy", fy, image_size[0])):
        wrong = np.argwhere(~((values >= FOCAL_SIDES[0] * side) & (values <= FOCAL_SIDES[1] * side)))
        if len(wrong):
            value = values[tuple(wrong[0])]
            raise UserError(
                where,
                f"'{name}' of camera '{names[wrong[0][0]]}' is {value:.4g} for pictures of "
                f"{image_size[1]} x {image_size[0]}",
                f"it is in pixels, {FOCAL_SIDES[0] * side:.3g} to {FOCAL_SIDES[1] * side:.3g} for such pictures",
            )
    wrong = np.argwhere(np.maximum(fx / fy, fy / fx) > PIXEL_ASPECT)
    if len(wrong):
        place = tuple(wrong[0])
        raise UserError(
            where,
            f"camera '{names[place[0]]}' has fx {fx[place]:.4g} and fy {fy[place]:.4g}",
            "they are about equal where pixels are square",
        )


def _inverse_rotation(camera: Camera) -> Array:
    return camera.world_to_camera[..., :3, :3].swapaxes(-1, -2)


def _unit(xp: Any, vectors: Array) -> Array:
    return vectors / xp.sqrt(vectors[..., :1] ** 2 + vectors[..., 1:2] ** 2 + vectors[..., 2:] ** 2)
