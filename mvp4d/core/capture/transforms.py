"""`transforms.json`, as VHAP, nerfstudio and Blender's tools write it: frames, intrinsics, lenses, paths."""

from __future__ import annotations

import math
from pathlib import Path, PureWindowsPath

import numpy as np

from mvp4d.core.capture import convert
from mvp4d.core.errors import UserError
from mvp4d.core.files import read_json
from mvp4d.core.places import absolute

_SHARED = (
    "fl_x",
    "fl_y",
    "cx",
    "cy",
    "w",
    "h",
    "camera_angle_x",
    "camera_angle_y",
    "camera_model",
    "is_fisheye",
    "k1",
    "k2",
    "k3",
    "k4",
    "k5",
    "k6",
    "p1",
    "p2",
)


def read_transforms(paths: list[Path]) -> list[dict]:
    """The frames of some files; what a file says of all its frames stands in each that does not say otherwise.

    Raises:
      UserError: names the file and the field.
    """
    frames: list[dict] = []
    for path in paths:
        value = read_json(path)
        value = value if isinstance(value, dict) else {}
        found = value.get("frames")
        if not isinstance(found, list) or not all(isinstance(frame, dict) for frame in found):
            raise UserError(path, "field 'frames' is not a list of objects")
        shared = {name: value[name] for name in _SHARED if name in value}
        frames += [shared | frame for frame in found]
    if not frames:
        raise UserError(paths[0], "has no frames")
    return frames


def resolve(folder: Path, relative: object, where: object) -> Path:
    """A frame's file: in the folder or, as VHAP's UNION folders have it, in one beside it; backslashes separate too."""
    if not isinstance(relative, str) or not relative or "\0" in relative or len(relative) > 1000:
        raise UserError(where, f"'{str(relative)[:60]}' is not a file name")
    if "\\" in relative and not (folder / relative).exists():
        relative = PureWindowsPath(relative).as_posix()
    path = folder / relative
    if (
        Path(relative).is_absolute()
        or PureWindowsPath(relative).drive
        or not convert.is_inside(path, absolute(folder).parent)
    ):
        raise UserError(
            where, f"'{relative[:80]}' leads out of {folder} and what lies beside it", "copy the file into the folder"
        )
    return path


def intrinsics(frame: dict, size: tuple[int, int], index: int, where: object) -> tuple[float, float, float, float]:
    """fx, fy, cx, cy in pixels of a frame: `fl_x` ..., or `camera_angle_x` alone, with the axis through the middle.

    Raises:
      UserError: neither is there, or a value is no finite number.
    """
    height, width = size
    fx, fy = (_number(frame, name, index, where) for name in ("fl_x", "fl_y"))
    if fx is None:
        fx = _focal(frame, "camera_angle_x", width, index, where)
    if fy is None:
        fy = _focal(frame, "camera_angle_y", height, index, where)
    fx, fy = (fy if fx is None else fx), (fx if fy is None else fy)
    if fx is None or fy is None:
        raise UserError(
            where,
            f"frame {index} has no usable camera: neither 'fl_x' nor 'camera_angle_x'",
            "give one of them, for the frame or at the root",
        )
    cx, cy = _number(frame, "cx", index, where), _number(frame, "cy", index, where)
    return fx, fy, width / 2 if cx is None else cx, height / 2 if cy is None else cy


def matrix(frame: dict, index: int, where: object) -> np.ndarray:
    """`transform_matrix`, [4, 4]; a last row that is missing is added. Raises UserError."""
    try:
        found = np.array(frame.get("transform_matrix"), np.float64)
    except (TypeError, ValueError, OverflowError):
        found = np.zeros(0)
    if found.shape == (3, 4):
        found = np.concatenate([found, [[0, 0, 0, 1.0]]])
    if found.size != 16 or not np.isfinite(found).all() or abs(np.linalg.det(found.reshape(4, 4))) < 1e-6:
        raise UserError(
            where,
            f"frame {index} has no usable camera: 'transform_matrix' is no 4 x 4 matrix of numbers with an inverse",
        )
    return found.reshape(4, 4)


def _focal(frame: dict, name: str, side: int, index: int, where: object) -> float | None:
    angle = _number(frame, name, index, where)
    if angle is None:
        return None
    if not 0 < angle < math.pi:
        raise UserError(where, f"frame {index}: '{name}' is {angle:g}", "it is in radians, above 0 and below pi")
    return side / (2 * math.tan(angle / 2))


def _number(frame: dict, name: str, index: int, where: object) -> float | None:
    value = frame.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e9:
        raise UserError(where, f"frame {index}: '{name}' is {str(value)[:40]}", "it is a finite number")
    return float(value)
