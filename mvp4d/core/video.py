"""Videos on disk: read frame by frame, written as H.264 mp4 files that are looked at again before they count."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np

from mvp4d.core.errors import UserError
from mvp4d.core.images import check_size

# ffmpeg guesses a file's kind by its content; playlists, which may name other files or the network, are left out.
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif,mpegts,mpeg"
_GUARD = ["-protocol_whitelist", "file", "-format_whitelist", _CONTAINERS]


def read_video(path: str | os.PathLike, *, start: int = 0, size: tuple[int, int] | None = None) -> Iterator[np.ndarray]:
    """Yields the frames of a video from frame `start` on, uint8 [H, W, 3].

    Raises:
      UserError: missing, not a video, or of another size than (H, W) = `size`.
    """
    path = Path(path)
    reader, meta = _open_video(path)
    try:
        width, height = meta["size"]
        check_size(path, (height, width), size)
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
    check_size(path, (height, width), None)
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

    Sides must be even, which chroma subsampling asks for. Use it as a context manager, or call `close` when every frame
    is in: both make sure that the file is whole; an error in the block, or `abort`, stops the encoder.

    Args:
      path: the file; give `atomic_file` a path for one that others may look at.
      image_size: (H, W).
      fps: frames per second.
      crf: H.264's constant rate factor, 0 (lossless) to 51.

    Raises:
      UserError: odd sides; the encoder failed (a full disk); the file does not hold the frames that were added.
    """

    def __init__(self, path: str | os.PathLike, image_size: tuple[int, int], fps: float, *, crf: int = 12):
        height, width = image_size
        if height % 2 or width % 2:
            raise UserError("image_size", f"{height} x {width}: video needs even sides", "write PNG images instead")
        self.path, self._shape, self._count = Path(path), (height, width, 3), 0
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `abort`)
        self._process = subprocess.Popen(
            [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24",
             "-s", f"{width}x{height}", "-r", f"{fps:.6f}", "-i", "-", "-an", "-c:v", "libx264", "-pix_fmt", "yuv420p",
             "-crf", str(crf), "-preset", "veryfast", "-threads", "1", "-movflags", "+faststart", "-f", "mp4",
             os.path.abspath(path)],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self._log)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None:
            self.close()
        else:
            self.abort()

    def add(self, frame: np.ndarray) -> None:
        """One frame, uint8 [H, W, 3]."""
        if frame.shape != self._shape or frame.dtype != np.uint8:
            raise ValueError(f"frame of {frame.dtype} {frame.shape}, expected uint8 {self._shape}")
        try:
            self._process.stdin.write(np.ascontiguousarray(frame))
        except BrokenPipeError:
            raise self._failed() from None
        self._count += 1

    def close(self) -> None:
        """Ends the file and reads it through: the encoder must have succeeded and every frame be there."""
        if self._process is None:
            return
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            raise self._failed() from None
        if self._process.wait():
            raise self._failed()
        self.abort()
        found = count_frames(self.path)
        if found != self._count:
            raise UserError(self.path, f"holds {found} frames where {self._count} were written", "is the disk full?")

    def abort(self) -> None:
        """Stops the encoder; the file is not whole."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        with contextlib.suppress(BrokenPipeError):  # of what it was still to be given
            self._process.stdin.close()
        self._log.close()
        self._process = None

    def _failed(self) -> UserError:
        self._process.wait()
        self._log.seek(0)
        lines = [line.strip() for line in self._log.read().decode(errors="replace").splitlines() if line.strip()]
        reason = next((line for line in lines if "space" in line.lower() or "too large" in line.lower()),
                      lines[-1] if lines else f"ffmpeg ended with status {self._process.returncode}")
        self.abort()
        return UserError(self.path, f"the video cannot be written ({reason[-200:]})", "is the disk full?")


def count_frames(path: str | os.PathLike) -> int:
    """The number of frames that a video's packets hold, without decoding them."""
    try:
        return int(imageio_ffmpeg.count_frames_and_secs(str(Path(path).resolve()))[0])
    except (OSError, RuntimeError) as error:
        raise UserError(path, f"not a readable video ({_last_line(error)})") from None


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:120] if lines else type(error).__name__
