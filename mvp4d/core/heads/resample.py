"""A motion at another frame rate."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

from mvp4d.core.heads.motion import Motion


def resample(motion: Motion, fps: float) -> Motion:
    """The motion at `fps`, from its first frame to at most its last: values linearly, rotations along the shortest arc.

    F frames at the old rate become floor((F - 1) fps / motion.fps) + 1.
    """
    count = motion.frame_count
    if count == 1 or fps == motion.fps:
        return Motion(**_arrays(motion), fps=fps)
    times = np.arange(int((count - 1) / motion.fps * fps + 1e-6) + 1) / fps * motion.fps  # in old frames
    below = np.minimum(times.astype(int), count - 2)
    share = times - below
    arrays = _arrays(motion)
    for name in ("expression", "translation"):
        mixed = arrays[name][below] * (1 - share)[:, None] + arrays[name][below + 1] * share[:, None]
        arrays[name] = mixed.astype(np.float32)
    for name in ("rotation", "neck", "jaw"):
        arrays[name] = _turned(arrays[name], times)
    arrays["eyes"] = np.stack([_turned(arrays["eyes"][:, side], times) for side in range(2)], 1)
    return Motion(**arrays, fps=fps)


def _arrays(motion: Motion) -> dict[str, np.ndarray]:
    names = ("expression", "rotation", "translation", "neck", "jaw", "eyes")
    return {name: np.asarray(getattr(motion, name), np.float32) for name in names}


def _turned(vectors: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Axis-angle [F, 3] at times [T] in frames."""
    path = Slerp(np.arange(len(vectors)), Rotation.from_rotvec(vectors))
    return path(np.clip(times, 0, len(vectors) - 1)).as_rotvec().astype(np.float32)
