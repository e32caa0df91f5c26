"""Frames per second of an avatar: rig, deformation, rasterisation and the whole.

    python benchmarks/avatar_realtime.py AVATAR                    512, 1024 and 1920x1080
    python benchmarks/avatar_realtime.py AVATAR --sizes 128 --frames 20 --gaussians 100000

--gaussians repeats the avatar's Gaussians up to that many (shrunk and shifted a little), to time larger avatars.
"""

import argparse
import math
import platform
import time
from pathlib import Path

import torch

from mvp4d_export.avatar import GAUSSIAN_TENSORS, Avatar
from mvp4d_export.cameras import camera_path
from mvp4d_export.capture import read_motion
from mvp4d_export.commands.render import parse_size
from mvp4d_export.device import pick_device
from mvp4d_export.realtime import RealtimeRenderer
from mvp4d_export.rig import Pose


def grow(avatar: Avatar, count: int) -> None:
    """Repeats Gaussians up to `count`."""
    generator = torch.Generator().manual_seed(0)
    index = torch.randint(avatar.gaussian_count, (count,), generator=generator)
    tensors = {name: getattr(avatar, name).detach()[index] for name in GAUSSIAN_TENSORS}
    shrink = (avatar.gaussian_count / count) ** 0.5
    tensors["position"] = tensors["position"] + 0.3 * torch.randn(count, 3, generator=generator)
    tensors["log_scale"] = tensors["log_scale"] + min(0.0, math.log(shrink))
    avatar.set_gaussians(avatar.binding[index], tensors)


def rate(function, frames: int, device: str) -> float:
    """Calls per second, the device's queue drained at both ends."""
    for index in range(3):
        function(index)
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for index in range(frames):
        function(index)
    if device == "cuda":
        torch.cuda.synchronize()
    return frames / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("avatar", type=Path)
    parser.add_argument("--sizes", nargs="+", default=["512", "1024", "1920x1080"])
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--gaussians", type=int, help="repeat Gaussians up to this many")
    parser.add_argument("--device", choices=("cpu", "cuda"))
    args = parser.parse_args()
    device = pick_device(args.device)
    avatar = Avatar.load(args.avatar)
    if args.gaussians:
        grow(avatar, args.gaussians)
    avatar = avatar.to(device)
    pose = Pose.of(avatar.check_motion(read_motion(args.avatar), args.avatar), device)
    count = len(pose.expression)
    name = torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()}, {torch.get_num_threads()} threads"
    print(f"{name}; torch {torch.__version__}; {avatar.gaussian_count} Gaussians; {len(avatar.mesh_faces)} triangles")

    @torch.no_grad()
    def rig(index: int) -> None:
        avatar.rig(pose[index % count:index % count + 1])

    @torch.no_grad()
    def deform(index: int) -> None:
        avatar.offsets(pose[index % count:index % count + 1])

    print(f"rig {rate(rig, args.frames, device):.0f} frames/s, rig + deformation net {rate(deform, args.frames, device):.0f} "
          "frames/s (launched one by one)")
    for text in args.sizes:
        height, width = parse_size(text)
        path = camera_path(f"orbit:360x{args.frames}", (height, width), args.frames)
        viewmats, Ks = torch.from_numpy(path.viewmats).to(device), torch.from_numpy(path.Ks).to(device)
        renderer = RealtimeRenderer(avatar, width, height)

        def advance(index: int) -> None:
            renderer.advance(pose[index % count:index % count + 1], viewmats[index % len(viewmats)])

        def draw(index: int) -> None:
            renderer.draw(Ks[0])

        def whole(index: int) -> None:
            advance(index)
            draw(index)

        posing, drawing, both = (rate(function, args.frames, device) for function in (advance, draw, whole))
        print(f"{width}x{height}: rig + deformation {posing:.0f} frames/s, rasterisation {drawing:.0f} frames/s, "
              f"whole {both:.0f} frames/s")


if __name__ == "__main__":
    main()
