"""Write a capture or an avatar in another tool's format, or read another tool's folder into a capture.

  mvp4d export CAPTURE --format gaussian-avatars|cap4d|nerfstudio --out DIR
  mvp4d export AVATAR  --format ply|ply-sequence|cap4d-animation  --out PATH
  mvp4d export SOURCE  --format capture --from cap4d|gaussian-avatars|nersemble|videos --head HEAD --out CAPTURE
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from mvp4d.core.errors import UserError

_OUT = {"gaussian-avatars": ("mvp4d.core.capture.gaussian_avatars", "export_gaussian_avatars"),
        "cap4d": ("mvp4d.core.capture.cap4d", "export_cap4d"),
        "nerfstudio": ("mvp4d.core.capture.nerfstudio", "export_nerfstudio")}
_IN = {"cap4d": ("mvp4d.core.capture.cap4d", "import_cap4d", ()),
       "gaussian-avatars": ("mvp4d.core.capture.gaussian_avatars", "import_gaussian_avatars", ()),
       "nersemble": ("mvp4d.core.capture.nersemble", "import_nersemble", ("sequence", "fit", "scale")),
       "videos": ("mvp4d.core.capture.videos", "import_videos", ("fit", "scale"))}
_AVATAR = "mvp4d.commands.export_avatar"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", type=Path, help="a capture, an avatar, or another tool's folder")
    parser.add_argument("--format", required=True, help=f"captures: {', '.join(_OUT)}; from other tools: capture; "
                        "avatars: see below")
    parser.add_argument("--out", required=True, type=Path, help="where to write")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there, if it is of the same kind")
    parser.add_argument("--from", dest="source", choices=tuple(_IN), help="with --format capture: the source's layout")
    parser.add_argument("--head", help="with --format capture: the head of its fit (builtin, ict:PATH, flame:PATH)")
    parser.add_argument("--fit", type=Path, help="with --from nersemble or videos: the fit.npz")
    parser.add_argument("--sequence", help="with --from nersemble: the sequence")
    parser.add_argument("--scale", type=int, default=1, help="with --from nersemble or videos: average down by this")
    try:
        avatars = importlib.import_module(_AVATAR)
    except ImportError:
        return  # the PyTorch half is not installed: captures can still be exported
    avatars.configure(parser.add_argument_group("avatars"))


def run(args: argparse.Namespace) -> str:
    if args.format == "capture":
        return _import(args)
    if (args.path / "capture.json").exists():
        return _export(args)
    if args.format in _OUT:
        from mvp4d.core.capture import Capture

        Capture.open(args.path)  # says what is wrong with it
    try:
        avatars = importlib.import_module(_AVATAR)
    except ImportError as error:
        raise UserError(args.path, f"avatars need the PyTorch half ({error})",
                        "pip install 'mvp4d-jax[export]'") from None
    return str(avatars.export_avatar(args.path, args.format, args.out, args))


def _export(args: argparse.Namespace) -> str:
    if args.format not in _OUT:
        raise UserError("--format", f"'{args.format}' is no format of captures", f"use one of {', '.join(_OUT)}")
    from mvp4d.core.capture import Capture

    module, function = _OUT[args.format]
    note = getattr(importlib.import_module(module), function)(Capture.open(args.path), args.out,
                                                              overwrite=args.overwrite)
    return f"{args.out}: {args.format}" + (f" ({note})" if note else "")


def _import(args: argparse.Namespace) -> str:
    if args.source is None or args.head is None:
        raise UserError("--format capture", "needs --from and --head")
    from mvp4d.core.heads import load_head

    module, function, names = _IN[args.source]
    options = {name: getattr(args, name) for name in names}
    if args.source == "nersemble" and (args.fit is None or args.sequence is None):
        raise UserError("--from nersemble", "needs --sequence and --fit")
    reader = getattr(importlib.import_module(module), function)
    capture = reader(args.path, args.out, head=load_head(args.head), overwrite=args.overwrite, **options)
    return f"{args.out}: capture, {capture.view_count} views x {capture.frame_count} frames"
