"""Videos on disk: read frame by frame, written as H.264 mp4 files that are looked at again before they count."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import re
import subprocess
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import IO, Any

import imageio_ffmpeg
import numpy as np

from mvp4d.core.errors import UserError
from mvp4d.core.images import check_size

# ffmpeg guesses a file's kind by its content; playlists, which may name other files or the network, are left out.
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif,mpegts,mpeg"
_GUARD = ["-protocol_whitelist", "file", "-format_whitelist", _CONTAINERS]
SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")
# Pixels that are not square are made so by enlarging; ffmpeg itself turns frames by their display matrix, before that.
_SQUARE = "scale=w='if(gt(sar,1),iw*sar,iw)':h='if(lt(sar,1),ih/sar,ih)',setsar=1"
_NOISE = ("Press", "Conversion failed", "Error opening input file", "Error opening output")  # of what ffmpeg says
_STEADY = 0.3  # of a frame's length: timestamps that stray less are those of a constant rate


@dataclasses.dataclass(frozen=True)
class VideoFacts:
    """What a video is, as it is seen.

    Attributes:
      image_size: (H, W): upright, with square pixels.
      rate: frames per second that the file says.
      times: [F] seconds from the first frame on, one of each frame.
    """

    image_size: tuple[int, int]
    rate: float
    times: np.ndarray

    @property
    def steady(self) -> bool:
        """Whether all frames are equally long."""
        count = len(self.times)
        even = np.linspace(0, self.times[-1], count)
        return count < 3 or bool(np.abs(self.times - even).max() <= _STEADY * self.times[-1] / (count - 1))

    @property
    def fps(self) -> float:
        """Frames per second: over all frames where they are equally long, else of the typical one."""
        if len(self.times) < 2:
            return self.rate
        length = self.times[-1] / (len(self.times) - 1) if self.steady else float(np.median(np.diff(self.times)))
        return self.rate if abs(self.rate * length - 1) < 0.01 else float(1 / length)

    def resampled(self, fps: float) -> np.ndarray:
        """[F'] which frame is seen 0, 1 / fps, 2 / fps, ... seconds after the first, until the last appears."""
        count = int(self.times[-1] * fps + 0.001) + 1
        return np.searchsorted(self.times, (np.arange(count) + 0.001) / fps, side="right") - 1


def look_at_video(path: str | os.PathLike) -> VideoFacts:
    """Reads a video through, without keeping a frame.

    Raises:
      UserError: missing, damaged, or without a frame.
    """
    return _look(path, [])


def video_facts(path: str | os.PathLike) -> tuple[tuple[int, int], float]:
    """((H, W), frames per second that the file says) of a video that has at least one frame, upright, with square
    pixels; `look_at_video` knows when each frame is shown."""
    facts = _look(path, ["-frames:v", "1"])
    return facts.image_size, facts.rate


def _look(path: str | os.PathLike, options: list[str]) -> VideoFacts:
    size, rate, times, log = None, 0.0, [], []
    filters = f"{_SQUARE},showinfo=checksum=0"
    with _ffmpeg(path, filters, [*options, "-f", "null", "-"], frames=False) as (process, _):
        assert process.stderr is not None  # piped, without frames
        for line in process.stderr:
            if found := re.search(rb"config in time_base: \S+ frame_rate: (\d+)/(\d+)", line):
                rate = int(found[1]) / max(int(found[2]), 1)
            elif found := re.search(rb"\] n: *\d+ pts: *\S+ pts_time:(\S+) .* s:(\d+)x(\d+) ", line):
                size = size or (int(found[3]), int(found[2]))
                times.append(float("nan") if found[1] == b"NOPTS" else float(found[1]))
            elif b"showinfo" not in line:
                log = [*log[-20:], line]
        _check_ended(process, path, log)
    if size is None:
        raise UserError(path, "the video has no frames")
    check_size(Path(path), size, None)
    if not 0 < rate <= 10_000:
        raise UserError(path, f"says {rate:g} frames a second", "convert it to an ordinary mp4")
    times = np.asarray(times)
    if not np.isfinite(times).all() or (np.diff(times) <= 0).any():  # no timestamps to speak of
        times = np.arange(len(times)) / rate
    return VideoFacts(size, rate, times - times[0])


def read_video(
    path: str | os.PathLike, *, start: int = 0, size: tuple[int, int] | None = None, frames: np.ndarray | None = None
) -> Generator[np.ndarray]:
    """Yields the frames of a video from frame `start` on, uint8 [H, W, 3], upright, with square pixels.

    Args:
      size: (H, W) that they must have.
      frames: which to yield, never decreasing, in place of all (`VideoFacts.resampled`).

    Raises:
      UserError: missing, not a video, or of another size.
    """
    wanted = itertools.count(start) if frames is None else iter(np.asarray(frames)[start:].tolist())
    following = next(wanted, None)
    output = ["-f", "image2pipe", "-c:v", "ppm", "-pix_fmt", "rgb24", "-"]
    with _ffmpeg(path, _SQUARE, output, frames=True) as (process, log):
        assert process.stdout is not None  # piped, with frames
        for index in itertools.count():
            if following is None:
                return
            picture = _read_ppm(process.stdout, Path(path), size)
            if picture is None:
                _check_ended(process, path, log)
                if index == 0:
                    raise UserError(path, "the video has no frames")
                return
            while following == index:
                yield picture
                following = next(wanted, None)


def _read_ppm(stream: IO[bytes], path: Path, size: tuple[int, int] | None) -> np.ndarray | None:
    """The next picture of a stream of binary PPM files, uint8 [H, W, 3]; None at its end."""
    if stream.readline() != b"P6\n":
        return None
    width, height = (int(side) for side in stream.readline().split())
    check_size(path, (height, width), size)
    stream.readline()  # the largest value, 255
    data = stream.read(height * width * 3)
    return np.frombuffer(data, np.uint8).reshape(height, width, 3) if len(data) == height * width * 3 else None


@contextlib.contextmanager
def _ffmpeg(
    path: str | os.PathLike, filters: str, output: list[str], *, frames: bool
) -> Iterator[tuple[subprocess.Popen, IO[bytes]]]:
    """ffmpeg at work on the moving picture of a file, and its log; it is ended with the block.

    Args:
      frames: whether it hands out frames, on `stdout`; else it says much, on `stderr`, and nothing in the log.
    """
    if not Path(path).is_file():  # a named pipe would be waited for
        raise UserError(path, "no such video" if not Path(path).exists() else "not a regular file")
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-nostdin",
        "-hide_banner",
        "-nostats",
        "-loglevel",
        "error" if frames else "info",
        *_GUARD,
        "-i",
        str(Path(path).resolve()),
        "-map",
        "0:V:0",
        "-fps_mode",
        "passthrough",
        "-vf",
        filters,
        *output,
    ]
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if frames else subprocess.DEVNULL,
            stderr=log if frames else subprocess.PIPE,
        ) as process,
    ):  # two pipes could wait for each other
        try:
            yield process, log
        finally:
            process.kill()


