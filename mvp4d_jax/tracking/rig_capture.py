"""From synchronised pictures or videos of a calibrated rig to a fit, or to a capture with that fit."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from mvp4d.core import images, video
from mvp4d.core.cameras.camera import Camera, resize, stack
from mvp4d.core.cameras.distortion import Distortion, undistort
from mvp4d.core.capture import Capture, convert, schema
from mvp4d.core.capture.calibration import Calibration, read_calibration
from mvp4d.core.capture.fit import Fit
from mvp4d.core.errors import UserError
from mvp4d.core.heads.model import HeadModel
from mvp4d.core.progress import progress, say
from mvp4d_jax.tracking.detector import detect_faces
from mvp4d_jax.tracking.landmarks import Landmarks, choose_face, from_mesh, read_landmarks
from mvp4d_jax.tracking.rig import RigSolution, solve_rig
from mvp4d_jax.tracking.track import MAX_ERROR

_SAME_SHAPE = 0.01  # by how much the sides' ratio of a picture may differ from the calibration's


@dataclasses.dataclass(frozen=True)
class RigSource:
    """The views of a rig. V views, F frames.

    Attributes:
      folder: where they lie.
      names: of the views.
      files: of each view its video, or its pictures, one for each frame.
      chosen: of each video which frames are taken, [F]; None for pictures.
      sizes: (H, W) of each view's pictures.
      cameras: [V], for those sizes; lenses: of each, None without distortion.
      frame_count, fps: of all.
    """

    folder: Path
    names: tuple[str, ...]
    files: tuple[Path | list[Path], ...]
    chosen: tuple[np.ndarray | None, ...]
    sizes: tuple[tuple[int, int], ...]
    cameras: Camera
    lenses: tuple[Distortion | None, ...]
    frame_count: int
    fps: float

    @classmethod
    def open(cls, folder: str | os.PathLike, calibration: str | os.PathLike, fps: float | None = None) -> RigSource:
        """Looks at a folder of videos, of folders of pictures, or of one picture for each camera; or a capture.

        Args:
          calibration: what `read_calibration` reads; its names are those of the views.
          fps: frames per second; by default the capture's or the first video's, 25 for pictures.

        Raises:
          UserError: views that do not cover the same frames, or that the calibration does not know.
        """
        folder = convert.check_folder(folder)
        where, sources = _find_views(folder)
        names = schema.check_file_names(tuple(sources), where)
        known = read_calibration(calibration).of(names)
        paths = list(sources.values())
        if any(path.is_file() and path.suffix.lower() in video.SUFFIXES for path in paths):
            first = next(path for path in paths if path.suffix.lower() in video.SUFFIXES)
            facts = video.look_at_video(first)
            fps = facts.fps if fps is None else fps
            count = len(facts.resampled(fps))
        else:
            taken = Capture.open(folder).info.fps if (folder / "capture.json").is_file() else 25.0
            fps = taken if fps is None else fps
            count = len(convert.list_pictures(paths[0])) if paths[0].is_dir() else 1
        fps = schema.check_fps(fps, "`fps`")
        files, chosen = _line_up(paths, fps, count)
        sizes = tuple(_size(item) for item in files)
        cameras = stack([_scaled(known, view, size) for view, size in enumerate(sizes)])
        return cls(folder, names, files, chosen, sizes, cameras, known.lenses, count, fps)

    def frames(self, view: int) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """A view's frames as a pinhole camera takes them: colours uint8 [H, W, 3], and alpha where pictures have it."""
        files, lens, camera = self.files[view], self.lenses[view], self.cameras[view]
        if isinstance(files, Path):
            pictures = ((rgb, None) for rgb in video.read_video(files, frames=self.chosen[view]))
        else:
            read = (images.read_picture(path, size=self.sizes[view]) for path in files)
            pictures = ((found.rgb, found.alpha) for found in read)
        for rgb, alpha in pictures:
            if lens is not None:
                numbers = tuple(float(getattr(camera, name)) for name in ("fx", "fy", "cx", "cy"))
                rgb = undistort(rgb, lens, *numbers, outside=255)
                alpha = None if alpha is None else undistort(alpha, lens, *numbers, outside=0)
            yield rgb, alpha

    def moments(self) -> Iterator[tuple[np.ndarray, ...]]:
        """Frame by frame the pictures of all views, uint8 [H, W, 3], on white."""
        views = (_with_alpha(self.frames(view)) for view in range(len(self.names)))
        for frame in zip(*views, strict=True):
            yield tuple(images.on_white(rgb, alpha) for rgb, alpha in frame)


