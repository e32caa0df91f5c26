"""Opens an avatar in the browser: orbit camera, playback, sliders for expression, jaw, gaze and neck.

It serves the page that `mvp4d export --format html` writes. Over SSH: run it there, forward the port (ssh -L
8080:127.0.0.1:8080 HOST) and open http://127.0.0.1:8080 here; your own machine draws.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("avatar", type=Path, help="avatar folder")
    parser.add_argument(
        "--motion",
        type=Path,
        action="append",
        help="motion.npz, fit.npz, .csv or capture (default: the avatar's own); may be given several times",
    )
    parser.add_argument(
        "--audio",
        type=Path,
        action="append",
        default=[],
        metavar="SOUND",
        help="a sound file for each --motion, in their order",
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1); 0.0.0.0 lets the network in"
    )
    parser.add_argument("--port", type=int, default=8080, help="port to listen on (default 8080)")


def run(args: argparse.Namespace) -> str:
    import mvp4d
    from mvp4d_export.viewer import Viewer

    avatar = mvp4d.open_avatar(args.avatar, device="cpu")
    viewer = Viewer(args.host, args.port)
    viewer.show(avatar.page(args.motion, audio=args.audio))
    print(f"open http://{args.host}:{viewer.port} (Ctrl-C stops)", file=sys.stderr)
    try:
        while True:
            time.sleep(1)
    except KeyboardInterrupt:
        viewer.stop()
    return "viewer closed"
