"""Square crops around the head, as CAP4D makes them: half side 1.2 x the larger half extent, white outside the image."""

from __future__ import annotations

import dataclasses

import numpy as np
from PIL import Image

from mvp4d_jax.geometry.cameras import Camera

HEAD_MARGIN = 1.2  # CAP4D's


@dataclasses.dataclass(frozen=True)
class Box:
    """A square in pixels of the uncropped image: centre (x, y), half side."""

    x: float
    y: float
    half: float

    def jittered(self, scale: float, shift: tuple[float, float]) -> Box:
        """Scaled by `scale` and moved by `shift` (in sides of the box)."""
        return Box(self.x + 2 * self.half * shift[0], self.y + 2 * self.half * shift[1], self.half * scale)


def whole_box(image_size: tuple[int, int]) -> Box:
    """The smallest centred square that holds an image of [H, W]."""
    height, width = image_size
    return Box(width / 2, height / 2, max(height, width) / 2)


def head_box(vertices: np.ndarray, camera: Camera, margin: float = HEAD_MARGIN) -> Box:
    """The box around a head in one view.

    Args:
      vertices: [F, N, 3] world vertices of all frames the crop must hold (one still crop for a video, so that the
        crop itself does not move).
      camera: one camera ([4, 4], scalars) or one per frame ([F, 4, 4], [F]).
      margin: half side over larger half extent.
    """
    rotation = np.asarray(camera.world_to_camera)[..., :3, :3]
    points = np.einsum("...ij,...nj->...ni", rotation, vertices)
    points = points + np.asarray(camera.world_to_camera)[..., None, :3, 3]
    depth = np.maximum(points[..., 2], 1e-3)
    u = np.asarray(camera.fx)[..., None] * points[..., 0] / depth + np.asarray(camera.cx)[..., None]
    v = np.asarray(camera.fy)[..., None] * points[..., 1] / depth + np.asarray(camera.cy)[..., None]
    half = max(u.max() - u.min(), v.max() - v.min()) / 2
    return Box(float(u.max() + u.min()) / 2, float(v.max() + v.min()) / 2, float(half) * margin)


def crop_camera(camera: Camera, box: Box, size: int) -> Camera:
    """The camera of the crop, `size` pixels a side; pose unchanged."""
    scale = size / (2 * box.half)
    return dataclasses.replace(
        camera, fx=np.asarray(camera.fx) * scale, fy=np.asarray(camera.fy) * scale,
        cx=(np.asarray(camera.cx) - (box.x - box.half)) * scale, cy=(np.asarray(camera.cy) - (box.y - box.half)) * scale,
    )


def crop_image(image: np.ndarray, box: Box, size: int, fill: int = 255) -> np.ndarray:
    """Cuts and resamples (area-aware) an image.

    Args:
      image: [H, W, 3] or [H, W] uint8.
      fill: value outside the image.

    Returns:
      [size, size, 3] or [size, size] uint8.
    """
    left, top, side = box.x - box.half, box.y - box.half, 2 * box.half
    height, width = image.shape[:2]
    pad = int(np.ceil(max(0.0, -left, -top, left + side - width, top + side - height))) + 1
    widths = ((pad, pad), (pad, pad)) + ((0, 0),) * (image.ndim - 2)
    padded = Image.fromarray(np.pad(image, widths, constant_values=fill))
    window = (left + pad, top + pad, left + pad + side, top + pad + side)
    return np.asarray(padded.resize((size, size), Image.Resampling.BOX if side > 2 * size else Image.Resampling.BICUBIC,
                                    box=window))


def inside_mask(box: Box, image_size: tuple[int, int], size: int) -> np.ndarray:
    """[size, size] float32: the share of each pixel that lies inside the uncropped image of [H, W]."""
    def cover(start: float, limit: int) -> np.ndarray:
        edges = start + np.linspace(0, 2 * box.half, size + 1)
        clipped = np.clip(edges, 0, limit)
        return np.diff(clipped) / np.diff(edges)

    return np.outer(cover(box.y - box.half, image_size[0]), cover(box.x - box.half, image_size[1])).astype(np.float32)