def rig_landmarks(
    source: RigSource, files: Sequence[str | os.PathLike] | None = None, face: int | None = None
) -> list[Landmarks]:
    """Landmarks of each view, NaN where it does not see the face: MediaPipe's, or those of npz files named as views.

    Raises:
      UserError: a file that belongs to no view, or fewer than two views with a face.
    """
    nothing = np.full((source.frame_count, 68, 2), np.nan)
    seen = [Landmarks(nothing, nothing[:, :2], size, source.fps) for size in source.sizes]
    if files is not None:
        for file in files:
            name = Path(file).stem
            if name not in source.names:
                raise UserError(file, f"is named as no view of {source.folder}", f"views are {_listed(source.names)}")
            view = source.names.index(name)
            seen[view] = read_landmarks(file, source.sizes[view], source.frame_count, source.fps)
            if source.lenses[view] is not None:
                raise UserError(file, "its view has a lens that distorts", "undistort the pictures first")
    else:
        views = range(len(source.names))
        pictures = (images.on_white(*frame) for view in views for frame in _with_alpha(source.frames(view)))
        count = len(views) * source.frame_count
        meshes = detect_faces(pictures, count, video=False).reshape(len(views), source.frame_count, -1, 478, 2)
        for view, found in enumerate(meshes):
            if np.isfinite(found).all((2, 3)).any():
                seen[view] = from_mesh(choose_face(found, face, source.names[view]), source.sizes[view], source.fps)
    with_face = [name for name, view in zip(source.names, seen) if view.found.any()]
    if len(with_face) < 2:
        raise UserError(
            source.folder,
            f"{len(with_face)} of {len(seen)} views have a face",
            "two at least must see it" + ("" if files is not None else ", or give `landmarks`"),
        )
    say(f"{source.folder}: the face is seen by {len(with_face)} of {len(seen)} views: {_listed(with_face)}")
    return seen


def track_rig(
    source: RigSource,
    head: HeadModel,
    seen: Sequence[Landmarks],
    where: object = "`cameras`",
    pictures_too: bool = False,
) -> tuple[Fit, RigSolution]:
    """Fits `head` to a rig's landmarks.

    Args:
      pictures_too: landmarks are a network's, and the pictures say where exactly the head is (`photometric`).
      where: what an error message names: the calibration.

    Raises:
      UserError: calibration and pictures do not belong together, or the head cannot be laid on this face.
    """
    with progress(total=1, what="fitting", unit="step") as bar:

        def report(step: int, total: int) -> None:
            bar.total = total
            bar.update(step - bar.n)

        pictures = source.moments if pictures_too else None
        solution = solve_rig(head, seen, source.cameras, report=report, where=where, pictures=pictures)
    error = float(np.nanmedian(solution.error))
    if not error < MAX_ERROR:
        raise UserError(
            source.folder, f"the head cannot be laid on this face (landmarks {100 * error:.0f} % of the face box away)"
        )
    with np.errstate(invalid="ignore"):
        off = [name for name, errors in zip(source.names, solution.error) if np.nanmax(errors, initial=0) > MAX_ERROR]
    if off:
        say(f"note: what was taken for the face in {_listed(off)} lies elsewhere than the other views say; left out")
    cameras = solution.cameras[:, None]
    fit = Fit(solution.motion, cameras, np.array(source.sizes), source.names, solution.shape, head.name)
    return fit, solution


