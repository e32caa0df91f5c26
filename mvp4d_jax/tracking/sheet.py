"""A sheet to judge a rig or an imported capture by: the head drawn over a picture of every camera."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageDraw

from mvp4d.core.cameras.camera import Camera, project, resize
from mvp4d.core.capture import Capture
from mvp4d.core.files import atomic_file
from mvp4d.core.heads.model import HeadModel
from mvp4d.core.heads.motion import Motion
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
    views = range(capture.view_count)
    pictures = (capture.frame(view, frame) for view in views)
    cameras = [capture.camera(view, frame) for view in views]
    write_sheet(path, capture.names, pictures, cameras, capture.head, capture.motion[slice(frame, frame + 1)])


def write_sheet(
    path: str | os.PathLike,
    names: Sequence[str],
    pictures: Iterable[np.ndarray],
    cameras: Sequence[Camera],
    head: HeadModel,
    motion: Motion,
) -> None:
    """The same of a picture [H, W, 3] and an unbatched camera for each name; `motion` is one frame of `head`."""
    vertices = np.asarray(skin(head, motion))  # [1, N, 3]
    marks = np.asarray(landmarks(head, vertices))[0]  # [K, 3]
    tiles, size = [], (1, 1)
    for name, picture, seen_by in zip(names, pictures, cameras):
        height, width = picture.shape[:2]
        scale = min(1.0, TILE / max(height, width))
        small = (max(1, round(height * scale)), max(1, round(width * scale)))
        camera = resize(seen_by, (height, width), small)
        pixels, depth = project(camera, marks)
        pixels = np.asarray(pixels)[np.asarray(depth) > 0]
        resized = np.asarray(Image.fromarray(picture).resize(small[::-1], Image.Resampling.BOX))
        tile = Image.fromarray(draw_overlay(resized, head, vertices[0], camera, None, pixels))
        ImageDraw.Draw(tile).text((4, 2), name, fill=(0, 90, 255))
        tiles.append(np.asarray(tile))
        size = (max(size[0], small[0]), max(size[1], small[1]))
    columns = math.ceil(math.sqrt(len(tiles) * size[0] / size[1]))
    rows = math.ceil(len(tiles) / columns)
    sheet = np.full((rows * size[0], columns * size[1], 3), 255, np.uint8)
    for index, tile in enumerate(tiles):
        row, column = divmod(index, columns)
        top, left = row * size[0], column * size[1]
        sheet[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    with atomic_file(path) as temporary:
        write_png(temporary, sheet)
