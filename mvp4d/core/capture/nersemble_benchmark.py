"""NeRSemble's benchmark (as `nersemble-benchmark` 0.2 downloads it), in, and its submissions, out.

    TASK/PARTICIPANT/calibration/camera_params.json    world_2_cam: serial -> 4x4 (OpenCV axes); intrinsics: serial ->
                                                       3x3 for pictures of the task's size; of all cameras, also those
                                                       whose pictures are held out
    TASK/PARTICIPANT/sequences/SEQUENCE/images/cam_SERIAL.mp4, alpha_maps/cam_SERIAL.mp4
    TASK/PARTICIPANT/sequences/SEQUENCE/tracking/flame2023_tracking_v2.npz    mono_flame_avatar, of all sequences

TASK is `nvs` or `mono_flame_avatar`, PARTICIPANT three digits. A submission is a zip of PARTICIPANT/SEQUENCE/
cam_SERIAL.mp4. The tracking's mesh is scale R v + t, v being FLAME's with its root at rest and R from Euler angles
(scipy's "XYZ"); here the world is divided by the scale, cameras with it, so that heads are in metres.
"""

from __future__ import annotations

import dataclasses
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from mvp4d.core.cameras.camera import Camera, make_camera
from mvp4d.core.capture import convert, schema
from mvp4d.core.capture.fit import Fit, check_same_head, pad_expression
from mvp4d.core.capture.format import Capture
from mvp4d.core.capture.nersemble import tie_worlds, to_matrix
from mvp4d.core.capture.videos import scaled
from mvp4d.core.errors import UserError
from mvp4d.core.files import atomic_file, read_json, read_npz
from mvp4d.core.heads.model import HeadModel
from mvp4d.core.heads.motion import Motion
from mvp4d.core.images import brightness
from mvp4d.core.outputs import check_file
from mvp4d.core.video import VideoWriter, look_at_video, read_video, video_facts

TRACKING = "flame2023_tracking_v2.npz"
SIDES = ("222200046", "222200037", "222200039")  # left, centre, right
_CRF = 14  # what the toolkit's own writer takes
_CLEAR = 8  # alpha of what is background beyond doubt


@dataclasses.dataclass(frozen=True)
class Task:
    """A task of the benchmark: (H, W) and rate of its videos, and participant -> sequences, serials to hand in."""

    name: str
    size: tuple[int, int]
    fps: float
    serials: tuple[str, ...]
    sequences: dict[str, tuple[str, ...]]

    @property
    def videos(self) -> list[str]:
        """Every file of a complete submission."""
        return [
            f"{participant}/{sequence}/cam_{serial}.mp4"
            for participant, sequences in self.sequences.items()
            for sequence in sequences
            for serial in self.serials
        ]


_HELD_OUT = ("FREE", "EMO-1-shout+laugh", "SEN-09-frown_events_bad", "SEN-10-port_strong_smokey")
TASKS = {
    "nvs": Task(
        "nvs",
        (1604, 1100),
        73.0,
        SIDES,
        {
            "388": ("GLASSES",),
            "422": ("EXP-2-eyes",),
            "443": ("FREE",),
            "445": ("EXP-6-tongue-1",),
            "475": ("HAIR",),
        },
    ),
    "mono_flame_avatar": Task(
        "mono_flame_avatar",
        (512, 512),
        24.3,
        ("222200037", "222200046", "220700191", "222200039"),
        dict.fromkeys(("393", "404", "461", "477", "486"), _HELD_OUT),
    ),
}


