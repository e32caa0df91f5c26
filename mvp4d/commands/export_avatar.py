"""Avatars in other tools' formats, for `mvp4d export AVATAR --format ply|ply-sequence|cap4d-animation --out PATH`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mvp4d.core.errors import UserError

FORMATS = {
    "ply": "the 3D Gaussian splatting file of one frame (--frame)",
    "ply-sequence": "a folder of numbered such files",
    "cap4d-animation": "CAP4D's animation PLY, for its web viewer",
}


def configure(parser: argparse._ArgumentGroup) -> None:
    """Adds the flags that only avatars need."""
    parser.description = "--format " + "; ".join(f"{name}: {text}" for name, text in FORMATS.items())
    parser.add_argument("--motion", type=Path, help="motion.npz, fit.npz, .csv or capture (default: the avatar's own)")
    parser.add_argument("--frame", type=int, default=0, help="for ply: the frame of the motion")


def export_avatar(path: Path, format: str, out: Path, args: argparse.Namespace) -> str:
    """Writes an avatar in a format; returns the closing line.

    Raises:
      UserError: unknown format, a damaged avatar or motion, something in the way.
    """
    format = {"animation-ply": "cap4d-animation"}.get(format, format)
    if format not in FORMATS:
        raise UserError("--format", f"'{format}' is no format of avatars", f"use one of {', '.join(FORMATS)}")
    path, out, overwrite = Path(path), Path(out), bool(getattr(args, "overwrite", False))
    if out.exists() and not overwrite:
        raise UserError(out, "is already there", "choose another name, or give --overwrite")
    if (
        format == "ply-sequence"
        and out.exists()
        and not (out.is_dir() and all(p.suffix == ".ply" for p in out.iterdir()))
    ):
        raise UserError(out, "is no folder of PLY files, so it is not overwritten", "choose another name")
    from mvp4d.core.driving import load_motion
    from mvp4d.core.files import atomic_folder
    from mvp4d.core.progress import progress
    from mvp4d_export import ply
    from mvp4d_export.avatar import Avatar
    from mvp4d_export.rig import Pose

    avatar = Avatar.load(path)
    where = getattr(args, "motion", None) or path
    motion, notice = load_motion(where, avatar.head)
    if notice:
        print(notice, file=sys.stderr)
    pose = Pose.of(motion)
    frames = len(pose.expression)
    if format == "ply":
        frame = int(getattr(args, "frame", 0) or 0)
        if not 0 <= frame < frames:
            raise UserError("--frame", f"{frame} is none of {frames} frames")
        ply.write_splats(next(ply.sequence(avatar, pose[frame : frame + 1])), out)
        return f"{out}: {avatar.gaussian_count} Gaussians of frame {frame}"
    if format == "ply-sequence":
        with atomic_folder(out, overwrite=overwrite) as folder:
            for index, splats in enumerate(
                progress(ply.sequence(avatar, pose), total=frames, what="writing", unit="frame")
            ):
                ply.write_splats(splats, folder / f"{index:05d}.ply")
        return f"{out}: {frames} files of {avatar.gaussian_count} Gaussians"
    ply.write_animation(avatar, pose, out)
    return f"{out}: {avatar.gaussian_count} Gaussians, {frames} frames"
