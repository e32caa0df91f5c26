"""Cameras for rendering, by the same specs as `mvp4d_jax/geometry/rigs.py`, and camera paths from files.

orbit:360x48           48 cameras evenly around the head, the first one in front
arc:120x24@15          24 cameras over 120 degrees, centred in front, 15 degrees above the horizon
turn:360               once around while the motion plays; turn:-90 goes the other way
sway:30                swings 30 degrees to either side and back while the motion plays
file:orbit.npz         a CAP4D camera path (or the cameras.npz of a capture)
orbit:360x8,distance=1.5,fov=20      metres from the head's centre, and degrees across the picture's height
"""

from __future__ import annotations

import dataclasses
import re

import numpy as np

from mvp4d_export.capture import CAP4D_AXES, intrinsics, read_npz
from mvp4d_export.errors import UserError

DISTANCE, FOV_DEGREES = 1.2, 18.0
HEAD_CENTRE = (0.0, -0.015, -0.02)
_NUMBER = r"[-+]?\d+(?:\.\d+)?"
_SPEC = re.compile(
    rf"(?P<kind>orbit|arc|turn|sway):(?P<degrees>{_NUMBER})(?:x(?P<count>\d+))?(?:@(?P<elevation>{_NUMBER}))?"
    rf"(?P<options>(?:,(?:distance|fov)={_NUMBER})*)"
)
_HELP = "use for example orbit:360x48, arc:120x24@15, turn:360, sway:30 or file:orbit.npz"


@dataclasses.dataclass(frozen=True)
class CameraPath:
    """V cameras: viewmats [V, 4, 4] world to camera (OpenCV axes), Ks [V, 3, 3] pixels, float32.

    `moving`: one camera that moves with the frames, rather than V cameras that stand still.
    """

    viewmats: np.ndarray
    Ks: np.ndarray
    moving: bool


def camera_path(spec: str, image_size: tuple[int, int], frames: int) -> CameraPath:
    """Cameras of a spec.

    Args:
      image_size: (H, W) of the pictures.
      frames: frames of the motion; rigs that move take one camera for each.

    Raises:
      UserError: the spec cannot be read, or its file is no camera path.
    """
    kind, _, path = spec.partition(":")
    if kind == "file" and path:
        return _from_file(path, image_size, frames)
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise UserError("--cameras", f"'{spec}' is not a camera rig", _HELP)
    moving = match["kind"] in ("turn", "sway")
    if moving != (match["count"] is None):
        raise UserError("--cameras", f"'{spec}' {'takes no' if moving else 'lacks the'} number of cameras", _HELP)
    options = dict(item.split("=") for item in match["options"].split(",") if item)
    distance, fov = float(options.get("distance", DISTANCE)), float(options.get("fov", FOV_DEGREES))
    elevation = float(match["elevation"] or 0)
    if not 0.05 <= distance <= 100 or not 0.5 <= fov <= 170 or abs(elevation) >= 90:
        raise UserError(
            "--cameras",
            f"'{spec}' has a distance, field of view or elevation out of range",
            "distance 0.05 to 100 m, fov 0.5 to 170 degrees, elevation within 89 degrees",
        )
    azimuth = _azimuths(match, frames)
    if not 1 <= len(azimuth) <= 100_000:
        raise UserError("--cameras", f"'{spec}' has {len(azimuth)} cameras", _HELP)
    viewmats = np.stack([look_at(angle, np.deg2rad(elevation), distance) for angle in azimuth])
    height, width = image_size
    focal = height / 2 / np.tan(np.deg2rad(fov) / 2)
    ones = np.ones(len(azimuth))
    return CameraPath(
        viewmats.astype(np.float32), intrinsics(focal * ones, focal * ones, width / 2 * ones, height / 2 * ones), moving
    )


def look_at(azimuth: float, elevation: float, distance: float) -> np.ndarray:
    """World-to-camera [4, 4] of a camera around the head's centre. Azimuth grows towards +x, elevation upwards."""
    centre = np.asarray(HEAD_CENTRE)
    towards = np.array([np.sin(azimuth) * np.cos(elevation), np.sin(elevation), np.cos(azimuth) * np.cos(elevation)])
    forward = -towards
    right = np.cross(forward, (0.0, 1.0, 0.0))
    right /= np.linalg.norm(right)
    matrix = np.eye(4)
    matrix[:3, :3] = np.stack([right, np.cross(forward, right), forward])
    matrix[:3, 3] = -matrix[:3, :3] @ (centre + distance * towards)
    return matrix


def _azimuths(match: re.Match, frames: int) -> np.ndarray:
    kind, span = match["kind"], np.deg2rad(float(match["degrees"]))
    phase = np.arange(frames) / max(frames, 1)
    if kind == "turn":
        return span * phase
    if kind == "sway":
        return span * np.sin(2 * np.pi * phase)
    count = int(match["count"])
    if kind == "orbit":
        return span * np.arange(count) / max(count, 1)
    return np.linspace(-span / 2, span / 2, count) if count > 1 else np.zeros(count)


def _from_file(path: str, image_size: tuple[int, int], frames: int) -> CameraPath:
    data = read_npz(path)
    try:
        if "extr" in data:
            size = np.asarray(data["resolution"], float).reshape(2)
            viewmats = np.asarray(data["extr"], np.float64) @ CAP4D_AXES
            values = [
                np.broadcast_to(np.asarray(data[key], np.float64).reshape(-1), len(viewmats)).copy()
                for key in ("fx", "fy", "cx", "cy")
            ]
            moving = True
        else:
            size = np.asarray(image_size, float)
            viewmats = np.asarray(data["world_to_camera"], np.float64)[:, 0]
            values = [np.asarray(data[key], np.float64)[:, 0] for key in ("fx", "fy", "cx", "cy")]
            # A capture does not say its picture size here; principal points lie near the middle.
            size = np.array([2 * values[3].mean(), 2 * values[2].mean()])
            moving = False
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(path, f"is no camera path ({error})", "it needs extr, fx, fy, cx, cy, resolution") from None
    if viewmats.ndim != 3 or viewmats.shape[1:] != (4, 4) or not np.isfinite(viewmats).all():
        raise UserError(path, f"its cameras have shape {viewmats.shape}, expected [T, 4, 4]")
    if moving and len(viewmats) < frames:
        raise UserError(path, f"holds {len(viewmats)} cameras for {frames} frames", "use fewer frames or a longer path")
    if moving:
        viewmats, values = viewmats[:frames], [value[:frames] for value in values]
    # Whole field of view kept: scaled by the smaller ratio, centred.
    factor = min(image_size[0] / size[0], image_size[1] / size[1])
    shift = [(image_size[1] - factor * size[1]) / 2, (image_size[0] - factor * size[0]) / 2]
    fx, fy, cx, cy = values
    Ks = intrinsics(fx * factor, fy * factor, cx * factor + shift[0], cy * factor + shift[1])
    return CameraPath(viewmats.astype(np.float32), Ks, moving)
