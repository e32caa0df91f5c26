"""NeRSemble (v2, as its public download toolkit `nersemble-data` lays it out), in.

    PARTICIPANT/calibration/camera_params.json        world_2_cam: serial -> 4x4 (OpenCV axes); intrinsics: 3x3 for
                                                      pictures of 3208 x 2200 (height x width), shared by all cameras
    PARTICIPANT/calibration/color_calibration.json    serial -> matrix on the linear colours and their products
    PARTICIPANT/sequences/SEQUENCE/images/cam_SERIAL.mp4

The data set brings no head tracking: the caller brings a `fit.npz` of at least one of its cameras, and that camera ties
the two worlds together.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from mvp4d.core.cameras.camera import Camera, make_camera, resize
from mvp4d.core.capture import convert, schema
from mvp4d.core.capture.fit import Fit
from mvp4d.core.capture.format import Capture
from mvp4d.core.capture.videos import scaled
from mvp4d.core.errors import UserError
from mvp4d.core.files import read_json
from mvp4d.core.heads.model import HeadModel
from mvp4d.core.video import read_video, video_facts

CALIBRATED_SIZE = (3208, 2200)


def import_nersemble(
    participant: str | os.PathLike,
    out: str | os.PathLike,
    *,
    sequence: str,
    head: HeadModel,
    fit: str | os.PathLike,
    scale: int = 1,
    correct_colours: bool = True,
    overwrite: bool = False,
) -> Capture:
    """Reads one sequence of one participant into a capture without masks.

    Args:
      participant: folder of the participant (three digits).
      sequence: name of the sequence, for instance "EMO-1-shout+laugh".
      head, fit: a head and its fit. One of the fit's cameras must be named by the serial of a NeRSemble camera and
        have that camera's pose in the fit's world; the others follow from the calibration. A monocular fit of one of
        the videos will do, as far as its scale is true.
      scale: pictures are averaged down by this factor.
      correct_colours: apply the data set's colour calibration where it is there.

    Raises:
      UserError: a file is missing, damaged, or does not fit the others.
    """
    participant = convert.check_folder(participant)
    folder = convert.check_folder(convert.inside(participant / "sequences", sequence, "sequence") / "images")
    serials = sorted(path.stem.removeprefix("cam_") for path in folder.glob("cam_*.mp4"))
    if not serials:
        raise UserError(folder, "has no videos cam_SERIAL.mp4", "download the sequence first")
    schema.check_names(serials, folder)
    fitted = Fit.load(fit)
    rig, motion = fitted.rig(head, fit)
    videos = [convert.inside(folder, f"cam_{serial}.mp4", folder) for serial in serials]
    sizes = [video_facts(video)[0] for video in videos]
    if len(set(sizes)) != 1:
        raise UserError(folder, "its videos have different sizes")
    cameras = read_cameras(participant / "calibration" / "camera_params.json", serials, sizes[0], fitted)
    cameras, size = scaled(cameras, sizes[0], scale)
    colours = _read_colours(participant / "calibration" / "color_calibration.json", serials) if correct_colours else {}

    def frames_of(view: int) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        matrix = colours.get(serials[view])
        for rgb in read_video(videos[view], size=sizes[0]):
            yield rgb if matrix is None else correct_colour(rgb, matrix), None

    return convert.write_views(
        Path(out),
        frames_of,
        scale=scale,
        head=rig,
        motion=motion,
        cameras=cameras,
        names=serials,
        image_size=size,
        masks=False,
        source=f"NeRSemble {participant.name} {sequence}",
        extra=convert.identity_extra(fitted.shape),
        overwrite=overwrite,
    )


def read_cameras(path: Path, serials: list[str], size: tuple[int, int], fitted: Fit) -> Camera:
    """Cameras [V, 1] in the fit's world, for pictures of `size` (H, W).

    The calibration's world is its own; camera k, known in both worlds, gives
    world_to_camera_v = calibrated_v inverse(calibrated_k) fitted_k.
    """
    value = read_json(path)
    poses = value.get("world_2_cam") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(poses, dict):
        raise UserError(path, "field 'world_2_cam' is not an object of serial -> 4x4 matrix")
    missing = [serial for serial in serials if serial not in poses]
    if missing:
        raise UserError(path, f"field 'world_2_cam' lacks camera {missing[0]}")
    intrinsics = to_matrix(value.get("intrinsics"), (3, 3), path)
    used = {serial: to_matrix(poses[serial], (4, 4), path) for serial in poses if serial in (*serials, *fitted.names)}
    tied = tie_worlds(used, serials, fitted, path)
    cameras = make_camera(tied[:, None], intrinsics[0, 0], intrinsics[1, 1], intrinsics[0, 2], intrinsics[1, 2])
    return resize(cameras, CALIBRATED_SIZE, size)


def tie_worlds(calibrated: Mapping[str, np.ndarray], serials: Sequence[str], fitted: Fit, path: Path) -> np.ndarray:
    """World-to-camera [V, 4, 4] of `serials` in the fit's world, by the camera that calibration and fit both have.

    Raises:
      UserError: there is none, or a matrix is no rigid one.
    """
    tie = next((name for name in fitted.names if name in calibrated), None)
    if tie is None:
        raise UserError(
            "fit",
            f"its cameras ({', '.join(fitted.names[:4])}) are none of this calibration's",
            f"name one of them by its serial, for instance {serials[0]}",
        )
    matrices = np.stack([calibrated[serial] for serial in [*serials, tie]])
    schema.check_cameras(make_camera(matrices[:, None], 1.0, 1.0, 0.0, 0.0), len(matrices), 1, path)
    anchor = np.asarray(fitted.cameras.world_to_camera)[fitted.names.index(tie), 0]
    return matrices[:-1] @ np.linalg.inv(matrices[-1]) @ anchor


def correct_colour(rgb: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Colour calibration: sRGB to linear, products of the channels, [3, K] matrix, back to sRGB. uint8 in and out.

    The products are those of Cheung et al., "A comparative study of the characterisation of colour cameras by means of
    neural networks and polynomial transforms", 2004, for K = 3, 5, 7, 8, 10 or 11.
    """
    encoded = rgb.astype(np.float32) / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    corrected = np.clip(_products(linear, matrix.shape[1]) @ matrix.T.astype(np.float32), 0, 1)
    encoded = np.where(corrected <= 0.0031308, corrected * 12.92, 1.055 * corrected ** (1 / 2.4) - 0.055)
    return np.rint(np.clip(encoded, 0, 1) * 255).astype(np.uint8)


