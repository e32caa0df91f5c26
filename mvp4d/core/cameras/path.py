"""Cameras in CAP4D's fields and axes (`fit.npz`, `orbit.npz`); converted to ours here and nowhere else.

CAP4D's `extr` acts on OpenCV-like axes (y down, z forward) while its head pose is in y-up, z-backward axes, which are
ours: x_opencv = diag(1, -1, -1) x. So `world_to_camera = extr @ diag(1, -1, -1, 1)`.
"""

from __future__ import annotations

import dataclasses
import os

import numpy as np

from mvp4d.core.cameras.camera import FIELDS, Camera, check, check_focal
from mvp4d.core.errors import UserError
from mvp4d.core.files import atomic_file, read_npz
from mvp4d.core.words import counted

ARRAYS = ("extr", "fx", "fy", "cx", "cy")
MAX_SIDE = 65_536
_FLIP = np.array([1.0, -1.0, -1.0, 1.0])  # M * _FLIP is M @ diag(1, -1, -1, 1)
_LIMIT = 1 << 29  # bytes


def read_cameras(arrays: dict[str, np.ndarray], path: str | os.PathLike) -> Camera:
    """Camera [C] float64, our axes, of the arrays `extr` [C, 4, 4] and `fx fy cx cy` [C, 1], or one value for all.

    Raises:
      UserError: names the array that is missing or at fault.
    """
    for name in ARRAYS:
        if name not in arrays:
            raise UserError(path, f"lacks the array '{name}'", f"cameras are the arrays {', '.join(ARRAYS)}")
        if arrays[name].dtype.kind not in "fiu":
            raise UserError(path, f"'{name}' holds {arrays[name].dtype} values", "it must hold numbers")
    extr = arrays["extr"]
    if extr.ndim != 3 or extr.shape[1:] != (4, 4) or len(extr) == 0:
        raise UserError(path, f"'extr' has shape {list(extr.shape)}, expected [C, 4, 4]")
    intrinsics = []
    for name in FIELDS[1:]:
        if arrays[name].size not in (1, len(extr)):
            raise UserError(path, f"'{name}' has shape {list(arrays[name].shape)}, expected [{len(extr)}, 1]")
        intrinsics.append(np.broadcast_to(arrays[name].astype(np.float64).reshape(-1), len(extr)).copy())
    camera = Camera(extr.astype(np.float64) * _FLIP, *intrinsics)
    check(camera, path)
    return camera


def camera_arrays(camera: Camera) -> dict[str, np.ndarray]:
    """The arrays that `read_cameras` reads, of a Camera whose batch axes hold C cameras in all."""
    arrays = {name: np.asarray(getattr(camera, name), np.float64).reshape(-1, 1) for name in FIELDS[1:]}
    return {"extr": np.asarray(camera.world_to_camera, np.float64).reshape(-1, 4, 4) * _FLIP, **arrays}


@dataclasses.dataclass(frozen=True)
class CameraPath:
    """A moving camera (`orbit.npz`). T frames.

    Attributes:
      camera: arrays [T], our axes.
      image_size: (H, W) that the intrinsics belong to.
      fps: frames per second, or None where the file does not say.
    """

    camera: Camera
    image_size: tuple[int, int]
    fps: float | None = None

    @classmethod
    def load(cls, path: str | os.PathLike) -> CameraPath:
        """Reads `orbit.npz`. Raises UserError naming the array at fault."""
        arrays = read_npz(path, limit=_LIMIT)
        camera = read_cameras(arrays, path)
        size = arrays.get("resolution", np.zeros(0))
        if size.dtype.kind not in "iu" or size.shape != (2,) or size.min() < 1 or size.max() > MAX_SIDE:
            raise UserError(path, "'resolution' is not two integers, height and width in pixels")
        fps = arrays.get("fps")
        if fps is not None:
            if fps.size != 1 or fps.dtype.kind not in "fiu" or not 0 < float(fps.reshape(())) <= 1000:
                raise UserError(path, "'fps' is not one number of frames per second, above 0 and at most 1000")
            fps = float(fps.reshape(()))
        height, width = int(size[0]), int(size[1])
        check_focal(camera[None], ("path",), (height, width), path)
        return cls(camera, (height, width), fps)

    def save(self, path: str | os.PathLike) -> None:
        """Writes `orbit.npz`, atomically."""
        arrays = {**camera_arrays(self.camera), "resolution": np.asarray(self.image_size, np.int64)}
        if self.fps is not None:
            arrays["fps"] = np.float64(self.fps)
        with atomic_file(path) as temporary:
            np.savez_compressed(temporary, **arrays)


def validate_path(path: str | os.PathLike) -> str:
    """Checks `orbit.npz` and says what it is in one line. Raises UserError."""
    found = CameraPath.load(path)
    height, width = found.image_size
    return f"{path}: camera path, {counted(found.camera.batch_shape[0], 'frame')}, {height} x {width} pixels"
