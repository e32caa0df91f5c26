"""Fit a head model to photos of a person or to a video.

  mvp4d track PHOTO [PHOTO ...] --out PERSON       one identity, and a camera, pose, expression and cut-out of each
  mvp4d track VIDEO --out PERSON                   the same of some of its frames: sharp ones, spread over its poses
  mvp4d track PHOTO|VIDEO --out fit.npz            every frame's fit alone, in CAP4D's fields: a driving motion
  mvp4d track FOLDER --cameras CALIBRATION --out CAPTURE    one head fitted to all views of a calibrated rig
  mvp4d track FOLDER --share 0/1 --out CAPTURES    every clip of a folder by itself: a capture each
  mvp4d track --live CAMERA|VIDEO --out drive.csv  a motion, fitted while it is filmed; a camera's (0) until Ctrl-C

`mvp4d sample --reference PERSON` goes on from a person's folder. Landmarks come from MediaPipe's face mesh, which gets
a Python environment of its own on first use (about 700 MB), or from files: an npz with `landmarks` [F, 68, 2] in
Multi-PIE order or [F, 478, 2] of MediaPipe, in pixels. The person is cut out by MediaPipe's selfie segmentation.
Beside the result lies an overlay to judge the fit by: green is what was found, red what was fitted.

A rig's FOLDER holds synchronised videos, folders of pictures, or one picture of each camera, named as the calibration
names them: a COLMAP text model (folder of cameras.txt and images.txt), a transforms.json (nerfstudio, Blender, VHAP),
Metashape's XML, or a capture. Its unit is told by the head's size. A network's landmarks are the start, and the
pictures' colours decide; landmarks from files are taken as they are: one npz for each view that sees the face, named as
the view. `--out NAME.npz` writes the fit alone.

Of thousands of clips (--share I/N) this process does every N-th from the I-th on; clips lie in FOLDER or below it, and
those that are done are not done again. CAPTURES/failed.csv says which failed and why; any of them is exit code 2.
`--landmarks` is then a folder of an npz for each clip. `mvp4d prepare CAPTURES` goes on from there.
"""

from __future__ import annotations

import argparse
import contextlib
import shlex
from pathlib import Path

import numpy as np

from mvp4d.commands.person import add_matte_flag
from mvp4d.core.errors import UserError
from mvp4d.core.words import counted


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "sources", metavar="PHOTO|VIDEO|FOLDER", type=Path, nargs="+", help="photos of one person, one video, or a rig"
    )
    parser.add_argument("--head", default="builtin", help="builtin, ict:PATH or flame:PATH (default: builtin)")
    parser.add_argument("--out", type=Path, required=True, metavar="PERSON|NAME.npz|CAPTURE", help="what to write")
    parser.add_argument(
        "--landmarks",
        type=Path,
        nargs="+",
        metavar="NPZ",
        help="landmarks of each photo or of the video, instead of MediaPipe",
    )
    parser.add_argument("--face", type=int, help="which face, counted from the left from 1 (default: the largest)")
    parser.add_argument("--focal", type=float, help="focal length in pixels, where it is known")
    parser.add_argument("--overlay", type=Path, help="where to write the overlay (default: beside --out)")
    parser.add_argument("--overwrite", action="store_true", help="replace a fit and an overlay that are there")
    rig = parser.add_argument_group("a calibrated rig")
    rig.add_argument("--cameras", type=Path, metavar="CALIBRATION", help="the calibration of FOLDER's cameras")
    rig.add_argument("--fps", type=float, help="frames per second (default: the first video's, 25 for pictures)")
    parser.add_argument(
        "--live",
        action="store_true",
        help="frame by frame, as `view --drive` does: to NAME.csv (Live Link) or NAME.npz",
    )
    parser.add_argument("--share", metavar="I/N", help="a folder of clips: do every N-th from the I-th on; 0/1 is all")
    person = parser.add_argument_group("a person's folder")
    person.add_argument(
        "--mask",
        dest="masks",
        type=Path,
        nargs="+",
        metavar="IMAGE",
        help="white where the person is, one for each photo (default: cut out automatically)",
    )
    add_matte_flag(person)
    person.add_argument("--same-person", action="store_true", help="take the photos for one person's, unchecked")
    person.add_argument("--most", type=int, metavar="N", help="frames to keep of a video (default 6)")


def shares_out(args: argparse.Namespace) -> bool:
    """Processes share a folder of captures; each capture has a lock of its own."""
    return args.share is not None


def resumes(args: argparse.Namespace) -> bool:
    """Clips that are done are not done again; a person or a clip alone starts over."""
    return args.share is not None


