"""Square crops around the head, with a soft mask of what the picture does not show."""

from __future__ import annotations

import numpy as np

from mvp4d.core.cameras.camera import Camera, crop, resize
from mvp4d.core.errors import UserError
from mvp4d.core.heads.model import HeadModel

MARGIN = 1.2  # half side of the box over the larger half extent of the head, as in CAP4D


def head_vertices(head: HeadModel) -> np.ndarray:
    """[N] bool: vertices that move with the skull, jaw or eyes; neck, shoulders and their like are False."""
    weights = np.asarray(head.skin_weights)
    facial = [index for index, name in enumerate(head.joint_names) if name in ("jaw", "left_eye", "right_eye")]
    corners = np.asarray(head.faces)[np.asarray(head.landmark_faces)].reshape(-1)
    skull = weights[corners].sum(axis=0)
    skull[facial] = -1
    return weights[:, [int(skull.argmax()), *facial]].sum(axis=1) > 0.5


def head_box(pixels: np.ndarray, margin: float = MARGIN) -> np.ndarray:
    """[4] square box (left, top, right, bottom) around projected head vertices [..., 2], in pixels, fractional.

    Points of several frames or poses may be passed together: the box then holds them all.
    """
    points = np.asarray(pixels, np.float64).reshape(-1, 2)
    if len(points) == 0 or not np.isfinite(points).all():
        raise UserError("head box", "no finite head vertices to crop around", "check the fit's camera and head pose")
    low, high = points.min(axis=0), points.max(axis=0)
    centre, half = (low + high) / 2, margin * (high - low).max() / 2
    return np.concatenate([centre - half, centre + half])


def crop_camera(camera: Camera, box: np.ndarray, size: int) -> Camera:
    """The camera of `crop_image`'s picture: `box` of the old picture resampled to `size` x `size` pixels."""
    left, top, right, bottom = (float(item) for item in box)
    return resize(crop(camera, left, top), (bottom - top, right - left), (size, size))


def crop_image(
    image: np.ndarray, box: np.ndarray, size: int, background: float = 255.0
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts a box out of a picture and resamples it, anti-aliased; what lies outside the picture is background.

    Args:
      image: [H, W, C] or [H, W], uint8 or float.
      box: [4] left, top, right, bottom in pixels; may be fractional and reach beyond the picture.
      size: pixels on a side of the result.
      background: value outside the picture.

    Returns:
      [size, size, C] (or [size, size]) float32 in the picture's own range, and [size, size] float32 in [0, 1]: the
      share of each pixel that lies outside the picture.
    """
    image = np.asarray(image, np.float32)
    left, top, right, bottom = (float(item) for item in box)
    if not (right - left > 0 and bottom - top > 0):
        raise UserError("crop box", f"({left:.1f}, {top:.1f}, {right:.1f}, {bottom:.1f}) is empty")
    rows, columns = _weights(top, bottom, size, image.shape[0]), _weights(left, right, size, image.shape[1])
    outside = 1 - np.outer(rows.sum(axis=1), columns.sum(axis=1))
    flat = image.reshape(*image.shape[:2], -1)
    resampled = np.einsum("yh,hwc,xw->yxc", rows, flat, columns, optimize=True)
    resampled = resampled + background * outside[..., None]
    return resampled.reshape(size, size, *image.shape[2:]).astype(np.float32), outside.clip(0, 1).astype(np.float32)


def _weights(start: float, end: float, size: int, length: int) -> np.ndarray:
    """[size, length] triangle-filter weights along an axis; rows sum to less than one where taps fall outside."""
    scale = (end - start) / size
    radius = max(scale, 1.0)
    centres = start + (np.arange(size) + 0.5) * scale
    first = int(np.floor(centres[0] - radius)) - 1
    taps = np.arange(first, int(np.ceil(centres[-1] + radius)) + 2)
    weights = np.maximum(0, 1 - np.abs(taps[None] + 0.5 - centres[:, None]) / radius)
    weights /= weights.sum(axis=1, keepdims=True)
    inside = (taps >= 0) & (taps < length)
    result = np.zeros((size, length), np.float32)
    result[:, taps[inside]] = weights[:, inside]
    return result
