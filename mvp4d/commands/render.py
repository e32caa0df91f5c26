"""Renders an avatar with any motion, from any cameras.

  mvp4d render AVATAR --motion CAPTURE|motion.npz|fit.npz|recording.csv --cameras orbit:360x48 --out orbit.mp4
  mvp4d render AVATAR --motion fit.npz --cameras sway:30 --out frames/ --alpha
  mvp4d render AVATAR --motion talk.npz --audio speech.wav --out talk.mp4

An orbit or arc of N cameras is walked through, one camera per frame, while the motion loops; with --each-view every
one of them films the whole motion. turn, sway and file: paths move with the motion. Expressions are matched by name.

With --audio the sound starts with the motion's first frame (with --frames A:B, at frame A) and ends with the video;
--fps then keeps the motion's speed. With --motion, --audio or --frames the camera stands still in front unless
--cameras says otherwise.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from mvp4d.core.capture.schema import check_fps
from mvp4d.core.errors import UserError
from mvp4d.core.images import check_rendered_size
from mvp4d.core.words import counted


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("avatar", type=Path, help="avatar folder")
    parser.add_argument("--motion", type=Path, help="motion.npz, fit.npz, .csv or capture (default: the avatar's own)")
    parser.add_argument(
        "--cameras",
        metavar="SPEC",
        help="orbit:, arc:, turn:, sway: or file: (default: orbit:360x48; with --motion, --audio or --frames turn:0)",
    )
    parser.add_argument("--audio", type=Path, help="sound file to lay under the video")
    parser.add_argument("--out", type=Path, required=True, help="NAME.mp4, or a folder for PNG frames")
    parser.add_argument("--size", default=None, metavar="WxH|N", help="picture size (default: that of the capture)")
    parser.add_argument("--frames", metavar="N|A:B", help="only the first N frames of the motion, or A to B - 1")
    parser.add_argument("--fps", type=float, help="frames per second (default: the motion's)")
    parser.add_argument("--alpha", action="store_true", help="PNG frames with straight alpha")
    parser.add_argument(
        "--background", metavar="RRGGBB", default="ffffff", help="colour behind the avatar (default ffffff, white)"
    )
    parser.add_argument("--each-view", action="store_true", help="one video per still camera")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    parser.add_argument("--overwrite", action="store_true", help="replace a video or frames that this program rendered")


def run(args: argparse.Namespace) -> str:
    size, background, frames = parse_size(args.size), parse_colour(args.background), parse_frames(args.frames)
    if args.fps is not None:
        check_fps(args.fps, "`fps`", "it")
    from mvp4d.avatar import default_cameras, frame_window, open_avatar
    from mvp4d_export.render import check_target

    if args.each_view and args.out.name in ("", ".."):  # of which the views' names are made
        raise UserError("`out`", f"'{args.out}' is no name", "use NAME.mp4, or NAME for folders of PNG frames")
    if not args.each_view:
        check_target(args.out, args.alpha, args.overwrite)
    avatar = open_avatar(args.avatar, device=args.device)
    motion = avatar.motion(args.motion)
    start, stop = frame_window(frames, motion.frame_count)
    audio_start, motion = start / motion.fps, motion[start:stop]
    if args.audio is not None and args.fps is not None:
        from mvp4d.core.heads.resample import resample

        motion = resample(motion, args.fps)
    cameras = args.cameras or default_cameras(bool(args.motion or args.audio or args.frames))
    rendering = avatar.render(motion, cameras=cameras, size=size, fps=args.fps, background=background)
    parts = {args.out: rendering}
    if args.each_view:
        parts = {
            args.out.with_name(f"{args.out.stem}_{index:02d}{args.out.suffix}"): view
            for index, view in enumerate(rendering.each_view())
        }
    for path in parts:
        check_target(path, args.alpha, args.overwrite)
    if args.audio is not None and args.frames is None:  # a window of frames is meant to cut
        from mvp4d.core.sound import note_cut, read_sound

        note_cut(args.audio, read_sound(args.audio), len(parts[next(iter(parts))]) / rendering.fps)
    for path, part in parts.items():
        part.save(path, alpha=args.alpha, overwrite=args.overwrite, audio=args.audio, audio_start=audio_start)
    height, width = rendering.size
    frames = counted(sum(len(part) for part in parts.values()), "frame")
    first, *others = parts
    return f"rendered {frames} of {width} x {height}: {first}" + (f" to {others[-1]}" if others else "")


def parse_size(text: str | None) -> tuple[int, int] | None:
    """Reads "512" or "1920x1080" (width x height) to (H, W). Raises UserError."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text)
    if not match:
        raise UserError("`size`", f"'{text}' is no picture size", "use for example 512 or 1920x1080")
    size = int(match[2] or match[1]), int(match[1])
    check_rendered_size(size)
    return size


def parse_colour(text: str) -> tuple[float, float, float]:
    """rrggbb or #rrggbb to [0, 1]."""
    if not re.fullmatch(r"#?[0-9a-fA-F]{6}", text):  # without #, which begins a comment in a shell
        raise UserError("`background`", f"'{text}' is no colour", "use for example ffffff")
    digits = text.removeprefix("#")
    red, green, blue = (int(digits[k : k + 2], 16) / 255 for k in (0, 2, 4))
    return red, green, blue


def parse_frames(text: str | None) -> int | tuple[int, int] | None:
    """Reads "N", the first N frames, or "A:B" (either may be empty), frames A to B - 1."""
    if text is None:
        return None
    match = re.fullmatch(r"(?:(\d{0,9})(:))?(\d{0,9})", text)
    if not match or not text:
        raise UserError("`frames`", f"'{text}' is no window of frames", "use for example 24 or 0:24")
    stop = int(match[3] or 10**9)
    return (int(match[1] or 0), stop) if match[2] else stop
