"""Live Link Face recordings: the CSV that Epic's app writes, read and written."""

from __future__ import annotations

import csv
import dataclasses
import io
import os
import re

import numpy as np
from scipy.spatial.transform import Rotation

from mvp4d.core.errors import UserError
from mvp4d.core.files import atomic_file, read_text
from mvp4d.core.heads.arkit import ARKIT_NAMES
from mvp4d.core.heads.motion import Motion
from mvp4d.core.heads.resample import resample
from mvp4d.core.heads.retarget import canonical_name

LIVE_LINK_FPS = 60.0  # what the app records at; the timecode column says otherwise where it does not
_LARGEST = 1 << 28  # bytes: an hour and a half at 60 frames per second
_ANGLES = ("HeadYaw", "HeadPitch", "HeadRoll", "LeftEyeYaw", "LeftEyePitch", "RightEyeYaw", "RightEyePitch")
_COUNTERS = ("timecode", "blendshapecount")
_AXES = {"Yaw": 1, "Pitch": 0, "Roll": 2}
_RATES = (24.0, 25.0, 30.0, 50.0, 60.0)  # what timecodes can say
_OUR_START = r"00:00:00:\d\d\.000,"  # recordings of the app start at a time of day
# Apple's order as the app writes it: right before left in these two places
_SWAPPED = {"jawLeft": "jawRight", "jawRight": "jawLeft", "mouthLeft": "mouthRight", "mouthRight": "mouthLeft"}


def read_live_link(path: str | os.PathLike) -> tuple[Motion, tuple[str, ...]]:
    """Reads the CSV that Epic's Live Link Face app writes: 52 ARKit blendshapes, then head and eye angles in radians.

    Yaw turns about y, pitch about x, roll about z; the head's translation is not recorded and stays zero.

    Raises:
      UserError: a column is missing or a value is not a finite number, naming the row and column; or far too large.
    """
    try:
        table = csv.DictReader(io.StringIO(read_text(path, limit=_LARGEST), newline=""))
        table.fieldnames = [_spelled(field) for field in table.fieldnames or ()]
        rows = list(table)
    except csv.Error as error:
        raise UserError(path, f"not a readable CSV ({error})") from None
    if not rows:
        raise UserError(path, "has no frames", "record it again")
    fields = [field for field in table.fieldnames if field]
    twice = next((field for field in fields if fields.count(field) > 1), None)
    if twice is not None:
        raise UserError(path, f"has two columns '{twice[:60]}'")
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
    eyes = np.stack([_euler_to_axis_angle(eyes[:, side]) for side in range(2)], 1)
    zeros = np.zeros((count, 3), np.float32)
    expression = np.stack([values[name] for name in names], axis=1)
    return Motion(expression, rotation, zeros, zeros, zeros, eyes, _timecode_fps(rows)), names


def check_recording(path: str | os.PathLike, overwrite: bool) -> None:
    """Refuses a name that is taken, unless `overwrite` and `write_live_link` made what is there.

    Raises:
      UserError: something is in the way.
    """
    if not os.path.lexists(path):
        return
    if not overwrite:
        raise UserError(path, "is already there", "choose another name, or give `overwrite`")
    try:
        with open(path, encoding="utf-8") as handle:
            lines = [handle.readline(4096) for _ in range(2)]
    except (OSError, UnicodeDecodeError):
        lines = ["", ""]
    if not lines[0].startswith("Timecode,BlendShapeCount,") or not re.match(_OUR_START, lines[1]):
        raise UserError(path, "was not made by this program, so it is not overwritten", "choose another name")


