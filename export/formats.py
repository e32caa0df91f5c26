"""Avatars in other programs' formats."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from mvp4d.core.errors import UserError
from mvp4d.core.files import atomic_folder
from mvp4d.core.heads.motion import Motion
from mvp4d.core.outputs import check_file, check_folder
from mvp4d.core.progress import progress
from mvp4d_export import ply
from mvp4d_export.avatar import Avatar
from mvp4d_export.rig import Pose

FRAMES = "folder of PLY files"


@dataclasses.dataclass(frozen=True)
class Format:
    """A format that avatars are written in.

    Attributes:
      what: one line for a person.
      suffix: of its files; a name that ends so asks for this format.
      write: (avatar, motion, out, frame, overwrite) -> the closing line.
    """

    what: str
    suffix: str
    write: Callable[[Avatar, Motion, Path, int, bool], str]


def export_avatar(avatar: Avatar, out: Path, format: str | None, motion: Motion, *, frame: int = 0,
                  overwrite: bool = False) -> str:
    """Writes an avatar in a format; returns the closing line.

    Args:
      format: a name of `FORMATS`; None for the one that `out` ends in.
      motion: of the avatar's own head: what is written of, where the format holds a motion.
      frame: of the motion, for formats of one frame.

    Raises:
      UserError: unknown format, something in the way, no such frame.
    """
    chosen = FORMATS[check_format(format, out)]
    if chosen.suffix:
        check_file(out, overwrite)
    else:
        check_folder(out, FRAMES, overwrite)
    if not 0 <= frame < motion.frame_count:
        raise UserError("`frame`", f"{frame} is none of {motion.frame_count} frames")
    return chosen.write(avatar, motion, out, frame, overwrite)


def check_format(format: str | None, out: Path) -> str:
    """The name of a format, told by the suffix of `out` where None is given. Raises UserError."""
    if format is None:
        told = [name for name, entry in FORMATS.items() if entry.suffix and entry.suffix == out.suffix.lower()]
        if not told:
            raise UserError("`format`", f"is not told by the name '{out.name}'", f"give one of {', '.join(FORMATS)}")
        return told[0]
    if format not in FORMATS:
        raise UserError("`format`", f"'{format}' is no format of avatars", f"use one of {', '.join(FORMATS)}")
    return format


def _ply(avatar: Avatar, motion: Motion, out: Path, frame: int, overwrite: bool) -> str:
    ply.write_splats(next(ply.sequence(avatar, Pose.of(motion)[frame : frame + 1])), out)
    return f"{out}: {avatar.gaussian_count} Gaussians of frame {frame}"


def _ply_sequence(avatar: Avatar, motion: Motion, out: Path, frame: int, overwrite: bool) -> str:
    frames = progress(ply.sequence(avatar, Pose.of(motion)), total=motion.frame_count, what="writing", unit="frame")
    with atomic_folder(out, overwrite=overwrite, kind=FRAMES) as folder:
        for index, splats in enumerate(frames):
            ply.write_splats(splats, folder / f"{index:05d}.ply")
    return f"{out}: {motion.frame_count} files of {avatar.gaussian_count} Gaussians"


def _animation(avatar: Avatar, motion: Motion, out: Path, frame: int, overwrite: bool) -> str:
    ply.write_animation(avatar, Pose.of(motion), out)
    return f"{out}: {avatar.gaussian_count} Gaussians, {motion.frame_count} frames"


FORMATS = {
    "ply": Format("the 3D Gaussian splatting file of one frame", ".ply", _ply),
    "ply-sequence": Format("a folder of numbered such files", "", _ply_sequence),
    "cap4d-animation": Format("CAP4D's animation PLY, for its web viewer", ".ply", _animation),
}
