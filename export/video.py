"""Video files: H.264 through the ffmpeg that imageio-ffmpeg brings."""

from __future__ import annotations

import os

import numpy as np

from mvp4d_export.errors import UserError


class VideoWriter:
    """Streams frames uint8 [H, W, 3] into one mp4 (yuv420p). Odd sides lose their last row or column."""

    def __init__(self, path: str | os.PathLike, image_size: tuple[int, int], fps: float, *, crf: int = 14):
        import imageio_ffmpeg

        height, width = (side - side % 2 for side in image_size)
        if min(height, width) < 2:
            raise UserError("--size", f"{image_size[0]} x {image_size[1]} is too small for a video")
        self._size = (height, width)
        # One thread: the same frames give the same file.
        self._sink = imageio_ffmpeg.write_frames(
            str(path),
            (width, height),
            fps=fps,
            codec="libx264",
            macro_block_size=1,
            ffmpeg_log_level="error",
            output_params=[
                "-crf",
                str(crf),
                "-preset",
                "veryfast",
                "-threads",
                "1",
                "-movflags",
                "+faststart",
                "-fflags",
                "+bitexact",
                "-flags:v",
                "+bitexact",
            ],
        )
        self._sink.send(None)

    def add(self, frame: np.ndarray) -> None:
        self._sink.send(np.ascontiguousarray(frame[: self._size[0], : self._size[1]]))

    def close(self) -> None:
        self._sink.close()
