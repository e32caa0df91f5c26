"""Reads captures, head rigs and motion: the files that the other half of the project writes (docs/architecture.md)."""

from __future__ import annotations

import dataclasses
import json
import os
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from mvp4d_export.errors import UserError

FORMAT, VERSION = "mvp4d-capture", 1
MOTION_ARRAYS = ("expression", "rotation", "translation", "neck", "jaw", "eyes")
CAMERA_ARRAYS = ("world_to_camera", "fx", "fy", "cx", "cy")
JOINT_ROLES = ("root", "neck", "jaw", "left_eye", "right_eye")
# CAP4D's axes have y down and z forward where ours have y up and z towards the viewer.
CAP4D_AXES = np.diag([1.0, -1.0, -1.0, 1.0])
_LIMIT = 1 << 31  # bytes that one npz may unpack to


@dataclasses.dataclass(frozen=True)
class Head:
    """The arrays of `head.npz` that a rig needs: see `mvp4d_jax/heads/model.py` for their meaning.

    N vertices, T triangles, U uv points, E expressions, J joints. Metres, y up, z towards the viewer of a frontal face.
    """

    name: str
    template: np.ndarray  # [N, 3]
    faces: np.ndarray  # [T, 3]
    uv: np.ndarray  # [U, 2]
    face_uvs: np.ndarray  # [T, 3]
    face_parts: np.ndarray  # [T]
    expression_basis: np.ndarray  # [E, N, 3]
    pose_basis: np.ndarray  # [(J - 1) * 9 or 0, N, 3]
    joints: np.ndarray  # [J, 3]
    joint_expression_basis: np.ndarray  # [E, J, 3]
    skin_weights: np.ndarray  # [N, J]
    expression_names: tuple[str, ...]
    joint_names: tuple[str, ...]
    joint_parents: tuple[int, ...]
    part_names: tuple[str, ...]

    @property
    def expression_count(self) -> int:
        return len(self.expression_names)


@dataclasses.dataclass(frozen=True)
class Motion:
    """Per-frame pose and expression, float32. F frames, E expressions; axis-angle radians, metres.

    expression [F, E]; rotation, translation, neck, jaw [F, 3]; eyes [F, 2, 3]. A posed vertex is R(rotation) x +
    translation.
    """

    expression: np.ndarray
    rotation: np.ndarray
    translation: np.ndarray
    neck: np.ndarray
    jaw: np.ndarray
    eyes: np.ndarray
    fps: float = 25.0

    @property
    def frame_count(self) -> int:
        return self.expression.shape[0]

    @classmethod
    def still(cls, frames: int, expressions: int, fps: float = 25.0) -> Motion:
        """A head at rest."""
        zeros = np.zeros((frames, 3), np.float32)
        return cls(
            np.zeros((frames, expressions), np.float32),
            zeros,
            zeros,
            zeros,
            zeros,
            np.zeros((frames, 2, 3), np.float32),
            fps,
        )


