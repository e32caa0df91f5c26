"""Opens an avatar in the browser: orbit camera, playback, sliders for expression, jaw, gaze and neck.

Over SSH: run it there, forward the port (ssh -L 8080:127.0.0.1:8080 HOST) and open http://127.0.0.1:8080 here. With
CUDA the server renders; without, the browser draws the splats.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("avatar", type=Path, help="avatar folder")
    parser.add_argument("--motion", type=Path, help="motion.npz, fit.npz, .csv or capture (default: the avatar's own)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 lets the network in")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")


def run(args: argparse.Namespace) -> str:
    import mvp4d
    from mvp4d_export.device import guard_memory
    from mvp4d_export.viewer import Viewer, check_free

    avatar = mvp4d.open_avatar(args.avatar, device=args.device)
    motion = avatar.motion(args.motion)
    check_free(args.host, args.port)
    with guard_memory("`device` cpu"):
        viewer = Viewer(avatar.module, motion, host=args.host, port=args.port)
        viewer.start()
    print(f"open http://{args.host}:{args.port} (Ctrl-C stops)", file=sys.stderr)
    try:
        while True:
            time.sleep(1)
    except KeyboardInterrupt:
        viewer.stop()
    return "viewer closed"
