"""Fit a head model to a photo or video.

  mvp4d track PHOTO|VIDEO --head builtin|ict:PATH|flame:PATH --out fit.npz

Landmarks come from MediaPipe's face mesh, which gets a Python environment of its own on first use (about 400 MB), or
from a file: an npz with `landmarks` [F, 68, 2] in Multi-PIE order or [F, 478, 2] of MediaPipe, in pixels. Beside
fit.npz, in CAP4D's fields, it writes an overlay to judge the fit by: green is what was found, red what was fitted.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="PHOTO|VIDEO", type=Path, help="what to track")
    parser.add_argument("--head", default="builtin", help="builtin, ict:PATH or flame:PATH (default: builtin)")
    parser.add_argument("--out", type=Path, required=True, help="the fit.npz to write")
    parser.add_argument("--landmarks", type=Path, help="an npz of landmarks, instead of MediaPipe")
    parser.add_argument("--face", type=int, help="which face, counted from the left from 1 (default: the largest)")
    parser.add_argument("--focal", type=float, help="focal length in pixels, where it is known")
    parser.add_argument("--overlay", type=Path, help="where to write the overlay (default: beside --out)")
    parser.add_argument("--overwrite", action="store_true", help="replace a fit and an overlay that are there")


def run(args: argparse.Namespace) -> str:
    from mvp4d.core.errors import UserError
    from mvp4d.core.heads import load_head
    from mvp4d.core.outputs import check_file
    from mvp4d_jax.tracking.track import Source, track, write_overlay

    if args.out.suffix != ".npz":
        raise UserError("--out", f"'{args.out}' is not an npz file", "give a name that ends in .npz")
    if args.focal is not None and not 1 <= args.focal <= 1e6:
        raise UserError("--focal", f"{args.focal} pixels", "it is at least 1")
    source = Source.open(args.source)
    overlay = args.overlay or args.out.with_name(f"{args.out.stem}_overlay{'.mp4' if source.video else '.png'}")
    if overlay.suffix != (".mp4" if source.video else ".png"):
        raise UserError("--overlay", f"'{overlay}'", "a photo's overlay is a .png, a video's an .mp4")
    for path in (args.out, overlay):
        check_file(path, args.overwrite)
    head = load_head(args.head)
    fit, solution, found = track(source, head, landmarks=args.landmarks, face=args.face, focal=args.focal)
    write_overlay(overlay, source, head, solution, found)
    fit.save(args.out)
    angles = np.degrees(fit.motion.rotation[0])
    return (f"{args.out}: head '{head.name}', {fit.frame_count} frames, landmarks within "
            f"{100 * np.nanmean(solution.error):.1f} % of the face box, first rotation {angles[0]:.0f} {angles[1]:.0f} "
            f"{angles[2]:.0f} degrees; look at {overlay}")
