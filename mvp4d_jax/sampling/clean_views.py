"""Clean reference views beside the photo: frames of a capture, or a person's other photos."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
from scipy.spatial.transform import Rotation

from mvp4d.core.cameras.camera import FIELDS, Camera, make_camera, rigid
from mvp4d.core.capture import Capture
from mvp4d.core.capture.portrait import Portrait
from mvp4d.core.heads.motion import Motion
from mvp4d_jax.sampling.plan import Window
from mvp4d_jax.sampling.shot import crop_portrait


@dataclasses.dataclass(frozen=True)
class CleanViews:
    """Views that exist already and take part as clean reference views: frames of a capture, at the model's size.

    Attributes:
      capture: where the frames are read.
      views: indices of its cameras.
    """

    capture: Capture
    views: tuple[int, ...]

    def cameras(self) -> Camera:
        """[V, F'] of the chosen views."""
        index = list(self.views)
        return jax.tree.map(lambda array: np.asarray(array)[index], self.capture.cameras)

    def frames(self, window: Window) -> np.ndarray:
        """[V, F, H, W, 3] in [-1, 1]; the last frame is held where the capture is shorter than the window."""
        last = self.capture.frame_count - 1
        index = np.minimum(np.arange(window.start, window.stop), last)
        return np.stack([[self.capture.frame(view, int(frame)) for frame in index] for view in self.views]) / 127.5 - 1

    def shown(self, motion: Motion) -> list[tuple[Motion, Camera]]:
        """What the views show of F driving frames: motion [F] and cameras [V, F'] of sets of views, in order."""
        return [(motion, self.cameras())]


@dataclasses.dataclass(frozen=True)
class PhotoViews:
    """The photos of a person beside the reference as clean reference views: stills, each seen from where it was taken
    while the head moves.

    Attributes:
      portrait: the person.
      size: pixels a side of the model's pictures; margin: of its crops.
    """

    portrait: Portrait
    size: int
    margin: float

    @property
    def views(self) -> tuple[int, ...]:
        return tuple(index for index in range(len(self.portrait.photos)) if index != self.portrait.reference)

    def frames(self, window: Window) -> np.ndarray:
        """[V, F, H, W, 3] in [-1, 1]."""
        pictures = np.stack([self._crop(index)[0] for index in self.views])
        return np.repeat(2 * pictures[:, None] - 1, window.stop - window.start, axis=1)

    def shown(self, motion: Motion) -> list[tuple[Motion, Camera]]:
        """Each photo's expression on the driving head's place, and the camera that keeps its place to the head."""
        sets = []
        for index in self.views:
            own = self.portrait.motion[np.full(motion.frame_count, index)]
            camera = self._crop(index)[1]
            moved = (
                np.asarray(camera.world_to_camera, np.float64)
                @ head_to_world(own)
                @ np.linalg.inv(head_to_world(motion))
            )  # [F, 4, 4]
            cameras = make_camera(moved[None], *(np.asarray(getattr(camera, name)) for name in FIELDS[1:]))
            sets.append(
                (
                    dataclasses.replace(own, rotation=motion.rotation, translation=motion.translation, fps=motion.fps),
                    cameras,
                )
            )
        return sets

    def _crop(self, index: int) -> tuple[np.ndarray, Camera]:
        crop, camera, _ = crop_portrait(self.portrait, index, self.size, self.margin)
        return crop[..., :3], camera


def head_to_world(motion: Motion) -> np.ndarray:
    """[F, 4, 4] float64, where the head's own axes lie in the world."""
    rotation = Rotation.from_rotvec(np.asarray(motion.rotation, np.float64)).as_matrix()
    return rigid(rotation, np.asarray(motion.translation, np.float64))
