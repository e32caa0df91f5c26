"""What is done to decoded views as the capture is written: filtered in time, given the photo's hair colour,
enlarged, given its detail and mattes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from PIL import Image

from mvp4d.core.cameras.camera import Camera, resize
from mvp4d.core.capture.portrait import Portrait
from mvp4d.core.heads.model import HeadModel
from mvp4d.core.heads.motion import Motion
from mvp4d_jax.geometry.rasterize import Raster, rasterize
from mvp4d_jax.heads.skinning import skin
from mvp4d_jax.sampling.hair_colour import colour_hair, read_hair
from mvp4d_jax.sampling.matte import matte
from mvp4d_jax.sampling.photo_detail import add_detail, read_photo, read_poses
from mvp4d_jax.sampling.shot import camera_window
from mvp4d_jax.sampling.temporal_filter import JOIN, REACH, RigView, joined, steady

CHUNK = 16  # frames of a view finished at a time


@dataclasses.dataclass(frozen=True)
class Finishing:
    """What is to be done.

    Attributes:
      photo_detail: views take the detail of the portrait's reference photo (`sampling.photo_detail`).
      temporal_filter: views are filtered in time (`sampling.temporal_filter`).
      hair_colour: their hair takes the hue of that photo's (`sampling.hair_colour`).
      enlarge: how many times the model's size the pictures are.
    """

    photo_detail: bool = False
    temporal_filter: bool = False
    hair_colour: bool = False
    enlarge: int = 1


class Finisher:
    """Views of F frames, finished one after another.

    Args:
      cameras: [V, F' = 1 or F] of pictures of `size` pixels a side.
      portrait: the person's photos, or None; they have the margin `crop_margin` around the head as the model sees them.
      seams: the first frame of each of the model's windows but the first.

    Attributes:
      side: pixels a side of the finished pictures. cameras: theirs.
    """

    def __init__(
        self,
        todo: Finishing,
        head: HeadModel,
        motion: Motion,
        cameras: Camera,
        size: int,
        portrait: Portrait | None,
        crop_margin: float,
        seams: Sequence[int] = (),
    ):
        self.seams = seams
        self.todo, self.head, self.size, self.side = todo, head, size, size * todo.enlarge
        self._own = cameras
        self.cameras = resize(cameras, (size, size), (self.side, self.side))
        self.vertices = np.asarray(skin(head, motion))
        self.poses, self.hair = None, None
        if todo.photo_detail and portrait is not None:
            self.poses = read_poses(read_photo(portrait, self.side, crop_margin), motion, self.vertices)

        if todo.hair_colour and portrait is not None:
            self.hair = read_hair(portrait, crop_margin)

    def view(self, view: int, frames: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The frames [F, H, W, 3] uint8 of a view, finished: one by one uint8 [S, S, 3] on white and alpha [S, S]."""
        for start in range(0, len(frames), CHUNK):
            part = slice(start, min(start + CHUNK, len(frames)))
            pictures, raster = frames[part], None
            if self.todo.temporal_filter:
                pictures, raster = self._filtered(view, frames, part)
            if self.hair is not None:
                if raster is None:
                    raster = self._raster(camera_window(self._own, part.start, part.stop)[view], part, self.size)
                pictures = colour_hair(self.hair, raster, pictures)
            cameras = camera_window(self.cameras, part.start, part.stop)[view]
            if raster is None or self.side != self.size:
                raster, pictures = self._raster(cameras, part, self.side), enlarged(pictures, self.side)
            if self.poses is not None:
                pictures = add_detail(self.poses[part], cameras, raster, pictures)
            for picture, face in zip(pictures, np.asarray(raster.face)):
                yield picture, matte(picture / np.float32(255), face >= 0)

    def _filtered(self, view: int, frames: np.ndarray, part: slice) -> tuple[np.ndarray, Raster]:
        """Some frames of a view, filtered in time, and the rig in them."""
        reach = REACH + JOIN
        around = slice(max(0, part.start - reach), min(len(frames), part.stop + reach))
        cameras = camera_window(self._own, around.start, around.stop)[view]
        raster = self._raster(cameras, around, self.size)
        sight = RigView.of(self.head, cameras, self.vertices[around], raster)
        inside = slice(part.start - around.start, part.stop - around.start)
        seams = [seam - around.start for seam in self.seams if around.start < seam < around.stop]
        pictures = joined(self.head, sight, frames[around], seams)
        pictures = steady(self.head, sight, pictures, inside.start, inside.stop)
        return pictures, jax.tree.map(lambda array: array[inside], raster)

    def _raster(self, cameras: Camera, part: slice, side: int) -> Raster:
        """The rig in some frames, as cameras [F or 1] of pictures of `side` pixels show it."""
        cameras = jax.tree.map(lambda array: np.asarray(array, np.float32), cameras)
        return rasterize(cameras, self.vertices[part], self.head.faces, (side, side))


def enlarged(frames: np.ndarray, side: int) -> np.ndarray:
    """Frames [F, H, W, 3] uint8 at `side` pixels a side, bicubic; as they are where that is their own."""
    if frames.shape[1:3] == (side, side):
        return frames
    size = (side, side)
    return np.stack([np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC)) for frame in frames])
