"""Pictures and videos on disk: PNG files checked before they are decoded, mp4 files read frame by frame."""

from __future__ import annotations

import os
import warnings
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
from PIL import Image

from mvp4d.core.errors import UserError

MAX_PIXELS = 16384 * 8192
# ffmpeg guesses a file's kind by its content; playlists, which may name other files or the network, are left out.
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif,mpegts,mpeg"
_GUARD = ["-protocol_whitelist", "file", "-format_whitelist", _CONTAINERS]


def read_image(path: str | os.PathLike, *, mode: str, size: tuple[int, int] | None = None) -> np.ndarray:
    """Decodes one picture.

    Args:
      mode: "RGB", "RGBA" or "L".
      size: (H, W) that it must have; told from the header, before anything is decoded.

    Returns:
      uint8 [H, W, 3], [H, W, 4] or [H, W].

    Raises:
      UserError: missing, damaged, too large or of another size.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(path, "no such picture")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=("PNG", "JPEG", "WEBP", "BMP", "TIFF")) as picture:
                _check_size(path, picture.size[::-1], size)
                return np.asarray(picture.convert(mode))
    except UserError:
        raise
    except Exception as error:  # each of Pillow's decoders has its own set of errors for damaged data
        raise UserError(path, f"not a readable picture ({str(error)[:100] or type(error).__name__})") from None


def image_size(path: str | os.PathLike) -> tuple[int, int]:
    """(H, W) of a picture, from its header alone."""
    path = Path(path)
    if not path.is_file():
        raise UserError(path, "no such picture")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=("PNG", "JPEG", "WEBP", "BMP", "TIFF")) as picture:
                _check_size(path, picture.size[::-1], None)
                return picture.size[::-1]
    except UserError:
        raise
    except Exception as error:  # as above
        raise UserError(path, f"not a readable picture ({str(error)[:100] or type(error).__name__})") from None


def write_png(path: str | os.PathLike, image: np.ndarray) -> None:
    """Writes uint8 [H, W, 3], [H, W, 4] or [H, W]."""
    Image.fromarray(np.ascontiguousarray(image)).save(path, compress_level=4)


def read_video(path: str | os.PathLike, *, start: int = 0, size: tuple[int, int] | None = None) -> Iterator[np.ndarray]:
    """Yields the frames of a video from frame `start` on, uint8 [H, W, 3].

    Raises:
      UserError: missing, not a video, or of another size than (H, W) = `size`.
    """
    path = Path(path)
    reader, meta = _open_video(path)
    try:
        width, height = meta["size"]
        _check_size(path, (height, width), size)
        for index, data in enumerate(reader):
            if index >= start:
                yield np.frombuffer(data, np.uint8).reshape(height, width, 3)
    except (OSError, RuntimeError) as error:
        raise UserError(path, f"the video breaks off ({_last_line(error)})") from None
    finally:
        reader.close()


def video_facts(path: str | os.PathLike) -> tuple[tuple[int, int], float]:
    """((H, W), frames per second) of a video that has at least one frame."""
    path = Path(path)
    reader, meta = _open_video(path)
    try:
        empty = next(reader, None) is None
    except (OSError, RuntimeError) as error:
        raise UserError(path, f"the video breaks off ({_last_line(error)})") from None
    finally:
        reader.close()
    if empty:
        raise UserError(path, "the video has no frames")
    (width, height), fps = meta["size"], float(meta["fps"])
    if not 0 < fps <= 10_000:
        raise UserError(path, f"says {fps:g} frames a second", "convert it to an ordinary mp4")
    _check_size(path, (height, width), None)
    return (height, width), fps


def _open_video(path: Path, attempts: int = 4) -> tuple[Generator, dict[str, Any]]:
    """Starts ffmpeg: a generator of raw frames, and what the file says of itself.

    The reader gives ffmpeg ten seconds to say anything; on a machine with much else to do that may be too short, so a
    silent ffmpeg is asked again.
    """
    if not path.is_file():
        raise UserError(path, "no such video")
    for attempt in range(attempts):
        reader = imageio_ffmpeg.read_frames(str(path.resolve()), input_params=_GUARD,
                                            output_params=["-fps_mode", "passthrough"])
        try:
            return reader, next(reader)
        except (OSError, RuntimeError, StopIteration, KeyError, ValueError) as error:
            reader.close()
            silent = str(error).rstrip().endswith("=== stderr ===")
            if not silent or attempt == attempts - 1:
                raise UserError(path, f"not a readable video ({_last_line(error)})") from None
    raise AssertionError("unreachable")


class VideoWriter:
    """Streams frames into one H.264 mp4 (yuv420p, near lossless by default: crf 12).

    Sides must be even, which chroma subsampling asks for.
    """

    def __init__(self, path: str | os.PathLike, image_size: tuple[int, int], fps: float, *, crf: int = 12):
        height, width = image_size
        if height % 2 or width % 2:
            raise UserError("image_size", f"{height} x {width}: video needs even sides", "write PNG images instead")
        self._sink = imageio_ffmpeg.write_frames(
            str(path), (width, height), fps=fps, codec="libx264", macro_block_size=1, ffmpeg_log_level="error",
            output_params=["-crf", str(crf), "-preset", "veryfast", "-threads", "1", "-movflags", "+faststart"])
        self._sink.send(None)

    def add(self, frame: np.ndarray) -> None:
        self._sink.send(np.ascontiguousarray(frame))

    def close(self) -> None:
        self._sink.close()


def _check_size(path: Path, found: tuple[int, int], expected: tuple[int, int] | None) -> None:
    if expected is not None and tuple(found) != tuple(expected):
        raise UserError(path, f"is {found[0]} x {found[1]} (height x width), expected {expected[0]} x {expected[1]}")
    if found[0] * found[1] > MAX_PIXELS:
        raise UserError(path, f"is {found[0]} x {found[1]} pixels, too large to be a picture of this kind")


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:120] if lines else type(error).__name__
