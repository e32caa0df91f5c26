"""Lens distortion by OpenCV's models, taken out of pictures.

Formulas: OpenCV's documentation of calib3d ("Detailed Description") and of its fisheye module. With (x, y) the pinhole
camera's x/z, y/z and r^2 = x^2 + y^2:

    OPENCV          x' = x (1 + k1 r^2 + k2 r^4 + k3 r^6) / (1 + k4 r^2 + k5 r^4 + k6 r^6) + 2 p1 x y + p2 (r^2 + 2 x^2)
                    y' = y (the same) + p1 (r^2 + 2 y^2) + 2 p2 x y
    OPENCV_FISHEYE  t = atan(r), x' = x/r t (1 + k1 t^2 + k2 t^4 + k3 t^6 + k4 t^8), y' likewise
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
from scipy.ndimage import map_coordinates

from mvp4d.core.errors import UserError

NAMES = {"OPENCV": ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6"), "OPENCV_FISHEYE": ("k1", "k2", "k3", "k4")}
_PLAIN = ("PINHOLE", "SIMPLE_PINHOLE", "PERSPECTIVE")
_ALIASES = {"SIMPLE_RADIAL": "OPENCV", "RADIAL": "OPENCV", "FULL_OPENCV": "OPENCV", "FISHEYE": "OPENCV_FISHEYE"}
LARGEST = 50.0  # of any coefficient


@dataclasses.dataclass(frozen=True)
class Distortion:
    """A lens: `model` "OPENCV" or "OPENCV_FISHEYE", and its coefficients by name; those that are left out are 0."""

    model: str
    coefficients: tuple[tuple[str, float], ...]

    def apply(self, points: np.ndarray) -> np.ndarray:
        """Where the lens puts pinhole points [..., 2] (x/z, y/z)."""
        k = dict.fromkeys(NAMES[self.model], 0.0) | dict(self.coefficients)
        x, y = points[..., 0], points[..., 1]
        square = x * x + y * y
        if self.model == "OPENCV_FISHEYE":
            radius = np.sqrt(square)
            angle = np.arctan(radius)
            powers = 1 + angle**2 * (k["k1"] + angle**2 * (k["k2"] + angle**2 * (k["k3"] + angle**2 * k["k4"])))
            scale = np.where(radius > 1e-9, angle * powers / np.maximum(radius, 1e-9), 1.0)
            return points * scale[..., None]
        scale = (1 + square * (k["k1"] + square * (k["k2"] + square * k["k3"]))) / (
            1 + square * (k["k4"] + square * (k["k5"] + square * k["k6"]))
        )
        return np.stack(
            [
                x * scale + 2 * k["p1"] * x * y + k["p2"] * (square + 2 * x * x),
                y * scale + k["p1"] * (square + 2 * y * y) + 2 * k["p2"] * x * y,
            ],
            -1,
        )


def read_distortion(values: dict, where: object) -> Distortion | None:
    """The lens of a nerfstudio-like object (`camera_model`, `k1`, `k2`, ...); None for one without distortion.

    Raises:
      UserError: a model or a coefficient that is not known here: it is refused by name.
    """
    model = values.get("camera_model", "OPENCV")
    if values.get("is_fisheye") is True:
        model = "OPENCV_FISHEYE"
    found = {name: values[name] for name in ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2") if name in values}
    for name, value in found.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= LARGEST:
            raise UserError(where, f"distortion '{name}' is {str(value)[:40]}", f"it is a number within +-{LARGEST:g}")
    found = {name: float(value) for name, value in found.items() if value}
    if not isinstance(model, str) or (model not in (*NAMES, *_PLAIN, *_ALIASES) and found):
        raise UserError(
            where,
            f"camera model '{str(model)[:40]}' is not known here",
            f"undistort the pictures first; known are {', '.join((*_PLAIN, *_ALIASES, *NAMES))}",
        )
    model = _ALIASES.get(model, model)
    if not found and model != "OPENCV_FISHEYE":
        return None
    model = "OPENCV" if model in _PLAIN else model
    unknown = [name for name in found if name not in NAMES.get(model, ())]
    if unknown:
        raise UserError(where, f"camera model {model} has no '{unknown[0]}'", "undistort the pictures first")
    return Distortion(model, tuple(sorted(found.items())))


def undistort(
    picture: np.ndarray, lens: Distortion, fx: float, fy: float, cx: float, cy: float, outside: int
) -> np.ndarray:
    """The picture that a pinhole camera of the same intrinsics takes.

    Args:
      picture: uint8 [H, W] or [H, W, C].
      outside: what is seen where the lens shows nothing.
    """
    places = _places(lens, (fx, fy, cx, cy), picture.shape[:2])
    channels = picture[..., None] if picture.ndim == 2 else picture
    out = np.stack(
        [
            map_coordinates(channels[..., index].astype(np.float32), places, order=1, mode="constant", cval=outside)
            for index in range(channels.shape[2])
        ],
        -1,
    )
    return np.rint(np.clip(out, 0, 255)).astype(np.uint8).reshape(picture.shape)


@functools.lru_cache(maxsize=32)
def _places(lens: Distortion, intrinsics: tuple[float, float, float, float], size: tuple[int, int]) -> np.ndarray:
    """[2, H, W] row and column in the lens's picture of every pixel's centre."""
    fx, fy, cx, cy = intrinsics
    rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
    seen = lens.apply(np.stack([(columns - cx) / fx, (rows - cy) / fy], -1))
    return np.stack([seen[..., 1] * fy + cy - 0.5, seen[..., 0] * fx + cx - 0.5])