def import_nersemble_benchmark(
    participant: str | os.PathLike,
    out: str | os.PathLike,
    *,
    sequence: str,
    head: HeadModel,
    fit: str | os.PathLike | None = None,
    scale: int = 1,
    overwrite: bool = False,
) -> Capture:
    """Reads the videos of one sequence, with their alpha maps as masks, into a capture.

    Args:
      participant: TASK/PARTICIPANT.
      head, fit: a FLAME 2023, where the sequence has a tracking; else a head and a fit of at least one of the cameras,
        named by its serial, as for `nersemble`.
      scale: pictures are averaged down by this factor.

    Raises:
      UserError: a file is missing, damaged, or does not fit the others; a sequence whose videos are held out.
    """
    participant = convert.check_folder(participant)
    task, folder = _task(participant), _sequence(participant, sequence)
    serials = sorted(path.stem.removeprefix("cam_") for path in (folder / "images").glob("cam_*.mp4"))
    if not serials:
        raise UserError(
            folder,
            "has no videos images/cam_SERIAL.mp4" + (": they are held out" if sequence in _HELD_OUT else ""),
            "an avatar is rendered there by: mvp4d export AVATAR --format nersemble-benchmark",
        )
    schema.check_names(serials, folder)
    videos = [convert.inside(folder, f"images/cam_{serial}.mp4", folder) for serial in serials]
    alphas = [convert.inside(folder, f"alpha_maps/cam_{serial}.mp4", folder) for serial in serials]
    masked = all(path.is_file() for path in alphas)
    if not masked and any(path.is_file() for path in alphas):
        missing = next(path for path in alphas if not path.is_file())
        raise UserError(missing, "is missing: other cameras have alpha maps", "download it again")
    for path in (*videos, *(alphas if masked else ())):
        if video_facts(path)[0] != task.size:
            height, width = task.size
            raise UserError(path, f"is {video_facts(path)[0]} (height, width)", f"the task's are {height} x {width}")
    cameras, motion, shape = _placed(participant, sequence, serials, head, fit, video_facts(videos[0])[1])
    cameras, size = scaled(cameras[:, None], task.size, scale)

    def frames_of(view: int) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        if not masked:
            yield from ((rgb, None) for rgb in read_video(videos[view]))
            return
        pairs = zip(read_video(videos[view]), read_video(alphas[view]), strict=True)
        try:
            yield from _uncovered((rgb, brightness(alpha)) for rgb, alpha in pairs)
        except ValueError:  # of zip
            raise UserError(
                alphas[view], "has another number of frames than the video", "download both again"
            ) from None

    return convert.write_views(
        Path(out),
        frames_of,
        scale=scale,
        head=head.personalise(shape),
        motion=motion,
        cameras=cameras,
        names=serials,
        image_size=size,
        masks=masked,
        source=f"NeRSemble benchmark {task.name} {participant.name} {sequence}",
        extra=convert.identity_extra(shape),
        overwrite=overwrite,
    )


def held_out_views(
    participant: str | os.PathLike, sequence: str, head: HeadModel, fit: str | os.PathLike | None = None
) -> tuple[Task, tuple[str, ...], Camera, Motion]:
    """What a submission shows of a sequence: task, serials, cameras [V] and the head's motion.

    Raises:
      UserError: the task does not ask for this sequence, or a file is missing or damaged.
    """
    participant = convert.check_folder(participant)
    task, folder = _task(participant), _sequence(participant, sequence)
    wanted = task.sequences.get(participant.name, ())
    if sequence not in wanted:
        asked = ", ".join(wanted) or f"participants {', '.join(task.sequences)}"
        raise UserError("`sequence`", f"'{sequence}' of {participant.name} is not handed in", f"{task.name}: {asked}")
    cameras, motion, _ = _placed(participant, sequence, task.serials, head, fit, task.fps)
    for path in sorted((folder / "images").glob("cam_*.mp4"))[:1]:
        frames = len(look_at_video(path).times)
        if frames != motion.frame_count:
            raise UserError(
                folder, f"has {frames} frames, the head's motion {motion.frame_count}", "give the fit of all of it"
            )
    return task, task.serials, cameras, motion


def write_submission(
    out: str | os.PathLike,
    task: Task,
    participant: str,
    sequence: str,
    views: Iterable[tuple[str, Callable[[], Iterable[np.ndarray]]]],
    *,
    overwrite: bool = False,
) -> list[str]:
    """Adds a sequence's videos to a submission, which begins with it or holds others already.

    Args:
      out: the zip.
      views: serial, and a function that begins its frames uint8 [H, W, 3], of the task's size.
      overwrite: replace videos of this sequence that are in it.

    Returns:
      the videos that it still lacks.

    Raises:
      UserError: the file is no submission of ours, or holds the sequence.
    """
    out = Path(out)
    if out.suffix.lower() != ".zip":
        raise UserError("`out`", f"'{out.name}' is no name of a zip", "use NAME.zip")
    check_file(out, overwrite=True)  # never a file of someone else's; what of ours may go is asked below
    before = _entries(out) if out.exists() else []
    prefix = f"{participant}/{sequence}/"
    if any(name not in task.videos for name in before):
        raise UserError(out, f"is no submission to {task.name}", "choose another name")
    if any(name.startswith(prefix) for name in before) and not overwrite:
        raise UserError(out, f"holds {prefix} already", "give `overwrite` to replace it")
    with atomic_file(out) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        if before:
            with zipfile.ZipFile(out) as old:
                for name in before:
                    if not name.startswith(prefix):
                        archive.writestr(name, old.read(name))
        for serial, frames in views:
            film = temporary.with_name(f"{temporary.name}.mp4")
            try:
                with VideoWriter(film, task.size, task.fps, crf=_CRF) as writer:
                    for rgb in frames():
                        writer.add(rgb)
                archive.write(film, f"{prefix}cam_{serial}.mp4")
            finally:
                film.unlink(missing_ok=True)
        names = archive.namelist()
    return [name for name in task.videos if name not in names]


