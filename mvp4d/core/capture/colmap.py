"""COLMAP's sparse model as text: `cameras.txt` and `images.txt` (COLMAP's documentation, "Output Format").

An image's line is `IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME`, world to camera in OpenCV axes, followed by a line of
its 2D points, which may be empty. The first pixel's centre is (0.5, 0.5), as here.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from mvp4d.core.cameras.camera import Camera, rigid
from mvp4d.core.cameras.distortion import Distortion, read_distortion
from mvp4d.core.capture import schema
from mvp4d.core.errors import UserError
from mvp4d.core.files import read_text

# Parameters of each model in COLMAP's order; `f` stands for both focal lengths.
MODELS = {
    "SIMPLE_PINHOLE": ("f", "cx", "cy"),
    "PINHOLE": ("fx", "fy", "cx", "cy"),
    "SIMPLE_RADIAL": ("f", "cx", "cy", "k1"),
    "RADIAL": ("f", "cx", "cy", "k1", "k2"),
    "OPENCV": ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2"),
    "OPENCV_FISHEYE": ("fx", "fy", "cx", "cy", "k1", "k2", "k3", "k4"),
    "FULL_OPENCV": ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6"),
}
_INTRINSICS = ("f", "fx", "fy", "cx", "cy")
_LIMIT = 1 << 30  # bytes: images.txt holds every 2D point


@dataclasses.dataclass(frozen=True)
class Picture:
    """A calibrated picture: its name, unbatched camera, (height, width) and lens."""

    name: str
    camera: Camera
    size: tuple[int, int]
    lens: Distortion | None


def read_model(folder: Path) -> list[Picture]:
    """Reads the pictures of a text model, in the order of the file.

    Raises:
      UserError: names the file and the line.
    """
    intrinsics = _read_cameras(folder / "cameras.txt")
    where, found = folder / "images.txt", []
    # Lines of points may be empty, so that only comments are left out; after the last picture there may be none.
    lines = [line for line in enumerate(read_text(where, limit=_LIMIT).split("\n"), 1) if not line[1].startswith("#")]
    for number, line in lines[::2]:
        if not line.strip():
            continue
        words = line.split(maxsplit=9)
        if len(words) != 10:
            raise UserError(where, f"line {number} is no 'IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME'")
        pose = _numbers(words[1:8], where, number)
        if not 1e-3 < np.linalg.norm(pose[:4]) < 1e3:
            raise UserError(where, f"line {number}: its quaternion is {' '.join(words[1:5])[:60]}")
        if words[8] not in intrinsics:
            raise UserError(where, f"line {number}: camera {words[8][:20]} is not in cameras.txt")
        size, numbers, lens = intrinsics[words[8]]
        turn = Rotation.from_quat(pose[[1, 2, 3, 0]]).as_matrix()
        found.append(Picture(words[9].strip(), Camera(rigid(turn, pose[4:]), *numbers), size, lens))
    return found


def _read_cameras(where: Path) -> dict[str, tuple[tuple[int, int], tuple[np.float64, ...], Distortion | None]]:
    """Identifier -> (height, width), fx fy cx cy, lens."""
    cameras = {}
    for number, line in enumerate(read_text(where, limit=_LIMIT).split("\n"), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) < 4 or words[1] not in MODELS:
            model = words[1][:40] if len(words) > 1 else ""
            raise UserError(where, f"line {number}: camera model '{model}' is not known", f"{', '.join(MODELS)} are")
        names = MODELS[words[1]]
        width, height, *values = _numbers(words[2:], where, number).tolist()
        if len(values) != len(names):
            raise UserError(where, f"line {number}: {len(values)} parameters, {words[1]} has {len(names)}")
        if not width.is_integer() or not height.is_integer():
            raise UserError(where, f"line {number}: a picture of {words[2][:20]} x {words[3][:20]} pixels")
        size = schema.check_image_size([int(height), int(width)], where)
        given = dict(zip(names, values))
        fx, fy = given.get("fx", given.get("f")), given.get("fy", given.get("f"))
        lens = {"camera_model": words[1]} | {name: item for name, item in given.items() if name not in _INTRINSICS}
        numbers = tuple(np.float64(item) for item in (fx, fy, given["cx"], given["cy"]))
        cameras[words[0]] = (size, numbers, read_distortion(lens, where))
    return cameras


def _numbers(words: list[str], where: Path, line: int) -> np.ndarray:
    try:
        values = np.array([float(word) for word in words])
    except ValueError:
        values = np.array([np.nan])
    if not np.isfinite(values).all() or np.abs(values).max(initial=0) > 1e12:
        raise UserError(where, f"line {line} holds what is no finite number")
    return values
