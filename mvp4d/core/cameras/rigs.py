"""Camera rigs by a short spec, and camera paths from files.

    orbit:360x8            eight still cameras, evenly around the head, the first one in front
    arc:120x6@15           six still cameras over 120 degrees, centred in front, 15 degrees above the horizon
    turn:360               one camera that goes once around while the frames pass; turn:-90 goes the other way
    sway:30                one camera that swings 30 degrees to either side and back while the frames pass
    file:orbit.npz         one moving camera, read from a CAP4D camera path
    file:CAPTURE           the still cameras of a capture folder
    orbit:360x8,distance=1.5,fov=20      metres from the head's centre, and degrees across the picture's height

Azimuth grows towards world x (the right of a frontal picture), elevation upwards.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from mvp4d.core.arguments import checked
from mvp4d.core.cameras import camera as cameras
from mvp4d.core.cameras.camera import Camera
from mvp4d.core.cameras.path import CameraPath
from mvp4d.core.errors import UserError
from mvp4d.core.files import read_json, read_npz

# Frames 0.38 m at the head's centre: a head with hair and the upper part of its shoulders.
DISTANCE = 1.2
FOV_DEGREES = 18.0
HEAD_CENTRE = (0.0, -0.015, -0.02)  # of head space, between chin and crown, face and nape

_NUMBER = r"[-+]?\d{1,6}(?:\.\d{1,12})?"
_SPEC = re.compile(
    rf"(?P<kind>orbit|arc|turn|sway):(?P<degrees>{_NUMBER})(?:x(?P<count>\d{{1,9}}))?(?:@(?P<elevation>{_NUMBER}))?"
    rf"(?P<options>(?:,(?:distance|fov)={_NUMBER})*)"
)
_HELP = "use for example orbit:360x8, arc:120x6@15, turn:360, sway:30 or file:orbit.npz"
_MAX_CAMERAS = 10_000


@checked
def camera_rig(
    spec: str, image_size: tuple[int, int], frames: int = 1, *, target: tuple[float, float, float] = HEAD_CENTRE
) -> Camera:
    """Cameras of a spec (see the module's docstring), looking at `target`.

    Args:
      spec: the spec.
      image_size: (H, W) of the pictures to take.
      frames: number of frames of a moving camera; still rigs ignore it.
      target: world point in metres that the cameras look at and turn around; a file brings its own.

    Returns:
      Camera [V] for a still rig, [1, F] for a moving camera, float64 numpy.

    Raises:
      UserError: the spec cannot be read, or the file is not a camera path of at least `frames` frames.
    """
    kind, _, path = spec.partition(":")
    if kind == "file" and path:
        return _from_file(path, image_size, frames)
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise UserError("`cameras`", f"'{spec}' is not a camera rig", _HELP)
    options = dict(item.split("=") for item in match["options"].split(",") if item)
    distance, fov = float(options.get("distance", DISTANCE)), float(options.get("fov", FOV_DEGREES))
    elevation = float(match["elevation"] or 0.0)
    if not 0.05 <= distance <= 100 or not 0.5 <= fov <= 170 or abs(elevation) >= 90:
        raise UserError(
            "cameras",
            f"'{spec}' has a distance, field of view or elevation out of range",
            "distance 0.05 to 100 m, fov 0.5 to 170 degrees, elevation within 89 degrees",
        )
    azimuth = _azimuths(match, spec, frames)
    positions = np.asarray(target) + distance * direction(azimuth, np.deg2rad(elevation))
    return cameras.perspective(cameras.look_at(positions, np.asarray(target, float)), np.deg2rad(fov), image_size)


def direction(azimuth: np.ndarray, elevation: np.ndarray | float) -> np.ndarray:
    """[..., 3] unit vectors from the head towards cameras at these angles (radians)."""
    azimuth, elevation = np.broadcast_arrays(azimuth, elevation)
    return np.stack([np.sin(azimuth) * np.cos(elevation), np.sin(elevation), np.cos(azimuth) * np.cos(elevation)], -1)


def attach_to_head(camera: Camera, rotation: np.ndarray, translation: np.ndarray) -> Camera:
    """Moves cameras given in head space (in front of a head at rest) to a head with this pose.

    A camera frontal to the resting head is frontal to the posed one, whichever way that looks.

    Args:
      camera: [...] in head space.
      rotation: [3, 3] head rotation matrix; translation: [3] metres.
    """
    head_to_world = cameras.rigid(np.asarray(rotation, float), np.asarray(translation, float))
    moved = np.asarray(camera.world_to_camera) @ np.linalg.inv(head_to_world)
    return Camera(moved, camera.fx, camera.fy, camera.cx, camera.cy)


def rig_names(count: int) -> list[str]:
    """Names for the cameras of a rig: cam00, cam01, ..."""
    digits = max(2, len(str(count - 1)))
    return [f"cam{index:0{digits}d}" for index in range(count)]


def _azimuths(match: re.Match, spec: str, frames: int) -> np.ndarray:
    """[V] radians for still rigs, [1, F] for moving cameras."""
    kind, span = match["kind"], np.deg2rad(float(match["degrees"]))
    moving = kind in ("turn", "sway")
    if moving != (match["count"] is None):
        raise UserError("`cameras`", f"'{spec}' {'takes no' if moving else 'lacks the'} number of cameras", _HELP)
    if moving:
        if frames < 1:
            raise UserError("`cameras`", f"'{spec}' moves over {frames} frames", "give it at least one frame")
        phase = np.arange(frames) / frames
        return (span * phase if kind == "turn" else span * np.sin(2 * np.pi * phase))[None]
    count = int(match["count"])
    if not 1 <= count <= _MAX_CAMERAS:
        raise UserError("`cameras`", f"'{spec}' has {count} cameras", f"1 to {_MAX_CAMERAS} are possible")
    if kind == "orbit":
        return span * np.arange(count) / count
    return np.linspace(-span / 2, span / 2, count) if count > 1 else np.zeros(1)


def _from_file(path: str, image_size: tuple[int, int], frames: int) -> Camera:
    """[1, F] of a camera path, whole field of view kept; [V] of the still cameras of a capture."""
    described = Path(path) / "capture.json" if Path(path).is_dir() else Path(path).with_name("capture.json")
    if described.is_file():
        return _of_capture(described, image_size)
    found = CameraPath.load(path)
    count = found.camera.batch_shape[0]
    if count < frames:
        raise UserError(path, f"holds {count} cameras for {frames} frames", "use fewer frames or a longer path")
    return cameras.letterbox(found.camera[:frames], found.image_size, image_size)[None]


def _of_capture(described: Path, image_size: tuple[int, int]) -> Camera:
    info, where = read_json(described), described.with_name("cameras.npz")
    size = info.get("image_size") if isinstance(info, dict) else None
    if not isinstance(size, list) or len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
        raise UserError(described, "field 'image_size' is not [height, width]")
    arrays = read_npz(where)
    for name in cameras.FIELDS:
        if name not in arrays:
            raise UserError(where, f"lacks the array '{name}'")
        if arrays[name].dtype.kind not in "fiu":
            raise UserError(where, f"'{name}' holds {arrays[name].dtype} values", "it must hold numbers")
    camera = Camera(**{name: arrays[name] for name in cameras.FIELDS})
    cameras.check(camera, where)
    if camera.world_to_camera.ndim != 4 or camera.world_to_camera.shape[1] != 1:
        raise UserError(where, "its cameras move", "give a capture with still cameras, or a camera path")
    cameras.check_focal(camera, tuple(str(view) for view in range(len(camera.fx))), (size[0], size[1]), where)
    return cameras.letterbox(camera[:, 0], (size[0], size[1]), image_size)
