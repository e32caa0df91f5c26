"""A face followed while it is filmed: camera or video -> landmarks -> poses, one after another, for an avatar to play.

A guest process (`facemesh.py`) finds landmarks while this one fits (`follow.py`). In real time a picture that comes
while the last is still looked at waits until a newer one takes its place, so that what is shown is never old.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import queue
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from mvp4d.core.errors import UserError
from mvp4d.core.heads.model import HeadModel
from mvp4d.core.heads.motion import ARRAYS, Motion
from mvp4d.core.heads.retarget import retarget
from mvp4d.core.heads.transfer import eye_centre
from mvp4d.core.progress import say
from mvp4d.core.rotation import rotate, rotation_matrix
from mvp4d_jax.tracking.detector import MEDIAPIPE
from mvp4d_jax.tracking.follow import FollowConfig, Follower
from mvp4d_jax.tracking.landmarks import MESH_POINTS, from_mesh
from mvp4d_jax.tracking.problem import SolveConfig
from mvp4d_jax.tracking.track import Source

VIDEO = "/dev/video"  # and a camera's number, on Linux
CAMERA_FOCAL = 1.1  # of a webcam, over its longer side: 49 degrees
CAMERA_FPS = 30.0  # what is recorded from one has
HELD = 1.0  # seconds without a face before anything is said
_SIDE = 360  # pixels: larger pictures are thinned out to about this shorter side
_RECORD = struct.Struct("<dII")


@dataclasses.dataclass(frozen=True)
class Glimpse:
    """The landmarks of one picture.

    Attributes:
      time: seconds from the first picture on.
      came: when the picture was there, on `time.monotonic`'s clock.
      mesh: [478, 2] pixels, NaN where there is no face.
      image_size: (H, W).
    """

    time: float
    came: float
    mesh: np.ndarray
    image_size: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Pose:
    """What an avatar is to do now.

    Attributes:
      time, came: of the picture (`Glimpse`).
      motion: one frame; translation from where the head was first seen.
      found: whether the picture has a face; where not, the last pose is held.
    """

    time: float
    came: float
    motion: Motion
    found: bool


def open_source(text: str | os.PathLike) -> int | Source:
    """A camera's number, or a video file.

    Raises:
      UserError: no such camera where that can be told (Linux), no such file, or no video.
    """
    if str(text).isdecimal():
        if len(str(text)) > 4:
            raise UserError(f"camera {text}", "cannot be opened", "cameras are numbered from 0")
        number = int(str(text))
        if sys.platform == "linux" and not Path(f"{VIDEO}{number}").exists():
            raise UserError(f"camera {number}", "is not there", "plug it in, or give another number or a video")
        return number
    if not Path(text).exists():
        raise UserError(text, "no such file", "give a video, or a camera's number (0)")
    source = Source.open(Path(text))
    if not source.video:
        raise UserError(source.path, "is a picture", "give a video, or a camera's number (0)")
    return source


def follow(
    source: int | Source,
    head: HeadModel,
    *,
    paced: bool = True,
    loop: bool = False,
    focal: float | None = None,
    config: FollowConfig | None = None,
) -> Generator[Pose]:
    """Poses of the face in a source, as they come.

    Args:
      source: a camera's number, or a video.
      paced: play a video at its speed and leave out what would come late; otherwise every frame, as fast as it goes.
      loop: begin a video again at its end.
      focal: focal length in pixels, where it is known.

    Raises:
      UserError: the camera cannot be opened or stops, or the video cannot be read.
    """
    if config is None:
        config = FollowConfig()
        if isinstance(source, int):
            config = dataclasses.replace(config, solve=SolveConfig(focal=CAMERA_FOCAL))
    follower = Follower(head, config, focal)
    follower.compile()
    name = f"camera {source}" if isinstance(source, int) else str(source.path)
    motion, home, last, quiet = Motion.still(1, head.expression_count), None, 0.0, True
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log,
        contextlib.closing(_Stream(source, paced, loop, log)) as stream,
    ):
        for glimpse in stream:
            seen = from_mesh(glimpse.mesh[None], glimpse.image_size)
            found = bool(seen.found[0])
            if found:
                motion = follower.step(seen, glimpse.time)
                home = motion.translation if home is None else home
                motion = dataclasses.replace(motion, translation=motion.translation - home)
                last, quiet = glimpse.time, False
            elif glimpse.time - last > HELD and not quiet:
                say(f"note: no face in {name} since second {last:.0f}; the avatar holds its pose")
                quiet = True
            yield Pose(glimpse.time, glimpse.came, motion, found)


def record(poses: Iterator[Pose], source: int | Source) -> Motion:
    """All poses as one motion: a video's at its rate, a camera's at 30 frames a second, until Ctrl-C.

    Raises:
      UserError: there was no face.
    """
    kept: list[Pose] = []
    try:
        for pose in poses:
            kept.append(pose)
    except KeyboardInterrupt:
        if not isinstance(source, int):
            raise
    name = f"camera {source}" if isinstance(source, int) else source.path
    if not any(pose.found for pose in kept):
        raise UserError(name, "no face was found", "use one with a larger, lit face")
    first = next(index for index, pose in enumerate(kept) if pose.found)
    times = np.array([pose.time for pose in kept])
    kept = [kept[first]] * first + kept[first:]  # at the beginning the pose to come
    arrays = {key: np.concatenate([getattr(pose.motion, key) for pose in kept]) for key in ARRAYS}
    if not isinstance(source, int):
        return Motion(**arrays, fps=source.fps)
    return _evenly(arrays, times, CAMERA_FPS)


def carry(motion: Motion, head: HeadModel, target: HeadModel) -> tuple[Motion, str]:
    """A pose of `head` for an avatar's own head: expressions by name, turning about its own eyes' midpoint.

    Returns:
      the motion, and one line on what could not be carried over (empty when everything was).
    """
    carried, notice = retarget(motion, head.name, tuple(head.expression_names), target)
    offset = np.asarray(eye_centre(head), np.float32) - np.asarray(eye_centre(target), np.float32)
    turned = rotate(rotation_matrix(carried.rotation), offset) - offset
    return dataclasses.replace(carried, translation=carried.translation + turned), notice


def _evenly(arrays: dict[str, np.ndarray], times: np.ndarray, fps: float) -> Motion:
    """Arrays [F, ...] of any times (seconds, rising) at a constant rate; between two of them mixed."""
    wanted = np.arange(times[0], times[-1] + 1e-6, 1 / fps)
    above = np.clip(np.searchsorted(times, wanted, side="right"), 1, max(len(times) - 1, 1))
    below = above - 1
    above = np.minimum(above, len(times) - 1)
    share = (wanted - times[below]) / np.maximum(times[above] - times[below], 1e-9)

    def mixed(values: np.ndarray) -> np.ndarray:
        part = np.clip(share, 0, 1).reshape(-1, *[1] * (values.ndim - 1))
        return (values[below] * (1 - part) + values[above] * part).astype(np.float32)

    return Motion(**{key: mixed(values) for key, values in arrays.items()}, fps=fps)


class _Stream:
    """Landmarks from the guest process, by a thread that feeds it and listens."""

    def __init__(self, source: int | Source, paced: bool, loop: bool, log: IO[str]):
        self.source, self.paced, self.loop = source, paced or isinstance(source, int), loop
        self._log = log
        self._items: queue.Queue[Any] = queue.Queue(1 if self.paced else 4)
        self._stopped = threading.Event()
        self._process = MEDIAPIPE.start(Path(__file__).with_name("facemesh.py"), log=self._log)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Glimpse]:
        while (item := self._items.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    def close(self) -> None:
        self._stopped.set()
        self._process.kill()
        with contextlib.suppress(queue.Empty):
            self._items.get_nowait()  # where the thread waits for room
        self._thread.join(10)
        self._process.wait()

    def _run(self) -> None:
        end: BaseException | None = None
        try:
            camera = self.source if isinstance(self.source, int) else None
            self._write(json.dumps({"live": True, "camera": camera}).encode() + b"\n")
            glimpses = self._of_camera() if camera is not None else self._of_video(self.source)
            with contextlib.closing(glimpses):
                for glimpse in glimpses:
                    self._put(glimpse)
        except BaseException as error:  # raised again where the stream is read
            end = error
        self._put(end, keep=True)

    def _put(self, item: Any, keep: bool = False) -> None:
        """Hands an item over; in real time it takes the place of one that was not taken yet."""
        while not self._stopped.is_set():
            try:
                return self._items.put(item, timeout=0 if self.paced and not keep else 0.2)
            except queue.Full:
                if self.paced and not keep:
                    with contextlib.suppress(queue.Empty):
                        self._items.get_nowait()

    def _of_camera(self) -> Generator[Glimpse]:
        first = None
        while True:
            came, size, mesh = self._read()
            first = came if first is None else first
            yield Glimpse(came - first, came, mesh, size)

    def _of_video(self, source: Source) -> Generator[Glimpse]:
        length, start, size = 1 / source.fps, None, source.image_size
        thin = max(1, min(size) // _SIDE)
        rounds = itertools.repeat(None) if self.loop else (None,)
        frames = (frame for _ in rounds for frame in source.frames())
        with contextlib.closing(frames):
            for number, frame in enumerate(frames):
                came = time.monotonic()
                if self.paced and start is not None:
                    due = start + number * length
                    if came - due > length:
                        continue  # the next one is there already
                    self._stopped.wait(max(due - came, 0))
                    came = due
                if self._stopped.is_set():
                    return
                small = np.ascontiguousarray(frame[::thin, ::thin])
                self._write(struct.pack("<II", *small.shape[:2]) + small.tobytes())
                _, _, mesh = self._read()
                if start is None:  # the guest has loaded its models
                    start = time.monotonic()
                yield Glimpse(number * length, came, (mesh - 0.5) * thin + 0.5, size)

    def _write(self, data: bytes) -> None:
        assert self._process.stdin is not None  # piped
        with contextlib.suppress(BrokenPipeError):  # it has ended; `_read` says why
            self._process.stdin.write(data)
            self._process.stdin.flush()

    def _read(self) -> tuple[float, tuple[int, int], np.ndarray]:
        """When a picture came, its (H, W), and its landmarks [478, 2] in its pixels."""
        assert self._process.stdout is not None  # piped
        size = 2 * 4 * MESH_POINTS
        data = self._process.stdout.read(_RECORD.size + size)
        if len(data) < _RECORD.size + size:
            raise self._failure()
        came, height, width = _RECORD.unpack_from(data)
        mesh = np.frombuffer(data, "<f4", offset=_RECORD.size).reshape(MESH_POINTS, 2)
        return came, (height, width), mesh.astype(np.float64)

    def _failure(self) -> UserError:
        code = self._process.wait()
        if code == 3:
            return UserError(
                f"camera {self.source}",
                "cannot be opened",
                "see that it is there, free and allowed, or give another number or a video",
            )
        if code == 4:
            return UserError(f"camera {self.source}", "has stopped sending pictures", "plug it in and try again")
        self._log.seek(0)
        return MEDIAPIPE.failure(self._log.read())
