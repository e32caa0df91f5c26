"""The square around a fitted head in a photo."""

from __future__ import annotations

import numpy as np

from mvp4d.core.cameras.camera import Camera, project
from mvp4d.core.cameras.crops import MARGIN, head_box, head_vertices
from mvp4d.core.errors import UserError
from mvp4d.core.heads.model import HeadModel
from mvp4d.core.heads.motion import Motion
from mvp4d_jax.heads.skinning import skin


def crop_box(
    size: tuple[int, int], camera: Camera, motion: Motion, head: HeadModel, margin: float = MARGIN
) -> np.ndarray:
    """[4] the square (left, top, right, bottom) around the fitted head in a photo of (H, W) `size`, in pixels.

    Raises:
      UserError: the fitted head does not lie in the photo.
    """
    vertices = np.asarray(skin(head, motion))
    _, depth = project(camera, vertices[0])
    if np.asarray(depth).min() <= 0:
        raise UserError("`fit`", "the fitted head lies behind the photo's camera", "track the photo again")
    pixels, _ = project(camera, vertices[0][head_vertices(head)])
    box = head_box(np.asarray(pixels), margin)
    height, width = size
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    if x < 0 or y < 0 or x > width or y > height:
        raise UserError(
            "`fit`",
            f"the fitted head is centred at ({x:.0f}, {y:.0f}), outside of the {width}x{height} photo",
            "give the fit that was made from this photo",
        )
    return box
