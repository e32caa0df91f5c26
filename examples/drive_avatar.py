"""An avatar driven from a program: a smile that grows while the camera swings.

python examples/drive_avatar.py out/demo/avatar smile.mp4
"""

import dataclasses
import sys

import numpy as np

import mvp4d


def main(folder: str, out: str, frames: int = 50) -> None:
    avatar = mvp4d.open_avatar(folder)
    names = avatar.head.expression_names
    motion = mvp4d.Motion.still(frames, len(names), fps=25.0)
    expression = np.zeros((frames, len(names)), np.float32)
    for name in ("mouthSmileLeft", "mouthSmileRight"):
        expression[:, names.index(name)] = np.linspace(0, 0.8, frames)
    motion = dataclasses.replace(motion, expression=expression)
    avatar.render(motion, cameras="sway:25", size=512).save(out, overwrite=True)


if __name__ == "__main__":
    main(*sys.argv[1:3])
