"""`motion.npz`: a Motion with the name of its head and of its expressions."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np

from mvp4d.core.capture import schema
from mvp4d.core.errors import UserError
from mvp4d.core.files import atomic_file, read_json, read_npz
from mvp4d.core.heads.model import HeadModel
from mvp4d.core.heads.motion import ARRAYS, Motion
from mvp4d.core.heads.transfer import eye_centre
from mvp4d.core.words import counted


@dataclasses.dataclass(frozen=True)
class NamedMotion:
    """A motion and what it was recorded for.

    Attributes:
      motion: F frames.
      head: name of the head; empty where the file does not say.
      names: [E] expression names, or None where neither the file nor its folder says.
      eyes: [3] midpoint of that head's eyeballs in head space, or None where it is not known.
    """

    motion: Motion
    head: str = ""
    names: tuple[str, ...] | None = None
    eyes: np.ndarray | None = None


def write_motion(path: str | os.PathLike, motion: Motion, head: HeadModel) -> None:
    """Writes `motion.npz` with the head's name and expression names, atomically."""
    with atomic_file(path) as temporary:
        save_motion(temporary, motion, head)


def save_motion(path: str | os.PathLike, motion: Motion, head: HeadModel, fps: float | None = None) -> None:
    """`write_motion` to a path that nobody reads yet."""
    arrays: dict[str, Any] = {name: np.asarray(getattr(motion, name), np.float32) for name in ARRAYS}
    np.savez_compressed(
        path,
        **arrays,
        fps=np.float64(motion.fps if fps is None else fps),
        head=np.asarray(head.name, np.str_),
        expression_names=np.asarray(head.expression_names, np.str_),
        eye_centre=np.asarray(eye_centre(head), np.float32),
    )


def read_motion(path: str | os.PathLike, arrays: dict[str, np.ndarray] | None = None) -> NamedMotion:
    """Reads `motion.npz`. Where it names no expressions, its folder (a capture or an avatar) is asked.

    Raises:
      UserError: names the array at fault.
    """
    path = Path(path)
    arrays = read_npz(path) if arrays is None else arrays
    schema.require(arrays, ARRAYS, path)
    expression = arrays["expression"]
    if expression.ndim != 2 or len(expression) == 0:
        raise UserError(path, f"'expression' has shape {list(expression.shape)}, expected [frames, coefficients]")
    fps = schema.scalar(arrays["fps"], "fps", path) if "fps" in arrays else 25.0
    motion = Motion(**{name: arrays[name] for name in ARRAYS}, fps=fps)
    motion = schema.check_motion(motion, len(expression), None, path)
    found = _names_inside(arrays, path) or _names_beside(path)
    if found is None:
        return NamedMotion(motion)
    head, names, eyes = found
    if len(names) != expression.shape[1]:
        raise UserError(
            path,
            f"holds {expression.shape[1]} expressions, head '{head}' names {len(names)}",
            "the files of this folder do not belong together",
        )
    return NamedMotion(motion, head, names, eyes)


def validate_motion(path: str | os.PathLike) -> str:
    """Checks `motion.npz` and says what it is in one line. Raises UserError."""
    found = read_motion(path)
    of = f"head '{found.head}'" if found.names is not None else "a head that it does not name"
    return f"{path}: motion of {of}, {counted(found.motion.frame_count, 'frame')} at {found.motion.fps:g} fps"


_Names = tuple[str, tuple[str, ...], np.ndarray | None]


def _names_inside(arrays: dict[str, np.ndarray], path: Path) -> _Names | None:
    if "expression_names" not in arrays or "head" not in arrays:
        return None
    names, head, eyes = arrays["expression_names"], arrays["head"], arrays.get("eye_centre")
    if names.dtype.kind != "U" or names.ndim != 1 or head.dtype.kind != "U" or head.shape != ():
        raise UserError(path, "'expression_names' and 'head' are not names")
    if eyes is not None and (eyes.shape != (3,) or eyes.dtype.kind != "f" or not np.isfinite(eyes).all()):
        raise UserError(path, "'eye_centre' is not three finite numbers")
    return str(head), tuple(str(name) for name in names), eyes


def _names_beside(path: Path) -> _Names | None:
    if (path.parent / "head.npz").is_file():
        head = HeadModel.load(path.parent / "head.npz")
        return head.name, head.expression_names, eye_centre(head)
    where = path.parent / "avatar.json"
    if where.is_file():
        info = read_json(where)
        head = info.get("head") if isinstance(info, dict) else None
        if not isinstance(head, dict) or not isinstance(head.get("expression_names"), list):
            raise UserError(where, "field 'head' names no expressions", "distil the avatar again")
        return str(head.get("name", "")), tuple(str(name) for name in head["expression_names"]), None
    return None