@dataclasses.dataclass(frozen=True)
class Capture:
    """A capture folder. Pictures are read when asked for. V views, F frames, F' = 1 (still cameras) or F.

    Attributes:
      cameras: world_to_camera [V, F', 4, 4] and fx fy cx cy [V, F'], float64.
      background: [3] in [0, 1].
    """

    path: Path
    fps: float
    frame_count: int
    image_size: tuple[int, int]
    names: tuple[str, ...]
    images: str
    has_masks: bool
    background: np.ndarray
    cameras: dict[str, np.ndarray]
    motion: Motion
    head: Head
    source: str

    @classmethod
    def open(cls, path: str | os.PathLike) -> Capture:
        """Reads and checks everything but the pixels.

        Raises:
          UserError: one line that names the file and the field at fault.
        """
        path = Path(path)
        where = path / "capture.json"
        if not path.is_dir():
            raise UserError(path, "no such folder" if not path.exists() else "not a folder", "a capture is a folder")
        info = read_json(where)
        if info.get("format") != FORMAT:
            raise UserError(where, f"field 'format' is not '{FORMAT}'", "this is not a capture")
        if info.get("version") != VERSION:
            raise UserError(
                where,
                f"field 'version' is {info.get('version')}, this program reads {VERSION}",
                "update the program or write the capture again",
            )
        names = _field(info, "cameras", list, where)
        frames = _field(info, "frame_count", int, where)
        size = _field(info, "image_size", list, where)
        if not names or not all(isinstance(name, str) and name and Path(name).name == name for name in names):
            raise UserError(where, "field 'cameras' holds no plain camera names")
        if frames < 1 or len(size) != 2 or not all(isinstance(n, int) and 0 < n <= 16384 for n in size):
            raise UserError(where, f"frame_count {frames} and image_size {size} are no size of a capture")
        kind = info.get("images")
        if kind not in ("png", "video"):
            raise UserError(where, f"field 'images' is {kind!r}", "it is 'png' or 'video'")
        fps = float(_field(info, "fps", (int, float), where))
        head = read_head(path / "head.npz")
        motion = read_motion(path / "motion.npz", head.expression_count)
        if motion.frame_count != frames:
            raise UserError(path / "motion.npz", f"holds {motion.frame_count} frames, capture.json says {frames}")
        cameras = _check_cameras(read_npz(path / "cameras.npz"), len(names), frames, path / "cameras.npz")
        background = np.asarray(info.get("background", (255, 255, 255)), np.float32) / 255
        return cls(
            path,
            fps,
            frames,
            (size[0], size[1]),
            tuple(names),
            kind,
            bool(info.get("masks")),
            background,
            cameras,
            motion,
            head,
            str(info.get("source", "")),
        )

    def view_frames(self, view: int) -> np.ndarray:
        """Every picture of a view, uint8 [F, H, W, 3]."""
        name = self.names[view]
        if self.images == "video":
            return _read_video(self.path / "videos" / f"{name}.mp4", self.frame_count, self.image_size)
        return np.stack(
            [
                read_image(self.path / "images" / name / f"{frame:05d}.png", "RGB", self.image_size)
                for frame in range(self.frame_count)
            ]
        )

    def view_masks(self, view: int) -> np.ndarray:
        """Every alpha mask of a view, uint8 [F, H, W]."""
        folder = self.path / "masks" / self.names[view]
        return np.stack(
            [read_image(folder / f"{frame:05d}.png", "L", self.image_size) for frame in range(self.frame_count)]
        )

    def camera_matrices(self, frame: int) -> tuple[np.ndarray, np.ndarray]:
        """World-to-camera [V, 4, 4] and intrinsics [V, 3, 3] at a frame, float32."""
        time = 0 if self.cameras["fx"].shape[1] == 1 else frame
        return (
            self.cameras["world_to_camera"][:, time].astype(np.float32),
            intrinsics(*(self.cameras[name][:, time] for name in CAMERA_ARRAYS[1:])),
        )


def intrinsics(fx: np.ndarray, fy: np.ndarray, cx: np.ndarray, cy: np.ndarray) -> np.ndarray:
    """[..., 3, 3] float32 from focal lengths and principal points [...] in pixels."""
    matrix = np.zeros((*np.shape(fx), 3, 3), np.float32)
    matrix[..., 0, 0], matrix[..., 1, 1], matrix[..., 0, 2], matrix[..., 1, 2], matrix[..., 2, 2] = fx, fy, cx, cy, 1
    return matrix


