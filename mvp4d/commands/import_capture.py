"""Read another tool's folder into a capture.

mvp4d import SOURCE --from cap4d|gaussian-avatars --head HEAD --out CAPTURE
mvp4d import SOURCE --from nersemble --sequence NAME --fit fit.npz --head HEAD --out CAPTURE
mvp4d import TASK/PARTICIPANT --from nersemble-benchmark --sequence NAME [--fit fit.npz] --head HEAD --out CAPTURE
mvp4d import SOURCE --from videos --fit fit.npz --head HEAD --out CAPTURE
"""

from __future__ import annotations

import argparse
import functools
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mvp4d.core.errors import UserError

if TYPE_CHECKING:
    from mvp4d.core.capture import Capture

# layout -> module, function, the flags that it takes beside --head and --overwrite
LAYOUTS = {
    "cap4d": ("mvp4d.core.capture.cap4d", "import_cap4d", ("drop_incomplete",)),
    "gaussian-avatars": ("mvp4d.core.capture.gaussian_avatars", "import_gaussian_avatars", ("fps", "drop_incomplete")),
    "nersemble": ("mvp4d.core.capture.nersemble", "import_nersemble", ("sequence", "fit", "scale")),
    "nersemble-benchmark": (
        "mvp4d.core.capture.nersemble_benchmark",
        "import_nersemble_benchmark",
        ("sequence", "fit", "scale"),
    ),
    "videos": ("mvp4d.core.capture.videos", "import_videos", ("fit", "scale", "drop_incomplete")),
}
OPTIONAL = ("fit", "fps")  # where None is the layout's own


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="SOURCE", type=Path, help="another tool's folder")
    parser.add_argument("--from", dest="layout", required=True, choices=tuple(LAYOUTS), help="its layout")
    parser.add_argument("--head", required=True, help="the head of its fit: builtin, ict:PATH or flame:PATH")
    parser.add_argument("--out", required=True, type=Path, help="the capture to write")
    parser.add_argument("--overwrite", action="store_true", help="replace a capture that is there")
    parser.add_argument(
        "--drop-incomplete",
        action="store_true",
        help="not of nersemble: leave out frames that a camera lacks, instead of refusing",
    )
    parser.add_argument(
        "--overlay",
        type=Path,
        metavar="PNG",
        help="also draw the rig over a picture of every camera: a wrong convention is seen at once",
    )
    parser.add_argument("--fps", type=float, help="gaussian-avatars: frames per second (default 25)")
    parser.add_argument(
        "--fit", type=Path, help="nersemble and its benchmark, videos: the fit.npz (videos: default SOURCE/fit.npz)"
    )
    parser.add_argument("--sequence", help="nersemble and its benchmark: the sequence")
    parser.add_argument(
        "--scale", type=int, default=1, help="nersemble and its benchmark, videos: average pictures down by this factor"
    )


def run(args: argparse.Namespace) -> str:
    from mvp4d.core.heads import load_head
    from mvp4d.core.outputs import check_file

    module, function, names = LAYOUTS[args.layout]
    options = {name: getattr(args, name) for name in names}
    options = {name: value for name, value in options.items() if value is not None}
    for name in sorted(set(names) - set(options)):
        if name not in OPTIONAL or (name, args.layout) == ("fit", "nersemble"):
            raise UserError(f"`{name}`", f"is missing: the layout {args.layout} needs it")
    if args.overlay is not None:
        if args.overlay.suffix != ".png":
            raise UserError("`overlay`", f"'{args.overlay}' is no PNG file", "give a name that ends in .png")
        check_file(args.overlay, args.overwrite)
    reader = functools.partial(
        getattr(importlib.import_module(module), function), args.path, head=load_head(args.head), **options
    )
    if args.overlay is None:
        capture = reader(args.out, overwrite=args.overwrite)
    else:
        capture = _with_overlay(reader, args.out, args.overlay, args.overwrite)
    said = f"{args.out}: capture, {capture.view_count} views x {capture.frame_count} frames"
    return said if args.overlay is None else f"{said}; look at {args.overlay}"


def _with_overlay(reader: Callable[[Path], Capture], out: Path, overlay: Path, overwrite: bool) -> Capture:
    """Reads a capture and draws its overlay; both are put in place when both are made, so that a run that is stopped
    can be started over."""
    from mvp4d.core.files import atomic_file, atomic_folder
    from mvp4d_jax.tracking.sheet import write_rig_sheet

    with atomic_file(overlay) as sheet, atomic_folder(out, overwrite=overwrite, kind="capture") as folder:
        try:
            capture = reader(folder)
            write_rig_sheet(sheet, capture)
        except UserError as error:  # what it says of the temporary folder is meant for the user's
            raise type(error)(*(str(part).replace(str(folder), str(out)) for part in error.args)) from None
    return capture
