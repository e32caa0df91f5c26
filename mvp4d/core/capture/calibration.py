"""Camera calibrations as other tools write them: COLMAP's text model, transforms.json (nerfstudio, Blender, VHAP),
Metashape's XML, or another capture.

All give OpenCV cameras of the pictures' own size, in the unit and the world of the file, and each picture's lens.
RealityCapture writes COLMAP's text model.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np

from mvp4d.core import images
from mvp4d.core.cameras.camera import Camera, check, check_focal, stack
from mvp4d.core.cameras.distortion import Distortion, read_distortion
from mvp4d.core.capture import colmap, convert, metashape, schema, transforms
from mvp4d.core.capture.format import Capture
from mvp4d.core.errors import UserError

_STILL = 1e-4  # of the rig's size, and in rotation entries: what a camera that stands still may move in a file


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Calibrated pictures. N of them.

    Attributes:
      where: the file.
      names: of the pictures or cameras, as the file has them.
      camera: [N], float64, OpenCV axes.
      sizes: [N] (height, width) of their pictures.
      lenses: of each; None without distortion.
    """

    where: Path
    names: tuple[str, ...]
    camera: Camera
    sizes: tuple[tuple[int, int], ...]
    lenses: tuple[Distortion | None, ...]

    def of(self, names: Sequence[str]) -> Calibration:
        """The cameras of a rig's views: entries whose name, or one of whose folders, is the view's name.

        Raises:
          UserError: a view that is not there, or a camera that moves.
        """
        parts = [_parts(name) for name in self.names]
        chosen = []
        for name in names:
            found = [index for index, words in enumerate(parts) if name in words]
            if not found:
                known = ", ".join(self.names[:4]) + (", ..." if len(self.names) > 4 else "")
                raise UserError(
                    self.where, f"has no camera '{name}'", f"name pictures and cameras alike; it has {known}"
                )
            self._check_still(name, found)
            chosen.append(found[0])
        return Calibration(
            self.where,
            tuple(names),
            self.camera[np.array(chosen)],
            tuple(self.sizes[index] for index in chosen),
            tuple(self.lenses[index] for index in chosen),
        )

    def _check_still(self, name: str, found: list[int]) -> None:
        matrices = np.asarray(self.camera.world_to_camera)[found]
        size = max(float(np.abs(matrices[..., :3, 3]).max()), 1e-12)
        moved = np.ptp(matrices, axis=0) / np.where(np.arange(4) == 3, size, 1.0)
        if moved.max() > _STILL:
            raise UserError(
                self.where, f"camera '{name}' moves: it stands {len(found)} times in it", "cameras are still"
            )


def read_calibration(path: str | os.PathLike) -> Calibration:
    """Reads a calibration: a COLMAP text model (its folder), transforms.json (or its folder), Metashape's XML, or a
    capture folder.

    Raises:
      UserError: names the file and the field.
    """
    path = Path(path)
    if path.is_dir():
        if (path / "capture.json").is_file():
            return _of_capture(path)
        for folder in (path, path / "sparse" / "0", path / "sparse"):
            if (folder / "cameras.txt").is_file():
                return _checked(folder / "images.txt", colmap.read_model(folder))
            if (folder / "cameras.bin").is_file():
                raise UserError(
                    folder / "cameras.bin",
                    "is COLMAP's binary model, which is not read",
                    "colmap model_converter --output_type TXT",
                )
        if (path / "transforms.json").is_file():
            return _of_transforms(path / "transforms.json")
        raise UserError(path, "holds no calibration", "COLMAP's cameras.txt and images.txt, or a transforms.json")
    if not path.exists():
        raise UserError(path, "no such file or folder")
    if path.suffix.lower() == ".json":
        return _of_transforms(path)
    if path.suffix.lower() == ".xml":
        return _checked(path, metashape.read_cameras(path))
    if path.name in ("cameras.txt", "images.txt"):
        return read_calibration(path.parent)
    raise UserError(path, "is no calibration that is known here", "give a COLMAP text model, .json, .xml or a capture")


def _checked(where: Path, found: Sequence[colmap.Picture]) -> Calibration:
    """Cameras of pictures, checked."""
    if not found:
        raise UserError(where, "has no camera with a pose")
    calibration = Calibration(
        where,
        tuple(item.name for item in found),
        stack([item.camera for item in found]),
        tuple(item.size for item in found),
        tuple(item.lens for item in found),
    )
    check(calibration.camera, where)
    for index, size in enumerate(calibration.sizes):
        one = calibration.camera[index : index + 1, None]
        check_focal(one, calibration.names[index : index + 1], size, where)
    return calibration


def _of_transforms(path: Path) -> Calibration:
    found = []
    for index, frame in enumerate(transforms.read_transforms([path])):
        name = frame.get("camera_id", frame.get("file_path"))
        if not isinstance(name, str) or not name or len(name) > 1000:
            raise UserError(path, f"frame {index} has neither 'camera_id' nor 'file_path'")
        if frame.get("h") is None or frame.get("w") is None:
            size = images.image_size(_picture(path, frame, index))
        else:
            size = schema.check_image_size([_side(frame["h"]), _side(frame["w"])], path)
        numbers = transforms.intrinsics(frame, size, index, path)
        matrix = convert.from_opengl(transforms.matrix(frame, index, path))
        camera = Camera(matrix, *(np.float64(number) for number in numbers))
        found.append(colmap.Picture(name, camera, size, read_distortion(frame, path)))
    return _checked(path, found)


def _picture(path: Path, frame: dict, index: int) -> Path:
    """The file of a frame; Blender's tools leave out the suffix."""
    file = transforms.resolve(path.parent, frame.get("file_path"), path)
    for suffix in ("", *images.SUFFIXES):
        if file.with_name(file.name + suffix).is_file():
            return file.with_name(file.name + suffix)
    raise UserError(path, f"frame {index} has neither 'w' and 'h' nor a picture ({file})")


def _side(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _of_capture(path: Path) -> Calibration:
    capture = Capture.open(path)
    if capture.cameras.fx.shape[1] != 1:
        raise UserError(path, "its cameras move", "cameras of a rig are still")
    size, count = capture.image_size, capture.view_count
    camera = Camera(*(np.asarray(value, np.float64)[:, 0] for value in vars(capture.cameras).values()))
    return Calibration(path, tuple(capture.names), camera, (size,) * count, (None,) * count)


def _parts(name: str) -> set[str]:
    """What a view may be called: the whole name, its folders, and its file's name with and without its suffix."""
    posix = PurePosixPath(PureWindowsPath(name).as_posix())
    return {name, posix.as_posix(), *posix.parts, posix.stem}