def read_json(path: Path) -> dict:
    """A JSON object; UserError when it is missing or damaged."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(path, "no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(path, f"not readable JSON ({str(error)[:120]})") from None
    if not isinstance(value, dict):
        raise UserError(path, "holds no JSON object")
    return value


def read_npz(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Every array of an npz file; nothing is unpickled. UserError when it is missing or damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > _LIMIT:
                raise UserError(path, f"unpacks to more than {_LIMIT >> 20} MiB", "this is not a file of this kind")
        with np.load(path, allow_pickle=False) as data:
            return {name: data[name] for name in data.files}
    except FileNotFoundError:
        raise UserError(path, "no such file") from None
    except (
        OSError,
        ValueError,
        EOFError,
        KeyError,
        zlib.error,
        zipfile.BadZipFile,
        MemoryError,
        NotImplementedError,
        RuntimeError,
    ) as error:
        raise UserError(path, f"not a readable npz file ({str(error)[:120] or type(error).__name__})") from None


def read_head(path: str | os.PathLike) -> Head:
    """A personalised rig; arrays are checked against each other.

    Raises:
      UserError: names the file and the array.
    """
    data = read_npz(path)
    names = [field.name for field in dataclasses.fields(Head)]
    missing = [name for name in names if name not in data]
    if missing:
        raise UserError(path, f"head rig lacks the array '{missing[0]}'", "write the capture again")
    return check_head({name: data[name] for name in names}, path)


def check_head(values: dict[str, np.ndarray], where: object) -> Head:
    """A Head from loose arrays of any numeric dtype, shapes and indices checked."""
    values = dict(values)
    values["name"] = str(values["name"])
    for key in ("expression_names", "joint_names", "part_names"):
        values[key] = tuple(str(item) for item in np.atleast_1d(values[key]))
    values["joint_parents"] = tuple(int(item) for item in np.atleast_1d(values["joint_parents"]))
    for key in ("template", "uv", "expression_basis", "pose_basis", "joints", "joint_expression_basis", "skin_weights"):
        values[key] = np.asarray(values[key], np.float32)
        if not np.isfinite(values[key]).all():
            raise UserError(where, f"array '{key}' holds values that are not finite")
    for key in ("faces", "face_uvs", "face_parts"):
        values[key] = np.asarray(values[key], np.int64)
    head = Head(**values)
    count, triangles = len(head.template), len(head.faces)
    joints, expressions = len(head.joint_names), head.expression_count
    pose = (joints - 1) * 9 if len(head.pose_basis) else 0
    wanted = {
        "template": (count, 3),
        "faces": (triangles, 3),
        "uv": (len(head.uv), 2),
        "face_uvs": (triangles, 3),
        "face_parts": (triangles,),
        "expression_basis": (expressions, count, 3),
        "pose_basis": (pose, count, 3),
        "joints": (joints, 3),
        "joint_expression_basis": (expressions, joints, 3),
        "skin_weights": (count, joints),
    }
    for key, shape in wanted.items():
        if getattr(head, key).shape != shape:
            raise UserError(where, f"array '{key}' is {getattr(head, key).shape}, expected {shape}")
    limits = {"faces": count, "face_uvs": len(head.uv), "face_parts": len(head.part_names)}
    for key, limit in limits.items():
        array = getattr(head, key)
        if array.size and (array.min() < 0 or array.max() >= limit):
            raise UserError(where, f"array '{key}' points outside of its {limit} targets")
    if not set(head.joint_names) <= set(JOINT_ROLES) or len(head.joint_parents) != joints:
        raise UserError(where, f"joints {head.joint_names} are not of {JOINT_ROLES}")
    if not count or not triangles or any(parent >= index for index, parent in enumerate(head.joint_parents)):
        raise UserError(where, "head rig is empty, or a joint comes before its parent")
    return head


def read_motion(path: str | os.PathLike, expressions: int | None = None) -> Motion:
    """A motion file: a capture's `motion.npz`, a CAP4D `fit.npz`, or a capture folder.

    Args:
      expressions: coefficients that the head has; fewer in the file are filled with zeros, more is an error.

    Raises:
      UserError: names the file and the array.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "motion.npz"
    data = read_npz(path)
    if "expr" in data and "rot" in data:
        motion = _from_fit(data, path)
    else:
        missing = [name for name in MOTION_ARRAYS if name not in data]
        if missing:
            raise UserError(path, f"lacks the array '{missing[0]}'", "motion.npz and fit.npz files are read")
        frames = len(np.atleast_1d(data["expression"]))
        shapes = {"eyes": (frames, 2, 3)}
        arrays = {}
        for name in MOTION_ARRAYS:
            arrays[name] = np.asarray(data[name], np.float32)
            if name != "expression" and arrays[name].shape != shapes.get(name, (frames, 3)):
                raise UserError(
                    path, f"array '{name}' is {arrays[name].shape}, expected {shapes.get(name, (frames, 3))}"
                )
        motion = Motion(**arrays, fps=float(data.get("fps", 25.0)))
    if motion.expression.ndim != 2 or motion.frame_count == 0:
        raise UserError(path, f"array 'expression' is {motion.expression.shape}, expected (frames, coefficients)")
    for name in MOTION_ARRAYS:
        if not np.isfinite(getattr(motion, name)).all():
            raise UserError(path, f"array '{name}' holds values that are not finite")
    return motion if expressions is None else fit_expressions(motion, expressions, path)


