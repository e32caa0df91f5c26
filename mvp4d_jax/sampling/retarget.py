"""Driving motion from a fit, a capture or a Live Link Face recording, retargeted to a head by expression names."""

from __future__ import annotations

import csv
import os
import re
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from mvp4d_jax.capture import Capture
from mvp4d_jax.capture.fit import Fit, check_same_head, pad_expression
from mvp4d_jax.errors import UserError
from mvp4d_jax.heads.model import HeadModel
from mvp4d_jax.heads.motion import Motion
from mvp4d_jax.heads.transfer import FLAME_EYES, carry_pose, eye_centre

LIVE_LINK_FPS = 60.0  # what the app records at; the timecode column says otherwise where it does not
_ANGLES = ("HeadYaw", "HeadPitch", "HeadRoll", "LeftEyeYaw", "LeftEyePitch", "RightEyeYaw", "RightEyePitch")
_AXES = {"Yaw": 1, "Pitch": 0, "Roll": 2}


def load_motion(path: str | os.PathLike, head: HeadModel) -> tuple[Motion, str]:
    """Reads a driving motion for `head`.

    Args:
      path: a `fit.npz`, a capture folder, or a Live Link Face CSV.

    Returns:
      motion: in the head's own expression order; a coefficient that the source lacks is zero.
      notice: one line on what could not be carried over, empty when everything was.

    Raises:
      UserError: the file is missing, damaged or of no known kind.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(path, "no such motion", "give a fit.npz, a capture folder or a Live Link Face .csv")
    if path.is_dir():
        capture = Capture.open(path)
        motion, notice = retarget(capture.motion, capture.head.name, capture.head.expression_names, head)
        if capture.head.name != head.name:
            motion = carry_pose(motion, eye_centre(capture.head), head)
        return motion, notice
    if path.suffix.lower() == ".csv":
        motion, names = read_live_link(path)
        return retarget(motion, "arkit", names, head)
    if path.suffix.lower() == ".npz":
        fit = Fit.load(path)
        try:
            check_same_head(fit.head, head, path)
        except UserError:
            motion, notice = retarget(fit.motion, fit.head, (), head)
            return (carry_pose(motion, FLAME_EYES, head) if fit.head.startswith("flame") else motion), notice
        return pad_expression(fit.motion, head, path), ""
    raise UserError(path, f"cannot tell what kind of motion '{path.suffix or path.name}' is",
                    "give a fit.npz, a capture folder or a Live Link Face .csv")


def retarget(motion: Motion, source: str, names: tuple[str, ...], head: HeadModel) -> tuple[Motion, str]:
    """Reorders expression coefficients [F, E] by name; rotations and translation are taken as they are.

    A source whose coefficients have no ARKit names (FLAME's are principal components of another face space) drives a
    named head by its head, neck, jaw and eye rotations alone, and the notice says so.
    """
    if source == head.name and tuple(names) == tuple(head.expression_names):
        return motion, ""
    canonical = {canonical_name(name): index for index, name in enumerate(names)}
    expression = np.zeros((motion.frame_count, head.expression_count), np.float32)
    taken = 0
    for index, name in enumerate(head.expression_names):
        column = canonical.get(canonical_name(name))
        if column is not None:
            expression[:, index] = np.asarray(motion.expression)[:, column]
            taken += 1
    arrays = {key: np.asarray(getattr(motion, key), np.float32)
              for key in ("rotation", "translation", "neck", "jaw", "eyes")}
    notice = ""
    if taken == 0:
        notice = (f"the motion's expressions belong to head '{source}', which shares no expression name with "
                  f"'{head.name}': only head, neck, jaw and eye rotations are used")
    elif taken < len(names):
        notice = f"{len(names) - taken} of {len(names)} expressions of the motion have no counterpart in '{head.name}'"
    return Motion(expression, **arrays, fps=motion.fps), notice


def canonical_name(name: str) -> str:
    """`EyeBlinkLeft`, `eyeBlink_L` and `eyeBlinkLeft` are one expression: lower case, sides spelt out."""
    name = re.sub(r"_L$", "Left", name)
    return re.sub(r"_R$", "Right", name).replace("_", "").lower()


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
    names = tuple(field for field in fields if field not in angle_fields | {"Timecode", "BlendshapeCount"})
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
