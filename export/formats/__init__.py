"""Avatars in other programs' formats, one module each. `docs/formats.md` says what each keeps and what it loses."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mvp4d.core.errors import UserError
from mvp4d.core.outputs import check_file, check_folder

if TYPE_CHECKING:
    from mvp4d.core.heads.motion import Motion
    from mvp4d_export.avatar import Avatar

FRAMES = "folder of PLY files"  # the kind of folder that holds a file a frame


@dataclasses.dataclass(frozen=True)
class Format:
    """A format that avatars are written in.

    Attributes:
      what: one line for a person.
      suffix: of its files; a name that ends so asks for this format.
      writer: "module:function" of this package; the function takes a `Job`, writes `job.out` whole or not at all and
        returns the closing line.
      own_motion: where no motion is asked for, the avatar's own is written; else the avatar at rest.
      folder: what is written is a folder.
      lost: what of the avatar the format does not keep, for a person.
      clips: holds several motions, each with a name and sound.
      one_frame: holds one frame of a motion.
    """

    what: str
    suffix: str
    writer: str
    own_motion: bool = True
    folder: bool = False
    lost: str = ""
    clips: bool = False
    one_frame: bool = False


@dataclasses.dataclass(frozen=True)
class Clip:
    """A motion that a page plays: its name there, the motion of the avatar's own head, and a sound file."""

    name: str
    motion: Motion
    sound: Path | None = None


_STILL = "motion, and how an antialiased avatar's blur grows with the picture"
FORMATS = {
    "ply": Format(
        "the 3D Gaussian splatting file of one frame", ".ply", "ply:write_frame", lost=_STILL, one_frame=True
    ),
    "ply-sequence": Format("a folder of numbered such files", "", "ply:write_sequence", folder=True),
    "glb": Format(
        "glTF with KHR_gaussian_splatting, one frame", ".glb", "glb:write", lost="motion, antialiasing", one_frame=True
    ),
    "spz": Format(
        "Niantic's packed splats, one frame", ".spz", "spz:write", lost="motion, some precision", one_frame=True
    ),
    "lam": Format(
        "LAM's zip for its browser renderer and OpenAvatarChat",
        ".zip",
        "lam:write",
        own_motion=False,
        lost="jaw, neck and gaze joints, turning of Gaussians with the skin, colours that depend on the view",
    ),
    "html": Format("one page that shows it in any browser, without network", ".html", "html:write", clips=True),
    "cap4d-animation": Format("CAP4D's animation PLY, for its web viewer", "", "cap4d:write"),
}


@dataclasses.dataclass(frozen=True)
class Job:
    """One file to write.

    Attributes:
      avatar: on any device.
      motion: in the avatar's own expression order; None for the face at rest (`Format.own_motion`).
      out: file or folder.
      frame: of the motion, for formats of one frame.
      sh: degree of the harmonics that are written: higher bands are cut, missing ones zero. None: the avatar's own.
      raw_axes: PLY only: the world's axes (y up) instead of the turned ones that viewers expect.
      overwrite: replace a folder that is already there.
      clips: motions that the format is to hold (`Format.clips`).
    """

    avatar: Avatar
    motion: Motion | None
    out: Path
    frame: int = 0
    sh: int | None = None
    raw_axes: bool = False
    overwrite: bool = False
    clips: tuple[Clip, ...] = ()


def export_avatar(
    avatar: Avatar,
    out: Path,
    format: str | None,
    motion: Motion | None,
    *,
    frame: int | None = None,
    sh: int | None = None,
    raw_axes: bool = False,
    overwrite: bool = False,
    clips: tuple[Clip, ...] = (),
) -> str:
    """Writes an avatar in a format; returns the closing line.

    Args:
      format: a name of `FORMATS`; None for the one that `out` ends in.
      motion: of the avatar's own head: what is written of, where the format holds a motion.
      frame, sh, raw_axes, clips: see `Job`.

    Raises:
      UserError: unknown format, something in the way, no such frame, Gaussians that no file may hold.
    """
    name = check_format(format, out)
    chosen = FORMATS[name]
    if chosen.folder:
        check_folder(out, FRAMES, overwrite)
    else:
        check_file(out, overwrite)
    if frame is not None and not chosen.one_frame:
        raise UserError("`frame`", f"'{name}' does not hold one frame of a motion", "leave it out")
    if motion is not None and not 0 <= (frame or 0) < motion.frame_count:
        raise UserError(
            "`frame`", f"{frame} is none of {motion.frame_count} frames", f"use 0 to {motion.frame_count - 1}"
        )
    if sh is not None and not (chosen.one_frame or chosen.folder):
        raise UserError("`sh`", f"'{name}' has harmonics of its own", "leave it out")
    if sh is not None and sh not in range(4):
        raise UserError("`sh`", f"{sh} is no degree of harmonics", "use 0, 1, 2 or 3")
    if raw_axes and not name.startswith("ply"):
        raise UserError("`raw_axes`", f"'{name}' has axes of its own", "leave it out")
    module, _, function = chosen.writer.partition(":")
    write = getattr(importlib.import_module(f"{__name__}.{module}"), function)
    return write(Job(avatar, motion, out, frame or 0, sh, raw_axes, overwrite, clips))


def check_format(format: str | None, out: Path, also: Sequence[str] = ()) -> str:
    """The name of a format, told by the suffix of `out` where None is given.

    Args:
      also: names of formats that the caller writes itself: for the message.

    Raises:
      UserError: no such format.
    """
    known = ", ".join((*FORMATS, *also))
    if format is None:
        told = [name for name, entry in FORMATS.items() if entry.suffix and entry.suffix == out.suffix.lower()]
        if not told:
            raise UserError("`format`", f"is not told by the name '{out.name}'", f"give one of {known}")
        return told[0]
    if format not in FORMATS:
        raise UserError("`format`", f"'{format}' is no format of avatars", f"use one of {known}")
    return format
