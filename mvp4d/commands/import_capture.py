"""Read another tool's folder into a capture.

  mvp4d import SOURCE --from cap4d|gaussian-avatars --head HEAD --out CAPTURE
  mvp4d import SOURCE --from nersemble --sequence NAME --fit fit.npz --head HEAD --out CAPTURE
  mvp4d import SOURCE --from videos --fit fit.npz --head HEAD --out CAPTURE
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from mvp4d.core.errors import UserError

# layout -> module, function, the flags that it takes beside --head and --overwrite
LAYOUTS = {"cap4d": ("mvp4d.core.capture.cap4d", "import_cap4d", ()),
           "gaussian-avatars": ("mvp4d.core.capture.gaussian_avatars", "import_gaussian_avatars", ()),
           "nersemble": ("mvp4d.core.capture.nersemble", "import_nersemble", ("sequence", "fit", "scale")),
           "videos": ("mvp4d.core.capture.videos", "import_videos", ("fit", "scale"))}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="SOURCE", type=Path, help="another tool's folder")
    parser.add_argument("--from", dest="layout", required=True, choices=tuple(LAYOUTS), help="its layout")
    parser.add_argument("--head", required=True, help="the head of its fit: builtin, ict:PATH or flame:PATH")
    parser.add_argument("--out", required=True, type=Path, help="the capture to write")
    parser.add_argument("--overwrite", action="store_true", help="replace a capture that is there")
    parser.add_argument("--fit", type=Path, help="nersemble, videos: the fit.npz")
    parser.add_argument("--sequence", help="nersemble: the sequence")
    parser.add_argument("--scale", type=int, default=1, help="nersemble, videos: average pictures down by this factor")


def run(args: argparse.Namespace) -> str:
    from mvp4d.core.heads import load_head

    module, function, names = LAYOUTS[args.layout]
    for name in names:
        if getattr(args, name) is None:
            raise UserError(f"`{name}`", f"is missing: the layout {args.layout} needs it")
    reader = getattr(importlib.import_module(module), function)
    capture = reader(args.path, args.out, head=load_head(args.head), overwrite=args.overwrite,
                     **{name: getattr(args, name) for name in names})
    return f"{args.out}: capture, {capture.view_count} views x {capture.frame_count} frames"
