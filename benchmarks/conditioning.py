"""Times the rasteriser and the conditioning maps on this machine.

    python benchmarks/conditioning.py [--head builtin|ict:PATH] [--frames 49] [--views 8] [--repeat 3]

Prints milliseconds per frame of rasterising the head at 128 and 256 pixels, batched over frames, and the seconds that
the conditioning of one sample takes (8 views x 49 frames at 512 pixels, latent 64). Compilation is not counted.
"""

from __future__ import annotations

import argparse
import os
import time

import jax
import numpy as np

from mvp4d.core.cameras.camera import FIELDS, Camera
from mvp4d.core.cameras.rigs import camera_rig
from mvp4d.core.heads import load_head
from mvp4d.core.heads.motion import Motion
from mvp4d_jax.geometry.conditioning import ConditioningConfig, draw_conditioning
from mvp4d_jax.geometry.rasterize import rasterize
from mvp4d_jax.heads.skinning import skin
from mvp4d_jax.latent_frames import latent_count


def best_of(call, repeat: int) -> float:
    """Seconds of the fastest of `repeat` runs, after one that compiles."""
    jax.block_until_ready(call())
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return min(times)


def talking(frames: int, expressions: int) -> Motion:
    """A head that turns and opens its mouth."""
    motion = Motion.still(frames, expressions)
    phase = np.linspace(0, 2 * np.pi, frames)
    motion.rotation[:, 1] = 0.3 * np.sin(phase)
    motion.neck[:, 0] = 0.1 * np.sin(2 * phase)
    motion.expression[:, min(17, expressions - 1)] = 0.5 - 0.5 * np.cos(3 * phase)
    return motion


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--head", default="builtin")
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--frames", type=int, default=49)
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    head = load_head(args.head)
    print(
        f"{jax.devices()[0].device_kind}, {os.cpu_count()} CPU cores; "
        f"head {head.name}: {head.vertex_count} vertices, {len(head.faces)} faces",
        flush=True,
    )
    batch = 16
    vertices = np.asarray(skin(head, talking(batch, head.expression_count)))
    for size in (128, 256):
        camera = camera_rig("turn:360", (size, size), frames=batch)[0]
        for cull in (True, False):
            seconds = best_of(
                lambda c=camera, s=size, k=cull: rasterize(c, vertices, head.faces, (s, s), cull_backfaces=k),
                args.repeat,
            )
            print(
                f"rasterise {size} x {size}, {'front faces' if cull else 'all faces'}: "
                f"{1e3 * seconds / batch:.2f} ms a frame, batched",
                flush=True,
            )
    rig = camera_rig(f"orbit:360x{args.views}", (512, 512))
    cameras = Camera(*(getattr(rig, name)[:, None] for name in FIELDS))
    motion = talking(args.frames, head.expression_count)
    config = ConditioningConfig()
    seconds = best_of(lambda: draw_conditioning(head, motion, cameras, (512, 512), config, cameras[0, 0]), args.repeat)
    print(
        f"conditioning {args.views} views x {args.frames} frames at 512 "
        f"(latent 64, {latent_count(args.frames, 4)} latent frames): {seconds:.2f} s",
        flush=True,
    )


if __name__ == "__main__":
    main()
