"""Metashape's cameras as XML ("Export Cameras", Agisoft XML).

Sensors hold `f`, the offsets `cx`, `cy` of the axis from the middle of the picture, all in pixels, and Brown's
coefficients; cameras hold a camera-to-world `transform` in OpenCV axes in the chunk's own units, which the chunk's
`transform` carries to the world (Metashape manual, appendix on camera models).
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np

from mvp4d.core.cameras.camera import Camera
from mvp4d.core.cameras.distortion import Distortion, read_distortion
from mvp4d.core.capture import schema
from mvp4d.core.capture.colmap import Picture
from mvp4d.core.errors import UserError
from mvp4d.core.files import read_text

# Metashape's tangential coefficients are OpenCV's the other way round.
_LENS = {"k1": "k1", "k2": "k2", "k3": "k3", "p1": "p2", "p2": "p1"}
_WITHOUT = ("k4", "p3", "p4", "b2")  # have no counterpart here

Sensor = tuple[tuple[int, int], tuple[np.float64, ...], Distortion | None]


def read_cameras(path: Path) -> list[Picture]:
    """Reads the aligned cameras of the first chunk, in the order of the file.

    Raises:
      UserError: names the file and the element.
    """
    text = read_text(path)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:  # entities may expand without end
        raise UserError(path, "has a document type, which no such file needs")
    try:
        chunk = ElementTree.fromstring(text).find(".//chunk")
    except (ElementTree.ParseError, RecursionError, ValueError) as error:
        raise UserError(path, f"is no readable XML ({str(error)[:100]})") from None
    if chunk is None:
        raise UserError(path, "has no <chunk>", "export it from Metashape: File, Export, Export Cameras, Agisoft XML")
    sensors = {item.get("id"): item for item in chunk.iterfind("sensors/sensor")}
    read: dict[str | None, Sensor] = {}
    world, found = _chunk_transform(chunk, path), []
    for item in chunk.iter("camera"):
        label, sensor = item.get("label") or "", item.get("sensor_id")
        transform = item.find("transform")
        if transform is None:  # not aligned
            continue
        if not label or sensor not in sensors:
            raise UserError(path, f"camera '{label[:60]}' has no label or no sensor")
        if sensor not in read:
            read[sensor] = _sensor(sensors[sensor], path)
        size, numbers, lens = read[sensor]
        pose = world @ _values(transform.text, 16, path, f"transform of '{label[:60]}'").reshape(4, 4)
        scale = np.cbrt(abs(np.linalg.det(pose[:3, :3])))
        if not 1e-9 < scale < 1e9:
            raise UserError(path, f"transform of '{label[:60]}' has no inverse")
        pose[:3, :3] /= scale
        found.append(Picture(label, Camera(np.linalg.inv(pose), *numbers), size, lens))
    return found


def _chunk_transform(chunk: ElementTree.Element, path: Path) -> np.ndarray:
    """[4, 4] from the chunk's units to the world; the identity where it was not scaled or placed."""
    rotation, translation, scale = (
        chunk.findtext(f"transform/{name}") for name in ("rotation", "translation", "scale")
    )
    matrix = np.eye(4)
    if rotation is not None:
        matrix[:3, :3] = _values(rotation, 9, path, "chunk/transform/rotation").reshape(3, 3)
    if scale is not None:
        matrix[:3, :3] *= _values(scale, 1, path, "chunk/transform/scale")
    if translation is not None:
        matrix[:3, 3] = _values(translation, 3, path, "chunk/transform/translation")
    return matrix


def _sensor(element: ElementTree.Element, path: Path) -> Sensor:
    """(height, width), fx fy cx cy, lens."""
    name = f"sensor '{(element.get('label') or element.get('id') or '')[:60]}'"
    calibrations = element.findall("calibration")
    adjusted = next((item for item in calibrations if item.get("class") == "adjusted"), None)
    if adjusted is None:
        raise UserError(path, f"{name} has no adjusted calibration", "align the photos first")
    kind = adjusted.get("type", element.get("type", "frame"))
    if kind != "frame":
        raise UserError(path, f"{name} is a '{kind[:40]}' camera", "only frame cameras are read: undistort first")
    size = adjusted.find("resolution")
    size = element.find("resolution") if size is None else size
    width, height = (
        _values(None if size is None else size.get(side), 1, path, f"resolution of {name}")[0]
        for side in ("width", "height")
    )
    if not float(width).is_integer() or not float(height).is_integer():
        raise UserError(path, f"{name} has a resolution of {width:g} x {height:g}")
    size = schema.check_image_size([int(height), int(width)], path)
    value = {
        item.tag: float(_values(item.text, 1, path, f"{item.tag} of {name}")[0])
        for item in adjusted
        if item.tag in ("f", "fx", "fy", "cx", "cy", "b1", *_LENS, *_WITHOUT)
    }
    for term in _WITHOUT:
        if value.get(term):
            raise UserError(path, f"{name} has '{term}', which is not known here", "fit without it, or undistort first")
    focal = value.get("f", value.get("fy"))
    if focal is None:
        raise UserError(path, f"{name} has no focal length 'f'")
    fx = value.get("fx", focal + value.get("b1", 0.0))
    middle = (width / 2 + value.get("cx", 0.0), height / 2 + value.get("cy", 0.0))
    lens = {"camera_model": "OPENCV"} | {ours: value.get(theirs, 0.0) for theirs, ours in _LENS.items()}
    numbers = tuple(np.float64(number) for number in (fx, focal, *middle))
    return size, numbers, read_distortion(lens, path)


def _values(text: str | None, count: int, path: Path, what: str) -> np.ndarray:
    try:
        values = np.array([float(word) for word in (text or "").split()])
    except ValueError:
        values = np.zeros(0)
    if len(values) != count or not np.isfinite(values).all() or np.abs(values).max(initial=0) > 1e12:
        raise UserError(path, f"{what} is {(text or 'missing').strip()[:40]!r}", f"it is {count} finite numbers")
    return values
