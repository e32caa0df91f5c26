"""Frames per second of an avatar: rig, deformation, rasterisation and the whole.

    python benchmarks/avatar_realtime.py AVATAR                    512, 1024 and 1920x1080
    python benchmarks/avatar_realtime.py AVATAR --sizes 128 --frames 20 --gaussians 100000

--gaussians repeats the avatar's Gaussians up to that many (shrunk and shifted a little), to time larger avatars.
"""

import argparse
import math
import os
import platform
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as mvp4d_export does, before torch is loaded

import torch

from mvp4d.commands.render import parse_size
from mvp4d.core.capture.motion_file import read_motion
from mvp4d_export.avatar import GAUSSIAN_TENSORS, Avatar
from mvp4d_export.cameras import camera_path
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
    pose = Pose.of(read_motion(args.avatar / "motion.npz").motion, device)
    count = len(pose.expression)
    name = (
        torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()}, {torch.get_num_threads()} threads"
    )
    print(f"{name}; torch {torch.__version__}; {avatar.gaussian_count} Gaussians; {len(avatar.mesh_faces)} triangles")

    @torch.no_grad()
    def rig(index: int) -> None:
        avatar.rig(pose[index % count : index % count + 1])

    @torch.no_grad()
    def deform(index: int) -> None:
        avatar.offsets(pose[index % count : index % count + 1])

    rates = rate(rig, args.frames, device), rate(deform, args.frames, device)
    print(f"rig {rates[0]:.0f} frames/s, deformation net {rates[1]:.0f} frames/s (launched one by one)")
    for text in args.sizes:
        height, width = parse_size(text)
        posing, drawing, both = size_rates(avatar, pose, height, width, args.frames, device)
        print(
            f"{width}x{height}: rig + deformation {posing:.0f} frames/s, rasterisation {drawing:.0f} frames/s, "
            f"whole {both:.0f} frames/s"
        )


def size_rates(
    avatar: Avatar, pose: Pose, height: int, width: int, frames: int, device: str
) -> tuple[float, float, float]:
    """Frames per second of posing, of drawing, and of both, while the camera goes around."""
    path = camera_path(f"orbit:360x{frames}", (height, width), frames)
    viewmats, Ks = torch.from_numpy(path.viewmats).to(device), torch.from_numpy(path.Ks).to(device)
    renderer = RealtimeRenderer(avatar, width, height)
    count = len(pose.expression)

    def advance(index: int) -> None:
        renderer.advance(pose[index % count : index % count + 1], viewmats[index % len(viewmats)])

    def draw(_: int) -> None:
        renderer.draw(Ks[0])

    def whole(index: int) -> None:
        advance(index)
        draw(index)

    return tuple(rate(function, frames, device) for function in (advance, draw, whole))


if __name__ == "__main__":
    main()
