"""A video a person looks at: all views of a capture in a grid."""

from __future__ import annotations

import math
import os

import imageio.v2 as imageio
import numpy as np

from mvp4d.core.capture import Capture
from mvp4d.core.files import atomic_file

MAX_WIDTH = 1920


def grid(images: np.ndarray, columns: int | None = None) -> np.ndarray:
    """[V, H, W, 3] uint8 -> one picture; white where the grid is not filled."""
    views, height, width = images.shape[:3]
    columns = columns or math.ceil(math.sqrt(views * 1.6))
    rows = math.ceil(views / columns)
    canvas = np.full((rows * height, columns * width, 3), 255, np.uint8)
    for view, image in enumerate(images):
        row, column = divmod(view, columns)
        canvas[row * height : (row + 1) * height, column * width : (column + 1) * width] = image
    return canvas


def write_preview(path: str | os.PathLike, capture: Capture, columns: int | None = None) -> None:
    """Writes the grid of views as an H.264 video of the capture's own rate, at most 1920 pixels wide."""
    with atomic_file(path) as temporary, imageio.get_writer(
        temporary, fps=capture.fps, codec="libx264", quality=8, macro_block_size=2
    ) as writer:
        for frame in range(capture.frame_count):
            picture = grid(np.stack([capture.frame(view, frame) for view in range(capture.view_count)]), columns)
            stride = max(1, math.ceil(picture.shape[1] / MAX_WIDTH))
            writer.append_data(np.ascontiguousarray(picture[::stride, ::stride]))
