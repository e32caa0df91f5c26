"""Captures as they are written: frame by frame, and there as a whole or not at all."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from mvp4d.core import images
from mvp4d.core.cameras.camera import FIELDS, Camera
from mvp4d.core.capture import schema
from mvp4d.core.capture.format import frame_path
from mvp4d.core.capture.meaning import check_meaning
from mvp4d.core.capture.motion_file import save_motion
from mvp4d.core.capture.portrait import Portrait, write_portrait
from mvp4d.core.capture.schema import CaptureInfo
from mvp4d.core.errors import UserError
from mvp4d.core.files import atomic_folder, write_json
from mvp4d.core.heads.check import check_head
from mvp4d.core.heads.model import HeadModel
from mvp4d.core.heads.motion import Motion
from mvp4d.core.outputs import check_folder
from mvp4d.core.video import VideoWriter


class CaptureWriter:
    """Writes a capture, frame by frame, so that it is there as a whole or not at all.

    Use it as a context manager and `add` every frame of every view, in any order (video: each view's frames in
    order). The folder appears under its name when the block ends without an error; an error or a killed process
    leaves what was there before.

    Args:
      path: the folder to make.
      head: rig; personalised (a rig with shape modes left is accepted and its modes dropped).
      motion: F frames.
      cameras: arrays [V, F'], F' = 1 or F.
      names: V camera names (letters, digits, `_ . -`).
      image_size: (H, W).
      masks: whether every frame brings an alpha mask.
      images: "png" or "video".
      fps: frames per second; the motion's by default.
      background, reference, source, extra: as `CaptureInfo` says.
      portrait: the person's photos, kept at their own size.
      overwrite: replace a capture that is already there (only a capture: other folders are never removed).

    Raises:
      UserError: cameras, motion, names or sizes that a reader would refuse; a folder in the way.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        head: HeadModel,
        motion: Motion,
        cameras: Camera,
        names: tuple[str, ...] | list[str],
        image_size: tuple[int, int],
        masks: bool = True,
        images: str = "png",
        fps: float | None = None,
        background: tuple[int, int, int] = (255, 255, 255),
        reference: tuple[str, int] | None = None,
        source: str = "",
        extra: dict[str, Any] | None = None,
        portrait: Portrait | None = None,
        overwrite: bool = False,
    ):
        self.path = Path(path)
        self._portrait = portrait
        size = (int(image_size[0]), int(image_size[1]))
        red, green, blue = (int(value) for value in background)
        info = CaptureInfo(
            float(motion.fps if fps is None else fps),
            motion.frame_count,
            size,
            tuple(names),
            head.name,
            images,
            masks,
            (red, green, blue),
            reference,
            source,
            extra or {},
        )
        self.info = schema.parse_info(info.to_json(), self.path)
        self._cameras = schema.check_cameras(cameras, len(self.info.names), motion.frame_count, self.path)
        self._motion = schema.check_motion(motion, motion.frame_count, head.expression_count, self.path)
        self._head = head.personalise(np.zeros(0, np.float32)) if head.shape_count else head
        check_head(self._head, "head")
        check_meaning(
            self._cameras,
            self._motion,
            self._head,
            self.info.names,
            size,
            dict.fromkeys(("cameras", "motion", "head"), self.path),
        )
        if images == "video" and (size[0] % 2 or size[1] % 2):
            raise UserError("image_size", f"{size[0]} x {size[1]}: video needs even sides", "write PNG images instead")
        check_folder(self.path, "capture", overwrite)
        self._overwrite = overwrite
        self._written = np.zeros((len(self.info.names), motion.frame_count), bool)
        self._videos: dict[int, Any] = {}
        self._stack = contextlib.ExitStack()
        self._folder: Path | None = None

    def __enter__(self) -> CaptureWriter:
        self._folder = self._stack.enter_context(atomic_folder(self.path, overwrite=self._overwrite, kind="capture"))
        kinds = (["images"] if self.info.images == "png" else []) + (["masks"] if self.info.masks else [])
        for kind in kinds:
            for name in self.info.names:
                (self._folder / kind / name).mkdir(parents=True)
        if self.info.images == "video":
            (self._folder / "videos").mkdir()
        return self

    def add(self, view: int | str, frame: int, rgb: np.ndarray, alpha: np.ndarray | None = None) -> None:
        """Writes one frame.

        Args:
          view: index or name.
          frame: 0 .. F - 1.
          rgb: [H, W, 3] on the background: uint8, or floating point in [0, 1].
          alpha: [H, W] likewise; needed exactly when the capture has masks.

        Raises:
          ValueError: a wrong shape or dtype, a frame given twice, a mask missing or not wanted.
        """
        if self._folder is None:
            raise ValueError("a CaptureWriter is used as a context manager: `with CaptureWriter(...) as writer`")
        index = self.info.names.index(view) if isinstance(view, str) else int(view)
        name = self.info.names[index]
        if self._written[index, frame]:
            raise ValueError(f"frame {frame} of camera '{name}' was already written")
        if (alpha is None) == self.info.masks:
            raise ValueError(f"camera '{name}' frame {frame}: alpha must be given exactly when the capture has masks")
        rgb = to_uint8(rgb, (*self.info.image_size, 3))
        if self.info.images == "png":
            images.write_png(frame_path(self._folder, "images", name, frame), rgb)
        else:
            self._add_to_video(self._folder, index, frame, rgb)
        if alpha is not None:
            images.write_png(frame_path(self._folder, "masks", name, frame), to_uint8(alpha, self.info.image_size))
        self._written[index, frame] = True

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        with self._stack:  # leaving it moves the finished folder into place, or removes what there is of it
            if error is not None:
                for video in self._videos.values():
                    video.abort()
                raise error
            if self._folder is not None:
                self._finish(self._folder)

    def _finish(self, folder: Path) -> None:
        if not self._written.all():
            view, frame = np.argwhere(~self._written)[0]
            raise ValueError(
                f"{int((~self._written).sum())} frames were never added, the first is frame {frame} of "
                f"camera '{self.info.names[view]}'"
            )
        cameras = {name: getattr(self._cameras, name) for name in FIELDS}
        np.savez_compressed(folder / "cameras.npz", **cameras)
        save_motion(folder / "motion.npz", self._motion, self._head, self.info.fps)
        self._head.save(folder / "head.npz")
        if self._portrait is not None:
            write_portrait(folder, self._portrait)
        write_json(folder / "capture.json", self.info.to_json())

    def _add_to_video(self, folder: Path, view: int, frame: int, rgb: np.ndarray) -> None:
        if frame and not self._written[view, frame - 1]:
            raise ValueError(f"frame {frame} of a video came before frame {frame - 1}")
        if view not in self._videos:
            path = folder / "videos" / f"{self.info.names[view]}.mp4"
            self._videos[view] = VideoWriter(path, self.info.image_size, self.info.fps)
        self._videos[view].add(rgb)
        if frame + 1 == self.info.frame_count:
            self._videos[view].close()
            del self._videos[view]


def to_uint8(image: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A picture as uint8; floating point is taken as [0, 1]. Raises ValueError for another shape or dtype."""
    image = np.asarray(image)
    if image.shape != tuple(shape):
        raise ValueError(f"picture of shape {image.shape}, expected {tuple(shape)}")
    if image.dtype == np.uint8:
        return image
    if image.dtype.kind != "f":
        raise ValueError(f"picture of {image.dtype}, expected uint8 or floating point in [0, 1]")
    return np.clip(np.rint(image.astype(np.float32) * 255), 0, 255).astype(np.uint8)