def write_live_link(path: str | os.PathLike, motion: Motion, names: tuple[str, ...]) -> str:
    """Writes a motion as such a recording, atomically.

    Args:
      names: [E] expression names in any spelling; those that ARKit lacks are left out, those it has besides are 0.

    Returns:
      notice: one line on what the format cannot hold, empty when it holds everything.
    """
    lost = _lost(motion, names)
    motion = _at_a_rate(motion)
    columns = {canonical_name(name): np.asarray(motion.expression)[:, index] for index, name in enumerate(names)}
    zero = np.zeros(motion.frame_count, np.float32)
    order = [_SWAPPED.get(name, name) for name in ARKIT_NAMES]
    turns = Rotation.from_rotvec(np.asarray(motion.rotation)) * Rotation.from_rotvec(np.asarray(motion.neck))
    eyes = np.asarray(motion.eyes)
    angles = [_angles(turns), *(_angles(Rotation.from_rotvec(eyes[:, side])) for side in range(2))]
    fields = [name[0].upper() + name[1:] for name in order]
    fields += [f"{part}{axis}" for part in ("Head", "LeftEye", "RightEye") for axis in _AXES]
    values = np.concatenate([np.stack([columns.get(canonical_name(name), zero) for name in order], 1), *angles], 1)
    with atomic_file(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(["Timecode", "BlendShapeCount", *fields])
        for index, row in enumerate(values):
            writer.writerow([_timecode(index, motion.fps), len(fields), *(f"{value:.10f}" for value in row)])
    return lost


def _angles(turns: Rotation) -> np.ndarray:
    """[F, 3] yaw, pitch, roll in radians of R_y(yaw) R_x(pitch) R_z(roll)."""
    return turns.as_euler("YXZ")


def _timecode(index: int, fps: float) -> str:
    """Starts on the last frame of a second, so that even two frames show how many a second has."""
    seconds, frame = divmod(index + round(fps) - 1, round(fps))
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}:{frame:02d}.000"


def _at_a_rate(motion: Motion) -> Motion:
    """The motion at a rate that timecodes can say: its own where it is one, else at 60 frames per second."""
    nearest = min(_RATES, key=lambda rate: abs(rate - motion.fps))
    if abs(nearest - motion.fps) < 0.02 * nearest:
        return dataclasses.replace(motion, fps=nearest)
    return resample(motion, LIVE_LINK_FPS)


def _lost(motion: Motion, names: tuple[str, ...]) -> str:
    known = {canonical_name(name) for name in ARKIT_NAMES}
    foreign = sum(canonical_name(name) not in known for name in names)
    parts = [f"{foreign} expressions that ARKit does not name"] if foreign else []
    parts += [
        text
        for key, text in (("translation", "where the head is"), ("jaw", "the jaw joint's rotation"))
        if np.abs(np.asarray(getattr(motion, key))).max(initial=0) > 1e-6
    ]
    return f"Live Link's CSV cannot hold {' and '.join(parts)}" if parts else ""


def _spelled(field: str | None) -> str:
    """A column's name as the app writes it: "eyeBlinkLeft" and " EyeBlinkLeft " are "EyeBlinkLeft"."""
    field = (field or "").strip()
    return field[:1].upper() + field[1:]


def _column(rows: list[dict[str, str]], field: str, path: str | os.PathLike) -> np.ndarray:
    out = np.empty(len(rows), np.float32)
    for index, row in enumerate(rows):
        try:
            value = float(row[field])
        except (TypeError, ValueError):
            found = str(row[field])[:40]
            raise UserError(path, f"row {index + 2}, column '{field}': '{found}' is not a number") from None
        if not abs(value) < 1e30:
            raise UserError(path, f"row {index + 2}, column '{field}' is not finite, or too large")
        out[index] = value
    return out


def _euler_to_axis_angle(angles: np.ndarray) -> np.ndarray:
    """[F, 3] (pitch, yaw, roll) -> axis-angle of R_y(yaw) R_x(pitch) R_z(roll)."""
    return Rotation.from_euler("YXZ", angles[:, [1, 0, 2]]).as_rotvec().astype(np.float32)


def _timecode_fps(rows: list[dict[str, str]]) -> float:
    """Frames per second read off the `HH:MM:SS:FF.sub` timecodes; the app's default where they do not tell."""
    code = re.compile(r"(\d{1,4}):(\d{1,4}):(\d{1,4})[:;](\d{1,4})(?:\.\d+)?")
    match = [code.fullmatch((row.get("Timecode") or "").strip()) for row in rows]
    told = [found for found in match if found]
    if len(told) < 2 or len(told) != len(rows):
        return LIVE_LINK_FPS
    frames = [int(found[4]) for found in told]
    seconds = [int(found[1]) * 3600 + int(found[2]) * 60 + int(found[3]) for found in told]
    whole = seconds[-1] - seconds[0]
    if whole < 1:
        return LIVE_LINK_FPS
    rate = (len(rows) - 1 - (frames[-1] - frames[0])) / whole
    return float(min(_RATES, key=lambda value: abs(value - rate)))
