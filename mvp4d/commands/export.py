"""Write a capture or an avatar in another tool's format.

  mvp4d export CAPTURE --format gaussian-avatars|cap4d|nerfstudio --out DIR
  mvp4d export AVATAR  --format ply|ply-sequence|cap4d-animation  --out PATH
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from mvp4d.core.errors import UserError

CAPTURES = {"gaussian-avatars": ("mvp4d.core.capture.gaussian_avatars", "export_gaussian_avatars"),
            "cap4d": ("mvp4d.core.capture.cap4d", "export_cap4d"),
            "nerfstudio": ("mvp4d.core.capture.nerfstudio", "export_nerfstudio")}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", type=Path, help="a capture or an avatar")
    parser.add_argument("--format", help=f"captures: {', '.join(CAPTURES)}; avatars: see docs/formats.md "
                        "(default: told by the name of --out)")
    parser.add_argument("--out", required=True, type=Path, help="where to write")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there, if it is of the same kind")
    avatars = parser.add_argument_group("avatars")
    avatars.add_argument("--motion", type=Path, help="motion.npz, fit.npz, .csv or capture (default: the avatar's own)")
    avatars.add_argument("--frame", type=int, default=0, help="for formats of one frame: the frame of the motion")


def run(args: argparse.Namespace) -> str:
    if (args.path / "capture.json").exists() or args.format in CAPTURES:
        return _capture(args)
    try:
        from mvp4d_export.formats import check_format
    except ImportError as error:
        raise UserError(args.path, f"avatars need the PyTorch half ({error})",
                        "pip install 'mvp4d-jax[export]'") from None
    import mvp4d

    check_format(args.format, args.out)
    avatar = mvp4d.open_avatar(args.path, device="cpu")
    avatar.export(args.out, format=args.format, motion=args.motion, frame=args.frame, overwrite=args.overwrite)
    return f"{args.out}: {avatar.module.gaussian_count} Gaussians"


def _capture(args: argparse.Namespace) -> str:
    from mvp4d.core.capture import Capture

    capture = Capture.open(args.path)
    if args.format not in CAPTURES:
        raise UserError("`format`", f"'{args.format}' is no format of captures", f"use one of {', '.join(CAPTURES)}")
    module, function = CAPTURES[args.format]
    note = getattr(importlib.import_module(module), function)(capture, args.out, overwrite=args.overwrite)
    return f"{args.out}: {args.format}" + (f" ({note})" if note else "")
