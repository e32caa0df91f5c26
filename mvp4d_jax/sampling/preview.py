"""A video a person looks at: all views of a capture in a grid."""

from __future__ import annotations

import math
import os

import numpy as np

from mvp4d.core.capture import Capture
from mvp4d.core.files import atomic_file
from mvp4d.core.video import VideoWriter

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
    empty = grid(np.zeros((capture.view_count, *capture.image_size, 3), np.uint8), columns)
    stride = max(1, math.ceil(empty.shape[1] / MAX_WIDTH))
    height, width = (side // 2 * 2 for side in empty[::stride, ::stride].shape[:2])  # 4:2:0 chroma wants even sides
    with atomic_file(path) as temporary, VideoWriter(temporary, (height, width), capture.fps, crf=18) as writer:
        for frame in range(capture.frame_count):
            picture = grid(np.stack([capture.frame(view, frame) for view in range(capture.view_count)]), columns)
            writer.add(np.ascontiguousarray(picture[::stride, ::stride][:height, :width]))
