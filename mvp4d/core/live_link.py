"""Live Link Face recordings: the CSV that Epic's app writes."""

from __future__ import annotations

import csv
import os
import re

import numpy as np
from scipy.spatial.transform import Rotation

from mvp4d.core.errors import UserError
from mvp4d.core.heads.motion import Motion

LIVE_LINK_FPS = 60.0  # what the app records at; the timecode column says otherwise where it does not
_ANGLES = ("HeadYaw", "HeadPitch", "HeadRoll", "LeftEyeYaw", "LeftEyePitch", "RightEyeYaw", "RightEyePitch")
_COUNTERS = ("timecode", "blendshapecount")
_AXES = {"Yaw": 1, "Pitch": 0, "Roll": 2}


def read_live_link(path: str | os.PathLike) -> tuple[Motion, tuple[str, ...]]:
    """Reads the CSV that Epic's Live Link Face app writes: 52 ARKit blendshapes, then head and eye angles in radians.

    Yaw turns about y, pitch about x, roll about z; the head's translation is not recorded and stays zero.

    Raises:
      UserError: a column is missing or a value is not a finite number, naming the row and column.
    """
    with open(path, newline="", encoding="utf-8-sig") as handle:
        try:
            rows = list(csv.DictReader(handle))
        except (csv.Error, UnicodeDecodeError) as error:
            raise UserError(path, f"not a readable CSV ({error})") from None
    if not rows:
        raise UserError(path, "has no frames", "record it again")
    fields = [field for field in rows[0] if field]
    angle_fields = {field for field in fields if re.fullmatch(r"(Head|LeftEye|RightEye)(Yaw|Pitch|Roll)", field)}
    names = tuple(field for field in fields if field not in angle_fields and field.lower() not in _COUNTERS)
    missing = [name for name in ("JawOpen", "EyeBlinkLeft", *_ANGLES) if name not in fields]
    if missing:
        raise UserError(path, f"lacks the column '{missing[0]}'", "export it from Live Link Face with blendshapes")
    rows = [row for row in rows if (row.get("JawOpen") or "").strip()]  # the app leaves lines without a face empty
    if not rows:
        raise UserError(path, "has no frame with a face", "record it again")
    values = {field: _column(rows, field, path) for field in (*names, *angle_fields)}
    count = len(rows)
    rotation, eyes = np.zeros((count, 3), np.float32), np.zeros((count, 2, 3), np.float32)
    for axis, place in _AXES.items():
        rotation[:, place] = values.get(f"Head{axis}", 0)
        eyes[:, 0, place] = values.get(f"LeftEye{axis}", 0)
        eyes[:, 1, place] = values.get(f"RightEye{axis}", 0)
    rotation = _euler_to_axis_angle(rotation)
    zeros = np.zeros((count, 3), np.float32)
    expression = np.stack([values[name] for name in names], axis=1)
    return Motion(expression, rotation, zeros, zeros, zeros, eyes, _timecode_fps(rows)), names


def _column(rows: list[dict[str, str]], field: str, path: str | os.PathLike) -> np.ndarray:
    out = np.empty(len(rows), np.float32)
    for index, row in enumerate(rows):
        try:
            out[index] = float(row[field])
        except (TypeError, ValueError):
            raise UserError(path, f"row {index + 2}, column '{field}': '{row[field]}' is not a number") from None
        if not np.isfinite(out[index]):
            raise UserError(path, f"row {index + 2}, column '{field}' is not finite")
    return out


def _euler_to_axis_angle(angles: np.ndarray) -> np.ndarray:
    """[F, 3] (pitch, yaw, roll) -> axis-angle of R_y(yaw) R_x(pitch) R_z(roll)."""
    return Rotation.from_euler("YXZ", angles[:, [1, 0, 2]]).as_rotvec().astype(np.float32)


def _timecode_fps(rows: list[dict[str, str]]) -> float:
    """Frames per second read off the `HH:MM:SS:FF.sub` timecodes; the app's default where they do not tell."""
    match = [re.fullmatch(r"(\d+):(\d+):(\d+)[:;](\d+)(?:\.\d+)?", (row.get("Timecode") or "").strip()) for row in rows]
    frames = [int(found[4]) for found in match if found]
    if len(frames) < 2 or len(frames) != len(rows):
        return LIVE_LINK_FPS
    seconds = [int(found[1]) * 3600 + int(found[2]) * 60 + int(found[3]) for found in match]
    whole = seconds[-1] - seconds[0]
    if whole < 1:
        return LIVE_LINK_FPS
    rate = (len(rows) - 1 - (frames[-1] - frames[0])) / whole
    return float(min((24.0, 25.0, 30.0, 50.0, 60.0), key=lambda value: abs(value - rate)))