def _entries(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(path, f"is no readable zip ({str(error)[:100]})", "choose another name") from None


def _task(participant: Path) -> Task:
    name = participant.absolute().parent.name
    if name not in TASKS or not participant.name.isdigit():
        raise UserError(participant, "is no TASK/PARTICIPANT of the benchmark", f"TASK is one of {', '.join(TASKS)}")
    return TASKS[name]


def _sequence(participant: Path, sequence: str) -> Path:
    return convert.check_folder(convert.inside(participant / "sequences", sequence, "`sequence`"))


def _placed(
    participant: Path,
    sequence: str,
    serials: Iterable[str],
    head: HeadModel,
    fit: str | os.PathLike | None,
    fps: float,
) -> tuple[Camera, Motion, np.ndarray]:
    """Cameras [V], the head's motion in one world with them, in metres, and the shape coefficients."""
    serials = tuple(serials)
    file = participant / "calibration" / "camera_params.json"
    calibrated, intrinsics = _calibration(file)
    missing = next((serial for serial in serials if serial not in calibrated or serial not in intrinsics), None)
    if missing is not None:
        raise UserError(file, f"lacks camera {missing}")
    tracking = participant / "sequences" / sequence / "tracking" / TRACKING
    if fit is not None:
        fitted = Fit.load(fit)
        check_same_head(fitted.head, head, fit)
        shape = np.zeros(0, np.float32) if fitted.shape is None else fitted.shape
        motion = pad_expression(fitted.motion, head, fit)
        matrices = tie_worlds(calibrated, serials, fitted, file)
    elif tracking.is_file():
        motion, shape, unit = _read_tracking(tracking, head, fps)
        matrices = np.stack([calibrated[serial] for serial in serials])
        matrices[:, :3, 3] /= unit
    else:
        raise UserError("`fit`", "is missing: the sequence has no tracking", "give a fit of one of its cameras")
    chosen = np.stack([intrinsics[serial] for serial in serials])
    cameras = make_camera(matrices, chosen[:, 0, 0], chosen[:, 1, 1], chosen[:, 0, 2], chosen[:, 1, 2])
    schema.check_cameras(Camera(*(value[:, None] for value in vars(cameras).values())), len(serials), 1, file)
    return cameras, motion, shape


def _calibration(path: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """serial -> world-to-camera [4, 4], and serial -> intrinsics [3, 3]."""
    value = read_json(path)
    found = []
    for field, shape in (("world_2_cam", (4, 4)), ("intrinsics", (3, 3))):
        entries = value.get(field) if isinstance(value, dict) else None
        if not isinstance(entries, dict) or not entries:
            raise UserError(path, f"field '{field}' is not an object of serial -> matrix")
        found.append({serial: to_matrix(matrix, shape, path) for serial, matrix in entries.items()})
    return found[0], found[1]


def _read_tracking(path: Path, head: HeadModel, fps: float) -> tuple[Motion, np.ndarray, float]:
    """Motion, in metres, shape coefficients, and the world's units in a metre."""
    check_same_head("flame2023", head, path)
    arrays = read_npz(path)
    schema.require(arrays, ("shape", "expression", "rotation", "translation", "jaw", "neck", "eyes", "scale"), path)
    frames = len(arrays["rotation"]) if arrays["rotation"].ndim else 0
    if arrays["eyes"].shape != (frames, 6) or arrays["rotation"].shape != (frames, 3) or not frames:
        raise UserError(path, "'eyes' and 'rotation' are not [T, 6] and [T, 3]")
    unit = schema.scalar(arrays["scale"], "scale", path)
    if not 1e-3 < unit < 1e4:
        raise UserError(path, f"'scale' is {unit:g}", "it is the size of FLAME's head in the world")
    shape = arrays["shape"]
    if shape.ndim != 2 or len(shape) != 1 or shape.dtype.kind != "f" or not np.isfinite(shape).all():
        raise UserError(path, "'shape' is not one row of finite numbers")
    for name in ("rotation", "translation"):
        if arrays[name].dtype.kind != "f" or not np.isfinite(arrays[name]).all():
            raise UserError(path, f"'{name}' holds values that are not finite numbers")
    motion = Motion(
        arrays["expression"],
        Rotation.from_euler("XYZ", arrays["rotation"]).as_rotvec(),
        arrays["translation"] / unit,
        arrays["neck"],
        arrays["jaw"],
        arrays["eyes"].reshape(frames, 2, 3),
        fps,
    )
    motion = pad_expression(schema.check_motion(motion, frames, None, path), head, path)
    return motion, np.asarray(shape[0], np.float32), unit


def _uncovered(frames: Iterable[tuple[np.ndarray, np.ndarray]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Straight colours of pictures whose person stands on one colour, which alpha tells: c = (rgb - (1 - a) b) / a."""
    ground: np.ndarray | None = None
    for rgb, alpha in frames:
        clear = alpha < _CLEAR
        if ground is None:
            ground = np.median(rgb[clear], axis=0) if clear.any() else np.full(3, 255.0)
        share = np.maximum(alpha, 1)[..., None] / np.float32(255)
        straight = (rgb - (1 - share) * np.float32(ground)) / share
        yield np.rint(np.clip(np.where(clear[..., None], 255, straight), 0, 255)).astype(np.uint8), alpha
