"""Renders an avatar with any motion, from any cameras.

  mvp4d render AVATAR --motion CAPTURE|motion.npz|fit.npz --cameras orbit:360x48 --out orbit.mp4
  mvp4d render AVATAR --motion fit.npz --cameras sway:30 --out frames/ --alpha

An orbit or arc of N cameras is walked through, one camera per frame, while the motion loops; with --each-view every
one of them films the whole motion. turn, sway and file: paths move with the motion.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from mvp4d.core.errors import UserError


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("avatar", type=Path, help="avatar folder")
    parser.add_argument("--motion", type=Path, help="motion.npz, fit.npz, .csv or capture (default: the avatar's own)")
    parser.add_argument("--cameras", default="orbit:360x48", metavar="SPEC", help="orbit:, arc:, turn:, sway: or file:")
    parser.add_argument("--out", type=Path, required=True, help="NAME.mp4, or a folder for PNG frames")
    parser.add_argument("--size", default=None, metavar="WxH|N", help="picture size (default: that of the capture)")
    parser.add_argument("--frames", metavar="A:B", help="only these frames of the motion")
    parser.add_argument("--fps", type=float, help="default: the motion's")
    parser.add_argument("--alpha", action="store_true", help="PNG frames with straight alpha")
    parser.add_argument("--background", default="#ffffff", help="colour behind the avatar, as #rrggbb")
    parser.add_argument("--each-view", action="store_true", help="one video per still camera")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    parser.add_argument("--overwrite", action="store_true", help="replace a folder of frames that is already there")


def run(args: argparse.Namespace) -> str:
    size, background = parse_size(args.size), parse_colour(args.background)
    video = args.out.suffix.lower() == ".mp4"
    if args.alpha and video:
        raise UserError("--alpha", "mp4 holds no alpha", "give a folder as --out")
    if args.out.suffix and not video:
        raise UserError("--out", f"'{args.out.suffix}' is no format that is written", "use NAME.mp4 or a folder")
    from mvp4d.core.driving import load_motion
    from mvp4d_export.avatar import Avatar
    from mvp4d_export.cameras import camera_path
    from mvp4d_export.device import guard_memory, pick_device
    from mvp4d_export.render import every_view, plan_shot, write_frames, write_video
    from mvp4d_export.rig import Pose

    device = pick_device(args.device)
    avatar = Avatar.load(args.avatar, device)
    where = args.motion or args.avatar
    motion, notice = load_motion(where, avatar.head)
    if notice:
        print(notice, file=sys.stderr)
    pose = Pose.of(motion, device)
    start, stop = parse_frames(args.frames, motion.frame_count)
    pose = pose[start:stop]
    size = size or avatar.image_size
    cameras = camera_path(args.cameras, size, stop - start)
    if args.each_view and cameras.moving:
        raise UserError("--each-view", f"'{args.cameras}' is one moving camera", "use orbit: or arc:")
    shots = (
        every_view(pose, cameras, size, background) if args.each_view else [plan_shot(pose, cameras, size, background)]
    )
    fps = args.fps or motion.fps
    with guard_memory("a smaller --size"):
        for index, shot in enumerate(shots):
            name = f"{args.out.stem}_{index:02d}" if args.each_view else args.out.stem
            if video:
                write_video(avatar, shot, args.out.with_name(f"{name}.mp4"), fps)
            else:
                write_frames(avatar, shot, args.out.with_name(name), alpha=args.alpha, overwrite=args.overwrite)
    return f"rendered {sum(len(shot.pairs) for shot in shots)} frames of {size[1]} x {size[0]}: {args.out}"


def parse_size(text: str | None) -> tuple[int, int] | None:
    """Reads "512" or "1920x1080" (width x height) to (H, W)."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if not match or not all(8 <= int(side) <= 8192 for side in match.groups() if side):
        raise UserError("--size", f"'{text}' is no picture size", "use for example 512 or 1920x1080, 8 to 8192 pixels")
    width = int(match[1])
    return (int(match[2]) if match[2] else width, width)


def parse_colour(text: str) -> tuple[float, float, float]:
    """#rrggbb to [0, 1]."""
    if not re.fullmatch(r"#?[0-9a-fA-F]{6}", text):
        raise UserError("--background", f"'{text}' is no colour", "use for example #ffffff")
    digits = text.removeprefix("#")
    return tuple(int(digits[k : k + 2], 16) / 255 for k in (0, 2, 4))


def parse_frames(text: str | None, count: int) -> tuple[int, int]:
    """Reads "A:B" (either may be empty) to a window of the motion."""
    if text is None:
        return 0, count
    match = re.fullmatch(r"(\d*):(\d*)", text)
    start, stop = (int(match[1] or 0), min(int(match[2] or count), count)) if match else (0, 0)
    if start >= stop:
        raise UserError("--frames", f"'{text}' is no window of {count} frames", "use for example 0:24")
    return start, stop
