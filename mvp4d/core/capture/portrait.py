"""The Portrait: what is known of a person, photo by photo. It lies in the folder `portrait/` of a capture, or of a
folder of its own (`save_person`), beside the head.npz that it belongs to.

    portrait/portrait.json   {"format": "mvp4d-portrait", "version": 1, "reference": index,
                              "photos": [{"file": "photos/00.png", "source": name, "size": [H, W]}, ...]}
    portrait/photos/NN.png   8-bit RGBA, straight alpha
    portrait/cameras.npz     world_to_camera [N, 4, 4], fx fy cx cy [N], float64
    portrait/motion.npz      as a capture's, N frames: pose and expression of each photo on the capture's own head
    portrait/landmarks.npz   points [N, 68, 2], float64 (optional): pixels of Multi-PIE's points in each photo
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np

from mvp4d.core import images
from mvp4d.core.cameras.camera import FIELDS, Camera, check
from mvp4d.core.capture import schema
from mvp4d.core.capture.motion_file import read_motion, save_motion
from mvp4d.core.errors import UserError
from mvp4d.core.files import atomic_folder, check_kind, read_json, read_npz, write_json
from mvp4d.core.heads.check import check_head
from mvp4d.core.heads.model import HeadModel
from mvp4d.core.heads.motion import Motion
from mvp4d.core.words import counted

FORMAT, VERSION = "mvp4d-portrait", 1
FOLDER, KIND = "portrait", "person"
MAX_PHOTOS = 1000
POINTS, FARTHEST = 68, 1e6  # landmarks of a photo; pixels


@dataclasses.dataclass(frozen=True)
class Portrait:
    """N photos of one person with what was fitted to them.

    Attributes:
      photos: N pictures, uint8 [H, W, 4], straight alpha; each of its own size.
      camera: [N], one of each photo.
      motion: N frames, the pose and expression in each photo.
      head: the personalised rig.
      reference: index of the photo that a generator is shown.
      sources: N names of the files that they come from.
      landmarks: [N, 68, 2] pixels, where each photo itself has Multi-PIE's points, not where the fitted head has them;
        NaN in photos where they were not looked for. None: in none of them.
    """

    photos: tuple[np.ndarray, ...]
    camera: Camera
    motion: Motion
    head: HeadModel
    reference: int = 0
    sources: tuple[str, ...] = ()
    landmarks: np.ndarray | None = None

    def __repr__(self) -> str:
        reference = (self.sources and self.sources[self.reference]) or self.reference
        photos = f"{counted(len(self.photos), 'photo')}, reference {reference}"
        return f"Portrait({photos}, on head '{self.head.name}')"

    def __post_init__(self):
        count = len(self.photos)
        if not 1 <= count <= MAX_PHOTOS:
            raise UserError("portrait", f"holds {count} photos", f"1 to {MAX_PHOTOS} are possible")
        for index, photo in enumerate(self.photos):
            if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 4 or not photo.size:
                raise UserError("portrait", f"photo {index} is {photo.dtype} {list(photo.shape)}, expected RGBA bytes")
        if self.camera.batch_shape != (count,) or self.motion.frame_count != count:
            raise UserError(
                "portrait",
                f"{count} photos, {self.motion.frame_count} poses and cameras {list(self.camera.batch_shape)}",
                "each photo has one pose and one camera",
            )
        if not 0 <= self.reference < count:
            raise UserError("portrait", f"reference is photo {self.reference} of {count}")
        if self.sources and len(self.sources) != count:
            raise UserError("portrait", f"{count} photos and {len(self.sources)} sources")
        if self.landmarks is not None:
            _check_landmarks(self.landmarks, count, "portrait")

    def on_background(self, index: int, background: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> np.ndarray:
        """A photo [H, W, 3] float32 in [0, 1] laid on a colour."""
        photo = self.photos[index].astype(np.float32) / 255
        return photo[..., :3] * photo[..., 3:] + np.asarray(background, np.float32) * (1 - photo[..., 3:])


def write_portrait(capture: str | os.PathLike, portrait: Portrait) -> None:
    """Writes `portrait/` into a capture folder that is being made."""
    folder = Path(capture) / FOLDER
    (folder / "photos").mkdir(parents=True)
    entries = []
    for index, photo in enumerate(portrait.photos):
        name = f"photos/{index:02d}.png"
        images.write_png(folder / name, photo)
        source = portrait.sources[index] if portrait.sources else ""
        entries.append({"file": name, "source": source, "size": list(photo.shape[:2])})
    cameras: dict[str, Any] = {name: np.asarray(getattr(portrait.camera, name), np.float64) for name in FIELDS}
    np.savez_compressed(folder / "cameras.npz", **cameras)
    save_motion(folder / "motion.npz", portrait.motion, portrait.head)
    if portrait.landmarks is not None:
        np.savez_compressed(folder / "landmarks.npz", points=np.asarray(portrait.landmarks, np.float64))
    write_json(
        folder / "portrait.json",
        {"format": FORMAT, "version": VERSION, "reference": portrait.reference, "photos": entries},
    )


def read_portrait(capture: str | os.PathLike, head: HeadModel) -> Portrait | None:
    """The Portrait of a capture folder whose rig is `head`; None where it keeps none.

    Raises:
      UserError: names the file and the field at fault.
    """
    folder = Path(capture) / FOLDER
    where = folder / "portrait.json"
    if not where.is_file():
        return None
    info = read_json(where)
    if not isinstance(info, dict) or info.get("format") != FORMAT or info.get("version") != VERSION:
        raise UserError(where, f"fields 'format' and 'version' are not {FORMAT} {VERSION}", "sample again")
    entries = info.get("photos")
    if not isinstance(entries, list) or not 1 <= len(entries) <= MAX_PHOTOS:
        raise UserError(where, "field 'photos' is not a list of photos")
    photos = tuple(_photo(folder, entry, index, where) for index, entry in enumerate(entries))
    camera = _cameras(folder / "cameras.npz", len(photos))
    motion = read_motion(folder / "motion.npz").motion
    motion = schema.check_motion(motion, len(photos), head.expression_count, folder / "motion.npz")
    reference = info.get("reference")
    if isinstance(reference, bool) or not isinstance(reference, int) or not 0 <= reference < len(photos):
        raise UserError(where, f"field 'reference' is {str(reference)[:20]}", f"it is 0..{len(photos) - 1}")
    sources = tuple(str(entry.get("source", "")) for entry in entries)
    landmarks = _landmarks(folder / "landmarks.npz", len(photos))
    return Portrait(photos, camera, motion, head, reference, sources, landmarks)


def save_person(path: str | os.PathLike, portrait: Portrait, *, overwrite: bool = False) -> None:
    """Writes a folder of head.npz and `portrait/`, whole or not at all. Raises UserError."""
    with atomic_folder(path, overwrite=overwrite, kind=KIND) as folder:
        portrait.head.save(folder / "head.npz")
        write_portrait(folder, portrait)


def is_person(path: str | os.PathLike) -> bool:
    """Whether a folder is one that `save_person` wrote."""
    return (Path(path) / FOLDER / "portrait.json").is_file() and not (Path(path) / "capture.json").exists()


def open_person(path: str | os.PathLike) -> Portrait:
    """Reads the Portrait of a folder that `save_person` wrote.

    Raises:
      UserError: names the file and the field at fault.
    """
    path = Path(path)
    check_kind(path, f"{FOLDER}/portrait.json")
    head = HeadModel.load(path / "head.npz")
    check_head(head, path / "head.npz")
    portrait = read_portrait(path, head)
    if portrait is None:
        raise UserError(path / FOLDER / "portrait.json", "not a regular file")
    return portrait


def validate_person(path: str | os.PathLike) -> str:
    """Reads a person's folder whole and says what it is in one line. Raises UserError."""
    portrait = open_person(path)
    sizes = ", ".join(f"{photo.shape[0]} x {photo.shape[1]}" for photo in portrait.photos)
    return f"{path}: portrait of {counted(len(portrait.photos), 'photo')} ({sizes}) on head '{portrait.head.name}'"


