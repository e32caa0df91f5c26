"""What a capture folder must hold, as checks: `capture.json`, names, cameras, motion."""

from __future__ import annotations

import dataclasses
import re
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np

from mvp4d.core.cameras.camera import FIELDS, Camera, check
from mvp4d.core.errors import UserError
from mvp4d.core.heads.motion import ARRAYS, Motion
from mvp4d.core.progress import say

FORMAT, VERSION = "mvp4d-capture", 1
MAX_SIDE = 16384
MAX_FRAMES = 1_000_000
MAX_ANGLE, MAX_COEFFICIENT = 1000.0, 10_000.0  # radians, as clips count them that turn on; expression coefficients
MIN_FPS, MAX_FPS = 0.1, 1000.0
IMAGE_KINDS = ("png", "video")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclasses.dataclass(frozen=True)
class CaptureInfo:
    """What `capture.json` says.

    Attributes:
      fps: frames per second.
      frame_count: F, the same for every camera.
      image_size: (H, W), the same for every camera.
      names: camera names, in the order of `cameras.npz`.
      head: the rig's name.
      images: "png" or "video".
      masks: whether alpha masks are there.
      background: RGB the pictures stand on, 0..255.
      reference: (camera name, frame) of the reference image, or None.
      source: free text: what made the capture.
      extra: anything else, JSON values only.
    """

    fps: float
    frame_count: int
    image_size: tuple[int, int]
    names: tuple[str, ...]
    head: str
    images: str = "png"
    masks: bool = True
    background: tuple[int, int, int] = (255, 255, 255)
    reference: tuple[str, int] | None = None
    source: str = ""
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        reference = None if self.reference is None else dict(zip(("camera", "frame"), self.reference))
        return {
            "format": FORMAT,
            "version": VERSION,
            "fps": self.fps,
            "frame_count": self.frame_count,
            "image_size": list(self.image_size),
            "cameras": list(self.names),
            "head": self.head,
            "images": self.images,
            "masks": self.masks,
            "background": list(self.background),
            "reference": reference,
            "source": self.source,
            "extra": self.extra,
        }


def parse_info(value: object, where: Path) -> CaptureInfo:
    """Checks the content of `capture.json`.

    Raises:
      UserError: names the field at fault.
    """
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise UserError(where, f"field 'format' is not '{FORMAT}'", "this is not a capture")
    if value.get("version") != VERSION:
        raise UserError(
            where,
            f"field 'version' is {_short(value.get('version'))}, this program reads {VERSION}",
            "update the program or write the capture again",
        )
    fps = check_fps(_number(value, "fps", where), where, "field 'fps'")
    names = check_names(value.get("cameras"), where)
    size = check_image_size(value.get("image_size"), where)
    images = value.get("images")
    if images not in IMAGE_KINDS:
        raise UserError(where, f"field 'images' is {_short(images)}", f"it is one of {', '.join(IMAGE_KINDS)}")
    if not isinstance(value.get("masks"), bool):
        raise UserError(where, f"field 'masks' is {_short(value.get('masks'))}", "it is true or false")
    for key in ("head", "source"):
        if not isinstance(value.get(key, ""), str):
            raise UserError(where, f"field '{key}' is {_short(value[key])}", "it is a string")
    background = value.get("background", [255, 255, 255])
    if not _integers(background, 3, 0, 255):
        raise UserError(where, f"field 'background' is {_short(background)}", "it is three integers 0..255")
    extra = value.get("extra", {})
    if not isinstance(extra, dict):
        raise UserError(where, f"field 'extra' is {_short(extra)}", "it is an object")
    frames = _integer(value, "frame_count", where, 1, MAX_FRAMES)
    return CaptureInfo(
        fps,
        frames,
        size,
        names,
        value.get("head", ""),
        images,
        value["masks"],
        tuple(background),
        _reference(value.get("reference"), names, frames, where),
        value.get("source", ""),
        extra,
    )


