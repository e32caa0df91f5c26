"""Opens an avatar in the browser: orbit camera, playback, sliders for expression, jaw, gaze and neck.

Over SSH: run it there, forward the port (ssh -L 8080:127.0.0.1:8080 HOST) and open http://127.0.0.1:8080 here. With
CUDA the server renders; without, the browser draws the splats.
"""

from __future__ import annotations

import argparse
import socket
import sys
import time
from pathlib import Path

from mvp4d.core.errors import UserError


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("avatar", type=Path, help="avatar folder")
    parser.add_argument("--motion", type=Path, help="motion.npz, fit.npz, .csv or capture (default: the avatar's own)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 lets the network in")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")


def run(args: argparse.Namespace) -> str:
    from mvp4d.core.driving import load_motion
    from mvp4d_export.avatar import Avatar
    from mvp4d_export.device import guard_memory, pick_device

    avatar = Avatar.load(args.avatar, pick_device(args.device))
    where = args.motion or args.avatar
    motion, notice = load_motion(where, avatar.head)
    if notice:
        print(notice, file=sys.stderr)
    check_free(args.host, args.port)
    from mvp4d_export.viewer import Viewer

    with guard_memory("--device cpu"):
        viewer = Viewer(avatar, motion, host=args.host, port=args.port)
        viewer.start()
    print(f"open http://{args.host}:{args.port} (Ctrl-C stops)", file=sys.stderr)
    try:
        while True:
            time.sleep(1)
    except KeyboardInterrupt:
        viewer.stop()
    return "viewer closed"


def check_free(host: str, port: int) -> None:
    """UserError when the address cannot be listened on."""
    if not 1 <= port <= 65535:
        raise UserError("--port", f"{port} is no port", "use 1024 to 65535")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(
                "--port", f"cannot listen on {host}:{port} ({error.strerror})", "choose another --port"
            ) from None
