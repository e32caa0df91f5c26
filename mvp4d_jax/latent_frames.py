"""Video frames and latent frames of a causal video autoencoder.

Latent frame 0 holds video frame 0 alone; latent frame l holds frames s (l - 1) + 1 .. s l, s being the temporal
compression ratio: 4 in CogVideoX. So F = 1 + s (L - 1).
"""

import numpy as np

from mvp4d.core.errors import UserError


def latent_count(frames: int, ratio: int, field: str = "frames") -> int:
    """L of F video frames.

    Raises:
      UserError: F is not 1 more than a multiple of `ratio`; it names `field`.
    """
    if frames < 1 or (frames - 1) % ratio:
        near = f"{max(1, fill(frames, ratio) - ratio)} or {fill(max(2, frames), ratio)}"
        raise UserError(field, f"{frames} frames do not fill whole latent frames", f"use 1 + {ratio}k, such as {near}")
    return 1 + (frames - 1) // ratio


def frame_count(latents: int, ratio: int) -> int:
    """F of L latent frames; 0 of none."""
    return 1 + (latents - 1) * ratio if latents else 0


def fill(frames: int, ratio: int) -> int:
    """The least F of at least `frames` video frames that fills whole latent frames."""
    return frame_count(1 + -(-(frames - 1) // ratio), ratio)


def frame_groups(frames: int, ratio: int) -> np.ndarray:
    """[L, s] video frames of each latent frame, the last one last; the first latent frame repeats frame 0."""
    groups = np.arange(latent_count(frames, ratio))[:, None] * ratio + np.arange(1 - ratio, 1)
    groups[0] = 0
    return groups