def check_names(value: object, where: object) -> tuple[str, ...]:
    """Camera names become folder names: letters, digits, `_ . -`, at most 64, all different, none that climbs."""
    if not isinstance(value, (list, tuple)) or not value or len(value) > 100_000:
        raise UserError(where, "field 'cameras' is not a list of camera names")
    for name in value:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise UserError(
                where,
                f"camera name {_short(name)} is not allowed",
                "use letters, digits, '_', '-' and '.', beginning with a letter or digit",
            )
    if len({name.lower() for name in value}) != len(value):
        raise UserError(where, "two cameras have the same name (capitals aside)")
    return tuple(value)


def clean_names(names: list[str] | tuple[str, ...], where: object) -> tuple[str, ...]:
    """Camera names of another tool as `check_names` has them: accents are dropped, whatever else is not allowed becomes
    "_", what is then alike is numbered. Names that change are said."""
    cleaned: list[str] = []
    for index, name in enumerate(names):
        plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
        plain = re.sub(r"[^A-Za-z0-9_.-]", "_", plain.strip())[:60].lstrip("_.-") or f"cam{index:02d}"
        taken, unique = {other.lower() for other in cleaned}, plain
        for number in range(2, len(names) + 2):
            if unique.lower() not in taken:
                break
            unique = f"{plain[:54]}_{number}"
        cleaned.append(unique)
    changed = [f"'{old[:30]}' is '{new}'" for old, new in zip(names, cleaned) if old != new]
    if changed:
        say(f"{where}: cameras have new names: {', '.join(changed[:8])}{' ...' if changed[8:] else ''}")
    return check_names(cleaned, where)


def check_file_names(names: list[str] | tuple[str, ...], where: object) -> tuple[str, ...]:
    """Camera names of another tool, by which files are looked for: any text that names one file and does not climb."""
    for name in names:
        if not name or len(name) > 200 or name in (".", "..") or set(name) & set("/\\\0\n\r"):
            raise UserError(where, f"camera name {_short(name)} is not allowed", "it names a file or folder")
    if len(set(names)) != len(names):
        raise UserError(where, "two cameras have the same name")
    return tuple(names)


def check_image_size(value: object, where: object) -> tuple[int, int]:
    """(height, width), each 1..16384 pixels."""
    if not isinstance(value, (list, tuple)) or not _integers(value, 2, 1, MAX_SIDE):
        raise UserError(where, f"field 'image_size' is {_short(value)}", f"it is [height, width], each 1..{MAX_SIDE}")
    return int(value[0]), int(value[1])


def check_cameras(cameras: Camera, views: int, frames: int, where: object) -> Camera:
    """Cameras as float64 arrays `[V, F']`, F' = 1 or `frames`: finite, rigid, right-handed, with positive focal length.

    Raises:
      UserError: names the array and the view at fault.
    """
    arrays = {}
    for field in FIELDS:
        array = np.asarray(getattr(cameras, field))
        if array.dtype.kind not in "fiu":
            raise UserError(where, f"'{field}' holds {array.dtype} values", "it must hold numbers")
        tail = (4, 4) if field == "world_to_camera" else ()
        if (
            array.ndim != 2 + len(tail)
            or array.shape[2:] != tail
            or array.shape[0] != views
            or array.shape[1] not in (1, frames)
        ):
            expected = ", ".join(map(str, (views, f"1 or {frames}", *tail)))
            raise UserError(where, f"'{field}' has shape {list(array.shape)}, expected [{expected}]")
        arrays[field] = array.astype(np.float64)
        _all_finite(arrays[field], field, where)
    if len({array.shape[1] for array in arrays.values()}) != 1:
        raise UserError(where, "camera arrays disagree on the number of frames")
    camera = Camera(**arrays)
    check(camera, where)
    return camera


