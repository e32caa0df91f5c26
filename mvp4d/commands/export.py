"""Write a capture, an avatar or a motion in another tool's format.

mvp4d export CAPTURE --format gaussian-avatars|cap4d|nerfstudio --out DIR
mvp4d export AVATAR  --format html|ply|ply-sequence|glb|spz|lam|cap4d-animation  --out PATH
mvp4d export AVATAR  --format nersemble-benchmark --benchmark TASK/PARTICIPANT --sequence NAME --out submission.zip
mvp4d export MOTION  --format csv --out drive.csv    Live Link, from a motion.npz, fit.npz, capture or avatar
"""

from __future__ import annotations

import argparse
import functools
import importlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mvp4d.commands.clips import add_clips
from mvp4d.core.errors import UserError
from mvp4d.core.words import counted

CAPTURES = {
    "gaussian-avatars": ("mvp4d.core.capture.gaussian_avatars", "export_gaussian_avatars"),
    "cap4d": ("mvp4d.core.capture.cap4d", "export_cap4d"),
    "nerfstudio": ("mvp4d.core.capture.nerfstudio", "export_nerfstudio"),
}

ALSO = ("csv", "nersemble-benchmark")  # of an avatar, beside those of `mvp4d_export.formats`


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", type=Path, help="a capture, an avatar or a motion")
    parser.add_argument(
        "--format",
        help=f"captures: {', '.join(CAPTURES)}; motions: csv; avatars: see docs/formats.md "
        "(default: told by the name of --out)",
    )
    parser.add_argument("--out", required=True, type=Path, help="where to write")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there, if it is of the same kind")
    avatars = parser.add_argument_group("avatars")
    add_clips(avatars, "with html ")
    avatars.add_argument("--frame", type=int, help="for formats of one frame: the frame of the motion (default 0)")
    avatars.add_argument(
        "--sh",
        type=int,
        metavar="0..3",
        help="degree of the harmonics (default: the avatar's); readers for Unity and SIBR want 3",
    )
    avatars.add_argument("--raw-axes", action="store_true", help="PLY in the world's axes, not turned for viewers")

    benchmark = parser.add_argument_group("nersemble-benchmark", "a sequence's videos, added to a submission")
    benchmark.add_argument("--benchmark", type=Path, metavar="TASK/PARTICIPANT", help="the downloaded folder")
    benchmark.add_argument("--sequence", help="the sequence to render from the cameras that are held out")
    benchmark.add_argument("--fit", type=Path, help="the fit that the capture was imported with, if it was (task nvs)")


def run(args: argparse.Namespace) -> str:
    if args.format == "nersemble-benchmark":
        return _submission(args)
    given = [name for name in ("benchmark", "sequence", "fit") if getattr(args, name) is not None]
    if given:
        raise UserError(f"`{given[0]}`", "is for --format nersemble-benchmark", "leave it out")
    if args.format == "csv" or (args.format is None and args.out.suffix.lower() == ".csv"):
        return _motion(args)
    if (args.path / "capture.json").exists() or args.format in CAPTURES:
        return _capture(args)
    try:
        from mvp4d_export.formats import FORMATS, check_format
    except ImportError as error:
        raise UserError(
            args.path, f"avatars need the PyTorch half ({error})", "in the checkout: pip install '.[export]'"
        ) from None
    from mvp4d.avatar import open_avatar, write_format

    lost = FORMATS[check_format(args.format, args.out, also=ALSO)].lost
    line = write_format(
        open_avatar(args.path, device="cpu"),
        args.out,
        args.format,
        args.motion,
        args.audio,
        frame=args.frame,
        sh=args.sh,
        raw_axes=args.raw_axes,
        overwrite=args.overwrite,
    )
    return line + (f" (not kept: {lost})" if lost else "")


def _submission(args: argparse.Namespace) -> str:
    import mvp4d
    from mvp4d.core.capture.nersemble_benchmark import held_out_views, write_submission

    _refuse_avatars_flags(args, "a submission plays the benchmark's motion, as it is rendered", "leave it out")
    for name in ("benchmark", "sequence"):
        if getattr(args, name) is None:
            raise UserError(f"`{name}`", "is missing", "give the downloaded TASK/PARTICIPANT and the sequence's name")
    avatar = mvp4d.open_avatar(args.path)
    task, serials, cameras, motion = held_out_views(args.benchmark, args.sequence, avatar.head, args.fit)
    still = cameras[:, None]

    def frames_of(view: int) -> Iterator[np.ndarray]:
        camera = still[np.full(motion.frame_count, view), 0]
        return iter(avatar.render(motion, cameras=camera, size=task.size))

    views = ((serial, functools.partial(frames_of, view)) for view, serial in enumerate(serials))
    name = args.benchmark.absolute().name
    missing = write_submission(args.out, task, name, args.sequence, views, overwrite=args.overwrite)
    whole = f"it lacks {len(missing)} of {len(task.videos)} yet, next {missing[0]}" if missing else "it is complete"
    return f"{args.out}: {len(serials)} videos of {motion.frame_count} frames; {whole}"


def _motion(args: argparse.Namespace) -> str:
    if args.out.suffix.lower() != ".csv":
        raise UserError("`out`", f"'{args.out.name}' is no name of a CSV", "use NAME.csv")
    _refuse_avatars_flags(args, "a CSV holds one motion", "give that motion in the avatar's place")
    from mvp4d.core.driving import load_motion
    from mvp4d.core.heads import load_head
    from mvp4d.core.live_link import check_recording, write_live_link

    check_recording(args.out, args.overwrite)
    head = load_head("builtin")  # its expressions are ARKit's
    motion, notice = load_motion(args.path, head)
    lost = write_live_link(args.out, motion, head.expression_names)
    notes = "; ".join(note for note in (notice, lost) if note)
    frames = f"{counted(motion.frame_count, 'frame')} at {motion.fps:g} a second"
    return f"{args.out}: {frames}" + (f" ({notes})" if notes else "")


def _refuse_avatars_flags(args: argparse.Namespace, why: str, fix: str) -> None:
    for name in ("motion", "audio", "frame", "sh", "raw_axes"):
        if getattr(args, name) not in (None, False, []):
            raise UserError(f"`{name}`", why, fix)


def _capture(args: argparse.Namespace) -> str:
    from mvp4d.core.capture import Capture

    capture = Capture.open(args.path)
    if args.format not in CAPTURES:
        what = "is missing" if args.format is None else f"'{args.format}' is no format of captures"
        fix = f"{args.path} is a capture: use one of {', '.join(CAPTURES)}, or give the avatar that was distilled of it"
        raise UserError("`format`", what, fix)
    _refuse_avatars_flags(args, "a capture is written as it is", "leave it out")
    module, function = CAPTURES[args.format]
    note = getattr(importlib.import_module(module), function)(capture, args.out, overwrite=args.overwrite)
    return f"{args.out}: {args.format}" + (f" ({note})" if note else "")