def _products(linear: np.ndarray, count: int) -> np.ndarray:
    r, g, b = linear[..., 0], linear[..., 1], linear[..., 2]
    pairs, squares, triple, one = [r * g, r * b, g * b], [r * r, g * g, b * b], [r * g * b], [np.ones_like(r)]
    terms = {
        3: [],
        5: [*triple, *one],
        7: [*pairs, *one],
        8: [*pairs, *triple, *one],
        10: [*pairs, *squares, *one],
        11: [*pairs, *squares, *triple, *one],
    }[count]
    return np.stack([r, g, b, *terms], axis=-1)


def _read_colours(path: Path, serials: list[str]) -> dict[str, np.ndarray]:
    if not path.exists():
        return {}
    value = read_json(path)
    if not isinstance(value, dict):
        raise UserError(path, "is not an object of serial -> matrix")
    matrices = {}
    for serial in serials:
        if serial in value:
            rows = value[serial]
            columns = len(rows[0]) if isinstance(rows, list) and rows and isinstance(rows[0], list) else 0
            if columns not in (3, 5, 7, 8, 10, 11):
                raise UserError(path, f"camera {serial}: a matrix with {columns} columns is not known")
            matrices[serial] = to_matrix(rows, (3, columns), path)
    return matrices


def to_matrix(value: object, shape: tuple[int, int], path: Path) -> np.ndarray:
    """A nested list of finite numbers. Raises UserError."""
    try:
        matrix = np.array(value, np.float64)
    except (TypeError, ValueError, OverflowError):
        matrix = np.zeros(0)
    if matrix.shape != shape or not np.isfinite(matrix).all():
        raise UserError(path, f"{json.dumps(value)[:60]} is not a {shape[0]} x {shape[1]} matrix of finite numbers")
    return matrix
