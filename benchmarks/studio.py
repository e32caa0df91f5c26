"""Frames per second of the studio, once compiled: `python benchmarks/studio.py`. Prints one line a picture size.

Eight cameras all around, 16 frames of mixed motion, one process; building a person is timed apart.
"""

from __future__ import annotations

import argparse
import time

from mvp4d.core.cameras.rigs import camera_rig
from mvp4d_jax.studio.studio import Studio, builtin_head


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--identities", type=int, nargs="+", default=[6, 3])
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--frames", type=int, default=16)
    args = parser.parse_args()
    builtin_head()
    Studio(0)  # compiles what building a person needs
    for identity in args.identities:
        start = time.perf_counter()
        studio = Studio(identity)
        build = time.perf_counter() - start
        motion = studio.motion(args.frames)
        for size in args.sizes:
            cameras = camera_rig(f"orbit:360x{args.views}", (size, size))
            studio.render(motion[:1], cameras, size)
            start = time.perf_counter()
            studio.render(motion, cameras, size)
            seconds = time.perf_counter() - start
            print(
                f"identity {identity} ({studio.traits.style}): built in {build:.1f} s; {size} x {size}: "
                f"{args.views * args.frames / seconds:.1f} frames/s",
                flush=True,
            )


if __name__ == "__main__":
    main()
