"""The Capture: synchronised multi-view video of one head with its cameras, motion and rig (docs/architecture.md).

Read here, written by `capture.writer`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mvp4d.core import images
from mvp4d.core.cameras.camera import FIELDS, Camera
from mvp4d.core.capture import schema
from mvp4d.core.capture.meaning import check_meaning
from mvp4d.core.capture.portrait import read_portrait
from mvp4d.core.capture.schema import CaptureInfo
from mvp4d.core.errors import UserError
from mvp4d.core.files import check_kind, read_json, read_npz
from mvp4d.core.heads.check import check_head
from mvp4d.core.heads.model import HeadModel
from mvp4d.core.heads.motion import ARRAYS, Motion
from mvp4d.core.video import read_video
from mvp4d.core.words import counted

_ARRAY_LIMIT = 1 << 30  # bytes that one npz of a capture may unpack to


@dataclasses.dataclass(frozen=True)
class Capture:
    """A capture on disk. Arrays are in memory, pictures are read when asked for.

    V views, F frames, F' = 1 (still cameras) or F.

    Attributes:
      path: the folder.
      info: what `capture.json` says.
      cameras: arrays [V, F'], float64.
      motion: F frames.
      head: the personalised rig (identity folded in; no shape modes).
    """

    path: Path
    info: CaptureInfo
    cameras: Camera
    motion: Motion
    head: HeadModel

    def __repr__(self) -> str:
        height, width = self.image_size
        views, frames = counted(len(self.names), "view"), counted(self.frame_count, "frame")
        return f"Capture('{self.path}': {views} x {frames}, {width} x {height} pixels)"

    @classmethod
    def open(cls, path: str | os.PathLike) -> Capture:
        """Reads and checks everything but the pixels.

        Raises:
          UserError: one line that names the file and the field at fault.
        """
        path = Path(path)
        check_kind(path, "capture.json")
        info = schema.parse_info(read_json(path / "capture.json"), path / "capture.json")
        _check_inside(path)
        where = path / "cameras.npz"
        arrays = read_npz(where, limit=_ARRAY_LIMIT)
        schema.require(arrays, FIELDS, where)
        cameras = schema.check_cameras(
            Camera(**{name: arrays[name] for name in FIELDS}), len(info.names), info.frame_count, where
        )
        head = HeadModel.load(path / "head.npz")
        check_head(head, path / "head.npz")
        if head.name != info.head:
            raise UserError(path / "capture.json", f"field 'head' is '{info.head}', head.npz holds '{head.name}'")
        motion = _read_motion(path / "motion.npz", info, head.expression_count)
        places = {"cameras": where, "motion": path / "motion.npz", "head": path / "head.npz"}
        check_meaning(cameras, motion, head, info.names, info.image_size, places)
        _check_files(path, info)
        return cls(path, info, cameras, motion, head)

    @property
    def names(self) -> tuple[str, ...]:
        return self.info.names

    @property
    def image_size(self) -> tuple[int, int]:
        return self.info.image_size

    @property
    def frame_count(self) -> int:
        return self.info.frame_count

    @property
    def view_count(self) -> int:
        return len(self.info.names)

    @property
    def fps(self) -> float:
        return self.info.fps

    @property
    def reference(self) -> tuple[str, int] | None:
        return self.info.reference

    @property
    def has_masks(self) -> bool:
        return self.info.masks

    def view(self, view: int | str) -> int:
        """The index of a camera given by name or index."""
        if isinstance(view, str):
            if view not in self.names:
                raise UserError(self.path, f"has no camera '{view}'", f"it has {', '.join(self.names[:12])}")
            return self.names.index(view)
        if not 0 <= view < self.view_count:
            raise UserError(self.path, f"has no camera {view}", f"it has {self.view_count}")
        return int(view)

    def camera(self, view: int | str, frame: int) -> Camera:
        """One camera at one frame: unbatched arrays."""
        index = self.view(view)
        time = 0 if self.cameras.fx.shape[1] == 1 else self._frame(frame)
        return Camera(**{name: getattr(self.cameras, name)[index, time] for name in FIELDS})

    def frame(self, view: int | str, frame: int) -> np.ndarray:
        """The picture, uint8 [H, W, 3], on the background. For many frames of a video capture use `frames`."""
        name, frame = self.names[self.view(view)], self._frame(frame)
        if self.info.images == "video":
            return next(self._video_frames(name, range(frame, frame + 1)))
        return images.read_image(frame_path(self.path, "images", name, frame), mode="RGB", size=self.image_size)

    def mask(self, view: int | str, frame: int) -> np.ndarray:
        """Alpha, uint8 [H, W].

        Raises:
          UserError: the capture has no masks.
        """
        if not self.has_masks:
            raise UserError(self.path, "has no masks", "test `has_masks` first")
        name = self.names[self.view(view)]
        return images.read_image(
            frame_path(self.path, "masks", name, self._frame(frame)), mode="L", size=self.image_size
        )

    def frames(self, view: int | str, frames: slice = slice(None)) -> np.ndarray:
        """A run of pictures of one camera, uint8 [n, H, W, 3]."""
        index, wanted = self.view(view), range(*frames.indices(self.frame_count))
        out = np.empty((len(wanted), *self.image_size, 3), np.uint8)
        if self.info.images == "video" and wanted.step > 0:
            for position, picture in enumerate(self._video_frames(self.names[index], wanted)):
                out[position] = picture
        else:
            for position, frame in enumerate(wanted):
                out[position] = self.frame(index, frame)
        return out

    def masks(self, view: int | str, frames: slice = slice(None)) -> np.ndarray:
        """A run of alpha masks of one camera, uint8 [n, H, W]."""
        index, wanted = self.view(view), range(*frames.indices(self.frame_count))
        out = np.empty((len(wanted), *self.image_size), np.uint8)
        for position, frame in enumerate(wanted):
            out[position] = self.mask(index, frame)
        return out

    def _video_frames(self, name: str, wanted: range) -> Iterator[np.ndarray]:
        path = self.path / "videos" / f"{name}.mp4"
        if not len(wanted):
            return
        last = wanted.start - 1
        with contextlib.closing(read_video(path, start=wanted.start, size=self.image_size)) as stream:
            for last, picture in enumerate(stream, wanted.start):
                if last in wanted:
                    yield picture
                if last == wanted[-1]:
                    return
        raise UserError(path, f"ends after {last + 1} frames, the capture has {self.frame_count}")

    def _frame(self, frame: int) -> int:
        if not 0 <= frame < self.frame_count:
            raise UserError(self.path, f"has no frame {frame}", f"it has {self.frame_count}")
        return int(frame)


def validate(path: str | os.PathLike) -> str:
    """Reads a whole capture, pixels included, and says what it is in one line.

    Raises:
      UserError: the first thing that is wrong with it.
    """
    capture = Capture.open(path)
    for view, name in enumerate(capture.names):
        if capture.info.images == "video":
            for _ in capture._video_frames(name, range(capture.frame_count)):
                pass
        for frame in range(capture.frame_count):
            if capture.info.images == "png":
                capture.frame(view, frame)
            if capture.has_masks:
                capture.mask(view, frame)
    portrait = read_portrait(capture.path, capture.head)
    photos = "" if portrait is None else f", portrait of {counted(len(portrait.photos), 'photo')}"
    height, width = capture.image_size
    return (
        f"{path}: capture, {counted(capture.view_count, 'view')} x {counted(capture.frame_count, 'frame')}, "
        f"{height} x {width} pixels, "
        f"{capture.fps:g} fps, head '{capture.head.name}', {'with' if capture.has_masks else 'no'} masks{photos}"
    )


def frame_path(folder: Path, kind: str, camera: str, frame: int) -> Path:
    """Where a picture lies; `kind` is "images" or "masks"."""
    return folder / kind / camera / f"{frame:05d}.png"


def _read_motion(where: Path, info: CaptureInfo, expressions: int) -> Motion:
    arrays = read_npz(where, limit=_ARRAY_LIMIT)
    schema.require(arrays, (*ARRAYS, "fps"), where)
    fps = schema.scalar(arrays["fps"], "fps", where)
    if abs(fps - info.fps) > 1e-3 * info.fps:
        raise UserError(where, f"'fps' is {fps:g}, capture.json says {info.fps:g}", "they are the same")
    motion = Motion(**{name: arrays[name] for name in ARRAYS}, fps=fps)
    return schema.check_motion(motion, info.frame_count, expressions, where)


def _check_inside(path: Path) -> None:
    """Refuses links that lead out of the folder: a capture is self-contained, and safe to copy or to delete."""
    root = os.path.realpath(path)
    for folder, folders, files in os.walk(path):
        for name in (*folders, *files):
            entry = Path(folder) / name
            if entry.is_symlink() and not Path(os.path.realpath(entry)).is_relative_to(root):
                raise UserError(entry, "is a link that leads out of the capture", "copy the file in its place")


def _check_files(path: Path, info: CaptureInfo) -> None:
    kinds = (["images"] if info.images == "png" else []) + (["masks"] if info.masks else [])
    for kind in kinds:
        for name in info.names:
            present = _regular_files(path / kind / name)
            for frame in range(info.frame_count):
                if f"{frame:05d}.png" not in present:
                    raise UserError(frame_path(path, kind, name, frame), "is missing, or not a regular file")
            first = images.image_size(frame_path(path, kind, name, 0))
            if first != info.image_size:
                raise UserError(
                    frame_path(path, kind, name, 0),
                    f"is {first[0]} x {first[1]} (height x width), "
                    f"capture.json says {info.image_size[0]} x {info.image_size[1]}",
                )
    if info.images == "video":
        present = _regular_files(path / "videos")
        for name in info.names:
            if f"{name}.mp4" not in present:
                raise UserError(path / "videos" / f"{name}.mp4", "is missing, or not a regular file")


def _regular_files(folder: Path) -> set[str]:
    if not folder.is_dir():
        raise UserError(folder, "is missing, or not a folder")
    with os.scandir(folder) as entries:
        return {entry.name for entry in entries if entry.is_file()}