def check_motion(motion: Motion, frames: int, expressions: int | None, where: object) -> Motion:
    """Motion as float32 arrays of `frames` frames and `expressions` coefficients (None: any number).

    Raises:
      UserError: names the array at fault.
    """
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(ARRAYS, (frames, 3))
    shapes["eyes"] = (frames, 2, 3)
    arrays = {}
    for name in ARRAYS:
        array = np.asarray(getattr(motion, name))
        if array.dtype.kind not in "fiu":
            raise UserError(where, f"'{name}' holds {array.dtype} values", "it must hold numbers")
        if name == "expression":
            if expressions is None and array.ndim != 2:
                raise UserError(where, f"'{name}' has shape {list(array.shape)}, expected [{frames}, expressions]")
            shapes[name] = (frames, array.shape[1] if expressions is None else expressions)
        if array.shape != shapes[name]:
            raise UserError(where, f"'{name}' has shape {list(array.shape)}, expected {list(shapes[name])}")
        arrays[name] = array.astype(np.float32)
        _all_finite(arrays[name], name, where)
        _check_size(arrays[name], name, where)
    return Motion(**arrays, fps=check_fps(motion.fps, where))


def _check_size(array: np.ndarray, name: str, where: object) -> None:
    """Refuses angles and coefficients of a size that nothing can be posed with."""
    most, unit = (MAX_COEFFICIENT, "") if name == "expression" else (MAX_ANGLE, " radians")
    largest = float(np.abs(array).max(initial=0))
    if name != "translation" and largest > most:
        raise UserError(where, f"'{name}' reaches {largest:.4g}{unit}", f"{most:g} is more than any head does")


def check_fps(value: object, where: object, what: str = "'fps'") -> float:
    """Frames per second, 0.1 to 1000."""
    fps = float(np.asarray(value))
    if not MIN_FPS <= fps <= MAX_FPS:
        raise UserError(where, f"{what} is {fps:g}", f"frames per second lie between {MIN_FPS:g} and {MAX_FPS:g}")
    return fps


def require(arrays: dict[str, np.ndarray], names: tuple[str, ...], where: object) -> None:
    """Refuses an npz that lacks one of `names`."""
    for name in names:
        if name not in arrays:
            found = ", ".join(sorted(arrays)[:12]) or "nothing"
            raise UserError(where, f"lacks the array '{name}'", f"it holds {found}")


def scalar(array: np.ndarray, name: str, where: object) -> float:
    """The one finite number of an array of one element."""
    if array.size != 1 or array.dtype.kind not in "fiu" or not np.isfinite(array).all():
        raise UserError(where, f"'{name}' is not one finite number")
    return float(array.reshape(()))


def _reference(value: object, names: tuple[str, ...], frames: int, where: Path) -> tuple[str, int] | None:
    if value is None:
        return None
    if not isinstance(value, dict) or value.get("camera") not in names:
        raise UserError(where, f"field 'reference' is {_short(value)}", "its 'camera' must be one of the cameras")
    return value["camera"], _integer(value, "frame", where, 0, frames - 1)


def _all_finite(array: np.ndarray, name: str, where: object) -> None:
    if not np.isfinite(array).all():
        raise UserError(where, f"'{name}' at {np.argwhere(~np.isfinite(array))[0].tolist()} is not a finite number")


def _integer(value: dict, key: str, where: Path, low: int, high: int) -> int:
    number = value.get(key)
    if not isinstance(number, int) or not _integers([number], 1, low, high):
        raise UserError(where, f"field '{key}' is {_short(number)}", f"it is an integer {low}..{high}")
    return number


def _number(value: dict, key: str, where: Path) -> float:
    number = value.get(key)
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not abs(number) < 1e12:
        raise UserError(where, f"field '{key}' is {_short(number)}", "it is a number")
    return float(number)


def _integers(value: object, count: int, low: int, high: int) -> bool:
    return (
        isinstance(value, (list, tuple))
        and len(value) == count
        and all(isinstance(item, int) and not isinstance(item, bool) and low <= item <= high for item in value)
    )


def _short(value: object) -> str:
    text = "missing" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
