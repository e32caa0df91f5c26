"""From a photo or a video to a fit: pictures, landmarks, head, files."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mvp4d.core import images, video
from mvp4d.core.cameras.camera import FIELDS, Camera
from mvp4d.core.capture.fit import Fit
from mvp4d.core.errors import UserError
from mvp4d.core.heads.model import HeadModel
from mvp4d.core.progress import progress, say
from mvp4d_jax.heads.skinning import skin
from mvp4d_jax.tracking.detector import detect_faces
from mvp4d_jax.tracking.landmarks import Landmarks, choose_face, from_mesh, read_landmarks
from mvp4d_jax.tracking.overlay import draw_overlay, draw_pair
from mvp4d_jax.tracking.solve import Solution, SolveConfig, solve, told

MAX_ERROR = 0.08  # of the face box: a fit worse than this is no fit


@dataclasses.dataclass(frozen=True)
class Source:
    """A photo or video to track.

    Attributes:
      path: the file.
      image_size: (H, W) as seen (upright, square pixels).
      frame_count, fps: 1 and 25 for a photo.
      chosen: [F] which frames of a video are taken, each for 1 / fps seconds; None for a photo.
    """

    path: Path
    image_size: tuple[int, int]
    frame_count: int
    fps: float
    chosen: np.ndarray | None

    @property
    def video(self) -> bool:
        return self.chosen is not None

    @property
    def focal(self) -> float | None:
        """Focal length over the longer side, where a photo's camera wrote it down."""
        return None if self.video else images.told_focal(self.path)

    @classmethod
    def open(cls, path: str | os.PathLike) -> Source:
        """Looks at a file. A video is read once through to count its frames.

        Raises:
          UserError: missing, damaged, or neither a picture nor a video.
        """
        path = Path(path)
        if not path.is_file():
            raise UserError(path, "no such file" if not path.exists() else "not a file", "give a photo or a video")
        suffix = path.suffix.lower()
        if suffix in images.SUFFIXES:
            return cls(path, images.read_picture(path).rgb.shape[:2], 1, 25.0, None)
        if suffix not in video.SUFFIXES:
            known = " ".join((*images.SUFFIXES, *video.SUFFIXES))
            raise UserError(path, "neither a picture nor a video that is known here", f"give one of {known}")
        facts = video.look_at_video(path)
        frames = np.arange(len(facts.times))
        if not facts.steady:
            frames = facts.resampled(facts.fps)
            say(
                f"{path}: its {len(facts.times)} frames are not equally long; taken as {len(frames)} at {facts.fps:g} "
                "a second"
            )
        return cls(path, facts.image_size, len(frames), facts.fps, frames)

    def frames(self) -> Iterator[np.ndarray]:
        """uint8 [H, W, 3], one at a time."""
        if self.chosen is not None:
            yield from video.read_video(self.path, frames=self.chosen)
        else:
            yield images.read_image(self.path, mode="RGB")


def find_landmarks(source: Source, *, landmarks: str | os.PathLike | None = None, face: int | None = None) -> Landmarks:
    """The landmarks of one face of a source: from a file, or by MediaPipe.

    Raises:
      UserError: no face, or not enough frames with one.
    """
    if landmarks is not None:
        found = read_landmarks(landmarks, source.image_size, source.frame_count, source.fps)
    else:
        faces = detect_faces(source.frames(), source.frame_count, video=source.video, turn=not source.video)
        found = from_mesh(choose_face(faces, face, source.path), source.image_size, source.fps)
    if found.found.mean() < 0.5:
        raise UserError(
            source.path,
            f"only {int(found.found.sum())} of {source.frame_count} frames have a face",
            "cut the video to where the face is seen",
        )
    return found


def track(
    source: Source,
    head: HeadModel,
    *,
    landmarks: str | os.PathLike | None = None,
    face: int | None = None,
    focal: float | None = None,
    config: SolveConfig | None = None,
) -> tuple[Fit, Solution, Landmarks]:
    """Fits `head` to a photo or video.

    Args:
      landmarks: a file to read them from instead of running MediaPipe.
      face: which face, counted from the left from 1; the largest by default.
      focal: focal length in pixels, where it is known.

    Returns:
      the fit (camera "cam0"), the solution it comes from, and the landmarks it was made from.

    Raises:
      UserError: no face, or none that the head can be laid on.
    """
    found = find_landmarks(source, landmarks=landmarks, face=face)
    with progress(total=1, what="fitting", unit="step") as bar:

        def report(step: int, total: int) -> None:
            bar.total = total
            bar.update(step - bar.n)

        solution = solve(head, found, told(config or SolveConfig(), [source.focal]), focal, report)
    error = float(np.nanmean(solution.error))
    if not error < MAX_ERROR:
        raise UserError(
            source.path,
            f"the head cannot be laid on this face (landmarks {100 * error:.0f} % of the face box away)",
            "is it a face seen from the front or the side, in focus?",
        )
    cameras = Camera(**{name: np.asarray(getattr(solution.camera, name))[None, None] for name in FIELDS})
    fit = Fit(solution.motion, cameras, np.array([source.image_size]), ("cam0",), solution.shape, head.name)
    return fit, solution, found


def write_overlay(
    path: str | os.PathLike, source: Source, head: HeadModel, solution: Solution, found: Landmarks
) -> None:
    """Writes the overlay: for a photo a PNG of the head beside the overlay, for a video an mp4 of whole frames. Not
    atomic: it is for a temporary that takes its place when the fit has."""
    with contextlib.ExitStack() as stack:
        height, width = source.image_size
        even = (height // 2 * 2, width // 2 * 2)
        writer = stack.enter_context(video.VideoWriter(path, even, source.fps, crf=18)) if source.video else None
        pictures = progress(source.frames(), total=source.frame_count, what="drawing the overlay", unit="frame")
        for frame, photo in enumerate(pictures):
            vertices = np.asarray(skin(head, solution.motion[frame : frame + 1], solution.shape))[0]
            seen = found.points[frame] if found.found[frame] else None
            facts = photo, head, vertices, solution.camera, seen, solution.projected[frame]
            if writer is None:
                images.write_png(path, draw_pair(*facts))
            else:
                writer.add(draw_overlay(*facts)[: even[0], : even[1]])
