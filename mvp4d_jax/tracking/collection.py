"""A folder of clips: each tracked by itself into a capture of one camera, in shares of several processes."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mvp4d.core import video
from mvp4d.core.capture import convert
from mvp4d.core.capture.fit import Fit
from mvp4d.core.errors import UserError
from mvp4d.core.heads import load_head
from mvp4d.core.heads.model import HeadModel
from mvp4d.core.places import without_folders
from mvp4d.core.progress import say
from mvp4d.core.room import require_space
from mvp4d.core.shares import begin_plan, raise_failures, read_notes, work_through, write_table
from mvp4d_jax.tracking.cutout import cut_out_each
from mvp4d_jax.tracking.detector import MEDIAPIPE
from mvp4d_jax.tracking.portrait import subject
from mvp4d_jax.tracking.track import Source, track

PLAN, FORMAT = "collection.json", "mvp4d-collection"
MOST_NAME = 180  # bytes; a file system takes 255, temporaries and locks are longer
NO_FACES = np.zeros((0, 478, 2))


@dataclasses.dataclass(frozen=True)
class ClipOptions:
    """How clips are tracked: spec of the head, "auto" to cut people out or "none", which face, focal length."""

    head: str = "builtin"
    matte: str = "auto"
    face: int | None = None
    focal: float | None = None


def find_clips(folder: str | os.PathLike) -> dict[str, Path]:
    """name -> video of every video in and below a folder; the name is the path with "__" between its parts.

    Raises:
      UserError: there is none, or two have one name.
    """
    folder = convert.check_folder(folder)
    found: dict[str, Path] = {}
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(root) / name
            if name.startswith(".") or path.suffix.lower() not in video.SUFFIXES:
                continue
            key = "__".join(path.relative_to(folder).with_suffix("").parts)
            if key in found:
                raise UserError(path, f"would be a second clip '{key}' beside {found[key]}", "rename one of them")
            if len(os.fsencode(key)) > MOST_NAME:
                raise UserError(path, f"its path from {folder} on is too long to name a folder", "shorten it")
            found[key] = path
    if not found:
        raise UserError(folder, "holds no clip", f"give a folder of videos ({' '.join(video.SUFFIXES)})")
    return dict(sorted(found.items()))


def track_clips(
    folder: str | os.PathLike,
    out: Path,
    options: ClipOptions,
    *,
    share: tuple[int, int] = (0, 1),
    landmarks: Path | None = None,
) -> str:
    """Tracks this process's share of a folder's clips; each becomes the capture `out/NAME`.

    A clip whose capture is there is done. One that fails leaves `out/NAME.failed`, and comes last when the same is run
    again. `out/failed.csv` lists those of all processes.

    Args:
      share: (I, N): every N-th clip from the I-th on.
      landmarks: folder of an npz for each clip, of its name, instead of MediaPipe.

    Returns:
      One line that says what is there.

    Raises:
      UserError: nothing can be done at all. SomeFailed: all is done but what is in the table.
    """
    clips, head = find_clips(folder), load_head(options.head)
    if options.matte == "auto" or landmarks is None:
        MEDIAPIPE.python()  # where it cannot be had, no clip need be tried
    _claim(out, options)

    def capture_of(name: str) -> None:
        marks = None if landmarks is None else landmarks / f"{name}.npz"
        _track_clip(clips[name], out / name, head, options, marks)

    def is_done(name: str) -> bool:
        return (out / name / "capture.json").is_file()

    finished, busy = work_through(list(clips), out, share, is_done, capture_of)
    failures = read_notes(out, [name for name in clips if not is_done(name)])
    write_table(out, "clip", failures)
    mine = list(clips)[share[0] :: share[1]]
    raise_failures(out, "clip", len(mine), [row for row in failures if row[0] in set(mine)])
    left = sum(not is_done(name) for name in clips)
    elsewhere = f"; {left} of {len(clips)} are with other processes" if left or busy else ""
    return f"{out}: {finished} of {len(mine)} clips tracked, {len(mine) - finished} before{elsewhere}"


def _claim(out: Path, options: ClipOptions) -> None:
    """The folder is this collection's: new, or begun with the very same options."""
    plan = {"format": FORMAT, **dataclasses.asdict(options), "head": without_folders(options.head)}
    refusal = UserError(out, "is not empty and holds no tracked clips", "choose another `out`")
    begun = begin_plan(out / PLAN, plan, lambda name: name.startswith("."), refusal)
    if begun != plan:
        differ = [key for key in plan if not isinstance(begun, dict) or begun.get(key) != plan[key]]
        raise UserError(out, f"was begun with another {', '.join(differ)}", "choose another `out`")


def _track_clip(path: Path, out: Path, head: HeadModel, options: ClipOptions, landmarks: Path | None) -> None:
    source = Source.open(path)
    require_space(out, 2.0 * source.frame_count * np.prod(source.image_size), "a clip's capture")
    fit, solution, _ = track(source, head, landmarks=landmarks, face=options.face, focal=options.focal)
    rig, motion = fit.rig(head, path)
    convert.write_views(
        out,
        lambda view: _pictures(source, fit, rig, options.matte == "auto"),
        head=rig,
        motion=motion,
        cameras=fit.cameras,
        names=fit.names,
        image_size=source.image_size,
        masks=options.matte == "auto",
        source=f"tracked clip {path.name}",
        extra={
            **convert.identity_extra(solution.shape),
            "landmark_error": round(float(np.nanmean(solution.error)), 4),
        },
    )
    say(f"{path}: {source.frame_count} frames: {out}")


def _pictures(source: Source, fit: Fit, rig: HeadModel, cut: bool) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """A clip's frames, the person cut out where `cut`."""
    if not cut:
        yield from ((rgb, None) for rgb in source.frames())
        return
    camera, motion = fit.cameras[0, 0], fit.motion
    opaque = np.full((*source.image_size, 1), 255, np.uint8)
    subjects = (
        subject(np.concatenate([rgb, opaque], -1), camera, motion[slice(frame, frame + 1)], rig, NO_FACES)
        for frame, rgb in enumerate(source.frames())
    )
    for rgba in cut_out_each(subjects, source.frame_count):
        yield rgba[..., :3], rgba[..., 3]
