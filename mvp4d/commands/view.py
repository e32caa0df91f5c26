"""Opens an avatar in the browser: orbit camera, playback, sliders for expression, jaw, gaze and neck.

  mvp4d view AVATAR                       what `mvp4d export --format html` writes
  mvp4d view AVATAR --drive 0             the avatar does what the face before camera 0 does
  mvp4d view AVATAR --drive clip.mp4      what the face in a video does, again and again

Driving tracks the face as `mvp4d track` does, frame by frame. No picture is kept or leaves this machine.

Over SSH: run it there, forward the port (ssh -L 8080:127.0.0.1:8080 HOST) and open http://127.0.0.1:8080 here; your own
machine draws.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mvp4d.commands.clips import add_clips

if TYPE_CHECKING:
    from mvp4d.avatar import Avatar
    from mvp4d_export.viewer import Viewer


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("avatar", type=Path, help="avatar folder")
    add_clips(parser)
    parser.add_argument("--drive", metavar="CAMERA|VIDEO", help="a face to follow: a camera's number, or a video")
    parser.add_argument(
        "--head", default="builtin", help="with --drive, what the face is fitted with (default: builtin)"
    )
    parser.add_argument("--focal", type=float, help="with --drive, focal length in pixels, where it is known")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1); 0.0.0.0 lets the network in"
    )
    parser.add_argument("--port", type=int, default=8080, help="port to listen on (default 8080)")


def run(args: argparse.Namespace) -> str:
    import mvp4d
    from mvp4d.core.errors import UserError
    from mvp4d_export.viewer import Viewer

    if args.focal is not None and (args.drive is None or not 1 <= args.focal <= 1e6):
        raise UserError("`focal`", f"{args.focal} pixels", "it goes with `drive` and is at least 1")
    drive = None if args.drive is None else _driver(args)
    avatar = mvp4d.open_avatar(args.avatar, device="cpu")
    viewer = Viewer(args.host, args.port)
    viewer.show(avatar.page(args.motion, audio=args.audio, live=drive is not None))
    print(f"open http://{args.host}:{viewer.port} (Ctrl-C stops)", file=sys.stderr)
    try:
        if drive is not None:
            drive(viewer, avatar)
        while drive is None:
            time.sleep(1)
    except KeyboardInterrupt:
        pass
    finally:
        viewer.stop()
    return "viewer closed"


def _driver(args: argparse.Namespace) -> Callable[[Viewer, Avatar], None]:
    """What follows the face that is asked for, looked at before anything else is loaded."""
    from mvp4d.core.heads import load_head
    from mvp4d.core.progress import say
    from mvp4d_jax.tracking.live import carry, follow, open_source

    source, head = open_source(args.drive), load_head(args.head)

    def drive(viewer: Viewer, avatar: Avatar) -> None:
        said = ""
        with contextlib.closing(follow(source, head, loop=True, focal=args.focal)) as poses:
            for pose in poses:
                motion, notice = carry(pose.motion, head, avatar.head)
                viewer.pose(motion)
                if notice and not said:
                    said = notice
                    say(f"note: {notice}")

    return drive