def run(args: argparse.Namespace) -> str:
    if args.focal is not None and not 1 <= args.focal <= 1e6:
        raise UserError("--focal", f"{args.focal} pixels", "it is at least 1")
    if args.share is not None:
        return _clips(args)
    if args.cameras is not None:
        if args.live:
            raise UserError("--live", "takes no `cameras`", "leave one of them out")
        return _rig(args)
    if args.fps is not None or any(source.is_dir() for source in args.sources):
        raise UserError(
            "--cameras",
            "is missing: a folder is a rig's and needs its calibration",
            "give it, or --share 0/1 where the folder holds clips, or in its place photos of one person (FOLDER/*)",
        )
    if args.live:
        return _live(args)
    if args.out.suffix == ".npz":
        return _fit(args)
    if args.out.suffix:
        raise UserError("--out", f"'{args.out}' is neither an npz file nor a folder", "give PERSON or NAME.npz")
    return _person(args)


def _refuse(args: argparse.Namespace, where: str, what: str, *names: str) -> None:
    """Refuses arguments that this kind of tracking would not look at."""
    for name in names:
        value = getattr(args, name)
        if value is not None and value is not False and not (name == "matte" and value == "auto"):
            raise UserError(where, f"{what} `{name}`", "leave one of them out")


def _person(args: argparse.Namespace) -> str:
    import mvp4d
    from mvp4d.core.capture.portrait import KIND, save_person
    from mvp4d.core.files import atomic_file
    from mvp4d.core.images import write_png
    from mvp4d.core.outputs import check_file, check_folder
    from mvp4d_jax.tracking.overlay import draw_portrait

    if len(args.sources) > 1:
        _refuse(args, f"{len(args.sources)} photos", "take no", "most")
    check_folder(args.out, KIND, args.overwrite)  # a folder such as "." has no place beside it
    overlay = args.overlay or args.out.with_name(f"{args.out.name}_overlay.png")
    if overlay.suffix != ".png":
        raise UserError("--overlay", f"'{overlay}'", "a person's overlay is a .png")
    check_file(overlay, args.overwrite)
    portrait = mvp4d.track(
        *args.sources,
        head=args.head,
        masks=args.masks,
        matte=args.matte,
        landmarks=args.landmarks,
        face=args.face,
        focal=args.focal,
        same_person=args.same_person,
        **({} if args.most is None else {"most": args.most}),
    )
    with atomic_file(overlay) as temporary:
        write_png(temporary, draw_portrait(portrait))
        save_person(args.out, portrait, overwrite=args.overwrite)
    count = len(portrait.photos)
    weights = "tiny_128_turbo" if args.head == "builtin" else "WEIGHTS"
    return (
        f"{args.out}: head '{portrait.head.name}', {counted(count, 'photo')}, reference "
        f"{portrait.sources[portrait.reference]}; look at {overlay}; next: mvp4d sample --weights {weights} "
        f"--reference {shlex.quote(str(args.out))} --motion MOTION --cameras orbit:360x8 --out CAPTURE"
    )


def _rig(args: argparse.Namespace) -> str:
    from mvp4d.core.files import atomic_file
    from mvp4d.core.heads import load_head
    from mvp4d.core.images import write_png
    from mvp4d.core.outputs import check_file, check_folder
    from mvp4d_jax.tracking.rig_capture import RigSource, rig_landmarks, track_rig, write_rig_capture
    from mvp4d_jax.tracking.sheet import draw_sheet

    if len(args.sources) > 1:
        raise UserError("--cameras", f"{len(args.sources)} files are given", "a rig is one FOLDER")
    _refuse(args, "`cameras`", "takes no", "masks", "matte", "same_person", "focal", "most")
    alone = args.out.suffix == ".npz"
    if args.out.suffix and not alone:
        raise UserError("--out", f"'{args.out}' is neither an npz file nor a folder", "give CAPTURE or NAME.npz")
    check_file(args.out, args.overwrite) if alone else check_folder(args.out, "capture", args.overwrite)
    overlay = args.overlay or args.out.with_name(f"{args.out.stem if alone else args.out.name}_overlay.png")
    if overlay.suffix != ".png":
        raise UserError("--overlay", f"'{overlay}'", "a rig's overlay is a .png")
    check_file(overlay, args.overwrite)
    source, head = RigSource.open(args.sources[0], args.cameras, args.fps), load_head(args.head)
    if alone and any(lens is not None for lens in source.lenses):
        raise UserError(
            "--out", f"'{args.out}' has no place for a lens that distorts", "give a capture, whose pictures have none"
        )
    seen = rig_landmarks(source, args.landmarks, args.face)
    fit, solution = track_rig(source, head, seen, args.cameras, pictures_too=args.landmarks is None)
    views, middle = range(len(source.names)), source.frame_count // 2
    pictures = (next(rgb for index, (rgb, _) in enumerate(source.frames(view)) if index == middle) for view in views)
    rig, motion = fit.rig(head, args.out)
    cameras = [solution.cameras[view] for view in views]
    with atomic_file(overlay) as temporary:
        write_png(temporary, draw_sheet(source.names, pictures, cameras, rig, motion[slice(middle, middle + 1)]))
        if alone:
            fit.save(args.out)
        else:
            write_rig_capture(args.out, source, head, fit, overwrite=args.overwrite)
    return (
        f"{args.out}: head '{head.name}', {counted(len(views), 'view')} x {counted(fit.frame_count, 'frame')}, "
        f"landmarks within {100 * np.nanmedian(solution.error):.1f} % of the face box; look at {overlay}"
    )


