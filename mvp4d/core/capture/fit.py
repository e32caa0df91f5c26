"""Fits and reference lists on disk, in CAP4D's fields.

Cameras are converted by `cameras.path`; the head's rotation and translation are in our axes already.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np

from mvp4d.core.cameras.camera import Camera, check_focal
from mvp4d.core.cameras.path import camera_arrays, read_cameras
from mvp4d.core.capture import schema
from mvp4d.core.capture.meaning import check_reach
from mvp4d.core.errors import UserError
from mvp4d.core.files import atomic_file, read_json, read_npz
from mvp4d.core.heads.model import HeadModel
from mvp4d.core.heads.motion import Motion
from mvp4d.core.words import counted

CAP4D_HEAD = "flame2023-nojaw"  # the head of every file that does not name one
_LIMIT = 1 << 29


@dataclasses.dataclass(frozen=True)
class Fit:
    """A head and still cameras fitted to a photo, a video or a multi-view video. C cameras, T frames.

    Attributes:
      motion: T frames.
      cameras: arrays [C, 1], float64, our axes.
      resolutions: [C, 2] int, height and width of each camera's pictures.
      names: C camera names.
      shape: [S] identity coefficients; None in driving files.
      head: name of the head that the coefficients belong to.
    """

    motion: Motion
    cameras: Camera
    resolutions: np.ndarray
    names: tuple[str, ...]
    shape: np.ndarray | None = None
    head: str = CAP4D_HEAD

    @property
    def frame_count(self) -> int:
        return self.motion.frame_count

    @classmethod
    def load(cls, path: str | os.PathLike) -> Fit:
        """Reads `fit.npz`: CAP4D's, or ours, which adds `head` and `eyes` (T, 2, 3), one rotation per eye.

        Raises:
          UserError: names the array at fault.
        """
        arrays = read_npz(path, limit=_LIMIT)
        schema.require(arrays, ("resolutions",), path)
        motion, head = read_fit_motion(arrays, path)
        cameras = read_cameras(arrays, path)
        count = cameras.batch_shape[0]
        resolutions, names = _resolutions(arrays["resolutions"], count, path), _names(arrays, count, path)
        for view, size in enumerate(resolutions.tolist()):
            check_focal(cameras[view : view + 1, None], names[view : view + 1], (size[0], size[1]), path)
        check_reach(motion, path)
        return cls(motion, cameras[:, None], resolutions, names, _shape(arrays, path), head)

    def save(self, path: str | os.PathLike) -> None:
        """Writes `fit.npz`, atomically: CAP4D's fields, and `head` and `eyes` beside them."""
        motion = self.motion
        eyes = np.asarray(motion.eyes, np.float32)
        arrays: dict[str, Any] = dict(camera_arrays(self.cameras))
        arrays |= {
            "expr": motion.expression,
            "rot": motion.rotation,
            "tra": motion.translation,
            "eye_rot": eyes.mean(1),
            "eyes": eyes,
            "neck_rot": motion.neck,
            "jaw_rot": motion.jaw,
            "fps": np.float64(motion.fps),
            "resolutions": np.asarray(self.resolutions, np.int64),
            "camera_order": np.asarray(self.names, np.str_),
            "head": np.asarray(self.head, np.str_),
        }
        if self.shape is not None:
            arrays["shape"] = np.asarray(self.shape, np.float32)
        with atomic_file(path) as temporary:
            np.savez_compressed(temporary, **arrays)

    def rig(self, head: HeadModel, where: object) -> tuple[HeadModel, Motion]:
        """The personalised rig of this fit on `head`, and the motion with as many expressions as the rig.

        Raises:
          UserError: the coefficients cannot belong to that head.
        """
        check_same_head(self.head, head, where)
        rig = head.personalise(np.zeros(0, np.float32) if self.shape is None else self.shape)
        return rig, pad_expression(self.motion, rig, where)


def read_fit_motion(arrays: dict[str, np.ndarray], path: str | os.PathLike) -> tuple[Motion, str]:
    """The motion of a fit's arrays and the name of the head that its coefficients belong to. Needs no cameras.

    Raises:
      UserError: names the array at fault.
    """
    schema.require(arrays, ("expr", "rot", "tra"), path)
    if arrays["rot"].ndim != 2 or len(arrays["rot"]) == 0:
        raise UserError(path, f"'rot' has shape {list(arrays['rot'].shape)}, expected [T, 3]")
    frames = len(arrays["rot"])
    zeros = np.zeros((frames, 3), np.float32)
    eyes = arrays.get("eyes")
    if eyes is None:
        both = arrays.get("eye_rot", zeros)
        if both.shape != (frames, 3):
            raise UserError(path, f"'eye_rot' has shape {list(both.shape)}, expected [{frames}, 3]")
        eyes = np.stack([both, both], axis=1)  # [T, 2, 3]
    fps = schema.scalar(arrays["fps"], "fps", path) if "fps" in arrays else 25.0
    motion = Motion(
        arrays["expr"],
        arrays["rot"],
        arrays["tra"],
        arrays.get("neck_rot", zeros),
        arrays.get("jaw_rot", zeros),
        eyes,
        fps,
    )
    return schema.check_motion(motion, frames, None, path), _head_name(arrays, path)


