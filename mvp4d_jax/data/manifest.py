"""What a shards folder's manifest must say: fields, types, and sizes that agree with each other."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mvp4d.core.errors import UserError

_FIX = "run 'mvp4d prepare' again"
_FILE_NAME = re.compile(r"[\w][\w.-]{0,200}")
_NUMBERS = ("image_size", "frames", "latents", "latent_channels")  # of the manifest, whole and positive
_MOST = 10**9

# Tables of a scene: name -> axes (letters are sizes that must agree within the scene, numbers are fixed), whether whole
# numbers, whether older shards lack it. V views, W windows, K single images, A crops, R photos, P of `photo_records`.
_TABLES = {
    "window_starts": ("W", True, False),
    "image_frames": ("K", True, False),
    "image_records": ("AV", True, False),
    "reference_records": ("AV", True, False),
    "window_records": ("AVW", True, False),
    "world_rotation": ("AVK33", False, False),
    "frontal_angle": ("VK", False, False),
    "painted": ("R2", True, False),
    "photo_records": ("PR", True, True),
    "photo_rotation": ("R33", False, True),
    "apart_windows": ("KW", False, True),
    "apart_images": ("KK", False, True),
}
_RECORDS = ("image_records", "reference_records", "window_records", "photo_records")


def check_manifest(manifest: dict, where: Path) -> None:
    """Checks the manifest of a shards folder; format and version are known to be right.

    Raises:
      UserError: names the field.
    """
    for name in _NUMBERS:
        _require(_whole(manifest.get(name), 1), where, name, "is no whole number from 1 on")
    scale = manifest.get("latent_scale")
    fine = isinstance(scale, float | int) and not isinstance(scale, bool) and 0 < scale < 1e6
    _require(fine, where, "latent_scale", "is no positive number")
    for name in ("head", "autoencoder"):
        _require(isinstance(manifest.get(name), str), where, name, "is no text")
    _require(isinstance(manifest.get("conditioning"), dict), where, "conditioning", "is no object")
    files, scenes = manifest.get("files"), manifest.get("scenes")
    for name, items in (("files", files), ("scenes", scenes)):
        fine = isinstance(items, list) and items and all(isinstance(item, dict) for item in items)
        _require(bool(fine), where, name, "is no list of objects")
    records = {}
    for number, item in enumerate(files):
        label = f"files[{number}]"
        name = item.get("name")
        fine = isinstance(name, str) and _FILE_NAME.fullmatch(name) and name not in records
        _require(bool(fine), where, f"{label}.name", "is no file name of its own")
        for key in ("bytes", "records"):
            _require(_whole(item.get(key), 0, 10**15), where, f"{label}.{key}", "is no whole number")
        fine = isinstance(item.get("sha256"), str) and re.fullmatch(r"[0-9a-f]{64}", item["sha256"])
        _require(bool(fine), where, f"{label}.sha256", "is no SHA-256")
        records[name] = item["records"]
    for number, scene in enumerate(scenes):
        _check_scene(scene, f"scenes[{number}]", records, where)
        shown = scene["painted"] or not manifest["conditioning"].get("painted")
        _require(bool(shown), where, f"scenes[{number}].painted", "is empty, but the maps hold painted photos")


def _check_scene(scene: dict, label: str, records: dict[str, int], where: Path) -> None:
    """Checks one scene; `records` is how many each file holds."""
    _require(isinstance(scene.get("name"), str), where, f"{label}.name", "is no text")
    shard = scene.get("shard")
    known = isinstance(shard, str) and shard in records
    _require(known, where, f"{label}.shard", "is no file of the manifest")
    views = scene.get("views")
    fine = isinstance(views, list) and views and all(isinstance(view, str) for view in views)
    _require(bool(fine), where, f"{label}.views", "is no list of names")
    sizes = {"V": len(views)}
    for name, (axes, whole, optional) in _TABLES.items():
        given = scene.get(name, [] if optional else None)
        if given == [] and (optional or name == "painted"):  # older shards, and those without photos
            continue
        table = _table(given, axes, whole)
        _require(table is not None, where, f"{label}.{name}", "is no table of numbers")
        wanted = [
            int(axis) if axis.isdigit() else sizes.setdefault(axis, size) for axis, size in zip(axes, table.shape)
        ]
        same = list(table.shape) == wanted
        _require(same, where, f"{label}.{name}", f"has shape {list(table.shape)}, expected {wanted}")
        if name in _RECORDS and table.size:
            inside = table.min() >= 0 and table.max() < records[shard]
            _require(inside, where, f"{label}.{name}", f"names records that {shard} does not have")
        if name == "painted":
            inside = table.min() >= 0 and (table < [sizes["V"], sizes["K"]]).all()
            _require(bool(inside), where, f"{label}.painted", "names views or images that are not there")


def _table(value: object, axes: str, whole: bool) -> np.ndarray | None:
    """A nested list as an array of so many axes; None where it is none, or not of (whole) finite numbers.

    A list that is empty stands for zero along its axis and those after it.
    """
    if not isinstance(value, list):
        return None
    try:
        array = np.array(value)
    except (ValueError, OverflowError, TypeError, RecursionError):  # ragged, or no numbers
        return None
    if array.size == 0 and array.ndim <= len(axes):
        fixed = [int(axis) if axis.isdigit() else 0 for axis in axes]
        array = np.zeros((*array.shape, *fixed[array.ndim :]), np.int64)
    kinds = "iu" if whole else "iuf"
    if array.ndim != len(axes) or array.dtype.kind not in kinds or math.prod(array.shape) > _MOST:
        return None
    return array if np.isfinite(array).all() and (not whole or not array.size or np.abs(array).max() < _MOST) else None


def _whole(value: object, low: int, high: int = _MOST) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _require(fine: bool, where: Path, field: str, what: str) -> None:
    if not fine:
        raise UserError(where, f"'{field}' {what}", _FIX)


def missing_shards(files: Sequence[dict], folder: Path) -> None:
    """Refuses files of a manifest that are not there, or not of the size it says. Raises UserError."""
    for item in files:
        file = folder / item["name"]
        if not file.is_file():
            raise UserError(file, "shard is missing", _FIX)
        if file.stat().st_size != item["bytes"]:
            raise UserError(
                file,
                f"shard has {file.stat().st_size} bytes, the manifest says {item['bytes']}",
                f"delete it and {_FIX}",
            )
