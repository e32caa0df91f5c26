"""A sheet to judge an imported capture by: its rig drawn over a picture of every camera."""

from __future__ import annotations

import math
import os

import numpy as np
from PIL import Image, ImageDraw

from mvp4d.core.cameras.camera import project, resize
from mvp4d.core.capture import Capture
from mvp4d.core.files import atomic_file
from mvp4d.core.images import write_png
from mvp4d_jax.heads.skinning import landmarks, skin
from mvp4d_jax.tracking.overlay import draw_overlay

TILE = 320  # pixels of a picture's longer side on the sheet


def write_rig_sheet(path: str | os.PathLike, capture: Capture, frame: int | None = None) -> None:
    """Writes a PNG: for each camera the picture with the posed rig over it, and the camera's name.

    Args:
      frame: of the capture; the middle one by default.
    """
    frame = capture.frame_count // 2 if frame is None else frame
    motion = capture.motion[slice(frame, frame + 1)]
    vertices = np.asarray(skin(capture.head, motion))  # [1, N, 3]
    marks = np.asarray(landmarks(capture.head, vertices))[0]  # [K, 3]
    height, width = capture.image_size
    scale = min(1.0, TILE / max(height, width))
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    tiles = []
    for view, name in enumerate(capture.names):
        picture = np.asarray(Image.fromarray(capture.frame(view, frame)).resize(size[::-1], Image.Resampling.BOX))
        camera = resize(capture.camera(view, frame), (height, width), size)
        pixels, depth = project(camera, marks)
        pixels = np.asarray(pixels)[np.asarray(depth) > 0]
        tile = Image.fromarray(draw_overlay(picture, capture.head, vertices[0], camera, None, pixels))
        ImageDraw.Draw(tile).text((4, 2), name, fill=(0, 90, 255))
        tiles.append(np.asarray(tile))
    columns = math.ceil(math.sqrt(len(tiles) * size[0] / size[1]))
    rows = math.ceil(len(tiles) / columns)
    sheet = np.full((rows * size[0], columns * size[1], 3), 255, np.uint8)
    for index, tile in enumerate(tiles):
        row, column = divmod(index, columns)
        sheet[row * size[0] : (row + 1) * size[0], column * size[1] : (column + 1) * size[1]] = tile
    with atomic_file(path) as temporary:
        write_png(temporary, sheet)
