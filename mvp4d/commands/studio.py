"""Render synthetic people: multi-view video with cameras, motion, head rig and masks, as captures.

  mvp4d studio --out out/person --identity 7 --cameras orbit:360x8 --frames 13 --size 128
  mvp4d studio --out out/set --identities 0:300 --cameras random:8 --size 64      one capture each; run again to go on
  mvp4d studio --out drive.npz --identity 7 --frames 100 --motion-only --from-rest       to drive avatars with
  mvp4d studio --sheet docs/images                                                contact sheets of many people

Identities 0 to 9,999 are for training, 10,000 to 10,999 for validation, 11,000 and more for tests.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from mvp4d.core.errors import UserError
from mvp4d.core.words import counted


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", help="the capture to make, or with --identities the folder of captures")
    people = parser.add_mutually_exclusive_group()
    people.add_argument("--identity", type=int, default=0, help="which person (default 0)")
    people.add_argument("--identities", metavar="A:B", help="render identities A to B - 1, one capture each")
    cameras = parser.add_mutually_exclusive_group()
    cameras.add_argument("--cameras", metavar="SPEC", help="orbit:360x8, arc:120x6@15, turn:360, file:P, random:8")
    cameras.add_argument("--views", type=int, help="that many cameras evenly around the head (default 8)")
    parser.add_argument("--frames", type=int, default=13, help="frames of each view (default 13)")
    parser.add_argument("--size", type=int, default=128, help="side of the pictures in pixels (default 128)")
    parser.add_argument("--fps", type=float, help="frames per second (default: a recorded motion's own, else 25)")
    parser.add_argument("--motion", default="mixed", help="mixed, speech, expressive, turning, still, or a fit.npz")
    parser.add_argument("--seed", type=int, default=0, help="light and performance; not the person (default 0)")
    parser.add_argument(
        "--own-motion",
        type=float,
        default=0.0,
        metavar="AMOUNT",
        help="0 films faces that move as the capture's rig does (default), 1 as people do: the rig "
        "then misses them by a millimetre or two",
    )
    parser.add_argument(
        "--motion-only",
        action="store_true",
        help="film nothing: write the performance alone to --out, a .npz for `mvp4d render --motion`",
    )
    parser.add_argument(
        "--from-rest",
        action="store_true",
        help="with --motion-only: the performance begins and ends at rest, and loops",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the capture, motion or sheets that are there")
    parser.add_argument("--sheet", metavar="FOLDER", help="write contact sheets of many people there, and nothing else")


def shares_out(args: argparse.Namespace) -> bool:
    """Several processes may fill one folder of captures: each capture has a lock of its own."""
    return args.identities is not None


def resumes(args: argparse.Namespace) -> bool:
    """A capture that is there is not rendered again; one alone starts over."""
    return args.identities is not None


def run(args: argparse.Namespace) -> str:
    # JAX is loaded only once the flags are known to make sense.
    if args.from_rest and not args.motion_only:
        raise UserError("--from-rest", "is for a performance alone", "give --motion-only too, or leave it out")
    if args.sheet:
        foreign = _given(args, beside=("sheet", "overwrite"))
        if foreign:
            raise UserError(f"`{foreign[0]}`", "has no part in contact sheets", "leave it out, or give no --sheet")
        from mvp4d_jax.studio.sheets import write_sheets

        return f"look at {', '.join(str(path) for path in write_sheets(args.sheet, overwrite=args.overwrite))}"
    if not args.out:
        raise UserError("--out", "is missing", "name the capture to make")
    if args.identity < 0 or args.seed < 0:
        raise UserError("--identity and --seed", "must not be negative")
    identities = _range(args.identities) if args.identities else None
    if args.views is not None and not 1 <= args.views <= 1000:
        raise UserError("--views", f"{args.views}", "1 to 1000")
    if args.motion_only and identities is not None:
        raise UserError("--motion-only", "writes the motion of one person", "give --identity instead of --identities")
    if args.overwrite and identities is not None:
        raise UserError(
            "`overwrite`",
            "is for one capture: a set keeps those that are there",
            "leave it out, or choose another --out",
        )
    from mvp4d_jax.studio.produce import Order, make_capture, make_set, write_motion

    cameras = args.cameras or f"orbit:360x{args.views or 8}"
    order = Order(cameras, args.frames, args.size, args.fps, args.motion, args.seed, args.own_motion)
    if identities is not None:
        made = make_set(args.out, identities, order)
        return f"{counted(len(identities), 'capture')} in {args.out} ({made} new)"
    if args.motion_only:
        path = write_motion(args.out, args.identity, order, from_rest=args.from_rest, overwrite=args.overwrite)
        return f"{counted(order.frames, 'frame')} of motion: {path}"
    path = make_capture(args.out, args.identity, order, overwrite=args.overwrite)
    return f"capture: {Path(path)}"


def _given(args: argparse.Namespace, beside: tuple[str, ...]) -> list[str]:
    """Flags that are not at their defaults, but for those of `beside`."""
    parser = argparse.ArgumentParser()
    configure(parser)
    return [name for name, value in vars(args).items() if name not in beside and value != parser.get_default(name)]


def _range(text: str) -> range:
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if match is None or int(match[1]) >= int(match[2]):
        raise UserError("--identities", f"'{text}' is not a range", "for example 0:300")
    return range(int(match[1]), int(match[2]))