def _clips(args: argparse.Namespace) -> str:
    from mvp4d.core.shares import parse_share
    from mvp4d_jax.tracking.collection import ClipOptions, track_clips

    share = parse_share(args.share)
    _refuse(
        args, "`share`", "takes no", "cameras", "fps", "overlay", "masks", "live", "overwrite", "same_person", "most"
    )
    if len(args.sources) > 1:
        raise UserError("`share`", f"{len(args.sources)} sources are given", "give one FOLDER of clips")
    if args.landmarks is not None and (len(args.landmarks) > 1 or not args.landmarks[0].is_dir()):
        raise UserError("`landmarks`", "is no folder", "of clips give a folder that holds an npz of each one's name")
    options = ClipOptions(args.head, args.matte, args.face, args.focal)
    marks = None if args.landmarks is None else args.landmarks[0]
    return track_clips(args.sources[0], args.out, options, share=share, landmarks=marks)


def _live(args: argparse.Namespace) -> str:
    from mvp4d.core.driving import check_motion_out, write_motion_out
    from mvp4d.core.heads import load_head
    from mvp4d.core.progress import progress
    from mvp4d_jax.tracking.live import follow, open_source, record

    if len(args.sources) > 1:
        raise UserError("--live", f"follows one source, {len(args.sources)} are given", "give a camera or a video")
    _refuse(args, "`live`", "takes no", "landmarks", "face", "overlay", "masks", "matte", "same_person", "most")
    check_motion_out(args.out, args.overwrite)
    source, head = open_source(args.sources[0]), load_head(args.head)
    total = None if isinstance(source, int) else source.frame_count
    with contextlib.closing(follow(source, head, paced=False, focal=args.focal)) as poses:
        motion = record(progress(poses, total=total, what="following", unit="frame"), source)
    write_motion_out(args.out, motion, head)
    count = f"{counted(motion.frame_count, 'frame')} at {motion.fps:g} a second"
    return f"{args.out}: {count}; next: mvp4d view AVATAR --motion {shlex.quote(str(args.out))}"


def _fit(args: argparse.Namespace) -> str:
    from mvp4d.core.files import atomic_file
    from mvp4d.core.heads import load_head
    from mvp4d.core.outputs import check_file
    from mvp4d_jax.tracking.track import Source, track, write_overlay

    if len(args.sources) > 1:
        raise UserError(
            "--out",
            f"'{args.out}' holds the fit of one photo or video, {len(args.sources)} are given",
            "give a folder: --out PERSON",
        )
    _refuse(args, "`out`", f"'{args.out}' holds a fit alone and takes no", "masks", "matte", "same_person", "most")
    source = Source.open(args.sources[0])
    overlay = args.overlay or args.out.with_name(f"{args.out.stem}_overlay{'.mp4' if source.video else '.png'}")
    if overlay.suffix != (".mp4" if source.video else ".png"):
        raise UserError("--overlay", f"'{overlay}'", "a photo's overlay is a .png, a video's an .mp4")
    for path in (args.out, overlay):
        check_file(path, args.overwrite)
    head = load_head(args.head)
    fit, solution, found = track(
        source, head, landmarks=None if args.landmarks is None else args.landmarks[0], face=args.face, focal=args.focal
    )
    with atomic_file(overlay) as temporary:  # takes its place after the fit: where that is, all is done
        write_overlay(temporary, source, head, solution, found)
        fit.save(args.out)
    angles = np.degrees(fit.motion.rotation[0])
    return (
        f"{args.out}: head '{head.name}', {counted(fit.frame_count, 'frame')}, landmarks within "
        f"{100 * np.nanmean(solution.error):.1f} % of the face box, first rotation {angles[0]:.0f} {angles[1]:.0f} "
        f"{angles[2]:.0f} degrees; look at {overlay}"
    )