def read_references(path: str | os.PathLike) -> list[tuple[str, int]]:
    """Reads `reference_images.json`: [camera name, frame] pairs. Raises UserError."""
    value = read_json(path, limit=1 << 20)
    if not isinstance(value, list) or not value:
        raise UserError(path, "is not a list of [camera name, frame]")
    for item in value:
        if (
            not isinstance(item, list)
            or len(item) != 2
            or not isinstance(item[0], str)
            or isinstance(item[1], bool)
            or not isinstance(item[1], int)
            or not 0 <= item[1] < schema.MAX_FRAMES
        ):
            raise UserError(path, f"entry {str(item)[:60]} is not [camera name, frame]")
        schema.check_file_names([item[0]], path)
    return [(item[0], item[1]) for item in value]


def check_same_head(name: str, head: HeadModel, where: object) -> None:
    """Refuses coefficients of one head on another; FLAME's added teeth and mouths change no coefficient."""
    family = name.partition("+")[0]
    if family != head.name.partition("+")[0]:
        raise UserError(
            where,
            f"its coefficients belong to head '{name}', not to '{head.name}'",
            "give the head that it was fitted with; coefficients do not carry over between heads",
        )


def pad_expression(motion: Motion, head: HeadModel, where: object) -> Motion:
    """Motion with exactly the head's number of expressions: missing ones are zero; surplus ones that are not zero in
    every frame are an error."""
    found, wanted = motion.expression.shape[1], head.expression_count
    if found > wanted and np.any(motion.expression[:, wanted:]):
        raise UserError(
            where,
            f"has {found} expression coefficients, head '{head.name}' has {wanted}",
            "give the head that it was fitted with",
        )
    expression = np.asarray(motion.expression)[:, :wanted]
    expression = np.pad(expression, ((0, 0), (0, wanted - expression.shape[1])))
    return dataclasses.replace(motion, expression=expression)


def _names(arrays: dict[str, np.ndarray], count: int, path: str | os.PathLike) -> tuple[str, ...]:
    if "camera_order" not in arrays:
        return tuple(f"cam{index}" for index in range(count))
    order = arrays["camera_order"]
    if order.shape != (count,) or order.dtype.kind != "U":
        raise UserError(path, f"'camera_order' is {order.dtype} {list(order.shape)}, expected {count} names")
    return schema.check_file_names([str(name) for name in order], path)


def _resolutions(value: np.ndarray, count: int, path: str | os.PathLike) -> np.ndarray:
    if value.shape != (count, 2) or value.dtype.kind not in "iu":
        raise UserError(path, f"'resolutions' is {value.dtype} {list(value.shape)}, expected integers [{count}, 2]")
    if value.min() < 1 or value.max() > schema.MAX_SIDE:
        raise UserError(path, f"'resolutions' holds sides outside 1..{schema.MAX_SIDE}")
    return value.astype(np.int64)


def _shape(arrays: dict[str, np.ndarray], path: str | os.PathLike) -> np.ndarray | None:
    if "shape" not in arrays:
        return None
    shape = arrays["shape"]
    if shape.ndim == 2 and len(shape) == 1:
        shape = shape[0]
    if shape.ndim != 1 or shape.dtype.kind not in "fiu" or not np.isfinite(shape).all():
        raise UserError(path, f"'shape' is {shape.dtype} {list(shape.shape)}, expected finite numbers [S]")
    return shape.astype(np.float32)


def _head_name(arrays: dict[str, np.ndarray], path: Path | str | os.PathLike) -> str:
    if "head" not in arrays:
        return CAP4D_HEAD if "jaw_rot" not in arrays else CAP4D_HEAD.removesuffix("-nojaw")
    if arrays["head"].shape != () or arrays["head"].dtype.kind != "U":
        raise UserError(path, "'head' is not one name")
    return str(arrays["head"])


def validate_fit(path: str | os.PathLike) -> str:
    """Checks `fit.npz` and says what it is in one line. Raises UserError."""
    fit = Fit.load(path)
    sizes = sorted({f"{height} x {width}" for height, width in fit.resolutions.tolist()})
    kind = "fit" if fit.shape is not None else "motion, kept as a fit without an identity,"
    shape = "" if fit.shape is None else f"{counted(len(fit.shape), 'identity coefficient')}, "
    return (
        f"{path}: {kind} of head '{fit.head}', {counted(fit.frame_count, 'frame')} at {fit.motion.fps:g} fps, {shape}"
        f"{counted(fit.motion.expression.shape[1], 'expression coefficient')}, "
        f"{counted(len(fit.names), 'camera')} ({', '.join(sizes)})"
    )