def _check_ended(process: subprocess.Popen, path: str | os.PathLike, log: IO[bytes] | list[bytes]) -> None:
    """Raises what ffmpeg said, where it ended with an error."""
    if process.wait():
        if not isinstance(log, list):
            log.seek(0)
        lines = [re.sub(r"^\[[^\]]*\] *", "", line.decode(errors="replace")).strip() for line in log]
        said = [line for line in lines if line and not line.startswith(_NOISE)]
        said = ([line for line in said if not line.startswith("Error opening")] or said or ["no message"])[-1]
        raise UserError(path, f"not a readable video ({said[:120]})")


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
        self._process: subprocess.Popen | None = subprocess.Popen(
            [
                imageio_ffmpeg.get_ffmpeg_exe(),
                "-y",
                "-loglevel",
                "error",
                "-f",
                "rawvideo",
                "-pix_fmt",
                "rgb24",
                "-s",
                f"{width}x{height}",
                "-r",
                f"{fps:.6f}",
                "-i",
                "-",
                "-an",
                "-c:v",
                "libx264",
                "-pix_fmt",
                "yuv420p",
                "-crf",
                str(crf),
                "-preset",
                "veryfast",
                "-threads",
                "1",
                "-movflags",
                "+faststart",
                "-f",
                "mp4",
                os.path.abspath(path),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._log,
        )

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
        process = self._process
        if process is None or process.stdin is None:
            raise ValueError(f"{self.path} was closed")
        try:
            process.stdin.write(np.ascontiguousarray(frame))
        except BrokenPipeError:
            raise self._failed(process) from None
        self._count += 1

    def close(self) -> None:
        """Ends the file and reads it through: the encoder must have succeeded and every frame be there."""
        process = self._process
        if process is None or process.stdin is None:
            return
        try:
            process.stdin.close()
        except BrokenPipeError:
            raise self._failed(process) from None
        if process.wait():
            raise self._failed(process)
        self.abort()
        found = count_frames(self.path)
        if found != self._count:
            raise UserError(self.path, f"holds {found} frames where {self._count} were written", "is the disk full?")

    def abort(self) -> None:
        """Stops the encoder; the file is not whole."""
        process = self._process
        if process is None or process.stdin is None:
            return
        process.kill()
        process.wait()
        with contextlib.suppress(BrokenPipeError):  # of what it was still to be given
            process.stdin.close()
        self._log.close()
        self._process = None

    def _failed(self, process: subprocess.Popen) -> UserError:
        process.wait()
        self._log.seek(0)
        lines = [line.strip() for line in self._log.read().decode(errors="replace").splitlines() if line.strip()]
        reason = next(
            (line for line in lines if "space" in line.lower() or "too large" in line.lower()),
            lines[-1] if lines else f"ffmpeg ended with status {process.returncode}",
        )
        self.abort()
        return UserError(self.path, f"the video cannot be written ({reason[-200:]})", "is the disk full?")


def count_frames(path: str | os.PathLike) -> int:
    """The number of frames that a video's packets hold, without decoding them."""
    try:
        return int(imageio_ffmpeg.count_frames_and_secs(str(Path(path).resolve()))[0] or 0)
    except (OSError, RuntimeError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(path, f"not a readable video ({lines[-1][:120]})") from None