def _photo(folder: Path, entry: object, index: int, where: Path) -> np.ndarray:
    name = f"photos/{index:02d}.png"
    if not isinstance(entry, dict) or entry.get("file") != name:
        raise UserError(where, f"photo {index} is not '{name}'")
    size = schema.check_image_size(entry.get("size"), where)
    return images.read_image(folder / name, mode="RGBA", size=size)


def _landmarks(where: Path, count: int) -> np.ndarray | None:
    if not where.exists():
        return None
    arrays = read_npz(where)
    schema.require(arrays, ("points",), where)
    _check_landmarks(arrays["points"], count, where)
    return arrays["points"].astype(np.float64)


def _check_landmarks(points: np.ndarray, count: int, where: object) -> None:
    if points.dtype.kind not in "fiu" or points.shape != (count, POINTS, 2):
        raise UserError(
            where, f"landmarks are {points.dtype} {list(points.shape)}, expected {[count, POINTS, 2]} numbers"
        )
    wide = points.astype(np.float64)  # the limit is more than float16 holds
    if not (np.isnan(wide) | (np.abs(wide) < FARTHEST)).all():
        raise UserError(where, f"landmarks lie {FARTHEST:.0e} pixels away or further", "track the photos again")


def _cameras(where: Path, count: int) -> Camera:
    arrays = read_npz(where)
    schema.require(arrays, FIELDS, where)
    for name in FIELDS:
        tail = (4, 4) if name == "world_to_camera" else ()
        if arrays[name].dtype.kind not in "fiu" or arrays[name].shape != (count, *tail):
            raise UserError(
                where, f"'{name}' is {arrays[name].dtype} {list(arrays[name].shape)}, expected {[count, *tail]} numbers"
            )
    camera = Camera(**{name: arrays[name].astype(np.float64) for name in FIELDS})
    check(camera, where)
    return camera