def fit_expressions(motion: Motion, expressions: int, where: object) -> Motion:
    """Fills missing expression coefficients with zeros; refuses more than the head has."""
    given = motion.expression.shape[1]
    if given > expressions:
        raise UserError(
            where, f"holds {given} expression coefficients, the head has {expressions}", "use motion made for this head"
        )
    if given == expressions:
        return motion
    padding = np.zeros((motion.frame_count, expressions - given), np.float32)
    return dataclasses.replace(motion, expression=np.concatenate([motion.expression, padding], 1))


def _from_fit(data: dict[str, np.ndarray], path: Path) -> Motion:
    """CAP4D's `fit.npz`. Its head pose acts in axes with y up and z backward, which are ours; eyes move together."""
    try:
        expression = np.asarray(data["expr"], np.float32)
        frames = expression.shape[0]
        rotation, translation = (np.asarray(data[name], np.float32).reshape(frames, 3) for name in ("rot", "tra"))
        zeros = np.zeros((frames, 3), np.float32)
        neck, jaw = (
            np.asarray(data.get(name, zeros), np.float32).reshape(frames, 3) for name in ("neck_rot", "jaw_rot")
        )
        eye = np.asarray(data.get("eye_rot", zeros), np.float32).reshape(frames, -1)
        eyes = np.stack([eye[:, :3], eye[:, -3:]], 1)
    except (ValueError, KeyError, IndexError) as error:
        raise UserError(path, f"not a fit.npz of one head ({str(error)[:100]})") from None
    return Motion(expression, rotation, translation, neck, jaw, eyes, float(data.get("fps", 25.0)))


def read_image(path: Path, mode: str, size: tuple[int, int] | None = None) -> np.ndarray:
    """A picture as uint8 [H, W, 3] or, for mode "L", [H, W]."""
    if not path.is_file():
        raise UserError(path, "no such picture")
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as picture:
            if size is not None and picture.size[::-1] != tuple(size):
                raise UserError(path, f"is {picture.size[1]} x {picture.size[0]}, expected {size[0]} x {size[1]}")
            return np.asarray(picture.convert(mode))
    except UserError:
        raise
    except Exception as error:  # each of Pillow's decoders has its own set of errors for damaged data
        raise UserError(path, f"not a readable picture ({str(error)[:100] or type(error).__name__})") from None


def _read_video(path: Path, frames: int, size: tuple[int, int]) -> np.ndarray:
    import imageio_ffmpeg

    if not path.is_file():
        raise UserError(path, "no such video")
    pictures: list[np.ndarray] = []
    try:
        reader = imageio_ffmpeg.read_frames(
            str(path.resolve()),
            input_params=["-protocol_whitelist", "file"],
            output_params=["-fps_mode", "passthrough"],
        )
        width, height = next(reader)["size"]
        if (height, width) != tuple(size):
            raise UserError(path, f"is {height} x {width}, expected {size[0]} x {size[1]}")
        pictures = [np.frombuffer(data, np.uint8).reshape(height, width, 3) for data in reader]
    except (OSError, RuntimeError, StopIteration, KeyError) as error:
        raise UserError(path, f"not a readable video ({str(error).splitlines()[-1:]})") from None
    if len(pictures) < frames:
        raise UserError(path, f"holds {len(pictures)} frames, capture.json says {frames}")
    return np.stack(pictures[:frames])


def _check_cameras(data: dict[str, np.ndarray], views: int, frames: int, where: Path) -> dict[str, np.ndarray]:
    cameras = {}
    for name in CAMERA_ARRAYS:
        if name not in data:
            raise UserError(where, f"lacks the array '{name}'")
        cameras[name] = np.asarray(data[name], np.float64)
        tail = (4, 4) if name == "world_to_camera" else ()
        allowed = [(views, count, *tail) for count in (1, frames)]
        if cameras[name].shape not in allowed:
            raise UserError(
                where, f"array '{name}' is {cameras[name].shape}, expected {' or '.join(map(str, allowed))}"
            )
        if not np.isfinite(cameras[name]).all():
            raise UserError(where, f"array '{name}' holds values that are not finite")
    rotation = cameras["world_to_camera"][..., :3, :3]
    if np.abs(rotation @ rotation.swapaxes(-1, -2) - np.eye(3)).max() > 1e-3:
        raise UserError(where, "array 'world_to_camera' is no rigid transform")
    return cameras


def _field(info: dict, name: str, kind: type | tuple, where: Path):
    value = info.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise UserError(where, f"field '{name}' is {str(value)[:40]!r}, which it cannot be")
    return value