def write_rig_capture(
    out: str | os.PathLike, source: RigSource, head: HeadModel, fit: Fit, *, overwrite: bool = False
) -> Capture:
    """Writes the views with their fit as a capture; masks where pictures bring transparency.

    Raises:
      UserError: views of several sizes.
    """
    if len(set(source.sizes)) != 1:
        raise UserError(source.folder, "its views have several sizes", "a capture has one; write a fit: --out NAME.npz")
    rig, motion = fit.rig(head, "fit")
    folders = [files for files in source.files if not isinstance(files, Path)]
    return convert.write_views(
        Path(out),
        source.frames,
        head=rig,
        motion=motion,
        cameras=fit.cameras,
        names=schema.clean_names(source.names, source.folder),
        image_size=source.sizes[0],
        masks=any(images.has_alpha(files[0]) for files in folders),
        source=f"tracked views of {source.folder.name}",
        extra=convert.identity_extra(fit.shape),
        overwrite=overwrite,
    )


def _find_views(folder: Path) -> tuple[Path, dict[str, Path]]:
    """Where the views lie, and name -> video, folder of pictures, or picture."""
    if (folder / "capture.json").is_file():
        folder = folder / ("images" if (folder / "images").is_dir() else "videos")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        suffix = path.suffix.lower()
        if path.name.startswith(".") or not (
            convert.list_pictures(path) if path.is_dir() else suffix in (*video.SUFFIXES, *images.SUFFIXES)
        ):
            continue
        name = path.name if path.is_dir() else path.stem
        if name in found:
            raise UserError(path, f"is a second view '{name}' beside {found[name].name}", "keep one of them")
        found[name] = convert.inside(folder, path.name, folder)
    if len(found) < 2:
        raise UserError(
            folder,
            f"holds {len(found)} views",
            "give a folder of synchronised videos, of folders of pictures, or of one picture for each camera",
        )
    return folder, found


def _line_up(
    paths: list[Path], fps: float, count: int
) -> tuple[tuple[Path | list[Path], ...], tuple[np.ndarray | None, ...]]:
    """The files of each view, and the frames that are taken of videos; all cover `count` moments."""
    still = [path for path in paths if path.is_file() and path.suffix.lower() in images.SUFFIXES]
    if still and (count != 1 or len(still) != len(paths)):
        raise UserError(still[0], "is one picture, other views have several", "give every camera as many frames")
    if still:
        return tuple([path] for path in paths), (None,) * len(paths)
    chosen, _ = convert.line_up(paths, fps, count, drop_incomplete=False)
    files = tuple(path if path.is_file() else list(items) for path, items in zip(paths, chosen))
    return files, tuple(np.asarray(items) if path.is_file() else None for path, items in zip(paths, chosen))


def _size(files: Path | list[Path]) -> tuple[int, int]:
    return video.video_facts(files)[0] if isinstance(files, Path) else images.image_size(files[0])


def _scaled(known: Calibration, view: int, size: tuple[int, int]) -> Camera:
    """A view's camera for pictures of `size`, which may be those of the calibration at another resolution."""
    height, width = known.sizes[view]
    if abs(size[0] / height / (size[1] / width) - 1) > _SAME_SHAPE:
        raise UserError(
            known.where,
            f"camera '{known.names[view]}' is calibrated for {width} x {height}, pictures are {size[1]} x {size[0]}",
            "cut nothing off the pictures; scaling them is fine",
        )
    return resize(known.camera[view], (height, width), size)


def _with_alpha(frames: Iterator[tuple[np.ndarray, np.ndarray | None]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for rgb, alpha in frames:
        yield rgb, np.full(rgb.shape[:2], 255, np.uint8) if alpha is None else alpha


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
